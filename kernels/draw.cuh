// Draws of one token: among the largest logits of a row, or from the whole row. sampling.cu says which bits are the CPU's.
#pragma once

#include "keys.cuh"

// Threads of a block that processes a whole row.
constexpr int ROW_THREADS = 512, ROW_WARPS = ROW_THREADS / 32;
// Maximum results of a search: BEST_LOGITS_MAX of src/limits.rs.
constexpr int BEST_MAX = 64;
constexpr uint32_t NO_TOKEN = 0xFFFFFFFFu;

// What is done for a row; see SamplingRequest::kind.
enum Kind { IDLE = 0, SAMPLE = 1, GIVEN = 2, HOST = 3 };

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
    // A Kind. IDLE and HOST: nothing; SAMPLE: sample a token; GIVEN: compute the log probability of `given`.
    int kind;
    uint32_t given;
    // Which of `Sampling::masks` says what may be sampled, plus one; 0: all tokens.
    uint32_t mask;
    // 0, or of the tokens that are left with at least this share of all weights all but the least are removed.
    float xtc_threshold;
};

__device__ __forceinline__ bool has_bit(const uint32_t *bits, int id) { return bits[id / 32] >> (id % 32) & 1; }

// Which tokens of a row may be sampled.
struct Permitted {
    // Bits are set for those that may not; null: none.
    const uint32_t *holes;
    // Bits are set for those that may; null: all.
    const uint32_t *mask;

    __device__ __forceinline__ bool has(int id) const {
        return !(holes && has_bit(holes, id)) && (!mask || has_bit(mask, id));
    }
};

// The effective top-k: 0 (off) if it includes the whole row.
__device__ __forceinline__ int top_k_of(const SamplingRequest &request, int limit) { return request.top_k >= limit ? 0 : request.top_k; }

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
    Permitted permitted;
    // For raw log probabilities: no id is excluded, and logits that are not finite count as minus infinity.
    bool raw;

    __device__ __forceinline__ uint64_t key(int id) const {
        const float x = logits[id];
        if (raw) {
            return order_key(finite(x) ? x : -INFINITY, uint32_t(id));
        }
        return finite(x) && permitted.has(id) ? order_key(x, uint32_t(id)) : 0;
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
    const auto kept_weight = [&](uint64_t key) {
        const float weight = key && key >= least ? draw_weight(value_of(key), highest, request.temperature) : 0.0f;
        return weight >= request.min_p ? weight : 0.0f;
    };
    // Keys above it are those of top choices that are left out.
    uint64_t most = ~uint64_t(0);
    if (request.xtc_threshold > 0.0f) {
        double sum = 0.0;
        for (int i = int(threadIdx.x); i < row.n; i += ROW_THREADS) {
            sum += double(kept_weight(row.key(i)));
        }
        sum = warp_sum_double(sum);
        if (lane == 0) {
            memory.sums[warp] = sum;
        }
        block_barrier();
        double total = 0.0;
        for (int w = 0; w < ROW_WARPS; w++) {
            total += memory.sums[w];
        }
        const double cut = double(request.xtc_threshold) * total;
        uint64_t lowest = ~uint64_t(0);
        for (int i = int(threadIdx.x); i < row.n; i += ROW_THREADS) {
            const uint64_t key = row.key(i);
            const float weight = kept_weight(key);
            lowest = weight > 0.0f && double(weight) >= cut && key < lowest ? key : lowest;
        }
        for (uint32_t mask = 16; mask > 0; mask /= 2) {
            const uint64_t other = shuffle_xor(lowest, mask);
            lowest = other < lowest ? other : lowest;
        }
        if (lane == 0) {
            memory.masses[warp] = lowest;
        }
        block_barrier();
        for (int w = 0; w < ROW_WARPS; w++) {
            most = memory.masses[w] < most ? memory.masses[w] : most;
        }
        block_barrier();
    }
    // Weights fall with keys, so that all keys above the least top choice are top choices.
    auto weight_of = [&](int id) {
        const uint64_t key = row.key(id);
        return key > most ? 0.0f : kept_weight(key);
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
        if (request.xtc_threshold > 0.0f) {
            // The entries are in the order of keys: the last top choice is the least.
            const double cut = double(request.xtc_threshold) * total;
            int last = 0;
            for (int i = 0; i < kept; i++) {
                const float weight = memory.weights[i];
                last = weight >= request.min_p && weight > 0.0f && double(weight) >= cut ? i : last;
            }
            for (int i = 0; i < last; i++) {
                memory.weights[i] = 0.0f;
            }
            total = 0.0;
            for (int i = 0; i < kept; i++) {
                const float weight = memory.weights[memory.by_id[i]];
                total += weight >= request.min_p ? double(weight) : 0.0;
            }
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
