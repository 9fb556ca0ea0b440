//! Families with LayerNorm: Cohere 2 (one norm, attention and network side by side), GPT-NeoX (a norm for each of them),
//! StarCoder 2, StableLM, Nemotron, Phi 1 and 2.

use super::*;

/// `model_type` cohere2.
pub static COHERE2: Family = Family { model_types: &["cohere2"], architecture: cohere2, ignored: HF_IGNORED };
/// `model_type` starcoder2.
pub static STARCODER2: Family = Family { model_types: &["starcoder2"], architecture: starcoder2, ignored: HF_IGNORED };
/// `model_type` stablelm.
pub static STABLELM: Family = Family { model_types: &["stablelm"], architecture: stablelm, ignored: HF_IGNORED };
/// `model_type` phi.
pub static PHI: Family = Family { model_types: &["phi"], architecture: phi, ignored: HF_IGNORED };
/// `model_type` gpt_neox.
pub static GPT_NEOX: Family = Family { model_types: &["gpt_neox"], architecture: gpt_neox, ignored: HF_IGNORED };
/// `model_type` nemotron.
pub static NEMOTRON: Family = Family { model_types: &["nemotron"], architecture: nemotron, ignored: HF_IGNORED };

static STARCODER2_DENSE: DenseNames = DenseNames { gate: "", up: "mlp.c_fc", down: "mlp.c_proj" };

static STABLELM_ATTENTION: AttentionNames = AttentionNames {
    q_norm: "self_attn.q_layernorm.norms.{h}",
    k_norm: "self_attn.k_layernorm.norms.{h}",
    ..HF_ATTENTION
};

static PHI_ATTENTION: AttentionNames = AttentionNames {
    out: "self_attn.dense",
    q_norm: "self_attn.q_layernorm",
    k_norm: "self_attn.k_layernorm",
    ..HF_ATTENTION
};

static PHI_DENSE: DenseNames = DenseNames { gate: "", up: "mlp.fc1", down: "mlp.fc2" };

static GPT_NEOX_NAMES: Names =
    Names { embedding: "gpt_neox.embed_in", lm_head: "embed_out", layer: "gpt_neox.layers.{l}." };

static GPT_NEOX_ATTENTION: AttentionNames =
    AttentionNames { q: "attention.query_key_value", k: "", v: "", out: "attention.dense", ..HF_ATTENTION };

/// As files have it in which queries, keys and values are apart.
static GPT_NEOX_APART: AttentionNames = AttentionNames {
    q: "attention.query",
    k: "attention.key",
    v: "attention.value",
    out: "attention.dense",
    ..HF_ATTENTION
};

static GPT_NEOX_DENSE: DenseNames = DenseNames { gate: "", up: "mlp.dense_h_to_4h", down: "mlp.dense_4h_to_h" };

fn norm(name: &'static str, eps: f32, bias: bool) -> Norm {
    Norm { name, kind: NormKind::Centred, bias, eps }
}

/// Attention and network read one norm.
fn parallel(norm: Norm, attention: Attention, mlp: Dense) -> Layer {
    let beside = Block { before: Before::Same, ..Block::new(norm, Operation::Dense(mlp)) };
    vec![Block::new(norm, Operation::Attention(attention)), beside]
}

/// One after the other, each with a norm before it.
fn sequential(eps: f32, kind: NormKind, attention: Attention, mlp: Dense) -> Layer {
    let norm = |name| Norm { kind, ..norm(name, eps, true) };
    vec![
        Block::new(norm("input_layernorm"), Operation::Attention(attention)),
        Block::new(norm("post_attention_layernorm"), Operation::Dense(mlp)),
    ]
}

fn cohere2(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, true)?;
    let eps = config.eps("layer_norm_eps", 1e-5)?;
    let pattern = config.optional_size("sliding_window_pattern", limits::LAYERS_MAX)?.unwrap_or(4);
    let windows = windows(config, sizes.layers, |l| !(l + 1).is_multiple_of(pattern))?;
    let bias = config.flag("attention_bias", false)?;
    let attention = Attention { qkv_bias: bias, out_bias: bias, ..plain_attention(&sizes) };
    let mlp = mlp(config, &sizes)?;
    let model = lineage(config, model_type, &sizes, |l| {
        let rotary = windows[l].map(|_| HeadRotary { index: 0, start: 0, interleaved: true });
        parallel(norm("input_layernorm", eps, false), Attention { window: windows[l], rotary, ..attention }, mlp)
    })?;
    Ok(Architecture {
        final_norm: norm("model.norm", eps, false),
        logits_scale: config.factor("logit_scale", 0.0625)?,
        ..model
    })
}

fn starcoder2(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, true)?;
    let eps = config.eps("norm_epsilon", 1e-5)?;
    let windows = windows(config, sizes.layers, |_| true)?;
    let bias = config.flag("use_bias", true)?;
    let activation = config.activation("hidden_act", "gelu_pytorch_tanh")?;
    let mlp = Dense { gated: false, activation, bias, names: &STARCODER2_DENSE, ..plain_dense(&sizes) };
    let model = lineage(config, model_type, &sizes, |l| {
        let attention = Attention { qkv_bias: bias, out_bias: bias, window: windows[l], ..plain_attention(&sizes) };
        sequential(eps, NormKind::Centred, attention, mlp)
    })?;
    Ok(Architecture { final_norm: norm("model.norm", eps, true), ..model })
}

