//! OLMo 2 and 3 (norms after the operations, one over all query or key heads) and OLMoE (experts, norms before).

use super::*;

/// `model_type` olmo2.
pub static OLMO2: Family = Family { model_types: &["olmo2"], architecture: olmo2, ignored: HF_IGNORED };
/// `model_type` olmo3.
pub static OLMO3: Family = Family { model_types: &["olmo3"], architecture: olmo3, ignored: HF_IGNORED };
/// `model_type` olmoe.
pub static OLMOE: Family = Family { model_types: &["olmoe"], architecture: olmoe, ignored: HF_IGNORED };

fn attention(config: &Config, sizes: &ModelDims) -> Result<Attention> {
    let bias = config.flag("attention_bias", false)?;
    Ok(Attention { head_norm: HeadNorm::Whole, qkv_bias: bias, out_bias: bias, ..plain_attention(sizes) })
}

fn olmo2(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let (attention, mlp) = (attention(config, &sizes)?, mlp(config, &sizes)?);
    lineage(config, model_type, &sizes, |_| post_norm(&sizes, attention, Operation::Dense(mlp)))
}

fn olmo3(config: &Config, model_type: &str) -> Result<Architecture> {
    let base = serde_json::json!({"rope_theta": 500_000.0});
    let config = &config.with_defaults(&base);
    let sizes = ModelDims::read(config, false)?;
    let (attention, mlp) = (attention(config, &sizes)?, mlp(config, &sizes)?);
    let windows = windows(config, sizes.layers, |l| !(l + 1).is_multiple_of(4))?;
    let (rotary, sliding) = rotaries_by_type(config, &sizes, ("rope_theta", 500_000.0))?;
    let mut model = with_rotary(model_type, &sizes, rotary, |l| {
        let rotary = HeadRotary { index: usize::from(windows[l].is_some()), start: 0, interleaved: false };
        let attention = Attention { window: windows[l], rotary: Some(rotary), ..attention };
        post_norm(&sizes, attention, Operation::Dense(mlp))
    });
    model.rotaries.push(sliding);
    Ok(model)
}

fn olmoe(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    if config.value("clip_qkv").is_some() {
        return Err(config.refused("`clip_qkv`"));
    }
    let attention = attention(config, &sizes)?;
    let (count, chosen) = expert_counts(config, &["num_experts"], "num_experts_per_tok")?;
    let experts = Experts::new(
        count,
        mlp(config, &sizes)?,
        Routing::softmax(chosen, config.flag("norm_topk_prob", false)?),
        &HF_EXPERTS,
    );
    lineage(config, model_type, &sizes, |_| pre_norm(&sizes, attention, Operation::Experts(experts)))
}
