// A product for each head with some rows of one matrix: the two halves of absorbed latent attention.
//
// Each row has sums of its own, added in an order that depends on the matrix alone: lane by lane and then across the warp where the
// inputs are multiplied with rows of the matrix, row after row where they are multiplied with its columns.
#include "device.cuh"

// Heads inside rows: head h of row r starts at r * row_stride + h * head_stride.
struct Heads {
    float *start;
    int64_t row_stride, head_stride;
    int heads, dim;
};

// Parameters of head_products_*.
struct HeadProducts {
    // Rows of `pitch` elements, the first `width` of which count.
    const void *weight;
    int64_t pitch;
    Heads x, out;
    // Head h has the rows h * stride + first and the next, `count` of them.
    int first, stride, count, width;
    // Inputs are multiplied with rows, and results are columns.
    int transposed;
    int rows;
};

// Rows of input of a block, so that the matrix is read once for all of them.
constexpr int ROWS = 8;
constexpr int THREADS = 128;

__device__ __forceinline__ float wide(bf16 x) { return from_bf16(x); }
__device__ __forceinline__ float wide(float x) { return x; }

// Adds the products of an element of the matrix with one of each row's inputs, `stride` apart. Rows beyond the last are the last
// again; their sums are not written.
__device__ __forceinline__ void add_products(float (&sums)[ROWS], float w, const float *x, int64_t stride, int rows) {
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        sums[r] = fmaf(w, x[(r < rows ? r : rows - 1) * stride], sums[r]);
    }
}

template <class T> __device__ __forceinline__ void multiply(const HeadProducts &args) {
    const int head = int(blockIdx.y), row = int(blockIdx.x) * ROWS;
    const int rows = args.rows - row < ROWS ? args.rows - row : ROWS;
    const int ins = args.transposed ? args.count : args.width, outs = args.transposed ? args.width : args.count;
    const T *weight = static_cast<const T *>(args.weight) + (int64_t(head) * args.stride + args.first) * args.pitch;
    const float *x = args.x.start + row * args.x.row_stride + head * args.x.head_stride;
    float *out = args.out.start + row * args.out.row_stride + head * args.out.head_stride;
    if (args.transposed) {
        for (int column = int(threadIdx.x); column < outs; column += THREADS) {
            float sums[ROWS] = {};
            for (int i = 0; i < ins; i++) {
                add_products(sums, wide(weight[i * args.pitch + column]), x + i, args.x.row_stride, rows);
            }
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                if (r < rows) {
                    out[r * args.out.row_stride + column] = sums[r];
                }
            }
        }
    } else {
        const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
        for (int o = warp; o < outs; o += THREADS / 32) {
            float sums[ROWS] = {};
            for (int i = lane; i < ins; i += 32) {
                add_products(sums, wide(weight[o * args.pitch + i]), x + i, args.x.row_stride, rows);
            }
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                const float sum = warp_sum(sums[r]);
                if (lane == 0 && r < rows) {
                    out[r * args.out.row_stride + o] = sum;
                }
            }
        }
    }
    // What is beyond the inputs goes beyond the results as it is.
    const int beyond = args.x.dim - ins;
    for (int i = int(threadIdx.x); i < rows * beyond; i += THREADS) {
        const int r = i / beyond, d = i % beyond;
        out[r * args.out.row_stride + outs + d] = x[r * args.x.row_stride + ins + d];
    }
}

// Block: 128; grid: (rows / 8 rounded up, heads).
extern "C" __global__ void __launch_bounds__(THREADS) head_products_bf16(const __grid_constant__ HeadProducts args) {
    multiply<bf16>(args);
}

// The same with a matrix in f32.
extern "C" __global__ void __launch_bounds__(THREADS) head_products_f32(const __grid_constant__ HeadProducts args) {
    multiply<float>(args);
}

ENTRY(head_products_bf16)
ENTRY(head_products_f32)