fn stablelm(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let norms = sizes.layers.saturating_mul(sizes.heads + sizes.kv_heads);
    if config.flag("qk_layernorm", false)? && norms > limits::MODEL_EXPERTS_MAX {
        let most = limits::MODEL_EXPERTS_MAX;
        return Err(config.bad("qk_layernorm", format_args!("makes {norms} norms of heads, the limit is {most}")));
    }
    let eps = config.eps("layer_norm_eps", 1e-5)?;
    let dims = config.rotary_dims(&["partial_rotary_factor"], sizes.head_dim, 0.25)?;
    let rotary = Rotary::read(config, dims, sizes.context)?;
    let attention = Attention {
        head_norm: if config.flag("qk_layernorm", false)? { HeadNorm::Each } else { HeadNorm::None },
        head_norm_kind: NormKind::Centred,
        eps,
        qkv_bias: config.flag("use_qkv_bias", false)?,
        names: &STABLELM_ATTENTION,
        ..plain_attention(&sizes)
    };
    let mlp = mlp(config, &sizes)?;
    let beside = config.flag("use_parallel_residual", false)?;
    let model = with_rotary(model_type, &sizes, rotary, |_| match beside {
        true => parallel(norm("input_layernorm", eps, true), attention, mlp),
        false => sequential(eps, NormKind::Centred, attention, mlp),
    });
    Ok(Architecture { final_norm: norm("model.norm", eps, true), ..model })
}

fn nemotron(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let (eps, kind) = (config.eps("norm_eps", 1e-5)?, NormKind::CentredPlusOne);
    let dims =
        config.rotary_dims(&["partial_rotary_factor", "rope_percent", "rope_percentage"], sizes.head_dim, 0.5)?;
    let rotary = Rotary::read(config, dims, sizes.context)?;
    let bias = config.flag("attention_bias", false)?;
    let attention = Attention { qkv_bias: bias, out_bias: bias, ..plain_attention(&sizes) };
    let activation = config.activation("hidden_act", "relu2")?;
    let mlp = Dense { gated: false, activation, bias: config.flag("mlp_bias", false)?, ..plain_dense(&sizes) };
    let model = with_rotary(model_type, &sizes, rotary, |_| sequential(eps, kind, attention, mlp));
    Ok(Architecture { final_norm: Norm { kind, ..norm("model.norm", eps, true) }, ..model })
}

/// Attention and network read one norm, all has biases, the logits too.
fn phi(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let eps = config.eps("layer_norm_eps", 1e-5)?;
    let dims = config.rotary_dims(&["partial_rotary_factor"], sizes.head_dim, 0.5)?;
    let rotary = Rotary::read(config, dims, sizes.context)?;
    let attention = Attention {
        head_norm: if config.flag("qk_layernorm", false)? { HeadNorm::BeforeRotary } else { HeadNorm::None },
        head_norm_kind: NormKind::Centred,
        head_norm_bias: true,
        eps,
        qkv_bias: true,
        out_bias: true,
        names: &PHI_ATTENTION,
        ..plain_attention(&sizes)
    };
    let activation = config.activation("hidden_act", "gelu_new")?;
    let mlp = Dense { gated: false, activation, bias: true, names: &PHI_DENSE, ..plain_dense(&sizes) };
    let layer = |_| parallel(norm("input_layernorm", eps, true), attention, mlp);
    let model = with_rotary(model_type, &sizes, rotary, layer);
    Ok(Architecture { final_norm: norm("model.final_layernorm", eps, true), head_bias: true, ..model })
}

/// Query, key and value of a head are consecutive rows of one tensor, unless `qkv_apart` says that there are three; attention and
/// network stand side by side, each with a norm.
fn gpt_neox(config: &Config, model_type: &str) -> Result<Architecture> {
    let base = serde_json::json!({"rope_theta": config.value("rotary_emb_base")});
    let config = &config.with_defaults(&base);
    let sizes = ModelDims::read(config, false)?;
    let eps = config.eps("layer_norm_eps", 1e-5)?;
    let dims = config.rotary_dims(&["partial_rotary_factor", "rotary_pct"], sizes.head_dim, 0.25)?;
    let rotary = Rotary::read(config, dims, sizes.context)?;
    let bias = config.flag("attention_bias", true)?;
    let (kv, names) = match config.flag("qkv_apart", false)? {
        true => (KvProjection::Direct, &GPT_NEOX_APART),
        false => (KvProjection::WithQuery, &GPT_NEOX_ATTENTION),
    };
    let attention =
        Attention { kv, kv_heads: sizes.heads, qkv_bias: bias, out_bias: bias, names, ..plain_attention(&sizes) };
    let activation = config.activation("hidden_act", "gelu")?;
    let mlp = Dense { gated: false, activation, bias: true, names: &GPT_NEOX_DENSE, ..plain_dense(&sizes) };
    let beside = config.flag("use_parallel_residual", true)?;
    let model = with_rotary(model_type, &sizes, rotary, |_| {
        let mut blocks = sequential(eps, NormKind::Centred, attention, mlp);
        if beside {
            blocks[1].before = Before::Beside(norm("post_attention_layernorm", eps, true));
        }
        blocks
    });
    let final_norm = norm("gpt_neox.final_layer_norm", eps, true);
    Ok(Architecture { final_norm, names: &GPT_NEOX_NAMES, ..model })
}
