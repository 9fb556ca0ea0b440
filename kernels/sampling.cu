// From logits to tokens and log probabilities: the device's version of src/sampling, for the rows of a step.
//
// The same five launches in this order serve any mix of rows: each row's SamplingRequest says what it needs, and a
// block that has nothing to do for its row returns at once. So one recorded sequence of launches serves every step.
//
//   adjust_logits    applies penalties and bias in place, and keeps the logits that it changes
//   best_in_chunks   finds the largest logits of each chunk of a row, as many as the row needs
//                    (none if it is sampled from whole)
//   best_of_chunks   finds the largest logits of the row from those of its chunks
//   sample_rows      samples the token, from the largest logits or from the whole row
//   logprob_rows     restores the changed logits; computes log probabilities of the raw logits
//
// Counterparts in src/sampling: math.rs (weights), philox.rs (random numbers), select.rs (keys), sampler.rs (order of
// the operations). Operations and their order are the same wherever they affect the bits: no multiply-add is fused,
// sums are in double precision or exact. A token sampled from the largest logits is the CPU's token for the same
// logits. Whole rows are summed in another order, and for top-p in units of 2^-44; so their token differs from the
// CPU's if the random number is within the rounding of those sums (about 1e-13) of the border between two tokens, or
// top-p within about 1e-10 of one.
#include "keys.cuh"

constexpr int THREADS = 256, ROW_THREADS = 512, ROW_WARPS = ROW_THREADS / 32;
// Logits per block of best_in_chunks.
constexpr int CHUNK = 4096;
// Maximum results of a search: BEST_LOGITS_MAX of src/limits.rs.
constexpr int BEST_MAX = 64;
// Maximum log probabilities of a row beside its token's: TOP_LOGPROBS_MAX of src/limits.rs.
constexpr int TOPS_MAX = 256;
constexpr uint32_t NO_TOKEN = 0xFFFFFFFFu;

// What is done for a row; see SamplingRequest::kind.
enum Kind { IDLE = 0, SAMPLE = 1, GIVEN = 2 };

// What a row needs; parameters as in SamplingParams.
struct SamplingRequest {
    // Seed of the request and position of the token: together they determine the random number.
    uint64_t seed, position;
    // 0: greedy, the largest logit.
    float temperature;
    float top_p, min_p;
    int top_k;
    float repetition_penalty, presence_penalty, frequency_penalty;
    // Number of most probable ids whose log probabilities are wanted beside the token's, up to TOPS_MAX; -1: none, not
    // even the token's.
    int logprobs;
    // The row's range in `Sampling::adjustments`.
    int first_adjustment, adjustments;
    // A Kind. IDLE: nothing; SAMPLE: sample a token; GIVEN: compute the log probability of `given`.
    int kind;
    uint32_t given;
};

// A token whose logit is changed by penalties or bias. The entries of a row are in ascending order of their tokens.
// Several entries may have the same token, because its biases add up; then only the first has penalties.
struct LogitAdjustment {
    uint32_t token;
    // Whether the token occurs in the prompt.
    uint32_t in_prompt;
    // Number of occurrences of the token in the output.
    uint32_t outputs;
    // Added to the logit; minus infinity forbids the token.
    float bias;
    // The unchanged logit, written by adjust_logits.
    float raw;
};

