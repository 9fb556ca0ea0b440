//! Mistral (a sliding window in every layer) and Mixtral (experts in every layer, weights renormalised).

use super::*;
use crate::backend::Routing;

/// `model_type` mistral.
pub static MISTRAL: Family = Family { model_types: &["mistral"], architecture: mistral, ignored: HF_IGNORED };
/// `model_type` mixtral.
pub static MIXTRAL: Family = Family { model_types: &["mixtral"], architecture: mixtral, ignored: HF_IGNORED };

static MIXTRAL_NAMES: Names = Names {
    router: "model.layers.{l}.block_sparse_moe.gate",
    expert_gate: "model.layers.{l}.block_sparse_moe.experts.{e}.w1",
    expert_up: "model.layers.{l}.block_sparse_moe.experts.{e}.w3",
    expert_down: "model.layers.{l}.block_sparse_moe.experts.{e}.w2",
    ..HF_NAMES
};

fn mistral(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let windows = windows(config, sizes.layers, |_| true)?;
    lineage(config, model_type, &sizes, &HF_NAMES, |l| Layer {
        attention: Attention { window: windows[l], ..plain_attention(&sizes) },
        ffn: dense(&sizes),
    })
}

fn mixtral(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let windows = windows(config, sizes.layers, |_| true)?;
    let (count, chosen) = expert_counts(config, &["num_local_experts"], "num_experts_per_tok")?;
    lineage(config, model_type, &sizes, &MIXTRAL_NAMES, |l| Layer {
        attention: Attention { window: windows[l], ..plain_attention(&sizes) },
        ffn: Ffn::Experts {
            count,
            intermediate: sizes.intermediate,
            routing: Routing::softmax(chosen, true),
            shared: 0,
            shared_intermediate: 0,
        },
    })
}
