//! Tests every implementation of the 8-bit dot product that this processor supports against the reference tier.

#![allow(clippy::print_stdout, reason = "what a machine could not test belongs to the report")]

use super::linear::{linear, linear_avx_vnni, linear_vnni};
use crate::backend::cpu::linear::tests::Int8Owned;
use crate::backend::cpu::linear::{Input, Int8Rows, LinearArgs, Matrix};
use crate::backend::cpu::reference;
use crate::encoding::Scheme;
use std::ops::Range;

type Linear = unsafe fn(&LinearArgs, Range<usize>, &mut Vec<f32>);

fn ways() -> Vec<(&'static str, Linear)> {
    if !super::present() {
        println!("SKIP AVX2: this processor has none");
        return Vec::new();
    }
    let mut ways: Vec<(&'static str, Linear)> = vec![("plain", linear)];
    match is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vl") {
        true => ways.push(("AVX-512 VNNI", linear_vnni)),
        false => println!("SKIP AVX-512 VNNI: this processor has none"),
    }
    match is_x86_feature_detected!("avxvnni") {
        true => ways.push(("AVX-VNNI", linear_avx_vnni)),
        false => println!("SKIP AVX-VNNI: this processor has none"),
    }
    ways
}

/// Pseudorandom bytes.
fn bytes(n: usize) -> impl Iterator<Item = u8> {
    let mut state = n as u64;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as u8
    })
}

/// Panels with the given code bytes and scales around 1.
fn panels(scheme: Scheme, out_features: usize, in_features: usize, codes: &mut dyn Iterator<Item = u8>) -> Vec<u8> {
    let mut panels = vec![0; scheme.bytes(out_features, in_features).expect("small")];
    for panel in panels.chunks_mut(scheme.panel_bytes(in_features)) {
        let (scales, integers) = panel.split_at_mut(scheme.scale_bytes(in_features));
        for (scale, low) in scales.chunks_mut(2).zip(bytes(in_features)) {
            scale.copy_from_slice(&[low, 0x3f]);
        }
        integers.iter_mut().zip(&mut *codes).for_each(|(to, code)| *to = code);
    }
    panels
}

fn run(linear: Linear, weight: Matrix, x: Int8Rows, [rows, out_features, in_features]: [usize; 3]) -> Vec<u32> {
    let mut out = vec![0.0f32; rows * out_features];
    let x = Input::Int8(x);
    let args = LinearArgs {
        weight,
        in_features,
        bias: None,
        x,
        rows,
        out: out.as_mut_ptr(),
        out_stride: out_features,
        accumulate: false,
    };
    // SAFETY: the output covers the rows; `ways` checked the instructions.
    unsafe { linear(&args, 0..out_features, &mut Vec::new()) };
    out.into_iter().map(f32::to_bits).collect()
}

#[test]
fn every_dot_product_gives_the_bits_of_the_reference() {
    let ways = ways();
    for scheme in [Scheme::Q8, Scheme::Q4] {
        for shape @ [rows, out_features, in_features] in
            [[1, 16, 64], [2, 33, 65], [3, 15, 32], [4, 48, 96], [5, 64, 100], [9, 20, 1000]]
        {
            let mut x = Int8Owned::zeros(rows, in_features);
            let n = x.codes.len();
            // Random codes, then the extreme ones, whose pairs of products must not saturate.
            let random = bytes(in_features).map(|code| if scheme == Scheme::Q8 { code.max(1) } else { code });
            let largest: [u8; 2] = if scheme == Scheme::Q8 { [1, 255] } else { [0, 0xff] };
            let weights: [Vec<u8>; 3] = [
                panels(scheme, out_features, in_features, &mut { random }),
                panels(scheme, out_features, in_features, &mut std::iter::repeat(largest[0])),
                panels(scheme, out_features, in_features, &mut std::iter::repeat(largest[1])),
            ];
            let inputs = [bytes(n).take(n).map(|x| (x as i8).max(-127)).collect(), vec![127i8; n], vec![-127; n]];
            for (weight, codes) in weights.iter().flat_map(|w| inputs.iter().map(move |x| (w, x.clone()))) {
                x.codes = codes;
                x.codes.chunks_mut(n / rows).for_each(|row| row[in_features..].fill(0));
                x.scales = bytes(rows).take(x.scales.len()).map(|s| 1.0 + f32::from(s)).collect();
                x.correct();
                let x = x.rows();
                let weight = Matrix::Panels(scheme, weight);
                let want = run(reference::KERNELS.linear, weight, x, shape);
                for &(name, linear) in &ways {
                    assert!(run(linear, weight, x, shape) == want, "{name} {scheme:?} {shape:?}");
                }
            }
        }
    }
}
