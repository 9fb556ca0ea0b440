//! Matrix products of quantized weights with many rows on the tile unit.
//!
//! Input rows are the first operand, read in place; weights are the second: one group of a panel, with codes expanded
//! to signed bytes, is a tile. Their product is the exact dot products of one group for 16 rows by 16 outputs, which
//! are stored from the tile unit, scaled and accumulated as [`crate::backend::cpu::linear`] specifies.
//!
//! Cost of a tile, i.e. of 16 x 16 x 32 multiply-adds: 16 cycles of the tile unit, and for the scaling 48 vector instructions at
//! two per cycle, 48 loads and the tile's 16 stores, about 32 cycles, which hide those of the tile unit. The dot product
//! instruction of AVX-512 takes 64 cycles for the same dot products, plus the same 24 for the scaling. For enough rows this is
//! therefore nearly three times as fast.
//!
//! The scaling of a part follows the tile product of the next one, so that it does not wait for its own.

use super::lanes::{LANES, Lanes};
use super::tiles::{ROW, ROWS, Shape, Tiles};
use super::{Ahead, aligned};
use crate::backend::cpu::linear::decoded::{Order, Rows, Tile};
use crate::backend::cpu::linear::tile::put;
use crate::backend::cpu::linear::{Int8Rows, LinearArgs, negative_sum};
use crate::dtype::BlockFormat;
use crate::encoding::blocks::GROUP;
use crate::encoding::{PANEL, Scheme};
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Fewest rows for which the tile unit is used. With fewer, both ways are limited by memory bandwidth, and unpacking a
/// panel costs as much as the products. Both ways give the same bits.
pub const ROWS_MIN: usize = 8;

/// The tile unit, configured for products of parts of `part` inputs: tiles 0, 1 and 2 are product, rows and weights; 3 and 4 are
/// product and rows of the last, shorter block of rows.
///
/// # Safety
/// As [`super::Kernels::linear`]; the process may use tiles.
#[inline(always)]
unsafe fn configured<T: Tiles>(rows: usize, part: usize) -> T {
    let last = rows % ROWS;
    let mut shapes = [Shape::default(); 8];
    shapes[0] = Shape::WHOLE;
    shapes[1] = Shape { rows: ROWS, bytes: part };
    shapes[2] = Shape { rows: part / 4, bytes: ROW };
    if last > 0 {
        shapes[3] = Shape { rows: last, bytes: ROW };
        shapes[4] = Shape { rows: last, bytes: part };
    }
    // SAFETY: guaranteed by the caller; a thread runs one product at a time, so it has no other configuration.
    unsafe { T::configure(shapes) }
}

/// Quantized weights in panels.
///
/// # Safety
/// As [`super::Kernels::linear`]; the process may use tiles.
#[inline(always)]
pub unsafe fn panels<T: Tiles, L: Lanes>(
    args: &LinearArgs,
    scheme: Scheme,
    bytes: &[u8],
    x: Int8Rows,
    range: Range<usize>,
    scratch: &mut Vec<f32>,
) {
    // SAFETY: guaranteed by the caller.
    let mut tiles = unsafe { configured::<T>(args.rows, GROUP) };
    let size = scheme.panel_bytes(args.in_features);
    for first in range.clone().step_by(PANEL) {
        let panel = &bytes[first / PANEL * size..][..size];
        let lines = scheme.code_bytes() / 64;
        let ahead = Ahead { next: panel.as_ptr_range().end, lines: lines.div_ceil(args.rows.div_ceil(ROWS)) };
        // SAFETY: `panel` is a whole panel; the rows and outputs belong to the task.
        unsafe {
            let tile = unpack::<L>(scheme, panel, args.in_features, scratch);
            all_rows::<T, L, GROUP, false>(&mut tiles, args, &tile, x, first..range.end, ahead);
        }
    }
}

