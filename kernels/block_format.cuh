// How weights in blocks reach the tensor cores, whatever their format.
//
// A product multiplies integers; every part of a group is a sum of its own, which is scaled. Where weights have minima,
// these are multiplied with the sums of the inputs, which come from matrix operations with ones.
#pragma once

#include "blocks.cuh"
#include "formats.cuh"

// A format (formats.cuh) of blocks.
template <class B> struct BlockFormat {
    static constexpr int PARTS = B::PARTS;
    static constexpr bool MINIMA = B::MINIMA;
    // Steps of blocks with more to load are not loaded ahead by two.
    static constexpr int AHEAD = sizeof(typename B::Raw) <= 16 ? 2 : 1;

    // [group][output].
    struct Step {
        typename B::Raw raw[2][2];
    };

    // [group][output]: integers + 128, four in a word.
    struct Staged {
        uint32_t codes[2][2][2];
        float scales[2][2][PARTS], minima[2][2][PARTS];
    };

    struct Source {
        const unsigned char *rows[2], *odd[2];
        int t;
    };

    static __device__ __forceinline__ int out_of(int g, int half) { return g + 8 * half; }

    static __device__ __forceinline__ int groups(int ins) { return ins / 32; }

    static __device__ __forceinline__ Words4 input(const void *from, int t) {
        const unsigned char *at = static_cast<const unsigned char *>(from);
        if (PARTS == 1) {
            return load4(at + 16 * t);
        }
        const Words2 low = load2(at + 8 * t), high = load2(at + 32 + 8 * t);
        return {{low.w[0], low.w[1], high.w[0], high.w[1]}};
    }

    static __device__ __forceinline__ const unsigned char *row(const void *weight, int outs, int ins, int out) {
        return static_cast<const unsigned char *>(weight) + int64_t(out < outs ? out : outs - 1) * row_bytes<B>(ins);
    }

    static __device__ __forceinline__ Source source(const void *weight, int outs, int ins, int, int tile, int g, int t) {
        Source s;
        for (int half = 0; half < 2; half++) {
            s.rows[half] = row(weight, outs, ins, 16 * tile + out_of(g, half));
            s.odd[half] = odd_bytes<B>(s.rows[half], ins);
        }
        s.t = t;
        return s;
    }

    // The last step may have only one group.
    static __device__ __forceinline__ void load(Step &to, const Source &from, int step, int ins) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (step * 2 + i < groups(ins)) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    load_group<B>(to.raw[i][half], from.rows[half], from.odd[half], step * 2 + i, from.t);
                }
            }
        }
    }

    // Layout in shared memory: [2 groups][rows][32 integers, the lanes' eights in order], then [rows][2 groups] scales of
    // the parts, and minima in the same way.
    static constexpr int KINDS = MINIMA ? 2 : 1;

    static __device__ constexpr int tile_bytes(int outs) { return outs * STEP + KINDS * outs * 2 * PARTS * 4; }

    // A thread copies a group of a row. What it loads is decoded when the next copy starts, or the copies end: stages
    // are at least three.
    template <int OUTS, int THREADS> struct Copier {
        static_assert(THREADS == 2 * OUTS, "a thread for each group of a step");
        typename B::Raw raw[4];
        const unsigned char *from, *odd;
        unsigned char *waiting;
        int group;

        __device__ __forceinline__ Copier(const void *weight, int outs, int ins, int, int first) {
            from = row(weight, outs, ins, first + int(threadIdx.x) / 2);
            odd = odd_bytes<B>(from, ins);
            waiting = nullptr;
            group = 0;
        }

        __device__ __forceinline__ void start(unsigned char *to, int step, int ins) {
            finish();
            group = step * 2 + int(threadIdx.x) % 2;
            if (group < groups(ins)) {
#pragma unroll
                for (int t = 0; t < 4; t++) {
                    load_group<B>(raw[t], from, odd, group, t);
                }
                waiting = to;
            }
        }

        __device__ __forceinline__ void finish() {
            if (!waiting) {
                return;
            }
            const int at = int(threadIdx.x) / 2, half = int(threadIdx.x) % 2, sub = group % B::SUBS;
            uint32_t codes[4][2];
#pragma unroll
            for (int t = 0; t < 4; t++) {
                B::integers(raw[t], sub, t, codes[t]);
            }
#pragma unroll
            for (int t = 0; t < 4; t += 2) {
                store4(waiting + (half * OUTS + at) * 32 + 8 * t, {{codes[t][0], codes[t][1], codes[t + 1][0], codes[t + 1][1]}});
            }
            float scales[PARTS], minima[PARTS];
            B::parts(raw[0], sub, scales, minima);
            float *to = reinterpret_cast<float *>(waiting + OUTS * STEP) + (at * 2 + half) * PARTS;
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                to[part] = scales[part];
                if (MINIMA) {
                    to[OUTS * 2 * PARTS + part] = minima[part];
                }
            }
            waiting = nullptr;
        }
    };

    template <int OUTS>
    static __device__ __forceinline__ void load_shared(Staged &to, const unsigned char *from, int tile, int g, int t) {
        const float *parts = reinterpret_cast<const float *>(from + OUTS * STEP);
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int at = 16 * tile + out_of(g, half);
                const Words2 words = load2(from + (i * OUTS + at) * 32 + 8 * t);
                to.codes[i][half][0] = words.w[0];
                to.codes[i][half][1] = words.w[1];
#pragma unroll
                for (int part = 0; part < PARTS; part++) {
                    const int place = (at * 2 + i) * PARTS + part;
                    to.scales[i][half][part] = parts[place];
                    if (MINIMA) {
                        to.minima[i][half][part] = parts[OUTS * 2 * PARTS + place];
                    }
                }
            }
        }
    }

    template <int NT, class Input>
    static __device__ __forceinline__ void multiply(float (&acc)[NT][4], const Step &s, int step, int ins, Input input) {
        Staged staged;
        const int t = int(threadIdx.x) % 4;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int sub = (step * 2 + i) % B::SUBS;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                B::integers(s.raw[i][half], sub, t, staged.codes[i][half]);
                B::parts(s.raw[i][half], sub, staged.scales[i][half], staged.minima[i][half]);
            }
        }
        multiply(acc, staged, step, ins, input);
    }

    // acc += scale * sums - minimum * the sum of the inputs, for both outputs of the lane.
    static __device__ __forceinline__ void add_part(float (&acc)[4], const float (&sums)[4], const float (&inputs)[4],
                                                    const Staged &s, int i, int part) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
