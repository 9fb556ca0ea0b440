//! Falcon-H1: attention and a state space read the same norm and are added to the stream together, with factors everywhere.

use super::hybrid::{MAMBA_KEYS, MAMBA_NAMES, mamba2};
use super::*;

/// `model_type` falcon_h1.
pub static FALCON_H1: Family = Family { model_types: &["falcon_h1"], architecture: falcon_h1, ignored: HF_IGNORED };

static DENSE: DenseNames =
    DenseNames { gate: "feed_forward.gate_proj", up: "feed_forward.up_proj", down: "feed_forward.down_proj" };

/// A list of factors.
fn factors<const N: usize>(config: &Config, key: &str) -> Result<[f32; N]> {
    match config.value(key) {
        None => Ok([1.0; N]),
        Some(_) => {
            let all = config.numbers(key, N)?;
            Ok(std::array::from_fn(|i| all[i] as f32))
        }
    }
}

fn state_space(config: &Config, sizes: &ModelDims) -> Result<Recurrence> {
    let width = match config.optional_size("mamba_d_ssm", limits::WIDTH_MAX)? {
        Some(width) => width,
        None => config.size("mamba_expand", limits::WIDTH_MAX)?.saturating_mul(sizes.hidden),
    };
    let mamba = mamba2(config, &MAMBA_KEYS, width, sizes.eps, &MAMBA_NAMES)?;
    let gate_last = config.flag("mamba_norm_before_gate", true)?;
    let groups = if config.flag("mamba_rms_norm", false)? { mamba.norm.groups } else { 0 };
    if config.flag("projectors_bias", false)? != mamba.bias {
        return Err(config.refused("a bias on one of the projections of a state space (`projectors_bias`) alone"));
    }
    // Of what it reads, and of its gates, values, keys, queries and steps.
    let inner = config.factor("ssm_in_multiplier", 1.0)?;
    let scales = factors::<5>(config, "ssm_multipliers")?.map(|factor| factor * inner);
    if mamba.bias && inner != 1.0 {
        return Err(config.refused("`ssm_in_multiplier` together with a bias"));
    }
    Ok(Recurrence { scales, norm: GatedNorm { groups, gate_last, ..mamba.norm }, ..mamba })
}

fn falcon_h1(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let bias = config.flag("attention_bias", false)?;
    let inner = config.factor("attention_in_multiplier", 1.0)?;
    if bias && inner != 1.0 {
        return Err(config.refused("`attention_in_multiplier` together with a bias"));
    }
    let plain = plain_attention(&sizes);
    // What queries and keys are multiplied with counts for the scores alone.
    let scale = plain.scale * inner * inner * config.factor("key_multiplier", 1.0)?;
    let attention = Attention { qkv_bias: bias, out_bias: bias, scale, ..plain };
    let state_space = state_space(config, &sizes)?;
    let [gate_scale, down] = factors::<2>(config, "mlp_multipliers")?;
    let mlp = Dense { gate_scale, names: &DENSE, ..mlp_with_bias(config, &sizes)? };
    let norm = |name| Before::Norm(Norm::rms(name, sizes.eps));
    let (ssm_out, attention_out) =
        (config.factor("ssm_out_multiplier", 1.0)?, config.factor("attention_out_multiplier", 1.0)?);
    let block = |before, operation, factor| Block { before, operation, after: None, factor, scalar: "" };
    let model = lineage(config, model_type, &sizes, |_| {
        vec![
            block(norm("input_layernorm"), Operation::Recurrence(state_space), ssm_out),
            block(Before::Same, Operation::Attention(attention), attention_out * inner),
            block(norm("pre_ff_layernorm"), Operation::Dense(mlp), down),
        ]
    })?;
    Ok(Architecture {
        embedding_scale: config.factor("embedding_multiplier", 1.0)?,
        logits_scale: config.factor("lm_head_multiplier", 1.0)?,
        final_norm: Norm::rms("model.final_layernorm", sizes.eps),
        ..model
    })
}
