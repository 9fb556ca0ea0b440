//! Matrix products of bf16 weights on the tile unit.
//!
//! Weights are the first operand: a tile of 16 outputs by 32 inputs, read in place from the mapped file. Inputs are the
//! second operand, arranged by [`at`] so that a tile is 1 KB of contiguous memory. A product tile of 16 outputs by 16
//! rows is accumulated over all inputs in one tile register. Each element depends only on its own row and output, so it
//! has the same bits for any number of rows and any arrangement of tiles (law 1 of [`crate::backend`]).
//!
//! 2 x 2 product tiles are computed at once, as many as fit beside their operands: four loads for four tile products of
//! 16 cycles each, none of which waits for the one before it (latency 52 cycles). With few rows the speed is then
//! limited by memory bandwidth, with many by the tile unit.
//!
//! Weights are read from memory once, in ascending order: while some are multiplied, the following ones are prefetched
//! into the second-level cache line by line. The sixteen rows of a tile alone would be sixteen streams, more than the
//! hardware prefetcher follows. For many rows the weights are first copied tile by tile, because weight rows are rarely
//! aligned with cache lines and often so far apart that they evict each other from the first-level cache.

use super::lanes::{LANES, Lanes};
use super::tiles::{ROW, ROWS, Shape, Tiles};
use super::{Ahead, aligned};
use crate::backend::cpu::linear::tile::put;
use crate::backend::cpu::linear::{LinearArgs, round};
use crate::backend::cpu::portable::to_bf16_any;
use crate::encoding::f8;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Inputs per tile.
const STEP: usize = 32;
/// Bytes per tile.
const TILE: usize = ROWS * ROW;
/// Most input rows for which weights are multiplied in place: those computed in one pass over the weights.
const IN_PLACE_ROWS_MAX: usize = 2 * ROWS;

/// Index of element `i` of a row in the bf16 input: blocks of sixteen rows, in which the first two elements of every
/// row are followed by the next two of every row, and so on.
pub const fn at(in_features: usize, row: usize, i: usize) -> usize {
    let pairs = in_features.next_multiple_of(STEP) / 2;
    ((row / ROWS * pairs + i / 2) * ROWS + row % ROWS) * 2 + i % 2
}

/// Rounds a row to bf16 and writes it in the arrangement of [`at`], with zeros beyond the last input.
///
/// # Safety
/// `out` covers the block of the row and is aligned to 4 bytes, and no other task writes this row.
#[inline(always)]
pub unsafe fn arrange(x: &[f32], row: usize, out: *mut u16) {
    for (step, part) in x.chunks(STEP).enumerate() {
        let first = at(x.len(), row, step * STEP);
        let mut rounded = [0; STEP];
        to_bf16_any(part, &mut rounded);
        for (i, pair) in rounded.as_chunks::<2>().0.iter().enumerate() {
            // SAFETY: guaranteed by the caller; a step has all its pairs.
            unsafe { out.add(first + i * 2 * ROWS).cast::<[u16; 2]>().write(*pair) };
        }
    }
}

/// Location of weights as tiles; distances in bytes.
#[derive(Clone, Copy)]
struct Weights {
    /// Weights of the first output.
    first: *const u8,
    /// Distance between consecutive outputs (rows of a tile).
    stride: usize,
    /// Distance between tiles of consecutive inputs.
    step: usize,
    /// Distance between tiles of consecutive outputs.
    block: usize,
}

/// Weights that are multiplied as bf16.
pub trait Rows: Copy {
    /// The bytes of consecutive rows.
    fn bytes(&self, rows: Range<usize>) -> Range<*const u8>;
    /// The bf16 of consecutive rows, if they lie in memory so.
    fn in_place(&self, rows: Range<usize>) -> Option<*const u8>;
    /// Writes [`STEP`] weights or fewer of a row, from `first` on.
    fn put(&self, row: usize, first: usize, out: &mut [u16]);
}

/// bf16 as stored, with the elements of a row.
#[derive(Clone, Copy)]
pub struct Stored<'a>(pub &'a [u16], pub usize);

