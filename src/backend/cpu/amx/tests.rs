//! Tests products on tiles against the reference tier: with an emulated tile unit on any machine, and with AVX-512 and
//! the real unit where the machine has them.

#![allow(clippy::print_stdout, reason = "what a machine could not test belongs to the report")]

use super::lanes::{LANES, Lanes};
use super::tiles::{Emulated, Hardware, ROW, Shape, Tiles};
use super::{bf16, int8};
use crate::backend::cpu::kernels::{Elements, bf16_to_f32, f32_to_bf16};
use crate::backend::cpu::linear::tests::Int8Owned;
use crate::backend::cpu::linear::{Input, LinearArgs, Matrix};
use crate::backend::cpu::{avx2, avx512, portable, reference};
use crate::dtype::BlockFormat;
use crate::encoding::f8;
use crate::encoding::{PANEL, Scheme};
use std::arch::x86_64::{__m256, __m512};
use std::ops::Range;

/// Pseudorandom numbers in [-1, 1) from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }
}

/// An implementation of a matrix product.
type Linear = unsafe fn(&LinearArgs, Range<usize>, &mut Vec<f32>);

/// # Safety
/// As [`super::Kernels::linear`].
#[inline(always)]
unsafe fn on<T: Tiles, L: Lanes>(args: &LinearArgs, range: Range<usize>, scratch: &mut Vec<f32>) {
    // SAFETY: same contract.
    unsafe {
        match (args.weight, args.x) {
            (Matrix::Stored(Elements::Bf16(w)), Input::Bf16(x)) => {
                bf16::product::<T, L>(args, bf16::Stored(w, args.in_features), x, range, scratch)
            }
            (Matrix::F8(rows), Input::Bf16(x)) => bf16::product::<T, L>(args, rows, x, range, scratch),
            (Matrix::Panels(scheme, bytes), Input::Int8(x)) => {
                int8::panels::<T, L>(args, scheme, bytes, x, range, scratch)
            }
            (Matrix::Blocks(format, bytes), Input::Int8(x)) => {
                int8::blocks::<T, L, __m256>(args, (format, bytes), x, range, scratch)
            }
            _ => unreachable!("no other form"),
        }
    }
}

/// # Safety
/// As [`on`].
unsafe fn emulated(args: &LinearArgs, range: Range<usize>, scratch: &mut Vec<f32>) {
    // SAFETY: same contract.
    unsafe { on::<Emulated, [f32; LANES]>(args, range, scratch) }
}

/// # Safety
/// As [`on`], and the processor supports AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn emulated_avx512(args: &LinearArgs, range: Range<usize>, scratch: &mut Vec<f32>) {
    // SAFETY: same contract.
    unsafe { on::<Emulated, __m512>(args, range, scratch) }
}

/// # Safety
/// As [`on`], and the process may use tiles.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn hardware(args: &LinearArgs, range: Range<usize>, scratch: &mut Vec<f32>) {
    // SAFETY: same contract.
    unsafe { on::<Hardware, __m512>(args, range, scratch) }
}

/// Whether tiles can be used here. If not, prints why, or fails if ASTRAI_REQUIRE names amx.
fn usable() -> bool {
    let required = std::env::var("ASTRAI_REQUIRE").unwrap_or_default();
    let required = required.split(',').any(|name| name.trim() == "amx");
    let reason = if !super::present() {
        "this processor or this system has none".to_string()
    } else if let Err(error) = super::permit() {
        format!("the system refused the permission: {error}")
    } else {
        return true;
    };
    assert!(!required, "ASTRAI_REQUIRE names amx, but {reason}");
    println!("SKIP AMX instructions: {reason}");
    false
}

