// Routed experts: the routing, the lists for grouped products (linear.cuh), and the weighted sum of their results.
//
// A row's experts depend on its logits only. An entry is a pair (row, its j-th expert). A slot is a place in the list
// of all entries ordered by expert, then by row; it is the entry's row in the buffers between the products. A row's sum
// adds its experts in ascending order, independent of its slots.
#include "keys.cuh"
#include "rows.cuh"

// Parameters of experts_route; the counterpart of the library's Routing.
struct Router {
    // [rows, experts].
    const float *logits;
    // [experts] each: added to the scores for the choice, and a factor on the weights; may be null.
    const float *choice_bias, *expert_scale;
    // [rows, chosen]: the experts in ascending order, and their weights.
    uint32_t *chosen_experts;
    float *weights;
    // At most the experts of `groups_chosen` groups are chosen.
    int rows, experts, chosen;
    // Scores are sigmoids of the logits instead of their softmax.
    int sigmoid;
    // Whether weights are divided by their sum plus epsilon; and their common factor.
    int renormalise;
    float epsilon, factor;
    // Groups of adjacent experts, 0 if there are none; how many of them are chosen; by how many of their best experts.
    int groups, groups_chosen, group_best;
};

// Chooses the experts of each row, one warp per row. Equals: the lower index. Block: 32 * warps, at most 128; grid: rows / warps
// rounded up; shared memory: warps * (experts + 2 * chosen + 2 * groups) * 4.
extern "C" __global__ void __launch_bounds__(128) experts_route(const __grid_constant__ Router args) {
    const int warps = int(blockDim.x) / 32, warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    const int experts = args.experts, chosen = args.chosen, groups = args.groups;
    const int64_t row = int64_t(blockIdx.x) * warps + warp;
    // The upper halves of the keys by which experts are chosen; 0: not to be chosen.
    uint32_t *ranks = reinterpret_cast<uint32_t *>(dynamic_shared()) + warp * (experts + 2 * chosen + 2 * groups);
    uint32_t *ids = ranks + experts, *picked = ids + chosen;
    float *scores = reinterpret_cast<float *>(picked + groups), *sums = scores + chosen;
    if (row >= args.rows) {
        return;
    }
    const float *logits = args.logits + row * experts;
    float highest = -INFINITY, total = 0.0f;
    if (!args.sigmoid) {
        for (int i = lane; i < experts; i += 32) {
            highest = fmaxf(highest, logits[i]);
        }
        highest = warp_max(highest);
        for (int i = lane; i < experts; i += 32) {
            total += expf(logits[i] - highest);
        }
        total = warp_sum(total);
    }
    auto score_of = [&](int i) {
        return args.sigmoid ? 1.0f / (1.0f + expf(-logits[i])) : expf(logits[i] - highest) / total;
    };
    // Probabilities have the order of their logits.
    const bool by_logit = !args.sigmoid && !args.choice_bias && groups == 0;
    for (int i = lane; i < experts; i += 32) {
        const float rank = by_logit ? logits[i] : args.choice_bias ? score_of(i) + args.choice_bias[i] : score_of(i);
        const uint32_t upper = uint32_t(order_key(rank, 0) >> 32);
        ranks[i] = upper > 0 ? upper : 1;
    }
    warp_barrier();
    // The largest key below `last` of the experts from `begin` on.
    auto next_key = [&](int begin, int end, uint64_t last) {
        uint64_t best = 0;
        for (int i = begin + lane; i < end; i += 32) {
            const uint64_t key = ranks[i] ? uint64_t(ranks[i]) << 32 | uint32_t(~i) : 0;
            best = key < last && key > best ? key : best;
        }
        return warp_max_key(best);
    };
    if (groups > 0) {
        const int size = experts / groups, count = args.group_best < size ? args.group_best : size;
        for (int group = 0; group < groups; group++) {
            uint64_t last = ~uint64_t(0);
            float sum = 0.0f;
            for (int j = 0; j < count; j++) {
                last = next_key(group * size, (group + 1) * size, last);
                sum += value_of(last);
            }
            if (lane == 0) {
                sums[group] = sum;
                picked[group] = 0;
            }
        }
        warp_barrier();
        uint64_t last = ~uint64_t(0);
        for (int j = 0; j < args.groups_chosen; j++) {
            uint64_t best = 0;
            for (int i = lane; i < groups; i += 32) {
                const uint64_t key = order_key(sums[i], uint32_t(i));
                best = key < last && key > best ? key : best;
            }
            last = warp_max_key(best);
            if (lane == 0) {
                picked[~uint32_t(last)] = 1;
            }
        }
        warp_barrier();
        for (int i = lane; i < experts; i += 32) {
            ranks[i] = picked[i / size] ? ranks[i] : 0;
        }
        warp_barrier();
    }
    uint64_t last = ~uint64_t(0);
    float sum = 0.0f;
    for (int j = 0; j < chosen; j++) {
        last = next_key(0, experts, last);
        const uint32_t id = ~uint32_t(last);
        const float score = score_of(int(id));
        sum += score;
        if (lane == 0) {
            ids[j] = id;
            scores[j] = score;
        }
    }
    warp_barrier();
    for (int j = lane; j < chosen; j += 32) {
        int place = 0;
        for (int other = 0; other < chosen; other++) {
            place += ids[other] < ids[j];
        }
        const float weight = args.renormalise ? scores[j] / (sum + args.epsilon) : scores[j];
        args.chosen_experts[row * chosen + place] = ids[j];
        args.weights[row * chosen + place] = weight * (args.expert_scale ? args.factor * args.expert_scale[ids[j]] : args.factor);
    }
}

