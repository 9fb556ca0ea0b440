//! Matrix products with AVX-512: the tiles of [`super::tile`] over the outputs of a task.
//!
//! A tile's weights are read from memory once, in ascending order: while one tile is computed, the cache lines of the
//! next one are prefetched into the second-level cache one after the other. Reading several weight rows side by side
//! would keep the hardware prefetcher from detecting a stream, which halves the measured bandwidth.

#![allow(clippy::needless_range_loop, reason = "indices that are constant once unrolled keep sums in registers")]

use super::super::kernels::Elements;
use super::super::linear::{Input, Int8Rows, LinearArgs, Matrix};
use super::avx2;
use super::tile::{self, Codes, Panels};
use crate::encoding::{PANEL, Q4_VALUES, Scheme};
use std::arch::x86_64::*;
use std::ops::Range;

/// Input rows per tile of quantized products.
const BLOCK: usize = 4;

/// # Safety
/// See [`super::Kernels::linear`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx2,fma")]
pub(super) unsafe fn linear(args: &LinearArgs, range: Range<usize>, scratch: &mut Vec<f32>) {
    // SAFETY: same contract.
    unsafe {
        match (args.weight, args.x) {
            (Matrix::Stored(Elements::Bf16(w)), Input::Bf16(x)) => stored_bf16(args, w, x, range),
            (Matrix::Panels(scheme, bytes), Input::Int8(x)) => panels(args, scheme, bytes, x, range),
            _ => (avx2::TABLE.linear)(args, range, scratch),
        }
    }
}

/// # Safety
/// As [`linear`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn stored_bf16(args: &LinearArgs, w: &[u16], x: &[u16], range: Range<usize>) {
    let mut first = range.start;
    while first < range.end {
        let left = range.end - first;
        // SAFETY: same contract, part of the range.
        first += unsafe {
            match args.rows {
                1 | 2 if left >= 4 => bf16_column::<4>(args, w, x, first),
                // 8 outputs are 4 + 4: after 6, the last two would be computed one at a time.
                _ if left >= 6 && left != 8 => bf16_column::<6>(args, w, x, first),
                _ if left >= 4 => bf16_column::<4>(args, w, x, first),
                _ => bf16_column::<1>(args, w, x, first),
            }
        };
    }
}

/// Computes `NR` outputs of all rows, from `first` on; returns `NR`.
///
/// # Safety
/// As [`linear`] for outputs `first..first + NR`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn bf16_column<const NR: usize>(args: &LinearArgs, w: &[u16], x: &[u16], first: usize) -> usize {
    let in_features = args.in_features;
    let w = &w[first * in_features..(first + NR) * in_features];
    let mut next: *const u8 = w.as_ptr_range().end.cast();
    // Prefetching the next tile's weights is spread over the whole blocks of rows: prefetches issued all at once would
    // wait for each other.
    let blocks = args.rows / tile::BLOCK;
    let lines = if blocks == 0 { NR } else { NR.div_ceil(blocks) };
    let mut row = 0;
    while row < args.rows {
        let x = x[tile::at(in_features, row, 0)..].as_ptr();
        let w = w.as_ptr();
        // SAFETY: there are `NR` rows of weights; `row` is the first of a block; the columns belong to the task.
        unsafe {
            match (args.rows - row, lines) {
                (1, _) if blocks == 0 => {
                    put::<1, NR>(args, row, first, tile::bf16::<1, NR, NR>(x, w, in_features, next))
                }
                (2, _) if blocks == 0 => {
                    put::<2, NR>(args, row, first, tile::bf16::<2, NR, NR>(x, w, in_features, next))
                }
                (3, _) if blocks == 0 => {
                    put::<3, NR>(args, row, first, tile::bf16::<3, NR, NR>(x, w, in_features, next))
                }
                (1, _) => put::<1, NR>(args, row, first, tile::bf16::<1, NR, 0>(x, w, in_features, next)),
                (2, _) => put::<2, NR>(args, row, first, tile::bf16::<2, NR, 0>(x, w, in_features, next)),
                (3, _) => put::<3, NR>(args, row, first, tile::bf16::<3, NR, 0>(x, w, in_features, next)),
                (_, 1) => put::<4, NR>(args, row, first, tile::bf16::<4, NR, 1>(x, w, in_features, next)),
                (_, 2) => put::<4, NR>(args, row, first, tile::bf16::<4, NR, 2>(x, w, in_features, next)),
                (_, 3) => put::<4, NR>(args, row, first, tile::bf16::<4, NR, 3>(x, w, in_features, next)),
                _ => put::<4, NR>(args, row, first, tile::bf16::<4, NR, NR>(x, w, in_features, next)),
            }
        }
        next = next.wrapping_add(in_features * 2 * lines);
        row += tile::BLOCK;
    }
    NR
}

/// # Safety
/// As [`LinearArgs::put`] for the tile's rows and outputs.
#[inline(always)]
unsafe fn put<const MR: usize, const NR: usize>(args: &LinearArgs, row: usize, first: usize, sums: [f32; tile::SUMS]) {
    for (m, sums) in sums.chunks_exact(NR).take(MR).enumerate() {
        // SAFETY: guaranteed by the caller.
        unsafe { args.put_all(row + m, first, first + NR, sums) };
    }
}

