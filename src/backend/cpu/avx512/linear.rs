//! Matrix products with AVX-512: bf16 weights with inputs rounded to bf16, and quantized weights.

#![allow(clippy::needless_range_loop, reason = "indices that are constant once unrolled keep sums in registers")]

use super::super::kernels::{Elements, with_features};
use super::super::linear::decoded;
use super::super::linear::eight::{Codes, few_rows};
use super::super::linear::panels::{Dot, panels};
use super::super::linear::stored::{Products, SUMS, column};
use super::super::linear::{Input, LinearArgs, Matrix, rounded, tile};
use super::avx2;
use crate::backend::cpu::vector::{Vector, methods};
use std::arch::x86_64::*;
use std::ops::Range;

with_features! { "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx2,fma";
    pub(super) fn linear(args: &LinearArgs, range: Range<usize>, scratch: &mut Vec<f32>) {
        match (args.weight, args.x) {
            (Matrix::Stored(Elements::Bf16(w)), Input::Bf16(x)) => stored(args, w, x, range),
            (Matrix::Panels(scheme, bytes), Input::Int8(x)) => panels::<Vnni, 1>(args, scheme, bytes, x, range),
            (Matrix::Blocks(format, bytes), Input::Int8(x)) => {
                decoded::product::<Vnni, 1>(args, (format, bytes), x, range, scratch)
            }
            (Matrix::F8(rows), Input::Bf16(x)) if few_rows::<Bf16>(args, rows, x, &range) => {}
            (Matrix::F8(rows), Input::Bf16(_)) => rounded(super::TABLE.linear, args, rows, range, scratch),
            _ => (avx2::TABLE.linear)(args, range, scratch),
        }
    }
}

/// # Safety
/// As [`linear`].
#[inline(always)]
unsafe fn stored(args: &LinearArgs, w: &[u16], x: &[u16], range: Range<usize>) {
    let mut first = range.start;
    while first < range.end {
        let left = range.end - first;
        // SAFETY: same contract, part of the range.
        first += unsafe {
            match args.rows {
                1 | 2 if left >= 4 => column::<Bf16, 4, 4>(args, w, x, first),
                // 8 outputs are 4 + 4: after 6, the last two would be computed one at a time.
                _ if left >= 6 && left != 8 => column::<Bf16, 6, 6>(args, w, x, first),
                _ if left >= 4 => column::<Bf16, 4, 4>(args, w, x, first),
                _ => column::<Bf16, 1, 1>(args, w, x, first),
            }
        };
    }
}

/// The 8-bit dot product of VNNI.
struct Vnni;

impl Dot for Vnni {
    type V = __m512;
    const BIAS: u8 = 128;
    methods! { fn dot(sum: __m512i, w: __m512i, x: __m512i) -> __m512i { _mm512_dpbusd_epi32(sum, w, x) } }
}

/// Products of bf16 weights and bf16 inputs: lane `l` adds the products of elements `2l` and `2l + 1` of every 32.
pub(super) struct Bf16;

/// A register of bf16 from its bits.
#[inline(always)]
unsafe fn bh(v: __m512i) -> __m512bh {
    // SAFETY: both types are 64 bytes in which every bit pattern is valid.
    unsafe { std::mem::transmute(v) }
}

impl Products for Bf16 {
    type V = __m512;
    type Weight = u16;
    type Input = u16;
    type Wide = __m512bh;
    const STEP: usize = 32;

    /// Blocks of [`tile::ROWS`] rows, in which 32 elements of the first row are followed by 32 of the second, and so on,
    /// then by the next 32 of the first. A tile thus advances a single pointer for all its rows.
    #[inline(always)]
    fn at(in_features: usize, row: usize, i: usize) -> usize {
        let steps = in_features.div_ceil(Self::STEP);
        ((row / tile::ROWS * steps + i / Self::STEP) * tile::ROWS + row % tile::ROWS) * Self::STEP
    }

