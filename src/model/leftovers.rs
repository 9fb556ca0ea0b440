//! Which tensors of a checkpoint may stay unread: those that change no result when they are left out, by name, each with the
//! reason. transformers reads none of them either. Anything else that is left over is an error: a bias, a norm or a scale that
//! the configuration does not announce would make another model of it.

use super::architecture::Architecture;
use super::families::Family;
use crate::limits;
use crate::source::TensorInfo;
use std::fmt::Write;

/// Where a name is looked for in a tensor's.
#[derive(Clone, Copy, Debug)]
enum NamePosition {
    /// First, or after `model`: a part of its own beside the layers.
    First,
    /// Last: one tensor of a module.
    Last,
    /// Last, and of two dimensions or more: a mask, where a vector would be a bias.
    LastMask,
}

/// Names, where they stand, and why such tensors change nothing.
const HARMLESS: [(NamePosition, &[&str], &str); 8] = [
    (
        NamePosition::First,
        &["v_head", "value_head", "reward_head", "rm_head", "critic_head", "score", "classifier"],
        "a head for another task",
    ),
    (
        NamePosition::First,
        &[
            "vision_tower",
            "vision_model",
            "vision_encoder",
            "vision_embed_tokens",
            "visual",
            "embed_vision",
            "multi_modal_projector",
            "mm_projector",
            "image_newline",
            "audio_tower",
            "audio_encoder",
            "embed_audio",
        ],
        "a part for images or sound",
    ),
    (
        NamePosition::First,
        &["mtp", "mtp_layers", "mtp_block", "nextn", "medusa_head", "medusa_heads"],
        "guesses tokens ahead of the model",
    ),
    (
        NamePosition::Last,
        &[
            "k_scale",
            "v_scale",
            "kv_scale",
            "q_scale",
            "prob_scale",
            "k_zero_point",
            "v_zero_point",
            "kv_cache_scaling_factor",
            "k_proj.output_scale",
            "v_proj.output_scale",
            "q_proj.output_scale",
            "q_bmm_quantizer._amax",
            "k_bmm_quantizer._amax",
            "v_bmm_quantizer._amax",
        ],
        "a scale of an 8-bit KV cache",
    ),
    (
        NamePosition::Last,
        &["inv_freq", "original_inv_freq", "cos_cached", "sin_cached", "freqs_cis", "rope.freqs"],
        "a rotary table, computed from config.json",
    ),
    (NamePosition::Last, &["masked_bias", "causal_mask", "attn_mask", "attention_mask"], "a mask, computed"),
    (NamePosition::LastMask, &["attn.bias", "self_attn.bias", "attention.bias"], "a mask, computed"),
    (NamePosition::Last, &["position_ids"], "positions, computed"),
];

/// A tensor of a layer beyond those of the configuration.
const EXTRA_LAYER: &str = "of a layer beyond num_hidden_layers";

/// Why a tensor that nobody took may be left.
pub(super) fn harmless(architecture: &Architecture, family: &Family, tensor: &TensorInfo) -> Option<&'static str> {
    let name = tensor.name.as_str();
    if let Some(known) = family.ignored.iter().find(|i| name.ends_with(i.suffix)) {
        return Some(known.reason);
    }
    if extra_layer(architecture, name) {
        return Some(EXTRA_LAYER);
    }
    let fits = |position: NamePosition, part: &str| match position {
        NamePosition::First => {
            let name = name.strip_prefix("model.").unwrap_or(name);
            name.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        }
        NamePosition::Last => ends_with_part(name, part),
        NamePosition::LastMask => tensor.shape.len() >= 2 && ends_with_part(name, part),
    };
    let found = HARMLESS.iter().find(|(position, parts, _)| parts.iter().any(|part| fits(*position, part)));
    found.map(|(_, _, reason)| *reason)
}

