//! DeepSeek V2 and V3: latent attention, experts with a network for all tokens beside them. What mixtures made after them share:
//! the attention, the router and that network.

use super::*;
use crate::backend::{RouterGroups, RouterScore};
use crate::model::rotary::score_factor;
use std::sync::LazyLock;

/// `model_type` deepseek_v2.
pub static DEEPSEEK_V2: Family =
    Family { model_types: &["deepseek_v2"], architecture: deepseek_v2, ignored: HF_IGNORED };
/// `model_type` deepseek_v3.
pub static DEEPSEEK_V3: Family =
    Family { model_types: &["deepseek_v3"], architecture: deepseek_v3, ignored: HF_IGNORED };

static LATENT: LatentNames = LatentNames {
    q: "self_attn.q_proj",
    q_a: "self_attn.q_a_proj",
    q_norm: "self_attn.q_a_layernorm",
    q_b: "self_attn.q_b_proj",
    kv_a: "self_attn.kv_a_proj_with_mqa",
    kv_norm: "self_attn.kv_a_layernorm",
    kv_b: "self_attn.kv_b_proj",
    out: "self_attn.o_proj",
};

/// The norms inside of the attention have it, whatever `rms_norm_eps` says.
const EPS: f32 = 1e-6;

static SHARED: DenseNames = DenseNames {
    gate: "mlp.shared_experts.gate_proj",
    up: "mlp.shared_experts.up_proj",
    down: "mlp.shared_experts.down_proj",
};

/// The router of DeepSeek V3: sigmoids, a bias for the choice, the best two of a group count for it.
pub(super) fn sigmoid_routing(config: &Config) -> Result<Routing> {
    let chosen = config.size("num_experts_per_tok", limits::EXPERTS_MAX)?;
    let renormalise = config.flag("norm_topk_prob", true)?;
    let routing = Routing {
        score: RouterScore::Sigmoid,
        epsilon: 1e-20,
        factor: config.factor("routed_scaling_factor", 1.0)?,
        ..Routing::softmax(chosen, renormalise)
    };
    Ok(Routing { groups: groups(config, 2)?, ..routing })
}

/// The groups that experts are chosen from, if they are not all chosen from one.
pub(super) fn groups(config: &Config, best: usize) -> Result<Option<RouterGroups>> {
    let count = config.optional_size("n_group", limits::EXPERTS_MAX)?.unwrap_or(1);
    let chosen = config.optional_size("topk_group", limits::EXPERTS_MAX)?.unwrap_or(count);
    let experts = config.size("n_routed_experts", limits::EXPERTS_MAX)?;
    config.divisible("n_routed_experts", experts, "n_group", count)?;
    if chosen > count {
        return Err(config.bad("topk_group", format_args!("is {chosen}, more than the {count} groups there are")));
    }
    if chosen * (experts / count) < config.size("num_experts_per_tok", limits::EXPERTS_MAX)? {
        return Err(config.bad("topk_group", format_args!("is {chosen}, and those groups have too few experts")));
    }
    Ok((count > 1 && chosen < count).then_some(RouterGroups { count, chosen, best }))
}

/// The experts of a layer.
pub(super) fn experts(config: &Config, sizes: &ModelDims, routing: Routing) -> Result<Experts> {
    let (count, _) = expert_counts(config, &["n_routed_experts"], "num_experts_per_tok")?;
    let intermediate = config.size("moe_intermediate_size", limits::WIDTH_MAX)?;
    let each = Dense { intermediate, ..mlp(config, sizes)? };
    let shared = config.optional_count("n_shared_experts", limits::EXPERTS_MAX)?.unwrap_or(0);
    let all = intermediate.saturating_mul(shared);
    if all > limits::WIDTH_MAX {
        return Err(
            config.bad("n_shared_experts", format_args!("makes a width of {all}, the limit is {}", limits::WIDTH_MAX))
        );
    }
    let of_all = Shared { count: 1, each: Dense { intermediate: all, names: &SHARED, ..each }, gate: "" };
    Ok(Experts {
        count,
        each,
        routing,
        router_bias: false,
        choice_bias: routing.score == RouterScore::Sigmoid,
        shared: (shared > 0).then_some(of_all),
        scale: "",
        inside: None,
        names: &HF_EXPERTS,
    })
}

/// The sizes of a model with latent attention, its rotation, and the attention.
pub(super) fn latent(config: &Config) -> Result<(ModelDims, Rotary, LatentAttention)> {
    let size = |key| config.size(key, limits::HEAD_DIM_MAX);
    let (nope, rope, v_dim) = (size("qk_nope_head_dim")?, size("qk_rope_head_dim")?, size("v_head_dim")?);
    if !rope.is_multiple_of(2) {
        return Err(config.bad("qk_rope_head_dim", format_args!("is {rope}, expected an even number")));
    }
    let sizes = ModelDims::with_head_dim(config, false, rope)?;
    let rank = config.size("kv_lora_rank", limits::WIDTH_MAX)?;
    let q_rank = config.optional_size("q_lora_rank", limits::WIDTH_MAX)?;
    let widest = sizes.heads.saturating_mul((rank + rope).max(nope + rope).max(nope + v_dim));
    if widest > limits::WIDTH_MAX {
        let problem = format_args!("times heads makes a width of {widest}, the limit is {}", limits::WIDTH_MAX);
        return Err(config.bad("kv_lora_rank", problem));
    }
    let attention = LatentAttention {
        heads: sizes.heads,
        rank,
        nope,
        rope,
        v_dim,
        q_rank,
        rotary: 0,
        interleaved: config.flag("rope_interleave", true)?,
        eps: EPS,
        bias: config.flag("attention_bias", false)?,
        scale: (score_factor(config)? / ((nope + rope) as f64).sqrt()) as f32,
        names: &LATENT,
    };
    let rotary = Rotary::read(config, rope, sizes.context)?;
    Ok((sizes, rotary, attention))
}