// counts[experts]: the number of entries of each expert. Block: 256; grid: experts.
extern "C" __global__ void __launch_bounds__(256)
experts_count(const uint32_t *chosen_experts, int *counts, int entries) {
    __shared__ int warp_counts[8];
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    int count = 0;
    for (int start = 0; start < entries; start += 256) {
        const int i = start + int(threadIdx.x);
        count += bit_count(warp_ballot(i < entries && chosen_experts[i] == blockIdx.x));
    }
    if (lane == 0) {
        warp_counts[warp] = count;
    }
    block_barrier();
    if (threadIdx.x == 0) {
        int sum = 0;
        for (int i = 0; i < 8; i++) {
            sum += warp_counts[i];
        }
        counts[blockIdx.x] = sum;
    }
}

// Slots that one block processes, all of one expert; as in linear.cuh.
struct Tile {
    int expert, first, rows;
};

// Output of experts_place.
struct Slots {
    // [entries]: the row of each slot.
    uint32_t *rows;
    // [entries]: the slot of each entry.
    uint32_t *of_entry;
    // Runs of up to tile_rows slots of one expert, at most entries / tile_rows + experts of them; and their number.
    Tile *tiles;
    int *tile_count;
};

// Assigns a slot to every entry. Block: 256; grid: experts.
extern "C" __global__ void __launch_bounds__(256)
experts_place(const uint32_t *chosen_experts, const int *counts, Slots to, int entries, int chosen, int tile_rows) {
    __shared__ int warp_counts[8];
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, expert = int(blockIdx.x);
    int first = 0, tile = 0;
    for (int i = 0; i < expert; i++) {
        first += counts[i];
        tile += (counts[i] + tile_rows - 1) / tile_rows;
    }
    const int count = counts[expert], tiles = (count + tile_rows - 1) / tile_rows;
    for (int i = int(threadIdx.x); i < tiles; i += 256) {
        const int left = count - i * tile_rows;
        to.tiles[tile + i] = Tile{expert, first + i * tile_rows, left < tile_rows ? left : tile_rows};
    }
    if (blockIdx.x + 1 == gridDim.x && threadIdx.x == 0) {
        *to.tile_count = tile + tiles;
    }
    for (int start = 0; start < entries; start += 256) {
        const int i = start + int(threadIdx.x);
        const bool mine = i < entries && chosen_experts[i] == blockIdx.x;
        const uint32_t votes = warp_ballot(mine);
        if (lane == 0) {
            warp_counts[warp] = bit_count(votes);
        }
        block_barrier();
        int before = 0, all = 0;
        for (int w = 0; w < 8; w++) {
            before += w < warp ? warp_counts[w] : 0;
            all += warp_counts[w];
        }
        if (mine) {
            const int slot = first + before + bit_count(votes & ((1u << lane) - 1));
            to.rows[slot] = uint32_t(i / chosen);
            to.of_entry[i] = uint32_t(slot);
        }
        first += all;
        // The counts are overwritten in the next iteration.
        block_barrier();
    }
}

// out[r] += sum of weight * y[slot] over the row's experts, ascending; rows of `width` elements. Block: 256; grid: any.
extern "C" __global__ void __launch_bounds__(256)
experts_combine(const float *y, const uint32_t *slot_of_entry, const float *weights, float *out, int rows, int chosen,
                int width) {
    each_four(rows, width, [&](int64_t row, int at) {
        float sums[FOUR], values[FOUR];
        read_four(sums, out + row * width, at, width);
        for (int j = 0; j < chosen; j++) {
            const int64_t entry = row * chosen + j;
            const float weight = weights[entry];
            read_four(values, y + int64_t(slot_of_entry[entry]) * width, at, width);
#pragma unroll
            for (int i = 0; i < FOUR; i++) {
                sums[i] = fmaf(weight, values[i], sums[i]);
            }
        }
        write_four(out + row * width, at, width, sums);
    });
}

ENTRY(experts_route)
ENTRY(experts_count)
ENTRY(experts_place)
ENTRY(experts_combine)