/// Whether a name is `end`, or ends with it after a dot.
fn ends_with_part(name: &str, end: &str) -> bool {
    name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether a tensor belongs to a layer that the configuration does not count.
fn extra_layer(architecture: &Architecture, name: &str) -> bool {
    let begin = architecture.prefix.apply(architecture.names.layer);
    let Some((before, _)) = begin.split_once("{l}") else { return false };
    let Some((layer, _)) = name.strip_prefix(before).and_then(|rest| rest.split_once('.')) else { return false };
    let digits = !layer.is_empty() && layer.bytes().all(|b| b.is_ascii_digit());
    digits && layer.parse::<u64>().is_ok_and(|layer| layer >= architecture.layers.len() as u64)
}

/// The tensors that were left, as one warning: how many for each reason, and the names of the first.
#[derive(Default)]
pub(super) struct Unread {
    reasons: Vec<(&'static str, usize, Vec<String>)>,
}

impl Unread {
    pub fn add(&mut self, tensor: &str, reason: &'static str) {
        let at = self.reasons.iter().position(|(known, ..)| *known == reason).unwrap_or_else(|| {
            self.reasons.push((reason, 0, Vec::new()));
            self.reasons.len() - 1
        });
        if let Some((_, count, names)) = self.reasons.get_mut(at) {
            *count += 1;
            if names.len() < limits::NAMED_TENSORS_MAX {
                names.push(tensor.to_owned());
            }
        }
    }

    /// The warning; `None` when nothing was left.
    pub fn warning(self) -> Option<String> {
        let all: usize = self.reasons.iter().map(|(_, count, _)| count).sum();
        if all == 0 {
            return None;
        }
        let mut text = format!("tensors of the checkpoint that are not read, without harm to the result: {all}");
        for (index, (reason, count, names)) in self.reasons.iter().enumerate() {
            let more = if *count > names.len() { format!(" and {} more", count - names.len()) } else { String::new() };
            let lead = if index == 0 { ": " } else { "; " };
            // Writing to a string cannot fail.
            let _ = write!(text, "{lead}{}{more} ({reason})", names.join(", "));
        }
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::families;
    use super::*;
    use crate::dtype::DType;
    use serde_json::json;

    fn llama() -> (Architecture, &'static Family) {
        let config = json!({"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2,
            "intermediate_size": 8, "vocab_size": 8, "max_position_embeddings": 8});
        let (family, model_type) = families::find(&config, "test").expect("known");
        let config = super::super::config::Config::new(&config, "test");
        ((family.architecture)(&config, &model_type).expect("good"), family)
    }

    fn reason(name: &str, shape: &[usize]) -> Option<&'static str> {
        let (architecture, family) = llama();
        harmless(&architecture, family, &TensorInfo { name: name.into(), dtype: DType::F32, shape: shape.into() })
    }

    #[test]
    fn what_changes_nothing_is_left() {
        for name in [
            "v_head.summary.weight",
            "v_head.summary.bias",
            "score.weight",
            "model.vision_tower.blocks.0.norm.weight",
            "visual.patch_embed.proj.weight",
            "model.multi_modal_projector.linear_1.bias",
            "image_newline",
            "mtp.layers.0.self_attn.q_proj.weight",
            "model.mtp.norm.weight",
            "model.layers.0.self_attn.k_scale",
            "model.layers.1.self_attn.attn.v_scale",
            "model.layers.1.self_attn.kv_scale",
            "model.layers.1.self_attn.k_proj.k_scale",
            "model.layers.1.self_attn.v_proj.output_scale",
            "model.layers.1.self_attn.k_bmm_quantizer._amax",
            "model.layers.0.self_attn.rotary_emb.inv_freq",
            "model.rotary_emb.inv_freq",
            "rotary_emb.inv_freq",
            "model.layers.0.self_attn.rotary_emb.cos_cached",
            "rope.freqs",
            "model.layers.0.self_attn.masked_bias",
            "model.causal_mask",
            "model.embed_tokens.position_ids",
            "model.layers.2.input_layernorm.weight",
            "model.layers.61.self_attn.q_proj.weight_scale_inv",
        ] {
            assert!(reason(name, &[1]).is_some(), "{name}");
        }
        assert!(reason("model.layers.0.attn.bias", &[1, 1, 8, 8]).is_some());
    }

    #[test]
    fn what_would_make_another_model_is_not() {
        for name in [
            "model.layers.0.self_attn.q_proj.bias",
            "model.layers.1.self_attn.q_norm.weight",
            "model.layers.0.self_attn.sinks",
            "model.layers.0.mlp.gate_proj.weight_scale",
            "model.layers.0.mlp.gate_proj.weight_scale_inv",
            "model.layers.0.mlp.gate_proj.input_scale",
            "model.layers.0.mlp.gate_proj.scales",
            "model.layers.0.mlp.gate_proj.qzeros",
            "model.layers.0.mlp.down_proj.output_scale",
            "model.layers.0.mlp.down_proj.weight_quantizer._amax",
            "model.layers.0.self_attn.q_proj.lora_A.weight",
            "model.layers.0.post_feedforward_layernorm.weight",
            "model.layers.0.mlp.experts.0.gate_proj.weight",
            "model.layers.x.input_layernorm.weight",
            "model.layers.+2.input_layernorm.weight",
            "model.layers.0.self_attn.bias",
            "model.layers.0.v_head.weight",
            "model.norm.bias",
            "lm_head.bias",
            "v_headed.weight",
            "layers.2.input_layernorm.weight",
            "my_inv_freq",
            "model.embed_positions.weight",
        ] {
            assert_eq!(reason(name, &[1]), None, "{name}");
        }
    }

    #[test]
    fn one_warning_names_the_first_and_counts_all() {
        assert_eq!(Unread::default().warning(), None);
        let mut unread = Unread::default();
        for layer in 0..40 {
            unread.add(&format!("layers.{layer}.k_scale"), "a scale");
        }
        unread.add("v_head.weight", "a head");
        let text = unread.warning().expect("some");
        assert!(text.contains(": 41: layers.0.k_scale, "), "{text}");
        assert!(text.contains("layers.7.k_scale and 32 more (a scale); v_head.weight (a head)"), "{text}");
        assert!(!text.contains("layers.8."), "{text}");
    }
}
