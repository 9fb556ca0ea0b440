//! AstrAI: GQA or MLA attention, dense or mixed feed-forward, rotary over adjacent pairs before the optional norm of
//! query and key heads, optional gate on the attention's result.

use super::*;
use crate::backend::Routing;

/// What an absent `model_type` means.
pub const MODEL_TYPE: &str = "autoregressive_lm";

/// `model_type` autoregressive_lm.
pub static ASTRAI: Family = Family { model_types: &[MODEL_TYPE], architecture, ignored: &[] };

static NAMES: Names = Names {
    embedding: "embed_tokens",
    final_norm: "norm",
    lm_head: "lm_head",
    attention_norm: "layers.{l}.input_norm",
    ffn_norm: "layers.{l}.post_attention_norm",
    q: "layers.{l}.attention.q_proj",
    k: "layers.{l}.attention.k_proj",
    v: "layers.{l}.attention.v_proj",
    out: "layers.{l}.attention.o_proj",
    q_norm: "layers.{l}.attention.q_norm",
    k_norm: "layers.{l}.attention.k_norm",
    attention_gate: "layers.{l}.attention.gate",
    kv_a: "layers.{l}.attention.kv_a_proj",
    kv_norm: "layers.{l}.attention.kv_norm",
    kv_b: "layers.{l}.attention.kv_b_proj",
    gate: "layers.{l}.mlp.gate",
    up: "layers.{l}.mlp.up",
    down: "layers.{l}.mlp.down",
    router: "layers.{l}.mlp.router",
    expert_gate: "layers.{l}.mlp.routed_experts.{e}.gate",
    expert_up: "layers.{l}.mlp.routed_experts.{e}.up",
    expert_down: "layers.{l}.mlp.routed_experts.{e}.down",
    shared_gate: "layers.{l}.mlp.shared_experts.{e}.gate",
    shared_up: "layers.{l}.mlp.shared_experts.{e}.up",
    shared_down: "layers.{l}.mlp.shared_experts.{e}.down",
};

fn architecture(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let mut attention = plain_attention(&sizes);
    attention.rotary_interleaved = true;
    attention.gated = config.flag("use_gated_attention", false)?;
    if config.flag("use_qk_norm", false)? {
        attention.head_norm = HeadNorm::AfterRotary;
    }
    let mut rotary_dims = sizes.head_dim;
    match config.text("attn_type")?.unwrap_or("gqa") {
        "gqa" => {}
        "mla" => {
            let nope = config.size("qk_nope_head_dim", limits::HEAD_DIM_MAX)?;
            rotary_dims = config.size("qk_rope_head_dim", limits::HEAD_DIM_MAX)?;
            attention.head_dim = nope + rotary_dims;
            attention.rotary_start = nope;
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
    let dense_ffn = dense(&sizes);
    let experts = match config.text("ffn_type")?.unwrap_or("mlp") {
        "mlp" => None,
        "moe" => Some(experts(config, &sizes)?),
        other => return Err(config.bad("ffn_type", format_args!("is \"{other}\", expected mlp or moe"))),
    };
    let sparse = sparse_layers(config)?;
    let layer = |l| Layer { attention, ffn: experts.filter(|_| sparse(l)).unwrap_or(dense_ffn) };
    Ok(Architecture {
        model_type: model_type.to_owned(),
        hidden: sizes.hidden,
        vocab: sizes.vocab,
        context: sizes.context,
        context_max: sizes.context,
        rotary_context: 0,
        eps: sizes.eps,
        // The published loader copies the embedding when an untied checkpoint has no output matrix.
        head: if sizes.tied { Head::Tied } else { Head::OwnIfPresent },
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

fn experts(config: &Config, sizes: &ModelDims) -> Result<Ffn> {
    let (count, chosen) = expert_counts(config, &["n_routed_experts"], "n_activated_experts")?;
    let shared = config.optional_count("n_shared_experts", limits::EXPERTS_MAX)?.unwrap_or(0);
    check_experts(config, &["n_shared_experts"], count + shared)?;
    let width = |key| Ok(config.optional_size(key, limits::WIDTH_MAX)?.unwrap_or(sizes.intermediate));
    Ok(Ffn::Experts {
        count,
        intermediate: width("moe_intermediate_size")?,
        routing: Routing::softmax(chosen, config.flag("norm_topk_prob", true)?),
        shared,
        shared_intermediate: width("shared_expert_intermediate_size")?,
    })
}
