// What a thread block of attention does with 64 keys: copies, scores, weights and values; and where its results go.
#pragma once

#include "nonfinite.cuh"

// Converts eight 8-bit integers to bf16, exactly.
__device__ __forceinline__ Words4 widen(Words2 codes) {
    Words4 r;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t word = codes.w[i / 2] >> (i % 2 * 16);
        r.w[i] = pack_bf16(float(int8_t(word & 255)), float(int8_t(word >> 8 & 255)));
    }
    return r;
}

// Starts to copy the keys of block `block` and their values to shared memory; zeros for keys that no query here sees,
// and beyond the heads' width. `Element` is bf16 or int8_t; int8_t is converted to bf16, and its scale factors are
// copied to `factors`: [64 of keys][64 of values]. Of wider heads, DIM elements from `start` on; and only keys, with the factors, or
// only values.
template <class Element, int DIM, bool BRING_KEYS = true, bool BRING_VALUES = true>
__device__ __forceinline__ void bring(const Attention &args, const Job &job, int block, unsigned char *keys,
                                      unsigned char *values, float *factors, int start = 0) {
    constexpr int PIECES = DIM / 8;
    // In each turn, consecutive threads copy the pieces of one key, so a row of a page is read contiguously. A warp
    // copies TOGETHER keys per turn, 16 in all turns. Its lanes look up those 16 rows at once: lanes 0 to 15 of keys,
    // lanes 16 to 31 of values.
    constexpr int TOGETHER = 32 / PIECES, TURNS = KEYS * PIECES / THREADS;
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    auto key_of = [&](int number) { return number / TOGETHER * (WARPS * TOGETHER) + warp * TOGETHER + number % TOGETHER; };
    const int mine = key_of(lane % 16), position = block * KEYS + mine;
    // Null: fill with zeros.
    const unsigned char *row = nullptr;
    float factor = 0.0f;
    if (position >= first_visible(job.first_position, args.window) && position <= job.last_key) {
        const int token = position % args.pages.page_tokens;
        const unsigned char *layer = args.pages.layer_of(job.table[position / args.pages.page_tokens]);
        row = layer + args.pages.row_offset(lane >= 16, job.kv_head, token);
        if (sizeof(Element) == 1) {
            factor = *reinterpret_cast<const float *>(layer + args.pages.scale_offset(lane >= 16, job.kv_head, token));
        }
    }
    if (sizeof(Element) == 1 && BRING_KEYS) {
        factors[lane / 16 * KEYS + mine] = factor;
    }
    const int piece = lane % PIECES;
#pragma unroll 4
    for (int turn = 0; turn < TURNS; turn++) {
        const int number = turn * TOGETHER + lane / PIECES, key = key_of(number);
#pragma unroll
        for (int which = BRING_KEYS ? 0 : 1; which < (BRING_VALUES ? 2 : 1); which++) {
            const uint64_t of_key = shuffle(reinterpret_cast<uint64_t>(row), uint32_t(which * 16 + number));
            const bool real = of_key != 0 && start + piece * 8 < (which ? args.pages.v_dim : args.pages.k_dim);
            unsigned char *to = which ? values + key * ROW<DIM> + value_place(key, piece) * 16
                                      : keys + key * ROW<DIM> + key_place(key, piece) * 16;
            const unsigned char *from = args.pages.start;
            if (real) {
                from = reinterpret_cast<const unsigned char *>(of_key) + (start + piece * 8) * int(sizeof(Element));
            }
            if constexpr (sizeof(Element) == 2) {
                copy_async(to, from, real);
            } else {
                store4(to, real ? widen(load2(from)) : Words4{});
            }
        }
    }
}

__device__ __forceinline__ void clear_scores(float (&scores)[8][4]) {
#pragma unroll
    for (int n = 0; n < 8; n++) {
        scores[n][0] = scores[n][1] = scores[n][2] = scores[n][3] = 0.0f;
    }
}

