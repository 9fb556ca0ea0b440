//! Products of few rows of input with weights in blocks.
//!
//! The dot products of a row's parts are lanes beside each other; then eight rows of weights are transposed, so that the parts of a
//! row are added one after the other, in their order.

#![allow(clippy::needless_range_loop, reason = "indices that are constant once unrolled keep sums in registers")]

use super::super::panels::Dot;
use super::super::tile::put;
use super::super::{Int8Rows, LinearArgs, aligned};
use super::order::Order;
use super::{CHUNK, Chunk, Rows};
use crate::backend::cpu::vector::{Vector, transpose8};
use crate::encoding::PANEL;
use crate::encoding::blocks::GROUP;
use std::arch::x86_64::*;
use std::ops::Range;

/// Lanes of a register.
const LANES: usize = 8;

/// Rows of input as they are multiplied with chunks: of each row as many as whole chunks have, with zeros at the end.
struct Inputs<'a> {
    /// `[rows, chunks * CHUNK]`
    codes: &'a [i8],
    /// `[rows, parts]`: the scale of the part's group.
    scales: &'a [f32],
    /// `[rows, parts]`: -128 times the sum of the part's codes.
    corrections: &'a [i32],
    /// `[rows, parts]`: what minima are multiplied with.
    negative_sums: &'a [f32],
    /// Chunks of a row.
    chunks: usize,
}

