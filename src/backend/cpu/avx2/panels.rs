//! Matrix products of quantized weights in 256-bit registers. The dot products of a group are exact integers
//! ([`super::super::linear`]), so every instruction set gives the same bits.
//!
//! Weights are read from memory once, in ascending order; while a tile is computed, the cache lines of the next one are
//! prefetched into the second-level cache.

#![allow(clippy::needless_range_loop, reason = "indices that are constant once unrolled keep sums in registers")]

use super::super::linear::{Int8Rows, LinearArgs};
use crate::encoding::{PANEL, Q4_VALUES, Scheme};
use std::arch::x86_64::*;
use std::ops::Range;

/// Input rows per tile.
const ROWS: usize = 4;
/// Bytes of a panel per step: 4 inputs for each output with 8-bit codes, 8 inputs with 4-bit codes.
const STEP: usize = 64;

/// 8-bit dot product: adds to each of eight i32 lanes the products of four weights with the same four inputs.
pub(super) trait Dot {
    /// Bias of the weight bytes: 128 if the instruction takes them unsigned, as stored; 0 if signed.
    const BIAS: u8;

    /// # Safety
    /// The processor supports AVX2 and the extension that the type is named after.
    unsafe fn dot(sum: __m256i, w: __m256i, x: __m256i) -> __m256i;
}

/// AVX2 alone. Its instruction adds pairs of u8 x i8 products with saturation to 16 bits, which biased weights could
/// exceed. Instead the magnitudes of weights are multiplied with inputs that take over the weights' signs: both are at
/// most 127, so a pair of products fits 16 bits.
pub(super) struct Plain;
/// AVX-512 VNNI on 256-bit registers.
pub(super) struct Vnni;
/// AVX-VNNI.
pub(super) struct AvxVnni;

impl Dot for Plain {
    const BIAS: u8 = 0;

    #[inline(always)]
    unsafe fn dot(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }
}

impl Dot for Vnni {
    const BIAS: u8 = 128;

    #[inline(always)]
    unsafe fn dot(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: guaranteed by the caller.
        unsafe { _mm256_dpbusd_epi32(sum, w, x) }
    }
}

impl Dot for AvxVnni {
    const BIAS: u8 = 128;

    #[inline(always)]
    unsafe fn dot(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: guaranteed by the caller.
        unsafe { _mm256_dpbusd_avx_epi32(sum, w, x) }
    }
}

/// # Safety
/// As [`super::linear::linear`], and the processor supports the instructions of `D`.
#[inline(always)]
pub(super) unsafe fn panels<D: Dot>(args: &LinearArgs, scheme: Scheme, bytes: &[u8], x: Int8Rows, range: Range<usize>) {
    let size = scheme.panel_bytes(args.in_features);
    for first in range.clone().step_by(PANEL) {
        let panel = &bytes[first / PANEL * size..][..size];
        let mut row = 0;
        while row < args.rows {
            let tile = Tile { args, scheme, panel, x: &x, row, out_features: first..range.end };
            // SAFETY: this many rows are left; the columns belong to the task.
            unsafe {
                match (args.rows - row, scheme) {
                    (1, Scheme::Q8) => tile.run::<D, 1, 64, false>(),
                    (2, Scheme::Q8) => tile.run::<D, 2, 64, false>(),
                    (3, Scheme::Q8) => tile.run::<D, 3, 64, false>(),
                    (_, Scheme::Q8) => tile.run::<D, ROWS, 64, false>(),
                    (1, Scheme::Q4) => tile.run::<D, 1, 32, true>(),
                    (2, Scheme::Q4) => tile.run::<D, 2, 32, true>(),
                    (3, Scheme::Q4) => tile.run::<D, 3, 32, true>(),
                    (_, Scheme::Q4) => tile.run::<D, ROWS, 32, true>(),
                }
            }
            row += ROWS;
        }
    }
}

/// A tile: rows from `row` on times one panel. Outputs at or beyond `out_features.end` are not written.
struct Tile<'a> {
    args: &'a LinearArgs<'a>,
    scheme: Scheme,
    panel: &'a [u8],
    x: &'a Int8Rows<'a>,
    row: usize,
    out_features: Range<usize>,
}

