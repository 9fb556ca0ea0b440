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
#include "draw.cuh"

constexpr int THREADS = 256;
// Logits per block of best_in_chunks.
constexpr int CHUNK = 4096;
// Maximum log probabilities of a row beside its token's: TOP_LOGPROBS_MAX of src/limits.rs.
constexpr int TOPS_MAX = 256;

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
    // [masks, vocab / 32 rounded up]: bits are set for ids that the rows of a mask may sample.
    const uint32_t *masks;
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

// What a row may sample.
__device__ __forceinline__ Permitted permitted_of(const Sampling &args, int row) {
    const uint32_t mask = args.requests ? args.requests[row].mask : 0;
    return {args.holes, mask > 0 ? args.masks + int64_t(mask - 1) * ((args.vocab + 31) / 32) : nullptr};
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
    const Permitted permitted = permitted_of(args, int(blockIdx.y));
    pick(n, wanted_of(args, int(blockIdx.y)), scratch, out, [&](int i) {
        const float x = row[i];
        return finite(x) && permitted.has(first + i) ? order_key(x, uint32_t(first + i)) : uint64_t(0);
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
        const Row all = {args.logits + row * args.stride, args.limit, permitted_of(args, int(row)), false};
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
    const Row all = {logits, args.vocab, {nullptr, nullptr}, true};
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
