//! Tiles of decoded weights, and their products with rows of input.

#![allow(clippy::needless_range_loop, reason = "indices that are constant once unrolled keep sums in registers")]

use super::super::panels::Dot;
use super::super::tile::{ROWS, put};
use super::super::{Int8Rows, LinearArgs, aligned, negative_sum};
use super::order::{Order, by_part};
use super::{CHUNK, Chunk, Rows};
use crate::backend::cpu::vector::{Register, Vector};
use crate::encoding::PANEL;
use crate::encoding::blocks::GROUP;
use std::marker::PhantomData;
use std::ops::Range;

/// Inputs that [`Order::interleave`] puts in order at once: two groups.
const PAIR: usize = 2 * GROUP;
/// Bytes of a group's integers.
const GROUP_BYTES: usize = GROUP * PANEL;

/// Sixteen rows of weights in blocks, decoded.
#[derive(Clone, Copy)]
pub struct Tile<'a> {
    /// `[groups][GROUP / 4][PANEL][4]`: integers, each exclusive-or the bias of the dot product.
    pub codes: &'a [u8],
    /// `[parts][PANEL]`.
    pub scales: &'a [f32],
    /// `[parts][PANEL]`; empty without minima.
    pub minima: &'a [f32],
}

impl<'a> Tile<'a> {
    /// Decodes the rows `range`, at most sixteen; what is in the place of further ones is of no use.
    ///
    /// # Safety
    /// The processor supports AVX2, F16C, and the instructions of `V`.
    #[inline(always)]
    pub unsafe fn new<V: Order>(rows: &Rows, range: Range<usize>, scratch: &'a mut Vec<f32>) -> Tile<'a> {
        let (part, parts) = (rows.format.part(), rows.in_features / rows.format.part());
        let minima = if rows.format.has_minima() { parts * PANEL } else { 0 };
        let code_bytes = rows.in_features.div_ceil(PAIR) * PAIR * PANEL;
        let memory = aligned(scratch, code_bytes + (parts * PANEL + minima) * 4);
        let (codes, floats) = memory.split_at_mut(code_bytes);
        // SAFETY: code bytes are a multiple of 64, so the floats are aligned; all bytes are initialized.
        let floats = unsafe { floats.align_to_mut::<f32>().1 };
        let (scales, minima) = floats.split_at_mut(parts * PANEL);
        let (mut chunks, mut ahead) = ([Chunk::ZERO; PANEL], rows.ahead(&range));
        for first in (0..rows.in_features).step_by(CHUNK) {
            let end = rows.in_features.min(first + CHUNK);
            // SAFETY: guaranteed by the caller.
            unsafe { rows.decode(range.clone(), first, &mut chunks) };
            for _ in range.clone() {
                ahead.step();
            }
            // SAFETY: of sixteen chunks 64 bytes from a multiple of 64 on; 1024 bytes are written.
            unsafe {
                let codes = codes[first * PANEL..].chunks_exact_mut(PAIR * PANEL);
                for (pair, to) in codes.take((end - first).div_ceil(PAIR)).enumerate() {
                    let codes = chunks[0].codes.as_ptr().wrapping_add(pair * PAIR).cast();
                    V::interleave(codes, size_of::<Chunk>(), to.as_mut_ptr());
                }
                let of_parts = first / part * PANEL..end / part * PANEL;
                by_part(chunks.each_ref().map(|chunk| &chunk.scales), &mut scales[of_parts.clone()]);
                if !minima.is_empty() {
                    by_part(chunks.each_ref().map(|chunk| &chunk.minima), &mut minima[of_parts]);
                }
            }
        }
        Tile { codes, scales, minima }
    }
}

/// Multiplies all rows of the input with a tile, four at a time.
///
/// # Safety
/// As [`super::product`] for these outputs.
#[inline(always)]
pub unsafe fn all_rows<D: Dot, const R: usize, const PART: usize, const MINIMA: bool>(
    args: &LinearArgs,
    tile: Tile,
    x: Int8Rows,
    out_features: Range<usize>,
) {
    let column = Column::<D, R, PART, MINIMA> { args, tile, x, out_features, dot: PhantomData };
    for row in (0..args.rows).step_by(ROWS) {
        // SAFETY: same contract, some of the rows.
        unsafe {
            match args.rows - row {
                1 => column.run::<1>(row),
                2 => column.run::<2>(row),
                3 => column.run::<3>(row),
                _ => column.run::<ROWS>(row),
            }
        }
    }
}

/// The outputs of a tile, in `R` registers; its parts are of `PART` inputs.
struct Column<'a, D, const R: usize, const PART: usize, const MINIMA: bool> {
    args: &'a LinearArgs<'a>,
    tile: Tile<'a>,
    x: Int8Rows<'a>,
    out_features: Range<usize>,
    dot: PhantomData<D>,
}