impl Rows for Stored<'_> {
    #[inline(always)]
    fn bytes(&self, rows: Range<usize>) -> Range<*const u8> {
        let range = self.0[rows.start * self.1..rows.end * self.1].as_ptr_range();
        range.start.cast()..range.end.cast()
    }

    #[inline(always)]
    fn in_place(&self, rows: Range<usize>) -> Option<*const u8> {
        Some(self.bytes(rows).start)
    }

    #[inline(always)]
    fn put(&self, row: usize, first: usize, out: &mut [u16]) {
        out.copy_from_slice(&self.0[row * self.1 + first..][..out.len()]);
    }
}

/// Rounded.
impl Rows for f8::Rows<'_> {
    #[inline(always)]
    fn bytes(&self, rows: Range<usize>) -> Range<*const u8> {
        self.bytes[self.byte_range(rows)].as_ptr_range()
    }

    #[inline(always)]
    fn in_place(&self, _rows: Range<usize>) -> Option<*const u8> {
        None
    }

    #[inline(always)]
    fn put(&self, row: usize, first: usize, out: &mut [u16]) {
        round(*self, row, first, out);
    }
}

/// # Safety
/// As [`super::Kernels::linear`]; the process may use tiles. `x` is arranged by [`at`].
#[inline(always)]
pub unsafe fn product<T: Tiles, L: Lanes>(
    args: &LinearArgs,
    w: impl Rows,
    x: &[u16],
    range: Range<usize>,
    scratch: &mut Vec<f32>,
) {
    // SAFETY: guaranteed by the caller; a thread runs one product at a time, so it has no other configuration.
    let mut tiles = unsafe { T::configure([Shape::WHOLE; 8]) };
    let mut first = range.start;
    while first < range.end {
        let out_features = first..range.end.min(first + 2 * ROWS);
        let in_place = args.rows <= IN_PLACE_ROWS_MAX
            && args.in_features.is_multiple_of(STEP)
            && out_features.len().is_multiple_of(ROWS);
        let weights = match w.in_place(out_features.clone()) {
            Some(first) if in_place => {
                let stride = args.in_features * 2;
                Weights { first, stride, step: ROW, block: ROWS * stride }
            }
            _ => copy(w, out_features.clone(), args.in_features, scratch),
        };
        let next = w.bytes(out_features.clone()).end;
        // SAFETY: the weights are whole tiles of these outputs; the rest is guaranteed by the caller.
        unsafe {
            if out_features.len() > ROWS {
                all_rows::<T, L, 2>(&mut tiles, args, weights, x, out_features.clone(), next);
            } else {
                all_rows::<T, L, 1>(&mut tiles, args, weights, x, out_features.clone(), next);
            }
        }
        first = out_features.end;
    }
}

/// Copies rows of weights tile by tile; elements beyond the last input or output become zero.
#[inline(always)]
fn copy(w: impl Rows, rows: Range<usize>, in_features: usize, scratch: &mut Vec<f32>) -> Weights {
    let block = in_features.div_ceil(STEP) * TILE;
    let to = aligned(scratch, 2 * block);
    let to = to.as_mut_ptr().cast::<[u16; STEP]>();
    // SAFETY: the scratch has two blocks of whole tiles, aligned to 64 bytes.
    let to = unsafe { std::slice::from_raw_parts_mut(to, 2 * block / ROW) };
    let (out_features, steps) = (rows.len(), in_features.div_ceil(STEP));
    for out in 0..out_features.next_multiple_of(ROWS) {
        let lines = to[out / ROWS * steps * ROWS..][..steps * ROWS].iter_mut().skip(out % ROWS).step_by(ROWS);
        if out >= out_features {
            lines.for_each(|line| line.fill(0));
            continue;
        }
        for (line, first) in lines.zip((0..in_features).step_by(STEP)) {
            // Of all but the last step, the length is a constant.
            if first + STEP <= in_features {
                w.put(rows.start + out, first, line);
            } else {
                line.fill(0);
                w.put(rows.start + out, first, &mut line[..in_features - first]);
            }
        }
    }
    Weights { first: to.as_ptr().cast(), stride: ROW, step: TILE, block }
}

