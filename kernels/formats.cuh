// The formats in which weights reach the tensor cores: one structure per format, all with the same members.
//
// A step is 64 inputs. Of every 16 outputs, lane (g, t) of a warp holds two, chosen by the format (`out_of`); and of
// every 32 inputs the eight from 8t on. These fill the k slots of two matrix operations in this order:
//
//   first:  slots 2t, 2t + 1, 2t + 8, 2t + 9  hold inputs 8t + 0, 1, 2, 3
//   second: the same slots                    hold inputs 8t + 4, 5, 6, 7
//
// so that weights and activations go from memory to registers 16 bytes at a time, without shuffles. Every kernel that
// uses a format performs the same operations in the same order for an element of the result.
#pragma once

#include "device.cuh"

constexpr int STEP = 64;

// The order of inputs above: those of a lane are adjacent. Copies to shared memory have finished once they were waited
// for.
struct Adjacent {
    // A lane's eight inputs of 32.
    static __device__ __forceinline__ Words4 input(const void *from, int t) {
        return load4(static_cast<const unsigned char *>(from) + 16 * t);
    }

    struct Copies {
        __device__ __forceinline__ void finish() const {}
    };
};

// bf16, row by row, rows `pitch` elements apart: a multiple of 64, zeros after the last input.
struct Bf16Format : Adjacent {
    struct Step {
        // Both outputs, both blocks of 32 inputs.
        Words4 w[2][2];
    };
    using Staged = Step;

    struct Source {
        const bf16 *rows[2];
    };

    // Steps that a warp of the kernel for few rows loads ahead.
    static constexpr int AHEAD = 2;

    static __device__ __forceinline__ int out_of(int g, int half) { return g + 8 * half; }

    // For outputs 16 * tile ... of a matrix. Outputs after the last read its weights; their results are not written.
    static __device__ __forceinline__ Source source(const void *weight, int outs, int, int pitch, int tile, int g, int t) {
        Source s;
        for (int half = 0; half < 2; half++) {
            const int out = 16 * tile + g + 8 * half;
            s.rows[half] = static_cast<const bf16 *>(weight) + int64_t(out < outs ? out : outs - 1) * pitch + 8 * t;
        }
        return s;
    }

    static __device__ __forceinline__ void load(Step &to, const Source &from, int step, int) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
#pragma unroll
            for (int block = 0; block < 2; block++) {
                to.w[half][block] = load4_once(from.rows[half] + step * STEP + 32 * block);
            }
        }
    }

    // Layout in shared memory: [2 blocks][rows][64 bytes]. Rows of the second block are swapped in pairs, so that eight
    // lanes that write a row use all banks.
    static __device__ constexpr int tile_bytes(int outs) { return outs * STEP * 2; }

    template <int OUTS, int THREADS> struct Copier : Copies {
        static constexpr int EACH = OUTS * 8 / THREADS;
        const bf16 *from[EACH];

        __device__ __forceinline__ Copier(const void *weight, int outs, int, int pitch, int first) {
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                const int chunk = int(threadIdx.x) + i * THREADS, out = first + chunk / 8;
                from[i] = static_cast<const bf16 *>(weight) + int64_t(out < outs ? out : outs - 1) * pitch + chunk % 8 * 8;
            }
        }

        __device__ __forceinline__ void start(unsigned char *to, int step, int) const {
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                const int chunk = int(threadIdx.x) + i * THREADS, row = chunk / 8, block = chunk % 8 / 4;
                copy_async(to + (block * OUTS + (row ^ block)) * 64 + chunk % 4 * 16, from[i] + step * STEP, true);
            }
        }
    };

    template <int OUTS>
    static __device__ __forceinline__ void load_shared(Step &to, const unsigned char *from, int tile, int g, int t) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
#pragma unroll
            for (int block = 0; block < 2; block++) {
                const int row = 16 * tile + g + 8 * half;
                to.w[half][block] = load4(from + (block * OUTS + (row ^ block)) * 64 + 16 * t);
            }
        }
    }

    // acc[n] += the products of the step with the n-th 8 rows; `input(n, x)` gets the lane's inputs of row g of those.
    template <int NT, class Input>
    static __device__ __forceinline__ void multiply(float (&acc)[NT][4], const Step &s, int, int, Input input) {
#pragma unroll
        for (int n = 0; n < NT; n++) {
            Words4 x[2];
            input(n, x);
#pragma unroll
            for (int block = 0; block < 2; block++) {
                const Words4 &low = s.w[0][block], &high = s.w[1][block];
                const uint32_t first[4] = {low.w[0], high.w[0], low.w[1], high.w[1]};
                const uint32_t second[4] = {low.w[2], high.w[2], low.w[3], high.w[3]};
                mma(acc[n], first, x[block].w[0], x[block].w[1]);
                mma(acc[n], second, x[block].w[2], x[block].w[3]);
            }
        }
    }
};

