//! From the architecture of a GGUF file to a family: its config, and the names of its tensors.
//!
//! Files are converted from checkpoints of the hub, so this goes the way back: the metadata becomes the `config.json` that
//! the family reads, and tensors get the names they had there. What conversion has baked into the weights is said beside
//! it: rows of queries and keys in another order ([`Architecture::adjacent_pairs`]), and experts stacked into one tensor,
//! which are taken apart again where they lie.

use super::metadata::Metadata;
use crate::error::{Error, Result, reserved};
use crate::limits;
use crate::source::TensorInfo;
use crate::source::files::quoted;
use crate::source::safetensors::Stored;
use serde_json::{Map, Value, json};

/// An architecture that GGUF files name.
#[derive(Debug)]
pub struct Architecture {
    /// `general.architecture`, and the beginning of its keys.
    name: &'static str,
    /// `model_type` of the config.
    model_type: &'static str,
    /// `model_type` with experts, and the names of those; `None` where it has none.
    experts: Option<Experts>,
    /// Rows of query and key heads were permuted, so that elements that rotate together are adjacent.
    pub adjacent_pairs: bool,
}

/// Experts of an architecture.
#[derive(Debug)]
struct Experts {
    model_type: &'static str,
    /// Name of the router in a layer.
    router: &'static str,
    /// Names of gate, up and down of expert `{e}` in a layer.
    parts: [&'static str; 3],
}

/// Experts as the Qwen lineage names them.
const QWEN_EXPERTS: Experts = Experts {
    model_type: "qwen3_moe",
    router: "mlp.gate",
    parts: ["mlp.experts.{e}.gate_proj", "mlp.experts.{e}.up_proj", "mlp.experts.{e}.down_proj"],
};

/// The architectures that are read. Llama is the name of Mistral and Mixtral too.
static ARCHITECTURES: [Architecture; 4] = [
    Architecture {
        name: "llama",
        model_type: "llama",
        experts: Some(Experts {
            model_type: "mixtral",
            router: "block_sparse_moe.gate",
            parts: [
                "block_sparse_moe.experts.{e}.w1",
                "block_sparse_moe.experts.{e}.w3",
                "block_sparse_moe.experts.{e}.w2",
            ],
        }),
        adjacent_pairs: true,
    },
    Architecture { name: "qwen2", model_type: "qwen2", experts: None, adjacent_pairs: false },
    Architecture { name: "qwen3", model_type: "qwen3", experts: None, adjacent_pairs: false },
    Architecture { name: "qwen3moe", model_type: "qwen3_moe", experts: Some(QWEN_EXPERTS), adjacent_pairs: false },
];

/// Tensors outside of layers, without `.weight`, and their names in a checkpoint.
const WHOLE: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Tensors of a layer, without `blk.N.` and without `.weight` or `.bias`.
const LAYER: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Stacked experts of a layer, in the order of [`Experts::parts`].
const STACKED: [&str; 3] = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"];
/// The same, of files in which every expert has tensors of its own: `ffn_gate.E`.
const APART: [&str; 3] = ["ffn_gate", "ffn_up", "ffn_down"];
/// The router.
const ROUTER: &str = "ffn_gate_inp";
/// Divisors of the rotary frequencies, which Llama 3's scaling leads to.
pub const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The architecture of a file.
///
/// # Errors
/// `Format` when the metadata names none, `Unsupported` when it is another one.
pub fn find(metadata: &Metadata) -> Result<&'static Architecture> {
    const KEY: &str = "general.architecture";
    let name = metadata.text(KEY)?.ok_or_else(|| metadata.wrong(KEY, "the name of an architecture"))?;
    ARCHITECTURES.iter().find(|known| known.name == name).ok_or_else(|| {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|known| known.name).collect();
        let message = format!("{}: the architecture {} is not supported", metadata.file, quoted(name));
        Error::unsupported(format!("{message}; there are {}", known.join(", "))).about(metadata.file)
    })
}

