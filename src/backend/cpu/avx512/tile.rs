//! The inner loops of matrix products: tiles of a few input rows by a few outputs, with accumulators in registers over
//! all inputs.
//!
//! An accumulator belongs to one row and one output, and the order of its additions depends on neither `MR` nor `NR`,
//! so tiles of any shape give the same bits (law 1 of [`crate::backend`]).

#![allow(clippy::needless_range_loop, reason = "indices that are constant once unrolled keep sums in registers")]

use std::arch::x86_64::*;

/// bf16 elements per register.
const STEP: usize = 32;
/// Bytes per register.
const REGISTER: usize = 64;

/// Most results of a bf16 tile.
pub const SUMS: usize = 24;

/// Rows per block of bf16 input; see [`at`].
pub const BLOCK: usize = 4;

/// Index of element `i` of a row in the bf16 input: blocks of [`BLOCK`] rows, in which 32 elements of the first row are
/// followed by 32 of the second, and so on, then by the next 32 of the first. A tile thus advances a single pointer for
/// all its rows.
pub const fn at(in_features: usize, row: usize, i: usize) -> usize {
    let steps = in_features.div_ceil(STEP);
    ((row / BLOCK * steps + i / STEP) * BLOCK + row % BLOCK) * STEP + i % STEP
}

/// The dot products of `MR` rows of input with `NR` rows of weights, both bf16: lane `l` adds the products of elements
/// `2l` and `2l + 1` of every 32, and [`sum8`] adds the lanes. The result of row `m` and output `n` is at `m * NR + n`.
/// In each step, `LINES` cache lines from `next` on are prefetched into the second-level cache.
///
/// # Safety
/// `x` points to the first of `MR` rows of one block ([`at`]), zero beyond `in_features`; `w` has `NR` contiguous rows
/// of `in_features` elements.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub unsafe fn bf16<const MR: usize, const NR: usize, const LINES: usize>(
    mut x: *const u16,
    w: *const u16,
    in_features: usize,
    mut next: *const u8,
) -> [f32; SUMS] {
    let mut sums = [[_mm512_setzero_ps(); NR]; MR];
    let whole = in_features / STEP * STEP;
    // SAFETY: all loads are inside the rows, as the caller and the mask ensure; a prefetch accepts any address.
    unsafe {
        let mut i = 0;
        while i < whole {
            let mut ws = [_mm512_setzero_si512(); NR];
            for n in 0..NR {
                ws[n] = _mm512_loadu_si512(w.add(n * in_features + i).cast());
            }
            next = ahead::<LINES>(next);
            for m in 0..MR {
                let xs = bh(_mm512_loadu_si512(x.add(m * STEP).cast()));
                for n in 0..NR {
                    sums[m][n] = _mm512_dpbf16_ps(sums[m][n], xs, bh(ws[n]));
                }
            }
            x = x.add(BLOCK * STEP);
            i += STEP;
        }
        if i < in_features {
            let mask = (1u32 << (in_features - i)) - 1;
            for n in 0..NR {
                let ws = bh(_mm512_maskz_loadu_epi16(mask, w.add(n * in_features + i).cast()));
                for m in 0..MR {
                    let xs = bh(_mm512_loadu_si512(x.add(m * STEP).cast()));
                    sums[m][n] = _mm512_dpbf16_ps(sums[m][n], xs, ws);
                }
            }
        }
    }
    let mut out = [0.0; SUMS];
    let zero = _mm512_setzero_ps();
    for first in (0..MR * NR).step_by(8) {
        // Indices are constants once the loops are unrolled; indices computed at run time would keep the accumulators
        // in memory.
        let at = |i: usize| if first + i < MR * NR { sums[(first + i) / NR][(first + i) % NR] } else { zero };
        let eight = sum8([at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)]);
        // SAFETY: eight floats from a multiple of eight on, inside the `SUMS` floats of `out`.
        unsafe { _mm256_storeu_ps(out[first..first + 8].as_mut_ptr(), eight) };
    }
    out
}

/// Prefetches `LINES` cache lines into the second-level cache; returns the address after them.
#[inline(always)]
fn ahead<const LINES: usize>(next: *const u8) -> *const u8 {
    for line in 0..LINES {
        // SAFETY: a prefetch accepts any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(line * REGISTER).cast()) };
    }
    next.wrapping_add(LINES * REGISTER)
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512bf16")]
fn bh(v: __m512i) -> __m512bh {
    // SAFETY: both types are 64 bytes in which every bit pattern is valid.
    unsafe { std::mem::transmute(v) }
}

/// The lane sums of eight registers, each a tree `((0+8)+(4+12)) + ...`: halves, quarters, then lanes two apart.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
fn sum8(v: [__m512; 8]) -> __m256 {
    let [a, b, c, d, e, f, g, h] = v.map(|v| half(v));
    // Registers four apart are combined, so that the results end up in order.
    let (ae, bf, cg, dh) = (quarters(a, e), quarters(b, f), quarters(c, g), quarters(d, h));
    let (low, high) = (two_apart(ae, bf), two_apart(cg, dh));
    let (even, odd) = (_mm256_shuffle_ps::<0x88>(low, high), _mm256_shuffle_ps::<0xdd>(low, high));
    _mm256_add_ps(even, odd)
}

/// Adds lanes `i` and `i + 8`.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
fn half(v: __m512) -> __m256 {
    _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v))
}