fn ways() -> Vec<(&'static str, Linear)> {
    let mut ways: Vec<(&'static str, Linear)> = vec![("emulated", emulated)];
    if avx512::present() {
        ways.push(("emulated, AVX-512", emulated_avx512));
    } else {
        println!("SKIP AVX-512 lanes: this processor has none");
    }
    if usable() {
        ways.push(("AMX", hardware));
    }
    ways
}

/// Shape and options of one matrix product.
#[derive(Clone, Copy)]
struct Case {
    rows: usize,
    out_features: usize,
    in_features: usize,
    /// With a bias, and accumulated to the contents of the output.
    bias: bool,
}

impl Case {
    /// Runs the product as two tasks, the second from panel `cut` on, and checks guard values around the output.
    fn run(&self, linear: Linear, weight: Matrix, x: Input, cut: usize) -> Vec<f32> {
        const GUARD: f32 = 12345.0;
        let bias = Random(77).vec(self.out_features);
        let stride = self.out_features + 3;
        let mut out = vec![GUARD; self.rows * stride];
        out.chunks_mut(stride).for_each(|row| row[..self.out_features].fill(0.5));
        let args = LinearArgs {
            weight,
            in_features: self.in_features,
            bias: self.bias.then_some(Elements::F32(&bias)),
            x,
            rows: self.rows,
            out: out.as_mut_ptr(),
            out_stride: stride,
            accumulate: self.bias,
        };
        let cut = self.out_features.min(cut * PANEL);
        // Scratch may hold anything, here NaNs, from an earlier task.
        let mut scratch = vec![f32::NAN; 3000];
        for range in [0..cut, cut..self.out_features] {
            if !range.is_empty() {
                // SAFETY: the output covers the rows; `ways` checked the instructions.
                unsafe { linear(&args, range, &mut scratch) };
            }
        }
        assert!(
            out.chunks(stride).all(|row| row[self.out_features..].iter().all(|v| *v == GUARD)),
            "written beyond the outputs"
        );
        out.chunks(stride).flat_map(|row| row[..self.out_features].to_vec()).collect()
    }
}

/// Rows rounded to bf16 and arranged for tiles; elements that belong to no row are NaN.
fn arranged(x: &[f32], rows: usize, in_features: usize) -> Vec<u16> {
    let mut out = vec![0x7fffu16; crate::backend::cpu::linear::converted_bytes(rows, in_features) / 2];
    for (row, x) in x.chunks(in_features).enumerate().take(rows) {
        // SAFETY: the scratch is as large as that of a backend.
        unsafe { bf16::arrange(x, row, out.as_mut_ptr()) };
    }
    out
}

fn bf16_case(linear: Linear, case: Case, w: &[u16], x: &[f32], cut: usize) -> Vec<f32> {
    let x = arranged(x, case.rows, case.in_features);
    case.run(linear, Matrix::Stored(Elements::Bf16(w)), Input::Bf16(&x), cut)
}

fn rounded(values: Vec<f32>) -> Vec<f32> {
    values.into_iter().map(|v| bf16_to_f32(f32_to_bf16(v))).collect()
}

#[test]
fn bf16_products_agree_with_the_reference_at_edge_sizes() {
    for (name, linear) in ways() {
        for (rows, out_features, in_features) in [
            (1, 1, 1),
            (1, 17, 7),
            (2, 16, 32),
            (3, 33, 65),
            (15, 48, 64),
            (16, 15, 31),
            (17, 64, 96),
            (31, 65, 33),
            (32, 32, 128),
            (33, 32, 64),
            (49, 50, 100),
            (70, 20, 200),
        ] {
            for bias in [false, true] {
                let case = Case { rows, out_features, in_features, bias };
                let w: Vec<u16> = Random(3).vec(out_features * in_features).into_iter().map(f32_to_bf16).collect();
                let x = rounded(Random(5).vec(rows * in_features));
                let want = case.run(reference::KERNELS.linear, Matrix::Stored(Elements::Bf16(&w)), Input::F32(&x), 0);
                let got = bf16_case(linear, case, &w, &x, 1);
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    let close = (got - want).abs() <= 3e-5 * (1.0 + want.abs());
                    assert!(
                        close,
                        "{name} {rows}x{out_features}x{in_features}: element {i} is {got}, the reference says {want}"
                    );
                }
            }
        }
    }
}

