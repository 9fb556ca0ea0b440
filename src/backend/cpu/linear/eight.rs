//! Products of 8-bit floats with few rows of input: the weights become wide in registers, in the order and with the rounding of
//! wide weights in memory, so that any number of rows has the same bits ([`super::widened`], [`super::rounded`] for many).

#![allow(clippy::needless_range_loop, reason = "indices that are constant once unrolled keep sums in registers")]

use super::LinearArgs;
use super::stored::Products;
use super::tile::{ROWS, ahead, put_tile};
use crate::backend::cpu::vector::Vector;
use crate::encoding::f8::{self, Rows};
use std::ops::Range;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Products that take 8-bit floats.
///
/// # Safety
/// As [`Products`].
pub trait Codes: Products {
    /// `STEP` weights: codes, each times the factor of their group ([`f8::factor`]).
    unsafe fn codes(from: *const u8, factor: f32) -> Self::Wide;
}

/// Computes a range of outputs of a few rows, if that is what `args` are and groups are whole steps; else it says so.
///
/// # Safety
/// As [`super::super::kernels::Kernels::linear`]; `x` has the arrangement of [`Products::at`].
#[inline(always)]
pub unsafe fn few_rows<P: Codes>(args: &LinearArgs, w: Rows, x: &[P::Input], range: &Range<usize>) -> bool {
    let group = w.group.get() as usize;
    if args.rows > ROWS || (group < args.in_features && !group.is_multiple_of(P::STEP)) {
        return false;
    }
    let mut first = range.start;
    while first < range.end {
        // SAFETY: same contract, part of the range.
        unsafe {
            match (args.rows, range.end - first) {
                (1, 4..) => first += tile::<P, 1, 4>(args, w, x, first),
                (1, _) => first += tile::<P, 1, 1>(args, w, x, first),
                (2, 3..) => first += tile::<P, 2, 3>(args, w, x, first),
                (2, _) => first += tile::<P, 2, 1>(args, w, x, first),
                (3, 3..) => first += tile::<P, 3, 3>(args, w, x, first),
                (3, _) => first += tile::<P, 3, 1>(args, w, x, first),
                (_, 3..) => first += tile::<P, ROWS, 3>(args, w, x, first),
                _ => first += tile::<P, ROWS, 1>(args, w, x, first),
            }
        }
    }
    true
}

/// Computes `NR` outputs of `MR` rows, which are all; returns `NR`. Prefetches the weights that follow.
///
/// # Safety
/// As [`few_rows`], and groups are whole steps.
#[inline(always)]
unsafe fn tile<P: Codes, const MR: usize, const NR: usize>(
    args: &LinearArgs,
    w: Rows,
    x: &[P::Input],
    first: usize,
) -> usize {
    let in_features = args.in_features;
    let row = w.byte_range(0..1).len();
    let codes = w.bytes[w.byte_range(first..first + NR)].as_ptr();
    let mut next = codes.wrapping_add(NR * row);
    let x = x[P::at(in_features, 0, 0)..].as_ptr();
    let (row_stride, step_stride) = (P::at(in_features, 1, 0), P::at(in_features, 0, P::STEP));
    let (group, whole) = (w.group.get() as usize, in_features / P::STEP * P::STEP);
    // SAFETY: rows of codes and scales were sliced above; whole steps of them are read, and what is left is copied first.
    unsafe {
        let factor = |n: usize, i: usize| {
            let scale = codes.add(n * row + in_features + i / group * size_of::<f32>());
            f8::factor(f32::from_le_bytes(scale.cast::<[u8; 4]>().read()))
        };
        let mut sums = [[P::V::zero(); NR]; MR];
        let mut i = 0;
        while i < whole {
            let end = whole.min(i.saturating_add(group));
            let mut factors = [0.0; NR];
            for n in 0..NR {
                factors[n] = factor(n, i);
            }
            while i < end {
                if i % LINE == 0 {
                    ahead::<NR>(next);
                    next = next.wrapping_add(NR * LINE);
                }
                let mut ws = [P::codes(codes.add(i), factors[0]); NR];
                for n in 1..NR {
                    ws[n] = P::codes(codes.add(n * row + i), factors[n]);
                }
                for m in 0..MR {
                    let xs = P::inputs(x.add(m * row_stride + i / P::STEP * step_stride));
                    for n in 0..NR {
                        sums[m][n] = P::dot(sums[m][n], xs, ws[n]);
                    }
                }
                i += P::STEP;
            }
        }
        let left = in_features - whole;
        if left > 0 {
            for n in 0..NR {
                // A code of zero is zero; where the factor is no number, the sum is none already or becomes none here.
                let mut some = [0u8; LINE];
                std::ptr::copy_nonoverlapping(codes.add(n * row + whole), some.as_mut_ptr(), left);
                let ws = P::codes(some.as_ptr(), factor(n, whole));
                for m in 0..MR {
                    let xs = P::some_inputs(x.add(m * row_stride + whole / P::STEP * step_stride), left);
                    sums[m][n] = P::dot(sums[m][n], xs, ws);
                }
            }
        }
        put_tile::<NR>(args, 0, first..first + NR, &P::reduce(&sums)[..MR * NR]);
    }
    NR
}
