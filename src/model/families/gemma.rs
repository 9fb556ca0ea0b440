//! Gemma 1 to 3: gains stored less one, an embedding that is scaled, GeGLU. Gemma 2 has norms before and after, soft caps and
//! a window in every second layer; Gemma 3 norms of query and key heads instead of the caps, and a rotation of its own in
//! windows.

use super::*;
use std::sync::LazyLock;

/// `model_type` gemma.
pub static GEMMA: Family = Family { model_types: &["gemma"], architecture: gemma, ignored: HF_IGNORED };
/// `model_type` gemma2.
pub static GEMMA2: Family = Family { model_types: &["gemma2"], architecture: gemma2, ignored: HF_IGNORED };
/// `model_type` gemma3_text, also inside gemma3.
pub static GEMMA3: Family = Family { model_types: &["gemma3_text"], architecture: gemma3, ignored: HF_IGNORED };

/// What configs of Gemma 2 leave out.
static GEMMA2_DEFAULTS: LazyLock<Value> = LazyLock::new(|| {
    serde_json::json!({"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "query_pre_attn_scalar": 256,
        "hidden_activation": "gelu_pytorch_tanh", "sliding_window": 4096, "max_position_embeddings": 8192})
});

/// What the text configs inside of Gemma 3's leave out.
static GEMMA3_DEFAULTS: LazyLock<Value> = LazyLock::new(|| {
    serde_json::json!({"vocab_size": 262_208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "query_pre_attn_scalar": 256, "sliding_window": 4096, "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 131_072, "rope_theta": 1e6, "sliding_window_pattern": 6})
});

/// A norm whose gain is stored less one.
fn norm(name: &'static str, sizes: &ModelDims) -> Norm {
    Norm { kind: NormKind::RmsPlusOne, ..Norm::rms(name, sizes.eps) }
}

/// A model of these layers.
fn model(model_type: &str, sizes: &ModelDims, rotary: Rotary, layer: impl Fn(usize) -> Layer) -> Architecture {
    Architecture {
        embedding_scale: (sizes.hidden as f32).sqrt(),
        final_norm: norm("model.norm", sizes),
        ..with_rotary(model_type, sizes, rotary, layer)
    }
}

/// Norms before and after both operations.
fn sandwich(sizes: &ModelDims, attention: Attention, mlp: Dense) -> Layer {
    let norm = |name| norm(name, sizes);
    vec![
        Block {
            after: Some(norm("post_attention_layernorm")),
            ..Block::new(norm("input_layernorm"), Operation::Attention(attention))
        },
        Block {
            after: Some(norm("post_feedforward_layernorm")),
            ..Block::new(norm("pre_feedforward_layernorm"), Operation::Dense(mlp))
        },
    ]
}

/// Attention of Gemma 2 and 3.
fn attention(config: &Config, sizes: &ModelDims) -> Result<Attention> {
    let bias = config.flag("attention_bias", false)?;
    let scale = config.positive_f32("query_pre_attn_scalar", None)?.sqrt().recip();
    Ok(Attention { scale, qkv_bias: bias, out_bias: bias, ..plain_attention(sizes) })
}

fn gemma(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, true)?;
    // Its `gelu` has always been the other one.
    let activation = match config.text("hidden_act")? {
        None | Some("gelu") => Activation::GeluTanh,
        Some(_) => config.activation("hidden_act", "gelu")?,
    };
    let bias = config.flag("attention_bias", false)?;
    let attention = Attention { qkv_bias: bias, out_bias: bias, ..plain_attention(&sizes) };
    let mlp = Dense { activation, ..plain_dense(&sizes) };
    let rotary = Rotary::read(config, sizes.head_dim, sizes.context)?;
    Ok(model(model_type, &sizes, rotary, |_| {
        vec![
            Block::new(norm("input_layernorm", &sizes), Operation::Attention(attention)),
            Block::new(norm("post_attention_layernorm", &sizes), Operation::Dense(mlp)),
        ]
    }))
}

fn gemma2(config: &Config, model_type: &str) -> Result<Architecture> {
    let config = &config.with_defaults(&GEMMA2_DEFAULTS);
    let sizes = ModelDims::read(config, true)?;
    let windows = windows(config, sizes.layers, |l| l.is_multiple_of(2))?;
    let attention = Attention { softcap: config.cap("attn_logit_softcapping")?, ..attention(config, &sizes)? };
    let mlp = Dense { activation: config.activation("hidden_activation", "")?, ..plain_dense(&sizes) };
    let rotary = Rotary::read(config, sizes.head_dim, sizes.context)?;
    let logits_softcap = config.cap("final_logit_softcapping")?;
    let layer = |l: usize| sandwich(&sizes, Attention { window: windows[l], ..attention }, mlp);
    Ok(Architecture { logits_softcap, ..model(model_type, &sizes, rotary, layer) })
}

fn gemma3(config: &Config, model_type: &str) -> Result<Architecture> {
    let config = &config.with_defaults(&GEMMA3_DEFAULTS);
    let bidirectional = config.flag("use_bidirectional_attention", false)?;
    let sizes = ModelDims::read(config, true)?;
    let pattern = config.size("sliding_window_pattern", limits::LAYERS_MAX)?;
    let mut windows = windows(config, sizes.layers, |l| !(l + 1).is_multiple_of(pattern))?;
    if bidirectional {
        // transformers halves it: so many keys before a query and as many after it.
        windows.iter_mut().flatten().for_each(|window| *window = *window / 2 + 1);
    }
    let mlp = Dense { activation: config.activation("hidden_activation", "")?, ..plain_dense(&sizes) };
    let attention = Attention {
        head_norm: HeadNorm::BeforeRotary,
        head_norm_kind: NormKind::RmsPlusOne,
        bidirectional,
        ..attention(config, &sizes)?
    };
    let (rotary, local) = rotaries_by_type(config, &sizes, ("rope_local_base_freq", 10_000.0))?;
    // The model around it has no cap, whatever it says.
    let logits_softcap = if config.is_inside() { None } else { config.cap("final_logit_softcapping")? };
    let mut model = model(model_type, &sizes, rotary, |l| {
        let rotary = HeadRotary { index: usize::from(windows[l].is_some()), start: 0, interleaved: false };
        sandwich(&sizes, Attention { window: windows[l], rotary: Some(rotary), ..attention }, mlp)
    });
    model.rotaries.push(local);
    Ok(Architecture { logits_softcap, ..model })
}