/// A model of these layers, some with experts.
pub(super) fn model(
    config: &Config,
    model_type: &str,
    (sizes, rotary, attention): (ModelDims, Rotary, LatentAttention),
    experts: Experts,
    sparse: impl Fn(usize) -> bool,
) -> Result<Architecture> {
    let dense = mlp(config, &sizes)?;
    let norm = |name| Norm::rms(name, sizes.eps);
    Ok(with_rotary(model_type, &sizes, rotary, |l| {
        let feed_forward = if sparse(l) { Operation::Experts(experts) } else { Operation::Dense(dense) };
        vec![
            Block::new(norm("input_layernorm"), Operation::Latent(attention)),
            Block::new(norm("post_attention_layernorm"), feed_forward),
        ]
    }))
}

/// What configs leave out, as their classes have it.
static V2_DEFAULTS: LazyLock<Value> =
    LazyLock::new(|| serde_json::json!({"n_shared_experts": 2, "q_lora_rank": 1536, "kv_lora_rank": 512}));
static V3_DEFAULTS: LazyLock<Value> = LazyLock::new(|| {
    serde_json::json!({"n_shared_experts": 1, "q_lora_rank": 1536, "kv_lora_rank": 512, "routed_scaling_factor": 2.5,
        "n_group": 8, "topk_group": 4})
});

fn deepseek_v2(config: &Config, model_type: &str) -> Result<Architecture> {
    let config = &config.with_defaults(&V2_DEFAULTS);
    if config.flag("norm_topk_prob", false)? {
        return Err(config.refused("`norm_topk_prob` of DeepSeek V2, about which implementations differ,"));
    }
    match config.text("scoring_func")? {
        None | Some("softmax") => {}
        Some(other) => return Err(config.refused(&format!("`scoring_func` \"{other}\" of DeepSeek V2"))),
    }
    let parts = latent(config)?;
    let grouped = match config.text("topk_method")?.unwrap_or("greedy") {
        "greedy" => None,
        // A group is as good as its best expert.
        "group_limited_greedy" => groups(config, 1)?,
        other => return Err(config.refused(&format!("`topk_method` \"{other}\" of DeepSeek V2"))),
    };
    let chosen = config.size("num_experts_per_tok", limits::EXPERTS_MAX)?;
    let factor = config.factor("routed_scaling_factor", 1.0)?;
    let routing = Routing { groups: grouped, factor, ..Routing::softmax(chosen, false) };
    let experts = experts(config, &parts.0, routing)?;
    let first = config.optional_count("first_k_dense_replace", limits::LAYERS_MAX)?.unwrap_or(0);
    model(config, model_type, parts, experts, |l| l >= first)
}

fn deepseek_v3(config: &Config, model_type: &str) -> Result<Architecture> {
    let config = &config.with_defaults(&V3_DEFAULTS);
    let parts = latent(config)?;
    let experts = experts(config, &parts.0, sigmoid_routing(config)?)?;
    let first = config.optional_count("first_k_dense_replace", limits::LAYERS_MAX)?.unwrap_or(3);
    model(config, model_type, parts, experts, |l| l >= first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{FrameContent, KvShape};
    use crate::dtype::DType;

    /// DeepSeek-V2-Lite as it is published.
    #[test]
    fn a_token_takes_a_ninth_of_what_keys_and_values_of_all_heads_would() {
        let config = serde_json::json!({"model_type": "deepseek_v2", "vocab_size": 102_400, "hidden_size": 2048,
            "intermediate_size": 10_944, "moe_intermediate_size": 1408, "num_hidden_layers": 27,
            "num_attention_heads": 16, "num_key_value_heads": 16, "n_shared_experts": 2, "n_routed_experts": 64,
            "routed_scaling_factor": 1.0, "kv_lora_rank": 512, "q_lora_rank": null, "qk_rope_head_dim": 64,
            "v_head_dim": 128, "qk_nope_head_dim": 128, "topk_method": "greedy", "n_group": 1, "topk_group": 1,
            "num_experts_per_tok": 6, "first_k_dense_replace": 1, "norm_topk_prob": false, "scoring_func": "softmax",
            "max_position_embeddings": 163_840, "rms_norm_eps": 1e-6, "rope_theta": 10_000,
            "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707,
                "original_max_position_embeddings": 4096, "type": "yarn"}});
        let architecture = deepseek_v2(&Config::new(&config, "test"), "deepseek_v2").expect("good");
        let groups = architecture.groups();
        let [group] = groups.as_slice() else { panic!("{groups:?}") };
        assert_eq!(
            (group.layers.len(), group.kv_heads, group.k_dim, group.v_dim, group.content == FrameContent::Latent),
            (27, 1, 576, 512, true)
        );
        for dtype in [DType::Bf16, DType::F32, DType::I8] {
            let own = group.shape(1, 16, dtype);
            let expanded = KvShape { kv_heads: 16, k_dim: 192, v_dim: 128, content: FrameContent::KeysValues, ..own };
            let bytes = |shape: KvShape| shape.frame_bytes().expect("small");
            assert!(bytes(own) * 100 <= bytes(expanded) * 15, "{} of {}", bytes(own), bytes(expanded));
        }
    }
}