// The panels of src/encoding.rs: [scales][codes] for each 16 outputs. A lane's outputs are 2g and 2g + 1, which are
// adjacent.
template <int GROUP, int GROUP_BYTES> struct Panels : Adjacent {
    static __device__ __forceinline__ int groups(int ins) { return (ins + GROUP - 1) / GROUP; }

    static __device__ __forceinline__ int64_t scale_bytes(int ins) { return (int64_t(groups(ins)) * 32 + 63) / 64 * 64; }

    static __device__ __forceinline__ const unsigned char *panel(const void *weight, int outs, int ins, int tile) {
        const int last = (outs + 15) / 16 - 1;
        const int64_t bytes = scale_bytes(ins) + int64_t(groups(ins)) * GROUP_BYTES;
        return static_cast<const unsigned char *>(weight) + (tile < last ? tile : last) * bytes;
    }
};

// acc += scale * sum of a group, for both outputs of the lane.
__device__ __forceinline__ void add_group(float (&acc)[4], const float (&sums)[4], uint32_t scales) {
    const float low = bits_to_float(scales << 16), high = bits_to_float(scales & 0xFFFF0000u);
    acc[0] = fmaf(low, sums[0], acc[0]);
    acc[1] = fmaf(low, sums[1], acc[1]);
    acc[2] = fmaf(high, sums[2], acc[2]);
    acc[3] = fmaf(high, sums[3], acc[3]);
}

// Converts two of four bytes, from `first` on, to bf16: 128 less each, exactly. A byte in the low bits of 2^23 gives the
// number 2^23 + byte.
__device__ __forceinline__ uint32_t two_codes(uint32_t codes, int first) {
    const float low = bits_to_float(byte_permute(codes, 0x4B000000u, 0x7440u | uint32_t(first)));
    const float high = bits_to_float(byte_permute(codes, 0x4B000000u, 0x7441u + uint32_t(first)));
    return pack_bf16(low - 8388736.0f, high - 8388736.0f);
}

// 8-bit integers in groups of 32 inputs.
struct Q8Format : Panels<32, 512> {
    struct Step {
        // [group][first or last four inputs]: four codes of each of the two outputs.
        Words2 w[2][2];
        // Of each group, the scales of both outputs, in bf16.
        uint32_t scales[2];
    };
    using Staged = Step;

    struct Source {
        const unsigned char *scales, *codes;
    };

    static constexpr int AHEAD = 4;

    static __device__ __forceinline__ int out_of(int g, int half) { return 2 * g + half; }

    static __device__ __forceinline__ Source source(const void *weight, int outs, int ins, int, int tile, int g, int t) {
        const unsigned char *start = panel(weight, outs, ins, tile);
        return {start + 4 * g, start + scale_bytes(ins) + 128 * t + 8 * g};
    }

