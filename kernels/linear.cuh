// Matrix products: out[r, o] = sum_i x[r, i] * weight[o, i], for one to four weights that share their input, or for the
// experts of a layer.
//
// **Law 1 (batch invariance).** The inputs of a weight are divided into at most SEGMENTS runs of whole steps of 64
// inputs, in a way that depends on `ins` only. Each segment is one chain of matrix operations (formats.cuh); the result
// is ((s0 + s1) + s2) + ... So an element's bits depend only on its row and its weight, whichever kernel below is used:
//
//   few   1 to 32 rows: a block computes 16 outputs, each of its 8 warps one segment, with weights loaded directly to
//         registers;
//   tile  more rows: a block computes a tile of outputs and rows through shared memory, one segment after the other.
#pragma once

#include "formats.cuh"

constexpr int SEGMENTS = 8;

// One weight of a launch.
struct Product {
    // The matrix, in the kernel's format.
    const void *weight;
    // For experts, instead of `weight`: the address table; expert e has entry e * expert_stride.
    const void *const *experts;
    // [outs], or null.
    const float *bias;
    // For experts, instead of `bias`: the address table; expert e has entry e * bias_stride. Or null.
    const float *const *biases;
    // [rows, outs].
    float *out;
    int outs;
    // Whether the result is added to `out`.
    int accumulate;
    // The first block (x) of the launch that computes this product.
    int first_block;
    int expert_stride, bias_stride;
};

// Rows that go through one expert.
struct Tile {
    int expert, first, rows;
};

// Parameters of a launch.
struct Products {
    Product products[4];
    int count;
    int ins;
    // Elements between rows of x, and of a bf16 weight: a multiple of 64, at least ins.
    int pitch;
    int rows;
    // [rows, pitch] in bf16 (f32 for linear_f32), zeros from ins to pitch.
    const void *x;
    // For experts: the tiles and their number; surplus blocks (y) return at once. Null: all rows in order.
    const Tile *tiles;
    const int *tile_count;
    // For experts: the row of x for each row of the output; null: the same row.
    const uint32_t *x_rows;
};

// A block's position in the grid.
struct TilePosition {
    int x, y;
};

__device__ __forceinline__ TilePosition own_place() { return {int(blockIdx.x), int(blockIdx.y)}; }

// Reorders the blocks so that those running at the same time share weights and rows. Blocks start in x order first;
// here they go through GROUP tiles of rows before the next outputs. Otherwise a weight larger than the cache would be
// read from memory again for every tile of rows.
__device__ __forceinline__ TilePosition grouped_place() {
    constexpr int GROUP = 8;
    const int across = int(gridDim.x), number = int(blockIdx.y) * across + int(blockIdx.x);
    const int group = number / (GROUP * across), rest = number - group * (GROUP * across);
    const int left = int(gridDim.y) - group * GROUP, rows = left < GROUP ? left : GROUP;
    return {rest / rows, group * GROUP + rest % rows};
}

// The work of a block.
struct Work {
    const Product *product;
    const void *weight;
    // [outs], or null.
    const float *bias;
    // Index of the output tile within the product.
    int tile;
    int first_row, rows;
};

// Finds the work of the block; false if there is none, the same for all threads of a block.
__device__ __forceinline__ bool find_work(const Products &args, TilePosition place, int tile_rows, Work &work) {
    int at = 0;
    while (at + 1 < args.count && place.x >= args.products[at + 1].first_block) {
        at++;
    }
    work.product = &args.products[at];
    work.weight = work.product->weight;
    work.bias = work.product->bias;
    work.tile = place.x - work.product->first_block;
    if (args.tiles) {
        if (place.y >= *args.tile_count) {
            return false;
        }
        const Tile tile = args.tiles[place.y];
        work.first_row = tile.first;
        work.rows = tile.rows;
        if (work.product->experts) {
            work.weight = work.product->experts[tile.expert * work.product->expert_stride];
        }
        if (work.product->biases) {
            work.bias = work.product->biases[tile.expert * work.product->bias_stride];
        }
    } else {
        work.first_row = place.y * tile_rows;
        const int left = args.rows - work.first_row;
        work.rows = left < tile_rows ? left : tile_rows;
    }
    return true;
}

// The input of the work's row `row`.
__device__ __forceinline__ const bf16 *input_row(const Products &args, const Work &work, int row) {
    const int64_t at = work.first_row + row;
    return static_cast<const bf16 *>(args.x) + int64_t(args.x_rows ? args.x_rows[at] : at) * args.pitch;
}

