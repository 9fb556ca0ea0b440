//! The portable tier: the loops of the reference, blocked and written over eight lanes so that the compiler vectorizes
//! them for any target. The AVX2 and NEON tiers compile parts of this source with their own instructions.
//!
//! Order of accumulation (law 1 of [`crate::backend`]): element `i` of a dot product is added to lane `i % 8`, and the
//! lanes are added as a fixed tree. Tiles of rows and outputs share loads, not accumulators.
//!
//! Functions are generic over `FMA`: whether a multiplication and the following addition are rounded once. It is fixed
//! for a tier.

mod activation;
mod attention;
mod recurrent;

pub(super) use activation::{activate_any, gate_any, softcap_any};
pub(super) use attention::attention_any;
pub(super) use recurrent::{conv_any, recurrence_any};

use super::Tier;
use super::attention::{AttentionKernels, running};
use super::head_products::HeadArgs;
use super::kernels::{Elements, Kernels, bf16_to_f32, f32_to_bf16, no_bf16, sampling_kernels};
use super::kv::{PageLayout, no_group};
use super::linear::{Input, Int8RowMut, Int8Rows, LinearArgs, Matrix, plain_form, widened};
use crate::dtype::BlockFormat;
use crate::encoding::blocks::{self, GROUP, Parts};
use crate::encoding::{PANEL, Q4_VALUES, Scheme};
use std::ops::Range;

/// The portable tier.
pub static KERNELS: Kernels = table::<false, 2>(Tier::Portable);

/// The table of a tier that is compiled from this source alone, with tiles of two rows by `NR` outputs.
pub(super) const fn table<const FMA: bool, const NR: usize>(tier: Tier) -> Kernels {
    Kernels {
        tier,
        form: plain_form,
        to_bf16: no_bf16,
        to_int8: to_int8_any,
        linear: linear_any::<FMA, 2, NR>,
        attention: AttentionKernels {
            layout: |_| PageLayout::Rows,
            attend: attention_any::<FMA>,
            attend_f32: attention_any::<FMA>,
            store_group: no_group,
            combine: running::combine::<FMA>,
        },
        sampling: sampling_kernels!(),
        rms_norm: rms_norm_any::<FMA>,
        centre: centre_any,
        head_product: head_product_any::<FMA>,
        gate: gate_any::<FMA>,
        activate: activate_any::<FMA>,
        softcap: softcap_any::<FMA>,
        conv: conv_any::<FMA>,
        recurrence: recurrence_any::<FMA, 2>,
        sigmoid_mul: sigmoid_mul_any::<FMA>,
    }
}

/// Lanes of an accumulator: one AVX register, or two SSE or NEON registers.
const LANES: usize = 8;
/// Fewest input rows for which a panel of weights is widened to f32 first, instead of at each use.
const PANEL_ROWS_MIN: usize = 3;

type Lanes = [f32; LANES];

#[inline(always)]
fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn reduce(v: &Lanes) -> f32 {
    ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
}

/// Conversion of stored elements to f32.
trait Stored: Copy {
    fn widen(self) -> f32;
}

impl Stored for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Bf16(u16);

impl Stored for Bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        bf16_to_f32(self.0)
    }
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct F16(u16);

impl Stored for F16 {
    /// Exact for every finite value, without tables or special instructions: a product corrects the exponent bias.
    #[inline(always)]
    fn widen(self) -> f32 {
        let bits = self.0 as u32;
        let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
        let infinite = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
        f32::from_bits(magnitude.to_bits() | infinite | (bits & 0x8000) << 16)
    }
}

fn as_bf16(bits: &[u16]) -> &[Bf16] {
    // SAFETY: Bf16 is a transparent u16.
    unsafe { std::slice::from_raw_parts(bits.as_ptr().cast(), bits.len()) }
}

fn as_f16(bits: &[u16]) -> &[F16] {
    // SAFETY: F16 is a transparent u16.
    unsafe { std::slice::from_raw_parts(bits.as_ptr().cast(), bits.len()) }
}

#[inline(always)]
fn lanes_of<T: Stored>(chunk: &[T]) -> Lanes {
    let mut v = [0.0; LANES];
    for l in 0..LANES {
        v[l] = chunk[l].widen();
    }
    v
}

