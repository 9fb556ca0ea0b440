//! Products of weights in blocks, in every tier; rows quantized for the tests of tiers.

use super::*;
use crate::backend::cpu::{choose, kernels_of, reference, tiers};

/// Rows quantized for tests.
pub(in crate::backend::cpu) struct Int8Owned {
    pub codes: Vec<i8>,
    pub scales: Vec<f32>,
    pub corrections: Vec<i32>,
    pub half_corrections: Vec<i32>,
    pub groups: usize,
}

impl Int8Owned {
    /// Room for some rows, with zeros.
    pub fn zeros(rows: usize, in_features: usize) -> Int8Owned {
        let groups = in_features.div_ceil(GROUP);
        let count = rows * groups;
        let (codes, scales) = (vec![0; count * GROUP], vec![0.0; count]);
        Int8Owned { codes, scales, corrections: vec![0; count], half_corrections: vec![0; 2 * count], groups }
    }

    /// The rows of `x`, as a tier quantizes them.
    pub fn quantized(kernels: &Kernels, x: &[f32], in_features: usize) -> Int8Owned {
        let mut all = Int8Owned::zeros(x.len() / in_features, in_features);
        for (row, x) in x.chunks(in_features).enumerate() {
            let part = row * all.groups..(row + 1) * all.groups;
            let row = Int8RowMut {
                codes: &mut all.codes[part.start * GROUP..part.end * GROUP],
                scales: &mut all.scales[part.clone()],
                half_corrections: &mut all.half_corrections[part.start * 2..part.end * 2],
                corrections: &mut all.corrections[part],
            };
            // SAFETY: tests use the tiers that the processor supports.
            unsafe { (kernels.to_int8)(x, row) };
        }
        all
    }

    /// Computes the corrections anew, from the codes.
    pub fn correct(&mut self) {
        let sum = |codes: &[i8]| -128 * codes.iter().map(|&x| i32::from(x)).sum::<i32>();
        self.corrections = self.codes.chunks(GROUP).map(sum).collect();
        self.half_corrections = self.codes.chunks(GROUP / 2).map(sum).collect();
    }

    pub fn rows(&self) -> Int8Rows<'_> {
        let Int8Owned { codes, scales, corrections, half_corrections, groups } = self;
        Int8Rows { codes, scales, corrections, half_corrections, groups: *groups }
    }
}

/// Pseudorandom bytes.
fn bytes(seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    })
}

/// A matrix of random blocks whose scales are no NaN and no infinity: their exponents are small.
fn blocks_of(format: BlockFormat, rows: usize, in_features: usize) -> Vec<u8> {
    let count = rows * in_features / format.weights();
    let mut all: Vec<u8> = bytes(format as u64 + 3).take(count * format.bytes()).collect();
    let halves: &[usize] = match format {
        BlockFormat::Q2K => &[81, 83],
        BlockFormat::Q3K => &[109],
        BlockFormat::Q6K => &[209],
        BlockFormat::Q4_1 | BlockFormat::Q5_1 | BlockFormat::Q4K | BlockFormat::Q5K => &[1, 3],
        BlockFormat::Mxfp4 => &[],
        _ => &[1],
    };
    for block in all.chunks_mut(format.bytes()) {
        halves.iter().for_each(|&at| block[at] &= 0xbf);
        if format == BlockFormat::Mxfp4 {
            block[0] = block[0] % 32 + 110;
        }
    }
    all
}

fn run(kernels: &Kernels, weight: Matrix, x: Input, [rows, outs, ins]: [usize; 3], cut: usize) -> Vec<f32> {
    let mut out = vec![0.25f32; rows * outs];
    let bias: Vec<f32> = (0..outs).map(|i| i as f32).collect();
    let (bias, out_start) = (Some(Elements::F32(&bias)), out.as_mut_ptr());
    let args =
        LinearArgs { weight, in_features: ins, bias, x, rows, out: out_start, out_stride: outs, accumulate: true };
    let cut = (cut * PANEL).min(outs);
    // SAFETY: the output covers the rows, and tests use the tiers that the processor supports.
    unsafe {
        (kernels.linear)(&args, 0..cut, &mut Vec::new());
        (kernels.linear)(&args, cut..outs, &mut Vec::new());
    }
    out
}

