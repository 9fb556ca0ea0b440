//! Products with AVX2 and FMA.
//!
//! Stored weights are widened in registers and multiplied with f32 inputs: lane `l` of a sum takes elements `l`, `l + 8`, and
//! so on, and the lanes are added as a fixed tree. Quantized weights give exact integers ([`super::super::linear`]): their
//! magnitudes are multiplied with inputs that took over their signs, since the instruction wants one unsigned operand and
//! saturates when a bias is added.

#![allow(clippy::needless_range_loop, reason = "indices that are constant once unrolled keep sums in registers")]

use super::super::kernels::Elements;
use super::super::linear::{Input, Int8Rows, LinearArgs, Matrix};
use crate::encoding::{PANEL, Q4_VALUES, Scheme};
use std::arch::x86_64::*;
use std::ops::Range;

/// Input rows of a tile.
const ROWS: usize = 4;
/// Outputs of a tile of stored weights: twelve sums, three weights and one input fill the sixteen registers.
const OUTS: usize = 3;
/// Floats of a register.
const STEP: usize = 8;

/// # Safety
/// See [`super::Kernels::linear`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) unsafe fn linear(args: &LinearArgs, range: Range<usize>, _scratch: &mut Vec<f32>) {
    // SAFETY: same contract.
    unsafe {
        match (args.weight, args.x) {
            (Matrix::Stored(Elements::F32(w)), Input::F32(x)) => stored::<F32>(args, w, x, range),
            (Matrix::Stored(Elements::Bf16(w)), Input::F32(x)) => stored::<Bf16>(args, w, x, range),
            (Matrix::Stored(Elements::F16(w)), Input::F32(x)) => stored::<F16>(args, w, x, range),
            (Matrix::Panels(scheme, bytes), Input::Int8(x)) => panels(args, scheme, bytes, x, range),
            _ => unreachable!("inputs come in the form that the table asks for"),
        }
    }
}

/// How stored elements become f32.
trait Widen {
    type Stored: Copy;

    /// Eight elements.
    ///
    /// # Safety
    /// They lie at `at`, and the processor has AVX2 and F16C.
    unsafe fn eight(at: *const Self::Stored) -> __m256;

    /// The first `count` of eight elements, then zeros.
    ///
    /// # Safety
    /// As [`Widen::eight`], for `count` elements.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn some(at: *const Self::Stored, count: usize) -> __m256 {
        // SAFETY: zero is a value of every stored type, `count` is at most eight, and both places hold as many.
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
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_ps(at) }
    }
}

