// A number and its id as one integer whose order is the ranking; as in src/sampling/select.rs.
#pragma once

#include "device.cuh"

// The key: a larger number has a larger key, and of equal numbers the one with the lower id. Never 0 for a number.
__device__ __forceinline__ uint64_t order_key(float value, uint32_t id) {
    // Adding 0 turns -0 into 0.
    const uint32_t bits = float_to_bits(value + 0.0f);
    const uint32_t ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
    return uint64_t(ordered) << 32 | uint32_t(~id);
}

// The number of a key.
__device__ __forceinline__ float value_of(uint64_t key) {
    const uint32_t ordered = uint32_t(key >> 32);
    return bits_to_float(ordered >> 31 ? ordered & 0x7FFFFFFFu : ~ordered);
}

__device__ __forceinline__ uint64_t warp_max_key(uint64_t key) {
#pragma unroll
    for (uint32_t mask = 16; mask > 0; mask /= 2) {
        const uint64_t other = shuffle_xor(key, mask);
        key = other > key ? other : key;
    }
    return key;
}