#pragma unroll
            for (int k = 0; k < 2; k++) {
                float &to = acc[2 * half + k];
                to = fmaf(s.scales[i][half][part], sums[2 * half + k], to);
                if (MINIMA) {
                    to = fmaf(-s.minima[i][half][part], inputs[2 * half + k], to);
                }
            }
        }
    }

    template <int NT, class Input>
    static __device__ __forceinline__ void multiply(float (&acc)[NT][4], const Staged &s, int step, int ins, Input input) {
        // [group][word].
        uint32_t a[2][2][4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int word = 0; word < 2; word++) {
                a[i][word][0] = two_codes(s.codes[i][0][word], 0);
                a[i][word][1] = two_codes(s.codes[i][1][word], 0);
                a[i][word][2] = two_codes(s.codes[i][0][word], 2);
                a[i][word][3] = two_codes(s.codes[i][1][word], 2);
            }
        }
        // The sums of the inputs come from products with ones.
        const uint32_t ones[4] = {0x3F803F80u, 0x3F803F80u, 0x3F803F80u, 0x3F803F80u};
        const bool both = step * 2 + 1 < groups(ins);
#pragma unroll
        for (int n = 0; n < NT; n++) {
            Words4 x[2];
            input(n, x);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                if (i == 0 || both) {
#pragma unroll
                    for (int part = 0; part < PARTS; part++) {
                        float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f}, inputs[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
                        for (int word = part; word < 2; word += PARTS) {
                            mma(sums, a[i][word], x[i].w[2 * word], x[i].w[2 * word + 1]);
                            if (MINIMA) {
                                mma(inputs, ones, x[i].w[2 * word], x[i].w[2 * word + 1]);
                            }
                        }
                        add_part(acc[n], sums, inputs, s, i, part);
                    }
                }
            }
        }
    }
};