impl Architecture {
    /// The `config.json` that the file was made from, as far as a family reads it. `tensors` are those of all files, by the
    /// names they have there; `rope_factors` are the contents of [`ROPE_FACTORS`].
    ///
    /// # Errors
    /// `Format` for what is missing or has another type; `Unsupported` for what no family has.
    pub fn config(
        &self,
        metadata: &Metadata,
        tensors: &[&TensorInfo],
        rope_factors: Option<Vec<f32>>,
    ) -> Result<Value> {
        let key = |name: &str| format!("{}.{name}", self.name);
        let has = |name: &str| tensors.iter().any(|info| info.name == name);
        let unsupported =
            |message: String| Error::unsupported(format!("{}: {message}", metadata.file)).about(metadata.file);
        let mut config = Map::new();
        let layers = metadata.required(&key("block_count"))?;
        let heads = metadata.required(&key("attention.head_count"))?;
        let hidden = metadata.required(&key("embedding_length"))?;
        config.insert("hidden_size".into(), hidden.into());
        config.insert("num_hidden_layers".into(), layers.into());
        config.insert("num_attention_heads".into(), heads.into());
        let kv_heads = metadata.whole(&key("attention.head_count_kv"))?.unwrap_or(heads);
        config.insert("num_key_value_heads".into(), kv_heads.into());
        config.insert("max_position_embeddings".into(), metadata.required(&key("context_length"))?.into());
        let eps = metadata.number(&key("attention.layer_norm_rms_epsilon"))?;
        let eps = eps.ok_or_else(|| metadata.wrong(&key("attention.layer_norm_rms_epsilon"), "a number"))?;
        config.insert("rms_norm_eps".into(), shortest(eps).into());
        let head_dim = match metadata.whole(&key("attention.key_length"))? {
            Some(dim) => dim,
            None => hidden.checked_div(heads).unwrap_or(0),
        };
        config.insert("head_dim".into(), head_dim.into());
        for name in ["attention.value_length", "rope.dimension_count"] {
            if let Some(other) = metadata.whole(&key(name))?.filter(|&other| other != head_dim) {
                let key = key(name);
                return Err(unsupported(format!(
                    "{key} is {other}, but heads have {head_dim} elements: not supported"
                )));
            }
        }
        let table = tensors.iter().find(|info| info.name == "token_embd.weight");
        if let Some(&[vocab, _]) = table.map(|info| info.shape.as_slice()) {
            config.insert("vocab_size".into(), vocab.into());
        }
        config.insert("tie_word_embeddings".into(), (!has("output.weight")).into());
        config.insert("attention_bias".into(), (self.model_type != "qwen2" && has("blk.0.attn_q.bias")).into());
        config.insert("mlp_bias".into(), has("blk.0.ffn_gate.bias").into());
        self.rope(metadata, rope_factors, &mut config)?;
        let window = metadata.whole(&key("attention.sliding_window"))?.filter(|&window| window > 0);
        let count = metadata.whole(&key("expert_count"))?.filter(|&count| count > 0);
        let mut model_type = if self.name == "llama" && window.is_some() { "mistral" } else { self.model_type };
        if let Some(window) = window {
            config.insert("sliding_window".into(), window.into());
            config.insert("use_sliding_window".into(), true.into());
        }
        match (count, &self.experts) {
            (Some(count), Some(experts)) => {
                model_type = experts.model_type;
                self.experts(metadata, count, tensors, &mut config)?;
            }
            (Some(count), None) => {
                let message = format!("{} is {count}, but {} has no experts", key("expert_count"), self.model_type);
                return Err(unsupported(message));
            }
            (None, _) => {
                let inner = metadata.required(&key("feed_forward_length"))?;
                config.insert("intermediate_size".into(), inner.into());
            }
        }
        config.insert("model_type".into(), model_type.into());
        Ok(Value::Object(config))
    }

    fn experts(
        &self,
        metadata: &Metadata,
        count: u64,
        tensors: &[&TensorInfo],
        config: &mut Map<String, Value>,
    ) -> Result<()> {
        let key = |name: &str| format!("{}.{name}", self.name);
        config.insert("num_local_experts".into(), count.into());
        config.insert("num_experts_per_tok".into(), metadata.required(&key("expert_used_count"))?.into());
        let dense = metadata.whole(&key("feed_forward_length"))?;
        let own = metadata.whole(&key("expert_feed_forward_length"))?;
        let inner =
            own.or(dense).ok_or_else(|| metadata.wrong(&key("expert_feed_forward_length"), "a whole number"))?;
        config.insert("moe_intermediate_size".into(), inner.into());
        config.insert("intermediate_size".into(), dense.filter(|&n| n > 0).unwrap_or(inner).into());
        let renormalised = metadata.flag(&key("expert_weights_norm"))?.unwrap_or(true);
        config.insert("norm_topk_prob".into(), renormalised.into());
        let layers = metadata.required(&key("block_count"))?.min(limits::LAYERS_MAX as u64);
        let routed = |layer: &u64| {
            let name = format!("blk.{layer}.{ROUTER}.weight");
            tensors.iter().any(|info| info.name == name)
        };
        let dense: Vec<u64> = (0..layers).filter(|layer| !routed(layer)).collect();
        config.insert("mlp_only_layers".into(), dense.into());
        Ok(())
    }

