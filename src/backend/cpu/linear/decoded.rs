//! Products of weights in blocks ([`crate::encoding::blocks`]) in the registers of a tier.
//!
//! Of sixteen rows of the matrix, 256 weights at a time are decoded to a [`Chunk`]: integers with f32 scales and minima. A format
//! is thus one function, compiled once, and products are written once for all formats:
//!
//! - Few rows of input are multiplied with the chunk as it is ([`few`]); decoding is most of the work.
//! - For more, a [`Tile`] is made of the sixteen rows: their integers in the order in which an 8-bit dot product takes them, as the
//!   panels of [`crate::encoding`] have them. All rows of input are multiplied with it while it is in the cache.
//!
//! The dot product of a part is an exact integer, so every way and every instruction set gives the same bits:
//! `sum = fma(integer dot product, scale * input scale, sum)`, then, with minima, `sum = fma(minimum, -input sum, sum)`, where the
//! input sum is the scale of the input's group times the sum of the part's codes.

mod bytes;
mod few;
mod tile;

pub use tile::{Interleave, Tile};

use super::panels::Dot;
use super::{Int8Rows, LinearArgs};
use crate::dtype::BlockFormat;
use crate::encoding::PANEL;
use crate::encoding::blocks::{Block, GROUP, PARTS_MAX, Parts, with_block};
use bytes::{Avx2, Register32};
use std::arch::x86_64::{__m256, _MM_HINT_T1, _mm_prefetch};
use std::ops::Range;

/// Weights of a row that are decoded at once: a multiple of every format's block.
const CHUNK: usize = 256;
/// The other number of weights that a part has.
const HALF: usize = GROUP / 2;

/// Weights of sixteen rows, decoded, row by row. Rows that do not exist are zeros.
#[repr(align(64))]
pub struct Chunk {
    /// `[PANEL][CHUNK]`
    codes: [[i8; CHUNK]; PANEL],
    scales: [[f32; PARTS_MAX]; PANEL],
    minima: [[f32; PARTS_MAX]; PANEL],
}

impl Chunk {
    /// Zeros.
    pub const ZERO: Chunk =
        Chunk { codes: [[0; CHUNK]; PANEL], scales: [[0.0; PARTS_MAX]; PANEL], minima: [[0.0; PARTS_MAX]; PANEL] };
}

/// The rows of a matrix in blocks.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// Format of the blocks.
    pub format: BlockFormat,
    /// All rows of the matrix.
    pub bytes: &'a [u8],
    /// Weights of a row.
    pub in_features: usize,
}

impl Rows<'_> {
    /// Decodes the weights `first..first + CHUNK`, as far as there are any, of the rows `range`, at most sixteen. Meanwhile
    /// prefetches as many bytes of the rows that follow.
    ///
    /// # Safety
    /// The processor supports AVX2 and F16C.
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn decode(&self, range: Range<usize>, first: usize, to: &mut Chunk) {
        if range.len() < PANEL {
            *to = Chunk::ZERO;
        }
        with_block!(self.format, B => self.decode_blocks::<B>(range, first, to));
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn decode_blocks<B: Block>(&self, range: Range<usize>, first: usize, to: &mut Chunk) {
        // SAFETY: who may call this has the instructions.
        let proof = unsafe { Avx2::proof() };
        let (weights, block_bytes) = (B::FORMAT.weights(), B::FORMAT.bytes());
        let row_bytes = self.in_features / weights * block_bytes;
        let bytes = CHUNK.min(self.in_features - first) / weights * block_bytes;
        let start = first / weights * block_bytes;
        // The part of the next sixteen rows that belongs to this one of these.
        let mut ahead = self.bytes.as_ptr().wrapping_add(range.end * row_bytes + start * range.len());
        for (row, out) in range.enumerate() {
            for _ in 0..bytes.div_ceil(64) {
                _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                ahead = ahead.wrapping_add(64);
            }
            let blocks = &self.bytes[out * row_bytes + start..][..bytes];
            let (codes, scales, minima) = (&mut to.codes[row], &mut to.scales[row], &mut to.minima[row]);
            for (i, block) in blocks.chunks_exact(block_bytes).enumerate() {
                let part = i * weights / B::PART;
                let mut parts = Parts { scales: &mut scales[part..], minima: &mut minima[part..] };
                B::decode::<Register32>(proof, block, &mut codes[i * weights..], &mut parts);
            }
        }
    }
}

/// Computes the outputs `range` of a matrix in blocks. `R` is the number of registers with a lane for each output of a panel; `S` is
/// the dot product for few rows.
///
/// # Safety
/// As [`super::super::kernels::Kernels::linear`]; the processor supports AVX2, FMA, F16C, and the instructions of `D` and `S`.
#[inline(always)]
pub unsafe fn product<D: Dot<V: Interleave>, S: Dot<V = __m256>, const R: usize>(
    args: &LinearArgs,
    rows: Rows,
    x: Int8Rows,
    range: Range<usize>,
    scratch: &mut Vec<f32>,
) {
    let (part, minima) = (rows.format.part(), rows.format.has_minima());
    let mut chunk = Chunk::ZERO;
    if args.rows <= few::ROWS_MAX {
        // SAFETY: same contract; there are as many rows.
        return unsafe {
            match (args.rows, part, minima) {
                (1, GROUP, false) => few::product::<S, 1, GROUP, false>(args, rows, x, range, &mut chunk, scratch),
                (1, GROUP, true) => few::product::<S, 1, GROUP, true>(args, rows, x, range, &mut chunk, scratch),
                (1, _, false) => few::product::<S, 1, HALF, false>(args, rows, x, range, &mut chunk, scratch),
                (1, _, true) => few::product::<S, 1, HALF, true>(args, rows, x, range, &mut chunk, scratch),
                (_, GROUP, false) => few::product::<S, 2, GROUP, false>(args, rows, x, range, &mut chunk, scratch),
                (_, GROUP, true) => few::product::<S, 2, GROUP, true>(args, rows, x, range, &mut chunk, scratch),
                (_, _, false) => few::product::<S, 2, HALF, false>(args, rows, x, range, &mut chunk, scratch),
                (_, _, true) => few::product::<S, 2, HALF, true>(args, rows, x, range, &mut chunk, scratch),
            }
        };
    }
    for first in range.clone().step_by(PANEL) {
        let outs = first..range.end.min(first + PANEL);
        // SAFETY: same contract, part of the range.
        unsafe {
            let tile = Tile::new::<D::V>(&rows, outs.clone(), D::BIAS, &mut chunk, scratch);
            match (part, minima) {
                (GROUP, false) => tile::all_rows::<D, R, GROUP, false>(args, tile, x, outs),
                (GROUP, true) => tile::all_rows::<D, R, GROUP, true>(args, tile, x, outs),
                (_, false) => tile::all_rows::<D, R, HALF, false>(args, tile, x, outs),
                (_, true) => tile::all_rows::<D, R, HALF, true>(args, tile, x, outs),
            }
        }
    }
}
