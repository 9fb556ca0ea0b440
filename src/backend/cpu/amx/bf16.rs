//! Products of bf16 weights.
//!
//! The weights are the first operand: sixteen outputs and 32 inputs a tile, read as they lie in the mapped file. The input
//! is the second, arranged by [`at`] so that a tile of it is 1 KB in a row. Their product is a tile of sixteen outputs by
//! sixteen rows, summed in one tile from the first input to the last. An element of it depends on its own row and output
//! alone, and so is the same for any number of rows and any arrangement of tiles (law 1).
//!
//! Two by two tiles are computed at once, which is as many as fit beside their operands: four loads for four products of 16
//! cycles each, and no product waits for the one before it (52 cycles). Memory then limits few rows, and the tile unit many.
//!
//! Weights are read once from memory, and in ascending order: while some are multiplied, the following ones are brought
//! into the second-level cache, line after line. The sixteen rows of a tile alone would be sixteen streams, more than the
//! processor's own prefetching follows. For many rows the weights are first copied tile by tile: their rows are rarely
//! aligned with cache lines, and are often so far apart that they displace each other from the first-level cache.

use super::lanes::{LANES, Lanes};
use super::tiles::{ROW, ROWS, Shape, Tiles};
use super::{Ahead, aligned, put};
use crate::backend::cpu::linear::LinearArgs;
use crate::backend::cpu::portable::to_bf16_any;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Inputs of a tile.
const STEP: usize = 32;
/// Bytes of a tile.
const TILE: usize = ROWS * ROW;
/// Most input rows for which weights are multiplied where they lie: those of one pass over the weights.
const IN_PLACE_ROWS_MAX: usize = 2 * ROWS;

/// Where bf16 input lies: blocks of sixteen rows, in each the first two elements of every row, then the next two.
pub const fn at(in_features: usize, row: usize, i: usize) -> usize {
    let pairs = in_features.next_multiple_of(STEP) / 2;
    ((row / ROWS * pairs + i / 2) * ROWS + row % ROWS) * 2 + i % 2
}

/// Writes a row as [`at`] arranges it, rounded to bf16; zero beyond the last input.
///
/// # Safety
/// `out` covers the block of the row, is aligned to 4 bytes, and nobody else writes this row.
#[inline(always)]
pub unsafe fn arrange(x: &[f32], row: usize, out: *mut u16) {
    for (step, part) in x.chunks(STEP).enumerate() {
        let first = at(x.len(), row, step * STEP);
        let mut rounded = [0; STEP];
        to_bf16_any(part, &mut rounded);
        for (i, pair) in rounded.as_chunks::<2>().0.iter().enumerate() {
            // SAFETY: the caller's promise; a step has all its pairs.
            unsafe { out.add(first + i * 2 * ROWS).cast::<[u16; 2]>().write(*pair) };
        }
    }
}

/// Weights as tiles, in bytes.
#[derive(Clone, Copy)]
struct Weights {
    /// Of the first output.
    first: *const u8,
    /// From an output to the next.
    stride: usize,
    /// From a tile to that of the next inputs.
    step: usize,
    /// From a tile to that of the next outputs.
    block: usize,
}

