//! Qwen3-Next, Qwen3.5 and Qwen3.5-MoE: of some layers one attends, with a gate on its result, the others follow a gated delta
//! rule.

use super::hybrid::{checked, layer_kinds};
use super::*;

/// `model_type` qwen3_next.
pub static QWEN3_NEXT: Family = Family { model_types: &["qwen3_next"], architecture: next, ignored: HF_IGNORED };
/// `model_type` qwen3_5, qwen3_5_text.
pub static QWEN3_5: Family =
    Family { model_types: &["qwen3_5_text", "qwen3_5"], architecture: dense, ignored: HF_IGNORED };
/// `model_type` qwen3_5_moe, qwen3_5_moe_text.
pub static QWEN3_5_MOE: Family =
    Family { model_types: &["qwen3_5_moe_text", "qwen3_5_moe"], architecture: mixture, ignored: HF_IGNORED };

static LINEAR: RecurrenceNames = RecurrenceNames {
    q: "linear_attn.in_proj_qkv",
    k: "linear_attn.in_proj_qkv",
    v: "linear_attn.in_proj_qkv",
    gate: "linear_attn.in_proj_z",
    step: "linear_attn.in_proj_a",
    part: "linear_attn.in_proj_b",
    conv: "linear_attn.conv1d",
    step_bias: "linear_attn.dt_bias",
    decay: "linear_attn.A_log",
    skip: "",
    norm: "linear_attn.norm",
    out: "linear_attn.out_proj",
};

static LINEAR_BY_HEAD: RecurrenceNames =
    RecurrenceNames { q: "linear_attn.in_proj_qkvz", step: "linear_attn.in_proj_ba", ..LINEAR };

/// As GGUF files have Qwen3-Next.
static LINEAR_STEPS_BY_HEAD: RecurrenceNames = RecurrenceNames { step: "linear_attn.in_proj_ba", ..LINEAR };

/// A layer that attends, and one that does not.
struct Mixers {
    attention: Attention,
    linear: Recurrence,
    rotary: Rotary,
    attends: Vec<bool>,
}

fn mixers(config: &Config, sizes: &ModelDims, inputs: RecurrenceInputs) -> Result<Mixers> {
    let dims = config.rotary_dims(&["partial_rotary_factor"], sizes.head_dim, 0.25)?;
    let bias = config.flag("attention_bias", false)?;
    let attention = Attention {
        head_norm: HeadNorm::BeforeRotary,
        head_norm_kind: NormKind::RmsPlusOne,
        gate: if config.flag("attn_output_gate", true)? { Gate::InQuery } else { Gate::None },
        qkv_bias: bias,
        out_bias: bias,
        ..plain_attention(sizes)
    };
    let k_heads = config.optional_size("linear_num_key_heads", limits::HEADS_MAX)?.unwrap_or(16);
    let v_heads = config.optional_size("linear_num_value_heads", limits::HEADS_MAX)?.unwrap_or(32);
    config.divisible("linear_num_value_heads", v_heads, "linear_num_key_heads", k_heads)?;
    let dim = |key| Ok::<_, Error>(config.optional_size(key, limits::HEAD_DIM_MAX)?.unwrap_or(128));
    let linear = Recurrence {
        rule: RecurrenceRule::Delta,
        k_heads,
        tiled: config.flag("linear_tiled", false)?,
        k_dim: dim("linear_key_head_dim")?,
        v_heads,
        v_dim: dim("linear_value_head_dim")?,
        kernel: config.optional_size("linear_conv_kernel_dim", limits::CONV_KERNEL_MAX)?.unwrap_or(4),
        conv_bias: false,
        bias: false,
        inputs,
        scales: [1.0; 5],
        steps: [0.0, f32::INFINITY],
        whole_decay: false,
        norm: GatedNorm { groups: v_heads, shared: true, gate_last: true, eps: sizes.eps },
        names: match inputs {
            RecurrenceInputs::ByKeyHead => &LINEAR_BY_HEAD,
            RecurrenceInputs::StepsByKeyHead => &LINEAR_STEPS_BY_HEAD,
            _ => &LINEAR,
        },
    };
    let every = config.optional_size("full_attention_interval", limits::LAYERS_MAX)?.unwrap_or(4);
    let kinds = layer_kinds(config, sizes.layers, &[("linear_attention", false), ("full_attention", true)])?;
    Ok(Mixers {
        attention,
        linear: checked(config, linear)?,
        rotary: Rotary::read(config, dims, sizes.context)?,
        attends: kinds.unwrap_or_else(|| (0..sizes.layers).map(|l| (l + 1).is_multiple_of(every)).collect()),
    })
}

fn model(
    model_type: &str,
    sizes: &ModelDims,
    mixers: Mixers,
    feed_forward: impl Fn(usize) -> Operation,
) -> Architecture {
    let norm = |name| Norm { kind: NormKind::RmsPlusOne, ..Norm::rms(name, sizes.eps) };
    let Mixers { attention, linear, rotary, attends } = mixers;
    let model = with_rotary(model_type, sizes, rotary, |l| {
        let mixer = if attends[l] { Operation::Attention(attention) } else { Operation::Recurrence(linear) };
        vec![Block::new(norm("input_layernorm"), mixer), Block::new(norm("post_attention_layernorm"), feed_forward(l))]
    });
    Architecture { final_norm: norm("model.norm"), ..model }
}

fn dense(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::with_head_dim(config, false, 256)?;
    let mlp = mlp(config, &sizes)?;
    let mixers = mixers(config, &sizes, RecurrenceInputs::Apart)?;
    Ok(model(model_type, &sizes, mixers, |_| Operation::Dense(mlp)))
}

/// Qwen3.5-MoE, whose layers all hold experts.
fn mixture(config: &Config, model_type: &str) -> Result<Architecture> {
    let width = config.size("moe_intermediate_size", limits::WIDTH_MAX)?;
    let left_out = serde_json::json!({"intermediate_size": width});
    let config = &config.with_defaults(&left_out);
    let sizes = ModelDims::with_head_dim(config, false, 256)?;
    let experts = qwen::experts_and_shared(config, &sizes, true)?;
    let mixers = mixers(config, &sizes, RecurrenceInputs::Apart)?;
    Ok(model(model_type, &sizes, mixers, |_| Operation::Experts(experts)))
}

fn next(config: &Config, model_type: &str) -> Result<Architecture> {
    let width = config.size("moe_intermediate_size", limits::WIDTH_MAX)?;
    let left_out = serde_json::json!({"intermediate_size": width});
    let config = &config.with_defaults(&left_out);
    let sizes = ModelDims::with_head_dim(config, false, 256)?;
    let mlp = mlp(config, &sizes)?;
    let experts = qwen::experts_and_shared(config, &sizes, config.flag("norm_topk_prob", true)?)?;
    // GGUF files have queries, keys, values and gates apart.
    let inputs = match config.flag("linear_apart", false)? {
        true => RecurrenceInputs::StepsByKeyHead,
        false => RecurrenceInputs::ByKeyHead,
    };
    let mixers = mixers(config, &sizes, inputs)?;
    let sparse = sparse_layers(config)?;
    Ok(model(
        model_type,
        &sizes,
        mixers,
        |l| if sparse(l) { Operation::Experts(experts) } else { Operation::Dense(mlp) },
    ))
}
