//! Granite 3 and Granite-MoE: Llama with factors on the embedding, the scores, what each operation adds, and the logits.

use super::*;

/// `model_type` granite.
pub static GRANITE: Family = Family { model_types: &["granite"], architecture: granite, ignored: HF_IGNORED };
/// `model_type` granitemoe.
pub static GRANITE_MOE: Family =
    Family { model_types: &["granitemoe"], architecture: granite_moe, ignored: HF_IGNORED };

static EXPERTS: [ExpertNames; 2] = [
    ExpertNames {
        router: "block_sparse_moe.router.layer",
        choice_bias: "",
        gate: "block_sparse_moe.input_linear.weight",
        up: "block_sparse_moe.input_linear.weight",
        down: "block_sparse_moe.output_linear.weight",
    },
    // As GGUF files have them.
    ExpertNames {
        router: "block_sparse_moe.router.layer",
        choice_bias: "",
        gate: "block_sparse_moe.experts.{e}.gate_proj",
        up: "block_sparse_moe.experts.{e}.up_proj",
        down: "block_sparse_moe.experts.{e}.down_proj",
    },
];

fn granite(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let activation = config.activation("hidden_act", "silu")?;
    let mlp = Dense { bias: config.flag("mlp_bias", false)?, activation, ..plain_dense(&sizes) };
    model(config, model_type, &sizes, Operation::Dense(mlp))
}

fn granite_moe(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let (count, chosen) = expert_counts(config, &["num_local_experts"], "num_experts_per_tok")?;
    let each = Dense { activation: config.activation("hidden_act", "silu")?, ..plain_dense(&sizes) };
    let routing = Routing::softmax(chosen, true);
    let experts = Experts { count, each, routing, choice_bias: false, shared: None, names: &EXPERTS };
    model(config, model_type, &sizes, Operation::Experts(experts))
}

fn model(config: &Config, model_type: &str, sizes: &ModelDims, feed_forward: Operation) -> Result<Architecture> {
    let bias = config.flag("attention_bias", false)?;
    let scale = config.factor("attention_multiplier", 1.0)?;
    let attention = Attention { qkv_bias: bias, out_bias: bias, scale, ..plain_attention(sizes) };
    let factor = config.factor("residual_multiplier", 1.0)?;
    let model = lineage(config, model_type, sizes, |_| {
        let blocks = pre_norm(sizes, attention, feed_forward);
        blocks.into_iter().map(|block| Block { factor, ..block }).collect()
    })?;
    Ok(Architecture {
        embedding_scale: config.factor("embedding_multiplier", 1.0)?,
        logits_scale: 1.0 / config.positive("logits_scaling", Some(1.0))? as f32,
        ..model
    })
}
