//! Products of quantized weights in the registers of a tier. The dot products of a group are exact integers
//! ([`super`]), so every instruction set gives the same bits.

#![allow(clippy::needless_range_loop, reason = "indices that are constant once unrolled keep sums in registers")]

use super::tile::{RowTiles, ahead, over_rows, put};
use super::{Int8Rows, LinearArgs};
use crate::backend::cpu::vector::{Register, Vector};
use crate::encoding::blocks::GROUP;
use crate::encoding::{PANEL, Q4_VALUES, Scheme};
use std::marker::PhantomData;
use std::ops::Range;

/// Bytes of a panel per step: 4 inputs for each output with 8-bit codes, 8 inputs with 4-bit codes.
const STEP: usize = 64;

/// The 8-bit dot product of an instruction set.
pub trait Dot {
    /// Its registers.
    type V: Register;
    /// Bias of the weight bytes: 128 if the instruction takes them unsigned, as stored; 0 if signed.
    const BIAS: u8;

    /// Adds to each 32-bit lane the products of four weights with the same four inputs.
    ///
    /// # Safety
    /// The processor supports the instructions.
    unsafe fn dot(
        sum: <Self::V as Register>::Int,
        w: <Self::V as Register>::Int,
        x: <Self::V as Register>::Int,
    ) -> <Self::V as Register>::Int;
}

/// Computes the outputs `range`. `R` is the number of registers with a lane for each output of a panel.
///
/// # Safety
/// As [`super::super::kernels::Kernels::linear`]; the processor supports the instructions of `D`.
#[inline(always)]
pub unsafe fn panels<D: Dot, const R: usize>(
    args: &LinearArgs,
    scheme: Scheme,
    bytes: &[u8],
    x: Int8Rows,
    range: Range<usize>,
) {
    let size = scheme.panel_bytes(args.in_features);
    let end = range.end.div_ceil(PANEL);
    // Panels that share their inputs' registers, where there are enough of these.
    let wide = match (R, args.rows) {
        (1, ..3) => 4,
        (1, _) => 3,
        _ => 1,
    };
    let mut panel = range.start / PANEL;
    while panel < end {
        let count = if end - panel >= wide { wide } else { 1 };
        let w = &bytes[panel * size..(panel + count) * size];
        let (out_features, next) = (panel * PANEL..range.end, w.as_ptr_range().end);
        // SAFETY: same contract, part of the range; there are `count` panels.
        unsafe {
            macro_rules! column {
                ($n:expr, $panels:expr, $halves:expr) => {{
                    let column = Column::<D, $n, $halves> { args, scheme, w, x, out_features, dot: PhantomData };
                    over_rows::<_, $panels>(&column, args.rows, next, size)
                }};
            }
            match (scheme, count) {
                (Scheme::Q8, 1) => column!(R, 1, false),
                (Scheme::Q8, 3) => column!(3, 3, false),
                (Scheme::Q8, _) => column!(4, 4, false),
                (Scheme::Q4, 1) => column!(R, 1, true),
                (Scheme::Q4, 3) => column!(3, 3, true),
                (Scheme::Q4, _) => column!(4, 4, true),
            }
        }
        panel += count;
    }
}

/// The outputs of contiguous panels, in `N` registers; those at or beyond `out_features.end` are not written. `HALVES`
/// selects 4-bit codes.
struct Column<'a, D, const N: usize, const HALVES: bool> {
    args: &'a LinearArgs<'a>,
    scheme: Scheme,
    w: &'a [u8],
    x: Int8Rows<'a>,
    out_features: Range<usize>,
    dot: PhantomData<D>,
}

impl<D: Dot, const N: usize, const HALVES: bool> RowTiles for Column<'_, D, N, HALVES> {
    #[inline(always)]
    unsafe fn run<const MR: usize, const LINES: usize>(&self, row: usize, mut next: *const u8) {
        let (x, groups, lanes) = (self.x, self.x.groups, D::V::LANES);
        let (group, code_bytes) = (GROUP, if HALVES { GROUP * PANEL / 2 } else { GROUP * PANEL });
        let (size, scale_bytes) =
            (self.scheme.panel_bytes(self.args.in_features), self.scheme.scale_bytes(self.args.in_features));
        assert!(self.w.len() * PANEL == N * lanes * size && scale_bytes + groups * code_bytes <= size);
        let inputs = x.codes[row * groups * group..][..MR * groups * group].as_ptr();
        let scales = x.scales[row * groups..][..MR * groups].as_ptr();
        let corrections = x.corrections[row * groups..][..MR * groups].as_ptr();
        // SAFETY: all loads are inside the panels and the slices above; the processor supports `D`.
        unsafe {
            let values: [u8; 16] = std::array::from_fn(|i| Q4_VALUES[i] as u8 ^ D::BIAS);
            let table = D::V::load_table(values.as_ptr());
            let mut sums = [[D::V::zero(); N]; MR];
            for g in 0..groups {
                let mut products = [[D::V::int(0); N]; MR];
                if D::BIAS != 0 {
                    for m in 0..MR {
                        products[m] = [D::V::int(*corrections.add(m * groups + g)); N];
                    }
                }
                let codes = self.w.as_ptr().add(scale_bytes + g * code_bytes);
                let inputs = inputs.add(g * group);
                let four = |m: usize, i: usize| inputs.add(m * groups * group + i).cast::<i32>().read_unaligned();
                for step in 0..code_bytes / STEP {
                    ahead::<LINES>(next);
                    next = next.wrapping_add(LINES * STEP);
                    let mut stored = [D::V::int(0); N];
                    for n in 0..N {
                        // Lane 0 is output `n * lanes % PANEL` of its panel.
                        let at = n * lanes / PANEL * size + n * lanes % PANEL * 4;
                        stored[n] = D::V::load_bytes(codes.add(at + step * STEP));
                    }
                    if HALVES {
                        for n in 0..N {
                            let [first, second] = D::V::lookup(table, stored[n]);
                            for m in 0..MR {
                                products[m][n] = D::dot(products[m][n], first, D::V::int(four(m, step * 8)));
                            }
                            for m in 0..MR {
                                products[m][n] = D::dot(products[m][n], second, D::V::int(four(m, step * 8 + 4)));
                            }
                        }
                    } else {
                        for m in 0..MR {
                            let x = D::V::int(four(m, step * 4));
                            for n in 0..N {
                                let unbias = D::V::int(i32::from_ne_bytes([128 ^ D::BIAS; 4]));
                                products[m][n] = D::dot(products[m][n], D::V::xor(stored[n], unbias), x);
                            }
                        }
                    }
                }
                for n in 0..N {
                    let at = n * lanes / PANEL * size + (g * PANEL + n * lanes % PANEL) * 2;
                    let scale = D::V::load_bf16(self.w.as_ptr().add(at).cast());
                    for m in 0..MR {
                        let factor = D::V::mul(scale, D::V::splat(*scales.add(m * groups + g)));
                        sums[m][n] = D::V::fma(D::V::float(products[m][n]), factor, sums[m][n]);
                    }
                }
            }
            for m in 0..MR {
                for p in 0..N * lanes / PANEL {
                    let out_features = self.out_features.start + p * PANEL..self.out_features.end;
                    put(self.args, row + m, out_features, &sums[m][p * PANEL / lanes..(p + 1) * PANEL / lanes]);
                }
            }
        }
    }
}
