//! The functions between the matrices of a feed-forward part, and the caps of scores and logits: loops that the compiler
//! vectorizes, over the polynomial exponential.

use super::{exp, fma};
use crate::backend::Activation;

/// `sigmoid(x)` in the form that every function below has it: one division.
#[inline(always)]
fn over_sigmoid<const FMA: bool>(numerator: f32, x: f32) -> f32 {
    numerator / (1.0 + exp::<FMA>(-x))
}

#[inline(always)]
fn silu<const FMA: bool>(x: f32) -> f32 {
    over_sigmoid::<FMA>(x, x)
}

/// `1 + tanh(u)` is `2 sigmoid(2u)`.
#[inline(always)]
fn gelu_tanh<const FMA: bool>(x: f32) -> f32 {
    /// `2 sqrt(2 / pi)`.
    const TWICE: f32 = 1.595_769;
    over_sigmoid::<FMA>(x, TWICE * fma::<FMA>(0.044_715 * x * x, x, x))
}

/// The error function by formula 7.1.26 of Abramowitz and Stegun, whose absolute error is below 1.5e-7.
#[inline(always)]
fn gelu<const FMA: bool>(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / fma::<FMA>(0.327_591_1, z, 1.0);
    let mut p = 1.061_405_4;
    p = fma::<FMA>(p, t, -1.453_152);
    p = fma::<FMA>(p, t, 1.421_413_7);
    p = fma::<FMA>(p, t, -0.284_496_74);
    p = fma::<FMA>(p, t, 0.254_829_6);
    let tail = 0.5 * p * t * exp::<FMA>(-z * z);
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

#[inline(always)]
fn relu2(x: f32) -> f32 {
    // Not `max`, which would make a number of a NaN.
    let x = if x < 0.0 { 0.0 } else { x };
    x * x
}

/// A bound that lets a NaN through.
#[inline(always)]
fn at_most(x: f32, limit: f32) -> f32 {
    if x > limit { limit } else { x }
}

#[inline(always)]
fn clamped<const FMA: bool>(x: f32, alpha: f32, limit: f32) -> f32 {
    let x = at_most(x, limit);
    over_sigmoid::<FMA>(x, alpha * x)
}

#[inline(always)]
fn each(x: &mut [f32], f: impl Fn(f32) -> f32) {
    x.iter_mut().for_each(|x| *x = f(*x));
}

#[inline(always)]
fn pairs(gate: &mut [f32], up: &[f32], f: impl Fn(f32, f32) -> f32) {
    gate.iter_mut().zip(up).for_each(|(g, u)| *g = f(*g, *u));
}

/// Implements [`super::Kernels::activate`].
#[inline(always)]
pub fn activate_any<const FMA: bool>(x: &mut [f32], activation: Activation) {
    match activation {
        Activation::Silu => each(x, silu::<FMA>),
        Activation::GeluTanh => each(x, gelu_tanh::<FMA>),
        Activation::Gelu => each(x, gelu::<FMA>),
        Activation::Relu2 => each(x, relu2),
        Activation::Clamped { alpha, limit } => each(x, |x| clamped::<FMA>(x, alpha, limit)),
    }
}

/// Implements [`super::Kernels::gate`].
#[inline(always)]
pub fn gate_any<const FMA: bool>(gate: &mut [f32], up: &[f32], activation: Activation) {
    match activation {
        Activation::Silu => pairs(gate, up, |g, u| silu::<FMA>(g) * u),
        Activation::GeluTanh => pairs(gate, up, |g, u| gelu_tanh::<FMA>(g) * u),
        Activation::Gelu => pairs(gate, up, |g, u| gelu::<FMA>(g) * u),
        Activation::Relu2 => pairs(gate, up, |g, u| relu2(g) * u),
        Activation::Clamped { alpha, limit } => {
            pairs(gate, up, |g, u| clamped::<FMA>(g, alpha, limit) * (1.0 - at_most(-at_most(u, limit), limit)))
        }
    }
}

/// Implements [`super::Kernels::softcap`]: `tanh(u)` is `1 - 2 / (1 + e^2u)`.
#[inline(always)]
pub fn softcap_any<const FMA: bool>(x: &mut [f32], cap: f32) {
    let twice = 2.0 / cap;
    each(x, |x| cap - 2.0 * cap / (1.0 + exp::<FMA>(twice * x)));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error function by its series.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn activations_are_those_of_their_formulas() {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        for i in -500..=500 {
            let x = f64::from(i as f32 / 100.0);
            let want = |activation| match activation {
                Activation::Silu => x * sigmoid(x),
                Activation::GeluTanh => {
                    x / 2.0 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
                }
                Activation::Gelu => x / 2.0 * (1.0 + erf(x / 2f64.sqrt())),
                Activation::Relu2 => x.max(0.0).powi(2),
                Activation::Clamped { alpha, limit } => {
                    let g = x.min(limit.into());
                    g * sigmoid(f64::from(alpha) * g)
                }
            };
            let clamped = Activation::Clamped { alpha: 1.702, limit: 2.5 };
            for activation in [Activation::Silu, Activation::GeluTanh, Activation::Gelu, Activation::Relu2, clamped] {
                let (mut one, mut gate) = ([x as f32], [x as f32]);
                activate_any::<true>(&mut one, activation);
                gate_any::<true>(&mut gate, &[-4.0], activation);
                let up = if activation == clamped { -1.5 } else { -4.0 };
                for (got, want) in [(one[0], want(activation)), (gate[0], want(activation) * up)] {
                    assert!(
                        (f64::from(got) - want).abs() < 1e-6 * (1.0 + want.abs()),
                        "{activation:?}({x}) = {got}, not {want}"
                    );
                }
            }
            let mut capped = [x as f32 * 20.0];
            softcap_any::<true>(&mut capped, 30.0);
            assert!(
                (f64::from(capped[0]) - 30.0 * (x * 20.0 / 30.0).tanh()).abs() < 1e-5,
                "softcap of {x}: {capped:?}"
            );
        }
        let mut nan = [f32::NAN; 5];
        activate_any::<true>(&mut nan[..1], Activation::Relu2);
        activate_any::<true>(&mut nan[1..2], Activation::Clamped { alpha: 1.0, limit: 1.0 });
        activate_any::<true>(&mut nan[2..3], Activation::Gelu);
        gate_any::<true>(&mut nan[3..4], &[1.0], Activation::GeluTanh);
        softcap_any::<true>(&mut nan[4..], 1.0);
        assert!(nan.iter().all(|x| x.is_nan()), "{nan:?}");
    }
}
