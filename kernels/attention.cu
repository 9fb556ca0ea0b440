// Causal attention of ragged rows over paged keys and values.
//
// **Law 1 (batch invariance).** Keys are processed in blocks of 64 from position 0, and blocks in spans of SPAN_BLOCKS.
// Within a span an online softmax runs from block to block; the spans' results are merged in ascending order. A warp
// always has 16 queries, each a row of its matrix operations, so a query's bits do not depend on the other queries.
// They do not depend either on whether one thread block processes all its spans (prefill) or one per span (decode, then
// attention_merge), because the same functions do the arithmetic; nor on how many warps share the 16 queries, because
// each computes all their scores and its own columns of the values.
//
// The queries of a unit (adjacent rows of one sequence) are numbered row by row: query i is head i % group of row i /
// group, where `group` heads share a KV head. So heads fill the matrix fragments when there are few rows.
//
// Values that are not finite reach the queries that see them alone: nonfinite.cuh.
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
// copied to `factors`: [64 of keys][64 of values].
template <class Element, int DIM>
__device__ __forceinline__ void bring(const Attention &args, const Job &job, int block, unsigned char *keys,
                                      unsigned char *values, float *factors) {
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
    if (position >= first_visible(job.first_position, args.window) && position <= job.last_position) {
        const int token = position % args.pages.page_tokens;
        const unsigned char *layer = args.pages.layer_of(job.table[position / args.pages.page_tokens]);
        row = layer + args.pages.row_offset(lane >= 16, job.kv_head, token);
        if (sizeof(Element) == 1) {
            factor = *reinterpret_cast<const float *>(layer + args.pages.scale_offset(lane >= 16, job.kv_head, token));
        }
    }
    if (sizeof(Element) == 1) {
        factors[lane / 16 * KEYS + mine] = factor;
    }
    const int piece = lane % PIECES;
#pragma unroll 4
    for (int turn = 0; turn < TURNS; turn++) {
        const int number = turn * TOGETHER + lane / PIECES, key = key_of(number);
#pragma unroll
        for (int which = 0; which < 2; which++) {
            const uint64_t start = shuffle(reinterpret_cast<uint64_t>(row), uint32_t(which * 16 + number));
            const bool real = start != 0 && piece * 8 < (which ? args.pages.v_dim : args.pages.k_dim);
            unsigned char *to = which ? values + key * ROW<DIM> + value_place(key, piece) * 16
                                      : keys + key * ROW<DIM> + key_place(key, piece) * 16;
            const unsigned char *from = args.pages.start;
            if (real) {
                from = reinterpret_cast<const unsigned char *>(start) + piece * 8 * int(sizeof(Element));
            }
            if constexpr (sizeof(Element) == 2) {
                copy_async(to, from, real);
            } else {
                store4(to, real ? widen(load2(from)) : Words4{});
            }
        }
    }
}

