//! Products of few rows of input with weights in blocks, in registers of AVX2.
//!
//! The dot products of a row's parts are lanes beside each other; then eight rows of weights are transposed, so that the parts of a
//! row are added one after the other, in their order.

#![allow(clippy::needless_range_loop, reason = "indices that are constant once unrolled keep sums in registers")]

use super::super::panels::Dot;
use super::super::tile::put;
use super::super::{Int8Rows, LinearArgs, aligned};
use super::{CHUNK, Chunk, Rows};
use crate::backend::cpu::vector::{Register, Vector, transpose8};
use crate::encoding::PANEL;
use crate::encoding::blocks::GROUP;
use std::arch::x86_64::*;
use std::ops::Range;

/// Most rows for which this is used. For more it costs less to put the weights in order first.
pub const ROWS_MAX: usize = 2;
/// Lanes of a register.
const LANES: usize = 8;

/// Rows of input as they are multiplied with chunks: of each row as many as whole chunks have, with zeros at the end.
struct Padded<'a> {
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

impl<'a> Padded<'a> {
    fn new<const PART: usize>(x: Int8Rows, rows: usize, scratch: &'a mut Vec<f32>) -> Padded<'a> {
        let per_group = GROUP / PART;
        let chunks = (x.groups * GROUP).div_ceil(CHUNK);
        let (width, parts) = (chunks * CHUNK, chunks * CHUNK / PART);
        let memory = aligned(scratch, rows * (width + parts * 12));
        memory.fill(0);
        let (codes, numbers) = memory.split_at_mut(rows * width);
        let (scales, numbers) = numbers.split_at_mut(rows * parts * 4);
        let (corrections, sums) = numbers.split_at_mut(rows * parts * 4);
        // SAFETY: every bit pattern is valid for these types; lengths before them are multiples of 4, of aligned memory.
        let (codes, scales, corrections, sums) = unsafe {
            (
                codes.align_to_mut::<i8>().1,
                scales.align_to_mut::<f32>().1,
                corrections.align_to_mut::<i32>().1,
                sums.align_to_mut::<f32>().1,
            )
        };
        let all = if per_group == 1 { x.corrections } else { x.half_corrections };
        for row in 0..rows {
            codes[row * width..][..x.groups * GROUP]
                .copy_from_slice(&x.codes[row * x.groups * GROUP..][..x.groups * GROUP]);
            let count = x.groups * per_group;
            corrections[row * parts..][..count].copy_from_slice(&all[row * count..][..count]);
            for part in 0..count {
                scales[row * parts + part] = x.scales[row * x.groups + part / per_group];
                sums[row * parts + part] = x.negative_sum(row, part, per_group);
            }
        }
        Padded { codes, scales, corrections, negative_sums: sums, chunks }
    }
}

/// Computes the outputs `range` for all `MR` rows of the input. Parts are of `PART` weights.
///
/// # Safety
/// As [`super::product`], and there are `MR` rows.
#[inline(always)]
pub unsafe fn product<D: Dot<V = __m256>, const MR: usize, const PART: usize, const MINIMA: bool>(
    args: &LinearArgs,
    weights: Rows,
    x: Int8Rows,
    range: Range<usize>,
    chunk: &mut Chunk,
    scratch: &mut Vec<f32>,
) {
    let input = Padded::new::<PART>(x, MR, scratch);
    for first in range.clone().step_by(PANEL) {
        let outs = first..range.end.min(first + PANEL);
        // SAFETY: the chunk has sixteen rows and the input whole chunks; the results belong to the task.
        unsafe {
            let mut sums = [[__m256::zero(); 2]; MR];
            for c in 0..input.chunks {
                weights.decode(outs.clone(), c * CHUNK, chunk);
                let count = (CHUNK.min(args.in_features - c * CHUNK)) / PART;
                for m in 0..MR {
                    let at = (m * input.chunks + c) * CHUNK;
                    let input = Inputs {
                        codes: input.codes[at..][..CHUNK].as_ptr(),
                        scales: input.scales[at / PART..][..CHUNK / PART].as_ptr(),
                        corrections: input.corrections[at / PART..][..CHUNK / PART].as_ptr(),
                        negative_sums: &input.negative_sums[at / PART..][..CHUNK / PART],
                    };
                    for half in 0..2 {
                        sums[m][half] =
                            eight_rows::<D, PART, MINIMA>(chunk, half * LANES, &input, count, sums[m][half]);
                    }
                }
            }
            for m in 0..MR {
                put(args, m, outs.clone(), &sums[m]);
            }
        }
    }
}

/// A chunk of a row of input.
struct Inputs<'a> {
    codes: *const i8,
    scales: *const f32,
    corrections: *const i32,
    negative_sums: &'a [f32],
}

