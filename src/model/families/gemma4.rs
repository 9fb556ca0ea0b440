//! Gemma 4, the text model: layers that see all have larger heads and rotate a part of them, and may have keys for values; the last
//! ones may read what an earlier layer has kept; tokens may have an input for each layer; experts may stand beside the network.

use super::hybrid::layer_kinds;
use super::*;
use std::sync::LazyLock;

/// `model_type` gemma4_text, also inside gemma4.
pub static GEMMA4: Family = Family {
    model_types: &["gemma4_text"],
    architecture: gemma4,
    ignored: &[HF_IGNORED[0], UNUSED[0], UNUSED[1], UNUSED[2]],
};

/// Layers that share have them all the same.
const UNUSED: [Ignored; 3] = {
    const REASON: &str = "keys and values of a layer that reads those of another";
    [
        Ignored { suffix: ".self_attn.k_proj.weight", reason: REASON },
        Ignored { suffix: ".self_attn.v_proj.weight", reason: REASON },
        Ignored { suffix: ".self_attn.k_norm.weight", reason: REASON },
    ]
};

/// What configs leave out.
static DEFAULTS: LazyLock<Value> = LazyLock::new(|| {
    serde_json::json!({"head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "sliding_window": 512,
        "max_position_embeddings": 131_072, "vocab_size": 262_144})
});

static EXPERTS: [ExpertNames; 2] = [
    ExpertNames {
        router: "router.proj",
        choice_bias: "",
        gate: "experts.gate_up_proj",
        up: "experts.gate_up_proj",
        down: "experts.down_proj",
        stack: Stack::Rows,
    },
    // As GGUF files have them.
    ExpertNames {
        router: "router.proj",
        choice_bias: "",
        gate: "experts.{e}.gate_proj",
        up: "experts.{e}.up_proj",
        down: "experts.{e}.down_proj",
        stack: Stack::Rows,
    },
];

/// What a kind of layer attends with, beside its rotation.
struct Heads {
    kv_heads: usize,
    head_dim: usize,
}

/// The heads of a layer that sees all: of a config of its own for the layer, or of keys for all such layers.
fn full_heads(config: &Config, sizes: &ModelDims, layer: usize, key_is_value: bool) -> Result<Heads> {
    if let Some(own) = config.object("per_layer_config") {
        let own = own.object(&layer.to_string());
        let of = |key, max| own.map(|own| own.optional_size(key, max)).transpose().map(Option::flatten);
        return Ok(Heads {
            kv_heads: of("num_key_value_heads", limits::HEADS_MAX)?.unwrap_or(sizes.kv_heads),
            head_dim: of("head_dim", limits::HEAD_DIM_MAX)?.unwrap_or(sizes.head_dim),
        });
    }
    let global = config.optional_size("num_global_key_value_heads", limits::HEADS_MAX)?;
    Ok(Heads {
        kv_heads: global.filter(|_| key_is_value).unwrap_or(sizes.kv_heads),
        head_dim: config.optional_size("global_head_dim", limits::HEAD_DIM_MAX)?.unwrap_or(512),
    })
}

/// The rotations of layers that see all and of those that slide.
fn rotaries(config: &Config, sizes: &ModelDims, full: &Heads) -> Result<(Rotary, RotarySpec)> {
    let read = |kind, dims| Rotary::read_for(config, kind, dims, sizes.context);
    if config.object("rope_parameters").is_some_and(|all| all.has_objects()) {
        let (full, sliding) = (read("full_attention", full.head_dim)?, read("sliding_attention", sizes.head_dim)?);
        return Ok((full, sliding.spec));
    }
    let rotated = full.head_dim / 4;
    let spec = crate::model::rotary::proportional(1e6, full.head_dim, rotated).checked(config)?;
    Ok((Rotary { spec, ..Rotary::none(sizes.context) }, RotarySpec::plain(1e4, sizes.head_dim)))
}

/// Experts beside the network.
fn beside(config: &Config, sizes: &ModelDims, mlp: Dense) -> Result<Operation> {
    let (count, chosen) = expert_counts(config, &["num_experts"], "top_k_experts")?;
    let intermediate = config.size("moe_intermediate_size", limits::WIDTH_MAX)?;
    let routed = Experts::new(count, Dense { intermediate, ..mlp }, Routing::softmax(chosen, true), &EXPERTS);
    let norm = |name| Norm::rms(name, sizes.eps);
    Ok(Operation::DenseAndExperts(DenseAndExperts {
        dense: (norm("pre_feedforward_layernorm"), mlp, norm("post_feedforward_layernorm_1")),
        experts: (
            norm("pre_feedforward_layernorm_2"),
            Experts { scale: "router.per_expert_scale", ..routed },
            norm("post_feedforward_layernorm_2"),
        ),
        router: RouterInput { gain: "router.scale", eps: sizes.eps, factor: (sizes.hidden as f32).sqrt().recip() },
    }))
}

/// The layer whose keys and values one reads that has none: the last before the shared ones of the same kind.
fn source(config: &Config, slides: &[bool], first_shared: usize, layer: usize) -> Result<usize> {
    let found = slides[..first_shared].iter().rposition(|other| *other == slides[layer]);
    found.ok_or_else(|| config.bad("num_kv_shared_layers", "leaves no layer of a kind with keys and values of its own"))
}

