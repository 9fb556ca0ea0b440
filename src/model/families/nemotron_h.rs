//! Nemotron-H: a layer is one thing, a state space, attention that knows no position, a network without gates or experts.

use super::hybrid::{Mamba2Keys, mamba2};
use super::*;

/// `model_type` nemotron_h.
pub static NEMOTRON_H: Family = Family { model_types: &["nemotron_h"], architecture: nemotron_h, ignored: HF_IGNORED };

static NAMES: Names = Names { embedding: "backbone.embeddings", lm_head: "lm_head", layer: "backbone.layers.{l}." };

static KEYS: Mamba2Keys = Mamba2Keys {
    heads: "mamba_num_heads",
    head_dim: "mamba_head_dim",
    state: "ssm_state_size",
    groups: "n_groups",
    kernel: "conv_kernel",
    conv_bias: "use_conv_bias",
    bias: "use_bias",
};

static MAMBA: RecurrenceNames = RecurrenceNames {
    q: "mixer.in_proj",
    k: "mixer.in_proj",
    v: "mixer.in_proj",
    gate: "mixer.in_proj",
    step: "mixer.in_proj",
    part: "",
    conv: "mixer.conv1d",
    step_bias: "mixer.dt_bias",
    decay: "mixer.A_log",
    skip: "mixer.D",
    norm: "mixer.norm",
    out: "mixer.out_proj",
};

static ATTENTION: AttentionNames =
    AttentionNames { q: "mixer.q_proj", k: "mixer.k_proj", v: "mixer.v_proj", out: "mixer.o_proj", ..HF_ATTENTION };

static DENSE: DenseNames = DenseNames { gate: "", up: "mixer.up_proj", down: "mixer.down_proj" };

static SHARED: DenseNames =
    DenseNames { gate: "", up: "mixer.shared_experts.up_proj", down: "mixer.shared_experts.down_proj" };

static EXPERTS: [ExpertNames; 1] = [ExpertNames {
    router: "mixer.gate",
    choice_bias: "mixer.gate.e_score_correction_bias",
    gate: "",
    up: "mixer.experts.{e}.up_proj",
    down: "mixer.experts.{e}.down_proj",
    stack: Stack::Rows,
}];

/// What a layer is.
#[derive(Clone, Copy)]
enum Kind {
    Mamba,
    Attention,
    Dense,
    Experts,
}

/// The layers by the letters of a pattern, or by names.
fn kinds(config: &Config) -> Result<Vec<Kind>> {
    let known = [("mamba", Kind::Mamba), ("attention", Kind::Attention), ("mlp", Kind::Dense), ("moe", Kind::Experts)];
    if let Some(pattern) = config.text("hybrid_override_pattern")? {
        let kind =
            |letter| match letter {
                'M' => Ok(Kind::Mamba),
                '*' => Ok(Kind::Attention),
                '-' => Ok(Kind::Dense),
                'E' => Ok(Kind::Experts),
                _ => Err(config
                    .bad("hybrid_override_pattern", format_args!("has a layer {letter:?}; there are M, *, - and E"))),
            };
        return pattern.chars().map(kind).collect();
    }
    let wrong = || config.bad("layers_block_type", "is not a list of mamba, attention, mlp and moe");
    let list = config.value("layers_block_type").and_then(Value::as_array).ok_or_else(wrong)?;
    let kind =
        |t: &Value| known.iter().find(|(name, _)| t.as_str() == Some(name)).map(|(_, kind)| *kind).ok_or_else(wrong);
    list.iter().map(kind).collect()
}

fn nemotron_h(config: &Config, model_type: &str) -> Result<Architecture> {
    let kinds = kinds(config)?;
    let left_out = serde_json::json!({"num_hidden_layers": kinds.len(), "intermediate_size": 1, "n_groups": 8,
        "mamba_num_heads": 128, "mamba_head_dim": 64, "ssm_state_size": 128, "conv_kernel": 4, "n_group": 1,
        "topk_group": 1, "moe_shared_expert_intermediate_size": 0});
    let config = &config.with_defaults(&left_out);
    let eps = config.eps("layer_norm_epsilon", 1e-5)?;
    let sizes = ModelDims { eps, ..ModelDims::read(config, false)? };
    if kinds.len() != sizes.layers {
        let problem = format_args!("is {}, but the pattern has {} layers", sizes.layers, kinds.len());
        return Err(config.bad("num_hidden_layers", problem));
    }
    let width =
        config.size(KEYS.heads, limits::HEADS_MAX)?.saturating_mul(config.size(KEYS.head_dim, limits::WIDTH_MAX)?);
    let mamba = mamba2(config, &KEYS, width, eps, &MAMBA)?;
    let bias = config.flag("attention_bias", false)?;
    let attention =
        Attention { rotary: None, qkv_bias: bias, out_bias: bias, names: &ATTENTION, ..plain_attention(&sizes) };
    let activation = config.activation("mlp_hidden_act", "relu2")?;
    let bias = config.flag("mlp_bias", false)?;
    let dense = Dense { activation, gated: false, bias, names: &DENSE, ..plain_dense(&sizes) };
    let experts = match kinds.iter().any(|kind| matches!(kind, Kind::Experts)) {
        true => Some(experts(config, dense)?),
        false => None,
    };
    let norm = Norm::rms("norm", eps);
    let model = with_rotary(model_type, &sizes, Rotary::none(sizes.context), |l| {
        let operation = match (kinds[l], experts) {
            (Kind::Mamba, _) => Operation::Recurrence(mamba),
            (Kind::Attention, _) => Operation::Attention(attention),
            (Kind::Experts, Some(experts)) => Operation::Experts(experts),
            _ => Operation::Dense(dense),
        };
        vec![Block::new(norm, operation)]
    });
    Ok(Architecture { final_norm: Norm::rms("backbone.norm_f", eps), names: &NAMES, ..model })
}

fn experts(config: &Config, dense: Dense) -> Result<Experts> {
    let (count, _) = expert_counts(config, &["n_routed_experts"], "num_experts_per_tok")?;
    let width = |key| config.size(key, limits::WIDTH_MAX);
    let each = Dense { intermediate: width("moe_intermediate_size")?, ..dense };
    let shared = config.optional_count("moe_shared_expert_intermediate_size", limits::WIDTH_MAX)?.unwrap_or(0);
    let shared_each = Dense { intermediate: shared, names: &SHARED, ..dense };
    let inside = config.optional_size("moe_latent_size", limits::WIDTH_MAX)?.map(|width| Inside {
        width,
        before: "mixer.fc1_latent_proj",
        after: "mixer.fc2_latent_proj",
    });
    Ok(Experts {
        choice_bias: true,
        shared: (shared > 0).then_some(Shared { count: 1, each: shared_each, gate: "" }),
        inside,
        ..Experts::new(count, each, deepseek::sigmoid_routing(config)?, &EXPERTS)
    })
}
