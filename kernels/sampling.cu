// From logits to tokens and log probabilities: all of src/sampling for the rows of a step.
//
// Five launches in this order serve any mix of rows: what a row asks for stands in its SamplingRequest, and a block that has nothing to
// do for its row returns at once. So one recorded sequence of launches serves every step.
//
//   adjust_logits    penalties and bias, in place; the numbers they replace are kept
//   best_in_chunks   the largest of each chunk of a row, as many as the row needs: none where it is drawn from whole
//   best_of_chunks   the largest of the row
//   sample_rows      the token: from the largest, or from the whole row
//   logprob_rows     the numbers that were replaced, put back; log probabilities of the raw logits
//
// The counterparts of src/sampling: math.rs (weights), philox.rs (uniform numbers), select.rs (keys), sampler.rs (order of the
// steps). The same operations in the same order wherever the order matters to the bits: no multiply-add is fused, sums are in
// double precision or exact. A token from the largest is the CPU's token for the same logits. Whole rows are summed in
// another order, and truncated by sums of weights in units of 2^-44, so their token is another one where the drawn number lies
// within the rounding of those sums, about 1e-13, of the border of two tokens, or top-p within about 1e-10 of one.
#include "keys.cuh"

constexpr int THREADS = 256, ROW_THREADS = 512, ROW_WARPS = ROW_THREADS / 32;
// Logits that a block of best_in_chunks looks at.
constexpr int CHUNK = 4096;
// Most results of a search: BEST_LOGITS_MAX of src/limits.rs.
constexpr int BEST_MAX = 64;
// Most log probabilities of a row: TOP_LOGPROBS_MAX.
constexpr int TOPS_MAX = 256;
constexpr uint32_t NO_TOKEN = 0xFFFFFFFFu;

// What is done for a row.
enum Kind { IDLE = 0, SAMPLE = 1, GIVEN = 2 };

// What a row asks for; the numbers as in SamplingParams.
struct SamplingRequest {
    // Of the row's token; one choice, one request.
    uint64_t seed, position;
    // 0: the largest.
    float temperature;
    float top_p, min_p;
    int top_k;
    float repetition_penalty, presence_penalty, frequency_penalty;
    // Most probable ids that are wanted beside the token, up to TOPS_MAX; -1: not even its own log probability.
    int logprobs;
    // The row's entries of `adjustments`.
    int first_adjustment, adjustments;
    // Kind: nothing; a token is sampled; the log probability of `given` is wanted.
    int kind;
    uint32_t given;
};

// A token whose logit penalties or bias change. Those of a row are in ascending order of their tokens; where several have the
// same token, because its biases add up, all but the first give a bias alone.
struct LogitAdjustment {
    uint32_t token;
    // Whether it stands in the prompt.
    uint32_t in_prompt;
    // Times it stands in the output.
    uint32_t outputs;
    // Minus infinity forbids it.
    float bias;
    // Kept by adjust_logits.
    float raw;
};

// All launches of a step.
struct Sampling {
    // [rows, stride], of which `vocab` count.
    float *logits;
    int64_t stride;
    int vocab;
    // Only ids below this may be sampled, ...
    int limit;
    // ... and of these not those with a bit here: [limit / 32 rounded up], or null.
    const uint32_t *holes;
    // [rows]. Null, for a search alone: `count` results of every row.
    const SamplingRequest *requests;
    LogitAdjustment *adjustments;
    // [rows, limit / CHUNK rounded up, count], between best_in_chunks and best_of_chunks.
    uint64_t *keys;
    // [rows, count]: the largest, best first; (minus infinity, NO_TOKEN) where there are fewer. As many as the row needs.
    float *values;
    uint32_t *ids;
    // 1 to BEST_MAX; rows with a larger top-k are drawn from whole.
    int count;
    // Ids in a row of `top_ids`; at least what any row wants.
    int tops;
    // [rows]: NO_TOKEN where nothing may be sampled.
    uint32_t *tokens;
    // [rows], and [rows, tops]: log probabilities of the token and of the most probable ids, best first.
    float *logprobs;
    uint32_t *top_ids;
    float *top_logprobs;
};

