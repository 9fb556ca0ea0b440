//! Mistral (a sliding window in every layer) and Mixtral (experts in every layer, weights renormalised).

use super::*;

/// `model_type` mistral.
pub static MISTRAL: Family = Family { model_types: &["mistral"], architecture: mistral, ignored: HF_IGNORED };
/// `model_type` mixtral.
pub static MIXTRAL: Family = Family { model_types: &["mixtral"], architecture: mixtral, ignored: HF_IGNORED };

static MIXTRAL_EXPERTS: [ExpertNames; 1] = [ExpertNames {
    router: "block_sparse_moe.gate",
    choice_bias: "",
    gate: "block_sparse_moe.experts.{e}.w1",
    up: "block_sparse_moe.experts.{e}.w3",
    down: "block_sparse_moe.experts.{e}.w2",
    stack: Stack::Rows,
}];

fn mistral(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let windows = windows(config, sizes.layers, |_| true)?;
    let mlp = mlp(config, &sizes)?;
    lineage(config, model_type, &sizes, |l| {
        pre_norm(&sizes, Attention { window: windows[l], ..plain_attention(&sizes) }, Operation::Dense(mlp))
    })
}

fn mixtral(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let windows = windows(config, sizes.layers, |_| true)?;
    let (count, chosen) = expert_counts(config, &["num_local_experts"], "num_experts_per_tok")?;
    let experts = Experts::new(count, mlp(config, &sizes)?, Routing::softmax(chosen, true), &MIXTRAL_EXPERTS);
    lineage(config, model_type, &sizes, |l| {
        pre_norm(&sizes, Attention { window: windows[l], ..plain_attention(&sizes) }, Operation::Experts(experts))
    })
}
