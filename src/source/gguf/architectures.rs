//! The architectures that GGUF files name, each with the family it is and what conversion has made of its checkpoints.
//!
//! Files are converted from checkpoints of the hub, so this goes the way back: [`super::config`] makes the `config.json` that
//! the family reads, [`super::names`] gives tensors the names they had there. What conversion has baked into the weights is
//! said beside it: rows of queries and keys in another order ([`Architecture::adjacent_pairs`]), norms whose gains are whole
//! ([`super::Gguf`] says so for all files), experts stacked into one tensor.

use super::config::Reading;
use super::hybrids::HYBRIDS;
use super::latent::DEEPSEEK2;
use super::metadata::Metadata;
use super::names::ROUTER;
use crate::error::{Error, Result};
use crate::source::files::quoted;
use serde_json::json;

/// An architecture that GGUF files name.
#[derive(Debug)]
pub struct Architecture {
    /// `general.architecture`, and the beginning of its keys.
    pub name: &'static str,
    /// `model_type` of the config.
    pub model_type: &'static str,
    /// `model_type` of a file with a sliding window, if it is another one.
    pub windowed: Option<&'static str>,
    /// Its experts; `None` where it has none.
    pub experts: Option<Experts>,
    /// Rows of query and key heads were permuted, so that elements that rotate together are adjacent.
    pub adjacent_pairs: bool,
    /// Its norms subtract the mean, and have their epsilon under another key.
    pub centred: bool,
    /// A part of a head may rotate.
    pub partial: bool,
    /// Keys and values of its heads are made of a latent.
    pub latent: bool,
    /// Which layers have a sliding window.
    pub windows: Windows,
    /// Layers with a window rotate by a base of their own.
    pub local_base: Option<LocalBase>,
    /// Tensors of a layer whose names differ from the usual ones, or are not usual: here, and in a checkpoint.
    pub names: &'static [(&'static str, &'static str)],
    /// The same with what the names end with.
    pub whole_names: &'static [(&'static str, &'static str)],
    /// The same outside of layers.
    pub outside: &'static [(&'static str, &'static str)],
    /// What the names of a checkpoint's layers begin with.
    pub stem: &'static str,
    /// Keys with a number, without the architecture's name, and what the config calls them.
    pub numbers: &'static [(&'static str, &'static str)],
    /// What else its config has.
    pub more: fn(&mut Reading) -> Result<()>,
}

/// Experts of an architecture.
#[derive(Debug)]
pub struct Experts {
    /// `model_type` with experts.
    pub model_type: &'static str,
    /// Name of the router in a layer.
    pub router: &'static str,
    /// Names of gate, up and down of expert `{e}` in a layer.
    pub parts: [&'static str; 3],
    /// The weights of those chosen add up to 1, where the file does not say.
    pub renormalised: bool,
    /// `expert_gating_func`: 1 is softmax, 2 sigmoid, 3 softmax of the chosen alone; 0 where the architecture has several.
    pub gating: u64,
    /// Their matrices have biases.
    pub biased: bool,
    /// There may be groups of experts, and a factor on the weights.
    pub grouped: bool,
}

/// The layers that have a sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// None.
    No,
    /// All, if there is one.
    All,
    /// Those that the file lists; if it lists none, all but every n-th.
    AllBut(u64),
    /// The same, with the window that the family has where the file has none.
    OfFamily(u64),
}

/// The base of the rotation in a window, where the file has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalBase {
    /// That of the other layers.
    Same,
    /// 10,000.
    Usual,
}

/// The experts of the Qwen lineage.
pub(super) const QWEN_EXPERTS: Experts = Experts {
    model_type: "qwen3_moe",
    router: "mlp.gate",
    parts: ["mlp.experts.{e}.gate_proj", "mlp.experts.{e}.up_proj", "mlp.experts.{e}.down_proj"],
    renormalised: true,
    gating: 1,
    biased: false,
    grouped: false,
};

/// The experts of Granite.
pub(super) const GRANITE_EXPERTS: Experts = Experts {
    model_type: "granitemoe",
    router: "block_sparse_moe.router.layer",
    parts: [
        "block_sparse_moe.experts.{e}.gate_proj",
        "block_sparse_moe.experts.{e}.up_proj",
        "block_sparse_moe.experts.{e}.down_proj",
    ],
    ..QWEN_EXPERTS
};

