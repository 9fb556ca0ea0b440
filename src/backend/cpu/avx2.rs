//! AVX2 with FMA and F16C. Products have kernels of their own; the rest is the portable source compiled with these
//! instructions, in which a product and its sum round once.
//!
//! Quantized weights are multiplied by 8-bit dot products of 256 bits where the processor has them (VNNI), which most made
//! since 2021 do, also without AVX-512.

mod attention;
mod linear;
mod panels;
#[cfg(test)]
mod tests;

use super::Tier;
use super::kernels::{Elements, Kernels, no_bf16};
use super::linear::plain_form;
use super::portable;

pub(super) use attention::ATTENTION;

/// The AVX2 tier without 8-bit dot products.
static PLAIN: Kernels = TABLE;
/// With those of AVX-512.
static VNNI: Kernels = Kernels { linear: linear::linear_vnni, ..TABLE };
/// With those that need no AVX-512.
static AVX_VNNI: Kernels = Kernels { linear: linear::linear_avx_vnni, ..TABLE };

/// The AVX2 tier with the 8-bit dot products that this processor has; all give the same bits.
pub fn kernels() -> &'static Kernels {
    if is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vl") {
        &VNNI
    } else if is_x86_feature_detected!("avxvnni") {
        &AVX_VNNI
    } else {
        &PLAIN
    }
}

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