    /// Rotary base and scaling.
    fn rope(&self, metadata: &Metadata, factors: Option<Vec<f32>>, config: &mut Map<String, Value>) -> Result<()> {
        let key = |name: &str| format!("{}.rope.{name}", self.name);
        let theta = metadata.number(&key("freq_base"))?.map_or(10_000.0, shortest);
        config.insert("rope_theta".into(), theta.into());
        let kind = metadata.text(&key("scaling.type"))?.unwrap_or("none");
        let factor = metadata.number(&key("scaling.factor"))?.filter(|&factor| factor != 0.0 && factor != 1.0);
        let mut scaling = Map::new();
        match (kind, factors) {
            (_, Some(factors)) => {
                scaling.insert("rope_type".into(), "factors".into());
                scaling.insert("factors".into(), factors.into());
            }
            ("none", None) => return Ok(()),
            ("linear", None) if factor.is_none() => return Ok(()),
            (kind, None) => {
                scaling.insert("rope_type".into(), kind.into());
            }
        }
        let original = metadata.whole(&key("scaling.original_context_length"))?;
        scaling.extend(factor.map(|factor| ("factor".to_owned(), shortest(factor).into())));
        scaling.extend(original.map(|n| ("original_max_position_embeddings".to_owned(), n.into())));
        for (name, to) in [("scaling.yarn_beta_fast", "beta_fast"), ("scaling.yarn_beta_slow", "beta_slow")] {
            let number = metadata.number(&key(name))?;
            scaling.extend(number.map(|number| (to.to_owned(), shortest(number).into())));
        }
        // A factor on what YaRN makes of the scaling, where a config has the product.
        if let Some(own) = metadata.number(&key("scaling.attn_factor"))?.filter(|&own| own != 1.0) {
            let usual = if kind == "yarn" { 1.0 + 0.1 * factor.unwrap_or(1.0).ln() } else { 1.0 };
            scaling.insert("attention_factor".into(), (own * usual).into());
        }
        config.insert("rope_scaling".into(), json!(scaling));
        Ok(())
    }

    /// Tensors under the names they have in a checkpoint; stacked experts one by one. What has no such name keeps its own.
    ///
    /// # Errors
    /// `Format` for a stack that is no stack, or too many experts; `Memory`.
    pub fn tensors(&self, stored: Vec<Stored>, file: &str) -> Result<Vec<Stored>> {
        let mut all = reserved("the list of tensors", stored.len())?;
        for stored in stored {
            match self.stacked(&stored.info.name) {
                Some(name) => take_apart(stored, &name, file, &mut all)?,
                None => {
                    let name = self.renamed(&stored.info.name).unwrap_or_else(|| stored.info.name.clone());
                    all.push(Stored { info: TensorInfo { name, ..stored.info }, ..stored });
                }
            }
        }
        Ok(all)
    }

    /// The name of expert `{e}` in a stack of experts; `None` when the tensor is none.
    fn stacked(&self, name: &str) -> Option<String> {
        let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
        let at = STACKED.iter().position(|stacked| part.strip_suffix(".weight") == Some(*stacked))?;
        Some(format!("model.layers.{layer}.{}.weight", self.experts.as_ref()?.parts.get(at)?))
    }

    fn renamed(&self, name: &str) -> Option<String> {
        let (name, end) = name.rsplit_once('.').filter(|(_, end)| matches!(*end, "weight" | "bias"))?;
        if let Some((_, to)) = WHOLE.iter().find(|(from, _)| *from == name) {
            return Some(format!("{to}.{end}"));
        }
        let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
        let in_layer = match LAYER.iter().find(|(from, _)| *from == part) {
            Some((_, to)) => (*to).to_owned(),
            None if part == ROUTER => self.experts.as_ref()?.router.to_owned(),
            None => {
                let (part, expert) = part.rsplit_once('.').filter(|(_, e)| e.bytes().all(|b| b.is_ascii_digit()))?;
                let at = APART.iter().position(|apart| *apart == part)?;
                self.experts.as_ref()?.parts.get(at)?.replace("{e}", expert)
            }
        };
        Some(format!("model.layers.{layer}.{in_layer}.{end}"))
    }
}

/// Adds the matrices of a stack, each as a tensor of its own. `name` is theirs, with `{e}` for the number.
fn take_apart(stored: Stored, name: &str, file: &str, all: &mut Vec<Stored>) -> Result<()> {
    let Stored { info, begin, end } = stored;
    let wrong = |what: String| Error::format(format!("{file}: tensor {} {what}", quoted(&info.name))).about(file);
    let &[count, outputs, inputs] = info.shape.as_slice() else {
        return Err(wrong(format!("has shape {:?}, but a stack of matrices has three dimensions", info.shape)));
    };
    if count > limits::EXPERTS_MAX || all.len().saturating_add(count) > limits::TENSORS_MAX {
        return Err(wrong(format!("holds {count} experts, more than are supported")));
    }
    let each = (end - begin).checked_div(count as u64).unwrap_or(0);
    all.try_reserve(count)
        .map_err(|_| Error::memory("the list of tensors", size_of::<Stored>() as u64 * count as u64))?;
    for expert in 0..count {
        let name = name.replace("{e}", &expert.to_string());
        // Within `begin..end`, which is `count` times as long.
        let begin = begin + each * expert as u64;
        let info = TensorInfo { name, dtype: info.dtype, shape: vec![outputs, inputs] };
        all.push(Stored { info, begin, end: begin + each });
    }
    Ok(())
}

/// The number that an f32 was written for: 1e-5 and not 9.999999747378752e-6.
fn shortest(number: f64) -> f64 {
    let narrow = number as f32;
    match f64::from(narrow) == number {
        true => narrow.to_string().parse().unwrap_or(number),
        false => number,
    }
}