/// # Safety
/// As [`linear`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn panels(args: &LinearArgs, scheme: Scheme, bytes: &[u8], x: Int8Rows, range: Range<usize>) {
    let size = scheme.panel_bytes(args.in_features);
    let end = range.end.div_ceil(PANEL);
    let mut panel = range.start / PANEL;
    while panel < end {
        let wide = if args.rows < 3 { 4 } else { 3 };
        let count = if end - panel >= wide { wide } else { 1 };
        // SAFETY: same contract, part of the range; the slice has `count` panels.
        unsafe {
            let w = &bytes[panel * size..(panel + count) * size];
            match (scheme, count) {
                (Scheme::Q8, 1) => column::<1, 64, false>(args, scheme, w, x, panel * PANEL..range.end),
                (Scheme::Q8, 3) => column::<3, 64, false>(args, scheme, w, x, panel * PANEL..range.end),
                (Scheme::Q8, _) => column::<4, 64, false>(args, scheme, w, x, panel * PANEL..range.end),
                (Scheme::Q4, 1) => column::<1, 32, true>(args, scheme, w, x, panel * PANEL..range.end),
                (Scheme::Q4, 3) => column::<3, 32, true>(args, scheme, w, x, panel * PANEL..range.end),
                (Scheme::Q4, _) => column::<4, 32, true>(args, scheme, w, x, panel * PANEL..range.end),
            }
        }
        panel += count;
    }
}

/// Computes the outputs of `NP` panels for all rows. Outputs start at `out_features.start`; those at or beyond
/// `out_features.end` are not written.
///
/// # Safety
/// As [`linear`]; `w` has `NP` panels.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn column<const NP: usize, const GROUP: usize, const HALVES: bool>(
    args: &LinearArgs,
    scheme: Scheme,
    w: &[u8],
    x: Int8Rows,
    out_features: Range<usize>,
) {
    let panels = Panels {
        first: w.as_ptr(),
        bytes: scheme.panel_bytes(args.in_features),
        scale_bytes: scheme.scale_bytes(args.in_features),
    };
    let table = q4_table();
    let mut next = w.as_ptr_range().end;
    // As for bf16, prefetching is spread over the whole blocks of rows.
    let blocks = args.rows / BLOCK;
    let lines = if blocks == 0 { NP } else { NP.div_ceil(blocks) };
    let mut row = 0;
    while row < args.rows {
        let x = Codes {
            codes: x.codes[row * x.groups * x.group..].as_ptr(),
            scales: x.scales[row * x.groups..].as_ptr(),
            corrections: x.corrections[row * x.groups..].as_ptr(),
            groups: x.groups,
        };
        let p = panels;
        // SAFETY: the caller passed `NP` panels, rows are below `args.rows`, and the columns belong to the task.
        unsafe {
            match (args.rows - row, lines) {
                (1, _) if blocks == 0 => {
                    store(args, row, &out_features, tile::int8::<1, NP, NP, GROUP, HALVES>(x, p, table, next))
                }
                (2, _) if blocks == 0 => {
                    store(args, row, &out_features, tile::int8::<2, NP, NP, GROUP, HALVES>(x, p, table, next))
                }
                (3, _) if blocks == 0 => {
                    store(args, row, &out_features, tile::int8::<3, NP, NP, GROUP, HALVES>(x, p, table, next))
                }
                (1, _) => store(args, row, &out_features, tile::int8::<1, NP, 0, GROUP, HALVES>(x, p, table, next)),
                (2, _) => store(args, row, &out_features, tile::int8::<2, NP, 0, GROUP, HALVES>(x, p, table, next)),
                (3, _) => store(args, row, &out_features, tile::int8::<3, NP, 0, GROUP, HALVES>(x, p, table, next)),
                (_, 1) => store(args, row, &out_features, tile::int8::<4, NP, 1, GROUP, HALVES>(x, p, table, next)),
                (_, 2) => store(args, row, &out_features, tile::int8::<4, NP, 2, GROUP, HALVES>(x, p, table, next)),
                _ => store(args, row, &out_features, tile::int8::<4, NP, NP, GROUP, HALVES>(x, p, table, next)),
            }
        }
        next = next.wrapping_add(panels.bytes * lines);
        row += BLOCK;
    }
}

/// The values of the sixteen Q4 codes + 128, in each 128-bit quarter.
#[inline]
#[target_feature(enable = "avx512f")]
fn q4_table() -> __m512i {
    let values: [u8; 16] = std::array::from_fn(|i| Q4_VALUES[i] as u8 ^ 128);
    // SAFETY: sixteen bytes are read.
    unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(values.as_ptr().cast())) }
}

/// # Safety
/// As [`LinearArgs::put`] for the tile's rows and the outputs `out_features`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store<const MR: usize, const NP: usize>(
    args: &LinearArgs,
    row: usize,
    out_features: &Range<usize>,
    sums: [[__m512; NP]; MR],
) {
    for (m, sums) in sums.iter().enumerate() {
        for (n, sums) in sums.iter().enumerate() {
            let first = out_features.start + n * PANEL;
            // SAFETY: guaranteed by the caller; the fast path writes sixteen outputs that exist.
            unsafe {
                if first + PANEL <= out_features.end && args.bias.is_none() {
                    let place = args.out.add((row + m) * args.out_stride + first);
                    let sums = if args.accumulate { _mm512_add_ps(_mm512_loadu_ps(place), *sums) } else { *sums };
                    _mm512_storeu_ps(place, sums);
                } else {
                    let mut values = [0.0f32; PANEL];
                    _mm512_storeu_ps(values.as_mut_ptr(), *sums);
                    args.put_all(row + m, first, out_features.end, &values);
                }
            }
        }
    }
}
