//! Matrix products of quantized weights with many rows on the tile unit.
//!
//! Input rows are the first operand, read in place; weights are the second: one group of a panel, with codes expanded
//! to signed bytes, is a tile. Their product is the exact dot products of one group for 16 rows by 16 outputs, which
//! are stored from the tile unit, scaled and accumulated as [`crate::backend::cpu::linear`] specifies.
//!
//! Cost of a tile, i.e. of 16 x 16 x 64 multiply-adds (Q8) or half as many (Q4): 16 cycles of the tile unit, and for
//! the scaling 48 vector instructions at two per cycle, 48 loads and the tile's 16 stores, about 32 cycles, which hide
//! those of the tile unit. The dot product instruction of AVX-512 takes 128 cycles (Q4: 64) for the same dot products,
//! plus the same 24 for the scaling. For enough rows this is therefore about four times as fast for Q8 and nearly three
//! times for Q4.
//!
//! The scaling of a group follows the tile product of the next group, so that it does not wait for its own.

use super::lanes::{LANES, Lanes};
use super::tiles::{ROW, ROWS, Shape, Tiles};
use super::{Ahead, aligned};
use crate::backend::cpu::linear::tile::put;
use crate::backend::cpu::linear::{Int8Rows, LinearArgs};
use crate::encoding::{PANEL, Scheme};
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Fewest rows for which the tile unit is used. With fewer, both ways are limited by memory bandwidth, and unpacking a
/// panel costs as much as the products. Both ways give the same bits.
pub const ROWS_MIN: usize = 8;

/// A panel with its codes expanded to tiles.
struct Panel<'a> {
    /// `[groups][group / 4][PANEL][4]`, signed bytes.
    codes: &'a [u8],
    /// `[groups][PANEL]` bf16, in place in the panel.
    scales: *const u16,
}

/// # Safety
/// As [`super::Kernels::linear`]; the process may use tiles.
#[inline(always)]
pub unsafe fn product<T: Tiles, L: Lanes>(
    args: &LinearArgs,
    scheme: Scheme,
    bytes: &[u8],
    x: Int8Rows,
    range: Range<usize>,
    scratch: &mut Vec<f32>,
) {
    let group = scheme.group();
    let last = args.rows % ROWS;
    let none = Shape::default();
    // Tiles 0, 1 and 2 are product, rows and weights; 3 and 4 are product and rows of the last, shorter block of rows.
    let mut shapes = [none; 8];
    shapes[0] = Shape::WHOLE;
    shapes[1] = Shape { rows: ROWS, bytes: group };
    shapes[2] = Shape { rows: group / 4, bytes: ROW };
    if last > 0 {
        shapes[3] = Shape { rows: last, bytes: ROW };
        shapes[4] = Shape { rows: last, bytes: group };
    }
    // SAFETY: guaranteed by the caller; a thread runs one product at a time, so it has no other configuration.
    let mut tiles = unsafe { T::configure(shapes) };
    let size = scheme.panel_bytes(args.in_features);
    for first in range.clone().step_by(PANEL) {
        let panel = &bytes[first / PANEL * size..][..size];
        // SAFETY: `panel` is a whole panel; the rows and outputs belong to the task.
        unsafe {
            let panel_tiles = unpack::<L>(scheme, panel, args.in_features, scratch);
            let lines = scheme.code_bytes() / 64;
            let mut ahead = Ahead { next: panel.as_ptr_range().end, lines: lines.div_ceil(args.rows.div_ceil(ROWS)) };
            let out_features = first..range.end;
            let mut row = 0;
            while row + ROWS <= args.rows {
                block::<T, L, 0, 1>(&mut tiles, args, &panel_tiles, x, row..row + ROWS, &out_features, &mut ahead);
                row += ROWS;
            }
            if row < args.rows {
                block::<T, L, 3, 4>(&mut tiles, args, &panel_tiles, x, row..args.rows, &out_features, &mut ahead);
            }
        }
    }
}

/// Expands the codes of a panel to tiles of signed bytes in `scratch`.
///
/// # Safety
/// The processor supports the instructions.
#[inline(always)]
unsafe fn unpack<'a, L: Lanes>(
    scheme: Scheme,
    panel: &[u8],
    in_features: usize,
    scratch: &'a mut Vec<f32>,
) -> Panel<'a> {
    let (scales, codes) = panel.split_at(scheme.scale_bytes(in_features));
    let values = match scheme {
        Scheme::Q8 => 64,
        Scheme::Q4 => 128,
    };
    let to = aligned(scratch, codes.len() / 64 * values);
    for (from, to) in codes.chunks_exact(64).zip(to.chunks_exact_mut(values)) {
        // SAFETY: 64 bytes of codes, and room for as many values as they hold.
        unsafe {
            match scheme {
                Scheme::Q8 => L::unpack_q8(from.as_ptr(), to.as_mut_ptr()),
                Scheme::Q4 => L::unpack_q4(from.as_ptr(), to.as_mut_ptr()),
            }
        }
    }
    Panel { codes: to, scales: scales.as_ptr().cast() }
}

/// Contents of a product tile: `[rows][out_features]`.
#[repr(align(64))]
struct Products(#[allow(dead_code, reason = "read by address")] [[i32; LANES]; ROWS]);

/// Multiplies a block of at most sixteen rows with a panel; the product is in tile `C`, the rows are in tile `A`.
///
/// # Safety
/// As [`product`] for these rows and outputs; the tiles have the shapes of the block.
#[inline(always)]
unsafe fn block<T: Tiles, L: Lanes, const C: usize, const A: usize>(
    tiles: &mut T,
    args: &LinearArgs,
    panel: &Panel,
    x: Int8Rows,
    rows: Range<usize>,
    out_features: &Range<usize>,
    next: &mut Ahead,
) {
    // Hides from the compiler that the count is usually sixteen: it would otherwise load the products of all rows
    // before scaling the first, which needs more registers than there are.
    let count = black_box(rows.len());
    let (codes, scales) = (&x.codes[rows.start * x.groups * x.group..], &x.scales[rows.start * x.groups..]);
    assert!(codes.len() >= count * x.groups * x.group && scales.len() >= count * x.groups);
    // SAFETY: the slices were checked to cover the rows; the panel has all groups; the results belong to the task.
    unsafe {
        let mut sums = [L::zero(); ROWS];
        // Uninitialized: only elements that a tile was stored to are read.
        let mut products = MaybeUninit::<[Products; 2]>::uninit();
        let products: [*mut i32; 2] = [0, 1].map(|i| products.as_mut_ptr().cast::<Products>().add(i).cast());
        for g in 0..=x.groups {
            if g < x.groups {
                next.step();
                tiles.zero::<C>();
                tiles.load::<A>(codes.as_ptr().add(g * x.group).cast(), x.groups * x.group);
                tiles.load::<2>(panel.codes.as_ptr().add(g * x.group * PANEL), ROW);
                tiles.dot_int8::<C, A, 2>();
                tiles.store::<C>(products[g % 2].cast());
            }
            if g > 0 {
                let weights = L::load_bf16(panel.scales.add((g - 1) * PANEL));
                let products = products[(g - 1) % 2].cast_const();
                let scales = scales.as_ptr().add(g - 1);
                for (m, sum) in sums.iter_mut().enumerate() {
                    if m < count {
                        let factor = L::mul(weights, L::splat(*scales.add(m * x.groups)));
                        *sum = L::fma(L::load_i32(products.add(m * LANES)), factor, *sum);
                    }
                }
            }
        }
        for (row, sums) in rows.zip(sums) {
            put(args, row, out_features.clone(), &[sums]);
        }
    }
}