/// # Safety
/// As [`super::Kernels::linear`]; the unit may be used. `x` is arranged by [`at`].
#[inline(always)]
pub unsafe fn product<T: Tiles, L: Lanes>(
    args: &LinearArgs,
    w: &[u16],
    x: &[u16],
    range: Range<usize>,
    scratch: &mut Vec<f32>,
) {
    // SAFETY: the caller's promise; a thread comes here once at a time.
    let mut tiles = unsafe { T::configure([Shape::WHOLE; 8]) };
    let mut first = range.start;
    while first < range.end {
        let out_features = first..range.end.min(first + 2 * ROWS);
        let rows = &w[out_features.start * args.in_features..out_features.end * args.in_features];
        let in_place = args.rows <= IN_PLACE_ROWS_MAX
            && args.in_features.is_multiple_of(STEP)
            && out_features.len().is_multiple_of(ROWS);
        let weights = if in_place {
            let stride = args.in_features * 2;
            Weights { first: rows.as_ptr().cast(), stride, step: ROW, block: ROWS * stride }
        } else {
            copy(rows, args.in_features, scratch)
        };
        // SAFETY: the weights are those of the outputs, whole tiles; the rest is the caller's promise.
        unsafe {
            if out_features.len() > ROWS {
                all_rows::<T, L, 2>(&mut tiles, args, weights, x, out_features.clone(), rows.as_ptr_range().end.cast());
            } else {
                all_rows::<T, L, 1>(&mut tiles, args, weights, x, out_features.clone(), rows.as_ptr_range().end.cast());
            }
        }
        first = out_features.end;
    }
}

/// Copies rows of weights tile by tile; inputs and outputs beyond the last become zero.
#[inline(always)]
fn copy(rows: &[u16], in_features: usize, scratch: &mut Vec<f32>) -> Weights {
    let block = in_features.div_ceil(STEP) * TILE;
    let to = aligned(scratch, 2 * block);
    let to = to.as_mut_ptr().cast::<[u16; STEP]>();
    // SAFETY: the scratch has two blocks of whole tiles, aligned to 64 bytes.
    let to = unsafe { std::slice::from_raw_parts_mut(to, 2 * block / ROW) };
    let (out_features, steps) = (rows.len() / in_features, in_features.div_ceil(STEP));
    for out in 0..out_features.next_multiple_of(ROWS) {
        let lines = to[out / ROWS * steps * ROWS..][..steps * ROWS].iter_mut().skip(out % ROWS).step_by(ROWS);
        if out >= out_features {
            lines.for_each(|line| line.fill(0));
            continue;
        }
        for (line, from) in lines.zip(rows[out * in_features..(out + 1) * in_features].chunks(STEP)) {
            match <&[u16; STEP]>::try_from(from) {
                Ok(from) => *line = *from,
                Err(_) => {
                    line.fill(0);
                    line[..from.len()].copy_from_slice(from);
                }
            }
        }
    }
    Weights { first: to.as_ptr().cast(), stride: ROW, step: TILE, block }
}

/// `NA` tiles of outputs, `out_features` of them real, for all rows. From `next` on, as many bytes as the weights have are brought
/// into the second-level cache.
///
/// # Safety
/// As [`product`] for the outputs; the weights are `NA` blocks of whole tiles.
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
        // SAFETY: the input has whole blocks of rows; the rest is the caller's promise.
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

/// `NA` tiles of outputs times `NB` tiles of rows.
///
/// # Safety
/// As [`all_rows`] for the rows.
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
        // SAFETY: the weights are whole tiles by the caller's promise; the input was checked above.
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
    // Only what a tile has written is read.
    let mut sums = MaybeUninit::<[Sums; 4]>::uninit();
    let sums: *mut Sums = sums.as_mut_ptr().cast();
    // SAFETY: each of the four has room for a tile; the rows and outputs are the task's.
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

/// What a tile holds: `[out_features][rows]`.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Sums([[f32; LANES]; ROWS]);

/// Writes the sums of at most sixteen rows, and of those outputs of sixteen that are real.
///
/// # Safety
/// As [`LinearArgs::put_all`] for the rows and outputs.
#[inline(always)]
unsafe fn finish<L: Lanes>(args: &LinearArgs, rows: Range<usize>, out_features: Range<usize>, sums: &Sums) {
    // SAFETY: sixteen floats each; the caller's promise.
    unsafe {
        let mut columns = [L::zero(); LANES];
        for (column, sums) in columns.iter_mut().zip(&sums.0) {
            *column = L::load(sums.as_ptr());
        }
        for (row, sums) in rows.zip(L::transpose(columns)) {
            put(args, row, out_features.clone(), sums);
        }
    }
}