__device__ __forceinline__ float value_of(uint64_t key) {
    const uint32_t ordered = uint32_t(key >> 32);
    return bits_to_float(ordered >> 31 ? ordered & 0x7FFFFFFFu : ~ordered);
}

__device__ __forceinline__ bool finite(float x) { return fabsf(x) < INFINITY; }

__device__ __forceinline__ bool is_hole(const uint32_t *holes, int id) { return holes && (holes[id / 32] >> (id % 32) & 1); }

// Top-k as it acts: no more than the row has.
__device__ __forceinline__ int top_k_of(const SamplingRequest &request, int limit) { return request.top_k >= limit ? 0 : request.top_k; }

// How many of a row's largest are all that its token depends on; 0: none or the whole row.
__device__ __forceinline__ int wanted_of(const Sampling &args, int row) {
    if (!args.requests) {
        return args.count;
    }
    const SamplingRequest &request = args.requests[row];
    if (request.kind != SAMPLE) {
        return 0;
    }
    const int top_k = top_k_of(request, args.limit);
    return !(request.temperature > 0.0f) ? 1 : top_k <= args.count ? top_k : 0;
}

// Penalties, then bias. Block: 256; grid: rows.
extern "C" __global__ void __launch_bounds__(256) adjust_logits(const __grid_constant__ Sampling args) {
    const SamplingRequest &request = args.requests[blockIdx.x];
    if (request.kind == IDLE) {
        return;
    }
    float *row = args.logits + int64_t(blockIdx.x) * args.stride;
    LogitAdjustment *entries = args.adjustments + request.first_adjustment;
    for (int i = int(threadIdx.x); i < request.adjustments; i += THREADS) {
        const uint32_t token = entries[i].token;
        if ((i > 0 && entries[i - 1].token == token) || token >= uint32_t(args.vocab)) {
            continue;
        }
        float x = row[token];
        entries[i].raw = x;
        // A number that is not finite is never sampled, whatever is added.
        if (!finite(x)) {
            continue;
        }
        const uint32_t outputs = entries[i].outputs;
        if (entries[i].in_prompt || outputs > 0) {
            x = x > 0.0f ? x / request.repetition_penalty : x * request.repetition_penalty;
            if (outputs > 0) {
                x -= request.frequency_penalty * float(outputs) + request.presence_penalty;
            }
            x = fminf(x, 3.402823466e38f);
        }
        for (int j = i; j < request.adjustments && entries[j].token == token && finite(x); j++) {
            x = fminf(x + entries[j].bias, 3.402823466e38f);
        }
        row[token] = x;
    }
}

// The `count` largest of `n` keys, which are distinct or 0, in descending order to out[count]; zeros where there are fewer.
// Thread i of the block has keys i, i + THREADS ... by `get`. `scratch` is shared memory.
template <class Get>
__device__ __forceinline__ void pick(int n, int count, uint64_t (&scratch)[2][THREADS / 32], uint64_t *out, Get get) {
    uint64_t last = ~uint64_t(0), mine = 0;
    bool taken = true;
    for (int j = 0; j < count; j++) {
        if (taken) {
            mine = 0;
            for (int i = int(threadIdx.x); i < n; i += THREADS) {
                const uint64_t key = get(i);
                mine = key < last && key > mine ? key : mine;
            }
        }
        uint64_t best = warp_max_key(mine);
        // Two places in turns: one barrier is enough.
        if (threadIdx.x % 32 == 0) {
            scratch[j % 2][threadIdx.x / 32] = best;
        }
        block_barrier();
        for (int w = 0; w < THREADS / 32; w++) {
            best = scratch[j % 2][w] > best ? scratch[j % 2][w] : best;
        }
        taken = mine == best && best != 0;
        last = best;
        if (threadIdx.x == 0) {
            out[j] = best;
        }
    }
}