fn gemma4(config: &Config, model_type: &str) -> Result<Architecture> {
    let config = &config.with_defaults(&DEFAULTS);
    if config.value("use_bidirectional_attention").is_some_and(|value| value.as_str() == Some("all")) {
        return Err(config.refused("attention to later tokens"));
    }
    let sizes = ModelDims::read(config, true)?;
    let layers = sizes.layers;
    let window = config.size("sliding_window", limits::CONTEXT_MAX)? as u32;
    let kinds = layer_kinds(config, layers, &[("sliding_attention", true), ("full_attention", false)])?;
    let mut slides = kinds.unwrap_or_else(|| (0..layers).map(|l| !(l + 1).is_multiple_of(6)).collect());
    // The last layer sees all, whatever the config says.
    slides.last_mut().into_iter().for_each(|last| *last = false);
    let key_is_value = config.flag("attention_k_eq_v", false)?;
    let shared = config.optional_count("num_kv_shared_layers", layers)?.unwrap_or(0);
    let first_shared = layers - shared;
    let bias = config.flag("attention_bias", false)?;
    let plain = Attention {
        head_norm: HeadNorm::BeforeRotary,
        value_norm: true,
        qkv_bias: bias,
        out_bias: bias,
        scale: 1.0,
        ..plain_attention(&sizes)
    };
    let full = full_heads(config, &sizes, layers - 1, key_is_value)?;
    let (rotary, sliding) = rotaries(config, &sizes, &full)?;
    let mut attention = Vec::with_capacity(layers);
    for l in 0..layers {
        let index = usize::from(slides[l]);
        let rotary = Some(HeadRotary { index, start: 0, interleaved: false });
        let Heads { kv_heads, head_dim } = match slides[l] {
            true => Heads { kv_heads: sizes.kv_heads, head_dim: sizes.head_dim },
            false => full_heads(config, &sizes, l, key_is_value)?,
        };
        config.divisible("num_attention_heads", sizes.heads, "num_key_value_heads", kv_heads)?;
        if head_dim != if slides[l] { sizes.head_dim } else { full.head_dim } {
            return Err(config.refused("a head size that differs among the layers that see all"));
        }
        let kv = match (l >= first_shared, key_is_value && !slides[l]) {
            (true, _) => KvProjection::Shared { layer: source(config, &slides, first_shared, l)? },
            (false, true) => KvProjection::KeyIsValue,
            (false, false) => KvProjection::Direct,
        };
        let window = slides[l].then_some(window);
        attention.push(Attention { kv_heads, head_dim, kv, rotary, window, ..plain });
    }
    let mlp = Dense { activation: config.activation("hidden_activation", "")?, ..plain_dense(&sizes) };
    let wide = config.flag("use_double_wide_mlp", false)?;
    let with_experts = match config.flag("enable_moe_block", false)? {
        true => Some(beside(config, &sizes, mlp)?),
        false => None,
    };
    let width = config.optional_count("hidden_size_per_layer_input", limits::WIDTH_MAX)?.unwrap_or(0);
    let own_vocab = config.optional_size("vocab_size_per_layer_input", limits::VOCAB_MAX)?.unwrap_or(sizes.vocab);
    if width > 0 && own_vocab != sizes.vocab {
        return Err(config.refused("a second embedding of another vocabulary (`vocab_size_per_layer_input`)"));
    }
    if width.saturating_mul(layers) > limits::WIDTH_MAX {
        return Err(config.bad("hidden_size_per_layer_input", format_args!("is {width}, for {layers} layers too much")));
    }
    let norm = |name| Norm::rms(name, sizes.eps);
    let mut model = with_rotary(model_type, &sizes, rotary, |l| {
        let intermediate = if wide && l >= first_shared { 2 * sizes.intermediate } else { sizes.intermediate };
        let feed_forward = Block {
            after: Some(norm("post_feedforward_layernorm")),
            ..match with_experts {
                Some(operation) => Block { before: Before::Stream, ..Block::new(norm(""), operation) },
                None => {
                    let dense = Operation::Dense(Dense { intermediate, ..mlp });
                    Block::new(norm("pre_feedforward_layernorm"), dense)
                }
            }
        };
        let attention = Block {
            after: Some(norm("post_attention_layernorm")),
            ..Block::new(norm("input_layernorm"), Operation::Attention(attention[l]))
        };
        let mut blocks = vec![attention, feed_forward];
        if width > 0 {
            let names = ["per_layer_input_gate", "per_layer_projection"];
            let input = PerLayerInput { layer: l, activation: mlp.activation, names };
            blocks.push(Block {
                before: Before::Stream,
                after: Some(norm("post_per_layer_input_norm")),
                ..Block::new(norm(""), Operation::PerLayerInput(input))
            });
        }
        blocks.last_mut().into_iter().for_each(|last| last.scalar = "layer_scalar");
        blocks
    });
    model.rotaries.push(sliding);
    let names = ["model.embed_tokens_per_layer", "model.per_layer_model_projection", "model.per_layer_projection_norm"];
    Ok(Architecture {
        embedding_scale: (sizes.hidden as f32).sqrt(),
        logits_softcap: config.cap("final_logit_softcapping")?,
        per_layer: (width > 0).then_some(PerLayerInputs { width, names, eps: sizes.eps }),
        ..model
    })
}