__device__ __forceinline__ void put(const Work &work, int64_t row, int out, float value) {
    if (work.bias) {
        value += work.bias[out];
    }
    float *place = work.product->out + row * work.product->outs + out;
    *place = work.product->accumulate ? *place + value : value;
}

__device__ __forceinline__ int steps_of(int ins) { return (ins + STEP - 1) / STEP; }

__device__ __forceinline__ int segment_steps(int steps) { return (steps + SEGMENTS - 1) / SEGMENTS; }

// Up to 8 * NT rows. A warp loads the next AHEAD steps of weights while it multiplies the current ones.
template <class F, int NT> __device__ __forceinline__ void few(const Products &args) {
    // A pitch of 20 spreads the lanes over all banks.
    __shared__ float parts[SEGMENTS][8 * NT][20];
    Work work;
    if (!find_work(args, own_place(), 8 * NT, work)) {
        return;
    }
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    const int steps = steps_of(args.ins), each = segment_steps(steps);
    const int begin = warp * each, end = begin + each < steps ? begin + each : steps;
    const typename F::Source source = F::source(work.weight, work.product->outs, args.ins, args.pitch, work.tile, g, t);
    const bf16 *rows[NT];
#pragma unroll
    for (int n = 0; n < NT; n++) {
        rows[n] = 8 * n + g < work.rows ? input_row(args, work, 8 * n + g) : nullptr;
    }
    float acc[NT][4] = {};
    typename F::Step now[F::AHEAD], next[F::AHEAD];
#pragma unroll
    for (int i = 0; i < F::AHEAD; i++) {
        if (begin + i < end) {
            F::load(now[i], source, begin + i, args.ins);
        }
    }
    for (int at = begin; at < end; at += F::AHEAD) {
#pragma unroll
        for (int i = 0; i < F::AHEAD; i++) {
            if (at + F::AHEAD + i < end) {
                F::load(next[i], source, at + F::AHEAD + i, args.ins);
            }
        }
#pragma unroll
        for (int i = 0; i < F::AHEAD; i++) {
            if (at + i < end) {
                F::multiply(acc, now[i], at + i, args.ins, [&](int n, Words4(&x)[2]) {
                    x[0] = x[1] = Words4{};
                    if (rows[n]) {
                        x[0] = F::input(rows[n] + (at + i) * STEP, t);
                        x[1] = F::input(rows[n] + (at + i) * STEP + 32, t);
                    }
                });
            }
            now[i] = next[i];
        }
    }
#pragma unroll
    for (int n = 0; n < NT; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            parts[warp][8 * n + 2 * t + i % 2][F::out_of(g, i / 2)] = acc[n][i];
        }
    }
    block_barrier();
    const int segments = (steps + each - 1) / each;
    for (int i = int(threadIdx.x); i < work.rows * 16; i += SEGMENTS * 32) {
        const int row = i / 16, out = 16 * work.tile + i % 16;
        float sum = parts[0][row][i % 16];
        for (int segment = 1; segment < segments; segment++) {
            sum += parts[segment][row][i % 16];
        }
        if (out < work.product->outs) {
            put(work, work.first_row + row, out, sum);
        }
    }
}

// Copies the input of a tile to shared memory: [2 blocks of 32 inputs][rows][64 bytes], swizzled as in Bf16Format.
template <int ROWS, int THREADS> struct InputCopier {
    static constexpr int EACH = ROWS * 8 / THREADS;
    const bf16 *from[EACH];

    __device__ __forceinline__ InputCopier(const Products &args, const Work &work) {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int chunk = int(threadIdx.x) + i * THREADS, row = chunk / 8;
            // Rows after the last read the last one; their results are not written.
            from[i] = input_row(args, work, row < work.rows ? row : work.rows - 1) + chunk % 8 * 8;
        }
    }

    __device__ __forceinline__ void start(unsigned char *to, int step) const {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int chunk = int(threadIdx.x) + i * THREADS, row = chunk / 8, block = chunk % 8 / 4;
            copy_async(to + (block * ROWS + (row ^ block)) * 64 + chunk % 4 * 16, from[i] + step * STEP, true);
        }
    }
};

