//! GLM and GLM-4: gate and up in one tensor, pairs of neighbours rotate in a part of a head; GLM-4 norms before and after.
//! GLM-4.5 (glm4_moe): a router of DeepSeek's kind, halves rotate. GLM-4.7-Flash (glm4_moe_lite): DeepSeek's attention, too.

use super::*;

/// `model_type` glm.
pub static GLM: Family = Family { model_types: &["glm"], architecture: glm, ignored: HF_IGNORED };
/// `model_type` glm4.
pub static GLM4: Family = Family { model_types: &["glm4"], architecture: glm4, ignored: HF_IGNORED };
/// `model_type` glm4_moe.
pub static GLM4_MOE: Family = Family { model_types: &["glm4_moe"], architecture: glm4_moe, ignored: HF_IGNORED };
/// `model_type` glm4_moe_lite.
pub static GLM4_MOE_LITE: Family =
    Family { model_types: &["glm4_moe_lite"], architecture: glm4_moe_lite, ignored: HF_IGNORED };

/// The sizes, the rotation, attention and a network of GLM and GLM-4.
fn parts(config: &Config) -> Result<(ModelDims, Rotary, Attention, Dense)> {
    let sizes = ModelDims::read(config, false)?;
    let dims = config.rotary_dims(&["partial_rotary_factor"], sizes.head_dim, 0.5)?;
    let rotary = Rotary::read(config, dims, sizes.context)?;
    let attention = Attention {
        rotary: Some(HeadRotary { index: 0, start: 0, interleaved: true }),
        qkv_bias: config.flag("attention_bias", true)?,
        ..plain_attention(&sizes)
    };
    let mlp = Dense { names: &HF_FUSED_DENSE, ..mlp(config, &sizes)? };
    Ok((sizes, rotary, attention, mlp))
}

fn glm(config: &Config, model_type: &str) -> Result<Architecture> {
    let (sizes, rotary, attention, mlp) = parts(config)?;
    Ok(with_rotary(model_type, &sizes, rotary, |_| pre_norm(&sizes, attention, Operation::Dense(mlp))))
}

fn glm4(config: &Config, model_type: &str) -> Result<Architecture> {
    let (sizes, rotary, attention, mlp) = parts(config)?;
    let norm = |name| Some(Norm::rms(name, sizes.eps));
    Ok(with_rotary(model_type, &sizes, rotary, |_| {
        let mut blocks = pre_norm(&sizes, attention, Operation::Dense(mlp));
        blocks[0].after = norm("post_self_attn_layernorm");
        blocks[1].after = norm("post_mlp_layernorm");
        blocks
    }))
}

fn glm4_moe(config: &Config, model_type: &str) -> Result<Architecture> {
    let left_out = serde_json::json!({"n_shared_experts": 1});
    let config = &config.with_defaults(&left_out);
    let sizes = ModelDims::read(config, false)?;
    let dims = config.rotary_dims(&["partial_rotary_factor"], sizes.head_dim, 0.5)?;
    let rotary = Rotary::read(config, dims, sizes.context)?;
    let normed = config.flag("use_qk_norm", false)?;
    let attention = Attention {
        head_norm: if normed { HeadNorm::BeforeRotary } else { HeadNorm::None },
        qkv_bias: config.flag("attention_bias", false)?,
        ..plain_attention(&sizes)
    };
    let dense = mlp(config, &sizes)?;
    let experts = deepseek::experts(config, &sizes, deepseek::sigmoid_routing(config)?)?;
    let first = config.optional_count("first_k_dense_replace", limits::LAYERS_MAX)?.unwrap_or(1);
    Ok(with_rotary(model_type, &sizes, rotary, |l| {
        let feed_forward = if l < first { Operation::Dense(dense) } else { Operation::Experts(experts) };
        pre_norm(&sizes, attention, feed_forward)
    }))
}

/// Its first layer alone is without experts, whatever `first_k_dense_replace` says, unless `mlp_layer_types` says it.
fn glm4_moe_lite(config: &Config, model_type: &str) -> Result<Architecture> {
    let left_out = serde_json::json!({"n_shared_experts": 1, "q_lora_rank": 768, "kv_lora_rank": 512,
        "routed_scaling_factor": 1.8});
    let config = &config.with_defaults(&left_out);
    let parts = deepseek::latent(config)?;
    let sparse = sparse_by_type(config, parts.0.layers, |l| l > 0)?;
    let experts = deepseek::experts(config, &parts.0, deepseek::sigmoid_routing(config)?)?;
    deepseek::model(config, model_type, parts, experts, |l| sparse[l])
}
