// Operations on elements and whole rows: embedding, gather, rotary angles, activations and gates, scales and caps, conversion to
// bf16; random weights.
//
// Every thread computes whole elements from elements of the same row only, so a row does not depend on other rows. The
// kernels loop over the grid: any number of blocks gives the same result. Those that run in every layer iterate over
// rows as in rows.cuh.
#include "activation.cuh"
#include "formats.cuh"
#include "rows.cuh"
#include "tokens.cuh"

// Loops over the elements of this thread.
#define EACH(i, count)                                                                                                 \
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < (count); i += int64_t(gridDim.x) * blockDim.x)

// out[rows, width] = table[tokens[r]] * scale; the table is bf16 with rows `pitch` elements apart. Block: 256; grid: any.
extern "C" __global__ void __launch_bounds__(256)
embed_bf16(const bf16 *table, int pitch, const uint32_t *tokens, const uint32_t *sampled, float scale, float *out, int rows,
           int width) {
    each_four(rows, width, [&](int64_t row, int at) {
        // Reads up to the end of the last four, which is inside the row: the pitch is a multiple of 64.
        const Words2 words = load2(table + token_of(tokens[row], sampled) * pitch + at);
        float values[FOUR] = {bits_to_float(words.w[0] << 16), bits_to_float(words.w[0] & 0xFFFF0000u),
                              bits_to_float(words.w[1] << 16), bits_to_float(words.w[1] & 0xFFFF0000u)};
        scale_four(values, scale);
        write_four(out + row * width, at, width, values);
    });
}

// The same from a table of f32.
extern "C" __global__ void __launch_bounds__(256)
embed_f32(const float *table, int pitch, const uint32_t *tokens, const uint32_t *sampled, float scale, float *out, int rows,
          int width) {
    each_four(rows, width, [&](int64_t row, int at) {
        float values[FOUR];
        read_four(values, table + token_of(tokens[row], sampled) * pitch, at, width);
        scale_four(values, scale);
        write_four(out + row * width, at, width, values);
    });
}

// out[i] = x[rows_wanted[i]], for rows of `width` elements. Block: 256; grid: any.
extern "C" __global__ void __launch_bounds__(256)
gather_rows(const float *x, const uint32_t *rows_wanted, float *out, int rows, int width) {
    each_four(rows, width, [&](int64_t row, int at) {
        float values[FOUR];
        read_four(values, x + int64_t(rows_wanted[row]) * width, at, width);
        write_four(out + row * width, at, width, values);
    });
}

// out[rows, 2, half]: cosines, then sines, of positions[r] * inv_freq[i], times `scale`. The angle is rounded to f32
// first, as in the training of the models. Block: 256; grid: any.
extern "C" __global__ void __launch_bounds__(256)
rotary_angles(const uint32_t *positions, const float *inv_freq, float scale, float *out, int rows, int half) {
    EACH(i, int64_t(rows) * half) {
        const int64_t row = i / half, at = i - row * half;
        const float angle = float(positions[row]) * inv_freq[at];
        out[row * 2 * half + at] = cosf(angle) * scale;
        out[row * 2 * half + half + at] = sinf(angle) * scale;
    }
}

// out[rows, pitch] = x[rows, width] rounded to bf16, zeros from width to pitch: the form that products read. Block:
// 256; grid: any.
extern "C" __global__ void __launch_bounds__(256)
round_rows(const float *x, bf16 *out, int rows, int width, int pitch) {
    each_four(rows, pitch, [&](int64_t row, int at) {
        float values[FOUR];
        read_four(values, x + row * width, at, width);
        round_four(out + row * pitch + at, values);
    });
}

// gate[i] = activation(gate[i]) * up[i], or without `up` activation(gate[i]). Block: 256; grid: any.
extern "C" __global__ void __launch_bounds__(256)
gate_elements(float *gate, const float *up, int64_t elements, Activation activation) {
    with_curve(activation, [&](auto curve) {
        EACH(i, elements) { gate[i] = up ? curve.gated(gate[i], up[i]) : curve.one(gate[i]); }
    });
}

