//! Products of weights in blocks ([`crate::encoding::blocks`]) in the registers of a tier.
//!
//! Blocks are decoded to integers with f32 scales and minima: a format is compiled once for each bias of a dot product. Products are
//! written once for all formats:
//!
//! - Few rows of input are multiplied with the integers as they are, row by row ([`few`]). Decoding is about half of the work.
//! - For more, a [`Tile`] is made of the sixteen rows: their integers in the order in which an 8-bit dot product takes them, as the
//!   panels of [`crate::encoding`] have them. All rows of input are multiplied with it while it is in the cache.
//!
//! The dot product of a part is an exact integer, so every way and every instruction set gives the same bits:
//! `sum = fma(integer dot product, scale * input scale, sum)`, then, with minima, `sum = fma(minimum, -input sum, sum)`, where the
//! input sum is the scale of the input's group times the sum of the part's codes.

mod bytes;
mod few;
mod order;
mod tile;

pub use order::Order;
pub use tile::Tile;

use super::panels::Dot;
use super::{Int8Rows, LinearArgs};
use crate::dtype::BlockFormat;
use crate::encoding::PANEL;
use crate::encoding::blocks::{Block, GROUP, PARTS_MAX, Parts, with_block};
use bytes::{Avx2, Register32};
use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
use std::ops::Range;

/// Weights of a row that are decoded at once: a multiple of every format's block.
const CHUNK: usize = 256;
/// The other number of weights that a part has.
const HALF: usize = GROUP / 2;

/// Weights of a row, decoded.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Chunk {
    /// Integers, each exclusive-or the bias of the dot product they are for.
    codes: [i8; CHUNK],
    scales: [f32; PARTS_MAX],
    minima: [f32; PARTS_MAX],
}

impl Chunk {
    /// Zeros.
    const ZERO: Chunk = Chunk { codes: [0; CHUNK], scales: [0.0; PARTS_MAX], minima: [0.0; PARTS_MAX] };

    /// Decodes consecutive blocks.
    ///
    /// # Safety
    /// The processor supports AVX2, FMA and F16C, with which the caller is compiled.
    #[inline(always)]
    unsafe fn decode<B: Block, const BIAS: u8>(&mut self, blocks: &[u8]) {
        // SAFETY: guaranteed by the caller.
        let proof = unsafe { Avx2::proof() };
        let mut halves = [[0; 8]; 2];
        for (i, block) in blocks.chunks_exact(B::FORMAT.bytes()).enumerate() {
            let first = i * B::FORMAT.weights();
            B::integers::<Register32<BIAS>>(proof, block, &mut self.codes[first..]);
            if B::HALVES {
                halves[0][i] = u16::from_le_bytes([block[0], block[1]]);
                if B::MINIMA {
                    halves[1][i] = u16::from_le_bytes([block[2], block[3]]) ^ 0x8000;
                }
            } else {
                let part = first / B::PART;
                let mut parts = Parts { scales: &mut self.scales[part..], minima: &mut self.minima[part..] };
                B::parts::<Register32<BIAS>>(proof, block, &mut parts);
            }
        }
        if B::HALVES {
            self.scales[..8].copy_from_slice(&proof.widened(halves[0]));
            if B::MINIMA {
                self.minima[..8].copy_from_slice(&proof.widened(halves[1]));
            }
        }
    }
}

/// Decodes a part of each row, given in bytes, to a chunk. Rows follow each other, as many bytes apart.
type Decode = unsafe fn(&mut [Chunk], &[u8], usize, Range<usize>);

/// Implements [`Decode`].
#[target_feature(enable = "avx2,fma,f16c")]
fn decode<B: Block, const BIAS: u8>(to: &mut [Chunk], rows: &[u8], row_bytes: usize, part: Range<usize>) {
    let whole = CHUNK / B::FORMAT.weights() * B::FORMAT.bytes();
    for (chunk, row) in to.iter_mut().zip(rows.chunks_exact(row_bytes)) {
        let blocks = &row[part.clone()];
        // A length that is known lets the compiler leave out what ends the loop.
        // SAFETY: who may call this has the instructions.
        unsafe {
            match blocks.len() == whole {
                true => chunk.decode::<B, BIAS>(&blocks[..whole]),
                false => chunk.decode::<B, BIAS>(blocks),
            }
        }
    }
}

/// The rows of a matrix in blocks.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    format: BlockFormat,
    bytes: &'a [u8],
    in_features: usize,
    row_bytes: usize,
    decode: Decode,
}