    // The last step may have only one group.
    static __device__ __forceinline__ void load(Step &to, const Source &from, int step, int ins) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int group = step * 2 + i;
            if (group < groups(ins)) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    to.w[i][half] = load2_once(from.codes + int64_t(group) * 512 + half * 64);
                }
                to.scales[i] = load1(from.scales + group * 32);
            }
        }
    }

    // Layout in shared memory: [panels][2 groups of 512 bytes], then [panels][64 bytes of scales]. The 16-byte pieces of
    // a 128-byte line are permuted by the line's number, so that the lanes of half a warp use all banks.
    static __device__ constexpr int tile_bytes(int outs) { return outs / 16 * (1024 + 64); }

    template <int OUTS, int THREADS> struct Copier : Copies {
        static constexpr int EACH = OUTS * 4 / THREADS;
        const unsigned char *from[EACH], *scales;

        __device__ __forceinline__ Copier(const void *weight, int outs, int ins, int, int first) {
            scales = panel(weight, outs, ins, first / 16 + int(threadIdx.x) / 4) + threadIdx.x % 4 * 16;
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                const int chunk = int(threadIdx.x) + i * THREADS;
                from[i] = panel(weight, outs, ins, first / 16 + chunk / 64) + scale_bytes(ins) + chunk % 32 * 16;
            }
        }

        __device__ __forceinline__ void start(unsigned char *to, int step, int ins) const {
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                const int chunk = int(threadIdx.x) + i * THREADS, line = chunk / 8, group = step * 2 + chunk % 64 / 32;
                const bool real = group < groups(ins);
                unsigned char *place = to + line * 128 + (chunk % 8 ^ line % 4 * 2) * 16;
                copy_async(place, from[i] + int64_t(real ? group : 0) * 512, real);
            }
            if (threadIdx.x < OUTS / 16 * 4) {
                copy_async(to + OUTS * 64 + threadIdx.x * 16, scales + step * 64, true);
            }
        }
    };

    template <int OUTS>
    static __device__ __forceinline__ void load_shared(Step &to, const unsigned char *from, int tile, int g, int t) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int line = i / 2 * 4 + t, piece = (i % 2 * 4 + g / 2) ^ 2 * t;
            to.w[i / 2][i % 2] = load2(from + tile * 1024 + line * 128 + piece * 16 + g % 2 * 8);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            to.scales[i] = load1(from + OUTS * 64 + tile * 64 + i * 32 + 4 * g);
        }
    }

    template <int NT, class Input>
    static __device__ __forceinline__ void multiply(float (&acc)[NT][4], const Step &s, int step, int ins, Input input) {
        uint32_t a[4][4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const Words2 &w = s.w[i / 2][i % 2];
            a[i][0] = two_codes(w.w[0], 0);
            a[i][1] = two_codes(w.w[1], 0);
            a[i][2] = two_codes(w.w[0], 2);
            a[i][3] = two_codes(w.w[1], 2);
        }
        const bool both = step * 2 + 1 < groups(ins);
#pragma unroll
        for (int n = 0; n < NT; n++) {
            Words4 x[2];
            input(n, x);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                if (i == 0 || both) {
                    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                    mma(sums, a[2 * i], x[i].w[0], x[i].w[1]);
                    mma(sums, a[2 * i + 1], x[i].w[2], x[i].w[3]);
                    add_group(acc[n], sums, s.scales[i]);
                }
            }
        }
    }
};

// The integers for the sixteen 4-bit codes: Q4_VALUES of src/encoding.rs.
constexpr int Q4_VALUES[16] = {-127, -99, -76, -59, -44, -31, -19, -8, 2, 12, 23, 34, 47, 63, 81, 105};

// The bits of an integer of magnitude below 128 as bf16.
__device__ constexpr uint32_t bf16_of(int value) {
    const int size = value < 0 ? -value : value;
    int exponent = 0;
    while (size >> exponent > 1) {
        exponent++;
    }
    return uint32_t((value < 0 ? 0x8000 : 0) | (127 + exponent) << 7 | ((size << (7 - exponent)) & 127));
}

// The low bytes (shift 0) or the high bytes (shift 8) of four values from `first` on.
__device__ constexpr uint32_t q4_bytes(int first, int shift) {
    uint32_t bytes = 0;
    for (int i = 0; i < 4; i++) {
        bytes |= (bf16_of(Q4_VALUES[first + i]) >> shift & 255) << (8 * i);
    }
    return bytes;
}

// 4-bit codes in groups of 32 inputs.
struct Q4Format : Panels<32, 256> {
    struct Step {
        // For both groups: eight codes of each of the two outputs.
        Words2 w[2];
        uint32_t scales[2];
    };
    using Staged = Step;

    struct Source {
        const unsigned char *scales, *codes;
    };

    static constexpr int AHEAD = 4;

    static __device__ __forceinline__ int out_of(int g, int half) { return 2 * g + half; }

    static __device__ __forceinline__ Source source(const void *weight, int outs, int ins, int, int tile, int g, int t) {
        const unsigned char *start = panel(weight, outs, ins, tile);
        return {start + 4 * g, start + scale_bytes(ins) + 64 * t + 8 * g};
    }