// Of each CHUNK of a row's logits that may be sampled, the largest, as keys, best first; 0 where there are fewer. Block: 256;
// grid: (limit / CHUNK rounded up, rows).
extern "C" __global__ void __launch_bounds__(256) best_in_chunks(const __grid_constant__ Sampling args) {
    __shared__ uint64_t scratch[2][THREADS / 32];
    const int first = int(blockIdx.x) * CHUNK, n = args.limit - first < CHUNK ? args.limit - first : CHUNK;
    const float *row = args.logits + int64_t(blockIdx.y) * args.stride + first;
    uint64_t *out = args.keys + (int64_t(blockIdx.y) * gridDim.x + blockIdx.x) * args.count;
    pick(n, wanted_of(args, int(blockIdx.y)), scratch, out, [&](int i) {
        const float x = row[i];
        return finite(x) && !is_hole(args.holes, first + i) ? order_key(x, uint32_t(first + i)) : uint64_t(0);
    });
}

// The largest of a row's chunks. Block: 256; grid: rows.
extern "C" __global__ void __launch_bounds__(256) best_of_chunks(const __grid_constant__ Sampling args) {
    __shared__ uint64_t scratch[2][THREADS / 32];
    __shared__ uint64_t best[BEST_MAX];
    const int wanted = wanted_of(args, int(blockIdx.x)), chunks = (args.limit + CHUNK - 1) / CHUNK;
    const uint64_t *row = args.keys + int64_t(blockIdx.x) * chunks * args.count;
    pick(chunks * wanted, wanted, scratch, best, [&](int i) { return row[i / wanted * args.count + i % wanted]; });
    block_barrier();
    for (int i = int(threadIdx.x); i < wanted; i += THREADS) {
        const int64_t at = int64_t(blockIdx.x) * args.count + i;
        args.values[at] = best[i] ? value_of(best[i]) : -INFINITY;
        args.ids[at] = best[i] ? ~uint32_t(best[i]) : NO_TOKEN;
    }
}

// e^x for x <= 0, as math.rs has it: the same bits.
__device__ __forceinline__ float exp_nonpositive(float x) {
    const float round = 12582912.0f;
    const float clamped = x >= -87.0f ? x : -87.0f;
    const float shifted = clamped * 1.44269504088896340736f + round;
    const float n = shifted - round;
    const float r = (clamped - n * 0.693359375f) + n * 2.1219444e-4f;
    float poly = 1.98756915e-4f;
    poly = poly * r + 1.39819995e-3f;
    poly = poly * r + 8.3334519e-3f;
    poly = poly * r + 4.1665796e-2f;
    poly = poly * r + 1.66666655e-1f;
    poly = poly * r + 0.5f;
    const float value = poly * (r * r) + r + 1.0f;
    const uint32_t exponent = float_to_bits(shifted) - float_to_bits(round) + 127u;
    return x >= -87.0f ? value * bits_to_float(exponent << 23) : 0.0f;
}

__device__ __forceinline__ float draw_weight(float x, float highest, float temperature) {
    return exp_nonpositive(((finite(x) ? x : -INFINITY) - highest) / temperature);
}