// Adds the products of a warp's 16 queries with 64 keys: scores[n] has keys 8n + 2t, 8n + 2t + 1 of queries g (0, 1) and g + 8 (2,
// 3).
template <int DIM>
__device__ __forceinline__ void add_scores(float (&scores)[8][4], const unsigned char *queries, const unsigned char *keys,
                                           int g, int t) {
#pragma unroll
    for (int block = 0; block < DIM / 32; block++) {
        const Words4 low = load4(queries + g * ROW<DIM> + key_place(g, block * 4 + t) * 16);
        const Words4 high = load4(queries + (g + 8) * ROW<DIM> + key_place(g, block * 4 + t) * 16);
        const uint32_t first[4] = {low.w[0], high.w[0], low.w[1], high.w[1]};
        const uint32_t second[4] = {low.w[2], high.w[2], low.w[3], high.w[3]};
#pragma unroll
        for (int n = 0; n < 8; n++) {
            const Words4 key = load4(keys + (8 * n + g) * ROW<DIM> + key_place(g, block * 4 + t) * 16);
            mma(scores[n], first, key.w[0], key.w[1]);
            mma(scores[n], second, key.w[2], key.w[3]);
        }
    }
}

// tanh with an error of about 1e-7; +-infinity gives +-1.
__device__ __forceinline__ float tanh_fast(float x) { return 1.0f - 2.0f / (exp2_fast(x * (2.0f * LOG2_E)) + 1.0f); }

// Applies the soft cap and converts to units of log2.
__device__ __forceinline__ void cap_scores(float (&scores)[8][4], float cap) {
    const float inverse = 1.0f / cap;
#pragma unroll
    for (int n = 0; n < 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            scores[n][i] = tanh_fast(scores[n][i] * inverse) * (cap * LOG2_E);
        }
    }
}

// What 64 keys do to the maxima of two queries.
struct Maxima {
    float highest[2];
    // The factors of what was added before.
    float kept[2];
    // Subtracted from scores before the exponential.
    float base[2];
};

// Scales, caps and masks the scores of 64 keys. `positions` are those of queries g and g + 8, `maximum` their largest scores so far.
template <bool FACTORS>
__device__ __forceinline__ Maxima mask_scores(float (&scores)[8][4], const float (&maximum)[2], const Attention &args,
                                              const Job &job, const int (&positions)[2], int block,
                                              const float *factors, int lane) {
    const int t = lane % 4;
    // With a cap, the scores are converted to units of log2 after it.
    const float scale = args.soft_cap > 0.0f ? args.scale : args.scale * LOG2_E;
#pragma unroll
    for (int n = 0; n < 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            scores[n][i] *= scale;
            if (FACTORS) {
                scores[n][i] *= factors[8 * n + 2 * t + i % 2];
            }
        }
    }
    if (args.soft_cap > 0.0f) {
        cap_scores(scores, args.soft_cap);
    }
    Maxima to;
    to.highest[0] = maximum[0];
    to.highest[1] = maximum[1];
    const int begin[2] = {first_visible(positions[0], args.window), first_visible(positions[1], args.window)};
    const int last[2] = {last_visible(args, positions[0], job.end), last_visible(args, positions[1], job.end)};
#pragma unroll
    for (int n = 0; n < 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int key = block * KEYS + 8 * n + 2 * t + i % 2;
            const float s = key >= begin[i / 2] && key <= last[i / 2] ? scores[n][i] : -INFINITY;
            scores[n][i] = s;
            to.highest[i / 2] = fmaxf(to.highest[i / 2], s);
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        to.highest[i] = fmaxf(to.highest[i], shuffle_xor(to.highest[i], 1));
        to.highest[i] = fmaxf(to.highest[i], shuffle_xor(to.highest[i], 2));
        to.kept[i] = weight_of(maximum[i], to.highest[i]);
        // If nothing is visible yet, every weight is 2^-inf = 0.
        to.base[i] = to.highest[i] == -INFINITY ? 0.0f : to.highest[i];
    }
    return to;
}

// Adds 64 keys to the online softmax by their masked scores. `damaged` has a bit for each key with replaced values. The values in
// shared memory begin at element `start`, the warp's columns of them at `first`.
template <int DIM, int WIDTH, bool FACTORS>
__device__ __forceinline__ void take(Running<WIDTH> &state, const float (&scores)[8][4], const Maxima &maxima,
                                     const Attention &args, const Job &job, const int (&positions)[2], int block,
                                     const unsigned char *values, const float *factors, uint64_t damaged, int start,
                                     int first, int lane) {
    const int t = lane % 4;
    const float(&kept)[2] = maxima.kept, (&base)[2] = maxima.base;
    state.maximum[0] = maxima.highest[0];
    state.maximum[1] = maxima.highest[1];
    // If nothing was added before, `kept` is 0, and so are the sums.
#pragma unroll
    for (int i = 0; i < WIDTH / 8; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            state.out[i][j] *= kept[j / 2];
        }
    }
    if (damaged) {
        add_damaged<DIM, WIDTH, FACTORS>(state, scores, base, args, job, positions, block, values, damaged, start,
                                         first, lane);
    }
    float sums[4] = {state.sum[0] * kept[0], 0.0f, state.sum[1] * kept[1], 0.0f};
