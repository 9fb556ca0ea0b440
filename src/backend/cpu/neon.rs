//! The Arm NEON tier, supported by every 64-bit Arm processor: the portable source with fused multiply-add.
//!
//! Eight lanes are two registers. Tiles of two rows by four outputs use 16 of the 32 registers as accumulators.

use super::Tier;
use super::attention::{AttentionArgs, AttentionKernels, running};
use super::kernels::{Elements, Kernels, no_bf16};
use super::kv::{PageLayout, StoreBlock};
use super::linear::{LinearArgs, plain_form};
use super::portable;
use std::ops::Range;

/// The NEON tier.
pub static KERNELS: Kernels = Kernels {
    tier: Tier::Neon,
    form: plain_form,
    to_bf16: no_bf16,
    to_int8,
    linear,
    attention: ATTENTION,
    rms_norm,
    silu_mul,
    sigmoid_mul,
};

const ATTENTION: AttentionKernels =
    AttentionKernels { layout: |_| PageLayout::Rows, attend, attend_f32: attend, store_group, combine };

/// # Safety
/// See [`Kernels::linear`].
unsafe fn linear(args: &LinearArgs, range: Range<usize>, scratch: &mut Vec<f32>) {
    // SAFETY: same contract.
    unsafe { portable::linear_any::<true, 2, 4>(args, range, scratch) }
}

/// # Safety
/// See [`AttentionKernels::attend`].
unsafe fn attend(args: &AttentionArgs, scratch: &mut Vec<f32>) {
    // SAFETY: same contract.
    unsafe { portable::attention_any::<true>(args, scratch) }
}

/// # Safety
/// None; never called, since this tier uses [`PageLayout::Rows`].
unsafe fn store_group(_: &StoreBlock, _: bool, _: usize, _: &[f32], _: usize) {
    unreachable!("pages of rows are stored row by row");
}

/// # Safety
/// See [`AttentionKernels::combine`].
unsafe fn combine(args: &AttentionArgs, parts: &[f32], scratch: &mut Vec<f32>) {
    // SAFETY: same contract.
    unsafe { running::combine::<true>(args, parts, scratch) }
}

/// # Safety
/// No requirements; `unsafe` only to match the type in the function table.
unsafe fn rms_norm(x: &mut [f32], gain: Elements, eps: f32) {
    portable::rms_norm_any::<true>(x, gain, eps);
}

/// # Safety
/// As [`rms_norm`].
unsafe fn silu_mul(gate: &mut [f32], up: &[f32]) {
    portable::silu_mul_any::<true>(gate, up);
}

/// # Safety
/// As [`rms_norm`].
unsafe fn sigmoid_mul(x: &mut [f32], gate: &[f32]) {
    portable::sigmoid_mul_any::<true>(x, gate);
}

/// # Safety
/// As [`rms_norm`].
unsafe fn to_int8(x: &[f32], group: usize, codes: &mut [i8], scales: &mut [f32], corrections: &mut [i32]) {
    portable::to_int8_any(x, group, codes, scales, corrections);
}