// out[rows, pitch] = the same of gate and up [rows, width], rounded to bf16, zeros from width to pitch: the input of a product.
// Block: 256; grid: any.
extern "C" __global__ void __launch_bounds__(256)
gate_rows(const float *gate, const float *up, bf16 *out, int rows, int width, int pitch, Activation activation) {
    with_curve(activation, [&](auto curve) {
        each_four(rows, pitch, [&](int64_t row, int at) {
            float values[FOUR], factors[FOUR];
            read_four(values, gate + row * width, at, width);
            if (up) {
                read_four(factors, up + row * width, at, width);
            }
#pragma unroll
            for (int i = 0; i < FOUR; i++) {
                values[i] = up ? curve.gated(values[i], factors[i]) : curve.one(values[i]);
            }
            round_four(out + row * pitch + at, values);
        });
    });
}

// x[r, h, i] *= f(gate[r, h, i]), where f is the sigmoid, of kind 1 g * sigmoid(g), of kind 2 g; x is [rows, heads, dim].
// Head h of the gate's row r begins at r * row_stride +
// h * head_stride and has `gate_dim` elements: dim, or one for the whole head. Block: 256; grid: any.
extern "C" __global__ void __launch_bounds__(256)
gate_mul(float *x, const float *gate, int64_t row_stride, int64_t head_stride, int rows, int heads, int dim, int gate_dim, int kind) {
    const int width = heads * dim;
    each_four(rows, width, [&](int64_t row, int at) {
        float values[FOUR];
        read_four(values, x + row * width, at, width);
#pragma unroll
        for (int i = 0; i < FOUR; i++) {
            if (at + i < width) {
                const int head = (at + i) / dim, element = gate_dim == 1 ? 0 : at + i - head * dim;
                const float with = gate[row * row_stride + head * head_stride + element];
                values[i] = kind == 2 ? values[i] : values[i] / (1.0f + expf(-with));
                values[i] = kind == 0 ? values[i] : values[i] * with;
            }
        }
        write_four(x + row * width, at, width, values);
    });
}

// x[r] *= 1 + beta * ln(1 + floor(positions[r] / period)); rows of `width` elements. Block: 256; grid: any.
extern "C" __global__ void __launch_bounds__(256)
scale_by_position(float *x, const uint32_t *positions, float beta, float period, int rows, int width) {
    each_four(rows, width, [&](int64_t row, int at) {
        float values[FOUR];
        read_four(values, x + row * width, at, width);
        scale_four(values, 1.0f + beta * log1pf(floorf(float(positions[row]) / period)));
        write_four(x + row * width, at, width, values);
    });
}

// x[i] = value. Block: 256; grid: any.
extern "C" __global__ void __launch_bounds__(256) fill_elements(float *x, float value, int64_t elements) {
    EACH(i, elements) { x[i] = value; }
}

// x[i] *= factor. Block: 256; grid: any.
extern "C" __global__ void __launch_bounds__(256) scale_elements(float *x, float factor, int64_t elements) {
    EACH(i, elements) { x[i] *= factor; }
}

// x[i] = cap * tanh(x[i] / cap). Block: 256; grid: any.
extern "C" __global__ void __launch_bounds__(256) cap_elements(float *x, float cap, int64_t elements) {
    EACH(i, elements) { x[i] = cap * tanhf(x[i] / cap); }
}

// x[i] += factor * y[i]. Block: 256; grid: any.
extern "C" __global__ void __launch_bounds__(256) add_scaled(float *x, const float *y, float factor, int64_t elements) {
    EACH(i, elements) { x[i] = fmaf(factor, y[i], x[i]); }
}