// Scores of a warp's 16 queries for 64 keys: scores[n] has keys 8n + 2t, 8n + 2t + 1 of queries g (0, 1) and g + 8 (2,
// 3).
template <int DIM>
__device__ __forceinline__ void score(float (&scores)[8][4], const unsigned char *queries, const unsigned char *keys, int g,
                                      int t) {
#pragma unroll
    for (int n = 0; n < 8; n++) {
        scores[n][0] = scores[n][1] = scores[n][2] = scores[n][3] = 0.0f;
    }
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

// Adds 64 keys to the online softmax. `positions` are those of queries g and g + 8; `damaged` has a bit for each key
// with replaced values. The warp's columns of the values begin at `first`.
template <int DIM, int WIDTH, bool FACTORS>
__device__ __forceinline__ void take(Running<WIDTH> &state, float (&scores)[8][4], const Attention &args, const Job &job,
                                     const int (&positions)[2], int block, const unsigned char *values,
                                     const float *factors, uint64_t damaged, int first, int lane) {
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
    float highest[2] = {state.maximum[0], state.maximum[1]};
    const int begin[2] = {first_visible(positions[0], args.window), first_visible(positions[1], args.window)};
#pragma unroll
    for (int n = 0; n < 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int key = block * KEYS + 8 * n + 2 * t + i % 2;
            const float s = key >= begin[i / 2] && key <= positions[i / 2] ? scores[n][i] : -INFINITY;
            scores[n][i] = s;
            highest[i / 2] = fmaxf(highest[i / 2], s);
        }
    }
    float kept[2], base[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        highest[i] = fmaxf(highest[i], shuffle_xor(highest[i], 1));
        highest[i] = fmaxf(highest[i], shuffle_xor(highest[i], 2));
        kept[i] = weight_of(state.maximum[i], highest[i]);
        state.maximum[i] = highest[i];
        // If nothing is visible yet, every weight is 2^-inf = 0.
        base[i] = highest[i] == -INFINITY ? 0.0f : highest[i];
    }
    // If nothing was added before, `kept` is 0, and so are the sums.
#pragma unroll
    for (int i = 0; i < WIDTH / 8; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            state.out[i][j] *= kept[j / 2];
        }
    }
    if (damaged) {
        add_damaged<DIM, WIDTH, FACTORS>(state, scores, base, args, job, positions, block, values, damaged, first, lane);
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

// Copies the block's queries to shared memory, rounded to bf16; zeros after the last query and beyond the heads' width.
template <int DIM, int COUNT>
__device__ __forceinline__ void bring_queries(const Attention &args, const Job &job, unsigned char *to) {
    constexpr int PAIRS = DIM / 2;
    for (int i = int(threadIdx.x); i < COUNT * PAIRS; i += THREADS) {
        const int query = i / PAIRS, d = i % PAIRS * 2, number = job.first_query + query;
        float pair[2] = {0.0f, 0.0f};
        if (number < job.queries && d < args.pages.k_dim) {
            const int64_t row = job.first_row + number / job.group, head = job.kv_head * job.group + number % job.group;
            const float *from = args.q + row * args.q_row_stride + head * args.q_head_stride + d;
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
        const float inverse = 1.0f / total.sum[i];
        for (int d = 0; d < WIDTH / 8; d++) {
            const int at = first + 8 * d + 2 * (lane % 4);
            if (at < args.pages.v_dim) {
                // If no key was added, the result is NaN, as in attention_merge.
                const bool none = total.sum[i] == 0.0f;
                const float low = (none ? 0.0f : total.values[(4 * d + 2 * i) * 32 + lane]) * inverse;
                const float high = (none ? 0.0f : total.values[(4 * d + 2 * i + 1) * 32 + lane]) * inverse;
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

// The key blocks of a job; `end` is excluded.
struct Range {
    int begin, end;
};

template <class Element, int DIM, int COUNT, int STAGES> __device__ __forceinline__ void attend(const Attention &args) {
    using Memory = Shared<Element, DIM, COUNT>;
    // The number of warps that share 16 queries, and the values of each.
    constexpr int SHARERS = WARPS * 16 / COUNT, WIDTH = DIM / SHARERS;
    const Unit unit = args.units[blockIdx.x];
    Job job;
    job.kv_head = int(blockIdx.y) % args.pages.kv_heads;
    job.group = args.heads / args.pages.kv_heads;
    job.first_row = unit.first_row;
    job.queries = unit.rows * job.group;
    job.first_query = int(blockIdx.y) / args.pages.kv_heads * COUNT;
    if (job.first_query >= job.queries) {
        return;
    }
    const int unit_position = int(args.positions[unit.first_row]);
    const int last = min_of(job.first_query + COUNT, job.queries) - 1;
    job.first_position = unit_position + job.first_query / job.group;
    job.last_position = unit_position + last / job.group;
    job.table = args.tables + args.table_starts[args.sequences[unit.first_row]];
    Range range = {first_visible(job.first_position, args.window) / KEYS, job.last_position / KEYS + 1};
    const bool split = args.parts != nullptr;
    if (split) {
        range.begin = max_of(range.begin, int(blockIdx.z) * SPAN_BLOCKS);
        range.end = min_of(range.end, (int(blockIdx.z) + 1) * SPAN_BLOCKS);
        if (range.begin >= range.end) {
            return;
        }
    }
    unsigned char *shared = dynamic_shared();
    unsigned char *stages = shared + Memory::QUERIES;
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, g = lane / 4;
    auto start = [&](int block) {
        if (block < range.end) {
            unsigned char *stage = stages + block % STAGES * Memory::STAGE;
            // Used for 8-bit pages only.
            float *factors = reinterpret_cast<float *>(stage + 2 * Memory::TILE);
            bring<Element, DIM>(args, job, block, stage, stage + Memory::TILE, factors);
        }
        copy_commit();
    };
    // For each key the number + 1 of the last block in which its values were replaced; 0: none.
    __shared__ int damaged_in[KEYS];
    for (int i = int(threadIdx.x); i < KEYS; i += THREADS) {
        damaged_in[i] = 0;
    }
    start(range.begin);
    bring_queries<DIM, COUNT>(args, job, shared);
    const int queries = warp / SHARERS * 16, first = warp % SHARERS * WIDTH, query = job.first_query + queries + g;
    // Queries after the last have the last one's position; their results are not written.
    const int positions[2] = {unit_position + min_of(query, job.queries - 1) / job.group,
                              unit_position + min_of(query + 8, job.queries - 1) / job.group};
    Running<WIDTH> state;
    state.clear();
    Total<WIDTH> total;
    total.maximum[0] = total.maximum[1] = -INFINITY;
    total.sum[0] = total.sum[1] = 0.0f;
    total.values = reinterpret_cast<float *>(stages + STAGES * Memory::STAGE) + warp * 16 * WIDTH;
    for (int block = range.begin; block < range.end; block++) {
        // With one stage, copying starts only when all threads have finished with it.
        if (STAGES > 1) {
            start(block + 1);
        } else if (block > range.begin) {
            start(block);
        }
        copy_wait<STAGES - 1>();
        block_barrier();
        unsigned char *stage = stages + block % STAGES * Memory::STAGE;
        float *factors = reinterpret_cast<float *>(stage + 2 * Memory::TILE);
        uint64_t damaged = 0;
        if (seen_by_some(args, job, block)) {
            replace_damaged<Element, DIM>(stage + Memory::TILE, factors, damaged_in, block);
            block_barrier();
            damaged = damaged_keys(damaged_in, block, lane);
        }
        float scores[8][4];
        score<DIM>(scores, shared + queries * ROW<DIM>, stage, g, lane % 4);
        take<DIM, WIDTH, sizeof(Element) == 1>(state, scores, args, job, positions, block, stage + Memory::TILE, factors,
                                               damaged, first, lane);
        if (!split && ((block + 1) % SPAN_BLOCKS == 0 || block + 1 == range.end)) {
            total.add(state, lane);
            state.clear();
        }
        // The stage is overwritten in the next iteration.
        block_barrier();
    }
    if (split) {
        put_part(state, args, job, int(blockIdx.z), job.first_query + queries, first, lane);
    } else {
        put_total(total, args, job, job.first_query + queries, first, lane);
    }
}

// attention_<pages>_<dim>x<queries>: heads of up to <dim> elements, <queries> queries per block. Block: 128; grid:
// (units, kv_heads * (rows of the longest unit * group / <queries> rounded up), spans when split or 1); shared memory:
// QUERIES + stages * STAGE of `Shared`, and TOTALS unless split. There are two stages, but only one for 256x16, so that
// it fits on devices with 99 KiB per block.
#define ATTENTION(name, element, dim, queries, stages)                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS) name(const __grid_constant__ Attention args) {              \
        attend<element, dim, queries, stages>(args);                                                                    \
    }                                                                                                                  \
    ENTRY(name)

ATTENTION(attention_bf16_64x16, bf16, 64, 16, 2)
ATTENTION(attention_bf16_64x64, bf16, 64, 64, 2)
ATTENTION(attention_bf16_128x16, bf16, 128, 16, 2)
ATTENTION(attention_bf16_128x64, bf16, 128, 64, 2)
ATTENTION(attention_bf16_256x16, bf16, 256, 16, 1)
ATTENTION(attention_bf16_256x64, bf16, 256, 64, 2)
ATTENTION(attention_i8_64x16, int8_t, 64, 16, 2)
ATTENTION(attention_i8_64x64, int8_t, 64, 64, 2)
ATTENTION(attention_i8_128x16, int8_t, 128, 16, 2)
ATTENTION(attention_i8_128x64, int8_t, 128, 64, 2)
ATTENTION(attention_i8_256x16, int8_t, 256, 16, 1)
ATTENTION(attention_i8_256x64, int8_t, 256, 64, 2)

__device__ __forceinline__ void put_one(const Attention &args, int64_t row, int64_t head, int d, float value) {
    const int64_t at = head * args.pages.v_dim + d;
    if (args.out) {
        args.out[row * args.heads * args.pages.v_dim + at] = value;
    }
    if (args.rounded) {
        args.rounded[row * args.rounded_pitch + at] = to_bf16(value);
    }
}

// Merges the spans of each row and head of the units. Block: 128; grid: (units, rows of the longest unit, heads).
extern "C" __global__ void __launch_bounds__(128) attention_merge(const __grid_constant__ Attention args) {
    const Unit unit = args.units[blockIdx.x];
    if (int(blockIdx.y) >= unit.rows) {
        return;
    }
    const int64_t row = unit.first_row + int(blockIdx.y), head = blockIdx.z;
    const int position = int(args.positions[row]), v_dim = args.pages.v_dim;
    const int begin = first_visible(position, args.window) / KEYS / SPAN_BLOCKS;
    const int end = position / KEYS / SPAN_BLOCKS + 1;
    const float *parts = args.parts + (row * args.heads + head) * args.spans_max * (2 + v_dim);
    // Spans loaded together, to overlap the memory latencies.
    constexpr int AT_ONCE = 8;
    for (int d = int(threadIdx.x); d < v_dim; d += 128) {
        float maximum = -INFINITY, sum = 0.0f, value = 0.0f;
        for (int first = begin; first < end; first += AT_ONCE) {
            float maxima[AT_ONCE], sums[AT_ONCE], values[AT_ONCE];
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const bool there = first + i < end;
                const float *part = parts + int64_t(there ? first + i : begin) * (2 + v_dim);
                maxima[i] = part[0];
                sums[i] = there ? part[1] : 0.0f;
                values[i] = part[2 + d];
            }
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                if (sums[i] == 0.0f) {
                    continue;
                }
                const float highest = fmaxf(maximum, maxima[i]);
                const float old = weight_of(maximum, highest), fresh = weight_of(maxima[i], highest);
                value = sum == 0.0f ? values[i] : merged(value, old, values[i], fresh);
                sum = sum == 0.0f ? sums[i] : merged(sum, old, sums[i], fresh);
                maximum = highest;
            }
        }
        put_one(args, row, head, d, value * (1.0f / sum));
    }
    if (args.rounded && head == args.heads - 1) {
        put_zeros(args, row, int(threadIdx.x), 128);
    }
}

ENTRY(attention_merge)

// Attention over f32 pages, for comparisons with other implementations: a block processes one head of one row, 64 keys
// at a time; thread i has key i, then values i, i + 128 ... Block: 128; grid: (rows, heads); shared memory: (64 +
// v_dim) * 4.
extern "C" __global__ void __launch_bounds__(128) attention_f32(const __grid_constant__ Attention args) {
    float *weights = reinterpret_cast<float *>(dynamic_shared()), *values = weights + KEYS;
    const int64_t row = blockIdx.x, head = blockIdx.y;
    const int kv_head = int(head) / (args.heads / args.pages.kv_heads), position = int(args.positions[row]);
    const int begin = first_visible(position, args.window), v_dim = args.pages.v_dim;
    const uint32_t *table = args.tables + args.table_starts[args.sequences[row]];
    const float *q = args.q + row * args.q_row_stride + head * args.q_head_stride;
    float maximum = -INFINITY, sum = 0.0f;
    for (int d = int(threadIdx.x); d < v_dim; d += 128) {
        values[d] = 0.0f;
    }
    auto row_of = [&](bool value, int key) {
        const unsigned char *layer = args.pages.layer_of(table[key / args.pages.page_tokens]);
        return reinterpret_cast<const float *>(layer + args.pages.row_offset(value, kv_head, key % args.pages.page_tokens));
    };
    for (int block = begin / KEYS; block <= position / KEYS; block++) {
        const int mine = block * KEYS + int(threadIdx.x);
        if (threadIdx.x < KEYS) {
            float s = -INFINITY;
            if (mine >= begin && mine <= position) {
                const float *key = row_of(false, mine);
                s = 0.0f;
                for (int d = 0; d < args.pages.k_dim; d++) {
                    s = fmaf(q[d], key[d], s);
                }
                s *= args.scale;
                if (args.soft_cap > 0.0f) {
                    s = args.soft_cap * tanhf(s / args.soft_cap);
                }
            }
            weights[threadIdx.x] = s;
        }
        block_barrier();
        float highest = maximum;
        for (int i = 0; i < KEYS; i++) {
            highest = fmaxf(highest, weights[i]);
        }
        // All threads have read the scores before they are replaced by weights.
        block_barrier();
        if (threadIdx.x < KEYS) {
            weights[threadIdx.x] = expf(weights[threadIdx.x] - highest);
        }
        block_barrier();
        const float kept = maximum == -INFINITY ? 0.0f : expf(maximum - highest);
        float added = 0.0f;
        for (int i = 0; i < KEYS; i++) {
            added += weights[i];
        }
        sum = fmaf(sum, kept, added);
        maximum = highest;
        const int from = max_of(begin, block * KEYS), to = min_of(position + 1, (block + 1) * KEYS);
        for (int d = int(threadIdx.x); d < v_dim; d += 128) {
            float value = values[d] * kept;
            for (int key = from; key < to; key++) {
                value = fmaf(weights[key - block * KEYS], row_of(true, key)[d], value);
            }
            values[d] = value;
        }
        block_barrier();
    }
    for (int d = int(threadIdx.x); d < v_dim; d += 128) {
        put_one(args, row, head, d, values[d] / sum);
    }
    if (args.rounded && head == args.heads - 1) {
        put_zeros(args, row, int(threadIdx.x), 128);
    }
}

ENTRY(attention_f32)
