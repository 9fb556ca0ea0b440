//! The model families: each file turns a `config.json` into an [`Architecture`] and says which tensors it ignores.
//!
//! To add one: write a file with a [`Family`], list it in [`FAMILIES`], add a fixture to the parity generator. When the
//! model needs something the forward pass lacks, extend [`super::architecture`] and [`super::forward`] first.

mod astrai;
mod centred;
mod deepseek;
mod falcon_h1;
mod gemma;
mod gemma4;
mod glm;
mod gpt_oss;
mod granite;
mod hybrid;
mod lfm;
mod llama;
mod mellum;
mod mistral;
mod nemotron_h;
mod olmo;
mod phi3;
mod plain;
mod qwen;
mod qwen_next;

use super::architecture::{
    Architecture, Attention, AttentionNames, Before, Block, Dense, DenseAndExperts, DenseNames, ExpertNames, Experts,
    Gate, GatedNorm, Head, HeadNorm, HeadRotary, Inside, KvProjection, LatentAttention, LatentNames, Layer, Names,
    Norm, NormKind, Operation, PerLayerInput, PerLayerInputs, Prefix, Recurrence, RecurrenceInputs, RecurrenceNames,
    RecurrenceRule, RouterInput, Shared, ShortConv, ShortConvNames, Stack,
};
use super::config::{Config, ModelDims};
use super::rotary::{Rotary, RotarySpec};
use crate::backend::{Activation, RouterScore, Routing};
use crate::error::{Error, Result, Unit};
use crate::limits;
use crate::source::{ModelSource, TensorInfo};
use serde_json::Value;

/// A tensor that is left unread on purpose.
#[derive(Clone, Copy, Debug)]
pub struct Ignored {
    /// The tensor's name ends with this.
    pub suffix: &'static str,
    /// Why.
    pub reason: &'static str,
}

/// One family of models.
pub struct Family {
    /// `model_type` values it answers to.
    pub model_types: &'static [&'static str],
    /// Config to architecture.
    pub architecture: fn(&Config, model_type: &str) -> Result<Architecture>,
    /// Tensors it leaves unread.
    pub ignored: &'static [Ignored],
}

/// All families.
pub static FAMILIES: &[&Family] = &[
    &astrai::ASTRAI,
    &centred::COHERE2,
    &centred::GPT_NEOX,
    &centred::NEMOTRON,
    &centred::PHI,
    &centred::STABLELM,
    &centred::STARCODER2,
    &deepseek::DEEPSEEK_V2,
    &deepseek::DEEPSEEK_V3,
    &falcon_h1::FALCON_H1,
    &gemma::GEMMA,
    &gemma::GEMMA2,
    &gemma::GEMMA3,
    &gemma4::GEMMA4,
    &glm::GLM,
    &glm::GLM4,
    &glm::GLM4_MOE,
    &glm::GLM4_MOE_LITE,
    &gpt_oss::GPT_OSS,
    &granite::GRANITE,
    &granite::GRANITE_MOE,
    &granite::GRANITE_MOE_HYBRID,
    &granite::GRANITE_SWA,
    &lfm::LFM2,
    &lfm::LFM2_MOE,
    &lfm::LFM3,
    &llama::LLAMA,
    &mellum::MELLUM,
    &mistral::MISTRAL,
    &mistral::MIXTRAL,
    &nemotron_h::NEMOTRON_H,
    &olmo::OLMO2,
    &olmo::OLMO3,
    &olmo::OLMOE,
    &phi3::PHI3,
    &plain::ARCEE,
    &plain::ERNIE4_5,
    &plain::EXAONE4,
    &plain::HUNYUAN,
    &plain::MINISTRAL3,
    &plain::SEED_OSS,
    &plain::SMOLLM3,
    &qwen::QWEN2,
    &qwen::QWEN2_MOE,
    &qwen::QWEN3,
    &qwen::QWEN3_MOE,
    &qwen_next::QWEN3_5,
    &qwen_next::QWEN3_5_MOE,
    &qwen_next::QWEN3_NEXT,
];

/// The family of a config. An absent `model_type` means AstrAI's own, unless `architectures` says otherwise.
pub fn find(root: &Value, subject: &str) -> Result<(&'static Family, String)> {
    let config = Config::new(root, subject);
    let model_type = match (config.text("model_type")?, wrapper(root)) {
        (Some(model_type), _) => model_type,
        (None, Some((outer, _))) => {
            let message = format!("config.json: a multimodal model ({outer}) whose text_config has no model_type");
            return Err(Error::unsupported(format!("{message}; only text models are opened")).about(subject));
        }
        (None, None) => {
            check_architectures(root, subject)?;
            astrai::MODEL_TYPE
        }
    };
    let family = FAMILIES.iter().find(|f| f.model_types.contains(&model_type)).ok_or_else(|| {
        let known: Vec<&str> = FAMILIES.iter().flat_map(|f| f.model_types.iter().copied()).collect();
        let inside = match wrapper(root) {
            Some((outer, _)) => format!(" (the text model inside the multimodal \"{outer}\")"),
            None if root.get("vision_config").or(root.get("audio_config")).is_some() => " (a multimodal model)".into(),
            None => String::new(),
        };
        Error::unsupported(format!(
            "config.json: model_type \"{model_type}\"{inside} is unknown; known are {}",
            known.join(", ")
        ))
        .about(subject)
    })?;
    Ok((family, model_type.to_owned()))
}

