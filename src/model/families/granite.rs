//! Granite 3 and Granite-MoE: Llama with factors on the embedding, the scores, what each operation adds, and the logits.
//! Granite SWA: windows, sinks, and a rotary base for each layer. Granite 4 (granitemoehybrid): most layers are a state space, and
//! a network for all tokens is beside the experts or in their place.

use super::hybrid::{MAMBA_KEYS, MAMBA_NAMES, layer_kinds, mamba2};
use super::*;

/// `model_type` granite.
pub static GRANITE: Family = Family { model_types: &["granite"], architecture: granite, ignored: HF_IGNORED };
/// `model_type` granitemoe.
pub static GRANITE_MOE: Family =
    Family { model_types: &["granitemoe"], architecture: granite_moe, ignored: HF_IGNORED };

/// `model_type` granite_swa.
pub static GRANITE_SWA: Family =
    Family { model_types: &["granite_swa"], architecture: granite_swa, ignored: HF_IGNORED };

/// `model_type` granitemoehybrid.
pub static GRANITE_MOE_HYBRID: Family =
    Family { model_types: &["granitemoehybrid"], architecture: granite_hybrid, ignored: HF_IGNORED };

static SHARED: DenseNames =
    DenseNames { gate: "shared_mlp.input_linear", up: "shared_mlp.input_linear", down: "shared_mlp.output_linear" };

static SHARED_APART: DenseNames =
    DenseNames { gate: "shared_mlp.gate_proj", up: "shared_mlp.up_proj", down: "shared_mlp.output_linear" };

static EXPERTS: [ExpertNames; 2] = [
    ExpertNames {
        router: "block_sparse_moe.router.layer",
        choice_bias: "",
        gate: "block_sparse_moe.input_linear.weight",
        up: "block_sparse_moe.input_linear.weight",
        down: "block_sparse_moe.output_linear.weight",
        stack: Stack::Rows,
    },
    // As GGUF files have them.
    ExpertNames {
        router: "block_sparse_moe.router.layer",
        choice_bias: "",
        gate: "block_sparse_moe.experts.{e}.gate_proj",
        up: "block_sparse_moe.experts.{e}.up_proj",
        down: "block_sparse_moe.experts.{e}.down_proj",
        stack: Stack::Rows,
    },
];

fn granite(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let mlp = mlp_with_bias(config, &sizes)?;
    rotating(config, model_type, &sizes, Operation::Dense(mlp))
}

/// The base of a layer may be 0: then it does not rotate.
fn granite_swa(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, true)?;
    let windows = windows(config, sizes.layers, |l| !l.is_multiple_of(4))?;
    let mlp = mlp_with_bias(config, &sizes)?;
    let mut model = rotating(config, model_type, &sizes, Operation::Dense(mlp))?;
    let bases = config.value("layer_rope_theta").map(|_| layer_bases(config, sizes.layers)).transpose()?;
    let mut known: Vec<f64> = Vec::new();
    for (l, blocks) in model.layers.iter_mut().enumerate() {
        let Some(Block { operation: Operation::Attention(attention), .. }) = blocks.first_mut() else { continue };
        (attention.window, attention.sinks) = (windows[l], true);
        let Some(theta) = bases.as_ref().map(|bases| bases[l]) else { continue };
        attention.rotary = None;
        if theta > 0.0 {
            let index = known.iter().position(|k| *k == theta).unwrap_or_else(|| {
                known.push(theta);
                known.len() - 1
            });
            attention.rotary = Some(HeadRotary { index, start: 0, interleaved: false });
        }
    }
    if bases.is_some() {
        let scaled = config.object("rope_parameters").or(config.object("rope_scaling"));
        let kind = scaled.map(|s| Ok(s.text("rope_type")?.or(s.text("type")?))).transpose()?.flatten();
        if !matches!(kind, None | Some("default")) {
            return Err(config.refused("a rotary base for each layer (`layer_rope_theta`) together with a scaling"));
        }
        let spec = |theta: &f64| RotarySpec::plain(*theta, sizes.head_dim).checked(config);
        model.rotaries = known.iter().map(spec).collect::<Result<_>>()?;
    }
    Ok(model)
}