    // The last step may have only one group.
    static __device__ __forceinline__ void load(Step &to, const Source &from, int step, int ins) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int group = step * 2 + i;
            if (group < groups(ins)) {
                to.w[i] = load2_once(from.codes + int64_t(group) * 256);
                to.scales[i] = load1(from.scales + group * 32);
            }
        }
    }

    // Layout in shared memory: [panels][2 groups of 256 bytes], then [panels][64 bytes of scales]. In the second line
    // of each group the 16-byte pieces are swapped in pairs of two, to avoid bank conflicts.
    static __device__ constexpr int tile_bytes(int outs) { return outs / 16 * (512 + 64); }

    template <int OUTS, int THREADS> struct Copier : Copies {
        static constexpr int EACH = OUTS * 2 / THREADS;
        const unsigned char *from[EACH], *scales;

        __device__ __forceinline__ Copier(const void *weight, int outs, int ins, int, int first) {
            scales = panel(weight, outs, ins, first / 16 + int(threadIdx.x) / 4) + threadIdx.x % 4 * 16;
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                const int chunk = int(threadIdx.x) + i * THREADS;
                from[i] = panel(weight, outs, ins, first / 16 + chunk / 32) + scale_bytes(ins) + chunk % 16 * 16;
            }
        }

        __device__ __forceinline__ void start(unsigned char *to, int step, int ins) const {
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                const int chunk = int(threadIdx.x) + i * THREADS, group = step * 2 + chunk % 32 / 16;
                const bool real = group < groups(ins);
                const int place = chunk ^ chunk % 16 / 8 * 2;
                copy_async(to + place * 16, from[i] + int64_t(real ? group : 0) * 256, real);
            }
            if (threadIdx.x < OUTS / 16 * 4) {
                copy_async(to + OUTS * 32 + threadIdx.x * 16, scales + step * 64, true);
            }
        }
    };

    template <int OUTS>
    static __device__ __forceinline__ void load_shared(Step &to, const unsigned char *from, int tile, int g, int t) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int chunk = t * 4 + g / 2, place = chunk ^ chunk / 8 * 2;
            to.w[i] = load2(from + tile * 512 + i * 256 + place * 16 + g % 2 * 8);
            to.scales[i] = load1(from + OUTS * 32 + tile * 64 + i * 32 + 4 * g);
        }
    }

    // Converts eight codes to bf16: pairs[0..3] are inputs (0, 1), (2, 3), (4, 5), (6, 7). A byte holds the codes of
    // inputs i and i + 4. The bytes of the numbers are looked up four at a time: by the code's low bits in both halves
    // of the table, then chosen by bit 3.
    static __device__ __forceinline__ void eight(uint32_t codes, uint32_t (&pairs)[4]) {
        constexpr uint32_t LOW[4] = {q4_bytes(0, 0), q4_bytes(4, 0), q4_bytes(8, 0), q4_bytes(12, 0)};
        constexpr uint32_t HIGH[4] = {q4_bytes(0, 8), q4_bytes(4, 8), q4_bytes(8, 8), q4_bytes(12, 8)};
        const uint32_t in_half = codes & 0x77777777u, halves = (codes >> 1 & 0x44444444u) | 0x32103210u;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t at = in_half >> (16 * i) & 0xFFFFu, half = halves >> (16 * i) & 0xFFFFu;
            const uint32_t low = byte_permute(byte_permute(LOW[0], LOW[1], at), byte_permute(LOW[2], LOW[3], at), half);
            const uint32_t high = byte_permute(byte_permute(HIGH[0], HIGH[1], at), byte_permute(HIGH[2], HIGH[3], at), half);
            pairs[i] = byte_permute(low, high, 0x6240);
            pairs[2 + i] = byte_permute(low, high, 0x7351);
        }
    }

    template <int NT, class Input>
    static __device__ __forceinline__ void multiply(float (&acc)[NT][4], const Step &s, int step, int ins, Input input) {
        uint32_t a[4][4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint32_t low[4], high[4];
            eight(s.w[i].w[0], low);
            eight(s.w[i].w[1], high);
#pragma unroll
            for (int j = 0; j < 2; j++) {
                a[2 * i + j][0] = low[2 * j];
                a[2 * i + j][1] = high[2 * j];
                a[2 * i + j][2] = low[2 * j + 1];
                a[2 * i + j][3] = high[2 * j + 1];
            }
        }
        const bool both = step * 2 + 1 < groups(ins);
#pragma unroll
        for (int n = 0; n < NT; n++) {
            Words4 x[2];
            input(n, x);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                if (i == 0 || both) {
                    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                    mma(sums, a[2 * i], x[i].w[0], x[i].w[1]);
                    mma(sums, a[2 * i + 1], x[i].w[2], x[i].w[3]);
                    add_group(acc[n], sums, s.scales[i]);
                }
            }
        }
    }
};
