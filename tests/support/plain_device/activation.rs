//! The functions between the matrices of a feed-forward part, as their formulas are.

use astrai::backend::Activation;

/// An activation of one input.
pub(super) fn activated(x: f32, activation: Activation) -> f32 {
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    match activation {
        Activation::Silu => x * sigmoid(x),
        Activation::GeluTanh => {
            let root = (2.0 / std::f32::consts::PI).sqrt();
            x / 2.0 * (1.0 + (root * (x + 0.044715 * x.powi(3))).tanh())
        }
        Activation::Gelu => x / 2.0 * (1.0 + erf(x / std::f32::consts::SQRT_2)),
        Activation::Relu2 => x.max(0.0).powi(2),
        Activation::Clamped { alpha, limit } => x.min(limit) * sigmoid(alpha * x.min(limit)),
    }
}

/// What an activation is multiplied with.
pub(super) fn factor_of(up: f32, activation: Activation) -> f32 {
    match activation {
        Activation::Clamped { limit, .. } => up.clamp(-limit, limit) + 1.0,
        _ => up,
    }
}

/// The error function: 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x, by Simpson's rule.
fn erf(x: f32) -> f32 {
    const STEPS: usize = 200;
    let (x, f) = (f64::from(x.clamp(-5.0, 5.0)), |t: f64| (-t * t).exp());
    let step = x / STEPS as f64;
    let inner: f64 = (1..STEPS).map(|i| f(i as f64 * step) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
    (std::f64::consts::FRAC_2_SQRT_PI * step / 3.0 * (f(0.0) + inner + f(x))) as f32
}
