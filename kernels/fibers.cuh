// Runs kernels on the CPU, one thread of a block at a time: the base of the wrappers in host.cuh.
//
// Every thread of a block is a fiber. A fiber runs until it reaches a barrier or a warp operation and waits there for
// the others; the last one to arrive performs a warp operation for all lanes. Between two such points a fiber runs
// alone, so with a missing barrier a kernel reads data that is not written yet, or already overwritten, in some order
// of the threads. Seed 0 runs threads and blocks in ascending order; any other seed shuffles both, and completes
// asynchronous copies early or late.
//
// Detected and reported with the place in the source: a barrier or warp operation that not all threads reach, or that
// they reach at different places; a wide access that is not aligned. Dynamic shared memory is a heap block of exactly
// the requested size, filled with the bits of NaN before each block, so that AddressSanitizer detects accesses beyond
// its end.
//
// One launch runs on one thread of the process; several may run in parallel. Included by host.cuh only.
#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <utility>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

struct Dim3 {
    uint32_t x, y, z;
};

namespace host {

constexpr size_t STACK_BYTES = 128 << 10;
// Stack tops are shifted by one of STACK_SHIFTS multiples of STACK_SHIFT; otherwise they would compete for a few cache
// lines.
constexpr size_t STACK_SHIFTS = 32, STACK_SHIFT = 576;
constexpr uint32_t THREADS_MAX = 1024;
constexpr uint32_t WARP = 32;

// Parameters of a launch; must match the structure in the tests.
struct Geometry {
    Dim3 grid, block;
    uint32_t shared_bytes;
    uint64_t seed;
    char *message;
    uint32_t message_bytes;
};

// The place of an operation in the source.
struct Place {
    const char *what;
    const char *file;
    int line;
};

enum class Wait { Ready, Warp, Block, Done };

// An asynchronous copy that was started and has not been performed.
struct Copy {
    void *to;
    const void *from;
    bool real;
    uint64_t group;
};

struct Fiber {
    void *stack = nullptr;
#if defined(__x86_64__)
    void *pointer = nullptr;
#else
    ucontext_t context;
#endif
    void *fake = nullptr;
    Dim3 index;
    Wait wait = Wait::Done;
    Place place{};
    void *lane_data = nullptr;
    std::vector<Copy> copies;
    uint64_t copy_group = 0;
};

// Threads that meet at a barrier or warp operation: the number that have arrived, where, and the number that have
// ended.
struct Group {
    uint32_t arrived = 0, ended = 0;
    Place place{};
};

struct Launch {
    Geometry *geometry = nullptr;
    const char *kernel = "";
    std::vector<Fiber> fibers;
    Fiber *current = nullptr;
    Dim3 block_index{};
    unsigned char *shared = nullptr;
    uint64_t random = 0;
    bool failed = false;
    void (*body)(void *) = nullptr;
    void *body_data = nullptr;
    std::vector<uint32_t> ready;
    uint32_t threads = 0;
#if defined(__x86_64__)
    void *scheduler = nullptr;
#else
    ucontext_t scheduler;
#endif
    void *scheduler_fake = nullptr;
    const void *scheduler_stack = nullptr;
    size_t scheduler_bytes = 0;

    // The meeting state of each warp, and of the block.
    Group warps[THREADS_MAX / WARP], block;

    ~Launch() {
        for (Fiber &fiber : fibers) {
            if (fiber.stack) {
                munmap(fiber.stack, STACK_BYTES);
            }
        }
    }

    uint64_t next() {
        random = random * 6364136223846793005ull + 1442695040888963407ull;
        return random >> 33;
    }

    bool shuffled() const { return geometry->seed != 0; }
};

inline thread_local Launch launch_of_thread;

// The launch of this thread. Separate from `launch_of_thread`, whose destructor makes every access check its
// initialization.
inline thread_local Launch *launch_pointer = nullptr;

inline Launch &launch() { return *launch_pointer; }

#if defined(__x86_64__)
// Saves the callee-saved registers on the old stack, and resumes where the new stack was left.
static __attribute__((naked, noinline)) void switch_stack(void **, void *) {
    asm volatile("pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
                 "movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
                 "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
}
#endif

// Records the message of the first failure; the launch is abandoned.
inline void fail(const char *format, ...) {
    if (launch().failed) {
        return;
    }
    launch().failed = true;
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    const Dim3 b = launch().block_index;
    snprintf(launch().geometry->message, launch().geometry->message_bytes, "%s, block (%u, %u, %u): %s", launch().kernel, b.x,
             b.y, b.z, text);
}

// Switches from the running fiber to the scheduler.
inline void leave() {
    Fiber &fiber = *launch().current;
#if defined(__SANITIZE_ADDRESS__)
    const bool last = fiber.wait == Wait::Done;
    __sanitizer_start_switch_fiber(last ? nullptr : &fiber.fake, launch().scheduler_stack, launch().scheduler_bytes);
#endif
#if defined(__x86_64__)
    switch_stack(&fiber.pointer, launch().scheduler);
#else
    swapcontext(&fiber.context, &launch().scheduler);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fiber.fake, nullptr, nullptr);
#endif
}

// Does not return: a fiber that failed must not continue.
[[noreturn]] inline void abandon() {
    for (;;) {
        launch().current->wait = Wait::Block;
        leave();
    }
}

inline void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &launch().scheduler_stack, &launch().scheduler_bytes);
#endif
    launch().body(launch().body_data);
    launch().current->wait = Wait::Done;
    launch().warps[(launch().current - launch().fibers.data()) / WARP].ended++;
    launch().block.ended++;
    leave();
    abort();
}

