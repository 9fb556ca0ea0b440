//! What DeepSeek's mixtures and those made after them share: the router and the network for all tokens.

use super::*;
use crate::backend::{RouterGroups, RouterScore};

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
    let activation = config.activation("hidden_act", "silu")?;
    let each = Dense { intermediate, activation, ..plain_dense(sizes) };
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
        choice_bias: routing.score == RouterScore::Sigmoid,
        shared: (shared > 0).then_some(of_all),
        names: &HF_EXPERTS,
    })
}
