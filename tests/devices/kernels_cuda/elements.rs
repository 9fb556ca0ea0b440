//! Activations, gates, scales and caps: against their formulas in f64.

use super::host::{Memory, launch, param, shape};
use super::products::{pitch, rows_of_bf16};
use super::rows::WIDTHS;
use super::{Random, begin, close};

#[test]
fn gates_and_conversions() {
    if !begin() {
        return;
    }
    WIDTHS.into_iter().for_each(gates_and_conversions_of);
}

/// The mirror of `Activation` in kernels/activation.cuh.
#[repr(C)]
struct ActivationArg {
    kind: i32,
    alpha: f32,
    limit: f32,
}

/// Activations with their formulas in f64, of one input and of two.
struct Curve {
    arg: ActivationArg,
    one: fn(f64) -> f64,
    factor: fn(f64) -> f64,
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The error function: its series where it converges soon, elsewhere by the continued fraction of its complement.
fn erf(x: f64) -> f64 {
    if x.abs() < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let fraction = (1..60).rev().fold(x.abs(), |below, n| x.abs() + f64::from(n) / 2.0 / below);
    x.signum() * (1.0 - (-x * x).exp() / fraction / std::f64::consts::PI.sqrt())
}

fn curves() -> [Curve; 5] {
    let arg = |kind| ActivationArg { kind, alpha: 1.702, limit: 0.75 };
    [
        Curve { arg: arg(0), one: |x| x * sigmoid(x), factor: |u| u },
        Curve {
            arg: arg(1),
            one: |x| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh()),
            factor: |u| u,
        },
        Curve { arg: arg(2), one: |x| 0.5 * x * (1.0 + erf(x / 2f64.sqrt())), factor: |u| u },
        Curve { arg: arg(3), one: |x| x.max(0.0).powi(2), factor: |u| u },
        Curve {
            arg: arg(4),
            one: |x| x.min(0.75) * sigmoid(1.702 * x.min(0.75)),
            factor: |u| u.clamp(-0.75, 0.75) + 1.0,
        },
    ]
}

fn gates_and_conversions_of(width: usize) {
    let mut random = Random(2);
    let rows = 3;
    let n = rows * width;
    let (x, y): (Vec<f32>, Vec<f32>) = (random.vec(n).iter().map(|v| v * 20.0).collect(), random.vec(n));
    let (count, other, none, grid) = (n as i64, Memory::of(&y), 0u64, shape([1, 1, 1], 256, 0));
    let (gate, out) = (Memory::of(&x), Memory::new(rows * pitch(width) * 2));
    let sizes = [rows as i32, width as i32, pitch(width) as i32];
    let [r, w, p] = [0, 1, 2].map(|i| param(&sizes[i]));
    for Curve { arg, one, factor } in curves() {
        for gated in [true, false] {
            let what = format!("activation {}, gated {gated}", arg.kind);
            let with = if gated { other.param() } else { param(&none) };
            let of_pair = |(&x, &y): (&f32, &f32)| one(x.into()) * if gated { factor(y.into()) } else { 1.0 };
            let expected: Vec<f64> = x.iter().zip(&y).map(of_pair).collect();
            let memory = Memory::of(&x);
            launch("gate_elements", grid, &[memory.param(), with, param(&count), param(&arg)]);
            let got = memory.read::<f32>();
            for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                let bound = 2e-6 * (1.0 + expected.abs());
                assert!((f64::from(*got) - expected).abs() <= bound, "{what}, {i}: {got} for {expected}");
            }
            launch("gate_rows", grid, &[gate.param(), with, out.param(), r, w, p, param(&arg)]);
            // Rounded from the same numbers.
            assert_eq!(out.read::<u16>(), rows_of_bf16(&got, width), "{what}");
        }
    }
    let run = |kernel: &str, numbers: &[f32]| {
        let memory = Memory::of(&x);
        let mut params = vec![memory.param()];
        if kernel == "add_scaled" {
            params.push(other.param());
        }
        params.extend(numbers.iter().map(param));
        params.push(param(&count));
        launch(kernel, grid, &params);
        memory.read::<f32>()
    };
    let each =
        |f: fn(f64, f64) -> f64| -> Vec<f64> { x.iter().zip(&y).map(|(&x, &y)| f(x.into(), y.into())).collect() };
    close("add_scaled", &run("add_scaled", &[0.3]), &each(|x, y| x + f64::from(0.3f32) * y), 1e-5);
    close("fill_elements", &run("fill_elements", &[0.25]), &each(|_, _| 0.25), 0.0);
    close("scale_elements", &run("scale_elements", &[-0.5]), &each(|x, _| x * -0.5), 0.0);
    close("cap_elements", &run("cap_elements", &[7.0]), &each(|x, _| 7.0 * (x / 7.0).tanh()), 2e-6);
    launch("round_rows", shape([5, 1, 1], 256, 0), &[gate.param(), out.param(), r, w, p]);
    assert_eq!(out.read::<u16>(), rows_of_bf16(&x, width));
}