#pragma unroll
    for (int pair = 0; pair < 4; pair++) {
        // Keys 16 * pair ...: the accumulator fragment of the scores has the layout of the weights' operand fragment.
        uint32_t weights[4], factored[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int n = 2 * pair + i / 2, query = i % 2, column = 8 * n + 2 * t;
            const float a = exp2_fast(scores[n][2 * query] - base[query]);
            const float b = exp2_fast(scores[n][2 * query + 1] - base[query]);
            weights[i] = pack_bf16(a, b);
            factored[i] = FACTORS ? pack_bf16(a * factors[KEYS + column], b * factors[KEYS + column + 1]) : weights[i];
        }
        // The sum of the rounded weights, computed as a product with ones.
        mma(sums, weights, 0x3F803F80u, 0x3F803F80u);
#pragma unroll
        for (int d = 0; d < WIDTH / 16; d++) {
            uint32_t v[4];
            // The four matrices: keys 0-7 and 8-15 of values 16d ..., then of values 16d + 8 ...
            const int key = 16 * pair + lane % 16, piece = first / 8 + 2 * d + lane / 16;
            load_transposed(v, values + key * ROW<DIM> + value_place(key, piece) * 16);
            mma(state.out[2 * d], factored, v[0], v[1]);
            mma(state.out[2 * d + 1], factored, v[2], v[3]);
        }
    }
    state.sum[0] = sums[0];
    state.sum[1] = sums[2];
}

// The merged results of all spans so far: maximum and sum in registers, values in this warp's part of shared memory.
template <int WIDTH> struct Total {
    float maximum[2], sum[2];
    // [WIDTH / 8 * 4][32 lanes].
    float *values;

    // Merges a span's result, as attention_merge does.
    __device__ __forceinline__ void add(const Running<WIDTH> &span, int lane) {
        float old[2], fresh[2];
        bool take[2], first[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            // Tested by the sum, which is 0 only if no key was added; the maximum would not show scores that are NaN.
            take[i] = span.sum[i] != 0.0f;
            first[i] = sum[i] == 0.0f;
            const float highest = fmaxf(maximum[i], span.maximum[i]);
            old[i] = weight_of(maximum[i], highest);
            fresh[i] = weight_of(span.maximum[i], highest);
            if (take[i]) {
                sum[i] = first[i] ? span.sum[i] : merged(sum[i], old[i], span.sum[i], fresh[i]);
                maximum[i] = highest;
            }
        }
#pragma unroll
        for (int i = 0; i < WIDTH / 8 * 4; i++) {
            const int query = i % 4 / 2;
            const float value = span.out[i / 4][i % 4];
            float *place = values + i * 32 + lane;
            if (take[query]) {
                *place = first[query] ? value : merged(*place, old[query], value, fresh[query]);
            }
        }
    }
};

// Layout of shared memory: queries; the stages of keys and values, with scale factors for 8-bit pages; totals. Two
// blocks of attention_bf16_128x64 just fit a multiprocessor with 228 KiB.
template <class Element, int DIM, int COUNT> struct Shared {
    static constexpr int QUERIES = COUNT * DIM * 2;
    static constexpr int TILE = KEYS * DIM * 2;
    static constexpr int STAGE = 2 * TILE + (sizeof(Element) == 1 ? 2 * KEYS * 4 : 0);
    static constexpr int TOTALS = COUNT * DIM * 4;
};

// The same for heads that go through shared memory in parts of 256 elements, 16 queries per block: one stage for one part. Keys may
// be wider than values.
template <class Element, int K_DIM, int V_DIM> struct SharedWide {
    static constexpr int QUERIES = 16 * K_DIM * 2;
    static constexpr int TILE = KEYS * 256 * 2;
    static constexpr int STAGE = TILE + (sizeof(Element) == 1 ? 2 * KEYS * 4 : 0);
    static constexpr int TOTALS = 16 * V_DIM * 4;
};

