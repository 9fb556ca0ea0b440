// Iteration over rows of elements, four elements at a time.
#pragma once

#include "device.cuh"

constexpr int FOUR = 4;

// Calls four(row, at) once for each group of four elements of all rows of `width`, whatever the grid. The block must
// have 256 threads; they share a row, so that the division is done once per block.
template <class Four> __device__ __forceinline__ void each_four(int rows, int width, Four four) {
    constexpr uint32_t CHUNK = 256 * FOUR;
    const uint32_t chunks = (uint32_t(width) + CHUNK - 1) / CHUNK;
    for (uint32_t i = blockIdx.x; i < uint32_t(rows) * chunks; i += gridDim.x) {
        const uint32_t row = i / chunks, at = (i - row * chunks) * CHUNK + threadIdx.x * FOUR;
        if (at < uint32_t(width)) {
            four(int64_t(row), int(at));
        }
    }
}

// Whether all four elements exist and are aligned for one access; rows of any width may begin unaligned.
__device__ __forceinline__ bool whole_four(const float *row, int at, int width) {
    return at + FOUR <= width && reinterpret_cast<uintptr_t>(row + at) % sizeof(Words4) == 0;
}

// Reads elements at ... at + 3 of a row; zeros from `width` on.
__device__ __forceinline__ void read_four(float (&to)[FOUR], const float *row, int at, int width) {
    if (whole_four(row, at, width)) {
        const Words4 words = load4(row + at);
#pragma unroll
        for (int i = 0; i < FOUR; i++) {
            to[i] = bits_to_float(words.w[i]);
        }
    } else {
#pragma unroll
        for (int i = 0; i < FOUR; i++) {
            to[i] = at + i < width ? row[at + i] : 0.0f;
        }
    }
}

// Writes four elements of a row; none from `width` on.
__device__ __forceinline__ void write_four(float *row, int at, int width, const float (&from)[FOUR]) {
    if (whole_four(row, at, width)) {
        Words4 words;
#pragma unroll
        for (int i = 0; i < FOUR; i++) {
            words.w[i] = float_to_bits(from[i]);
        }
        store4(row + at, words);
    } else {
#pragma unroll
        for (int i = 0; i < FOUR; i++) {
            if (at + i < width) {
                row[at + i] = from[i];
            }
        }
    }
}

__device__ __forceinline__ void scale_four(float (&values)[FOUR], float factor) {
#pragma unroll
    for (int i = 0; i < FOUR; i++) {
        values[i] *= factor;
    }
}

// Writes four elements rounded to bf16; `to` is aligned to 8 bytes.
__device__ __forceinline__ void round_four(bf16 *to, const float (&from)[FOUR]) {
    store2(to, Words2{{pack_bf16(from[0], from[1]), pack_bf16(from[2], from[3])}});
}
