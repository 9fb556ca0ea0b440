/* A malloc that refuses: preloaded below a program, it counts the allocations of a window, and refuses the n-th of them, or the
 * n-th and all that follow. It is linked with nothing but libc, allocates nothing and prints nothing. Mappings and new threads
 * count as allocations: they are memory too. glibc only, whose own functions have second names.
 *   cc -shared -fPIC -O1 preload.c -o preload.so */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *block, size_t size);
extern void *__libc_memalign(size_t align, size_t size);

/* Nothing is counted while this is 0. */
static atomic_int armed;
/* Whether what follows the n-th is refused too. */
static atomic_int later;
static atomic_long count, first;
/* Destructors of thread-locals that glibc was asked to note. */
static atomic_long noted;

/* From now on allocations count; the n-th is refused, and with all_later each one after it. n of 0 refuses none. */
void oom_arm(long n, int all_later) {
  atomic_store(&count, 0);
  atomic_store(&first, n);
  atomic_store(&later, all_later);
  atomic_store(&armed, 1);
}

/* Ends the window; how many allocations it had. */
long oom_disarm(void) {
  atomic_store(&armed, 0);
  return atomic_load(&count);
}

/* How often glibc was asked to note a thread-local's destructor: without memory it ends the process. */
long oom_noted(void) { return atomic_load(&noted); }

static int refused(void) {
  long this, n;
  if (!atomic_load_explicit(&armed, memory_order_relaxed))
    return 0;
  this = atomic_fetch_add(&count, 1) + 1;
  n = atomic_load(&first);
  if (n == 0 || this < n || (this > n && !atomic_load(&later)))
    return 0;
  errno = ENOMEM;
  return 1;
}

void *malloc(size_t size) { return refused() ? NULL : __libc_malloc(size); }

void *calloc(size_t n, size_t size) { return refused() ? NULL : __libc_calloc(n, size); }

/* What shrinks succeeds in every malloc there is, but nothing promises it. */
void *realloc(void *block, size_t size) { return refused() ? NULL : __libc_realloc(block, size); }

void *memalign(size_t align, size_t size) { return refused() ? NULL : __libc_memalign(align, size); }

void *aligned_alloc(size_t align, size_t size) { return refused() ? NULL : __libc_memalign(align, size); }

int posix_memalign(void **out, size_t align, size_t size) {
  void *block = refused() ? NULL : __libc_memalign(align, size);
  if (block == NULL)
    return ENOMEM;
  *out = block;
  return 0;
}

void *mmap(void *address, size_t length, int protection, int flags, int file, off_t offset) {
  if (refused())
    return MAP_FAILED;
  return (void *)syscall(SYS_mmap, address, length, protection, flags, file, offset);
}

void *mmap64(void *address, size_t length, int protection, int flags, int file, off_t offset) {
  return mmap(address, length, protection, flags, file, offset);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument) {
  static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
  if (real == NULL)
    *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
  if (refused())
    return EAGAIN;
  return real(thread, attributes, run, argument);
}

int __cxa_thread_atexit_impl(void (*destructor)(void *), void *object, void *library) {
  static int (*real)(void (*)(void *), void *, void *);
  if (real == NULL)
    *(void **)&real = dlsym(RTLD_NEXT, "__cxa_thread_atexit_impl");
  atomic_fetch_add(&noted, 1);
  return real(destructor, object, library);
}