/// Batch invariance (law 1) for every number of rows that leads to another arrangement of tiles, and every position in
/// a tile.
#[test]
fn a_row_of_a_bf16_product_does_not_depend_on_the_others() {
    for (name, linear) in ways() {
        for (out_features, in_features) in [(37, 70), (64, 64)] {
            let w: Vec<u16> = Random(3).vec(out_features * in_features).into_iter().map(f32_to_bf16).collect();
            let x = Random(5).vec(50 * in_features);
            let alone: Vec<Vec<f32>> = x
                .chunks(in_features)
                .map(|x| bf16_case(linear, Case { rows: 1, out_features, in_features, bias: true }, &w, x, 2))
                .collect();
            for rows in 2..=50 {
                let together = bf16_case(linear, Case { rows, out_features, in_features, bias: true }, &w, &x, 1);
                for (row, together) in together.chunks(out_features).enumerate() {
                    assert_eq!(together, alone[row], "{name} {out_features}x{in_features}: row {row} of {rows}");
                }
            }
        }
    }
}

#[test]
fn products_of_8_bit_floats_are_those_of_their_numbers_rounded_to_bf16() {
    for (name, linear) in ways() {
        for (rows, out_features, in_features, group) in
            [(1, 17, 33, 16), (3, 32, 64, 64), (33, 48, 200, 128), (40, 5, 70, 24)]
        {
            let group = f8::Group::new(group).unwrap();
            let case = Case { rows, out_features, in_features, bias: true };
            let mut stored = Vec::new();
            for row in 0..out_features {
                stored.extend((0..in_features).map(|i| (row * 31 + i * 7) as u8 & 0xbf));
                let scales = (0..in_features.div_ceil(group.get() as usize)).map(|i| 0.1 + (row + i) as f32 / 64.0);
                scales.for_each(|scale| stored.extend(scale.to_le_bytes()));
            }
            let weights = f8::Rows { bytes: &stored, in_features, group };
            let mut wide = vec![0.0; out_features * in_features];
            wide.chunks_mut(in_features).enumerate().for_each(|(row, to)| weights.widen(row, 0, to));
            let narrow: Vec<u16> = wide.into_iter().map(f32_to_bf16).collect();
            let x = Random(5).vec(rows * in_features);
            let got = case.run(linear, Matrix::F8(weights), Input::Bf16(&arranged(&x, rows, in_features)), 1);
            assert_eq!(got, bf16_case(linear, case, &narrow, &x, 0), "{name} {rows}x{out_features}x{in_features}");
        }
    }
}

#[test]
fn a_bf16_product_keeps_what_is_not_finite_in_its_row() {
    for (name, linear) in ways() {
        let case = Case { rows: 35, out_features: 32, in_features: 64, bias: false };
        let w: Vec<u16> = Random(3).vec(case.out_features * case.in_features).into_iter().map(f32_to_bf16).collect();
        let mut x = Random(5).vec(case.rows * case.in_features);
        (x[3 * 64 + 9], x[34 * 64]) = (f32::NAN, f32::INFINITY);
        for (row, got) in bf16_case(linear, case, &w, &x, 1).chunks(case.out_features).enumerate() {
            assert!(got.iter().all(|v| v.is_finite() != [3, 34].contains(&row)), "{name}, row {row}: {got:?}");
        }
    }
}