/// The dot products of `MR` rows of `x` with `NR` rows of `w`, all contiguous and of `in_features` elements.
#[inline(always)]
fn tile<const FMA: bool, const MR: usize, const NR: usize, T: Stored>(
    x: &[f32],
    w: &[T],
    in_features: usize,
) -> [[f32; NR]; MR] {
    let mut sums = [[[0.0f32; LANES]; NR]; MR];
    let x: [&[f32]; MR] = std::array::from_fn(|m| &x[m * in_features..(m + 1) * in_features]);
    let w: [&[T]; NR] = std::array::from_fn(|n| &w[n * in_features..(n + 1) * in_features]);
    let whole = in_features / LANES * LANES;
    let mut i = 0;
    while i < whole {
        let wv: [Lanes; NR] = std::array::from_fn(|n| lanes_of(&w[n][i..i + LANES]));
        for m in 0..MR {
            let xv = lanes_of(&x[m][i..i + LANES]);
            for n in 0..NR {
                for l in 0..LANES {
                    sums[m][n][l] = fma::<FMA>(xv[l], wv[n][l], sums[m][n][l]);
                }
            }
        }
        i += LANES;
    }
    for (l, i) in (whole..in_features).enumerate() {
        for m in 0..MR {
            for n in 0..NR {
                sums[m][n][l] = fma::<FMA>(x[m][i], w[n][i].widen(), sums[m][n][l]);
            }
        }
    }
    std::array::from_fn(|m| std::array::from_fn(|n| reduce(&sums[m][n])))
}

/// Multiplies all rows of `x` with the `count` weight rows in `w`; writes the results from column `first` on.
///
/// # Safety
/// As [`Kernels::linear`] for columns `first..first + count`.
#[inline(always)]
unsafe fn block<const FMA: bool, const MR: usize, const NR: usize, T: Stored>(
    args: &LinearArgs,
    x: &[f32],
    w: &[T],
    first: usize,
    count: usize,
) {
    let in_features = args.in_features;
    let mut row = 0;
    while row < args.rows {
        let x = &x[row * in_features..];
        let step = if args.rows - row >= MR { MR } else { 1 };
        let mut n = 0;
        while n < count {
            let w = &w[n * in_features..];
            // SAFETY: the rows and columns of all writes belong to the task, by this function's contract.
            unsafe {
                if step == MR && count - n >= NR {
                    let t = tile::<FMA, MR, NR, T>(x, w, in_features);
                    for (m, t) in t.iter().enumerate() {
                        t.iter().enumerate().for_each(|(j, &v)| args.put(row + m, first + n + j, v));
                    }
                    n += NR;
                } else if step == MR {
                    let t = tile::<FMA, MR, 1, T>(x, w, in_features);
                    t.iter().enumerate().for_each(|(m, t)| args.put(row + m, first + n, t[0]));
                    n += 1;
                } else if count - n >= 4 {
                    let t = tile::<FMA, 1, 4, T>(x, w, in_features);
                    t[0].iter().enumerate().for_each(|(j, &v)| args.put(row, first + n + j, v));
                    n += 4;
                } else {
                    let t = tile::<FMA, 1, 1, T>(x, w, in_features);
                    args.put(row, first + n, t[0][0]);
                    n += 1;
                }
            }
        }
        row += step;
    }
}

/// # Safety
/// As [`Kernels::linear`].
#[inline(always)]
unsafe fn linear_stored<const FMA: bool, const MR: usize, const NR: usize, T: Stored>(
    args: &LinearArgs,
    x: &[f32],
    w: &[T],
    range: Range<usize>,
    scratch: &mut Vec<f32>,
) {
    let in_features = args.in_features;
    if args.rows < PANEL_ROWS_MIN {
        let w = &w[range.start * in_features..range.end * in_features];
        // SAFETY: same contract, whole range.
        return unsafe { block::<FMA, MR, NR, T>(args, x, w, range.start, range.len()) };
    }
    let mut first = range.start;
    while first < range.end {
        // 16 rows of 4,096 f32 are 256 KiB, which fits the second-level cache.
        let count = PANEL.min(range.end - first);
        scratch.clear();
        scratch.extend(w[first * in_features..(first + count) * in_features].iter().map(|v| v.widen()));
        // SAFETY: same contract, part of the range.
        unsafe { block::<FMA, MR, NR, f32>(args, x, scratch, first, count) };
        first += count;
    }
}

