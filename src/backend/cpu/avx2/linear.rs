//! Matrix products with AVX2 and FMA.
//!
//! Stored weights are widened to f32 in registers and multiplied with f32 inputs: lane `l` of an accumulator adds
//! elements `l`, `l + 8`, and so on, and the lanes are added as a fixed tree. Quantized weights: [`super::panels`].

#![allow(clippy::needless_range_loop, reason = "indices that are constant once unrolled keep sums in registers")]

use super::super::kernels::Elements;
use super::super::linear::{Input, LinearArgs, Matrix};
use super::panels::{AvxVnni, Dot, Plain, Vnni, panels};
use std::arch::x86_64::*;
use std::ops::Range;

/// Input rows per tile.
const ROWS: usize = 4;
/// Outputs per tile of stored weights: 12 accumulators, 3 weights and 1 input use all 16 registers.
const OUTS: usize = 3;
/// f32 lanes per register.
const STEP: usize = 8;

/// # Safety
/// See [`super::Kernels::linear`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) unsafe fn linear(args: &LinearArgs, range: Range<usize>, _scratch: &mut Vec<f32>) {
    // SAFETY: same contract.
    unsafe { linear_with::<Plain>(args, range) }
}

/// [`linear`] with the 256-bit 8-bit dot products of AVX-512 VNNI.
///
/// # Safety
/// As [`linear`], and the processor supports AVX-512 VNNI and VL.
#[target_feature(enable = "avx2,fma,f16c,avx512vnni,avx512vl")]
pub(in super::super) unsafe fn linear_vnni(args: &LinearArgs, range: Range<usize>, _scratch: &mut Vec<f32>) {
    // SAFETY: same contract.
    unsafe { linear_with::<Vnni>(args, range) }
}

/// [`linear`] with the 8-bit dot products of AVX-VNNI.
///
/// # Safety
/// As [`linear`], and the processor supports AVX-VNNI.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(in super::super) unsafe fn linear_avx_vnni(args: &LinearArgs, range: Range<usize>, _scratch: &mut Vec<f32>) {
    // SAFETY: same contract.
    unsafe { linear_with::<AvxVnni>(args, range) }
}

/// # Safety
/// As [`linear`], and the processor supports the instructions of `D`.
#[inline(always)]
unsafe fn linear_with<D: Dot>(args: &LinearArgs, range: Range<usize>) {
    // SAFETY: same contract.
    unsafe {
        match (args.weight, args.x) {
            (Matrix::Stored(Elements::F32(w)), Input::F32(x)) => stored::<F32>(args, w, x, range),
            (Matrix::Stored(Elements::Bf16(w)), Input::F32(x)) => stored::<Bf16>(args, w, x, range),
            (Matrix::Stored(Elements::F16(w)), Input::F32(x)) => stored::<F16>(args, w, x, range),
            (Matrix::Panels(scheme, bytes), Input::Int8(x)) => panels::<D>(args, scheme, bytes, x, range),
            _ => unreachable!("inputs come in the form that the table asks for"),
        }
    }
}

/// Conversion of stored elements to f32.
trait Widen {
    type Stored: Copy;

    /// Loads eight elements.
    ///
    /// # Safety
    /// Eight elements may be read from `at`, and the processor supports AVX2 and F16C.
    unsafe fn eight(at: *const Self::Stored) -> __m256;

    /// Loads `count` elements, at most eight, followed by zeros.
    ///
    /// # Safety
    /// As [`Widen::eight`], for `count` elements.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn some(at: *const Self::Stored, count: usize) -> __m256 {
        // SAFETY: zero is a value of every stored type, `count` is at most eight, and both sides hold `count` elements.
        unsafe {
            let mut all: [Self::Stored; STEP] = std::mem::zeroed();
            std::ptr::copy_nonoverlapping(at, all.as_mut_ptr(), count);
            Self::eight(all.as_ptr())
        }
    }
}

struct F32;
struct Bf16;
struct F16;

impl Widen for F32 {
    type Stored = f32;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn eight(at: *const f32) -> __m256 {
        // SAFETY: guaranteed by the caller.
        unsafe { _mm256_loadu_ps(at) }
    }
}

