// Operations on elements and whole rows: embedding, gather, rotary angles, gates, conversion to bf16.
//
// Every thread makes whole elements from elements of the same row alone, so a row cannot depend on its neighbours. Grids are
// loops: any number of blocks gives the same result.
#include "device.cuh"

// First element of this thread, and the distance to its next.
#define EACH(i, count)                                                                                                 \
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < (count); i += int64_t(gridDim.x) * blockDim.x)

// out[rows, width] = table[tokens[r]]; table bf16 with `pitch` elements from a row to the next. Block: 256; grid: any.
extern "C" __global__ void __launch_bounds__(256)
embed_bf16(const bf16 *table, int pitch, const uint32_t *tokens, float *out, int rows, int width) {
    EACH(i, int64_t(rows) * width) {
        const int64_t row = i / width;
        out[i] = from_bf16(table[int64_t(tokens[row]) * pitch + (i - row * width)]);
    }
}

// The same from a table of f32.
extern "C" __global__ void __launch_bounds__(256)
embed_f32(const float *table, int pitch, const uint32_t *tokens, float *out, int rows, int width) {
    EACH(i, int64_t(rows) * width) {
        const int64_t row = i / width;
        out[i] = table[int64_t(tokens[row]) * pitch + (i - row * width)];
    }
}

// out[i] = x[rows_wanted[i]], rows of `width` elements. Block: 256; grid: any.
extern "C" __global__ void __launch_bounds__(256)
gather_rows(const float *x, const uint32_t *rows_wanted, float *out, int rows, int width) {
    EACH(i, int64_t(rows) * width) {
        const int64_t row = i / width;
        out[i] = x[int64_t(rows_wanted[row]) * width + (i - row * width)];
    }
}

// out[rows, 2, half]: cosines, then sines, of positions[r] * inv_freq[i], times `scale`. The angle is rounded to f32 first,
// as the models were trained. Block: 256; grid: any.
extern "C" __global__ void __launch_bounds__(256)
rotary_angles(const uint32_t *positions, const float *inv_freq, float scale, float *out, int rows, int half) {
    EACH(i, int64_t(rows) * half) {
        const int64_t row = i / half, at = i - row * half;
        const float angle = float(positions[row]) * inv_freq[at];
        out[row * 2 * half + at] = cosf(angle) * scale;
        out[row * 2 * half + half + at] = sinf(angle) * scale;
    }
}

// out[rows, pitch] = x[rows, width] rounded to bf16, zeros from width to pitch: the form that products read. Block: 256;
// grid: any.
extern "C" __global__ void __launch_bounds__(256)
round_rows(const float *x, bf16 *out, int rows, int width, int pitch) {
    EACH(i, int64_t(rows) * pitch) {
        const int64_t row = i / pitch, at = i - row * pitch;
        out[i] = at < width ? to_bf16(x[row * width + at]) : bf16(0);
    }
}

__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }

// gate[i] = silu(gate[i]) * up[i]. Block: 256; grid: any.
extern "C" __global__ void __launch_bounds__(256) silu_mul(float *gate, const float *up, int64_t elements) {
    EACH(i, elements) { gate[i] = silu(gate[i]) * up[i]; }
}

// out[rows, pitch] = silu(gate) * up rounded to bf16, zeros from width to pitch; gate and up are [rows, width]. Where the
// result is the input of a product. Block: 256; grid: any.
extern "C" __global__ void __launch_bounds__(256)
silu_mul_rows(const float *gate, const float *up, bf16 *out, int rows, int width, int pitch) {
    EACH(i, int64_t(rows) * pitch) {
        const int64_t row = i / pitch, at = i - row * pitch, from = row * width + at;
        out[i] = at < width ? to_bf16(silu(gate[from]) * up[from]) : bf16(0);
    }
}

// x[i] *= sigmoid(gate[i]). Block: 256; grid: any.
extern "C" __global__ void __launch_bounds__(256) sigmoid_mul(float *x, const float *gate, int64_t elements) {
    EACH(i, elements) { x[i] = x[i] / (1.0f + expf(-gate[i])); }
}

// x[i] += factor * y[i]. Block: 256; grid: any.
extern "C" __global__ void __launch_bounds__(256) add_scaled(float *x, const float *y, float factor, int64_t elements) {
    EACH(i, elements) { x[i] = fmaf(factor, y[i], x[i]); }
}

ENTRY(embed_bf16)
ENTRY(embed_f32)
ENTRY(gather_rows)
ENTRY(rotary_angles)
ENTRY(round_rows)
ENTRY(silu_mul)
ENTRY(silu_mul_rows)
ENTRY(sigmoid_mul)
ENTRY(add_scaled)
