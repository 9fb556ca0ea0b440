//! AstrAI: GQA or MLA attention, dense or mixed feed-forward, rotary over adjacent pairs before the optional norm of
//! query and key heads, optional gate on the attention's result.

use super::*;

/// What an absent `model_type` means.
pub const MODEL_TYPE: &str = "autoregressive_lm";

/// `model_type` autoregressive_lm.
pub static ASTRAI: Family = Family { model_types: &[MODEL_TYPE], architecture, ignored: &[] };

static NAMES: Names = Names { embedding: "embed_tokens", lm_head: "lm_head", layer: "layers.{l}." };

static ATTENTION: AttentionNames = AttentionNames {
    q: "attention.q_proj",
    k: "attention.k_proj",
    v: "attention.v_proj",
    out: "attention.o_proj",
    q_norm: "attention.q_norm",
    k_norm: "attention.k_norm",
    gate: "attention.gate",
    kv_a: "attention.kv_a_proj",
    kv_norm: "attention.kv_norm",
    kv_b: "attention.kv_b_proj",
    sinks: "",
};

static DENSE: DenseNames = DenseNames { gate: "mlp.gate", up: "mlp.up", down: "mlp.down" };

static EXPERTS: [ExpertNames; 1] = [ExpertNames {
    router: "mlp.router",
    choice_bias: "",
    gate: "mlp.routed_experts.{e}.gate",
    up: "mlp.routed_experts.{e}.up",
    down: "mlp.routed_experts.{e}.down",
    stack: Stack::Rows,
}];

static SHARED: DenseNames = DenseNames {
    gate: "mlp.shared_experts.{e}.gate",
    up: "mlp.shared_experts.{e}.up",
    down: "mlp.shared_experts.{e}.down",
};

fn architecture(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let mut attention = plain_attention(&sizes);
    attention.names = &ATTENTION;
    if config.flag("use_gated_attention", false)? {
        attention.gate = Gate::Own;
    }
    if config.flag("use_qk_norm", false)? {
        attention.head_norm = HeadNorm::AfterRotary;
    }
    let (mut rotary_dims, mut start) = (sizes.head_dim, 0);
    match config.text("attn_type")?.unwrap_or("gqa") {
        "gqa" => {}
        "mla" => {
            let nope = config.size("qk_nope_head_dim", limits::HEAD_DIM_MAX)?;
            rotary_dims = config.size("qk_rope_head_dim", limits::HEAD_DIM_MAX)?;
            attention.head_dim = nope + rotary_dims;
            start = nope;
            attention.scale = 1.0 / (attention.head_dim as f32).sqrt();
            attention.kv = KvProjection::Latent { rank: config.size("kv_lora_rank", limits::WIDTH_MAX)? };
            if attention.head_dim * sizes.heads != sizes.hidden {
                return Err(config.bad(
                    "qk_nope_head_dim",
                    format_args!(
                        "plus `qk_rope_head_dim` is {}, times {} heads not the hidden size {}",
                        attention.head_dim, sizes.heads, sizes.hidden
                    ),
                ));
            }
        }
        other => return Err(config.bad("attn_type", format_args!("is \"{other}\", expected gqa or mla"))),
    }
    if !rotary_dims.is_multiple_of(2) {
        return Err(config.bad("qk_rope_head_dim", format_args!("is {rotary_dims}, expected an even number")));
    }
    attention.rotary = Some(HeadRotary { index: 0, start, interleaved: true });
    let dense = Dense { names: &DENSE, ..plain_dense(&sizes) };
    let experts = match config.text("ffn_type")?.unwrap_or("mlp") {
        "mlp" => None,
        "moe" => Some(experts(config, &sizes)?),
        other => return Err(config.bad("ffn_type", format_args!("is \"{other}\", expected mlp or moe"))),
    };
    let sparse = sparse_layers(config)?;
    let norm = |name| Norm::rms(name, sizes.eps);
    let layer = |l| {
        let feed_forward = experts.filter(|_| sparse(l)).map_or(Operation::Dense(dense), Operation::Experts);
        vec![
            Block::new(norm("input_norm"), Operation::Attention(attention)),
            Block::new(norm("post_attention_norm"), feed_forward),
        ]
    };
    Ok(Architecture {
        per_layer: None,
        model_type: model_type.to_owned(),
        hidden: sizes.hidden,
        vocab: sizes.vocab,
        context: sizes.context,
        context_max: sizes.context,
        rotary_context: 0,
        embedding_scale: 1.0,
        final_norm: norm("norm"),
        logits_scale: 1.0,
        logits_softcap: None,
        prefix: Prefix::None,
        // The published loader copies the embedding when an untied checkpoint has no output matrix.
        head: if sizes.tied { Head::Tied } else { Head::OwnIfPresent },
        head_bias: false,
        rotaries: vec![rotary(config, rotary_dims)?],
        layers: (0..sizes.layers).map(layer).collect(),
        names: &NAMES,
    })
}

/// `ntk` scaling replaces the base by base * factor^(d / (d - 2)); other types leave it unchanged.
fn rotary(config: &Config, dims: usize) -> Result<RotarySpec> {
    let mut theta = config.positive("rope_theta", Some(10_000.0))?;
    if let Some(scaling) = config.value("rope_scaling").filter(|v| v.is_object()).map(|v| config.within(v))
        && scaling.text("type")?.unwrap_or("ntk") == "ntk"
        && dims > 2
    {
        theta *= scaling.positive("factor", Some(1.0))?.powf(dims as f64 / (dims as f64 - 2.0));
    }
    RotarySpec::plain(theta, dims).checked(config)
}

fn experts(config: &Config, sizes: &ModelDims) -> Result<Experts> {
    let (count, chosen) = expert_counts(config, &["n_routed_experts"], "n_activated_experts")?;
    let shared = config.optional_count("n_shared_experts", limits::EXPERTS_MAX)?.unwrap_or(0);
    check_experts(config, &["n_shared_experts"], count + shared)?;
    let width = |key| Ok(config.optional_size(key, limits::WIDTH_MAX)?.unwrap_or(sizes.intermediate));
    let plain = plain_dense(sizes);
    let each = Dense { intermediate: width("shared_expert_intermediate_size")?, names: &SHARED, ..plain };
    Ok(Experts {
        shared: (shared > 0).then_some(Shared { count: shared, each, gate: "" }),
        ..Experts::new(
            count,
            Dense { intermediate: width("moe_intermediate_size")?, ..plain },
            Routing::softmax(chosen, config.flag("norm_topk_prob", true)?),
            &EXPERTS,
        )
    })
}
