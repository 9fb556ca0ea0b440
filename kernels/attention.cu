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
#include "attention_tile.cuh"

// The key blocks of a job; `end` is excluded.
struct Range {
    int begin, end;
};

// Finds the work of a block of COUNT queries; false if there is none.
template <int COUNT> __device__ __forceinline__ bool find_job(const Attention &args, Job &job, Range &range) {
    const Unit unit = args.units[blockIdx.x];
    job.kv_head = int(blockIdx.y) % args.pages.kv_heads;
    job.group = args.heads / args.pages.kv_heads;
    job.first_row = unit.first_row;
    job.queries = unit.rows * job.group;
    job.first_query = int(blockIdx.y) / args.pages.kv_heads * COUNT;
    if (job.first_query >= job.queries) {
        return false;
    }
    job.unit_position = int(args.positions[unit.first_row]);
    const int last = min_of(job.first_query + COUNT, job.queries) - 1;
    job.first_position = job.position_of(job.first_query);
    job.last_position = job.position_of(last);
    job.table = args.tables + args.table_starts[args.sequences[unit.first_row]];
    job.end = args.rows ? end_of(args, unit.first_row) : job.last_position;
    job.last_key = last_visible(args, job.last_position, job.end);
    range = {first_visible(job.first_position, args.window) / KEYS, job.last_key / KEYS + 1};
    if (args.parts) {
        range.begin = max_of(range.begin, int(blockIdx.z) * SPAN_BLOCKS);
        range.end = min_of(range.end, (int(blockIdx.z) + 1) * SPAN_BLOCKS);
    }
    return range.begin < range.end;
}

template <class Element, int DIM, int COUNT, int STAGES> __device__ __forceinline__ void attend(const Attention &args) {
    using Memory = Shared<Element, DIM, COUNT>;
    // The number of warps that share 16 queries, and the values of each.
    constexpr int SHARERS = WARPS * 16 / COUNT, WIDTH = DIM / SHARERS;
    Job job;
    Range range;
    if (!find_job<COUNT>(args, job, range)) {
        return;
    }
    const bool split = args.parts != nullptr;
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
    const int positions[2] = {job.position_of(query), job.position_of(query + 8)};
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
        clear_scores(scores);
        add_scores<DIM>(scores, shared + queries * ROW<DIM>, stage, g, lane % 4);
        constexpr bool FACTORS = sizeof(Element) == 1;
        const Maxima maxima = mask_scores<FACTORS>(scores, state.maximum, args, job, positions, block, factors, lane);
        take<DIM, WIDTH, FACTORS>(state, scores, maxima, args, job, positions, block, stage + Memory::TILE, factors, damaged,
                                  0, first, lane);
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

// Heads of more than 256 elements: keys and values go through shared memory PART elements at a time, one part after the other in the
// same place, and a state has the sums of one part. Keys may have REST elements more than whole parts.
template <class Element, int K_DIM, int V_DIM> __device__ __forceinline__ void attend_wide(const Attention &args) {
    constexpr int PART = 256, PARTS = V_DIM / PART, COUNT = 16, WIDTH = PART / WARPS;
    constexpr int KEY_PARTS = K_DIM / PART, REST = K_DIM % PART;
    constexpr bool FACTORS = sizeof(Element) == 1;
    using Memory = SharedWide<Element, K_DIM, V_DIM>;
    Job job;
    Range range;
    if (!find_job<COUNT>(args, job, range)) {
        return;
    }
    unsigned char *shared = dynamic_shared(), *stage = shared + Memory::QUERIES;
    float *factors = reinterpret_cast<float *>(stage + Memory::TILE);
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, g = lane / 4, first = warp * WIDTH;
    __shared__ int damaged_in[KEYS];
    for (int i = int(threadIdx.x); i < KEYS; i += THREADS) {
        damaged_in[i] = 0;
    }
#pragma unroll
    for (int part = 0; part < KEY_PARTS; part++) {
        bring_queries<PART, COUNT>(args, job, shared + part * COUNT * ROW<PART>, part * PART);
    }
    if constexpr (REST > 0) {
        bring_queries<REST, COUNT>(args, job, shared + KEY_PARTS * COUNT * ROW<PART>, KEY_PARTS * PART);
    }
    const int positions[2] = {job.position_of(job.first_query + g), job.position_of(job.first_query + g + 8)};
    Running<WIDTH> states[PARTS];
    Total<WIDTH> totals[PARTS];
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        states[part].clear();
        totals[part].maximum[0] = totals[part].maximum[1] = -INFINITY;
        totals[part].sum[0] = totals[part].sum[1] = 0.0f;
        totals[part].values = reinterpret_cast<float *>(stage + Memory::STAGE) + (part * WARPS + warp) * 16 * WIDTH;
    }
    auto arrived = [&] {
        copy_commit();
        copy_wait<0>();
        block_barrier();
    };
    for (int block = range.begin; block < range.end; block++) {
        float scores[8][4];
        clear_scores(scores);
#pragma unroll
        for (int part = 0; part < KEY_PARTS; part++) {
            bring<Element, PART, true, false>(args, job, block, stage, nullptr, factors, part * PART);
            arrived();
            add_scores<PART>(scores, shared + part * COUNT * ROW<PART>, stage, g, lane % 4);
            // The next part takes the place of this one.
            block_barrier();
        }
        if constexpr (REST > 0) {
            bring<Element, REST, true, false>(args, job, block, stage, nullptr, factors, KEY_PARTS * PART);
            arrived();
            add_scores<REST>(scores, shared + KEY_PARTS * COUNT * ROW<PART>, stage, g, lane % 4);
            block_barrier();
        }
        const Maxima maxima = mask_scores<FACTORS>(scores, states[0].maximum, args, job, positions, block, factors, lane);
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            bring<Element, PART, false, true>(args, job, block, nullptr, stage, factors, part * PART);
            arrived();
            uint64_t damaged = 0;
            if (seen_by_some(args, job, block)) {
                replace_damaged<Element, PART>(stage, factors, damaged_in, block);
                block_barrier();
                damaged = damaged_keys(damaged_in, block, lane);
            }
            take<PART, WIDTH, FACTORS>(states[part], scores, maxima, args, job, positions, block, stage, factors, damaged,
                                       part * PART, first, lane);
            if (!args.parts && ((block + 1) % SPAN_BLOCKS == 0 || block + 1 == range.end)) {
                totals[part].add(states[part], lane);
                states[part].clear();
            }
            block_barrier();
        }
    }
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        if (args.parts) {
            put_part(states[part], args, job, int(blockIdx.z), job.first_query, part * PART + first, lane);
        } else {
            put_total(totals[part], args, job, job.first_query, part * PART + first, lane);
        }
    }
}