// Copies the block's queries to shared memory, rounded to bf16; zeros after the last query and beyond the heads' width. Of wider
// heads, DIM elements from `start` on.
template <int DIM, int COUNT>
__device__ __forceinline__ void bring_queries(const Attention &args, const Job &job, unsigned char *to, int start = 0) {
    constexpr int PAIRS = DIM / 2;
    for (int i = int(threadIdx.x); i < COUNT * PAIRS; i += THREADS) {
        const int query = i / PAIRS, d = i % PAIRS * 2, number = job.first_query + query;
        float pair[2] = {0.0f, 0.0f};
        if (number < job.queries && start + d < args.pages.k_dim) {
            const int64_t row = job.first_row + number / job.group, head = job.kv_head * job.group + number % job.group;
            const float *from = args.q + row * args.q_row_stride + head * args.q_head_stride + start + d;
            pair[0] = from[0];
            pair[1] = from[1];
        }
        const int place = query * ROW<DIM> + key_place(query, d / 8) * 16 + d % 8 * 2;
        *reinterpret_cast<uint32_t *>(to + place) = pack_bf16(pair[0], pair[1]);
    }
}

// Writes a span's result for attention_merge. `query` is the warp's first.
template <int WIDTH>
__device__ __forceinline__ void put_part(const Running<WIDTH> &state, const Attention &args, const Job &job, int span,
                                         int query, int first, int lane) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int number = query + lane / 4 + 8 * i;
        if (number >= job.queries) {
            continue;
        }
        const int64_t row = job.first_row + number / job.group, head = job.kv_head * job.group + number % job.group;
        float *part = args.parts + ((row * args.heads + head) * args.spans_max + span) * (2 + args.pages.v_dim);
        if (first == 0 && lane % 4 == 0) {
            part[0] = state.maximum[i];
            part[1] = state.sum[i];
        }
#pragma unroll
        for (int d = 0; d < WIDTH / 8; d++) {
            const int at = first + 8 * d + 2 * (lane % 4);
            if (at < args.pages.v_dim) {
                part[2 + at] = state.out[d][2 * i];
                part[3 + at] = state.out[d][2 * i + 1];
            }
        }
    }
}

// Zeroes the padding of a row of `rounded`, after its last head; `first` and `step` divide it among threads.
__device__ __forceinline__ void put_zeros(const Attention &args, int64_t row, int first, int step) {
    for (int i = args.heads * args.pages.v_dim + first; i < args.rounded_pitch; i += step) {
        args.rounded[row * args.rounded_pitch + i] = bf16(0);
    }
}

template <int WIDTH>
__device__ __forceinline__ void put_total(const Total<WIDTH> &total, const Attention &args, const Job &job, int query,
                                          int first, int lane) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int number = query + lane / 4 + 8 * i;
        if (number >= job.queries) {
            continue;
        }
        const int64_t row = job.first_row + number / job.group, head = job.kv_head * job.group + number % job.group;
        const int64_t in_row = head * args.pages.v_dim, start = row * args.heads * args.pages.v_dim + in_row;
        const float factor = final_factor(args, head, total.maximum[i], total.sum[i]);
        for (int d = 0; d < WIDTH / 8; d++) {
            const int at = first + 8 * d + 2 * (lane % 4);
            if (at < args.pages.v_dim) {
                // If no key was added, what is in shared memory is not a value.
                const bool none = total.sum[i] == 0.0f;
                const float low = (none ? 0.0f : total.values[(4 * d + 2 * i) * 32 + lane]) * factor;
                const float high = (none ? 0.0f : total.values[(4 * d + 2 * i + 1) * 32 + lane]) * factor;
                if (args.out) {
                    args.out[start + at] = low;
                    args.out[start + at + 1] = high;
                }
                if (args.rounded) {
                    bf16 *to = args.rounded + row * args.rounded_pitch + in_row + at;
                    *reinterpret_cast<uint32_t *>(to) = pack_bf16(low, high);
                }
            }
        }
        if (args.rounded && first == 0 && head == args.heads - 1) {
            put_zeros(args, row, lane % 4, 4);
        }
    }
}
