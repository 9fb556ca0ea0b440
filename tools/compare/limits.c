/* What the machine's memory can deliver: GB/s read with 1 thread and with N, the denominator of every bound on decoding.
 *
 *     cc -O3 -march=native -pthread limits.c -o limits && ./limits [THREADS] [MIB] [PASSES]
 *
 * Every thread sums 64-bit words of its own part of one buffer, which is far larger than any cache; nothing is written.
 * The best of the passes counts: what disturbs a pass makes it slower, never faster. Prints one JSON object; GB are 1e9
 * bytes. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { THREADS_MAX = 256, WORDS = 8 };
/* Eight 64-bit words: a cache line, whatever registers the processor has. */
typedef uint64_t line __attribute__((vector_size(64)));

struct part {
    const line *begin;
    size_t lines;
    uint64_t sum;
    pthread_barrier_t *barrier;
    int passes;
    double *seconds; /* written by the first thread alone */
    int first;
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Four streams, as one alone leaves memory waiting on the prefetcher. */
static uint64_t sum_of(const line *p, size_t lines) {
    line a = {0}, b = {0}, c = {0}, d = {0};
    size_t quarter = lines / 4;
    for (size_t i = 0; i < quarter; i++) {
        a += p[i];
        b += p[quarter + i];
        c += p[2 * quarter + i];
        d += p[3 * quarter + i];
    }
    a += b + c + d;
    uint64_t sum = 0;
    for (int i = 0; i < WORDS; i++) sum += a[i];
    return sum;
}

static void *work(void *argument) {
    struct part *part = argument;
    for (int pass = 0; pass < part->passes; pass++) {
        pthread_barrier_wait(part->barrier);
        double start = now();
        part->sum += sum_of(part->begin, part->lines);
        pthread_barrier_wait(part->barrier);
        if (part->first) part->seconds[pass] = now() - start;
    }
    return NULL;
}

/* The best pass in GB/s, or 0 when threads cannot be had. */
static double measure(const line *buffer, size_t lines, int threads, int passes, uint64_t *sum) {
    pthread_t handles[THREADS_MAX];
    struct part parts[THREADS_MAX];
    double seconds[passes];
    pthread_barrier_t barrier;
    size_t each = lines / (size_t)threads / 4 * 4;
    pthread_barrier_init(&barrier, NULL, (unsigned)threads);
    for (int i = 0; i < threads; i++) {
        parts[i] = (struct part){buffer + each * (size_t)i, each, 0, &barrier, passes, seconds, i == 0};
        if (pthread_create(&handles[i], NULL, work, &parts[i]) != 0) {
            fprintf(stderr, "limits: cannot start thread %d of %d\n", i + 1, threads);
            exit(1);
        }
    }
    double best = 1e9;
    for (int i = 0; i < threads; i++) {
        pthread_join(handles[i], NULL);
        *sum += parts[i].sum;
    }
    for (int i = 0; i < passes; i++) best = seconds[i] < best ? seconds[i] : best;
    return (double)(each * (size_t)threads * sizeof(line)) / best / 1e9;
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 2;
    size_t mib = argc > 2 ? (size_t)atol(argv[2]) : 1024;
    int passes = argc > 3 ? atoi(argv[3]) : 9;
    if (threads < 1 || threads > THREADS_MAX || mib < 1 || passes < 1 || passes > 1000) {
        fprintf(stderr, "usage: limits [THREADS up to %d] [MIB] [PASSES up to 1000]\n", THREADS_MAX);
        return 2;
    }
    size_t bytes = mib << 20;
    void *buffer = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED) {
        fprintf(stderr, "limits: no %zu MiB of memory; give fewer\n", mib);
        return 1;
    }
    /* Small pages cost reads a few per cent; weights in large ones are what is to be compared with. */
#ifdef MADV_HUGEPAGE
    madvise(buffer, bytes, MADV_HUGEPAGE);
#endif
    memset(buffer, 1, bytes);
    uint64_t sum = 0;
    double one = measure(buffer, bytes / sizeof(line), 1, passes, &sum);
    double all = threads == 1 ? one : measure(buffer, bytes / sizeof(line), threads, passes, &sum);
    printf("{\"read_gb_s_1\": %.2f, \"read_gb_s_n\": %.2f, \"threads\": %d, \"mib\": %zu, \"passes\": %d, \"sum\": %llu}\n",
           one, all, threads, mib, passes, (unsigned long long)sum);
    return 0;
}
