// Parameters of attention, and how keys and values lie in shared memory.
#pragma once

#include "pages.cuh"

constexpr int KEYS = 64;
constexpr int SPAN_BLOCKS = 4;
// Warps of a block of attention_*x*.
constexpr int WARPS = 4;
constexpr int THREADS = WARPS * 32;
constexpr float LOG2_E = 1.44269504f;

// Adjacent rows of one sequence.
struct Unit {
    int first_row, rows;
};

// Parameters of a launch.
struct Attention {
    // Head h of row r at r * q_row_stride + h * q_head_stride.
    const float *q;
    int64_t q_row_stride, q_head_stride;
    // [rows, heads, v_dim]; null if only `rounded` is wanted.
    float *out;
    // For split keys: [rows, heads, spans_max, 2 + v_dim], the span's maximum, sum and weighted values; null: final
    // results go to `out`.
    float *parts;
    int spans_max;
    int heads;
    float scale;
    // Keys visible to a query, including its own; 0: all up to its own.
    int window;
    Pages pages;
    const Unit *units;
    const uint32_t *positions, *sequences, *tables, *table_starts;
    // Scores become soft_cap * tanh(score / soft_cap) before masking; 0: no cap.
    float soft_cap;
    // Elements per row of `rounded`, at least heads * v_dim.
    int rounded_pitch;
    // May be null: [rows, rounded_pitch], the result in bf16 followed by zeros, the form that products read.
    bf16 *rounded;
    // May be null: [heads], the score of a key without a value that every query of a head sees.
    const float *sinks;
    // Rows of the step, if queries see later keys, too: all of their sequence, which is in this step, or as many as the window has
    // before them; 0: they do not.
    int rows;
};

// The work of a thread block.
struct Job {
    int group, first_query, queries, kv_head;
    int first_row;
    // Position of the unit's first row, and of the rows of the first and the last query of this block.
    int unit_position, first_position, last_position;
    // The last position of the sequence, where later keys are seen; and the last key that any query of this block sees.
    int end, last_key;
    const uint32_t *table;

    // The position of a query. Those after the last have the last one's; their results are not written.
    __device__ __forceinline__ int position_of(int query) const {
        return unit_position + min_of(query, queries - 1) / group;
    }
};

__device__ __forceinline__ int first_visible(int position, int window) {
    return window > 0 && position >= window ? position - window + 1 : 0;
}

// The last key that a query sees; `end` is the last position of its sequence.
__device__ __forceinline__ int last_visible(const Attention &args, int position, int end) {
    if (args.rows == 0) {
        return position;
    }
    return args.window > 0 ? min_of(end, position + args.window - 1) : end;
}

// The last position of the sequence that row `row` is of, where later keys are seen. Its rows are adjacent, and all are in this step.
__device__ __forceinline__ int end_of(const Attention &args, int row) {
    // The last of its rows is at `low` or after it, and before `high`.
    int low = row, high = args.rows;
    while (high - low > 1) {
        const int middle = low + (high - low) / 2;
        (args.sequences[middle] == args.sequences[row] ? low : high) = middle;
    }
    return int(args.positions[low]);
}

// Bytes of a row of keys or values in shared memory, in bf16.
template <int DIM> constexpr int ROW = DIM * 2;

// Swizzle: 16-byte pieces of a key's row are permuted by the key's lowest bit, those of a value's row by its lowest
// three, so that lanes that read together use all banks.
__device__ __forceinline__ int key_place(int key, int piece) { return piece ^ key % 2 * 4; }
__device__ __forceinline__ int value_place(int key, int piece) { return piece ^ key % 8; }
