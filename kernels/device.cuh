// Device primitives for the kernels: barriers, warp operations, matrix fragments, asynchronous copies, wide loads, fast
// math.
//
// The only file with inline PTX and intrinsics. Each wrapper has a counterpart in host.cuh that does the same on the
// CPU, where the tests run the same kernels. Compiled with -fmad=false: a multiply-add is fused only where the source
// says fmaf, so that two kernels with the same arithmetic give the same bits.
//
// Lanes of a matrix fragment: g = lane / 4, t = lane % 4.
#pragma once

#include <cstdint>

#ifndef __CUDACC__
#include "host.cuh"
#else

#define ENTRY(name)

__device__ __forceinline__ unsigned char *dynamic_shared() {
    extern __shared__ __align__(128) unsigned char memory[];
    return memory;
}

// All threads of the block.
__device__ __forceinline__ void block_barrier() { __syncthreads(); }

// All lanes of the warp.
__device__ __forceinline__ void warp_barrier() { __syncwarp(); }

// The value of the lane whose number is this lane's xor `mask`.
template <class T> __device__ __forceinline__ T shuffle_xor(T value, uint32_t mask) {
    return __shfl_xor_sync(0xFFFFFFFFu, value, int(mask));
}

template <class T> __device__ __forceinline__ T shuffle(T value, uint32_t source) {
    return __shfl_sync(0xFFFFFFFFu, value, int(source));
}

__device__ __forceinline__ uint32_t warp_ballot(bool yes) { return __ballot_sync(0xFFFFFFFFu, yes); }

__device__ __forceinline__ float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }

__device__ __forceinline__ uint32_t float_to_bits(float value) { return __float_as_uint(value); }

// Rounds two numbers to nearest even; `low` comes first in memory.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

// c[16 x 8] += a[16 x 16] * b[16 x 8], bf16 to f32. a: rows g, g + 8 by k 2t, 2t + 1 (a0, a1) and 2t + 8, 2t + 9 (a2,
// a3); b: the same k by column g; c: rows g (c0, c1) and g + 8 (c2, c3) by columns 2t, 2t + 1.
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Loads four 8 x 8 matrices of 16-bit elements from shared memory, transposed: lanes 8m ... 8m + 7 give the addresses
// of the rows of matrix m, 16 bytes each; r[m] is column g of its rows 2t, 2t + 1.
__device__ __forceinline__ void load_transposed(uint32_t (&r)[4], const void *row) {
    const uint32_t address = uint32_t(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// Starts an asynchronous copy of 16 bytes from global to shared memory; writes zeros if not `real`. `from` must be a
// valid address in either case.
__device__ __forceinline__ void copy_async(void *to, const void *from, bool real) {
    const uint32_t address = uint32_t(__cvta_generic_to_shared(to));
    const int bytes = real ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
}

// Ends a group of copies.
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until all but the last N of this thread's groups have arrived; other threads see them after a barrier.
template <int N> __device__ __forceinline__ void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

__device__ __forceinline__ int atomic_add(int *to, int value) { return atomicAdd(to, value); }

// 2^x; subnormal results become 0.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Byte i of the result is byte (selector >> 4i) & 7 of the eight; bit 3 of a selector is never set here.
__device__ __forceinline__ uint32_t byte_permute(uint32_t low, uint32_t high, uint32_t selector) {
    return __byte_perm(low, high, selector);
}

// The number whose f16 bits these are, exactly.
__device__ __forceinline__ float from_f16(uint16_t bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ __forceinline__ int bit_count(uint32_t bits) { return __popc(bits); }

__device__ __forceinline__ uint32_t multiply_high(uint32_t a, uint32_t b) { return __umulhi(a, b); }

#endif

using bf16 = uint16_t;

struct alignas(8) Words2 {
    uint32_t w[2];
};

struct alignas(16) Words4 {
    uint32_t w[4];
};

#ifdef __CUDACC__

// Loads and stores for shared memory, or global memory that other blocks may read soon. Addresses are aligned to the
// size.
__device__ __forceinline__ Words4 load4(const void *address) { return *static_cast<const Words4 *>(address); }
__device__ __forceinline__ Words2 load2(const void *address) { return *static_cast<const Words2 *>(address); }
__device__ __forceinline__ uint32_t load1(const void *address) { return *static_cast<const uint32_t *>(address); }
__device__ __forceinline__ uint32_t load_short(const void *address) { return *static_cast<const uint16_t *>(address); }
__device__ __forceinline__ void store4(void *address, Words4 value) { *static_cast<Words4 *>(address) = value; }
__device__ __forceinline__ void store2(void *address, Words2 value) { *static_cast<Words2 *>(address) = value; }

// Loads from global memory that no kernel writes meanwhile, bypassing the L1 cache: for weights, which are read once.
__device__ __forceinline__ Words4 load4_once(const void *address) {
    Words4 r;
    asm("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(r.w[0]), "=r"(r.w[1]), "=r"(r.w[2]), "=r"(r.w[3])
        : "l"(address));
    return r;
}

__device__ __forceinline__ Words2 load2_once(const void *address) {
    Words2 r;
    asm("ld.global.nc.L1::no_allocate.L2::128B.v2.u32 {%0, %1}, [%2];" : "=r"(r.w[0]), "=r"(r.w[1]) : "l"(address));
    return r;
}

#else

inline Words4 load4(const void *address, AT) { return checked<Words4>(address, HERE("load4")); }
inline Words2 load2(const void *address, AT) { return checked<Words2>(address, HERE("load2")); }
inline uint32_t load1(const void *address, AT) { return checked<uint32_t>(address, HERE("load1")); }
inline uint32_t load_short(const void *address, AT) { return checked<uint16_t>(address, HERE("load_short")); }
inline Words4 load4_once(const void *address, AT) { return checked<Words4>(address, HERE("load4_once")); }
inline Words2 load2_once(const void *address, AT) { return checked<Words2>(address, HERE("load2_once")); }
inline void store4(void *address, Words4 value, AT) {
    host::check_aligned(address, 16, HERE("store4"));
    memcpy(address, &value, 16);
}
inline void store2(void *address, Words2 value, AT) {
    host::check_aligned(address, 8, HERE("store2"));
    memcpy(address, &value, 8);
}

#endif

__device__ __forceinline__ float from_bf16(bf16 bits) { return bits_to_float(uint32_t(bits) << 16); }

__device__ __forceinline__ bf16 to_bf16(float value) { return bf16(pack_bf16(value, 0.0f)); }

// Warp sum in a fixed order; every lane has the result.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (uint32_t mask = 16; mask > 0; mask /= 2) {
        value += shuffle_xor(value, mask);
    }
    return value;
}

__device__ __forceinline__ bool finite(float x) { return fabsf(x) < INFINITY; }

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (uint32_t mask = 16; mask > 0; mask /= 2) {
        value = fmaxf(value, shuffle_xor(value, mask));
    }
    return value;
}

// Sum over a block of up to 32 warps, in an order that depends on the number of threads only; every thread has the
// result. `scratch` has 33 floats of shared memory, which may be used again after the next barrier.
__device__ __forceinline__ float block_sum(float value, float *scratch) {
    value = warp_sum(value);
    const uint32_t warps = blockDim.x / 32;
    if (threadIdx.x % 32 == 0) {
        scratch[threadIdx.x / 32] = value;
    }
    block_barrier();
    float sum = 0.0f;
    for (uint32_t i = 0; i < warps; i++) {
        sum += scratch[i];
    }
    return sum;
}
