//! Mellum 2: Qwen3-MoE with a rotation for each type of layer, and a network without experts in some.

use super::*;

/// `model_type` mellum.
pub static MELLUM: Family = Family { model_types: &["mellum"], architecture, ignored: HF_IGNORED };

fn architecture(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let windows = windows(config, sizes.layers, |_| false)?;
    let sparse = sparse_by_type(config, sizes.layers, |_| true)?;
    let bias = config.flag("attention_bias", false)?;
    let attention =
        Attention { head_norm: HeadNorm::BeforeRotary, qkv_bias: bias, out_bias: bias, ..plain_attention(&sizes) };
    let (count, chosen) = expert_counts(config, &["num_local_experts", "num_experts"], "num_experts_per_tok")?;
    let dense = mlp(config, &sizes)?;
    let experts = Experts::new(
        count,
        Dense { intermediate: config.size("moe_intermediate_size", limits::WIDTH_MAX)?, ..dense },
        Routing::softmax(chosen, config.flag("norm_topk_prob", true)?),
        &HF_EXPERTS,
    );
    let (full, sliding) = match windows.iter().any(Option::is_some) {
        true => {
            let (full, sliding) = rotaries_by_type(config, &sizes, ("rope_theta", 10_000.0))?;
            (full, Some(sliding))
        }
        false => (Rotary::read_for(config, "full_attention", sizes.head_dim, sizes.context)?, None),
    };
    let mut model = with_rotary(model_type, &sizes, full, |l| {
        let rotary = HeadRotary { index: usize::from(windows[l].is_some()), start: 0, interleaved: false };
        let attention = Attention { window: windows[l], rotary: Some(rotary), ..attention };
        pre_norm(&sizes, attention, if sparse[l] { Operation::Experts(experts) } else { Operation::Dense(dense) })
    });
    model.rotaries.extend(sliding);
    Ok(model)
}