/// # Safety
/// As [`Kernels::linear`].
#[inline(always)]
pub(super) unsafe fn linear_any<const FMA: bool, const MR: usize, const NR: usize>(
    args: &LinearArgs,
    range: Range<usize>,
    scratch: &mut Vec<f32>,
) {
    // SAFETY: same contract.
    unsafe {
        match (args.weight, args.x) {
            (Matrix::Stored(Elements::F32(w)), Input::F32(x)) => {
                block::<FMA, MR, NR, f32>(args, x, &w[range.start * args.in_features..], range.start, range.len())
            }
            (Matrix::Stored(Elements::Bf16(w)), Input::F32(x)) => {
                linear_stored::<FMA, MR, NR, Bf16>(args, x, as_bf16(w), range, scratch)
            }
            (Matrix::Stored(Elements::F16(w)), Input::F32(x)) => {
                linear_stored::<FMA, MR, NR, F16>(args, x, as_f16(w), range, scratch)
            }
            (Matrix::Panels(scheme, bytes), Input::Int8(x)) => linear_panels(args, scheme, bytes, x, range),
            (Matrix::Blocks(format, bytes), Input::Int8(x)) => linear_blocks(args, format, bytes, x, range, scratch),
            (Matrix::Blocks(..) | Matrix::F8(_), Input::F32(_)) => {
                widened(linear_any::<FMA, MR, NR>, args, range, scratch)
            }
            _ => unreachable!("inputs come in the form that the table asks for"),
        }
    }
}

/// Expands the codes of one group of a panel to bytes holding integer + 128, `[group / 4][PANEL][4]`.
#[inline(always)]
fn unpack(scheme: Scheme, codes: &[u8], out: &mut [u8; PANEL * GROUP]) {
    match scheme {
        Scheme::Q8 => out[..codes.len()].copy_from_slice(codes),
        Scheme::Q4 => {
            for (both, out) in codes.chunks_exact(PANEL * 4).zip(out.chunks_exact_mut(PANEL * 8)) {
                let (low, high) = out.split_at_mut(PANEL * 4);
                for ((code, low), high) in both.iter().zip(low).zip(high) {
                    *low = (Q4_VALUES[(code & 15) as usize] as u8) ^ 128;
                    *high = (Q4_VALUES[(code >> 4) as usize] as u8) ^ 128;
                }
            }
        }
    }
}

/// # Safety
/// As [`Kernels::linear`].
#[inline(always)]
unsafe fn linear_panels(args: &LinearArgs, scheme: Scheme, bytes: &[u8], x: Int8Rows, range: Range<usize>) {
    let size = scheme.panel_bytes(args.in_features);
    let mut codes = [0u8; PANEL * GROUP];
    for first in range.clone().step_by(PANEL) {
        let panel = &bytes[first / PANEL * size..][..size];
        for row in 0..args.rows {
            let mut sums = [0.0f32; PANEL];
            for g in 0..x.groups {
                let start = scheme.scale_bytes(args.in_features) + g * scheme.code_bytes();
                unpack(scheme, &panel[start..start + scheme.code_bytes()], &mut codes);
                let at = row * x.groups + g;
                let mut products = [x.corrections[at]; PANEL];
                let inputs = &x.codes[at * GROUP..(at + 1) * GROUP];
                for (inputs, codes) in inputs.chunks_exact(4).zip(codes.chunks_exact(PANEL * 4)) {
                    for (sum, codes) in products.iter_mut().zip(codes.chunks_exact(4)) {
                        for (x, w) in inputs.iter().zip(codes) {
                            *sum += *x as i32 * *w as i32;
                        }
                    }
                }
                for (out, (sum, product)) in sums.iter_mut().zip(products).enumerate() {
                    *sum = (product as f32).mul_add(scheme.scale(panel, out, g) * x.scales[at], *sum);
                }
            }
            // SAFETY: the row and columns belong to this task (contract of `linear`).
            unsafe { args.put_all(row, first, range.end, &sums) };
        }
    }
}

