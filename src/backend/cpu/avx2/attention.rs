//! Attention of the AVX2 tier.

use crate::backend::cpu::attention::{AttentionArgs, AttentionKernels, running};
use crate::backend::cpu::kv::Layout;
use crate::backend::cpu::portable;

/// The tier's functions.
pub const ATTENTION: AttentionKernels = AttentionKernels { layout: |_| Layout::Rows, attend, combine };

/// # Safety
/// See [`AttentionKernels::attend`].
#[target_feature(enable = "avx2,fma")]
pub unsafe fn attend(args: &AttentionArgs, scratch: &mut Vec<f32>) {
    // SAFETY: same contract.
    unsafe { portable::attention_any::<true>(args, scratch) }
}

/// # Safety
/// See [`AttentionKernels::combine`].
#[target_feature(enable = "avx2,fma")]
pub unsafe fn combine(args: &AttentionArgs, parts: &[f32], scratch: &mut Vec<f32>) {
    // SAFETY: same contract.
    unsafe { running::combine::<true>(args, parts, scratch) }
}