impl Tile<'_> {
    /// Computes `MR` rows. `GROUP` is the number of inputs per group; `HALVES` selects 4-bit codes.
    ///
    /// # Safety
    /// As [`panels`] for these rows and outputs.
    #[inline(always)]
    unsafe fn run<D: Dot, const MR: usize, const GROUP: usize, const HALVES: bool>(&self) {
        let (x, groups, code_bytes) = (self.x, self.x.groups, self.scheme.code_bytes());
        let codes = self.panel[self.scheme.scale_bytes(self.args.in_features)..][..groups * code_bytes].as_ptr();
        let stride = groups * GROUP;
        let inputs = x.codes[self.row * stride..][..MR * stride].as_ptr();
        let scales = x.scales[self.row * groups..][..MR * groups].as_ptr();
        let corrections = x.corrections[self.row * groups..][..MR * groups].as_ptr();
        // The first rows prefetch the next weights; for later rows these are already in the cache.
        let mut next = if self.row == 0 { self.panel.as_ptr_range().end } else { self.panel.as_ptr() };
        // SAFETY: all loads are inside the slices above; a prefetch accepts any address; the processor supports `D`.
        unsafe {
            let table = q4_table::<D>();
            let mut sums = [[_mm256_setzero_ps(); 2]; MR];
            for g in 0..groups {
                let mut products = [[_mm256_setzero_si256(); 2]; MR];
                if D::BIAS != 0 {
                    for m in 0..MR {
                        products[m] = [_mm256_set1_epi32(*corrections.add(m * groups + g)); 2];
                    }
                }
                let (codes, inputs) = (codes.add(g * code_bytes), inputs.add(g * GROUP));
                for step in 0..code_bytes / STEP {
                    _mm_prefetch::<_MM_HINT_T1>(next.cast());
                    next = next.wrapping_add(STEP);
                    for half in 0..2 {
                        let stored = _mm256_loadu_si256(codes.add(step * STEP + half * 32).cast());
                        if HALVES {
                            let low = _mm256_set1_epi8(15);
                            let first = _mm256_shuffle_epi8(table, _mm256_and_si256(stored, low));
                            for m in 0..MR {
                                let x = four(inputs.add(m * stride + step * 8));
                                products[m][half] = D::dot(products[m][half], first, x);
                            }
                            let second = _mm256_and_si256(_mm256_srli_epi16::<4>(stored), low);
                            let second = _mm256_shuffle_epi8(table, second);
                            for m in 0..MR {
                                let x = four(inputs.add(m * stride + step * 8 + 4));
                                products[m][half] = D::dot(products[m][half], second, x);
                            }
                        } else {
                            let w = _mm256_xor_si256(stored, _mm256_set1_epi8((128 ^ D::BIAS) as i8));
                            for m in 0..MR {
                                let x = four(inputs.add(m * stride + step * 4));
                                products[m][half] = D::dot(products[m][half], w, x);
                            }
                        }
                    }
                }
                for half in 0..2 {
                    let scale = _mm_loadu_si128(self.panel.as_ptr().add((g * PANEL + half * 8) * 2).cast());
                    let scale = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(scale)));
                    for m in 0..MR {
                        let factor = _mm256_mul_ps(scale, _mm256_set1_ps(*scales.add(m * groups + g)));
                        sums[m][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products[m][half]), factor, sums[m][half]);
                    }
                }
            }
            for (m, sums) in sums.iter().enumerate() {
                let mut values = [0.0f32; PANEL];
                _mm256_storeu_ps(values.as_mut_ptr(), sums[0]);
                _mm256_storeu_ps(values.as_mut_ptr().add(8), sums[1]);
                self.args.put_all(self.row + m, self.out_features.start, self.out_features.end, &values);
            }
        }
    }
}

/// Loads four inputs and broadcasts them to the lanes of all outputs.
///
/// # Safety
/// Four inputs may be read from `x`, and the processor supports AVX2.
#[inline(always)]
unsafe fn four(x: *const i8) -> __m256i {
    // SAFETY: guaranteed by the caller.
    unsafe { _mm256_set1_epi32(x.cast::<i32>().read_unaligned()) }
}

/// The values of the sixteen Q4 codes, with the bias of `D`, in both 128-bit halves.
///
/// # Safety
/// The processor supports AVX2.
#[inline(always)]
unsafe fn q4_table<D: Dot>() -> __m256i {
    let values: [u8; 16] = std::array::from_fn(|i| Q4_VALUES[i] as u8 ^ D::BIAS);
    // SAFETY: sixteen bytes are read.
    unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(values.as_ptr().cast())) }
}