/// The experts of gpt-oss: the weights of those chosen are the softmax of their logits alone, and their matrices have biases.
const GPT_OSS_EXPERTS: Experts =
    Experts { model_type: "gpt_oss", router: "mlp.router", biased: true, gating: 3, ..QWEN_EXPERTS };

/// As Llama, but for experts and the order of rows.
pub(super) const PLAIN: Architecture = Architecture {
    name: "",
    model_type: "",
    windowed: None,
    experts: None,
    adjacent_pairs: false,
    centred: false,
    partial: false,
    latent: false,
    windows: Windows::No,
    local_base: None,
    names: &[],
    whole_names: &[],
    outside: &[],
    stem: "model",
    numbers: &[],
    more: |_| Ok(()),
};

/// Gate and up in one tensor.
const GATE_UP: (&str, &str) = ("ffn_up", "mlp.gate_up_proj");
/// Norms of what attention and the network add.
const POST_NORMS: [(&str, &str); 2] =
    [("post_attention_norm", "post_attention_layernorm"), ("post_ffw_norm", "post_feedforward_layernorm")];
/// Norms before and after both.
pub(super) const SANDWICH: [(&str, &str); 3] =
    [POST_NORMS[0], ("ffn_norm", "pre_feedforward_layernorm"), POST_NORMS[1]];
pub(super) const GRANITE_NUMBERS: [(&str, &str); 4] = [
    ("attention.scale", "attention_multiplier"),
    ("embedding_scale", "embedding_multiplier"),
    ("residual_scale", "residual_multiplier"),
    ("logit_scale", "logits_scaling"),
];

/// Numbers of routers in groups with shared experts after dense layers.
pub(super) const GROUPED_NUMBERS: [(&str, &str); 5] = [
    ("expert_weights_scale", "routed_scaling_factor"),
    ("expert_shared_count", "n_shared_experts"),
    ("leading_dense_block_count", "first_k_dense_replace"),
    ("expert_group_count", "n_group"),
    ("expert_group_used_count", "topk_group"),
];

