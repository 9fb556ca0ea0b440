//! Products of quantized weights with many rows.
//!
//! The input rows are the first operand, as they lie; the weights are the second: a group of a panel, with its bias taken
//! out and its codes looked up, is a tile already. Their product is the integer sums of one group, sixteen rows by sixteen
//! outputs, which leave the tile unit to be scaled and added as [`crate::backend::cpu::linear`] demands.
//!
//! Per tile, that is per 16 x 16 x 64 products (Q8) or half as many (Q4): 16 cycles of the tile unit, and for the scaling
//! 48 vector instructions at two a cycle, 48 loads, and the tile's 16 stores: about 32 cycles, which hide those of the tile
//! unit. The dot product instruction of AVX-512 needs 128 cycles (64) for the same sums and the same 24 for the scaling. So
//! this is about four times as fast for Q8, and nearly three times for Q4, as soon as a tile has rows enough.
//!
//! The scaling of a group is put behind the product of the next one, so that it does not wait for it.

use super::lanes::{LANES, Lanes};
use super::tiles::{ROW, ROWS, Shape, Tiles};
use super::{Ahead, aligned, put};
use crate::backend::cpu::linear::{Int8Rows, LinearArgs};
use crate::encoding::{PANEL, Scheme};
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Fewest rows for which the tile unit is used. With fewer both ways wait for memory, and unpacking a panel for them costs
/// as much as the products. Both give the same bits.
pub const ROWS_MIN: usize = 8;

/// A panel as tiles.
struct Panel<'a> {
    /// `[groups][group / 4][PANEL][4]`, signed.
    codes: &'a [u8],
    /// `[groups][PANEL]` bf16, as in the panel.
    scales: *const u16,
}

/// # Safety
/// As [`super::Kernels::linear`]; the unit may be used.
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
    // Tiles 0 to 2 are product, rows and weights; 3 and 4 product and rows of the last, shorter block.
    let mut shapes = [none; 8];
    shapes[0] = Shape::WHOLE;
    shapes[1] = Shape { rows: ROWS, bytes: group };
    shapes[2] = Shape { rows: group / 4, bytes: ROW };
    if last > 0 {
        shapes[3] = Shape { rows: last, bytes: ROW };
        shapes[4] = Shape { rows: last, bytes: group };
    }
    // SAFETY: the caller's promise; a thread comes here once at a time.
    let mut tiles = unsafe { T::configure(shapes) };
    let size = scheme.panel_bytes(args.in_features);
    for first in range.clone().step_by(PANEL) {
        let panel = &bytes[first / PANEL * size..][..size];
        // SAFETY: a whole panel; rows and outputs are the task's.
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

/// Makes tiles of a panel's codes.
///
/// # Safety
/// The instructions exist.
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
        // SAFETY: 64 bytes, and as many values as they have.
        unsafe {
            match scheme {
                Scheme::Q8 => L::unpack_q8(from.as_ptr(), to.as_mut_ptr()),
                Scheme::Q4 => L::unpack_q4(from.as_ptr(), to.as_mut_ptr()),
            }
        }
    }
    Panel { codes: to, scales: scales.as_ptr().cast() }
}

/// What a tile holds: `[rows][out_features]`.
#[repr(align(64))]
struct Products(#[allow(dead_code, reason = "read by address")] [[i32; LANES]; ROWS]);

/// A block of at most sixteen rows times a panel, with product and rows in tiles `C` and `A`.
///
/// # Safety
/// As [`product`] for the rows and outputs; the tiles have the shapes of the block.
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
    // The compiler may not know that there are sixteen: it would read the products of all rows before it scales the first,
    // for which it has too few registers.
    let count = black_box(rows.len());
    let (codes, scales) = (&x.codes[rows.start * x.groups * x.group..], &x.scales[rows.start * x.groups..]);
    assert!(codes.len() >= count * x.groups * x.group && scales.len() >= count * x.groups);
    // SAFETY: the slices were checked to have the rows; the panel has all groups; results are the task's.
    unsafe {
        let mut sums = [L::zero(); ROWS];
        // Only what a tile has written is read.
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
                        *sum = sum.add_scaled(products.add(m * LANES), weights, *scales.add(m * x.groups));
                    }
                }
            }
        }
        for (row, sums) in rows.zip(sums) {
            put(args, row, out_features.clone(), sums);
        }
    }
}
