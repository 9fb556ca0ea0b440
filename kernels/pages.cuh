// The layout of keys and values on the device: [frame][layer] of
//
//   keys    [kv_heads][page_tokens][k_dim]
//   values  [kv_heads][page_tokens][v_dim]
//   8-bit pages only: scale factors of keys [kv_heads][page_tokens] f32, then those of values
//
// of latent attention without the values and their factors: a value is the beginning of its key; so that each key, each value, and all keys of a head in a page are contiguous. k_dim and v_dim are multiples of 8 (16
// for 8-bit pages), so every row can be read 16 bytes at a time.
#pragma once

#include "device.cuh"

__device__ __forceinline__ int max_of(int a, int b) { return a > b ? a : b; }
__device__ __forceinline__ int min_of(int a, int b) { return a < b ? a : b; }

struct Pages {
    // Address of frame 0, layer 0.
    unsigned char *start;
    // Bytes of a frame, and of one layer of it.
    int64_t frame_bytes, layer_bytes;
    int layer, page_tokens, kv_heads, k_dim, v_dim;
    // Bytes of an element: 4, 2 or 1.
    int element;
    // Whether values are the beginnings of keys.
    int latent;

    __device__ __forceinline__ unsigned char *layer_of(uint32_t frame) const {
        return start + int64_t(frame) * frame_bytes + layer * layer_bytes;
    }

    // Byte offset of a key's or value's first element from the start of the layer.
    __device__ __forceinline__ int64_t row_offset(bool values, int head, int token) const {
        const int64_t at = int64_t(head) * page_tokens + token;
        const bool apart = values && !latent;
        return apart ? (int64_t(kv_heads) * page_tokens * k_dim + at * v_dim) * element : at * k_dim * element;
    }

    // Byte offset of a key's or value's scale factor from the start of the layer.
    __device__ __forceinline__ int64_t scale_offset(bool values, int head, int token) const {
        const int64_t rows = int64_t(kv_heads) * page_tokens;
        const int64_t first = values && !latent ? rows : 0;
        return rows * (k_dim + (latent ? 0 : v_dim)) * element + 4 * (first + int64_t(head) * page_tokens + token);
    }
};