/// A row of weights is decoded, then multiplied with all rows of the input.
///
/// # Safety
/// As [`Kernels::linear`].
#[inline(always)]
unsafe fn linear_blocks(
    args: &LinearArgs,
    format: BlockFormat,
    bytes: &[u8],
    x: Int8Rows,
    range: Range<usize>,
    scratch: &mut Vec<f32>,
) {
    let (weights, block_bytes, each) = (format.weights(), format.bytes(), format.part());
    let (in_features, halves) = (args.in_features, GROUP / each);
    let (row_bytes, parts) = (in_features / weights * block_bytes, in_features / each);
    scratch.resize(scratch.len().max(in_features + 2 * parts), 0.0);
    let (integers, of_parts) = scratch[..in_features + 2 * parts].split_at_mut(in_features);
    // SAFETY: a part of the floats' memory, of which all bytes are initialized.
    let integers = unsafe { std::slice::from_raw_parts_mut(integers.as_mut_ptr().cast::<i8>(), in_features) };
    let (scales, minima) = of_parts.split_at_mut(parts);
    for out in range {
        let row = &bytes[out * row_bytes..(out + 1) * row_bytes];
        for (i, block) in row.chunks_exact(block_bytes).enumerate() {
            let at = i * weights / each;
            let mut to = Parts { scales: &mut scales[at..], minima: &mut minima[at..] };
            blocks::decode_any(format, block, &mut integers[i * weights..], &mut to);
        }
        for row in 0..args.rows {
            let codes = &x.codes[row * x.groups * GROUP..][..in_features];
            let mut sum = 0.0f32;
            for part in 0..parts {
                let at = part * each..(part + 1) * each;
                let dot: i32 = codes[at.clone()].iter().zip(&integers[at]).map(|(x, w)| *x as i32 * *w as i32).sum();
                let input_scale = x.scales[row * x.groups + part / halves];
                sum = (dot as f32).mul_add(scales[part] * input_scale, sum);
                if format.has_minima() {
                    sum = minima[part].mul_add(x.negative_sum(row, part, halves), sum);
                }
            }
            // SAFETY: the row and column belong to this task (contract of `linear`).
            unsafe { args.put(row, out, sum) };
        }
    }
}

/// Rounds `x` to bf16.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "tiers of other processors take no bf16 inputs yet"))]
#[inline(always)]
pub(super) fn to_bf16_any(x: &[f32], out: &mut [u16]) {
    out.iter_mut().zip(x).for_each(|(out, &x)| *out = f32_to_bf16(x));
}

/// Implements [`Kernels::to_int8`]. Every step is exact or rounds once, so that all tiers give the same codes.
#[inline(always)]
pub(super) fn to_int8_any(x: &[f32], row: Int8RowMut) {
    /// Adding this constant leaves the nearest integer in the low mantissa bits, for magnitudes below 2^22.
    const ROUND: f32 = 12_582_912.0;
    let Int8RowMut { codes, scales, corrections, half_corrections } = row;
    for (g, codes) in codes.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
        let mut whole = [0.0; GROUP];
        let part = &x[g * GROUP..x.len().min((g + 1) * GROUP)];
        whole[..part.len()].copy_from_slice(part);
        // Compared as integers, the bits of a NaN are larger than those of any number, so that a NaN is kept.
        let largest = f32::from_bits(whole.iter().fold(0, |m: u32, x| m.max(x.to_bits() & 0x7fff_ffff)));
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        let mut sums = [0; 2];
        for (half, sum) in sums.iter_mut().enumerate() {
            for i in half * GROUP / 2..(half + 1) * GROUP / 2 {
                let rounded = (whole[i] * inverse).clamp(-127.0, 127.0) + ROUND;
                codes[i] = (rounded.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32) as i8;
                *sum += codes[i] as i32;
            }
        }
        // Beyond the end of the row there are zeros, but where the scale is not a number.
        codes[part.len()..].fill(0);
        scales[g] = largest / 127.0;
        corrections[g] = -128 * (sums[0] + sums[1]);
        half_corrections[2 * g] = -128 * sums[0];
        half_corrections[2 * g + 1] = -128 * sums[1];
    }
}