impl Widen for Bf16 {
    type Stored = u16;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn eight(at: *const u16) -> __m256 {
        // SAFETY: the caller's promise.
        let bits = unsafe { _mm_loadu_si128(at.cast()) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
    }
}

impl Widen for F16 {
    type Stored = u16;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn eight(at: *const u16) -> __m256 {
        // SAFETY: the caller's promise.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(at.cast()) })
    }
}

/// # Safety
/// As [`linear`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn stored<W: Widen>(args: &LinearArgs, w: &[W::Stored], x: &[f32], range: Range<usize>) {
    let ins = args.ins;
    let mut first = range.start;
    while first < range.end {
        let count = if range.end - first >= OUTS { OUTS } else { 1 };
        let w = &w[first * ins..(first + count) * ins];
        let mut row = 0;
        while row < args.rows {
            // Only the first rows look ahead; for the others, the next weights are there already.
            let next = if row == 0 { w.as_ptr_range().end } else { w.as_ptr() };
            let (x, w, next) = (x[row * ins..].as_ptr(), w.as_ptr(), next.cast());
            // SAFETY: the weights are `count` rows, and so many rows of input are left; columns are the task's.
            unsafe {
                match (args.rows - row, count) {
                    (1, 1) => put(args, row, first, tile::<W, 1, 1>(x, w, ins, next)),
                    (2, 1) => put(args, row, first, tile::<W, 2, 1>(x, w, ins, next)),
                    (3, 1) => put(args, row, first, tile::<W, 3, 1>(x, w, ins, next)),
                    (_, 1) => put(args, row, first, tile::<W, ROWS, 1>(x, w, ins, next)),
                    (1, _) => put(args, row, first, tile::<W, 1, OUTS>(x, w, ins, next)),
                    (2, _) => put(args, row, first, tile::<W, 2, OUTS>(x, w, ins, next)),
                    (3, _) => put(args, row, first, tile::<W, 3, OUTS>(x, w, ins, next)),
                    _ => put(args, row, first, tile::<W, ROWS, OUTS>(x, w, ins, next)),
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
        // SAFETY: the caller's promise.
        unsafe { args.put_all(row + m, first, first + NR, sums) };
    }
}

/// `x[m] . w[n]`, rows of both `ins` long and one after the other. What lies at `next`, as many bytes as the weights of this
/// tile, is brought into the second-level cache.
///
/// # Safety
/// There are `MR` and `NR` rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<W: Widen, const MR: usize, const NR: usize>(
    x: *const f32,
    w: *const W::Stored,
    ins: usize,
    mut next: *const u8,
) -> [[f32; NR]; MR] {
    let mut sums = [[_mm256_setzero_ps(); NR]; MR];
    let whole = ins / STEP * STEP;
    // SAFETY: all loads are inside the rows; a prefetch may be of any address.
    unsafe {
        let mut i = 0;
        while i < whole {
            let mut ws = [_mm256_setzero_ps(); NR];
            for n in 0..NR {
                ws[n] = W::eight(w.add(n * ins + i));
            }
            for m in 0..MR {
                let xs = _mm256_loadu_ps(x.add(m * ins + i));
                for n in 0..NR {
                    sums[m][n] = _mm256_fmadd_ps(xs, ws[n], sums[m][n]);
                }
            }
            _mm_prefetch::<_MM_HINT_T1>(next.cast());
            next = next.wrapping_add(NR * STEP * size_of::<W::Stored>());
            i += STEP;
        }
        if i < ins {
            for m in 0..MR {
                let xs = F32::some(x.add(m * ins + i), ins - i);
                for n in 0..NR {
                    sums[m][n] = _mm256_fmadd_ps(xs, W::some(w.add(n * ins + i), ins - i), sums[m][n]);
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

/// `((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7))`.
#[inline]
#[target_feature(enable = "avx2")]
fn sum(v: __m256) -> f32 {
    let half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
    _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)))
}

/// # Safety
/// As [`linear`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn panels(args: &LinearArgs, scheme: Scheme, bytes: &[u8], x: Int8Rows, range: Range<usize>) {
    let size = scheme.panel_bytes(args.ins);
    for first in range.clone().step_by(PANEL) {
        let panel = &bytes[first / PANEL * size..][..size];
        let mut row = 0;
        while row < args.rows {
            // SAFETY: so many rows are left; columns are the task's.
            unsafe {
                match (args.rows - row, scheme) {
                    (1, Scheme::Q8) => rows::<1, 64, false>(args, scheme, panel, &x, row, first..range.end),
                    (2, Scheme::Q8) => rows::<2, 64, false>(args, scheme, panel, &x, row, first..range.end),
                    (3, Scheme::Q8) => rows::<3, 64, false>(args, scheme, panel, &x, row, first..range.end),
                    (_, Scheme::Q8) => rows::<ROWS, 64, false>(args, scheme, panel, &x, row, first..range.end),
                    (1, Scheme::Q4) => rows::<1, 32, true>(args, scheme, panel, &x, row, first..range.end),
                    (2, Scheme::Q4) => rows::<2, 32, true>(args, scheme, panel, &x, row, first..range.end),
                    (3, Scheme::Q4) => rows::<3, 32, true>(args, scheme, panel, &x, row, first..range.end),
                    (_, Scheme::Q4) => rows::<ROWS, 32, true>(args, scheme, panel, &x, row, first..range.end),
                }
            }
            row += ROWS;
        }
    }
}

/// `MR` rows times one panel, whose outputs are `outs` as far as they go.
///
/// # Safety
/// As [`linear`] for these rows and outputs.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn rows<const MR: usize, const GROUP: usize, const HALVES: bool>(
    args: &LinearArgs,
    scheme: Scheme,
    panel: &[u8],
    x: &Int8Rows,
    row: usize,
    outs: Range<usize>,
) {
    let (groups, code_bytes) = (x.groups, scheme.code_bytes());
    let codes = panel[scheme.scale_bytes(args.ins)..][..groups * code_bytes].as_ptr();
    let inputs = x.codes[row * groups * GROUP..][..MR * groups * GROUP].as_ptr();
    let scales = &x.scales[row * groups..][..MR * groups];
    let table = q4_table();
    let mut sums = [[_mm256_setzero_ps(); 2]; MR];
    // SAFETY: all loads are inside the slices above.
    unsafe {
        for g in 0..groups {
            let mut products = [[_mm256_setzero_si256(); 2]; MR];
            let (codes, inputs) = (codes.add(g * code_bytes), inputs.add(g * GROUP));
            let stride = groups * GROUP;
            if HALVES {
                for step in 0..GROUP / 8 {
                    for half in 0..2 {
                        let both = _mm256_loadu_si256(codes.add(step * 64 + half * 32).cast());
                        let low = _mm256_set1_epi8(15);
                        let first = _mm256_shuffle_epi8(table, _mm256_and_si256(both, low));
                        let second = _mm256_and_si256(_mm256_srli_epi16::<4>(both), low);
                        let second = _mm256_shuffle_epi8(table, second);
                        for m in 0..MR {
                            let x = inputs.add(m * stride + step * 8);
                            products[m][half] = dot(products[m][half], first, x);
                            products[m][half] = dot(products[m][half], second, x.add(4));
                        }
                    }
                }
            } else {
                for step in 0..GROUP / 4 {
                    for half in 0..2 {
                        let biased = _mm256_loadu_si256(codes.add(step * 64 + half * 32).cast());
                        let w = _mm256_xor_si256(biased, _mm256_set1_epi8(-128));
                        for m in 0..MR {
                            products[m][half] = dot(products[m][half], w, inputs.add(m * stride + step * 4));
                        }
                    }
                }
            }
            for half in 0..2 {
                let scale = _mm_loadu_si128(panel.as_ptr().add((g * PANEL + half * 8) * 2).cast());
                let scale = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(scale)));
                for m in 0..MR {
                    let factor = _mm256_mul_ps(scale, _mm256_set1_ps(scales[m * groups + g]));
                    sums[m][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products[m][half]), factor, sums[m][half]);
                }
            }
        }
        for (m, sums) in sums.iter().enumerate() {
            let mut values = [0.0f32; PANEL];
            _mm256_storeu_ps(values.as_mut_ptr(), sums[0]);
            _mm256_storeu_ps(values.as_mut_ptr().add(8), sums[1]);
            args.put_all(row + m, outs.start, outs.end, &values);
        }
    }
}

/// Adds to each of eight sums the products of four weights with the same four inputs. Magnitudes are at most 127, so a pair of
/// products fits 16 bits.
///
/// # Safety
/// Four inputs lie at `x`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn dot(sum: __m256i, w: __m256i, x: *const i8) -> __m256i {
    // SAFETY: the caller's promise.
    let x = _mm256_set1_epi32(unsafe { x.cast::<i32>().read_unaligned() });
    let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

/// The values of the sixteen Q4 codes, in both halves.
#[inline]
#[target_feature(enable = "avx2")]
fn q4_table() -> __m256i {
    // SAFETY: sixteen bytes.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(Q4_VALUES.as_ptr().cast()) })
}
