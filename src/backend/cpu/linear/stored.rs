//! Products of stored weights in the registers of a tier: the lanes of an accumulator add different elements of a row,
//! and in the end the lanes are added.

#![allow(clippy::needless_range_loop, reason = "indices that are constant once unrolled keep sums in registers")]

use super::LinearArgs;
use super::tile::{RowTiles, ahead, over_rows, put_tile};
use crate::backend::cpu::vector::{Register, Vector};
use std::marker::PhantomData;

/// Most results of a tile.
pub const SUMS: usize = 24;

/// How a tier multiplies stored weights of a type.
///
/// # Safety
/// Of calls, for all methods: the processor supports the instructions, and the elements that the method names may be
/// read.
pub trait Products {
    /// Registers of f32.
    type V: Register;
    /// Elements of weights.
    type Weight: Copy;
    /// Elements of converted input rows.
    type Input: Copy;
    /// A register of either, as [`Products::dot`] takes them.
    type Wide: Copy;
    /// Elements of such a register.
    const STEP: usize;

    /// Index of element `i` of a row of the input, a multiple of `STEP`. The rows of a block follow those of the one before.
    fn at(in_features: usize, row: usize, i: usize) -> usize;
    /// Loads `STEP` weights.
    unsafe fn weights(from: *const Self::Weight) -> Self::Wide;
    /// Loads `count` < `STEP` weights, followed by zeros.
    unsafe fn some_weights(from: *const Self::Weight, count: usize) -> Self::Wide;
    /// Loads `STEP` inputs.
    unsafe fn inputs(from: *const Self::Input) -> Self::Wide;
    /// Loads the last `count` < `STEP` inputs of a row, followed by zeros.
    unsafe fn some_inputs(from: *const Self::Input, count: usize) -> Self::Wide;
    /// Adds the products of inputs and weights to the lanes.
    unsafe fn dot(sum: Self::V, x: Self::Wide, w: Self::Wide) -> Self::V;
    /// The sums of the lanes, each added as the tree of [`Register::sum`]; that of `sums[m][n]` is at `m * NR + n`.
    #[inline(always)]
    unsafe fn reduce<const MR: usize, const NR: usize>(sums: &[[Self::V; NR]; MR]) -> [f32; SUMS] {
        let mut out = [0.0; SUMS];
        for m in 0..MR {
            for n in 0..NR {
                // SAFETY: same contract.
                out[m * NR + n] = unsafe { Self::V::sum(sums[m][n]) };
            }
        }
        out
    }
}

/// Computes `NR` outputs of all rows, from `first` on; returns `NR`. Prefetches the weights that follow theirs, a tile's
/// weights with `ALL` cache lines per step.
///
/// # Safety
/// As [`super::super::kernels::Kernels::linear`] for the outputs `first..first + NR`; `x` has the arrangement of
/// [`Products::at`].
#[inline(always)]
pub unsafe fn column<P: Products, const NR: usize, const ALL: usize>(
    args: &LinearArgs,
    w: &[P::Weight],
    x: &[P::Input],
    first: usize,
) -> usize {
    let w = &w[first * args.in_features..(first + NR) * args.in_features];
    let column = Column::<P, NR, ALL> { args, w, x, first, products: PhantomData };
    // SAFETY: same contract.
    unsafe { over_rows::<_, ALL>(&column, args.rows, w.as_ptr_range().end.cast(), size_of_val(w) / ALL) };
    NR
}

/// `NR` outputs, from `first` on.
struct Column<'a, P: Products, const NR: usize, const ALL: usize> {
    args: &'a LinearArgs<'a>,
    w: &'a [P::Weight],
    x: &'a [P::Input],
    first: usize,
    products: PhantomData<P>,
}

impl<P: Products, const NR: usize, const ALL: usize> RowTiles for Column<'_, P, NR, ALL> {
    #[inline(always)]
    unsafe fn run<const MR: usize, const LINES: usize>(&self, row: usize, mut next: *const u8) {
        let in_features = self.args.in_features;
        let x = self.x[P::at(in_features, row, 0)..].as_ptr();
        // Between rows of a block of input, and between steps of a row.
        let (row_stride, step_stride) = (P::at(in_features, 1, 0), P::at(in_features, 0, P::STEP));
        let (w, whole) = (self.w.as_ptr(), in_features / P::STEP);
        // SAFETY: all loads are inside the rows.
        unsafe {
            let mut sums = [[P::V::zero(); NR]; MR];
            for step in 0..whole {
                let mut ws = [P::weights(w.add(step * P::STEP)); NR];
                for n in 1..NR {
                    ws[n] = P::weights(w.add(n * in_features + step * P::STEP));
                }
                ahead::<LINES>(next);
                next = next.wrapping_add(LINES * (NR * P::STEP * size_of::<P::Weight>() / ALL));
                for m in 0..MR {
                    let xs = P::inputs(x.add(m * row_stride + step * step_stride));
                    for n in 0..NR {
                        sums[m][n] = P::dot(sums[m][n], xs, ws[n]);
                    }
                }
            }
            let left = in_features % P::STEP;
            if left > 0 {
                for n in 0..NR {
                    let ws = P::some_weights(w.add(n * in_features + whole * P::STEP), left);
                    for m in 0..MR {
                        let xs = P::some_inputs(x.add(m * row_stride + whole * step_stride), left);
                        sums[m][n] = P::dot(sums[m][n], xs, ws);
                    }
                }
            }
            let out_features = self.first..self.first + NR;
            put_tile::<NR>(self.args, row, out_features, &P::reduce(&sums)[..MR * NR]);
        }
    }
}
