//! The AVX2 tier, with FMA and F16C. Matrix products and attention have their own kernels; the rest is the portable
//! source compiled with these instructions and fused multiply-add.
//!
//! Quantized weights are multiplied with 256-bit VNNI dot products where the processor has them, as most made since
//! 2021 do, even without AVX-512.

mod attention;
mod linear;
#[cfg(test)]
mod tests;

use super::Tier;
use super::head_products::HeadArgs;
use super::kernels::{Elements, Kernels, no_bf16, sampling_kernels, with_features};
use super::linear::{Int8RowMut, plain_form};
use super::portable;
use super::recurrent::{ConvArgs, RecurrenceArgs};
use crate::backend::Activation;

pub(super) use attention::ATTENTION;

/// The tier with AVX2 instructions alone.
static PLAIN: Kernels = TABLE;
/// With the 256-bit VNNI instructions of AVX-512.
static VNNI: Kernels = Kernels { linear: linear::linear_vnni, ..TABLE };
/// With the VNNI instructions of AVX-VNNI, which do not need AVX-512.
static AVX_VNNI: Kernels = Kernels { linear: linear::linear_avx_vnni, ..TABLE };

/// The table with the 8-bit dot products that this processor supports; all tables give the same bits.
pub fn kernels() -> &'static Kernels {
    if is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vl") {
        &VNNI
    } else if is_x86_feature_detected!("avxvnni") {
        &AVX_VNNI
    } else {
        &PLAIN
    }
}

/// The table without VNNI, from which other tiers take functions.
pub(super) const TABLE: Kernels = Kernels {
    tier: Tier::Avx2,
    form: plain_form,
    to_bf16: no_bf16,
    to_int8,
    linear: linear::linear,
    attention: ATTENTION,
    sampling: sampling_kernels!(#[target_feature(enable = "avx2")]),
    rms_norm,
    centre,
    head_product,
    gate,
    activate,
    softcap,
    conv,
    recurrence,
    sigmoid_mul,
};

/// Whether this processor supports the tier's instructions.
pub fn present() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

with_features! { "avx2,fma";
    fn rms_norm(x: &mut [f32], gain: Option<Elements>, eps: f32) { portable::rms_norm_any::<true>(x, gain, eps) }
    fn centre(x: &mut [f32]) { portable::centre_any(x) }
    fn head_product(args: &HeadArgs, scratch: &mut Vec<f32>) { portable::head_product_any::<true>(args, scratch) }
    fn gate(gate: &mut [f32], up: &[f32], activation: Activation) { portable::gate_any::<true>(gate, up, activation) }
    fn activate(x: &mut [f32], activation: Activation) { portable::activate_any::<true>(x, activation) }
    fn softcap(x: &mut [f32], cap: f32) { portable::softcap_any::<true>(x, cap) }
    fn sigmoid_mul(x: &mut [f32], gate: &[f32]) { portable::sigmoid_mul_any::<true>(x, gate) }
    fn conv(args: &ConvArgs, scratch: &mut Vec<f32>) { portable::conv_any::<true>(args, scratch) }
    fn recurrence(args: &RecurrenceArgs, scratch: &mut Vec<f32>) { portable::recurrence_any::<true, 2>(args, scratch) }
    fn to_int8(x: &[f32], row: Int8RowMut) { portable::to_int8_any(x, row) }
}