/// Weights in blocks.
///
/// # Safety
/// As [`super::Kernels::linear`]; the process may use tiles, and the processor supports AVX2, F16C and the instructions of `V`.
#[inline(always)]
pub unsafe fn blocks<T: Tiles, L: Lanes, V: Order>(
    args: &LinearArgs,
    (format, bytes): (BlockFormat, &[u8]),
    x: Int8Rows,
    range: Range<usize>,
    scratch: &mut Vec<f32>,
) {
    let weights = Rows::new(format, bytes, args.in_features, 0);
    let (part, minima) = (format.part(), format.has_minima());
    // SAFETY: guaranteed by the caller.
    let mut tiles = unsafe { configured::<T>(args.rows, part) };
    for first in range.clone().step_by(PANEL) {
        let outs = first..range.end.min(first + PANEL);
        // SAFETY: the rows and outputs belong to the task.
        unsafe {
            let tile = Tile::new::<V>(&weights, outs.clone(), scratch);
            // The next rows are prefetched while these are decoded.
            let ahead = Ahead { next: std::ptr::null(), lines: 0 };
            match (part, minima) {
                (GROUP, false) => all_rows::<T, L, GROUP, false>(&mut tiles, args, &tile, x, outs, ahead),
                (GROUP, true) => all_rows::<T, L, GROUP, true>(&mut tiles, args, &tile, x, outs, ahead),
                (_, false) => all_rows::<T, L, { GROUP / 2 }, false>(&mut tiles, args, &tile, x, outs, ahead),
                (_, true) => all_rows::<T, L, { GROUP / 2 }, true>(&mut tiles, args, &tile, x, outs, ahead),
            }
        }
    }
}

/// Multiplies all rows with a tile of weights.
///
/// # Safety
/// As [`block`] for all rows.
#[inline(always)]
unsafe fn all_rows<T: Tiles, L: Lanes, const PART: usize, const MINIMA: bool>(
    tiles: &mut T,
    args: &LinearArgs,
    tile: &Tile,
    x: Int8Rows,
    out_features: Range<usize>,
    mut ahead: Ahead,
) {
    let mut row = 0;
    // SAFETY: guaranteed by the caller.
    unsafe {
        while row + ROWS <= args.rows {
            let rows = row..row + ROWS;
            block::<T, L, 0, 1, PART, MINIMA>(tiles, args, tile, x, rows, &out_features, &mut ahead);
            row += ROWS;
        }
        if row < args.rows {
            let rows = row..args.rows;
            block::<T, L, 3, 4, PART, MINIMA>(tiles, args, tile, x, rows, &out_features, &mut ahead);
        }
    }
}

/// Expands the codes of a panel to signed bytes, and its scales to f32, in `scratch`.
///
/// # Safety
/// The processor supports the instructions.
#[inline(always)]
unsafe fn unpack<'a, L: Lanes>(
    scheme: Scheme,
    panel: &[u8],
    in_features: usize,
    scratch: &'a mut Vec<f32>,
) -> Tile<'a> {
    let (scales, codes) = panel.split_at(scheme.scale_bytes(in_features));
    let values = match scheme {
        Scheme::Q8 => 64,
        Scheme::Q4 => 128,
    };
    let code_bytes = codes.len() / 64 * values;
    let (to, wide) = aligned(scratch, code_bytes + scales.len() * 2).split_at_mut(code_bytes);
    for (from, to) in codes.chunks_exact(64).zip(to.chunks_exact_mut(values)) {
        // SAFETY: 64 bytes of codes, and room for as many values as they hold.
        unsafe {
            match scheme {
                Scheme::Q8 => L::unpack_q8(from.as_ptr(), to.as_mut_ptr()),
                Scheme::Q4 => L::unpack_q4(from.as_ptr(), to.as_mut_ptr()),
            }
        }
    }
    for (from, to) in scales.chunks_exact(PANEL * 2).zip(wide.chunks_exact_mut(PANEL * 4)) {
        // SAFETY: sixteen bf16, and room for as many f32.
        unsafe { L::store(L::load_bf16(from.as_ptr().cast()), to.as_mut_ptr().cast()) };
    }
    // SAFETY: a multiple of 64 bytes lies before them, and all were initialized.
    let scales = unsafe { wide.align_to::<f32>().1 };
    Tile { codes: to, scales, minima: &[] }
}