inline uint32_t thread_number() {
    return uint32_t(launch().current - launch().fibers.data());
}

inline void resume(Fiber &fiber) {
    launch().current = &fiber;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&launch().scheduler_fake, fiber.stack, STACK_BYTES);
#endif
#if defined(__x86_64__)
    switch_stack(&launch().scheduler, fiber.pointer);
#else
    swapcontext(&launch().scheduler, &fiber.context);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(launch().scheduler_fake, nullptr, nullptr);
#endif
}

inline void prepare(Fiber &fiber) {
    if (!fiber.stack) {
        fiber.stack = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (fiber.stack == MAP_FAILED) {
            abort();
        }
    }
#if defined(__SANITIZE_ADDRESS__)
    // A fiber that ended leaves poisoned memory near the top only; an abandoned one may leave it anywhere.
    const size_t poisoned = fiber.wait == Wait::Done ? 4096 + STACK_SHIFTS * STACK_SHIFT : STACK_BYTES;
    __asan_unpoison_memory_region(static_cast<char *>(fiber.stack) + STACK_BYTES - poisoned, poisoned);
#endif
#if defined(__x86_64__)
    const size_t shift = size_t(&fiber - launch().fibers.data()) % STACK_SHIFTS * STACK_SHIFT;
    void **top = reinterpret_cast<void **>(static_cast<char *>(fiber.stack) + STACK_BYTES - shift);
    *--top = nullptr; // the return address of fiber_main: it starts as if called
    *--top = reinterpret_cast<void *>(&fiber_main);
    top -= 6;
    memset(top, 0, 6 * sizeof(void *));
    fiber.pointer = top;
#else
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = STACK_BYTES;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
#endif
    fiber.fake = nullptr;
    fiber.copies.clear();
    fiber.copy_group = 0;
    fiber.wait = Wait::Ready;
}

inline void make_ready(uint32_t first, uint32_t count) {
    for (uint32_t i = first; i < first + count; i++) {
        launch().fibers[i].wait = Wait::Ready;
        launch().ready.push_back(i);
    }
}

// Equal strings may have different addresses.
inline bool same_text(const char *a, const char *b) { return a == b || !strcmp(a, b); }

inline bool same(const Place &a, const Place &b) {
    return a.line == b.line && same_text(a.what, b.what) && same_text(a.file, b.file);
}

// Reports the threads, of `count` from `first` on, that have ended or wait at another place than the running one.
[[noreturn]] __attribute__((noinline)) inline void complain(Wait wait, uint32_t first, uint32_t count, Place place) {
    for (uint32_t i = first; i < first + count; i++) {
        const Fiber &other = launch().fibers[i];
        if (other.wait == Wait::Done) {
            fail("%s at %s:%d: thread %u is here, thread %u has ended", place.what, place.file, place.line,
                 thread_number(), i);
        } else if (other.wait == wait && !same(other.place, place)) {
            fail("%s at %s:%d reached by thread %u, while thread %u is at %s at %s:%d", place.what, place.file,
                 place.line, thread_number(), i, other.place.what, other.place.file, other.place.line);
        }
    }
    abandon();
}

// Waits until `count` threads from `first` on have arrived at the same place. The last of them calls `perform`.
template <class Perform>
inline void meet(Wait wait, Group &group, uint32_t first, uint32_t count, const Place &place, Perform perform) {
    Fiber &me = *launch().current;
    me.place = place;
    me.wait = wait;
    if (group.arrived == 0) {
        group.place = place;
    }
    if (group.ended || !same(group.place, place)) {
        complain(wait, first, count, place);
    }
    if (++group.arrived == count) {
        group.arrived = 0;
        perform();
        make_ready(first, count);
    }
    leave();
}

// An operation of a warp: calls `perform(T *lanes[32])` once, with the `data` of all lanes.
template <class T, class Perform> inline void warp(Place place, T &data, Perform perform) {
    const uint32_t first = thread_number() / WARP * WARP;
    launch().current->lane_data = &data;
    meet(Wait::Warp, launch().warps[first / WARP], first, WARP, place, [&] {
        T *lanes[WARP];
        for (uint32_t i = 0; i < WARP; i++) {
            lanes[i] = static_cast<T *>(launch().fibers[first + i].lane_data);
        }
        perform(lanes);
    });
}

inline void check_aligned(const void *address, size_t bytes, Place place) {
    if (reinterpret_cast<uintptr_t>(address) % bytes) {
        fail("%s at %s:%d: thread %u uses %p, which is not a multiple of %zu", place.what, place.file, place.line,
             thread_number(), address, bytes);
        abandon();
    }
}

