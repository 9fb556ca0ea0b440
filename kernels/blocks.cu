// Weights in blocks of GGUF files (blocks.cuh): products (linear.cuh) and embeddings.
#include "block_format.cuh"
#include "linear.cuh"
#include "rows.cuh"
#include "tokens.cuh"

// out[rows, width] = table[tokens[r]] * scale; an element of the table is its block's scale * integer, rounded, less the minimum.
template <class B>
__device__ __forceinline__ void embed(const unsigned char *table, const uint32_t *tokens, const uint32_t *sampled, float scale,
                                      float *out, int rows, int width) {
    each_four(rows, width, [&](int64_t row, int at) {
        const unsigned char *from = table + token_of(tokens[row], sampled) * row_bytes<B>(width);
        const int group = at / 32, in_group = at % 32, sub = group % B::SUBS;
        // Whose word of the group these four are.
        const int t = B::PARTS == 1 ? in_group / 8 : in_group % 16 / 4;
        const int word = B::PARTS == 1 ? in_group % 8 / 4 : in_group / 16;
        typename B::Raw raw;
        load_group<B>(raw, from, odd_bytes<B>(from, width), group, t);
        uint32_t codes[2];
        B::integers(raw, sub, t, codes);
        float scales[B::PARTS], minima[B::PARTS], values[FOUR];
        B::parts(raw, sub, scales, minima);
        const int part = B::PARTS == 1 ? 0 : word;
#pragma unroll
        for (int i = 0; i < FOUR; i++) {
            const float product = scales[part] * float(int(codes[word] >> (8 * i) & 255) - 128);
            values[i] = B::MINIMA ? product - minima[part] : product;
        }
        scale_four(values, scale);
        write_four(out + row * width, at, width, values);
    });
}

// linear_few8_<format>, linear_few32_<format>, linear_128x64_<format> as in linear.cuh; embed_<format> as in
// elementwise.cu, without a pitch.
#define BLOCKS(name, format)                                                                                           \
    FEW(linear_few8_##name, BlockFormat<format>, 1, 2)                                                                 \
    FEW(linear_few32_##name, BlockFormat<format>, 4, 0)                                                                \
    TILED(linear_128x64_##name, BlockFormat<format>, 8, 1, 1, 8, 3, 0)                                                 \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
    embed_##name(const unsigned char *table, int, const uint32_t *tokens, const uint32_t *sampled, float scale,        \
                 float *out, int rows, int width) {                                                                    \
        embed<format>(table, tokens, sampled, scale, out, rows, width);                                                \
    }                                                                                                                  \
    ENTRY(embed_##name)

BLOCKS(q4_0, Q4_0)
BLOCKS(q4_1, Q4_1)
BLOCKS(q5_0, Q5_0)
BLOCKS(q5_1, Q5_1)
BLOCKS(q8_0, Q8_0)
BLOCKS(q2_k, Q2K)
BLOCKS(q3_k, Q3K)
BLOCKS(q4_k, Q4K)
BLOCKS(q5_k, Q5K)
BLOCKS(q6_k, Q6K)
BLOCKS(iq4_nl, Iq4Nl)
BLOCKS(iq4_xs, Iq4Xs)
BLOCKS(mxfp4, Mxfp4)