impl<'a> Rows<'a> {
    /// The rows of `bytes`, to be decoded for dot products with a bias of 0 or 128.
    pub fn new(format: BlockFormat, bytes: &'a [u8], in_features: usize, bias: u8) -> Rows<'a> {
        let decode: Decode = with_block!(format, B => if bias == 0 { decode::<B, 0> } else { decode::<B, 128> });
        let row_bytes = in_features / format.weights() * format.bytes();
        Rows { format, bytes, in_features, row_bytes, decode }
    }

    /// Decodes the weights `first..first + CHUNK`, as far as there are any, of the rows `outs`, to a chunk for each.
    ///
    /// # Safety
    /// The processor supports AVX2, FMA and F16C.
    #[inline(always)]
    unsafe fn decode(&self, outs: Range<usize>, first: usize, to: &mut [Chunk]) {
        let last = self.in_features.min(first + CHUNK);
        let part = [first, last].map(|at| at / self.format.weights() * self.format.bytes());
        let rows = &self.bytes[outs.start * self.row_bytes..outs.end * self.row_bytes];
        // SAFETY: guaranteed by the caller.
        unsafe { (self.decode)(to, rows, self.row_bytes, part[0]..part[1]) };
    }

    /// What is prefetched while the rows `outs` are read, in a step for each row of each chunk: as many bytes, from where the rows
    /// are that are `PANEL` later.
    fn ahead(&self, outs: &Range<usize>) -> Ahead {
        let next = self.bytes.as_ptr().wrapping_add((outs.start + PANEL) * self.row_bytes);
        Ahead { next, bytes: self.row_bytes / self.in_features.div_ceil(CHUNK), left: 0 }
    }
}

/// Prefetch of what is read next.
struct Ahead {
    next: *const u8,
    /// Of a step.
    bytes: usize,
    /// Bytes of steps that were done, less than a line.
    left: usize,
}

impl Ahead {
    /// Prefetches the next lines.
    #[inline(always)]
    fn step(&mut self) {
        self.left += self.bytes;
        while self.left >= 64 {
            // SAFETY: a prefetch accepts any address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.next.cast()) };
            self.next = self.next.wrapping_add(64);
            self.left -= 64;
        }
    }
}

/// Computes the outputs `range` of a matrix in blocks. `R` is the number of registers with a lane for each output of a panel.
///
/// # Safety
/// As [`super::super::kernels::Kernels::linear`]; the processor supports AVX2, FMA, F16C, and the instructions of `D`.
#[inline(always)]
pub unsafe fn product<D: Dot<V: Order>, const R: usize>(
    args: &LinearArgs,
    (format, bytes): (BlockFormat, &[u8]),
    x: Int8Rows,
    range: Range<usize>,
    scratch: &mut Vec<f32>,
) {
    let weights = Rows::new(format, bytes, args.in_features, D::BIAS);
    let (part, minima) = (format.part(), format.has_minima());
    // SAFETY: same contract; there are as many rows, and the outputs of a tile are part of the range.
    unsafe {
        match (args.rows, part, minima) {
            (1, GROUP, false) => return few::product::<D, 1, GROUP, false>(args, weights, x, range, scratch),
            (1, GROUP, true) => return few::product::<D, 1, GROUP, true>(args, weights, x, range, scratch),
            (1, _, false) => return few::product::<D, 1, HALF, false>(args, weights, x, range, scratch),
            (1, _, true) => return few::product::<D, 1, HALF, true>(args, weights, x, range, scratch),
            (2, GROUP, false) => return few::product::<D, 2, GROUP, false>(args, weights, x, range, scratch),
            (2, GROUP, true) => return few::product::<D, 2, GROUP, true>(args, weights, x, range, scratch),
            (2, _, false) => return few::product::<D, 2, HALF, false>(args, weights, x, range, scratch),
            (2, _, true) => return few::product::<D, 2, HALF, true>(args, weights, x, range, scratch),
            _ => {}
        }
        for first in range.clone().step_by(PANEL) {
            let outs = first..range.end.min(first + PANEL);
            let tile = Tile::new::<D::V>(&weights, outs.clone(), scratch);
            match (part, minima) {
                (GROUP, false) => tile::all_rows::<D, R, GROUP, false>(args, tile, x, outs),
                (GROUP, true) => tile::all_rows::<D, R, GROUP, true>(args, tile, x, outs),
                (_, false) => tile::all_rows::<D, R, HALF, false>(args, tile, x, outs),
                (_, true) => tile::all_rows::<D, R, HALF, true>(args, tile, x, outs),
            }
        }
    }
}