#[test]
fn activations_and_caps_keep_a_nan() {
    if !begin() {
        return;
    }
    let (count, cap, grid) = (3i64, 2f32, shape([1, 1, 1], 256, 0));
    for Curve { arg, .. } in curves() {
        // Of the gate, and of what it is multiplied with.
        for (x, y) in [([0.5, f32::NAN, 0.25], [0.5, 1.0, 2.0]), ([0.5, 1.0, 0.25], [0.5, f32::NAN, 2.0])] {
            let (gate, up) = (Memory::of(&x), Memory::of(&y));
            launch("gate_elements", grid, &[gate.param(), up.param(), param(&count), param(&arg)]);
            let got: Vec<bool> = gate.read::<f32>().iter().map(|v| v.is_nan()).collect();
            assert_eq!(got, [false, true, false], "activation {}", arg.kind);
        }
    }
    let x = Memory::of(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
    launch("cap_elements", grid, &[x.param(), param(&cap), param(&count)]);
    let got = x.read::<f32>();
    assert!(got[0].is_nan() && got[1..] == [2.0, -2.0], "{got:?}");
}

#[test]
fn gates_of_heads_and_of_elements() {
    if !begin() {
        return;
    }
    for (rows, heads, dim) in [(1, 1, 1), (2, 3, 7), (3, 4, 64), (2, 5, 300)] {
        for (gate_dim, kind) in [1, dim].into_iter().flat_map(|dim| [(dim, 0), (dim, 1), (dim, 2)]) {
            let mut random = Random(dim as u64);
            let (head_stride, row_stride) = (gate_dim + 2, heads * (gate_dim + 2) + 5);
            let (x, gates) =
                (random.vec(rows * heads * dim), random.vec((rows - 1) * row_stride + heads * head_stride));
            let (memory, gate) = (Memory::of(&x), Memory::of(&gates));
            let (strides, sizes) =
                ([row_stride as i64, head_stride as i64], [rows, heads, dim, gate_dim].map(|n| n as i32));
            let params = [memory.param(), gate.param(), param(&strides[0]), param(&strides[1])];
            let params: Vec<_> = params.into_iter().chain(sizes.iter().chain([&kind]).map(param)).collect();
            launch("gate_mul", shape([2, 1, 1], 256, 0), &params);
            let at = |i: usize| {
                let (row, head, element) = (i / dim / heads, i / dim % heads, if gate_dim == 1 { 0 } else { i % dim });
                gates[row * row_stride + head * head_stride + element]
            };
            let gating = |g: f64| [sigmoid(g), g * sigmoid(g), g][kind as usize];
            let expected: Vec<f64> =
                x.iter().enumerate().map(|(i, &x)| f64::from(x) * gating(f64::from(at(i)))).collect();
            close(&format!("{rows} {heads} {dim} {gate_dim} {kind}"), &memory.read(), &expected, 1e-6);
        }
    }
}

#[test]
fn rows_are_scaled_by_their_positions() {
    if !begin() {
        return;
    }
    for width in WIDTHS {
        let positions = [0u32, 8191, 8192, 131_071];
        let x = Random(4).vec(4 * width);
        let (memory, at) = (Memory::of(&x), Memory::of(&positions));
        let (beta, period, rows, columns) = (0.1f32, 8192f32, 4i32, width as i32);
        let params = [memory.param(), at.param(), param(&beta), param(&period), param(&rows), param(&columns)];
        launch("scale_by_position", shape([3, 1, 1], 256, 0), &params);
        let factor = |row: usize| 1.0 + f64::from(0.1f32) * (1.0 + (f64::from(positions[row]) / 8192.0).floor()).ln();
        let expected: Vec<f64> = x.iter().enumerate().map(|(i, &x)| f64::from(x) * factor(i / width)).collect();
        close("scale_by_position", &memory.read(), &expected, 1e-6);
    }
}