/// Adds lanes `i` and `i + 4` of each register; the lower half of the result is of `a`, the upper of `b`.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn quarters(a: __m256, b: __m256) -> __m256 {
    _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b))
}

/// In each half, adds lanes 0 and 2, and 1 and 3, of `a`, then of `b`.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn two_apart(a: __m256, b: __m256) -> __m256 {
    let (a, b) = (_mm256_castps_pd(a), _mm256_castps_pd(b));
    let (low, high) = (_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b));
    _mm256_add_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high))
}

/// Quantized input rows of a tile.
#[derive(Clone, Copy)]
pub struct Codes {
    /// First code of the first row; rows are `groups * GROUP` codes apart.
    pub codes: *const i8,
    /// `[rows, groups]`; see [`Int8Rows::scales`](crate::backend::cpu::linear::Int8Rows::scales).
    pub scales: *const f32,
    /// `[rows, groups]`; see [`Int8Rows::corrections`](crate::backend::cpu::linear::Int8Rows::corrections).
    pub corrections: *const i32,
    /// Groups per row.
    pub groups: usize,
}

/// Contiguous panels in the format of [`crate::encoding`].
#[derive(Clone, Copy)]
pub struct Panels {
    /// Start of the first panel.
    pub first: *const u8,
    /// Bytes per panel.
    pub bytes: usize,
    /// Bytes of the scales at the start of each panel, before its codes.
    pub scale_bytes: usize,
}

/// The products of `MR` quantized rows with `NP` panels, in groups of `GROUP` inputs; lanes are outputs. The dot
/// products of a group are exact integers, which are scaled and accumulated in ascending order with one rounding each.
/// With `HALVES`, codes are 4-bit indices into `table`, which holds the biased values in each 128-bit quarter.
///
/// In each step, `LINES` cache lines from `next` on are prefetched into the second-level cache; a panel has one line
/// per step.
///
/// # Safety
/// The pointers cover `MR` rows and `NP` panels of `x.groups` groups.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub unsafe fn int8<const MR: usize, const NP: usize, const LINES: usize, const GROUP: usize, const HALVES: bool>(
    x: Codes,
    w: Panels,
    table: __m512i,
    mut next: *const u8,
) -> [[__m512; NP]; MR] {
    let mut sums = [[_mm512_setzero_ps(); NP]; MR];
    let x_stride = x.groups * GROUP;
    let code_bytes = if HALVES { GROUP * 8 } else { GROUP * 16 };
    let low = _mm512_set1_epi8(15);
    // SAFETY: all loads are inside the rows and panels, as the caller guarantees; a prefetch accepts any address.
    unsafe {
        for g in 0..x.groups {
            let mut products = [[_mm512_setzero_si512(); NP]; MR];
            for m in 0..MR {
                let correction = _mm512_set1_epi32(*x.corrections.add(m * x.groups + g));
                products[m] = [correction; NP];
            }
            let inputs = x.codes.add(g * GROUP);
            let codes = w.first.add(w.scale_bytes + g * code_bytes);
            if HALVES {
                for step in 0..GROUP / 8 {
                    next = ahead::<LINES>(next);
                    for n in 0..NP {
                        let at = codes.add(n * w.bytes + step * REGISTER);
                        let both = _mm512_loadu_si512(at.cast());
                        let first = _mm512_shuffle_epi8(table, _mm512_and_si512(both, low));
                        let second = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16::<4>(both), low));
                        for m in 0..MR {
                            let x = inputs.add(m * x_stride + step * 8).cast::<i32>();
                            let (a, b) =
                                (_mm512_set1_epi32(x.read_unaligned()), _mm512_set1_epi32(x.add(1).read_unaligned()));
                            products[m][n] = _mm512_dpbusd_epi32(products[m][n], first, a);
                            products[m][n] = _mm512_dpbusd_epi32(products[m][n], second, b);
                        }
                    }
                }
            } else {
                for step in 0..GROUP / 4 {
                    next = ahead::<LINES>(next);
                    let mut ws = [_mm512_setzero_si512(); NP];
                    for n in 0..NP {
                        let at = codes.add(n * w.bytes + step * REGISTER);
                        ws[n] = _mm512_loadu_si512(at.cast());
                    }
                    for m in 0..MR {
                        let x = inputs.add(m * x_stride + step * 4).cast::<i32>();
                        let x = _mm512_set1_epi32(x.read_unaligned());
                        for n in 0..NP {
                            products[m][n] = _mm512_dpbusd_epi32(products[m][n], ws[n], x);
                        }
                    }
                }
            }
            for n in 0..NP {
                let scale = _mm256_loadu_si256(w.first.add(n * w.bytes + g * 32).cast());
                let scale = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(scale)));
                for m in 0..MR {
                    let factor = _mm512_mul_ps(scale, _mm512_set1_ps(*x.scales.add(m * x.groups + g)));
                    sums[m][n] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products[m][n]), factor, sums[m][n]);
                }
            }
        }
    }
    sums
}
