// The block formats of GGUF files, as weights of products and as tables of embeddings.
//
// A row of a matrix is its blocks without their odd bytes, then the odd bytes of all blocks: `bytes % 4` of each, which
// are its scale, so that all words are aligned (src/backend/cuda/forms.rs). Rows begin at multiples of 16 bytes.
//
// Every format is one structure. Of a group of 32 consecutive weights, `sub` of its block, a lane t reads its eight
// (`load`), turns them into integers + 128, one in a byte (`integers`), and finds the scales and minima of the group's
// parts (`parts`): a weight is scale * integer - minimum, as in src/encoding/blocks.rs. What products make of that is
// written once (block_format.cuh).
#pragma once

#include "device.cuh"

// Sizes of a format: weights and bytes of a block, weights of a part, whether there are minima.
template <int W, int B, int P, bool M> struct BlockOf {
    static constexpr int WEIGHTS = W, ODD = B % 4, BODY = B - ODD, SUBS = W / 32, PARTS = 32 / P;
    static constexpr bool MINIMA = M;

    // The first of the four weights in a lane's word i. The parts of a group go through matrix operations of their own.
    static __device__ __forceinline__ int first(int t, int i) { return PARTS == 1 ? 8 * t + 4 * i : 16 * i + 4 * t; }
};

__device__ __forceinline__ uint32_t byte_of(const unsigned char *bytes, int at) { return bytes[at]; }

// A lane's eight of 32 codes of four bits: low halves of 16 bytes, then high halves.
__device__ __forceinline__ void load_halves(uint32_t (&to)[2], const unsigned char *codes, int t) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        to[i] = load1(codes + 8 * (t % 2) + 4 * i);
    }
}

__device__ __forceinline__ uint32_t halves(uint32_t codes, int t) { return codes >> (t / 2 * 4) & 0x0F0F0F0Fu; }

// Bits first ... first + 3, as bit 4 of four bytes.
__device__ __forceinline__ uint32_t fifth_bits(uint32_t bits, int first) {
    return ((bits >> first & 15) * 0x00204081u & 0x01010101u) << 4;
}

// Four entries of a table of sixteen bytes, by the low four bits of each byte.
__device__ __forceinline__ uint32_t look_up(const uint32_t (&table)[4], uint32_t codes) {
    const uint32_t pairs = codes | codes >> 4, at = (pairs & 0xFFu) | (pairs >> 8 & 0xFF00u);
    const uint32_t low = byte_permute(table[0], table[1], at & 0x7777u);
    const uint32_t high = byte_permute(table[2], table[3], at & 0x7777u);
    return byte_permute(low, high, 0x3210u | (at >> 1 & 0x4444u));
}

// 128 more than four of the values, from `first` on.
__device__ constexpr uint32_t table_word(const int (&values)[16], int first) {
    uint32_t word = 0;
    for (int i = 0; i < 4; i++) {
        word |= uint32_t(values[first + i] + 128) << (8 * i);
    }
    return word;
}

// Formats of one part whose codes are of four bits: `OFFSET` bytes before them.
template <int BYTES, bool MINIMA, int OFFSET> struct FourBits : BlockOf<32, BYTES, 32, MINIMA> {
    struct Raw {
        uint32_t w[2], scale;
    };

    static __device__ __forceinline__ void load(Raw &to, const unsigned char *body, const unsigned char *odd, int, int t) {
        load_halves(to.w, body + OFFSET, t);
        to.scale = MINIMA ? load1(body) : load_short(odd);
    }

    static __device__ __forceinline__ void parts(const Raw &raw, int, float *scales, float *minima) {
        scales[0] = from_f16(uint16_t(raw.scale));
        if (MINIMA) {
            minima[0] = -from_f16(uint16_t(raw.scale >> 16));
        }
    }
};

struct Q4_0 : FourBits<18, false, 0> {
    static __device__ __forceinline__ void integers(const Raw &raw, int, int t, uint32_t (&to)[2]) {
        to[0] = halves(raw.w[0], t) + 0x78787878u;
        to[1] = halves(raw.w[1], t) + 0x78787878u;
    }
};

struct Q4_1 : FourBits<20, true, 4> {
    static __device__ __forceinline__ void integers(const Raw &raw, int, int t, uint32_t (&to)[2]) {
        to[0] = halves(raw.w[0], t) | 0x80808080u;
        to[1] = halves(raw.w[1], t) | 0x80808080u;
    }
};