impl Widen for Bf16 {
    type Stored = u16;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn eight(at: *const u16) -> __m256 {
        // SAFETY: guaranteed by the caller.
        let bits = unsafe { _mm_loadu_si128(at.cast()) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
    }
}

impl Widen for F16 {
    type Stored = u16;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn eight(at: *const u16) -> __m256 {
        // SAFETY: guaranteed by the caller.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(at.cast()) })
    }
}

/// # Safety
/// As [`linear`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn stored<W: Widen>(args: &LinearArgs, w: &[W::Stored], x: &[f32], range: Range<usize>) {
    let in_features = args.in_features;
    let mut first = range.start;
    while first < range.end {
        let count = if range.end - first >= OUTS { OUTS } else { 1 };
        let w = &w[first * in_features..(first + count) * in_features];
        let mut row = 0;
        while row < args.rows {
            // The first rows prefetch the next weights; for later rows these are already in the cache.
            let next = if row == 0 { w.as_ptr_range().end } else { w.as_ptr() };
            let (x, w, next) = (x[row * in_features..].as_ptr(), w.as_ptr(), next.cast());
            // SAFETY: `w` has `count` rows, and this many rows of input are left; the columns belong to the task.
            unsafe {
                match (args.rows - row, count) {
                    (1, 1) => put(args, row, first, tile::<W, 1, 1>(x, w, in_features, next)),
                    (2, 1) => put(args, row, first, tile::<W, 2, 1>(x, w, in_features, next)),
                    (3, 1) => put(args, row, first, tile::<W, 3, 1>(x, w, in_features, next)),
                    (_, 1) => put(args, row, first, tile::<W, ROWS, 1>(x, w, in_features, next)),
                    (1, _) => put(args, row, first, tile::<W, 1, OUTS>(x, w, in_features, next)),
                    (2, _) => put(args, row, first, tile::<W, 2, OUTS>(x, w, in_features, next)),
                    (3, _) => put(args, row, first, tile::<W, 3, OUTS>(x, w, in_features, next)),
                    _ => put(args, row, first, tile::<W, ROWS, OUTS>(x, w, in_features, next)),
                }
            }
            row += ROWS;
        }
        first += count;
    }
}

/// # Safety
/// As [`LinearArgs::put`] for the tile's rows and outputs.
#[inline(always)]
unsafe fn put<const MR: usize, const NR: usize>(args: &LinearArgs, row: usize, first: usize, sums: [[f32; NR]; MR]) {
    for (m, sums) in sums.iter().enumerate() {
        // SAFETY: guaranteed by the caller.
        unsafe { args.put_all(row + m, first, first + NR, sums) };
    }
}

/// The dot products of `MR` rows of `x` with `NR` rows of `w`, all contiguous and of `in_features` elements. Also
/// prefetches as many bytes as these weights have, from `next` on, into the second-level cache.
///
/// # Safety
/// `x` has `MR` rows and `w` has `NR`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<W: Widen, const MR: usize, const NR: usize>(
    x: *const f32,
    w: *const W::Stored,
    in_features: usize,
    mut next: *const u8,
) -> [[f32; NR]; MR] {
    let mut sums = [[_mm256_setzero_ps(); NR]; MR];
    let whole = in_features / STEP * STEP;
    // SAFETY: all loads are inside the rows; a prefetch accepts any address.
    unsafe {
        let mut i = 0;
        while i < whole {
            let mut ws = [_mm256_setzero_ps(); NR];
            for n in 0..NR {
                ws[n] = W::eight(w.add(n * in_features + i));
            }
            for m in 0..MR {
                let xs = _mm256_loadu_ps(x.add(m * in_features + i));
                for n in 0..NR {
                    sums[m][n] = _mm256_fmadd_ps(xs, ws[n], sums[m][n]);
                }
            }
            _mm_prefetch::<_MM_HINT_T1>(next.cast());
            next = next.wrapping_add(NR * STEP * size_of::<W::Stored>());
            i += STEP;
        }
        if i < in_features {
            for m in 0..MR {
                let xs = F32::some(x.add(m * in_features + i), in_features - i);
                for n in 0..NR {
                    sums[m][n] = _mm256_fmadd_ps(xs, W::some(w.add(n * in_features + i), in_features - i), sums[m][n]);
                }
            }
        }
    }
    let mut out = [[0.0; NR]; MR];
    for m in 0..MR {
        for n in 0..NR {
            out[m][n] = sum(sums[m][n]);
        }
    }
    out
}

/// Adds the lanes as the tree `((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7))`.
#[inline]
#[target_feature(enable = "avx2")]
fn sum(v: __m256) -> f32 {
    let half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
    _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)))
}