// The uniform number of draw 0 of choice 0: Philox4x32-10.
__device__ __forceinline__ double uniform(uint64_t seed, uint64_t position) {
    uint32_t c[4] = {uint32_t(position), uint32_t(position >> 32), 0, 0};
    uint32_t key[2] = {uint32_t(seed), uint32_t(seed >> 32)};
    for (int round = 0; round < 10; round++) {
        const uint32_t low_a = 0xD2511F53u * c[0], high_a = multiply_high(0xD2511F53u, c[0]);
        const uint32_t low_c = 0xCD9E8D57u * c[2], high_c = multiply_high(0xCD9E8D57u, c[2]);
        c[0] = high_c ^ c[1] ^ key[0];
        c[1] = low_c;
        c[2] = high_a ^ c[3] ^ key[1];
        c[3] = low_a;
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
    return double(uint64_t(c[0]) << 21 | c[1] >> 11) / 9007199254740992.0;
}

// Shared memory of a block that works on a whole row.
struct RowMemory {
    // Of 16 bins: weights in units of 2^-44, and keys.
    uint64_t warp_masses[ROW_WARPS][16], masses[16];
    int warp_counts[ROW_WARPS][16], counts[16];
    float highest[ROW_WARPS];
    double sums[ROW_WARPS];
    bool any[ROW_WARPS];
    float weights[32];
};

// A row of logits. Ids have keys that order as their logits; 0 where an id does not count.
struct Row {
    const float *logits;
    int n;
    const uint32_t *holes;
    // Raw rows: every id counts, and what is not finite is minus infinity.
    bool raw;

    __device__ __forceinline__ uint64_t key(int id) const {
        const float x = logits[id];
        if (raw) {
            return order_key(finite(x) ? x : -INFINITY, uint32_t(id));
        }
        return finite(x) && !is_hole(holes, id) ? order_key(x, uint32_t(id)) : 0;
    }
};

// The largest finite number that counts, in every thread; minus infinity where there is none.
__device__ __forceinline__ float highest_of(const Row &row, RowMemory &memory) {
    float highest = -INFINITY;
    for (int i = int(threadIdx.x); i < row.n; i += ROW_THREADS) {
        const uint64_t key = row.key(i);
        highest = key ? fmaxf(highest, value_of(key)) : highest;
    }
    highest = warp_max(highest);
    if (threadIdx.x % 32 == 0) {
        memory.highest[threadIdx.x / 32] = highest;
    }
    block_barrier();
    for (int w = 0; w < ROW_WARPS; w++) {
        highest = fmaxf(highest, memory.highest[w]);
    }
    return highest;
}

__device__ __forceinline__ double warp_sum_double(double value) {
#pragma unroll
    for (uint32_t mask = 16; mask > 0; mask /= 2) {
        value += shuffle_xor(value, mask);
    }
    return value;
}

// A weight in [0, 1] in units of 2^-44, rounded: sums of up to 2^19 of them are exact, so their order does not matter.
__device__ __forceinline__ uint64_t mass_of(float weight) {
    const uint32_t bits = float_to_bits(weight);
    const int shift = int(bits >> 23) - 106;
    const uint64_t mantissa = (bits & 0x7FFFFFu) | 0x800000u;
    return shift >= 0 ? mantissa << shift : shift > -25 ? (mantissa + (uint64_t(1) << (-shift - 1))) >> -shift : 0;
}

// Sums of 16 numbers over a warp: lane i has the (i / 2)-th.
template <class T> __device__ __forceinline__ T warp_sums(T (&values)[16], int lane) {
#pragma unroll
    for (int half = 8; half > 0; half /= 2) {
        const bool upper = lane & (2 * half);
#pragma unroll
        for (int i = 0; i < half; i++) {
            const T given = upper ? values[i] : values[i + half], kept = upper ? values[i + half] : values[i];
            values[i] = kept + shuffle_xor(given, uint32_t(2 * half));
        }
    }
    return values[0] + shuffle_xor(values[0], 1u);
}

// The least key of the smallest set of a row's largest keys, of those from `from` on, that has `count` keys, or with MASS
// the fraction `part` of all their weights; `from` where there are fewer. Bits of the key are found four at a time.
template <bool MASS>
__device__ __forceinline__ uint64_t least_key(const Row &row, uint64_t from, int count, float part, float highest,
                                              float temperature, RowMemory &memory) {
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    // Bits of an id that may differ.
    int id_bits = 4;
    while ((row.n - 1) >> id_bits) {
        id_bits += 4;
    }
    uint64_t found = 0, above = 0;
    double target = count;
    for (int shift = 60; shift >= 0; shift -= 4) {
        if (shift == 28) {
            shift = id_bits - 4;
            found |= ~uint64_t(0) >> 32 >> id_bits << id_bits;
        }
        uint64_t masses[16] = {};
        int counts[16] = {};
        for (int i = int(threadIdx.x); i < row.n; i += ROW_THREADS) {
            const uint64_t key = row.key(i);
            if (key == 0 || key < from || (key ^ found) >> shift > 15) {
                continue;
            }
            const int bin = int(key >> shift & 15);
            counts[bin]++;
            if (MASS) {
                masses[bin] += mass_of(draw_weight(value_of(key), highest, temperature));
            }
        }
        const int warp_count = warp_sums(counts, lane);
        const uint64_t warp_mass = MASS ? warp_sums(masses, lane) : 0;
        if (lane % 2 == 0) {
            memory.warp_counts[warp][lane / 2] = warp_count;
            memory.warp_masses[warp][lane / 2] = warp_mass;
        }
        block_barrier();
        if (threadIdx.x < 16) {
            int sum = 0;
            uint64_t mass = 0;
            for (int w = 0; w < ROW_WARPS; w++) {
                sum += memory.warp_counts[w][threadIdx.x];
                mass += memory.warp_masses[w][threadIdx.x];
            }
            memory.counts[threadIdx.x] = sum;
            memory.masses[threadIdx.x] = MASS ? mass : uint64_t(sum);
        }
        block_barrier();
        if (MASS && shift == 60) {
            uint64_t all = 0;
            for (int b = 0; b < 16; b++) {
                all += memory.masses[b];
            }
            target = double(part) * double(all);
        }
        int bin = 15;
        while (bin >= 0 && double(above + memory.masses[bin]) < target) {
            above += memory.masses[bin];
            bin--;
        }
        if (bin < 0) {
            return from;
        }
        found |= uint64_t(bin) << shift;
        if (memory.counts[bin] == 1) {
            break;
        }
    }
    return found;
}

// One draw from the keys from `least` on, by id; the token, in every thread.
__device__ __forceinline__ uint32_t draw_from_row(const Row &row, uint64_t least, const SamplingRequest &request, float highest,
                                                  RowMemory &memory) {
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    auto weight_of = [&](int id) {
        const uint64_t key = row.key(id);
        const float weight = key && key >= least ? draw_weight(value_of(key), highest, request.temperature) : 0.0f;
        return weight >= request.min_p ? weight : 0.0f;
    };
    int begin = 0, end = row.n;
    double before = 0.0, target = -1.0;
    // Each turn, a warp sums a part of [begin, end); the part in which the sum crosses the target is what is left.
    for (;;) {
        const int each = ((end - begin + ROW_WARPS - 1) / ROW_WARPS + 31) / 32 * 32;
        const int first = begin + warp * each, past = first + each < end ? first + each : end;
        double sum = 0.0;
        bool any = false;
        for (int i = first + lane; i < past; i += 32) {
            const float weight = weight_of(i);
            sum += double(weight);
            any = any || weight > 0.0f;
        }
        sum = warp_sum_double(sum);
        any = warp_ballot(any) != 0;
        if (lane == 0) {
            memory.sums[warp] = sum;
            memory.any[warp] = any;
        }
        block_barrier();
        if (target < 0.0) {
            double total = 0.0;
            for (int w = 0; w < ROW_WARPS; w++) {
                total += memory.sums[w];
            }
            target = uniform(request.seed, request.position) * total;
        }
        // Where rounding leaves no crossing, the last part with any weight.
        double sum_before = before;
        int crossing = -1;
        for (int w = 0; w < ROW_WARPS; w++) {
            if (memory.any[w]) {
                crossing = w;
                before = sum_before;
                if (sum_before + memory.sums[w] > target) {
                    break;
                }
                sum_before += memory.sums[w];
            }
        }
        // All have read the sums before they are written again.
        block_barrier();
        if (crossing < 0) {
            return NO_TOKEN;
        }
        begin += crossing * each;
        end = begin + each < end ? begin + each : end;
        if (each == 32) {
            break;
        }
    }
    if (warp == 0) {
        memory.weights[lane] = begin + lane < end ? weight_of(begin + lane) : 0.0f;
    }
    block_barrier();
    uint32_t token = NO_TOKEN;
    for (int i = 0; i < 32; i++) {
        if (memory.weights[i] > 0.0f) {
            before += double(memory.weights[i]);
            token = uint32_t(begin + i);
            if (before > target) {
                break;
            }
        }
    }
    return token;
}

// Shared memory of a draw from the largest.
struct ListMemory {
    float weights[BEST_MAX];
    int by_id[BEST_MAX];
    int kept;
};

// One draw from the `n` largest, by one warp; the token, in lane 0. The CPU's for the same logits: sums in the same order.
__device__ __forceinline__ uint32_t draw_from_list(const float *values, const uint32_t *ids, int most, const SamplingRequest &request,
                                                   int lane, ListMemory &memory) {
    if (!(request.temperature > 0.0f) || ids[0] == NO_TOKEN) {
        return ids[0];
    }
    int n = 0;
    while (n < most && ids[n] != NO_TOKEN) {
        n++;
    }
    for (int i = lane; i < n; i += 32) {
        memory.weights[i] = draw_weight(values[i], values[0], request.temperature);
    }
    warp_barrier();
    if (lane == 0) {
        int kept = n;
        if (request.top_p < 1.0f) {
            double total = 0.0, sum = 0.0;
            for (int i = 0; i < n; i++) {
                total += double(memory.weights[i]);
            }
            const double target = double(request.top_p) * total;
            for (int i = 0; i < n; i++) {
                sum += double(memory.weights[i]);
                if (sum >= target) {
                    kept = i + 1;
                    break;
                }
            }
        }
        memory.kept = kept;
    }
    warp_barrier();
    const int kept = memory.kept;
    for (int i = lane; i < kept; i += 32) {
        int place = 0;
        for (int other = 0; other < kept; other++) {
            place += ids[other] < ids[i];
        }
        memory.by_id[place] = i;
    }
    warp_barrier();
    uint32_t token = NO_TOKEN;
    if (lane == 0) {
        double total = 0.0, sum = 0.0;
        for (int i = 0; i < kept; i++) {
            const float weight = memory.weights[memory.by_id[i]];
            total += weight >= request.min_p ? double(weight) : 0.0;
        }
        const double target = uniform(request.seed, request.position) * total;
        for (int i = 0; i < kept; i++) {
            const float weight = memory.weights[memory.by_id[i]];
            if (weight >= request.min_p && weight > 0.0f) {
                sum += double(weight);
                token = ids[memory.by_id[i]];
                if (sum > target) {
                    break;
                }
            }
        }
    }
    return token;
}

// Temperature, top-k, top-p, min-p, one request. Block: 512; grid: rows.
extern "C" __global__ void __launch_bounds__(512) sample_rows(const __grid_constant__ Sampling args) {
    __shared__ RowMemory memory;
    __shared__ ListMemory list;
    const int64_t row = blockIdx.x;
    const SamplingRequest request = args.requests[row];
    if (request.kind != SAMPLE) {
        return;
    }
    const int wanted = wanted_of(args, int(row));
    uint32_t token = NO_TOKEN;
    if (wanted > 0) {
        if (threadIdx.x >= 32) {
            return;
        }
        const int64_t first = row * args.count;
        token = draw_from_list(args.values + first, args.ids + first, wanted, request, int(threadIdx.x), list);
    } else {
        const Row all = {args.logits + row * args.stride, args.limit, args.holes, false};
        const float highest = highest_of(all, memory);
        if (highest > -INFINITY) {
            const int top_k = top_k_of(request, args.limit);
            uint64_t least = 0;
            if (top_k > 0) {
                least = least_key<false>(all, least, top_k, 0.0f, highest, request.temperature, memory);
            }
            if (request.top_p < 1.0f) {
                least = least_key<true>(all, least, 0, request.top_p, highest, request.temperature, memory);
            }
            token = draw_from_row(all, least, request, highest, memory);
        }
    }
    if (threadIdx.x == 0) {
        args.tokens[row] = token;
    }
}

// x - highest - log_sum, rounded once; minus infinity for what is not finite.
__device__ __forceinline__ float logprob_of(float x, float highest, double log_sum) {
    return finite(x) ? float(double(x) - double(highest) - log_sum) : -INFINITY;
}

// Puts the numbers back that adjust_logits replaced; then log-softmax of the whole row, of the sampled or given token, and of
// the most probable ids, best first, of equals the lower. Block: 512; grid: rows.
extern "C" __global__ void __launch_bounds__(512) logprob_rows(const __grid_constant__ Sampling args) {
    __shared__ RowMemory memory;
    __shared__ uint64_t tops[TOPS_MAX];
    __shared__ int found;
    const int64_t row = blockIdx.x;
    const SamplingRequest request = args.requests[row];
    if (request.kind == IDLE) {
        return;
    }
    float *logits = args.logits + row * args.stride;
    const LogitAdjustment *entries = args.adjustments + request.first_adjustment;
    for (int i = int(threadIdx.x); i < request.adjustments; i += ROW_THREADS) {
        const uint32_t token = entries[i].token;
        if ((i == 0 || entries[i - 1].token != token) && token < uint32_t(args.vocab)) {
            logits[token] = entries[i].raw;
        }
    }
    if (request.logprobs < 0) {
        return;
    }
    if (threadIdx.x == 0) {
        found = 0;
    }
    block_barrier();
    const Row all = {logits, args.vocab, nullptr, true};
    const float highest = highest_of(all, memory);
    double sum = 0.0;
    for (int i = int(threadIdx.x); i < args.vocab; i += ROW_THREADS) {
        sum += double(draw_weight(logits[i], highest, 1.0f));
    }
    sum = warp_sum_double(sum);
    if (threadIdx.x % 32 == 0) {
        memory.sums[threadIdx.x / 32] = sum;
    }
    block_barrier();
    sum = 0.0;
    for (int w = 0; w < ROW_WARPS; w++) {
        sum += memory.sums[w];
    }
    const double log_sum = log(sum);
    if (threadIdx.x == 0) {
        const uint32_t token = request.kind == GIVEN ? request.given : args.tokens[row];
        args.logprobs[row] = token < uint32_t(args.vocab) ? logprob_of(logits[token], highest, log_sum) : -INFINITY;
    }
    int n = request.logprobs < TOPS_MAX ? request.logprobs : TOPS_MAX;
    n = n < args.tops ? n : args.tops;
    n = n < args.vocab ? n : args.vocab;
    if (n == 0) {
        return;
    }
    const uint64_t least = least_key<false>(all, 0, n, 0.0f, highest, 1.0f, memory);
    for (int i = int(threadIdx.x); i < args.vocab; i += ROW_THREADS) {
        const uint64_t key = all.key(i);
        if (key >= least) {
            tops[atomic_add(&found, 1)] = key;
        }
    }
    block_barrier();
    for (int i = int(threadIdx.x); i < n; i += ROW_THREADS) {
        int place = 0;
        for (int other = 0; other < n; other++) {
            place += tops[other] > tops[i];
        }
        args.top_ids[row * args.tops + place] = ~uint32_t(tops[i]);
        args.top_logprobs[row * args.tops + place] = logprob_of(value_of(tops[i]), highest, log_sum);
    }
}

ENTRY(adjust_logits)
ENTRY(best_in_chunks)
ENTRY(best_of_chunks)
ENTRY(sample_rows)
ENTRY(logprob_rows)