// attention_<pages>_<dim>x<queries>: heads of up to <dim> elements, <queries> queries per block. Block: 128; grid:
// (units, kv_heads * (rows of the longest unit * group / <queries> rounded up), spans when split or 1); shared memory:
// QUERIES + stages * STAGE of `Shared`, and TOTALS unless split. There are two stages, but only one for 256x16, 512x16 and
// 576x16 (`SharedWide`), so that they fit on devices with 99 KiB per block.
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

#define WIDE(name, element, k_dim, v_dim)                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS) name(const __grid_constant__ Attention args) {              \
        attend_wide<element, k_dim, v_dim>(args);                                                                      \
    }                                                                                                                  \
    ENTRY(name)

WIDE(attention_bf16_512x16, bf16, 512, 512)
WIDE(attention_i8_512x16, int8_t, 512, 512)
// Latent attention: keys that are values of up to 512 elements and up to 64 more.
WIDE(attention_bf16_576x16, bf16, 576, 512)
WIDE(attention_i8_576x16, int8_t, 576, 512)

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
        put_one(args, row, head, d, value * final_factor(args, head, maximum, sum));
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
    const int last = last_visible(args, position, args.rows ? end_of(args, int(row)) : position);
    const uint32_t *table = args.tables + args.table_starts[args.sequences[row]];
    const float *q = args.q + row * args.q_row_stride + head * args.q_head_stride;
    float maximum = -INFINITY, sum = 0.0f, kept_of_all = 1.0f;
    for (int d = int(threadIdx.x); d < v_dim; d += 128) {
        values[d] = 0.0f;
    }
    auto row_of = [&](bool value, int key) {
        const unsigned char *layer = args.pages.layer_of(table[key / args.pages.page_tokens]);
        return reinterpret_cast<const float *>(layer + args.pages.row_offset(value, kv_head, key % args.pages.page_tokens));
    };
    for (int block = begin / KEYS; block <= last / KEYS; block++) {
        const int mine = block * KEYS + int(threadIdx.x);
        if (threadIdx.x < KEYS) {
            float s = -INFINITY;
            if (mine >= begin && mine <= last) {
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
        const int from = max_of(begin, block * KEYS), to = min_of(last + 1, (block + 1) * KEYS);
        for (int d = int(threadIdx.x); d < v_dim; d += 128) {
            float value = values[d] * kept;
            for (int key = from; key < to; key++) {
                value = fmaf(weights[key - block * KEYS], row_of(true, key)[d], value);
            }
            values[d] = value;
        }
        block_barrier();
    }
    if (args.sinks) {
        const float sink = args.sinks[head], highest = fmaxf(maximum, sink);
        kept_of_all = maximum == -INFINITY ? 0.0f : expf(maximum - highest);
        sum = fmaf(sum, kept_of_all, expf(sink - highest));
    }
    for (int d = int(threadIdx.x); d < v_dim; d += 128) {
        put_one(args, row, head, d, values[d] * kept_of_all / sum);
    }
    if (args.rounded && head == args.heads - 1) {
        put_zeros(args, row, int(threadIdx.x), 128);
    }
}

ENTRY(attention_f32)