/// Adds the products of a chunk's rows `row..row + LANES` to `sum`, the first `count` parts of them.
///
/// # Safety
/// The input has a whole chunk; the processor supports AVX2, FMA and the instructions of `D`.
#[inline(always)]
unsafe fn eight_rows<D: Dot<V = __m256>, const PART: usize, const MINIMA: bool>(
    chunk: &Chunk,
    row: usize,
    input: &Inputs,
    count: usize,
    mut sum: __m256,
) -> __m256 {
    let registers = CHUNK / PART / LANES;
    // SAFETY: guaranteed by the caller.
    unsafe {
        let flip = __m256::int(i32::from_ne_bytes([D::BIAS; 4]));
        // Of eight rows, eight parts in each of two registers, or in one.
        let mut dots = [[__m256::zero(); LANES]; 2];
        for m in 0..LANES {
            let mut lanes = [__m256::int(0); CHUNK / GROUP];
            for g in 0..CHUNK / GROUP {
                let w = __m256::load_bytes(chunk.codes[row + m].as_ptr().add(g * GROUP).cast());
                let x = __m256::load_bytes(input.codes.add(g * GROUP).cast());
                lanes[g] = D::dot(__m256::int(0), __m256::xor(w, flip), x);
            }
            let found = part_sums::<PART>(lanes);
            for i in 0..registers {
                let correction = _mm256_loadu_si256(input.corrections.add(i * LANES).cast());
                let dot = if D::BIAS == 0 { found[i] } else { __m256::add_int(found[i], correction) };
                dots[i][m] = __m256::float(dot);
            }
        }
        for i in 0..registers {
            let (mut factors, mut minima) = ([__m256::zero(); LANES], [__m256::zero(); LANES]);
            let scales = __m256::load(input.scales.add(i * LANES));
            for m in 0..LANES {
                factors[m] = __m256::mul(__m256::load(chunk.scales[row + m][i * LANES..].as_ptr()), scales);
                if MINIMA {
                    minima[m] = __m256::load(chunk.minima[row + m][i * LANES..].as_ptr());
                }
            }
            let (dots, factors) = (transpose8(dots[i]), transpose8(factors));
            let minima = if MINIMA { transpose8(minima) } else { minima };
            for part in 0..LANES {
                if i * LANES + part < count {
                    sum = __m256::fma(dots[part], factors[part], sum);
                    if MINIMA {
                        sum = __m256::fma(minima[part], __m256::splat(input.negative_sums[i * LANES + part]), sum);
                    }
                }
            }
        }
        sum
    }
}

/// Of a chunk's eight groups, in four-byte sums, the sums of the parts: in one register, or with parts of half a group in two.
///
/// # Safety
/// The processor supports AVX2.
#[inline(always)]
unsafe fn part_sums<const PART: usize>(groups: [__m256i; 8]) -> [__m256i; 2] {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let mut fours = [groups[0]; 2];
        for i in 0..2 {
            let [a, b, c, d] = [groups[4 * i], groups[4 * i + 1], groups[4 * i + 2], groups[4 * i + 3]];
            let low = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            let high = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
            // Of four groups the sums of their first halves, then of their second halves.
            fours[i] = _mm256_add_epi32(_mm256_unpacklo_epi64(low, high), _mm256_unpackhi_epi64(low, high));
        }
        let [a, b] = fours;
        if PART == GROUP {
            let sums =
                _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b));
            [sums; 2]
        } else {
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            [_mm256_permutevar8x32_epi32(a, order), _mm256_permutevar8x32_epi32(b, order)]
        }
    }
}