#[test]
fn quantized_products_are_the_same_bits_as_the_reference() {
    for (name, linear) in ways() {
        for scheme in [Scheme::Q8, Scheme::Q4] {
            for rows in (1..=18).chain([31, 32, 33, 50]) {
                for (out_features, in_features, bias) in
                    [(33, 65, true), (16, 64, false), (5, 1, true), (48, 200, false)]
                {
                    let case = Case { rows, out_features, in_features, bias };
                    let size = scheme.panel_bytes(in_features);
                    // Aligned as panels require.
                    let mut panels = vec![0u128; out_features.div_ceil(PANEL) * size / 16];
                    // SAFETY: the bytes of the vector.
                    let panels =
                        unsafe { std::slice::from_raw_parts_mut(panels.as_mut_ptr().cast::<u8>(), panels.len() * 16) };
                    let w = Random(3).vec(out_features * in_features);
                    for (w, panel) in w.chunks(PANEL * in_features).zip(panels.chunks_mut(size)) {
                        scheme.quantize(w, in_features, panel);
                    }
                    let x = Int8Owned::quantized(&portable::KERNELS, &Random(5).vec(rows * in_features), in_features);
                    let x = Input::Int8(x.rows());
                    let weight = Matrix::Panels(scheme, panels);
                    let want = case.run(reference::KERNELS.linear, weight, x, 0);
                    let got = case.run(linear, weight, x, 1);
                    assert_eq!(got, want, "{name} {scheme:?} {rows}x{out_features}x{in_features}");
                }
            }
        }
    }
}

/// One format of each kind: with and without minima, parts of 32 and of 16.
#[test]
fn products_of_blocks_are_the_same_bits_as_the_reference() {
    if !avx2::present() {
        return println!("SKIP blocks: this processor has no AVX2, with which they are decoded");
    }
    for (name, linear) in ways() {
        for format in [BlockFormat::Q8_0, BlockFormat::Q4K, BlockFormat::Q6K, BlockFormat::Q2K] {
            for rows in [1, 7, 16, 18, 33] {
                let case = Case { rows, out_features: 35, in_features: 512, bias: true };
                let count = case.out_features * case.in_features / format.weights();
                let random = Random(3).vec(count * format.bytes());
                // Bytes below 0x40 make no scale that is not finite.
                let stored: Vec<u8> = random.iter().map(|x| ((x + 1.0) * 31.0) as u8).collect();
                let weight = Matrix::Blocks(format, &stored);
                let x = Int8Owned::quantized(&portable::KERNELS, &Random(5).vec(rows * 512), 512);
                let x = Input::Int8(x.rows());
                let want = case.run(reference::KERNELS.linear, weight, x, 0);
                assert_eq!(case.run(linear, weight, x, 1), want, "{name} {format:?} {rows}");
            }
        }
    }
}

#[test]
fn the_unit_and_its_emulation_give_the_same_bits() {
    if !usable() {
        return;
    }
    let shapes = [Shape::WHOLE; 8];
    let mut r = Random(11);
    // Small, large and subnormal numbers, interleaved.
    let values: Vec<u16> = (0..1024).map(|i| f32_to_bf16(r.next() * [1.0, 1e-20, 1e-39, 1e15][i % 4])).collect();
    // SAFETY: the process may use tiles; two tiles of 1 KB are read, and one is written.
    unsafe fn run<T: Tiles>(shapes: [Shape; 8], values: &[u16], int8: bool) -> [u32; 256] {
        let mut out = [0u32; 256];
        // SAFETY: as above.
        unsafe {
            let mut tiles = T::configure(shapes);
            for _ in 0..2 {
                tiles.load::<1>(values.as_ptr().cast(), ROW);
                tiles.load::<2>(values[512..].as_ptr().cast(), ROW);
                if int8 { tiles.dot_int8::<0, 1, 2>() } else { tiles.dot_bf16::<0, 1, 2>() }
            }
            tiles.store::<0>(out.as_mut_ptr().cast());
        }
        out
    }
    for int8 in [false, true] {
        // SAFETY: the process may use tiles.
        let (got, want) = unsafe { (run::<Hardware>(shapes, &values, int8), run::<Emulated>(shapes, &values, int8)) };
        assert_eq!(got, want, "int8: {int8}");
    }
}
