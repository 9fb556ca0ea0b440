// From logits to a token: the largest of a row, and draws with the CPU's counter-based uniform numbers.
//
// The counterparts of src/sampling: math.rs (weights), philox.rs (uniform numbers), select.rs (keys), sampler.rs (order of the
// steps). The same operations in the same order wherever the order matters to the bits: no multiply-add is fused, sums are in
// double precision. sample_best gives the CPU's token for the same logits. sample_all sums a row in runs, so its token is
// another one where the drawn number lies within the rounding of those sums, about 1e-13, of the border of two tokens.
#include "keys.cuh"

__device__ __forceinline__ float value_of(uint64_t key) {
    const uint32_t ordered = uint32_t(key >> 32);
    return bits_to_float(ordered >> 31 ? ordered & 0x7FFFFFFFu : ~ordered);
}

__device__ __forceinline__ bool finite(float x) { return fabsf(x) < INFINITY; }

constexpr int THREADS = 256;
// Logits that a block of best_in_chunks looks at.
constexpr int CHUNK = 4096;
// Most results of a row: BEST_LOGITS_MAX of src/limits.rs.
constexpr int BEST_MAX = 64;

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

// keys[rows, chunks, count]: of each CHUNK of the first `limit` finite logits of a row, the largest, as keys, best first; 0 where
// there are fewer. Rows are `stride` elements apart. Block: 256; grid: (limit / CHUNK rounded up, rows).
extern "C" __global__ void __launch_bounds__(256)
best_in_chunks(const float *logits, uint64_t *keys, int64_t stride, int limit, int count) {
    __shared__ uint64_t scratch[2][THREADS / 32];
    const int first = int(blockIdx.x) * CHUNK, n = limit - first < CHUNK ? limit - first : CHUNK;
    const float *row = logits + int64_t(blockIdx.y) * stride + first;
    uint64_t *out = keys + (int64_t(blockIdx.y) * gridDim.x + blockIdx.x) * count;
    pick(n, count, scratch, out, [&](int i) {
        const float x = row[i];
        return finite(x) ? order_key(x, uint32_t(first + i)) : uint64_t(0);
    });
}

// values[rows, count] and ids[rows, count]: the largest of the row's `n` keys, best first; (minus infinity, UINT32_MAX) where
// there are fewer. Block: 256; grid: rows.
extern "C" __global__ void __launch_bounds__(256)
best_of_chunks(const uint64_t *keys, float *values, uint32_t *ids, int n, int count) {
    __shared__ uint64_t scratch[2][THREADS / 32];
    __shared__ uint64_t best[BEST_MAX];
    const uint64_t *row = keys + int64_t(blockIdx.x) * n;
    pick(n, count, scratch, best, [&](int i) { return row[i]; });
    block_barrier();
    for (int i = int(threadIdx.x); i < count; i += THREADS) {
        const int64_t at = int64_t(blockIdx.x) * count + i;
        values[at] = best[i] ? value_of(best[i]) : -INFINITY;
        ids[at] = best[i] ? ~uint32_t(best[i]) : 0xFFFFFFFFu;
    }
}

// How a row is sampled; as SamplingParams.
struct Draw {
    uint64_t seed, position;
    // 0: the largest.
    float temperature;
    float top_p, min_p;
    // Of the results that were searched for, how many count; 0: all.
    int top_k;
};

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

