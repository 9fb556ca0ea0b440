//! What the matrix products of the vector tiers share: tiles of a few input rows by a few outputs, with accumulators in
//! registers over all inputs.
//!
//! An accumulator belongs to one row and one output, and the order of its additions does not depend on the tile's shape,
//! so tiles of any shape give the same bits (law 1 of [`crate::backend`]).
//!
//! A tile's weights are read from memory once, in ascending order: while one tile is computed, the cache lines of the
//! next one are prefetched into the second-level cache one after the other. Reading several weight rows side by side
//! would keep the hardware prefetcher from detecting a stream, which halves the measured bandwidth.

use super::LinearArgs;
use crate::backend::cpu::vector::Vector;
use crate::encoding::PANEL;
use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
use std::ops::Range;

/// Most input rows per tile.
pub const ROWS: usize = 4;
/// Bytes of a cache line.
const LINE: usize = 64;

/// The tiles of some outputs.
pub trait RowTiles {
    /// Computes `MR` rows, from `row` on. In each of its steps, prefetches `LINES` cache lines from `next` on.
    ///
    /// # Safety
    /// As [`super::super::kernels::Kernels::linear`] for these rows and outputs.
    unsafe fn run<const MR: usize, const LINES: usize>(&self, row: usize, next: *const u8);
}

/// Computes `rows` rows. Meanwhile prefetches the weights of the next tiles, from `next` on: `ALL` cache lines in each
/// step of one tile, or fewer in several tiles, a line per step being `bytes` bytes in all.
///
/// # Safety
/// As [`RowTiles::run`] for these rows.
#[inline(always)]
pub unsafe fn over_rows<T: RowTiles, const ALL: usize>(tiles: &T, rows: usize, mut next: *const u8, bytes: usize) {
    // Prefetching is spread over the tiles with all rows: prefetches issued all at once would wait for each other.
    let each = ALL.div_ceil((rows / ROWS).max(1));
    let mut left = ALL;
    for row in (0..rows).step_by(ROWS) {
        let lines = each.min(left);
        // SAFETY: same contract.
        unsafe {
            match (rows - row, lines) {
                (1, 0) => tiles.run::<1, 0>(row, next),
                (2, 0) => tiles.run::<2, 0>(row, next),
                (3, 0) => tiles.run::<3, 0>(row, next),
                (1, _) => tiles.run::<1, ALL>(row, next),
                (2, _) => tiles.run::<2, ALL>(row, next),
                (3, _) => tiles.run::<3, ALL>(row, next),
                (_, 0) => tiles.run::<ROWS, 0>(row, next),
                (_, 1) if ALL > 1 => tiles.run::<ROWS, 1>(row, next),
                (_, 2) if ALL > 2 => tiles.run::<ROWS, 2>(row, next),
                (_, 3) if ALL > 3 => tiles.run::<ROWS, 3>(row, next),
                _ => tiles.run::<ROWS, ALL>(row, next),
            }
        }
        next = next.wrapping_add(bytes * lines);
        left -= lines;
    }
}

/// Prefetches `LINES` cache lines into the second-level cache.
#[inline(always)]
pub fn ahead<const LINES: usize>(next: *const u8) {
    for line in 0..LINES {
        // SAFETY: a prefetch accepts any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(line * LINE).cast()) };
    }
}

/// Writes sixteen results of a row, from output `out_features.start` on, except those at or beyond `out_features.end`.
///
/// # Safety
/// As [`LinearArgs::put_all`]; the processor supports the instructions of `V`.
#[inline(always)]
pub unsafe fn put<V: Vector>(args: &LinearArgs, row: usize, out_features: Range<usize>, values: &[V]) {
    // SAFETY: guaranteed by the caller; the fast path writes sixteen outputs that exist.
    unsafe {
        if out_features.len() >= PANEL && args.bias.is_none() {
            let place = args.out.add(row * args.out_stride + out_features.start);
            for (i, &v) in values[..PANEL / V::LANES].iter().enumerate() {
                let place = place.add(i * V::LANES);
                V::store(if args.accumulate { V::add(V::load(place), v) } else { v }, place);
            }
        } else {
            let mut all = [0.0; PANEL];
            for (v, all) in values.iter().zip(all.chunks_exact_mut(V::LANES)) {
                V::store(*v, all.as_mut_ptr());
            }
            put_tile::<PANEL>(args, row, out_features, &all);
        }
    }
}

/// Writes the results of a tile, `[rows, N]`, from row `row` and output `out_features.start` on, except those at or
/// beyond `out_features.end`. Not inlined: it would be most of the code of a tile, of which there are many.
///
/// # Safety
/// As [`LinearArgs::put_all`].
#[inline(never)]
pub unsafe fn put_tile<const N: usize>(args: &LinearArgs, row: usize, out_features: Range<usize>, values: &[f32]) {
    for (m, values) in values.as_chunks::<N>().0.iter().enumerate() {
        // SAFETY: guaranteed by the caller.
        unsafe { args.put_all(row + m, out_features.start, out_features.end, values) };
    }
}