/// Every tier multiplies every block format as the reference does: the same bits with inputs in 8 bits, whatever the number
/// of rows, and nearly the same numbers with f32 inputs.
#[test]
fn products_of_blocks_are_the_same_bits_in_every_tier() {
    for format in BlockFormat::ALL {
        for shape @ [rows, outs, ins] in [
            [1, 16, 256],
            [2, 33, 256],
            [3, 5, 512],
            [7, 48, 768],
            [8, 16, 256],
            [17, 40, 512],
            [33, 17, 32],
            [9, 32, 96],
        ] {
            if ins % format.weights() != 0 {
                continue;
            }
            let stored = blocks_of(format, outs, ins);
            let weight = Matrix::Blocks(format, &stored);
            let x: Vec<f32> = bytes(9).take(rows * ins).map(|b| (f32::from(b) - 127.0) / 64.0).collect();
            let want = {
                let int8 = Int8Owned::quantized(&reference::KERNELS, &x, ins);
                run(&reference::KERNELS, weight, Input::Int8(int8.rows()), shape, 0)
            };
            let exact = run(&reference::KERNELS, weight, Input::F32(&x), shape, 0);
            let size = exact.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
            assert!(size.is_finite() && size > 0.0, "{format:?}");
            for tier in tiers() {
                let kernels = kernels_of(tier).unwrap();
                if choose(tier).is_err() {
                    continue;
                }
                let int8 = Int8Owned::quantized(kernels, &x, ins);
                let got = run(kernels, weight, Input::Int8(int8.rows()), shape, 1);
                assert_eq!(got, want, "{tier:?} {format:?} {shape:?}");
                let close = run(kernels, weight, Input::F32(&x), shape, 1);
                for (close, exact) in close.iter().zip(&exact) {
                    assert!((close - exact).abs() <= size * 2e-6, "{tier:?} {format:?} {shape:?}: {close} {exact}");
                }
            }
        }
    }
}

/// Rows of random codes and scales.
fn f8_rows(rows: usize, in_features: usize, group: f8::Group) -> Vec<u8> {
    let mut random = bytes(31);
    let mut all = Vec::new();
    for _ in 0..rows {
        // No code of no number.
        all.extend(random.by_ref().filter(|code| code & 0x7f != 0x7f).take(in_features));
        for scale in random.by_ref().take(in_features.div_ceil(group.get() as usize)) {
            all.extend((f32::from(scale) / 65536.0).to_le_bytes());
        }
    }
    all
}

/// Every tier multiplies 8-bit floats as the numbers they stand for: with f32 inputs the same bits as these, with bf16 inputs the
/// same as these rounded to bf16; and whatever the number of rows.
#[test]
fn products_of_8_bit_floats_are_those_of_their_numbers() {
    for (shape @ [rows, outs, ins], group) in [
        ([1, 16, 256], 128),
        ([1, 5, 33], 33),
        ([2, 33, 200], 64),
        ([3, 5, 1], 7),
        ([7, 48, 770], 128),
        ([17, 40, 96], 20),
        ([33, 17, 65], 32),
        ([70, 70, 64], 64),
    ] {
        let group = f8::Group::new(group).unwrap();
        let stored = f8_rows(outs, ins, group);
        let weight = Matrix::F8(f8::Rows { bytes: &stored, in_features: ins, group });
        let mut wide = vec![0.0; outs * ins];
        wide.chunks_mut(ins).enumerate().for_each(|(row, to)| weight.widen_row(row, ins, to));
        let narrow: Vec<u16> = wide.iter().map(|w| half::bf16::from_f32(*w).to_bits()).collect();
        let x: Vec<f32> = bytes(9).take(rows * ins).map(|b| (f32::from(b) - 127.0) / 64.0).collect();
        for tier in tiers() {
            let kernels = kernels_of(tier).unwrap();
            if choose(tier).is_err() {
                continue;
            }
            let what = format!("{tier:?} {shape:?} {group}");
            let got = run(kernels, weight, Input::F32(&x), shape, 1);
            let want = run(kernels, Matrix::Stored(Elements::F32(&wide)), Input::F32(&x), shape, 0);
            assert_eq!(got, want, "{what}");
            if (kernels.form)(Encoding::Stored(DType::ScaledF8(group)), Compute::Bf16) != Form::Bf16 {
                continue;
            }
            let mut converted = vec![0u16; converted_bytes(rows, ins) / 2];
            for (row, x) in x.chunks(ins).enumerate() {
                // SAFETY: as much room as a backend has, and tests use the tiers that the processor supports.
                unsafe { (kernels.to_bf16)(x, row, converted.as_mut_ptr()) };
            }
            let got = run(kernels, weight, Input::Bf16(&converted), shape, 1);
            let want = run(kernels, Matrix::Stored(Elements::Bf16(&narrow)), Input::Bf16(&converted), shape, 0);
            assert_eq!(got, want, "{what}");
        }
    }
}