/// The architectures that are read. Llama is the name of Mistral and Mixtral too; OLMo 3 goes by the name of OLMo 2.
static ARCHITECTURES: [Architecture; 33] = [
    Architecture {
        name: "llama",
        model_type: "llama",
        windowed: Some("mistral"),
        experts: Some(Experts {
            model_type: "mixtral",
            router: "block_sparse_moe.gate",
            parts: [
                "block_sparse_moe.experts.{e}.w1",
                "block_sparse_moe.experts.{e}.w3",
                "block_sparse_moe.experts.{e}.w2",
            ],
            ..QWEN_EXPERTS
        }),
        adjacent_pairs: true,
        windows: Windows::All,
        ..PLAIN
    },
    Architecture { name: "arcee", model_type: "arcee", adjacent_pairs: true, ..PLAIN },
    Architecture { name: "chatglm", model_type: "glm", partial: true, names: &[GATE_UP], ..PLAIN },
    Architecture {
        name: "cohere2",
        model_type: "cohere2",
        centred: true,
        windows: Windows::AllBut(4),
        numbers: &[("logit_scale", "logit_scale")],
        more: |reading| {
            reading.required_number("logit_scale")?;
            reading.required("attention.sliding_window")
        },
        ..PLAIN
    },
    DEEPSEEK2,
    Architecture { name: "ernie4_5", model_type: "ernie4_5", ..PLAIN },
    Architecture { name: "exaone4", model_type: "exaone4", windows: Windows::AllBut(4), names: &POST_NORMS, ..PLAIN },
    Architecture { name: "gemma", model_type: "gemma", ..PLAIN },
    Architecture {
        name: "gemma2",
        model_type: "gemma2",
        windows: Windows::OfFamily(2),
        names: &SANDWICH,
        numbers: &[
            ("attn_logit_softcapping", "attn_logit_softcapping"),
            ("final_logit_softcapping", "final_logit_softcapping"),
        ],
        // Of the 27B alone the scores are scaled by another width than that of a head.
        more: |reading| reading.query_scale(46),
        ..PLAIN
    },
    Architecture {
        name: "gemma3",
        model_type: "gemma3_text",
        windows: Windows::AllBut(6),
        local_base: Some(LocalBase::Usual),
        names: &SANDWICH,
        numbers: &[("final_logit_softcapping", "final_logit_softcapping")],
        more: |reading| reading.query_scale(62),
        ..PLAIN
    },
    Architecture {
        name: "gemma-embedding",
        model_type: "gemma3_text",
        windows: Windows::AllBut(6),
        local_base: Some(LocalBase::Usual),
        names: &SANDWICH,
        more: |reading| {
            reading.set("use_bidirectional_attention", true);
            reading.query_scale(62)
        },
        ..PLAIN
    },
    Architecture {
        name: "glm4",
        model_type: "glm4",
        partial: true,
        names: &[GATE_UP, ("post_attention_norm", "post_self_attn_layernorm"), ("post_ffw_norm", "post_mlp_layernorm")],
        // Rows were put in another order for positions of three dimensions.
        more: |reading| reading.refuse("rope.dimension_sections"),
        ..PLAIN
    },
    Architecture {
        name: "glm4moe",
        model_type: "glm4_moe",
        experts: Some(Experts {
            model_type: "glm4_moe",
            renormalised: false,
            gating: 2,
            grouped: true,
            ..QWEN_EXPERTS
        }),
        partial: true,
        names: &[
            ("post_attention_norm", "post_attention_layernorm"),
            ("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
            ("ffn_up_shexp", "mlp.shared_experts.up_proj"),
            ("ffn_down_shexp", "mlp.shared_experts.down_proj"),
        ],
        numbers: &GROUPED_NUMBERS,
        more: |reading| {
            let normed = reading.has("blk.0.attn_q_norm.weight");
            reading.set("use_qk_norm", normed);
            reading.set_absent("first_k_dense_replace", 0);
            Ok(())
        },
        ..PLAIN
    },
    Architecture {
        name: "gpt-oss",
        model_type: "gpt_oss",
        experts: Some(GPT_OSS_EXPERTS),
        windows: Windows::AllBut(2),
        names: &[POST_NORMS[0]],
        whole_names: &[("attn_sinks.weight", "self_attn.sinks")],
        more: |reading| {
            reading.required("attention.sliding_window")?;
            let inner = reading.get("moe_intermediate_size").cloned().unwrap_or_default();
            reading.set("intermediate_size", inner);
            // No key says it: its config has it.
            reading.set_in_scaling("truncate", false);
            Ok(())
        },
        ..PLAIN
    },
    Architecture {
        name: "gptneox",
        model_type: "gpt_neox",
        centred: true,
        partial: true,
        stem: "gpt_neox",
        names: &[
            ("attn_q", "attention.query"),
            ("attn_k", "attention.key"),
            ("attn_v", "attention.value"),
            ("attn_output", "attention.dense"),
            ("ffn_up", "mlp.dense_h_to_4h"),
            ("ffn_down", "mlp.dense_4h_to_h"),
        ],
        outside: &[
            ("token_embd", "gpt_neox.embed_in"),
            ("output_norm", "gpt_neox.final_layer_norm"),
            ("output", "embed_out"),
        ],
        more: |reading| {
            let beside = reading.required_flag("use_parallel_residual")?;
            reading.set("use_parallel_residual", beside);
            // Rows of all queries, all keys and all values, where a checkpoint has those of a head together.
            reading.set("qkv_apart", true);
            Ok(())
        },
        ..PLAIN
    },
    Architecture {
        name: "granite",
        model_type: "granite",
        adjacent_pairs: true,
        numbers: &GRANITE_NUMBERS,
        more: |reading| reading.granite(),
        ..PLAIN
    },
    Architecture {
        name: "granitemoe",
        model_type: "granitemoe",
        experts: Some(GRANITE_EXPERTS),
        adjacent_pairs: true,
        numbers: &GRANITE_NUMBERS,
        more: |reading| {
            reading.refuse("expert_shared_feed_forward_length")?;
            reading.granite()
        },
        ..PLAIN
    },
    Architecture {
        name: "hunyuan-dense",
        model_type: "hunyuan_v1_dense",
        names: &[("attn_q_norm", "self_attn.query_layernorm"), ("attn_k_norm", "self_attn.key_layernorm")],
        ..PLAIN
    },
    Architecture {
        name: "mellum",
        model_type: "mellum",
        experts: Some(Experts { model_type: "mellum", ..QWEN_EXPERTS }),
        windows: Windows::AllBut(4),
        local_base: Some(LocalBase::Same),
        more: |reading| {
            let sparse = |layer| reading.has(&format!("blk.{layer}.{ROUTER}.weight"));
            let of = |layer| if sparse(layer) { "sparse" } else { "dense" };
            let types: Vec<&str> = (0..reading.layers()).map(of).collect();
            reading.set("mlp_layer_types", types);
            Ok(())
        },
        ..PLAIN
    },
    Architecture {
        name: "mistral3",
        model_type: "ministral3",
        adjacent_pairs: true,
        windows: Windows::All,
        more: |reading| {
            if let Some(beta) = reading.number("attention.temperature_scale")?.filter(|&beta| beta != 0.0) {
                reading.in_scaling("llama_4_scaling_beta", beta, "rope.scaling.original_context_length")?;
            }
            Ok(())
        },
        ..PLAIN
    },
    Architecture { name: "nemotron", model_type: "nemotron", centred: true, partial: true, ..PLAIN },
    Architecture {
        name: "olmo2",
        model_type: "olmo2",
        windowed: Some("olmo3"),
        windows: Windows::AllBut(4),
        local_base: Some(LocalBase::Same),
        names: &POST_NORMS,
        ..PLAIN
    },
    Architecture {
        name: "olmoe",
        model_type: "olmoe",
        experts: Some(Experts { model_type: "olmoe", renormalised: false, ..QWEN_EXPERTS }),
        ..PLAIN
    },
    Architecture {
        name: "phi2",
        model_type: "phi",
        centred: true,
        partial: true,
        names: &[("attn_output", "self_attn.dense"), ("ffn_up", "mlp.fc1"), ("ffn_down", "mlp.fc2")],
        outside: &[("output_norm", "model.final_layernorm")],
        ..PLAIN
    },
    Architecture {
        name: "phi3",
        model_type: "phi3",
        partial: true,
        windows: Windows::All,
        names: &[GATE_UP, ("attn_qkv", "self_attn.qkv_proj")],
        ..PLAIN
    },
    Architecture { name: "qwen2", model_type: "qwen2", windows: Windows::All, ..PLAIN },
    Architecture {
        name: "qwen2moe",
        model_type: "qwen2_moe",
        experts: Some(Experts { model_type: "qwen2_moe", renormalised: false, ..QWEN_EXPERTS }),
        names: &[
            ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
            ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
            ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
            ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
        ],
        more: |reading| {
            let width = reading.whole("expert_shared_feed_forward_length")?.filter(|&width| width > 0);
            let width = width.or(reading.whole("feed_forward_length")?);
            reading.set("shared_expert_intermediate_size", json!(width));
            Ok(())
        },
        ..PLAIN
    },
    Architecture { name: "qwen3", model_type: "qwen3", windows: Windows::All, ..PLAIN },
    Architecture {
        name: "qwen3moe",
        model_type: "qwen3_moe",
        experts: Some(QWEN_EXPERTS),
        windows: Windows::All,
        ..PLAIN
    },
    Architecture {
        name: "seed_oss",
        model_type: "seed_oss",
        names: &[("post_attention_norm", "post_attention_layernorm")],
        ..PLAIN
    },
    Architecture { name: "smollm3", model_type: "smollm3", adjacent_pairs: true, ..PLAIN },
    Architecture {
        name: "stablelm",
        model_type: "stablelm",
        centred: true,
        partial: true,
        more: |reading| {
            // The key says the contrary for some published models; the norm is there or not.
            let beside = !reading.has("blk.0.ffn_norm.weight");
            reading.set("use_parallel_residual", beside);
            match reading.has("blk.0.attn_q_norm.weight") {
                // Norms of all heads in one tensor, which the family has one by one.
                true => {
                    Err(reading.unsupported("blk.0.attn_q_norm.weight is there, which is not supported".to_owned()))
                }
                false => Ok(()),
            }
        },
        ..PLAIN
    },
    Architecture {
        name: "starcoder2",
        model_type: "starcoder2",
        centred: true,
        windows: Windows::All,
        names: &[("ffn_up", "mlp.c_fc"), ("ffn_down", "mlp.c_proj")],
        ..PLAIN
    },
];

/// The architecture of a file.
///
/// # Errors
/// `Format` when the metadata names none, `Unsupported` when it is another one.
pub fn find(metadata: &Metadata) -> Result<&'static Architecture> {
    const KEY: &str = "general.architecture";
    let name = metadata.text(KEY)?.ok_or_else(|| metadata.wrong(KEY, "the name of an architecture"))?;
    let all = || ARCHITECTURES.iter().chain(&HYBRIDS);
    all().find(|known| known.name == name).ok_or_else(|| {
        let known: Vec<&str> = all().map(|known| known.name).collect();
        let message = format!("{}: the architecture {} is not supported", metadata.file, quoted(name));
        Error::unsupported(format!("{message}; there are {}", known.join(", "))).about(metadata.file)
    })
}
