//! Granite 3 and Granite-MoE: Llama with factors on the embedding, the scores, what each operation adds, and the logits.
//! Granite SWA: windows, sinks, and a rotary base for each layer.

use super::*;

/// `model_type` granite.
pub static GRANITE: Family = Family { model_types: &["granite"], architecture: granite, ignored: HF_IGNORED };
/// `model_type` granitemoe.
pub static GRANITE_MOE: Family =
    Family { model_types: &["granitemoe"], architecture: granite_moe, ignored: HF_IGNORED };

/// `model_type` granite_swa.
pub static GRANITE_SWA: Family =
    Family { model_types: &["granite_swa"], architecture: granite_swa, ignored: HF_IGNORED };

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
    model(config, model_type, &sizes, Operation::Dense(mlp))
}

/// The base of a layer may be 0: then it does not rotate.
fn granite_swa(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, true)?;
    let windows = windows(config, sizes.layers, |l| !l.is_multiple_of(4))?;
    let mlp = mlp_with_bias(config, &sizes)?;
    let mut model = model(config, model_type, &sizes, Operation::Dense(mlp))?;
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
    model(config, model_type, &sizes, Operation::Experts(experts))
}

fn model(config: &Config, model_type: &str, sizes: &ModelDims, feed_forward: Operation) -> Result<Architecture> {
    let bias = config.flag("attention_bias", false)?;
    let scale = config.factor("attention_multiplier", 1.0)?;
    let attention = Attention { qkv_bias: bias, out_bias: bias, scale, ..plain_attention(sizes) };
    let factor = config.factor("residual_multiplier", 1.0)?;
    let model = lineage(config, model_type, sizes, |_| {
        let blocks = pre_norm(sizes, attention, feed_forward);
        blocks.into_iter().map(|block| Block { factor, ..block }).collect()
    })?;
    Ok(Architecture {
        embedding_scale: config.factor("embedding_multiplier", 1.0)?,
        logits_scale: config.positive_f32("logits_scaling", Some(1.0))?.recip(),
        ..model
    })
}
