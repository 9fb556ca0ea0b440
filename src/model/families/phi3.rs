//! Phi 3 and 4: query, key and value in one tensor, gate and up in another; LongRoPE over a part of a head.

use super::*;

/// `model_type` phi3.
pub static PHI3: Family = Family { model_types: &["phi3"], architecture, ignored: HF_IGNORED };

static ATTENTION: AttentionNames =
    AttentionNames { q: "self_attn.qkv_proj", k: "self_attn.qkv_proj", v: "self_attn.qkv_proj", ..HF_ATTENTION };

fn architecture(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let dims = config.rotary_dims(&["partial_rotary_factor"], sizes.head_dim, 1.0)?;
    let rotary = Rotary::read(config, dims, sizes.context)?;
    let windows = windows(config, sizes.layers, |_| true)?;
    let mlp = Dense { names: &HF_FUSED_DENSE, ..mlp(config, &sizes)? };
    Ok(with_rotary(model_type, &sizes, rotary, |l| {
        let attention = Attention { window: windows[l], names: &ATTENTION, ..plain_attention(&sizes) };
        pre_norm(&sizes, attention, Operation::Dense(mlp))
    }))
}
