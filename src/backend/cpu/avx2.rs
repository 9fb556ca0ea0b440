//! AVX2 with FMA and F16C. Products have kernels of their own; the rest is the portable source compiled with these
//! instructions, in which a product and its sum round once.

mod attention;
mod linear;

use super::Tier;
use super::kernels::{Elements, Kernels, no_bf16};
use super::linear::plain_form;
use super::portable;

pub(super) use attention::ATTENTION;

/// The AVX2 tier.
pub static KERNELS: Kernels = TABLE;

/// The same, for tiers that take functions from it.
pub(super) const TABLE: Kernels = Kernels {
    tier: Tier::Avx2,
    form: plain_form,
    to_bf16: no_bf16,
    to_int8,
    linear: linear::linear,
    attention: ATTENTION,
    rms_norm,
    silu_mul,
    sigmoid_mul,
};

/// Whether this processor has the tier's instructions.
pub fn present() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// # Safety
/// The processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn rms_norm(x: &mut [f32], gain: Elements, eps: f32) {
    portable::rms_norm_any::<true>(x, gain, eps);
}

/// # Safety
/// As [`rms_norm`].
#[target_feature(enable = "avx2,fma")]
unsafe fn silu_mul(gate: &mut [f32], up: &[f32]) {
    portable::silu_mul_any::<true>(gate, up);
}

/// # Safety
/// As [`rms_norm`].
#[target_feature(enable = "avx2,fma")]
unsafe fn sigmoid_mul(x: &mut [f32], gate: &[f32]) {
    portable::sigmoid_mul_any::<true>(x, gate);
}

/// # Safety
/// As [`rms_norm`].
#[target_feature(enable = "avx2,fma")]
unsafe fn to_int8(x: &[f32], group: usize, codes: &mut [i8], scales: &mut [f32], corrections: &mut [i32]) {
    portable::to_int8_any(x, group, codes, scales, corrections);
}