// tokens[rows] from each row's `count` largest logits, best first: temperature, top-k, top-p, min-p, one draw.
// UINT32_MAX where no logit is finite. Block: 32; grid: rows.
extern "C" __global__ void __launch_bounds__(32)
sample_best(const float *values, const uint32_t *ids, const Draw *draws, uint32_t *tokens, int count) {
    __shared__ float weights[BEST_MAX];
    __shared__ int by_id[BEST_MAX];
    __shared__ int kept_shared;
    const Draw draw = draws[blockIdx.x];
    const int lane = int(threadIdx.x);
    values += int64_t(blockIdx.x) * count;
    ids += int64_t(blockIdx.x) * count;
    if (!(draw.temperature > 0.0f) || ids[0] == 0xFFFFFFFFu) {
        if (lane == 0) {
            tokens[blockIdx.x] = ids[0];
        }
        return;
    }
    int n = 0;
    const int most = draw.top_k > 0 && draw.top_k < count ? draw.top_k : count;
    while (n < most && ids[n] != 0xFFFFFFFFu) {
        n++;
    }
    for (int i = lane; i < n; i += 32) {
        weights[i] = draw_weight(values[i], values[0], draw.temperature);
    }
    warp_barrier();
    if (lane == 0) {
        int kept = n;
        if (draw.top_p < 1.0f) {
            double total = 0.0, sum = 0.0;
            for (int i = 0; i < n; i++) {
                total += double(weights[i]);
            }
            const double target = double(draw.top_p) * total;
            for (int i = 0; i < n; i++) {
                sum += double(weights[i]);
                if (sum >= target) {
                    kept = i + 1;
                    break;
                }
            }
        }
        kept_shared = kept;
    }
    warp_barrier();
    const int kept = kept_shared;
    for (int i = lane; i < kept; i += 32) {
        int place = 0;
        for (int other = 0; other < kept; other++) {
            place += ids[other] < ids[i];
        }
        by_id[place] = i;
    }
    warp_barrier();
    if (lane == 0) {
        double total = 0.0, sum = 0.0;
        for (int i = 0; i < kept; i++) {
            const float weight = weights[by_id[i]];
            total += weight >= draw.min_p ? double(weight) : 0.0;
        }
        const double target = uniform(draw.seed, draw.position) * total;
        uint32_t token = 0xFFFFFFFFu;
        for (int i = 0; i < kept; i++) {
            const float weight = weights[by_id[i]];
            if (weight >= draw.min_p && weight > 0.0f) {
                sum += double(weight);
                token = ids[by_id[i]];
                if (sum > target) {
                    break;
                }
            }
        }
        tokens[blockIdx.x] = token;
    }
}

// tokens[rows] from all of a row's first `limit` logits, with temperature and min-p; top-k and top-p are not looked at.
// UINT32_MAX where no logit is finite. Rows are `stride` elements apart. Block: 256; grid: rows.
extern "C" __global__ void __launch_bounds__(256)
sample_all(const float *logits, const Draw *draws, uint32_t *tokens, int64_t stride, int limit) {
    __shared__ float highest_of[THREADS / 32];
    __shared__ double sums[THREADS];
    __shared__ uint32_t lasts[THREADS];
    const Draw draw = draws[blockIdx.x];
    logits += int64_t(blockIdx.x) * stride;
    float highest = -INFINITY;
    for (int i = int(threadIdx.x); i < limit; i += THREADS) {
        highest = finite(logits[i]) ? fmaxf(highest, logits[i]) : highest;
    }
    highest = warp_max(highest);
    if (threadIdx.x % 32 == 0) {
        highest_of[threadIdx.x / 32] = highest;
    }
    block_barrier();
    for (int w = 0; w < THREADS / 32; w++) {
        highest = fmaxf(highest, highest_of[w]);
    }
    // A thread has a run of ids: sums go in the order of the ids.
    const int each = (limit + THREADS - 1) / THREADS, begin = int(threadIdx.x) * each;
    const int end = begin + each < limit ? begin + each : limit;
    double sum = 0.0;
    uint32_t last = 0xFFFFFFFFu;
    for (int i = begin; i < end; i++) {
        const float weight = draw_weight(logits[i], highest, draw.temperature);
        if (weight > 0.0f && weight >= draw.min_p) {
            sum += double(weight);
            last = uint32_t(i);
        }
    }
    sums[threadIdx.x] = sum;
    lasts[threadIdx.x] = last;
    block_barrier();
    double total = 0.0;
    for (int i = 0; i < THREADS; i++) {
        total += sums[i];
    }
    const double target = uniform(draw.seed, draw.position) * total;
    // The run in which the sum crosses; where rounding leaves none, the last with any weight.
    double before = 0.0, start = 0.0;
    int crossing = -1;
    for (int i = 0; i < THREADS; i++) {
        if (lasts[i] != 0xFFFFFFFFu) {
            crossing = i;
            start = before;
            if (before + sums[i] > target) {
                break;
            }
            before += sums[i];
        }
    }
    if (crossing < 0 && threadIdx.x == 0) {
        tokens[blockIdx.x] = 0xFFFFFFFFu;
    }
    if (int(threadIdx.x) != crossing) {
        return;
    }
    uint32_t token = lasts[crossing];
    double running = start;
    for (int i = begin; i < end; i++) {
        const float weight = draw_weight(logits[i], highest, draw.temperature);
        if (weight > 0.0f && weight >= draw.min_p) {
            running += double(weight);
            if (running > target) {
                token = uint32_t(i);
                break;
            }
        }
    }
    tokens[blockIdx.x] = token;
}

ENTRY(best_in_chunks)
ENTRY(best_of_chunks)
ENTRY(sample_best)
ENTRY(sample_all)