// Parameters of all launches of a step.
struct Sampling {
    // [rows, stride], of which the first `vocab` of each row are used.
    float *logits;
    int64_t stride;
    int vocab;
    // Only ids below this may be sampled, ...
    int limit;
    // ... except those with a bit set here: [limit / 32 rounded up], or null.
    const uint32_t *holes;
    // [rows]. Null for a search only, which finds `count` results for every row.
    const SamplingRequest *requests;
    LogitAdjustment *adjustments;
    // [rows, limit / CHUNK rounded up, count]: results of best_in_chunks, for best_of_chunks.
    uint64_t *keys;
    // [rows, count]: the largest logits and their ids, best first, as many as the row needs; (minus infinity, NO_TOKEN)
    // if it has fewer.
    float *values;
    uint32_t *ids;
    // 1 to BEST_MAX; rows with a larger top-k are sampled from whole.
    int count;
    // Entries per row of `top_ids`; at least as many as any row needs.
    int tops;
    // [rows]: the sampled tokens; NO_TOKEN if none may be sampled.
    uint32_t *tokens;
    // [rows] and [rows, tops]: log probabilities of the token, and of the most probable ids, best first.
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

// The effective top-k: 0 (off) if it includes the whole row.
__device__ __forceinline__ int top_k_of(const SamplingRequest &request, int limit) { return request.top_k >= limit ? 0 : request.top_k; }

// The number of largest logits on which the row's token depends; 0: none, or it depends on the whole row.
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

// Applies penalties, then bias. Block: 256; grid: rows.
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
        // A logit that is not finite is never sampled, whatever is added.
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

// Writes the `count` largest of `n` keys, which are distinct or 0, to out[count] in descending order; zeros if there
// are fewer. Thread i of the block gets keys i, i + THREADS ... from `get`. `scratch` is shared memory.
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
        // Alternates between two buffers, so that one barrier suffices.
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

// Finds the largest logits of each chunk of a row that may be sampled; writes their keys, best first, and 0 if there
// are fewer. Block: 256; grid: (limit / CHUNK rounded up, rows).
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

// Finds the largest logits of a row among those of its chunks. Block: 256; grid: rows.
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

// e^x for x <= 0, with the same bits as math.rs.
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

// The random number in [0, 1) for draw 0 of choice 0, by Philox4x32-10.
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

// Shared memory of a block that processes a whole row.
struct RowMemory {
    // For 16 bins of keys: the sum of weights in units of 2^-44, and the number of keys.
    uint64_t warp_masses[ROW_WARPS][16], masses[16];
    int warp_counts[ROW_WARPS][16], counts[16];
    float highest[ROW_WARPS];
    double sums[ROW_WARPS];
    bool any[ROW_WARPS];
    float weights[32];
};

// A row of logits. An id's key orders as its logit; 0 if the id is excluded.
struct Row {
    const float *logits;
    int n;
    const uint32_t *holes;
    // For raw log probabilities: no id is excluded, and logits that are not finite count as minus infinity.
    bool raw;

    __device__ __forceinline__ uint64_t key(int id) const {
        const float x = logits[id];
        if (raw) {
            return order_key(finite(x) ? x : -INFINITY, uint32_t(id));
        }
        return finite(x) && !is_hole(holes, id) ? order_key(x, uint32_t(id)) : 0;
    }
};

// The largest logit that is not excluded, in every thread; minus infinity if there is none.
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

// Sums each of 16 values over the warp; lane i returns the sum with index i / 2.
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

// The threshold of top-k, or with MASS of top-p. The keys from the returned one on are the smallest set of largest keys
// that has `count` keys, or with MASS at least the fraction `part` of the total weight. Only keys >= `from` count;
// returns `from` if there are too few. A radix search, four bits of the key per iteration.
template <bool MASS>
__device__ __forceinline__ uint64_t least_key(const Row &row, uint64_t from, int count, float part, float highest,
                                              float temperature, RowMemory &memory) {
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    // Number of low bits in which ids can differ, rounded up to a multiple of 4.
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

// Samples one token among the keys >= `least`, in order of ids; returns it in every thread.
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
    // In each iteration the warps sum one part each of [begin, end); the part in which the sum crosses the target
    // becomes the new range.
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
        // If due to rounding no part crosses the target, the last part with any weight is taken.
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
        // All threads have read the sums before they are overwritten.
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

// Shared memory for sampling from the largest logits.
struct ListMemory {
    float weights[BEST_MAX];
    int by_id[BEST_MAX];
    int kept;
};

// Samples one token among the `most` largest logits, by one warp; lane 0 returns it. It is the CPU's token for the same
// logits, because sums are in the same order.
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

// Samples a token with temperature, top-k, top-p and min-p. Block: 512; grid: rows.
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

// x - highest - log_sum, rounded once; minus infinity if x is not finite.
__device__ __forceinline__ float logprob_of(float x, float highest, double log_sum) {
    return finite(x) ? float(double(x) - double(highest) - log_sum) : -INFINITY;
}

// Restores the logits that adjust_logits changed. Then computes the log-softmax over the whole row, for the sampled or
// given token and for the most probable ids, best first, and the lower of equals first. Block: 512; grid: rows.
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
