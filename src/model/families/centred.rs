//! Families with LayerNorm: Cohere 2 (one norm, attention and network side by side), StarCoder 2, StableLM, Nemotron, Phi 1
//! and 2.

use super::*;

/// `model_type` cohere2.
pub static COHERE2: Family = Family { model_types: &["cohere2"], architecture: cohere2, ignored: HF_IGNORED };
/// `model_type` starcoder2.
pub static STARCODER2: Family = Family { model_types: &["starcoder2"], architecture: starcoder2, ignored: HF_IGNORED };
/// `model_type` stablelm.
pub static STABLELM: Family = Family { model_types: &["stablelm"], architecture: stablelm, ignored: HF_IGNORED };
/// `model_type` nemotron.
pub static NEMOTRON: Family = Family { model_types: &["nemotron"], architecture: nemotron, ignored: HF_IGNORED };

static STARCODER2_DENSE: DenseNames = DenseNames { gate: "", up: "mlp.c_fc", down: "mlp.c_proj" };

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
    let mlp = Dense { activation: config.activation("hidden_act", "silu")?, ..plain_dense(&sizes) };
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
    if config.flag("qk_layernorm", false)? {
        return Err(config.refused("a norm for each head of its own (`qk_layernorm`)"));
    }
    let eps = config.eps("layer_norm_eps", 1e-5)?;
    let dims = config.rotary_dims(&["partial_rotary_factor"], sizes.head_dim, 0.25)?;
    let rotary = Rotary::read(config, dims, sizes.context)?;
    let attention = Attention { qkv_bias: config.flag("use_qkv_bias", false)?, ..plain_attention(&sizes) };
    let mlp = Dense { activation: config.activation("hidden_act", "silu")?, ..plain_dense(&sizes) };
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
