// **Values that are not finite.** A weight of 0 times such a value is NaN, which would affect queries that do not see
// its key. So in the few blocks with keys that some queries see and others do not, these values are replaced by zeros
// in shared memory and added separately for the queries that see them. Whether an element of the result is finite,
// infinite or NaN is then as if only the keys that its query sees had been multiplied.
#pragma once

#include "softmax.cuh"

// Whether a copied key of the block is visible to some queries of the job but not to all.
__device__ __forceinline__ bool seen_by_some(const Attention &args, const Job &job, int block) {
    const int first = max_of(block * KEYS, first_visible(job.first_position, args.window));
    const int last = min_of(block * KEYS + KEYS - 1, job.last_key);
    return first < first_visible(job.last_position, args.window) || last > last_visible(args, job.first_position, job.end);
}

// Replaces values that are not finite (for 8-bit pages: scale factors) by zeros, and sets damaged[key] to block + 1 for
// their keys. To be called between barriers.
template <class Element, int DIM>
__device__ __forceinline__ void replace_damaged(unsigned char *values, float *factors, int *damaged, int block) {
    if constexpr (sizeof(Element) == 1) {
        for (int key = int(threadIdx.x); key < KEYS; key += THREADS) {
            if (!finite(factors[KEYS + key])) {
                factors[KEYS + key] = 0.0f;
                damaged[key] = block + 1;
            }
        }
    } else {
        constexpr int PIECES = DIM / 8;
#pragma unroll 4
        for (int i = int(threadIdx.x); i < KEYS * PIECES; i += THREADS) {
            Words4 piece = load4(values + i * 16);
            bool found = false;
#pragma unroll
            for (int w = 0; w < 4; w++) {
                // An exponent with all bits set.
                const bool low = (piece.w[w] & 0x7F80u) == 0x7F80u, high = (piece.w[w] & 0x7F800000u) == 0x7F800000u;
                piece.w[w] &= (low ? 0xFFFF0000u : 0xFFFFFFFFu) & (high ? 0xFFFFu : 0xFFFFFFFFu);
                found = found || low || high;
            }
            if (found) {
                store4(values + i * 16, piece);
                // Several threads may write this, all of them the same value.
                damaged[i / PIECES] = block + 1;
            }
        }
    }
}

// A bit mask of the block's keys of which something was replaced.
__device__ __forceinline__ uint64_t damaged_keys(const int *damaged, int block, int lane) {
    const uint32_t low = warp_ballot(damaged[lane] == block + 1), high = warp_ballot(damaged[lane + 32] == block + 1);
    return uint64_t(high) << 32 | low;
}

// Adds the replaced values, read from the page again, for the queries that see them. The weights are those of `take`,
// computed from the masked scores and their maxima. `start` is the first element of the values in shared memory.
template <int DIM, int WIDTH, bool FACTORS>
__device__ __forceinline__ void add_damaged(Running<WIDTH> &state, const float (&scores)[8][4], const float (&base)[2],
                                            const Attention &args, const Job &job, const int (&positions)[2], int block,
                                            const unsigned char *values, uint64_t damaged, int start, int first, int lane) {
    const int t = lane % 4;
#pragma unroll 1
    for (int column = 0; column < KEYS; column++) {
        if (!(damaged >> column & 1)) {
            continue;
        }
        const int position = block * KEYS + column, token = position % args.pages.page_tokens;
        const unsigned char *layer = args.pages.layer_of(job.table[position / args.pages.page_tokens]);
        const bf16 *row = reinterpret_cast<const bf16 *>(layer + args.pages.row_offset(true, job.kv_head, token));
        // The lane of a query's four that has the score of this key.
        const int holder = column % 8 / 2;
        float weights[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float score = 0.0f;
#pragma unroll
            for (int n = 0; n < 8; n++) {
                const float even = scores[n][2 * i], odd = scores[n][2 * i + 1];
                score = column == 8 * n + 2 * holder ? even : column == 8 * n + 2 * holder + 1 ? odd : score;
            }
            weights[i] = exp2_fast(shuffle(score, uint32_t(lane / 4 * 4 + holder)) - base[i]);
            if (FACTORS) {
                const int64_t at = args.pages.scale_offset(true, job.kv_head, token);
                weights[i] *= *reinterpret_cast<const float *>(layer + at);
            }
            weights[i] = from_bf16(to_bf16(weights[i]));
        }
#pragma unroll
        for (int d = 0; d < WIDTH / 8; d++) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int at = start + first + 8 * d + 2 * t + j;
                if (at >= args.pages.v_dim) {
                    continue;
                }
                // 8-bit values themselves are always finite and were not replaced.
                const int place = column * ROW<DIM> + value_place(column, first / 8 + d) * 16 + (2 * t + j) * 2;
                const float value = from_bf16(FACTORS ? *reinterpret_cast<const bf16 *>(values + place) : row[at]);
                if (FACTORS || !finite(value)) {
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        const int begin = first_visible(positions[i], args.window);
                        if (position >= begin && position <= last_visible(args, positions[i], job.end)) {
                            state.out[d][2 * i + j] = fmaf(weights[i], value, state.out[d][2 * i + j]);
                        }
                    }
                }
            }
        }
    }
}