// The random number with this index: SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators").
__device__ __forceinline__ uint64_t hash_of(uint64_t seed, uint64_t index) {
    uint64_t z = seed + (index + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

// Roughly normal with standard deviation 1, within +-3.5: a sum of four uniform numbers.
__device__ __forceinline__ float normal_of(uint64_t hash) {
    const int sum = int(hash & 65535) + int(hash >> 16 & 65535) + int(hash >> 32 & 65535) + int(hash >> 48);
    return float(sum - 131070) * (1.0f / 37837.2f);
}

// to[rows, pitch]: roughly normal random weights, zeros from ins to pitch. For benchmarks: large models need no host
// memory, and the same seed gives the same weights. Block: 256; grid: any.
extern "C" __global__ void __launch_bounds__(256)
fill_random_bf16(bf16 *to, uint64_t seed, float deviation, int rows, int ins, int pitch) {
    EACH(i, int64_t(rows) * pitch) {
        const int64_t row = i / pitch, at = i - row * pitch;
        to[i] = at < ins ? to_bf16(normal_of(hash_of(seed, uint64_t(row * ins + at))) * deviation) : bf16(0);
    }
}

// The same in f32.
extern "C" __global__ void __launch_bounds__(256)
fill_random_f32(float *to, uint64_t seed, float deviation, int rows, int ins, int pitch) {
    EACH(i, int64_t(rows) * pitch) {
        const int64_t row = i / pitch, at = i - row * pitch;
        to[i] = at < ins ? normal_of(hash_of(seed, uint64_t(row * ins + at))) * deviation : 0.0f;
    }
}

// Random panels in the layout of src/encoding.rs. `code(hash)` gives a code; PER_WORD of them fill four bytes, and
// `spread` is the standard deviation of their integers. Scales vary by up to a quarter from group to group. A thread
// writes words of four bytes: of scales, then of codes.
template <class F, int GROUP, int GROUP_BYTES, int PER_WORD, class Code>
__device__ __forceinline__ void fill_panels(unsigned char *to, uint64_t seed, float deviation, int outs, int ins,
                                            float spread, Code code) {
    const int64_t groups = F::groups(ins), scale_words = F::scale_bytes(ins) / 4;
    const int64_t words = scale_words + groups * GROUP_BYTES / 4;
    // 1.010363 is the factor by which the varying scales increase the deviation.
    const float scale = deviation / spread / 1.010363f;
    EACH(i, (outs + 15) / 16 * words) {
        const int64_t panel = i / words, word = i - panel * words;
        uint32_t bits = 0;
        for (int part = 0; word < scale_words && part < 2; part++) {
            const int64_t at = 2 * word + part, group = at / 16, out = panel * 16 + at % 16;
            if (group < groups && out < outs) {
                const uint64_t hash = hash_of(~seed, uint64_t(out * groups + group));
                const float factor = 0.75f + float(hash >> 40) * (0.5f / 16777216.0f);
                bits |= uint32_t(to_bf16(scale * factor)) << (16 * part);
            }
        }
        if (word >= scale_words) {
            const int64_t at = word - scale_words, out = panel * 16 + at % 16, input = at / 16 * PER_WORD;
            for (int k = 0; k < PER_WORD; k++) {
                const uint32_t c = code(hash_of(seed, uint64_t(out * groups * GROUP + input + k)));
                bits |= c << (k % 4 * 8 + k / 4 * 4);
            }
        }
        *reinterpret_cast<uint32_t *>(to + i * 4) = bits;
    }
}

// Random panels of a q8 matrix, roughly normal. Block: 256; grid: any.
extern "C" __global__ void __launch_bounds__(256)
fill_random_q8(unsigned char *to, uint64_t seed, float deviation, int outs, int ins) {
    // The mean of four bytes; the integer -128 is not used by the format.
    fill_panels<Q8Format, 32, 512, 4>(to, seed, deviation, outs, ins, 36.95f, [](uint64_t hash) {
        const uint32_t c = uint32_t((hash & 255) + (hash >> 8 & 255) + (hash >> 16 & 255) + (hash >> 24 & 255) + 3) / 4;
        return c > 0 ? c : 1;
    });
}

// The same of a q4 matrix.
extern "C" __global__ void __launch_bounds__(256)
fill_random_q4(unsigned char *to, uint64_t seed, float deviation, int outs, int ins) {
    // The mean of two uniform codes, sometimes rounded up, so that the mean of their integers is near zero.
    fill_panels<Q4Format, 32, 256, 8>(to, seed, deviation, outs, ins, 40.53f, [](uint64_t hash) {
        const uint32_t up = (hash >> 8 & 3) == 0 ? 2 : 1;
        const uint32_t c = (uint32_t(hash & 15) + uint32_t(hash >> 4 & 15) + up) / 2;
        return c < 15 ? c : 15;
    });
}

ENTRY(embed_bf16)
ENTRY(embed_f32)
ENTRY(gather_rows)
ENTRY(rotary_angles)
ENTRY(round_rows)
ENTRY(gate_elements)
ENTRY(gate_rows)
ENTRY(gate_mul)
ENTRY(scale_by_position)
ENTRY(fill_elements)
ENTRY(scale_elements)
ENTRY(cap_elements)
ENTRY(add_scaled)
ENTRY(fill_random_bf16)
ENTRY(fill_random_f32)
ENTRY(fill_random_q8)
ENTRY(fill_random_q4)