/// The family of a source and its architecture. `context`: tokens that the engine's context is to hold; 0 = the model's own.
///
/// # Errors
/// `Unsupported` and `Format`, for what the config says.
pub fn describe(source: &dyn ModelSource, context: usize) -> Result<(&'static Family, String, Architecture)> {
    let (family, model_type) = find(source.config()?, source.subject())?;
    let config = Config::new(source.config()?, source.subject()).for_context(context);
    let mut architecture = (family.architecture)(&config, &model_type)?;
    if source.adjacent_rotary_pairs() {
        architecture.with_adjacent_pairs();
    }
    if source.whole_gains() {
        architecture.with_whole_gains();
    }
    architecture.prefix = prefix(&architecture, source)?;
    // Embedding models are saved without a head whether or not their output matrix was the embedding.
    if architecture.prefix == Prefix::Without && architecture.head == Head::Own {
        let name = format!("{}.weight", architecture.names.lm_head);
        if TensorInfo::find(source.tensors()?, &name).is_none() {
            architecture.head = Head::Absent;
        }
    }
    Ok((family, model_type, architecture))
}

/// Where the tensors of a text model are in a checkpoint. One that has none of them where they may be is looked at as if it
/// were the whole, for the error that says so.
fn prefix(architecture: &Architecture, source: &dyn ModelSource) -> Result<Prefix> {
    let tensors = source.tensors()?;
    let there = |name: String| TensorInfo::find(tensors, &name).is_some();
    let found = Prefix::ALL.into_iter().find(|prefix| there(prefix.apply(architecture.final_norm.name) + ".weight"));
    Ok(found.unwrap_or_default())
}

/// The names of a multimodal model and of the text model inside it, if a config is of such a one.
pub fn wrapper(root: &Value) -> Option<(&str, &str)> {
    let inner = root.get("text_config").filter(|inner| inner.is_object())?;
    let name = |object| Value::as_str(Value::get(object, "model_type")?);
    Some((name(root).unwrap_or("unnamed"), name(inner).unwrap_or("unnamed")))
}

/// A config without `model_type` whose `architectures` names a class that is not AstrAI's is not AstrAI's.
fn check_architectures(root: &Value, subject: &str) -> Result<()> {
    let classes = root.get("architectures").and_then(Value::as_array);
    let Some(class) = classes.and_then(|list| list.first()).and_then(Value::as_str) else { return Ok(()) };
    if class.to_ascii_lowercase().contains("autoregressive") || class.to_ascii_lowercase().contains("astrai") {
        return Ok(());
    }
    let class: String = class.chars().take(80).collect();
    let known = FAMILIES.iter().flat_map(|f| f.model_types.iter().copied());
    let plain = |name: &str| name.replace('_', "").to_ascii_lowercase();
    let stem = plain(class.split("For").next().unwrap_or_default());
    let advice = match known.clone().find(|name| plain(name) == stem) {
        Some(name) => format!("add \"model_type\": \"{name}\""),
        None => format!("known are {}", known.collect::<Vec<_>>().join(", ")),
    };
    let message =
        format!("config.json has no model_type, and architectures says {class:?}, which is not AstrAI's; {advice}");
    Err(Error::unsupported(message).about(subject))
}

/// Tensor names of the Llama lineage as published on the hub.
static HF_NAMES: Names = Names { embedding: "model.embed_tokens", lm_head: "lm_head", layer: "model.layers.{l}." };

static HF_ATTENTION: AttentionNames = AttentionNames {
    q: "self_attn.q_proj",
    k: "self_attn.k_proj",
    v: "self_attn.v_proj",
    out: "self_attn.o_proj",
    q_norm: "self_attn.q_norm",
    k_norm: "self_attn.k_norm",
    gate: "self_attn.gate_proj",
    kv_a: "",
    kv_norm: "",
    kv_b: "",
    sinks: "self_attn.sinks",
};

static HF_DENSE: DenseNames = DenseNames { gate: "mlp.gate_proj", up: "mlp.up_proj", down: "mlp.down_proj" };

