/* What tests say to the stand-in for NVIDIA's driver, and what it tells them. The wrappers for Rust are in mod.rs.
 *
 * Everything here is of the whole process and may be called from any thread. Settings hold from the next driver call on; those
 * of a device are read by the library when it opens one. */
#ifndef ASTRAI_HOST_DRIVER_H
#define ASTRAI_HOST_DRIVER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Numbers since the last reset; those called live are what exists now, whatever was reset. */
typedef struct astrai_host_driver_counts {
    uint64_t launches;                /* kernels launched, those of graphs included */
    uint64_t graph_launches;
    uint64_t graph_instantiations;
    uint64_t captures;                /* begun */
    uint64_t stream_synchronisations;
    uint64_t event_synchronisations;
    uint64_t context_synchronisations;
    uint64_t to_device_copies;        /* when they run, those of graphs included; synchronous ones too */
    uint64_t to_device_bytes;
    uint64_t to_host_copies;
    uint64_t to_host_bytes;
    uint64_t device_allocations;      /* made */
    uint64_t pinned_allocations;      /* made */
    uint64_t live_device_bytes;
    uint64_t live_device_allocations;
    uint64_t peak_device_bytes;       /* since the last reset */
    uint64_t live_pinned_bytes;
    uint64_t live_streams;
    uint64_t live_events;
    uint64_t live_modules;
    uint64_t live_graphs;             /* graphs and instantiated graphs */
    uint64_t live_contexts;
    uint64_t lost_with_contexts;      /* what a context took with it when it ended: memory, streams, events, modules, graphs */
} astrai_host_driver_counts;

/* Healthy, with default settings and no counts: one device "Stand-in GPU" of capability 9.0 with 1 GiB, driver version 13.0,
 * work put off unless ASTRAI_HOST_DRIVER=eager is set, kernels in plain order. Live objects stay, and contexts that failed
 * stay failed until they are released. */
void astrai_host_driver_reset(void);

void astrai_host_driver_set_version(int version);        /* what cuDriverGetVersion gives: 1000 major + 10 minor */
void astrai_host_driver_set_device_count(int count);     /* 0: cuInit fails with CUDA_ERROR_NO_DEVICE */
void astrai_host_driver_set_device_name(const char *name);
/* Also the shared memory that a block may have: 99 KiB for 8.6, 8.9 and 12.x, 163 KiB for 8.0 and 8.7, 227 KiB for 9.x to 11.x,
 * 64 KiB below 8.0. */
void astrai_host_driver_set_capability(int major, int minor);
void astrai_host_driver_set_attribute(int attribute, int value); /* any CUdevice_attribute */
void astrai_host_driver_set_total_memory(uint64_t bytes);        /* of each device */
void astrai_host_driver_set_eager(int eager);                    /* 1: work runs when it is enqueued */
/* 1: launches are counted and end, and the kernels do not run: what the host does is then not slowed down by what they did to its
 * caches. Results are what lies in memory. */
void astrai_host_driver_set_idle(int idle);
/* Another order of blocks and threads in every launch, see fibers.cuh; 0: plain order. */
void astrai_host_driver_set_seed(uint64_t seed);

/* The n-th allocation from now (1: the next one), device or pinned, fails with CUDA_ERROR_OUT_OF_MEMORY; 0: none. */
void astrai_host_driver_fail_allocation(uint64_t n);
/* The n-th call from now of a driver function ("cuMemAlloc_v2"; NULL: of any but cuGetError*) fails with `error`, once; 0: none.
 * Functions that release something release it all the same. */
void astrai_host_driver_fail_call(const char *function, uint64_t n, int error);
/* After that many more launches (cuLaunchKernel*, cuGraphLaunch) the device is lost; 0: now. From then on every call fails with
 * `error` (46 CUDA_ERROR_DEVICE_UNAVAILABLE, 214 CUDA_ERROR_ECC_UNCORRECTABLE), waiting work is never done, and only a reset
 * ends it. Releasing works, and says the error. */
void astrai_host_driver_lose_device(uint64_t launches, int error);

void astrai_host_driver_get_counts(astrai_host_driver_counts *counts);
/* The first fault since the last reset: of a kernel, of memory, of a call that was refused. Copies up to `bytes` with the zero
 * at its end, and returns its length, 0 if there was none. */
size_t astrai_host_driver_message(char *text, size_t bytes);
/* Starts (1) or ends (0) the list of launches, and empties it. */
void astrai_host_driver_log(int on);
/* A line for each launch since, in the order of the calls: "name grid x y z block x y z shared bytes". Copies as above. */
size_t astrai_host_driver_get_log(char *text, size_t bytes);
/* Whether device memory at `address` has `bytes` allocated bytes, and all in one allocation. */
int astrai_host_driver_is_device_memory(uint64_t address, uint64_t bytes);

#ifdef __cplusplus
}
#endif
#endif