// Performs the copies of all groups before `groups_before`: the latest time at which they may happen.
inline void land(Fiber &fiber, uint64_t groups_before) {
    size_t kept = 0;
    for (Copy &copy : fiber.copies) {
        if (copy.group >= groups_before) {
            fiber.copies[kept++] = copy;
        } else if (copy.real) {
            memcpy(copy.to, copy.from, 16);
        } else {
            memset(copy.to, 0, 16);
        }
    }
    fiber.copies.resize(kept);
}

// Runs one block to its end; false if it failed.
inline bool run_block() {
    launch().ready.clear();
    launch().block = Group();
    for (Group &warp : launch().warps) {
        warp = Group();
    }
    for (uint32_t i = 0; i < launch().threads; i++) {
        prepare(launch().fibers[i]);
        launch().ready.push_back(i);
    }
    uint32_t done = 0;
    size_t head = 0;
    while (done < launch().threads && !launch().failed) {
        if (head == launch().ready.size()) {
            for (uint32_t i = 0; i < launch().threads; i++) {
                const Fiber &f = launch().fibers[i];
                if (f.wait != Wait::Done) {
                    fail("thread %u waits forever: %s at %s:%d is not reached by all", i, f.place.what, f.place.file,
                         f.place.line);
                }
            }
            break;
        }
        if (launch().shuffled()) {
            std::swap(launch().ready[head], launch().ready[head + launch().next() % (launch().ready.size() - head)]);
        }
        Fiber &fiber = launch().fibers[launch().ready[head++]];
        if (head > 4096) {
            launch().ready.erase(launch().ready.begin(), launch().ready.begin() + long(head));
            head = 0;
        }
        resume(fiber);
        done += fiber.wait == Wait::Done;
    }
    return !launch().failed;
}

inline void shuffle_order(std::vector<uint32_t> &order) {
    for (size_t i = order.size(); launch().shuffled() && i > 1; i--) {
        std::swap(order[i - 1], order[launch().next() % i]);
    }
}

// Runs a kernel; 0 on success.
inline int run(const char *name, Geometry *geometry, void (*body)(void *), void *data) {
    launch_pointer = &launch_of_thread;
    launch().geometry = geometry;
    launch().kernel = name;
    launch().random = geometry->seed * 0x9E3779B97F4A7C15ull + 1;
    launch().failed = false;
    launch().body = body;
    launch().body_data = data;
    const Dim3 block = geometry->block, grid = geometry->grid;
    launch().threads = block.x * block.y * block.z;
    if (launch().threads == 0 || launch().threads > THREADS_MAX || launch().threads % WARP) {
        fail("%u threads in a block: a multiple of 32 up to %u is needed", launch().threads, THREADS_MAX);
        return 1;
    }
    if (launch().fibers.size() < launch().threads) {
        launch().fibers.resize(launch().threads);
    }
    for (uint32_t i = 0; i < launch().threads; i++) {
        launch().fibers[i].index = Dim3{i % block.x, i / block.x % block.y, i / block.x / block.y};
    }
    std::vector<uint32_t> order(size_t(grid.x) * grid.y * grid.z);
    for (uint32_t i = 0; i < order.size(); i++) {
        order[i] = i;
    }
    shuffle_order(order);
    for (uint32_t at : order) {
        launch().block_index = Dim3{at % grid.x, at / grid.x % grid.y, at / grid.x / grid.y};
        // Of exactly the requested size, so that AddressSanitizer detects accesses beyond it; filled with NaN.
        void *memory = nullptr;
        if (posix_memalign(&memory, 128, geometry->shared_bytes ? geometry->shared_bytes : 1)) {
            fail("no memory for %u bytes of shared memory", geometry->shared_bytes);
            return 1;
        }
        memset(memory, 0xFF, geometry->shared_bytes);
        launch().shared = static_cast<unsigned char *>(memory);
        const bool well = run_block();
        free(memory);
        if (!well) {
            return 1;
        }
    }
    return 0;
}

template <class... A, size_t... I>
inline int call(const char *name, void (*kernel)(A...), Geometry *geometry, void **params, std::index_sequence<I...>) {
    struct Data {
        void (*kernel)(A...);
        void **params;
    } data{kernel, params};
    auto body = [](void *p) {
        Data *d = static_cast<Data *>(p);
        d->kernel(*static_cast<A *>(d->params[I])...);
    };
    return run(name, geometry, body, &data);
}

// Launches a kernel. `params` as for cuLaunchKernel: one address for each parameter.
template <class... A> inline int call(const char *name, void (*kernel)(A...), Geometry *geometry, void **params) {
    return call(name, kernel, geometry, params, std::index_sequence_for<A...>());
}

// The size of each parameter of a kernel.
template <class... A> inline const uint32_t *param_bytes(void (*)(A...), uint32_t *count) {
    static const uint32_t bytes[] = {uint32_t(sizeof(A))..., 0};
    *count = sizeof...(A);
    return bytes;
}

} // namespace host