/// As [`HF_DENSE`], where gate and up are one tensor.
static HF_FUSED_DENSE: DenseNames =
    DenseNames { gate: "mlp.gate_up_proj", up: "mlp.gate_up_proj", down: "mlp.down_proj" };

/// Experts one by one, and in stacks.
static HF_EXPERTS: [ExpertNames; 2] = [
    ExpertNames {
        router: "mlp.gate",
        choice_bias: "mlp.gate.e_score_correction_bias",
        gate: "mlp.experts.{e}.gate_proj",
        up: "mlp.experts.{e}.up_proj",
        down: "mlp.experts.{e}.down_proj",
        stack: Stack::Rows,
    },
    ExpertNames {
        router: "mlp.gate",
        choice_bias: "mlp.gate.e_score_correction_bias",
        gate: "mlp.experts.gate_up_proj",
        up: "mlp.experts.gate_up_proj",
        down: "mlp.experts.down_proj",
        stack: Stack::Rows,
    },
];

/// Tensors every family of the lineage may carry without need.
const HF_IGNORED: &[Ignored] = &[Ignored { suffix: ".rotary_emb.inv_freq", reason: "recomputed from the config" }];

/// Attention of the plain Llama kind.
fn plain_attention(sizes: &ModelDims) -> Attention {
    Attention {
        heads: sizes.heads,
        kv_heads: sizes.kv_heads,
        head_dim: sizes.head_dim,
        kv: KvProjection::Direct,
        rotary: Some(HeadRotary { index: 0, start: 0, interleaved: false }),
        head_norm: HeadNorm::None,
        head_norm_kind: NormKind::Rms,
        head_norm_bias: false,
        value_norm: false,
        eps: sizes.eps,
        gate: Gate::None,
        qkv_bias: false,
        out_bias: false,
        window: None,
        bidirectional: false,
        scale: 1.0 / (sizes.head_dim as f32).sqrt(),
        softcap: None,
        sinks: false,
        position_scale: None,
        names: &HF_ATTENTION,
    }
}

/// A feed-forward part without biases.
fn plain_dense(sizes: &ModelDims) -> Dense {
    let activation = Activation::Silu;
    Dense { intermediate: sizes.intermediate, activation, gated: true, gate_scale: 1.0, bias: false, names: &HF_DENSE }
}

/// The same with the activation that the config names.
fn mlp(config: &Config, sizes: &ModelDims) -> Result<Dense> {
    Ok(Dense { activation: config.activation("hidden_act", "silu")?, ..plain_dense(sizes) })
}

/// The same with the biases that `mlp_bias` announces.
fn mlp_with_bias(config: &Config, sizes: &ModelDims) -> Result<Dense> {
    Ok(Dense { bias: config.flag("mlp_bias", false)?, ..mlp(config, sizes)? })
}

/// A layer that norms before attention and before the feed-forward part, named as in Llama.
fn pre_norm(sizes: &ModelDims, attention: Attention, feed_forward: Operation) -> Layer {
    let norm = |name| Norm::rms(name, sizes.eps);
    vec![
        Block::new(norm("input_layernorm"), Operation::Attention(attention)),
        Block::new(norm("post_attention_layernorm"), feed_forward),
    ]
}

/// A layer that norms what attention and the feed-forward part add, named as in OLMo 2.
fn post_norm(sizes: &ModelDims, attention: Attention, feed_forward: Operation) -> Layer {
    let block = |operation, name| Block {
        before: Before::Stream,
        operation,
        after: Some(Norm::rms(name, sizes.eps)),
        factor: 1.0,
        scalar: "",
    };
    vec![
        block(Operation::Attention(attention), "post_attention_layernorm"),
        block(feed_forward, "post_feedforward_layernorm"),
    ]
}

/// The rotations of layers that see all and of those that slide. An older config has one object for all, whose scaling is for the
/// first alone, and a base of the others under a key of its own, with a default.
fn rotaries_by_type(config: &Config, sizes: &ModelDims, sliding: (&str, f64)) -> Result<(Rotary, RotarySpec)> {
    let read = |layer_type| Rotary::read_for(config, layer_type, sizes.head_dim, sizes.context);
    let mut full = read("full_attention")?;
    if config.object("rope_parameters").is_none_or(|all| !all.has_objects()) {
        let theta = config.positive(sliding.0, Some(sliding.1))?;
        return Ok((full, RotarySpec::plain(theta, sizes.head_dim).checked(config)?));
    }
    let other = read("sliding_attention")?;
    full.chosen_for = full.chosen_for.max(other.chosen_for);
    Ok((full, other.spec))
}

/// An architecture of the lineage from its layers, with one rotary embedding.
fn lineage(
    config: &Config,
    model_type: &str,
    sizes: &ModelDims,
    layer: impl Fn(usize) -> Layer,
) -> Result<Architecture> {
    let rotary = Rotary::read(config, sizes.head_dim, sizes.context)?;
    Ok(with_rotary(model_type, sizes, rotary, layer))
}