struct Iq4Nl : FourBits<18, false, 0> {
    static __device__ __forceinline__ uint32_t values(uint32_t codes) {
        constexpr int VALUES[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
        constexpr uint32_t TABLE[4] = {table_word(VALUES, 0), table_word(VALUES, 4), table_word(VALUES, 8),
                                       table_word(VALUES, 12)};
        return look_up(TABLE, codes);
    }

    static __device__ __forceinline__ void integers(const Raw &raw, int, int t, uint32_t (&to)[2]) {
        to[0] = values(halves(raw.w[0], t));
        to[1] = values(halves(raw.w[1], t));
    }
};

// The odd byte is a power of two, as its exponent + 127.
struct Mxfp4 : BlockOf<32, 17, 32, false> {
    struct Raw {
        uint32_t w[2], exponent;
    };

    static __device__ __forceinline__ void load(Raw &to, const unsigned char *body, const unsigned char *odd, int, int t) {
        load_halves(to.w, body, t);
        to.exponent = byte_of(odd, 0);
    }

    static __device__ __forceinline__ void integers(const Raw &raw, int, int t, uint32_t (&to)[2]) {
        // Twice the values of the codes.
        constexpr int VALUES[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
        constexpr uint32_t TABLE[4] = {table_word(VALUES, 0), table_word(VALUES, 4), table_word(VALUES, 8),
                                       table_word(VALUES, 12)};
        to[0] = look_up(TABLE, halves(raw.w[0], t));
        to[1] = look_up(TABLE, halves(raw.w[1], t));
    }

    static __device__ __forceinline__ void parts(const Raw &raw, int, float *scales, float *) {
        // Half of the power; the two smallest are not normal.
        const uint32_t e = raw.exponent;
        scales[0] = bits_to_float(e < 2 ? 0x00200000u << e : (e - 1) << 23);
    }
};

// Four bits as in FourBits after a word of fifth bits.
template <int BYTES, bool MINIMA, int OFFSET> struct FiveBits : FourBits<BYTES, MINIMA, OFFSET + 4> {
    using Base = FourBits<BYTES, MINIMA, OFFSET + 4>;

    struct Raw : Base::Raw {
        uint32_t fifth;
    };

    static __device__ __forceinline__ void load(Raw &to, const unsigned char *body, const unsigned char *odd, int sub, int t) {
        Base::load(to, body, odd, sub, t);
        to.fifth = load1(body + OFFSET);
    }

    static __device__ __forceinline__ uint32_t five(const Raw &raw, int t, int i) {
        return halves(raw.w[i], t) | fifth_bits(raw.fifth, Base::first(t, i));
    }
};

struct Q5_0 : FiveBits<22, false, 0> {
    static __device__ __forceinline__ void integers(const Raw &raw, int, int t, uint32_t (&to)[2]) {
        to[0] = five(raw, t, 0) + 0x70707070u;
        to[1] = five(raw, t, 1) + 0x70707070u;
    }
};

struct Q5_1 : FiveBits<24, true, 4> {
    static __device__ __forceinline__ void integers(const Raw &raw, int, int t, uint32_t (&to)[2]) {
        to[0] = five(raw, t, 0) | 0x80808080u;
        to[1] = five(raw, t, 1) | 0x80808080u;
    }
};

struct Q8_0 : BlockOf<32, 34, 32, false> {
    struct Raw {
        uint32_t w[2], scale;
    };

    static __device__ __forceinline__ void load(Raw &to, const unsigned char *body, const unsigned char *odd, int, int t) {
        to.w[0] = load1(body + 8 * t);
        to.w[1] = load1(body + 8 * t + 4);
        to.scale = load_short(odd);
    }

    static __device__ __forceinline__ void integers(const Raw &raw, int, int, uint32_t (&to)[2]) {
        to[0] = raw.w[0] ^ 0x80808080u;
        to[1] = raw.w[1] ^ 0x80808080u;
    }

    static __device__ __forceinline__ void parts(const Raw &raw, int, float *scales, float *) {
        scales[0] = from_f16(uint16_t(raw.scale));
    }
};

struct Q2K : BlockOf<256, 84, 16, true> {
    struct Raw {
        uint32_t w[2], both, factors;
    };

