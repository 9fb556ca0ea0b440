//! Qwen2 and 2.5 (biases on q, k, v), Qwen3 (norms of query and key heads), Qwen3-MoE.

use super::*;
use crate::backend::Routing;

/// `model_type` qwen2.
pub static QWEN2: Family = Family { model_types: &["qwen2"], architecture: qwen2, ignored: HF_IGNORED };
/// `model_type` qwen3.
pub static QWEN3: Family = Family { model_types: &["qwen3"], architecture: qwen3, ignored: HF_IGNORED };
/// `model_type` qwen3_moe.
pub static QWEN3_MOE: Family = Family { model_types: &["qwen3_moe"], architecture: qwen3_moe, ignored: HF_IGNORED };

/// Qwen's window is off unless `use_sliding_window`, and begins at layer `max_window_layers`.
fn qwen_windows(config: &Config, layers: usize) -> Result<Vec<Option<u32>>> {
    if !config.flag("use_sliding_window", false)? {
        return Ok(vec![None; layers]);
    }
    let first = config.optional_count("max_window_layers", limits::LAYERS_MAX)?.unwrap_or(0);
    windows(config, layers, |l| l >= first)
}

fn qwen2(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let windows = qwen_windows(config, sizes.layers)?;
    lineage(config, model_type, &sizes, &HF_NAMES, |l| Layer {
        attention: Attention { qkv_bias: true, window: windows[l], ..plain_attention(&sizes) },
        ffn: dense(&sizes),
    })
}

fn qwen3_attention(config: &Config, sizes: &ModelDims) -> Result<Vec<Attention>> {
    let bias = config.flag("attention_bias", false)?;
    let attention = |window| Attention {
        head_norm: HeadNorm::BeforeRotary,
        qkv_bias: bias,
        out_bias: bias,
        window,
        ..plain_attention(sizes)
    };
    Ok(qwen_windows(config, sizes.layers)?.into_iter().map(attention).collect())
}

fn qwen3(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let attention = qwen3_attention(config, &sizes)?;
    lineage(config, model_type, &sizes, &HF_NAMES, |l| Layer { attention: attention[l], ffn: dense(&sizes) })
}

fn qwen3_moe(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let attention = qwen3_attention(config, &sizes)?;
    let (count, chosen) = expert_counts(config, &["num_experts", "num_local_experts"], "num_experts_per_tok")?;
    let intermediate = config.size("moe_intermediate_size", limits::WIDTH_MAX)?;
    let renormalise = config.flag("norm_topk_prob", false)?;
    let sparse = sparse_layers(config)?;
    let routing = Routing::softmax(chosen, renormalise);
    let experts = Ffn::Experts { count, intermediate, routing, shared: 0, shared_intermediate: 0 };
    lineage(config, model_type, &sizes, &HF_NAMES, |l| Layer {
        attention: attention[l],
        ffn: if sparse(l) { experts } else { dense(&sizes) },
    })
}