/// e^x for x in about [-87, 88], with a relative error below 2e-7: x = n ln 2 + r, a polynomial in r, and 2^n by its
/// bits. Smaller x give about 1e-38, not 0. Coefficients: minimax on [-ln 2 / 2, ln 2 / 2], from Cephes `expf`.
#[inline(always)]
pub(super) fn exp<const FMA: bool>(x: f32) -> f32 {
    /// Adding this constant leaves the nearest integer in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.3, 88.3);
    let n = fma::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let scale = f32::from_bits((n.to_bits() << 23).wrapping_add(0x3f80_0000));
    let n = n - ROUND;
    let r = fma::<FMA>(n, 2.121_944_4e-4, fma::<FMA>(n, -0.693_359_4, x));
    let mut p = 1.987_569_1e-4;
    p = fma::<FMA>(p, r, 1.398_199_9e-3);
    p = fma::<FMA>(p, r, 8.333_452e-3);
    p = fma::<FMA>(p, r, 4.166_579_6e-2);
    p = fma::<FMA>(p, r, 1.666_666_5e-1);
    p = fma::<FMA>(p, r, 0.500_000_06);
    fma::<FMA>(p * r, r, r + 1.0) * scale
}

#[inline(always)]
fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    tile::<FMA, 1, 1, f32>(a, b, a.len())[0][0]
}

#[inline(always)]
pub(super) fn rms_norm_any<const FMA: bool>(x: &mut [f32], gain: Option<Elements>, eps: f32) {
    let square = dot::<FMA>(x, x);
    let factor = 1.0 / (square / x.len() as f32 + eps).sqrt();
    let Some(gain) = gain else { return x.iter_mut().for_each(|x| *x *= factor) };
    match gain {
        Elements::F32(g) => x.iter_mut().zip(g).for_each(|(x, g)| *x = *x * factor * g),
        Elements::Bf16(g) => x.iter_mut().zip(g).for_each(|(x, &g)| *x = *x * factor * bf16_to_f32(g)),
        Elements::F16(g) => x.iter_mut().zip(as_f16(g)).for_each(|(x, g)| *x = *x * factor * g.widen()),
    }
}

/// Implements [`Kernels::centre`].
#[inline(always)]
pub(super) fn centre_any(x: &mut [f32]) {
    let (whole, rest) = x.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in whole {
        sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += x);
    }
    sums.iter_mut().zip(rest).for_each(|(sum, x)| *sum += x);
    let mean = reduce(&sums) / x.len() as f32;
    x.iter_mut().for_each(|x| *x -= mean);
}

/// Implements [`Kernels::head_product`]: a row of the matrix is widened once for all rows of the input.
///
/// # Safety
/// As [`Kernels::head_product`].
#[inline(always)]
pub(super) unsafe fn head_product_any<const FMA: bool>(args: &HeadArgs, scratch: &mut Vec<f32>) {
    scratch.resize(scratch.len().max(args.width), 0.0);
    let wide = &mut scratch[..args.width];
    // SAFETY: guaranteed by the caller.
    let result = |row: usize| unsafe { args.result(row) };
    if args.transposed {
        (0..args.rows).for_each(|row| result(row).fill(0.0));
    }
    for (index, weight_row) in args.weight_rows.clone().enumerate() {
        args.weight.widen_row(weight_row, args.width, wide);
        for row in 0..args.rows {
            let (x, out) = (args.input(row), result(row));
            if args.transposed {
                let x = x[index];
                for (out, w) in out.iter_mut().zip(&*wide) {
                    *out = fma::<FMA>(x, *w, *out);
                }
            } else {
                out[index] = dot::<FMA>(x, wide);
            }
        }
    }
}

#[inline(always)]
pub(super) fn sigmoid_mul_any<const FMA: bool>(x: &mut [f32], gate: &[f32]) {
    for (x, g) in x.iter_mut().zip(gate) {
        *x /= 1.0 + exp::<FMA>(-g);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_its_bound() {
        for i in -8700..8800 {
            let x = i as f32 / 100.0;
            for got in [exp::<false>(x), exp::<true>(x)] {
                let want = (x as f64).exp();
                assert!(((got as f64 - want) / want).abs() < 2e-7, "exp({x}) = {got}, not {want}");
            }
        }
        assert!(exp::<false>(f32::NEG_INFINITY) < 2e-38);
    }

    #[test]
    fn f16_widens_exactly() {
        for bits in 0..=u16::MAX {
            let (got, want) = (F16(bits).widen(), half::f16::from_bits(bits).to_f32());
            assert!(got == want || got.is_nan() && want.is_nan(), "{bits:#06x}: {got} is not {want}");
        }
    }
}