    static __device__ __forceinline__ void load(Raw &to, const unsigned char *body, const unsigned char *, int sub, int t) {
        to.w[0] = load1(body + 16 + sub / 4 * 32 + first(t, 0));
        to.w[1] = load1(body + 16 + sub / 4 * 32 + first(t, 1));
        to.both = load_short(body + 2 * sub);
        to.factors = load1(body + 80);
    }

    static __device__ __forceinline__ void integers(const Raw &raw, int sub, int, uint32_t (&to)[2]) {
        to[0] = (raw.w[0] >> (sub % 4 * 2) & 0x03030303u) | 0x80808080u;
        to[1] = (raw.w[1] >> (sub % 4 * 2) & 0x03030303u) | 0x80808080u;
    }

    static __device__ __forceinline__ void parts(const Raw &raw, int, float *scales, float *minima) {
        const float scale = from_f16(uint16_t(raw.factors)), minimum = from_f16(uint16_t(raw.factors >> 16));
#pragma unroll
        for (int part = 0; part < 2; part++) {
            scales[part] = scale * float(raw.both >> (8 * part) & 15);
            minima[part] = minimum * float(raw.both >> (8 * part + 4) & 15);
        }
    }
};

struct Q3K : BlockOf<256, 110, 16, false> {
    struct Raw {
        // Low two bits, third bits; low four bits of the two scales, their high two; the factor.
        uint32_t w[2], third[2], low, high, scale;
    };

    static __device__ __forceinline__ void load(Raw &to, const unsigned char *body, const unsigned char *odd, int sub, int t) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            to.w[i] = load1(body + 32 + sub / 4 * 32 + first(t, i));
            to.third[i] = load1(body + first(t, i));
        }
        to.low = load_short(body + 96 + sub % 4 * 2);
        to.high = load_short(body + 104 + sub % 2 * 2);
        to.scale = load_short(odd);
    }

    static __device__ __forceinline__ void integers(const Raw &raw, int sub, int, uint32_t (&to)[2]) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t low = raw.w[i] >> (sub % 4 * 2) & 0x03030303u, third = raw.third[i] >> sub & 0x01010101u;
            to[i] = (low | third << 2) + 0x7C7C7C7Cu;
        }
    }

    static __device__ __forceinline__ void parts(const Raw &raw, int sub, float *scales, float *) {
        const float scale = from_f16(uint16_t(raw.scale));
#pragma unroll
        for (int part = 0; part < 2; part++) {
            const uint32_t low = raw.low >> (8 * part + sub / 4 * 4) & 15, high = raw.high >> (8 * part + sub / 2 * 2) & 3;
            scales[part] = scale * float(int(low | high << 4) - 32);
        }
    }
};

// Two f16 factors, then eight pairs of six bits in twelve bytes.
struct SixBitParts {
    uint32_t factors, packed[3];

    __device__ __forceinline__ void load(const unsigned char *body) {
        factors = load1(body);
#pragma unroll
        for (int i = 0; i < 3; i++) {
            packed[i] = load1(body + 4 + 4 * i);
        }
    }

    __device__ __forceinline__ void parts(int sub, float *scales, float *minima) const {
        const int at = sub % 4 * 8;
        const uint32_t a = packed[0] >> at & 255, b = packed[1] >> at & 255, c = packed[2] >> at & 255;
        const uint32_t scale = sub < 4 ? a & 63 : (c & 15) | a >> 6 << 4;
        const uint32_t minimum = sub < 4 ? b & 63 : c >> 4 | b >> 6 << 4;
        scales[0] = from_f16(uint16_t(factors)) * float(scale);
        minima[0] = from_f16(uint16_t(factors >> 16)) * float(minimum);
    }
};

struct Q4K : BlockOf<256, 144, 32, true> {
    struct Raw {
        uint32_t w[2];
        SixBitParts six;
    };

    static __device__ __forceinline__ void load(Raw &to, const unsigned char *body, const unsigned char *, int sub, int t) {
        to.six.load(body);
        to.w[0] = load1(body + 16 + sub / 2 * 32 + 8 * t);
        to.w[1] = load1(body + 16 + sub / 2 * 32 + 8 * t + 4);
    }

    static __device__ __forceinline__ void integers(const Raw &raw, int sub, int, uint32_t (&to)[2]) {
        to[0] = (raw.w[0] >> (sub % 2 * 4) & 0x0F0F0F0Fu) | 0x80808080u;
        to[1] = (raw.w[1] >> (sub % 2 * 4) & 0x0F0F0F0Fu) | 0x80808080u;
    }