/// Contents of a product tile: `[rows][out_features]`.
#[repr(align(64))]
struct Products(#[allow(dead_code, reason = "read by address")] [[i32; LANES]; ROWS]);

/// Multiplies a block of at most sixteen rows with a tile of weights, whose parts are of `PART` inputs; the product is in tile `C`,
/// the rows are in tile `A`.
///
/// # Safety
/// As [`super::Kernels::linear`] for these rows and outputs; the tiles have the shapes of the block.
#[inline(always)]
unsafe fn block<T: Tiles, L: Lanes, const C: usize, const A: usize, const PART: usize, const MINIMA: bool>(
    tiles: &mut T,
    args: &LinearArgs,
    weights: &Tile,
    x: Int8Rows,
    rows: Range<usize>,
    out_features: &Range<usize>,
    next: &mut Ahead,
) {
    // Hides from the compiler that the count is usually sixteen: it would otherwise load the products of all rows
    // before scaling the first, which needs more registers than there are.
    let count = black_box(rows.len());
    let (groups, per_group) = (x.groups, GROUP / PART);
    let parts = groups * per_group;
    let (codes, scales) = (&x.codes[rows.start * groups * GROUP..], &x.scales[rows.start * groups..]);
    let corrections = if per_group == 1 { x.corrections } else { x.half_corrections };
    let corrections = &corrections[rows.start * parts..];
    assert!(codes.len() >= count * groups * GROUP && scales.len() >= count * groups);
    assert!(corrections.len() >= count * parts && weights.codes.len() >= parts * PART * PANEL);
    assert!(weights.scales.len() >= parts * PANEL && (!MINIMA || weights.minima.len() >= parts * PANEL));
    // SAFETY: the slices were checked to cover the rows; the tile of weights has all parts; the results belong to the task.
    unsafe {
        let mut sums = [L::zero(); ROWS];
        // Uninitialized: only elements that a tile was stored to are read.
        let mut products = MaybeUninit::<[Products; 2]>::uninit();
        let products: [*mut i32; 2] = [0, 1].map(|i| products.as_mut_ptr().cast::<Products>().add(i).cast());
        for p in 0..=parts {
            if p < parts {
                next.step();
                tiles.zero::<C>();
                tiles.load::<A>(codes.as_ptr().add(p * PART).cast(), groups * GROUP);
                tiles.load::<2>(weights.codes.as_ptr().add(p * PART * PANEL), ROW);
                tiles.dot_int8::<C, A, 2>();
                tiles.store::<C>(products[p % 2].cast());
            }
            if p > 0 {
                let part = p - 1;
                let scale = L::load(weights.scales.as_ptr().add(part * PANEL));
                let products = products[part % 2].cast_const();
                let input_scales = scales.as_ptr().add(part / per_group);
                for (m, sum) in sums.iter_mut().enumerate() {
                    if m < count {
                        let factor = L::mul(scale, L::splat(*input_scales.add(m * groups)));
                        *sum = L::fma(L::load_i32(products.add(m * LANES)), factor, *sum);
                    }
                }
                if MINIMA {
                    let minimum = L::load(weights.minima.as_ptr().add(part * PANEL));
                    let corrections = corrections.as_ptr().add(part);
                    for (m, sum) in sums.iter_mut().enumerate() {
                        if m < count {
                            let input = negative_sum(*corrections.add(m * parts), *input_scales.add(m * groups));
                            *sum = L::fma(minimum, L::splat(input), *sum);
                        }
                    }
                }
            }
        }
        for (row, sums) in rows.zip(sums) {
            put(args, row, out_features.clone(), &[sums]);
        }
    }
}