impl<'a> Inputs<'a> {
    fn new<const PART: usize>(x: Int8Rows, rows: usize, scratch: &'a mut Vec<f32>) -> Inputs<'a> {
        let per_group = GROUP / PART;
        let chunks = (x.groups * GROUP).div_ceil(CHUNK);
        let (width, parts, count) = (chunks * CHUNK, chunks * CHUNK / PART, x.groups * per_group);
        let memory = aligned(scratch, rows * (width + parts * 12));
        memory.fill(0);
        let (codes, numbers) = memory.split_at_mut(rows * width);
        let (scales, numbers) = numbers.split_at_mut(rows * parts * 4);
        let (corrections, sums) = numbers.split_at_mut(rows * parts * 4);
        // SAFETY: every bit pattern is valid for these types; lengths before them are multiples of 4, of aligned memory.
        let (codes, scales, corrections, sums) = unsafe {
            let (codes, scales) = (codes.align_to_mut::<i8>().1, scales.align_to_mut::<f32>().1);
            (codes, scales, corrections.align_to_mut::<i32>().1, sums.align_to_mut::<f32>().1)
        };
        let all = if per_group == 1 { x.corrections } else { x.half_corrections };
        for row in 0..rows {
            let stored = &x.codes[row * x.groups * GROUP..][..x.groups * GROUP];
            codes[row * width..][..stored.len()].copy_from_slice(stored);
            corrections[row * parts..][..count].copy_from_slice(&all[row * count..][..count]);
            for part in 0..count {
                scales[row * parts + part] = x.scales[row * x.groups + part / per_group];
                sums[row * parts + part] = x.negative_sum(row, part, per_group);
            }
        }
        Inputs { codes, scales, corrections, negative_sums: sums, chunks }
    }
}

/// Computes the outputs `range` for all `MR` rows of the input. Parts are of `PART` weights.
///
/// # Safety
/// As [`super::product`], and there are `MR` rows.
#[inline(always)]
pub unsafe fn product<D: Dot<V: Order>, const MR: usize, const PART: usize, const MINIMA: bool>(
    args: &LinearArgs,
    weights: Rows,
    x: Int8Rows,
    range: Range<usize>,
    scratch: &mut Vec<f32>,
) {
    let input = Inputs::new::<PART>(x, MR, scratch);
    let mut chunks = [Chunk::ZERO; LANES];
    for first in range.clone().step_by(PANEL) {
        let outs = first..range.end.min(first + PANEL);
        let mut sums = [[0.0; PANEL]; MR];
        for half in 0..2 {
            let some = outs.end.min(first + half * LANES)..outs.end.min(first + (half + 1) * LANES);
            // SAFETY: the processor supports the instructions; eight sums from a multiple of eight on.
            unsafe {
                let found = eight_rows::<D, MR, PART, MINIMA>(&weights, some, &input, &mut chunks);
                for m in 0..MR {
                    __m256::store(found[m], sums[m][half * LANES..].as_mut_ptr());
                }
            }
        }
        for m in 0..MR {
            // SAFETY: the results belong to the task.
            unsafe {
                let sums = [__m256::load(sums[m].as_ptr()), __m256::load(sums[m][LANES..].as_ptr())];
                put(args, m, outs.clone(), &sums);
            }
        }
    }
}

/// The products of the rows `outs`, at most eight; lanes beyond these are arbitrary.
///
/// # Safety
/// The processor supports AVX2, FMA, F16C and the instructions of `D`.
#[inline(always)]
unsafe fn eight_rows<D: Dot<V: Order>, const MR: usize, const PART: usize, const MINIMA: bool>(
    weights: &Rows,
    outs: Range<usize>,
    input: &Inputs,
    chunks: &mut [Chunk; LANES],
) -> [__m256; MR] {
    let (registers, parts) = (CHUNK / PART / LANES, input.chunks * (CHUNK / PART));
    assert!(input.codes.len() >= MR * input.chunks * CHUNK && input.scales.len() >= MR * parts);
    assert!(input.corrections.len() >= MR * parts && input.negative_sums.len() >= MR * parts);
    // SAFETY: guaranteed by the caller; what is read is inside the slices, whose lengths were checked.
    unsafe {
        let (mut sums, mut ahead) = ([__m256::zero(); MR], weights.ahead(&outs));
        for c in 0..input.chunks {
            // Of eight rows, eight parts in each of two registers, or in one.
            let mut dots = [[[__m256::zero(); LANES]; 2]; MR];
            // All are decoded before the first is read again: what was just stored cannot be read in wider registers at once.
            weights.decode(outs.clone(), c * CHUNK, chunks);
            for n in 0..LANES {
                ahead.step();
                for m in 0..MR {
                    let inputs = input.codes.as_ptr().add((m * input.chunks + c) * CHUNK);
                    let found = D::V::dots::<D, PART>(chunks[n].codes.as_ptr().cast(), inputs.cast());
                    for i in 0..registers {
                        let at = (m * input.chunks + c) * (CHUNK / PART) + i * LANES;
                        let correction = _mm256_loadu_si256(input.corrections.as_ptr().add(at).cast());
                        let dot = if D::BIAS == 0 { found[i] } else { _mm256_add_epi32(found[i], correction) };
                        dots[m][i][n] = _mm256_cvtepi32_ps(dot);
                    }
                }
            }
            let count = CHUNK.min(weights.in_features - c * CHUNK) / PART;
            for i in 0..registers {
                let mut minima = [__m256::zero(); LANES];
                if MINIMA {
                    for n in 0..LANES {
                        minima[n] = __m256::load(chunks[n].minima[i * LANES..].as_ptr());
                    }
                    minima = transpose8(minima);
                }
                for m in 0..MR {
                    let at = (m * input.chunks + c) * (CHUNK / PART) + i * LANES;
                    let scales = __m256::load(input.scales.as_ptr().add(at));
                    let mut factors = [__m256::zero(); LANES];
                    for n in 0..LANES {
                        factors[n] = __m256::mul(__m256::load(chunks[n].scales[i * LANES..].as_ptr()), scales);
                    }
                    let (dots, factors) = (transpose8(dots[m][i]), transpose8(factors));
                    for part in 0..LANES {
                        if i * LANES + part < count {
                            sums[m] = __m256::fma(dots[part], factors[part], sums[m]);
                            if MINIMA {
                                let negative_sum = *input.negative_sums.as_ptr().add(at + part);
                                sums[m] = __m256::fma(minima[part], __m256::splat(negative_sum), sums[m]);
                            }
                        }
                    }
                }
            }
        }
        sums
    }
}
