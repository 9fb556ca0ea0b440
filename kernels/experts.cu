// Routed experts: the routing, the lists for grouped products (linear.cuh), and the weighted sum of their results.
//
// A row's experts depend on its logits only. An entry is a pair (row, its j-th expert). A slot is a place in the list
// of all entries ordered by expert, then by row; it is the entry's row in the buffers between the products. A row's sum
// adds its experts in ascending order, independent of its slots.
#include "keys.cuh"
#include "rows.cuh"

// Chooses `chosen` experts for each row by the softmax of logits[rows, experts]. Writes chosen_experts[rows, chosen] in
// ascending order, and their probabilities to weights[rows, chosen], divided by their sum if `renormalise`. One warp
// per row. Block: 128; grid: rows / 4 rounded up; shared memory: 4 * chosen * 8.
extern "C" __global__ void __launch_bounds__(128)
experts_route(const float *logits, uint32_t *chosen_experts, float *weights, int rows, int experts, int chosen,
              int renormalise) {
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    const int64_t row = int64_t(blockIdx.x) * 4 + warp;
    uint32_t *ids = reinterpret_cast<uint32_t *>(dynamic_shared()) + warp * chosen * 2;
    float *probabilities = reinterpret_cast<float *>(ids + chosen);
    if (row >= rows) {
        return;
    }
    logits += row * experts;
    float highest = -INFINITY;
    for (int i = lane; i < experts; i += 32) {
        highest = fmaxf(highest, logits[i]);
    }
    highest = warp_max(highest);
    float total = 0.0f;
    for (int i = lane; i < experts; i += 32) {
        total += expf(logits[i] - highest);
    }
    total = warp_sum(total);
    uint64_t last = ~uint64_t(0);
    float sum = 0.0f;
    for (int j = 0; j < chosen; j++) {
        uint64_t best = 0;
        for (int i = lane; i < experts; i += 32) {
            const uint64_t key = order_key(logits[i], uint32_t(i));
            best = key < last && key > best ? key : best;
        }
        last = warp_max_key(best);
        const uint32_t id = ~uint32_t(last);
        const float probability = expf(logits[id] - highest) / total;
        sum += probability;
        if (lane == 0) {
            ids[j] = id;
            probabilities[j] = probability;
        }
    }
    warp_barrier();
    for (int j = lane; j < chosen; j += 32) {
        int place = 0;
        for (int other = 0; other < chosen; other++) {
            place += ids[other] < ids[j];
        }
        chosen_experts[row * chosen + place] = ids[j];
        weights[row * chosen + place] = renormalise ? probabilities[j] / sum : probabilities[j];
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
