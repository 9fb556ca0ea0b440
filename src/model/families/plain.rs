//! Families that differ from Llama by an option or two: where a layer does not rotate, which matrices have biases, where a
//! norm stands.

use super::*;
use crate::backend::PositionScale;

/// `model_type` smollm3.
pub static SMOLLM3: Family = Family { model_types: &["smollm3"], architecture: smollm3, ignored: HF_IGNORED };
/// `model_type` ministral3, also inside mistral3.
pub static MINISTRAL3: Family = Family { model_types: &["ministral3"], architecture: ministral3, ignored: HF_IGNORED };
/// `model_type` arcee.
pub static ARCEE: Family = Family { model_types: &["arcee"], architecture: arcee, ignored: HF_IGNORED };
/// `model_type` seed_oss.
pub static SEED_OSS: Family = Family { model_types: &["seed_oss"], architecture: seed_oss, ignored: HF_IGNORED };
/// `model_type` exaone4.
pub static EXAONE4: Family = Family { model_types: &["exaone4"], architecture: exaone4, ignored: HF_IGNORED };
/// `model_type` ernie4_5.
pub static ERNIE4_5: Family = Family { model_types: &["ernie4_5"], architecture: ernie4_5, ignored: HF_IGNORED };
/// `model_type` hunyuan_v1_dense.
pub static HUNYUAN: Family = Family { model_types: &["hunyuan_v1_dense"], architecture: hunyuan, ignored: HF_IGNORED };

static HUNYUAN_ATTENTION: AttentionNames =
    AttentionNames { q_norm: "self_attn.query_layernorm", k_norm: "self_attn.key_layernorm", ..HF_ATTENTION };

/// No rotation in every fourth layer; a window, if at all, in those that do not rotate.
fn smollm3(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, true)?;
    let interval = config.optional_size("no_rope_layer_interval", limits::LAYERS_MAX)?.unwrap_or(4);
    let rotates: Vec<bool> = match config.value("no_rope_layers") {
        None => (0..sizes.layers).map(|l| !(l + 1).is_multiple_of(interval)).collect(),
        Some(list) => {
            let wrong = || config.bad("no_rope_layers", format_args!("is not a list of {} times 0 or 1", sizes.layers));
            let list = list.as_array().filter(|list| list.len() == sizes.layers).ok_or_else(wrong)?;
            list.iter().map(|v| v.as_u64().map(|v| v != 0).ok_or_else(wrong)).collect::<Result<_>>()?
        }
    };
    let sliding = config.flag("use_sliding_window", false)?;
    let windows = match sliding || config.value("layer_types").is_some() {
        true => windows(config, sizes.layers, |l| sliding && !rotates[l])?,
        false => vec![None; sizes.layers],
    };
    let bias = config.flag("attention_bias", false)?;
    let attention = Attention { qkv_bias: bias, out_bias: bias, ..plain_attention(&sizes) };
    let mlp = mlp_with_bias(config, &sizes)?;
    // The base that its class has where the config has none.
    static DEFAULTS: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| serde_json::json!({"rope_theta": 2e6}));
    lineage(&config.with_defaults(&DEFAULTS), model_type, &sizes, |l| {
        let rotary = attention.rotary.filter(|_| rotates[l]);
        pre_norm(&sizes, Attention { rotary, window: windows[l], ..attention }, Operation::Dense(mlp))
    })
}

/// Queries grow with the logarithm of their position.
fn ministral3(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, config.is_inside())?;
    let windows = windows(config, sizes.layers, |_| true)?;
    let scaling = config.object("rope_parameters").or(config.object("rope_scaling"));
    let beta = scaling.map(|s| s.optional_number("llama_4_scaling_beta")).transpose()?.flatten();
    let position_scale = match (beta, scaling) {
        (Some(beta), Some(scaling)) if beta != 0.0 => {
            let period = scaling.positive_f32("original_max_position_embeddings", None)?;
            Some(PositionScale { beta: beta as f32, period })
        }
        _ => None,
    };
    let mlp = mlp_with_bias(config, &sizes)?;
    lineage(config, model_type, &sizes, |l| {
        let attention = Attention { window: windows[l], position_scale, ..plain_attention(&sizes) };
        pre_norm(&sizes, attention, Operation::Dense(mlp))
    })
}

/// A network without a gate.
fn arcee(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let bias = config.flag("attention_bias", false)?;
    let attention = Attention { qkv_bias: bias, out_bias: bias, ..plain_attention(&sizes) };
    let activation = config.activation("hidden_act", "relu2")?;
    let mlp = Dense { gated: false, activation, bias: config.flag("mlp_bias", false)?, ..plain_dense(&sizes) };
    lineage(config, model_type, &sizes, |_| pre_norm(&sizes, attention, Operation::Dense(mlp)))
}

/// The output projection has a key for its bias of its own.
fn seed_oss(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let attention = Attention {
        qkv_bias: config.flag("attention_bias", true)?,
        out_bias: config.flag("attention_out_bias", false)?,
        ..plain_attention(&sizes)
    };
    let mlp = mlp_with_bias(config, &sizes)?;
    lineage(config, model_type, &sizes, |_| pre_norm(&sizes, attention, Operation::Dense(mlp)))
}

/// Norms after the operations; only windows rotate, or all layers where there is no window.
fn exaone4(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    // A pattern in letters comes with `layer_types`.
    let pattern = match config.value("layer_types") {
        None => config.optional_count("sliding_window_pattern", limits::LAYERS_MAX)?.unwrap_or(0),
        Some(_) => 0,
    };
    let windows = windows(config, sizes.layers, |l| pattern == 0 || !(l + 1).is_multiple_of(pattern))?;
    let all_rotate = config.value("sliding_window").is_none();
    let mlp = mlp_with_bias(config, &sizes)?;
    let attention = Attention { head_norm: HeadNorm::BeforeRotary, ..plain_attention(&sizes) };
    lineage(config, model_type, &sizes, |l| {
        let rotary = attention.rotary.filter(|_| all_rotate || windows[l].is_some());
        post_norm(&sizes, Attention { rotary, window: windows[l], ..attention }, Operation::Dense(mlp))
    })
}

/// Neighbours rotate.
fn ernie4_5(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, true)?;
    let bias = config.flag("use_bias", false)?;
    let attention = Attention {
        rotary: Some(HeadRotary { index: 0, start: 0, interleaved: true }),
        qkv_bias: bias,
        out_bias: bias,
        ..plain_attention(&sizes)
    };
    let mlp = Dense { bias, ..mlp_with_bias(config, &sizes)? };
    lineage(config, model_type, &sizes, |_| pre_norm(&sizes, attention, Operation::Dense(mlp)))
}

/// Heads are normed after the rotation.
fn hunyuan(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let bias = config.flag("attention_bias", false)?;
    let attention = Attention {
        head_norm: HeadNorm::AfterRotary,
        qkv_bias: bias,
        out_bias: bias,
        names: &HUNYUAN_ATTENTION,
        ..plain_attention(&sizes)
    };
    let mlp = mlp_with_bias(config, &sizes)?;
    lineage(config, model_type, &sizes, |_| pre_norm(&sizes, attention, Operation::Dense(mlp)))
}