    static __device__ __forceinline__ void parts(const Raw &raw, int sub, float *scales, float *minima) {
        raw.six.parts(sub, scales, minima);
    }
};

struct Q5K : BlockOf<256, 176, 32, true> {
    struct Raw {
        uint32_t w[2], fifth[2];
        SixBitParts six;
    };

    static __device__ __forceinline__ void load(Raw &to, const unsigned char *body, const unsigned char *, int sub, int t) {
        to.six.load(body);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            to.fifth[i] = load1(body + 16 + 8 * t + 4 * i);
            to.w[i] = load1(body + 48 + sub / 2 * 32 + 8 * t + 4 * i);
        }
    }

    static __device__ __forceinline__ void integers(const Raw &raw, int sub, int, uint32_t (&to)[2]) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t fifth = raw.fifth[i] >> sub & 0x01010101u;
            to[i] = (raw.w[i] >> (sub % 2 * 4) & 0x0F0F0F0Fu) | fifth << 4 | 0x80808080u;
        }
    }

    static __device__ __forceinline__ void parts(const Raw &raw, int sub, float *scales, float *minima) {
        raw.six.parts(sub, scales, minima);
    }
};

struct Q6K : BlockOf<256, 210, 16, false> {
    struct Raw {
        uint32_t low[2], high[2], both, scale;
    };

    static __device__ __forceinline__ void load(Raw &to, const unsigned char *body, const unsigned char *odd, int sub, int t) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            to.low[i] = load1(body + sub / 4 * 64 + sub % 2 * 32 + first(t, i));
            to.high[i] = load1(body + 128 + sub / 4 * 32 + first(t, i));
        }
        to.both = load_short(body + 192 + 2 * sub);
        to.scale = load_short(odd);
    }

    static __device__ __forceinline__ void integers(const Raw &raw, int sub, int, uint32_t (&to)[2]) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t low = raw.low[i] >> (sub % 4 / 2 * 4) & 0x0F0F0F0Fu;
            const uint32_t high = raw.high[i] >> (sub % 4 * 2) & 0x03030303u;
            to[i] = (low | high << 4) + 0x60606060u;
        }
    }

    static __device__ __forceinline__ void parts(const Raw &raw, int, float *scales, float *) {
        const float scale = from_f16(uint16_t(raw.scale));
        scales[0] = scale * float(int8_t(raw.both));
        scales[1] = scale * float(int8_t(raw.both >> 8));
    }
};

struct Iq4Xs : BlockOf<256, 136, 32, false> {
    struct Raw {
        // Codes; the factor and the high bits of the scales; the low bits of two of them.
        uint32_t w[2], head, low;
    };

    static __device__ __forceinline__ void load(Raw &to, const unsigned char *body, const unsigned char *, int sub, int t) {
        load_halves(to.w, body + 8 + sub * 16, t);
        to.head = load1(body);
        to.low = byte_of(body, 4 + sub / 2);
    }

    static __device__ __forceinline__ void integers(const Raw &raw, int, int t, uint32_t (&to)[2]) {
        to[0] = Iq4Nl::values(halves(raw.w[0], t));
        to[1] = Iq4Nl::values(halves(raw.w[1], t));
    }

    static __device__ __forceinline__ void parts(const Raw &raw, int sub, float *scales, float *) {
        const uint32_t low = raw.low >> (sub % 2 * 4) & 15, high = raw.head >> (16 + 2 * sub) & 3;
        scales[0] = from_f16(uint16_t(raw.head)) * float(int(low | high << 4) - 32);
    }
};

// Bytes of a row of `ins` weights, and where its odd bytes are.
template <class B> __device__ __forceinline__ int64_t row_bytes(int ins) {
    return (int64_t(ins / B::WEIGHTS) * (B::BODY + B::ODD) + 15) / 16 * 16;
}

template <class B> __device__ __forceinline__ const unsigned char *odd_bytes(const unsigned char *row, int ins) {
    return row + int64_t(ins / B::WEIGHTS) * B::BODY;
}

// Loads a lane's eight weights of a group of a row.
template <class B>
__device__ __forceinline__ void load_group(typename B::Raw &to, const unsigned char *row, const unsigned char *odd, int group,
                                           int t) {
    const int block = group / B::SUBS;
    B::load(to, row + int64_t(block) * B::BODY, odd + block * B::ODD, group % B::SUBS, t);
}