impl<D: Dot, const R: usize, const PART: usize, const MINIMA: bool> Column<'_, D, R, PART, MINIMA> {
    /// Computes `MR` rows, from `row` on.
    ///
    /// # Safety
    /// As [`super::product`] for these rows.
    #[inline(always)]
    unsafe fn run<const MR: usize>(&self, row: usize) {
        let (x, groups, lanes) = (self.x, self.x.groups, D::V::LANES);
        let (parts, steps) = (GROUP / PART, PART / 4);
        assert!(R * lanes == PANEL && self.tile.codes.len() >= groups * GROUP_BYTES);
        assert!(self.tile.scales.len() >= groups * parts * PANEL);
        assert!(!MINIMA || self.tile.minima.len() >= groups * parts * PANEL);
        let inputs = x.codes[row * groups * GROUP..][..MR * groups * GROUP].as_ptr();
        let input_scales = x.scales[row * groups..][..MR * groups].as_ptr();
        // Of groups, or of halves of groups.
        let all = if parts == 1 { x.corrections } else { x.half_corrections };
        let corrections = all[row * groups * parts..][..MR * groups * parts].as_ptr();
        let (codes, scales, minima) = (self.tile.codes.as_ptr(), self.tile.scales.as_ptr(), self.tile.minima.as_ptr());
        // SAFETY: all loads are inside the tile and the slices above; the processor supports `D`.
        unsafe {
            let mut sums = [[D::V::zero(); R]; MR];
            for g in 0..groups {
                for p in 0..parts {
                    let part = g * parts + p;
                    // Of few rows, even and odd steps are added apart: one sum would wait for itself.
                    let mut products = [[[D::V::int(0); R]; MR]; 2];
                    if D::BIAS != 0 {
                        for m in 0..MR {
                            products[0][m] = [D::V::int(*corrections.add(m * groups * parts + part)); R];
                        }
                    }
                    for step in 0..steps {
                        let apart = if MR <= 2 { step % 2 } else { 0 };
                        let at = codes.add((g * GROUP / 4 + p * steps + step) * 4 * PANEL);
                        let mut w = [D::V::int(0); R];
                        for n in 0..R {
                            w[n] = D::V::load_bytes(at.add(n * lanes * 4));
                        }
                        for m in 0..MR {
                            let four = inputs.add((m * groups + g) * GROUP + p * PART + step * 4);
                            let four = D::V::int(four.cast::<i32>().read_unaligned());
                            for n in 0..R {
                                products[apart][m][n] = D::dot(products[apart][m][n], w[n], four);
                            }
                        }
                    }
                    for n in 0..R {
                        let scale = D::V::load(scales.add(part * PANEL + n * lanes));
                        for m in 0..MR {
                            let dot = match MR {
                                1 | 2 => D::V::add_int(products[0][m][n], products[1][m][n]),
                                _ => products[0][m][n],
                            };
                            let factor = D::V::mul(scale, D::V::splat(*input_scales.add(m * groups + g)));
                            sums[m][n] = D::V::fma(D::V::float(dot), factor, sums[m][n]);
                        }
                    }
                    if MINIMA {
                        for m in 0..MR {
                            let correction = *corrections.add(m * groups * parts + part);
                            let sum = negative_sum(correction, *input_scales.add(m * groups + g));
                            for n in 0..R {
                                let minimum = D::V::load(minima.add(part * PANEL + n * lanes));
                                sums[m][n] = D::V::fma(minimum, D::V::splat(sum), sums[m][n]);
                            }
                        }
                    }
                }
            }
            for m in 0..MR {
                put(self.args, row + m, self.out_features.clone(), &sums[m]);
            }
        }
    }
}
