//! Tiles of decoded weights, and their products with rows of input.

#![allow(clippy::needless_range_loop, reason = "indices that are constant once unrolled keep sums in registers")]

use super::super::panels::Dot;
use super::super::tile::{ROWS, put};
use super::super::{Int8Rows, LinearArgs, aligned, negative_sum};
use super::{CHUNK, Chunk, Rows};
use crate::backend::cpu::vector::{Register, Vector, transpose, transpose8};
use crate::encoding::PANEL;
use crate::encoding::blocks::{GROUP, PARTS_MAX};
use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::ops::Range;

/// Inputs that [`Interleave::interleave`] puts in order at once: two groups.
const PAIR: usize = 2 * GROUP;
/// Bytes of a group's integers.
const GROUP_BYTES: usize = GROUP * PANEL;

/// Sixteen rows of weights in blocks, decoded.
#[derive(Clone, Copy)]
pub struct Tile<'a> {
    /// `[groups][GROUP / 4][PANEL][4]`: integers, each exclusive-or the flip that was asked for.
    pub codes: &'a [u8],
    /// `[parts][PANEL]`.
    pub scales: &'a [f32],
    /// `[parts][PANEL]`; empty without minima.
    pub minima: &'a [f32],
}

impl<'a> Tile<'a> {
    /// Decodes the rows `range`, at most sixteen; further ones are zeros.
    ///
    /// # Safety
    /// The processor supports AVX2, F16C, and the instructions of `V`.
    #[inline(always)]
    pub unsafe fn new<V: Interleave>(
        rows: &Rows,
        range: Range<usize>,
        flip: u8,
        chunk: &mut Chunk,
        scratch: &'a mut Vec<f32>,
    ) -> Tile<'a> {
        let (part, parts) = (rows.format.part(), rows.in_features / rows.format.part());
        let minima = if rows.format.has_minima() { parts * PANEL } else { 0 };
        let code_bytes = rows.in_features.div_ceil(PAIR) * PAIR * PANEL;
        let memory = aligned(scratch, code_bytes + (parts * PANEL + minima) * 4);
        let (codes, floats) = memory.split_at_mut(code_bytes);
        // SAFETY: code bytes are a multiple of 64, so the floats are aligned; all bytes are initialized.
        let floats = unsafe { floats.align_to_mut::<f32>().1 };
        let (scales, minima) = floats.split_at_mut(parts * PANEL);
        for first in (0..rows.in_features).step_by(CHUNK) {
            let len = CHUNK.min(rows.in_features - first);
            // SAFETY: sixteen rows of `CHUNK` bytes, of which 64 from a multiple of 64 on; 1024 bytes are written.
            unsafe {
                rows.decode(range.clone(), first, chunk);
                let codes = codes[first * PANEL..].chunks_exact_mut(PAIR * PANEL);
                for (pair, to) in codes.take(len.div_ceil(PAIR)).enumerate() {
                    V::interleave(chunk.codes.as_ptr().cast::<i8>().add(pair * PAIR), CHUNK, flip, to.as_mut_ptr());
                }
                let of_parts = first / part * PANEL..(first + len) / part * PANEL;
                by_part(&chunk.scales, &mut scales[of_parts.clone()]);
                if !minima.is_empty() {
                    by_part(&chunk.minima, &mut minima[of_parts]);
                }
            }
        }
        Tile { codes, scales, minima }
    }
}

/// Writes numbers of sixteen rows' parts as `[parts][PANEL]`.
///
/// # Safety
/// The processor supports AVX2.
#[target_feature(enable = "avx2")]
unsafe fn by_part(from: &[[f32; PARTS_MAX]; PANEL], to: &mut [f32]) {
    for (p, to) in to.chunks_mut(8 * PANEL).enumerate() {
        for half in 0..2 {
            // SAFETY: eight of sixteen rows, eight of sixteen parts; both halves of as many parts as are asked for.
            unsafe {
                let mut all = [_mm256_setzero_ps(); 8];
                for row in 0..8 {
                    all[row] = _mm256_loadu_ps(from[half * 8 + row][p * 8..].as_ptr());
                }
                let columns = transpose8(all);
                for i in 0..to.len() / PANEL {
                    _mm256_storeu_ps(to[i * PANEL + half * 8..].as_mut_ptr(), columns[i]);
                }
            }
        }
    }
}

/// Order of a tile's integers.
pub trait Interleave {
    /// Writes sixteen rows of 64 bytes as `[16][PANEL][4]`: four bytes of each row, then the next four. Every byte is
    /// exclusive-or `flip`.
    ///
    /// # Safety
    /// The rows, `stride` bytes apart, may be read, 1024 bytes written, and the processor supports the instructions.
    unsafe fn interleave(rows: *const i8, stride: usize, flip: u8, to: *mut u8);
}

impl Interleave for __m512 {
    #[inline(always)]
    unsafe fn interleave(rows: *const i8, stride: usize, flip: u8, to: *mut u8) {
        // SAFETY: same contract.
        unsafe { interleave512(rows, stride, flip, to) }
    }
}

impl Interleave for __m256 {
    #[inline(always)]
    unsafe fn interleave(rows: *const i8, stride: usize, flip: u8, to: *mut u8) {
        // SAFETY: same contract.
        unsafe { interleave256(rows, stride, flip, to) }
    }
}

/// See [`Interleave::interleave`]. A function of its own, so that it is compiled once and not for every format.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn interleave512(rows: *const i8, stride: usize, flip: u8, to: *mut u8) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let flip = _mm512_set1_epi8(flip as i8);
        let mut all = [_mm512_setzero_ps(); 16];
        for row in 0..16 {
            let bytes = _mm512_loadu_si512(rows.add(row * stride).cast());
            all[row] = _mm512_castsi512_ps(_mm512_xor_si512(bytes, flip));
        }
        let columns = transpose(all);
        for i in 0..16 {
            _mm512_storeu_ps(to.add(i * 64).cast(), columns[i]);
        }
    }
}

/// As [`interleave512`].
#[inline(never)]
#[target_feature(enable = "avx2")]
unsafe fn interleave256(rows: *const i8, stride: usize, flip: u8, to: *mut u8) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let flip = _mm256_set1_epi8(flip as i8);
        for (half, column) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let from = rows.add(half * 8 * stride + column * 32);
            let mut all = [_mm256_setzero_ps(); 8];
            for row in 0..8 {
                let bytes = _mm256_loadu_si256(from.add(row * stride).cast());
                all[row] = _mm256_castsi256_ps(_mm256_xor_si256(bytes, flip));
            }
            let columns = transpose8(all);
            for i in 0..8 {
                _mm256_storeu_ps(to.add((column * 8 + i) * 64 + half * 32).cast(), columns[i]);
            }
        }
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