/// Multiplies `NA` tiles of outputs with all rows; outputs at or beyond `out_features.end` are not written. Prefetches
/// as many bytes as these weights have, from `next` on, into the second-level cache.
///
/// # Safety
/// As [`product`] for these outputs; the weights are `NA` blocks of whole tiles.
#[inline(always)]
unsafe fn all_rows<T: Tiles, L: Lanes, const NA: usize>(
    tiles: &mut T,
    args: &LinearArgs,
    weights: Weights,
    x: &[u16],
    out_features: Range<usize>,
    next: *const u8,
) {
    let mut ahead = Ahead { next, lines: (NA * ROWS).div_ceil(args.rows.div_ceil(2 * ROWS)) };
    let mut row = 0;
    while row < args.rows {
        let rows = row..args.rows.min(row + 2 * ROWS);
        // SAFETY: the input has whole blocks of rows; the rest is guaranteed by the caller.
        unsafe {
            if rows.len() > ROWS {
                tile::<T, L, NA, 2>(tiles, args, weights, x, rows.clone(), &out_features, &mut ahead);
            } else {
                tile::<T, L, NA, 1>(tiles, args, weights, x, rows.clone(), &out_features, &mut ahead);
            }
        }
        row = rows.end;
    }
}

/// Multiplies `NA` tiles of outputs with `NB` tiles of rows.
///
/// # Safety
/// As [`all_rows`] for these rows.
#[inline(always)]
unsafe fn tile<T: Tiles, L: Lanes, const NA: usize, const NB: usize>(
    tiles: &mut T,
    args: &LinearArgs,
    weights: Weights,
    x: &[u16],
    rows: Range<usize>,
    out_features: &Range<usize>,
    next: &mut Ahead,
) {
    let steps = args.in_features.div_ceil(STEP);
    let x = &x[at(args.in_features, rows.start, 0)..][..NB * steps * TILE / 2];
    tiles.zero::<0>();
    tiles.zero::<1>();
    tiles.zero::<2>();
    tiles.zero::<3>();
    for step in 0..steps {
        next.step();
        let a = weights.first.wrapping_add(step * weights.step);
        let b = x.as_ptr().cast::<u8>().wrapping_add(step * TILE);
        // SAFETY: the weights are whole tiles, as the caller guarantees; the input was checked above.
        unsafe {
            tiles.load::<4>(a, weights.stride);
            tiles.load::<6>(b, ROW);
            tiles.dot_bf16::<0, 4, 6>();
            if NA > 1 {
                tiles.load::<5>(a.wrapping_add(weights.block), weights.stride);
                tiles.dot_bf16::<1, 5, 6>();
            }
            if NB > 1 {
                tiles.load::<7>(b.wrapping_add(steps * TILE), ROW);
                tiles.dot_bf16::<2, 4, 7>();
            }
            if NA > 1 && NB > 1 {
                tiles.dot_bf16::<3, 5, 7>();
            }
        }
    }
    // Uninitialized: only elements that a tile was stored to are read.
    let mut sums = MaybeUninit::<[Sums; 4]>::uninit();
    let sums: *mut Sums = sums.as_mut_ptr().cast();
    // SAFETY: each of the four has room for a tile; the rows and outputs belong to the task.
    unsafe {
        tiles.store::<0>(sums.cast());
        tiles.store::<1>(sums.add(1).cast());
        tiles.store::<2>(sums.add(2).cast());
        tiles.store::<3>(sums.add(3).cast());
        for b in 0..NB {
            for a in 0..NA {
                let (row, out) = (rows.start + b * ROWS, out_features.start + a * ROWS);
                finish::<L>(args, row..rows.end.min(row + ROWS), out..out_features.end, &*sums.add(b * 2 + a));
            }
        }
    }
}

/// Contents of a product tile: `[out_features][rows]`.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Sums([[f32; LANES]; ROWS]);

/// Writes the results of a product tile, for at most sixteen rows and the outputs below `out_features.end`.
///
/// # Safety
/// As [`LinearArgs::put_all`] for the rows and outputs.
#[inline(always)]
unsafe fn finish<L: Lanes>(args: &LinearArgs, rows: Range<usize>, out_features: Range<usize>, sums: &Sums) {
    // SAFETY: sixteen floats each; the rest is guaranteed by the caller.
    unsafe {
        let mut columns = [L::zero(); LANES];
        for (column, sums) in columns.iter_mut().zip(&sums.0) {
            *column = L::load(sums.as_ptr());
        }
        for (row, sums) in rows.zip(L::transpose(columns)) {
            put(args, row, out_features.clone(), &[sums]);
        }
    }
}