    methods! {
        fn weights(from: *const u16) -> __m512bh { bh(_mm512_loadu_si512(from.cast())) }
        fn some_weights(from: *const u16, count: usize) -> __m512bh {
            bh(_mm512_maskz_loadu_epi16((1u32 << count) - 1, from.cast()))
        }
        fn inputs(from: *const u16) -> __m512bh { bh(_mm512_loadu_si512(from.cast())) }
        // A row of input has zeros beyond its last element.
        fn some_inputs(from: *const u16, _count: usize) -> __m512bh { Self::inputs(from) }
        fn dot(sum: __m512, x: __m512bh, w: __m512bh) -> __m512 { _mm512_dpbf16_ps(sum, x, w) }
    }

    #[inline(always)]
    unsafe fn reduce<const MR: usize, const NR: usize>(sums: &[[__m512; NR]; MR]) -> [f32; SUMS] {
        let mut out = [0.0; SUMS];
        for first in (0..MR * NR).step_by(8) {
            // Indices are constants once the loops are unrolled; indices computed at run time would keep the
            // accumulators in memory.
            // SAFETY: guaranteed by the caller; eight floats from a multiple of eight on, inside the floats of `out`.
            unsafe {
                let mut eight = [__m512::zero(); 8];
                for i in 0..8 {
                    if first + i < MR * NR {
                        eight[i] = sums[(first + i) / NR][(first + i) % NR];
                    }
                }
                _mm256_storeu_ps(out[first..first + 8].as_mut_ptr(), Self::sum8(eight));
            }
        }
        out
    }
}

impl Codes for Bf16 {
    #[inline(always)]
    unsafe fn codes(from: *const u8, factor: f32) -> __m512bh {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let (low, high) = (Self::sixteen(from, factor), Self::sixteen(from.add(16), factor));
            bh(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high))
        }
    }
}

impl Bf16 {
    methods! {
        // Sixteen weights, rounded as [`super::super::kernels::f32_to_bf16`] does: to the nearest, of two to the even one.
        fn sixteen(from: *const u8, factor: f32) -> __m256i {
            let codes = _mm512_slli_epi32::<24>(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())));
            let shifted = _mm512_and_si512(_mm512_srai_epi32::<4>(codes), _mm512_set1_epi32(0x87f0_0000u32 as i32));
            let wide = _mm512_mul_ps(_mm512_castsi512_ps(shifted), _mm512_set1_ps(factor));
            let bits = _mm512_castps_si512(wide);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(wide, wide);
            let rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x40_0000));
            _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded))
        }
        // The lane sums of eight registers, each a tree `((0+8)+(4+12)) + ...`: halves, quarters, then lanes two apart.
        // Registers four apart are combined, so that the results end up in order.
        fn sum8(v: [__m512; 8]) -> __m256 {
            let low = Self::two_apart(Self::quarters(v[0], v[4]), Self::quarters(v[1], v[5]));
            let high = Self::two_apart(Self::quarters(v[2], v[6]), Self::quarters(v[3], v[7]));
            _mm256_add_ps(_mm256_shuffle_ps::<0x88>(low, high), _mm256_shuffle_ps::<0xdd>(low, high))
        }
        // Adds lanes `i` and `i + 8`.
        fn half(v: __m512) -> __m256 { _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v)) }
        // Of the halves, adds lanes `i` and `i + 4`; the lower half of the result is of `a`, the upper of `b`.
        fn quarters(a: __m512, b: __m512) -> __m256 {
            let (a, b) = (Self::half(a), Self::half(b));
            _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b))
        }
        // In each half, adds lanes 0 and 2, and 1 and 3, of `a`, then of `b`.
        fn two_apart(a: __m256, b: __m256) -> __m256 {
            let (a, b) = (_mm256_castps_pd(a), _mm256_castps_pd(b));
            let (low, high) = (_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b));
            _mm256_add_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high))
        }
    }
}