/// The same with a rotary embedding that was read already, or none.
fn with_rotary(model_type: &str, sizes: &ModelDims, rotary: Rotary, layer: impl Fn(usize) -> Layer) -> Architecture {
    Architecture {
        model_type: model_type.to_owned(),
        hidden: sizes.hidden,
        vocab: sizes.vocab,
        context: rotary.context,
        context_max: rotary.context_max,
        rotary_context: rotary.chosen_for,
        embedding_scale: 1.0,
        per_layer: None,
        rotaries: if rotary.spec.inv_freq.is_empty() { Vec::new() } else { vec![rotary.spec] },
        layers: (0..sizes.layers).map(layer).collect(),
        final_norm: Norm::rms("model.norm", sizes.eps),
        head: if sizes.tied { Head::Tied } else { Head::Own },
        head_bias: false,
        logits_scale: 1.0,
        logits_softcap: None,
        names: &HF_NAMES,
        prefix: Prefix::None,
    }
}

/// The sliding window of each layer: `layer_types` where given, else `otherwise(layer)` says whether it slides.
fn windows(config: &Config, layers: usize, otherwise: impl Fn(usize) -> bool) -> Result<Vec<Option<u32>>> {
    let window = config.optional_size("sliding_window", limits::CONTEXT_MAX)?.map(|w| w as u32);
    let Some(types) = config.value("layer_types") else {
        return Ok((0..layers).map(|l| window.filter(|_| otherwise(l))).collect());
    };
    let wrong = || config.bad("layer_types", format_args!("is not a list of {layers} names"));
    let types = types.as_array().filter(|t| t.len() == layers).ok_or_else(wrong)?;
    types
        .iter()
        .map(|t| match t.as_str() {
            Some("full_attention") => Ok(None),
            Some("sliding_attention") if window.is_some() => Ok(window),
            Some("sliding_attention") => Err(config.bad("sliding_window", "is missing, but a layer slides")),
            _ => {
                Err(config.bad("layer_types", format_args!("holds {t}, expected full_attention or sliding_attention")))
            }
        })
        .collect()
}

/// Which layers hold experts: `mlp_layer_types` where given, else `otherwise(layer)` says it.
fn sparse_by_type(config: &Config, layers: usize, otherwise: impl Fn(usize) -> bool) -> Result<Vec<bool>> {
    let Some(types) = config.value("mlp_layer_types") else { return Ok((0..layers).map(otherwise).collect()) };
    let wrong = || config.bad("mlp_layer_types", format_args!("is not a list of {layers} times dense or sparse"));
    let types = types.as_array().filter(|t| t.len() == layers).ok_or_else(wrong)?;
    let sparse = |t: &Value| match t.as_str() {
        Some("sparse") => Ok(true),
        Some("dense") => Ok(false),
        _ => Err(wrong()),
    };
    types.iter().map(sparse).collect()
}

/// Which layers of a mixture hold experts: not in `mlp_only_layers`, and every `decoder_sparse_step`-th.
fn sparse_layers(config: &Config) -> Result<impl Fn(usize) -> bool> {
    let dense = config.layer_list("mlp_only_layers")?;
    let step = config.optional_size("decoder_sparse_step", limits::LAYERS_MAX)?.unwrap_or(1);
    Ok(move |layer: usize| !dense.contains(&layer) && (layer + 1).is_multiple_of(step))
}

/// The number of experts and of those chosen for a token, checked against each other.
fn expert_counts(config: &Config, counts: &[&str], chosen: &str) -> Result<(usize, usize)> {
    let count = config.size_of(counts, limits::EXPERTS_MAX)?;
    let chosen_count = config.size(chosen, limits::EXPERTS_MAX)?;
    if chosen_count > count {
        return Err(config.bad(chosen, format_args!("is {chosen_count}, more than the {count} experts there are")));
    }
    check_experts(config, counts, count)?;
    Ok((count, chosen_count))
}

/// Refuses so many experts a layer in so many layers that they could be in no checkpoint. `keys` is what counts them.
fn check_experts(config: &Config, keys: &[&str], each: usize) -> Result<()> {
    let layers = config.size("num_hidden_layers", limits::LAYERS_MAX)?;
    let (all, most) = (layers.saturating_mul(each), limits::MODEL_EXPERTS_MAX);
    if all <= most {
        return Ok(());
    }
    let key = keys.iter().find(|key| config.value(key).is_some()).or(keys.first()).copied().unwrap_or_default();
    let problem = format_args!("makes {each} experts a layer, in {layers} layers {all}, more than the limit of {most}");
    Err(config.bad(key, problem).numbers(Unit::Count, all as u64, most as u64))
}