/// The rotary base of each layer.
fn layer_bases(config: &Config, layers: usize) -> Result<Vec<f64>> {
    let wrong = || config.bad("layer_rope_theta", format_args!("is not a list of {layers} numbers that are 0 or more"));
    let list = config.value("layer_rope_theta").and_then(Value::as_array).filter(|list| list.len() == layers);
    let number = |v: &Value| v.as_f64().filter(|theta| *theta >= 0.0 && theta.is_finite()).ok_or_else(wrong);
    list.ok_or_else(wrong)?.iter().map(number).collect()
}

fn granite_moe(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let (count, chosen) = expert_counts(config, &["num_local_experts"], "num_experts_per_tok")?;
    let each = mlp(config, &sizes)?;
    let routing = Routing::softmax(chosen, true);
    let experts = Experts::new(count, each, routing, &EXPERTS);
    rotating(config, model_type, &sizes, Operation::Experts(experts))
}

fn granite_hybrid(config: &Config, model_type: &str) -> Result<Architecture> {
    let left_out = serde_json::json!({"intermediate_size": 1, "mamba_expand": 2, "mamba_n_heads": 128, "mamba_d_head": "auto",
        "mamba_d_state": 256, "mamba_n_groups": 1, "mamba_d_conv": 4});
    let config = &config.with_defaults(&left_out);
    let sizes = ModelDims::read(config, true)?;
    let shared_width = config.size("shared_intermediate_size", limits::WIDTH_MAX)?;
    // GGUF files have gate and up apart.
    let names = if config.flag("shared_mlp_apart", false)? { &SHARED_APART } else { &SHARED };
    let each = Dense { intermediate: shared_width, names, ..mlp(config, &sizes)? };
    let feed_forward = match config.optional_count("num_local_experts", limits::EXPERTS_MAX)?.unwrap_or(0) {
        0 => Operation::Dense(each),
        _ => {
            let (count, chosen) = expert_counts(config, &["num_local_experts"], "num_experts_per_tok")?;
            let routed = Experts::new(count, mlp(config, &sizes)?, Routing::softmax(chosen, true), &EXPERTS);
            Operation::Experts(Experts { shared: Some(Shared { count: 1, each, gate: "" }), ..routed })
        }
    };
    let width = config.size("mamba_expand", limits::WIDTH_MAX)?.saturating_mul(sizes.hidden);
    let mamba = mamba2(config, &MAMBA_KEYS, width, sizes.eps, &MAMBA_NAMES)?;
    let names = [("mamba", true), ("linear_attention", true), ("attention", false), ("full_attention", false)];
    let kinds = layer_kinds(config, sizes.layers, &names)?.unwrap_or_else(|| vec![true; sizes.layers]);
    let rotates = config.text("position_embedding_type")? == Some("rope");
    let rotary = match rotates {
        true => Rotary::read(config, sizes.head_dim, sizes.context)?,
        false => Rotary::none(sizes.context),
    };
    let mut model = model(config, model_type, &sizes, rotary, feed_forward)?;
    for (blocks, state_space) in model.layers.iter_mut().zip(kinds) {
        match blocks.first_mut().map(|block| &mut block.operation) {
            Some(operation) if state_space => *operation = Operation::Recurrence(mamba),
            Some(Operation::Attention(attention)) if !rotates => attention.rotary = None,
            _ => {}
        }
    }
    Ok(model)
}

/// A model that rotates all of every head.
fn rotating(config: &Config, model_type: &str, sizes: &ModelDims, feed_forward: Operation) -> Result<Architecture> {
    model(config, model_type, sizes, Rotary::read(config, sizes.head_dim, sizes.context)?, feed_forward)
}

fn model(
    config: &Config,
    model_type: &str,
    sizes: &ModelDims,
    rotary: Rotary,
    feed_forward: Operation,
) -> Result<Architecture> {
    let bias = config.flag("attention_bias", false)?;
    let scale = config.factor("attention_multiplier", 1.0)?;
    let attention = Attention { qkv_bias: bias, out_bias: bias, scale, ..plain_attention(sizes) };
    let factor = config.factor("residual_multiplier", 1.0)?;
    let model = with_rotary(model_type, sizes, rotary, |_| {
        let blocks = pre_norm(sizes, attention, feed_forward);
        blocks.into_iter().map(|block| Block { factor, ..block }).collect()
    });
    Ok(Architecture {
        embedding_scale: config.factor("embedding_multiplier", 1.0)?,
        logits_scale: config.positive_f32("logits_scaling", Some(1.0))?.recip(),
        ..model
    })
}