// WM x WN warps, each with MT * 16 outputs and NT * 8 rows. Shared memory: STAGES * (F::tile_bytes(outputs) + rows *
// 128).
template <class F, int WM, int WN, int MT, int NT, int STAGES> __device__ __forceinline__ void tile(const Products &args) {
    constexpr int OUTS = WM * MT * 16, ROWS = WN * NT * 8, THREADS = WM * WN * 32;
    constexpr int INPUT = F::tile_bytes(OUTS), STAGE = INPUT + ROWS * STEP * 2;
    Work work;
    if (!find_work(args, args.tiles ? own_place() : grouped_place(), ROWS, work)) {
        return;
    }
    unsigned char *shared = dynamic_shared();
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    const int wm = warp / WN, wn = warp % WN;
    const int steps = steps_of(args.ins), each = segment_steps(steps);
    const Product &product = *work.product;
    typename F::template Copier<OUTS, THREADS> weights(work.weight, product.outs, args.ins, args.pitch, work.tile * OUTS);
    const InputCopier<ROWS, THREADS> inputs(args, work);
    auto start = [&](int step) {
        if (step < steps) {
            unsigned char *stage = shared + step % STAGES * STAGE;
            weights.start(stage, step, args.ins);
            inputs.start(stage + INPUT, step);
        } else {
            weights.finish();
        }
        // Also if there is nothing to copy, so that copy_wait counts correctly.
        copy_commit();
    };
    for (int step = 0; step < STAGES - 1; step++) {
        start(step);
    }
    float acc[MT][NT][4] = {}, total[MT][NT][4] = {};
    int left = each;
    for (int step = 0; step < steps; step++) {
        copy_wait<STAGES - 2>();
        // The step's data is visible to all threads, and all have finished with the stage that is overwritten next.
        block_barrier();
        start(step + STAGES - 1);
        const unsigned char *stage = shared + step % STAGES * STAGE;
#pragma unroll
        for (int m = 0; m < MT; m++) {
            typename F::Staged weight;
            F::template load_shared<OUTS>(weight, stage, wm * MT + m, g, t);
            F::multiply(acc[m], weight, step, args.ins, [&](int n, Words4(&x)[2]) {
                const int row = (wn * NT + n) * 8 + g;
#pragma unroll
                for (int block = 0; block < 2; block++) {
                    x[block] = F::input(stage + INPUT + (block * ROWS + (row ^ block)) * 64, t);
                }
            });
        }
        if (--left == 0 || step + 1 == steps) {
            left = each;
            const bool first = step < each;
#pragma unroll
            for (int i = 0; i < MT * NT * 4; i++) {
                float &a = acc[i / 4 / NT][i / 4 % NT][i % 4], &sum = total[i / 4 / NT][i / 4 % NT][i % 4];
                sum = first ? a : sum + a;
                a = 0.0f;
            }
        }
    }
#pragma unroll
    for (int i = 0; i < MT * NT * 4; i++) {
        const int m = i / 4 / NT, n = i / 4 % NT;
        const int out = work.tile * OUTS + (wm * MT + m) * 16 + F::out_of(g, i % 4 / 2);
        const int row = (wn * NT + n) * 8 + 2 * t + i % 2;
        if (out < product.outs && row < work.rows) {
            put(work, work.first_row + row, out, total[m][n][i % 4]);
        }
    }
}

// The last number of a kernel is the minimum of blocks per multiprocessor for which the compiler limits registers: two,
// if that spills at most 16 bytes; 0 leaves it to the compiler.

// linear_few<rows>_<format>. Block: 256; grid: (sum of outs / 16 rounded up, rows / <rows> rounded up or tiles).
#define FEW(name, format, nt, blocks)                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, blocks) name(const __grid_constant__ Products args) {           \
        few<format, nt>(args);                                                                                         \
    }                                                                                                                  \
    ENTRY(name)

// linear_<outputs>x<rows>_<format>. Block: 256; grid: (sum of outs / <outputs> rounded up, rows / <rows> rounded up or
// tiles); shared memory: see `tile`. Tiles of 64 rows, of which there may be few blocks, have more stages, within 99
// KiB.
#define TILED(name, format, wm, wn, mt, nt, stages, blocks)                                                            \
    extern "C" __global__ void __launch_bounds__(256, blocks) name(const __grid_constant__ Products args) {           \
        tile<format, wm, wn, mt, nt, stages>(args);                                                                    \
    }                                                                                                                  \
    ENTRY(name)
