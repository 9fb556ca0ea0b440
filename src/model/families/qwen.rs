//! Qwen2 and 2.5 (biases on q, k, v), Qwen2-MoE (an expert for all with a gate of its own), Qwen3 (norms of query and key
//! heads), Qwen3-MoE.

use super::*;

/// `model_type` qwen2.
pub static QWEN2: Family = Family { model_types: &["qwen2"], architecture: qwen2, ignored: HF_IGNORED };
/// `model_type` qwen2_moe.
pub static QWEN2_MOE: Family = Family { model_types: &["qwen2_moe"], architecture: qwen2_moe, ignored: HF_IGNORED };
/// `model_type` qwen3.
pub static QWEN3: Family = Family { model_types: &["qwen3"], architecture: qwen3, ignored: HF_IGNORED };
/// `model_type` qwen3_moe.
pub static QWEN3_MOE: Family = Family { model_types: &["qwen3_moe"], architecture: qwen3_moe, ignored: HF_IGNORED };

static SHARED: DenseNames = DenseNames {
    gate: "mlp.shared_expert.gate_proj",
    up: "mlp.shared_expert.up_proj",
    down: "mlp.shared_expert.down_proj",
};

/// Qwen's window is off unless `use_sliding_window`, and begins at layer `max_window_layers`.
fn qwen_windows(config: &Config, layers: usize) -> Result<Vec<Option<u32>>> {
    if !config.flag("use_sliding_window", false)? {
        return Ok(vec![None; layers]);
    }
    let first = config.optional_count("max_window_layers", limits::LAYERS_MAX)?.unwrap_or(0);
    windows(config, layers, |l| l >= first)
}

fn qwen2(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let windows = qwen_windows(config, sizes.layers)?;
    let mlp = mlp(config, &sizes)?;
    let attention = |l: usize| Attention { qkv_bias: true, window: windows[l], ..plain_attention(&sizes) };
    lineage(config, model_type, &sizes, |l| pre_norm(&sizes, attention(l), Operation::Dense(mlp)))
}

fn qwen2_moe(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let last = config.optional_count("max_window_layers", limits::LAYERS_MAX)?.unwrap_or(28);
    // Unlike the others, it windows every second of the layers before `max_window_layers`.
    let windows = match config.flag("use_sliding_window", false)? {
        true => windows(config, sizes.layers, |l| l < last && l.is_multiple_of(2))?,
        false => vec![None; sizes.layers],
    };
    let qkv_bias = config.flag("qkv_bias", true)?;
    let attention = |l: usize| Attention { qkv_bias, window: windows[l], ..plain_attention(&sizes) };
    let experts = experts_and_shared(config, &sizes, config.flag("norm_topk_prob", false)?)?;
    mixture(config, model_type, &sizes, experts, attention)
}

/// Routed experts, and one for all with a gate of its own.
pub(super) fn experts_and_shared(config: &Config, sizes: &ModelDims, renormalise: bool) -> Result<Experts> {
    let width = config.size("shared_expert_intermediate_size", limits::WIDTH_MAX)?;
    let each = Dense { intermediate: width, names: &SHARED, ..mlp(config, sizes)? };
    let shared = Some(Shared { count: 1, each, gate: "mlp.shared_expert_gate" });
    Ok(Experts { shared, ..experts(config, sizes, renormalise)? })
}

fn qwen3_attention(config: &Config, sizes: &ModelDims) -> Result<Vec<Attention>> {
    let bias = config.flag("attention_bias", false)?;
    let attention = |window| Attention {
        head_norm: HeadNorm::BeforeRotary,
        qkv_bias: bias,
        out_bias: bias,
        window,
        ..plain_attention(sizes)
    };
    Ok(qwen_windows(config, sizes.layers)?.into_iter().map(attention).collect())
}

fn qwen3(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let attention = qwen3_attention(config, &sizes)?;
    let mlp = mlp(config, &sizes)?;
    lineage(config, model_type, &sizes, |l| pre_norm(&sizes, attention[l], Operation::Dense(mlp)))
}

fn qwen3_moe(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let attention = qwen3_attention(config, &sizes)?;
    let experts = experts(config, &sizes, config.flag("norm_topk_prob", false)?)?;
    mixture(config, model_type, &sizes, experts, |l| attention[l])
}

fn experts(config: &Config, sizes: &ModelDims, renormalise: bool) -> Result<Experts> {
    let (count, chosen) = expert_counts(config, &["num_experts", "num_local_experts"], "num_experts_per_tok")?;
    let intermediate = config.size("moe_intermediate_size", limits::WIDTH_MAX)?;
    let each = Dense { intermediate, ..mlp(config, sizes)? };
    Ok(Experts::new(count, each, Routing::softmax(chosen, renormalise), &HF_EXPERTS))
}

/// Layers of which some hold experts.
fn mixture(
    config: &Config,
    model_type: &str,
    sizes: &ModelDims,
    experts: Experts,
    attention: impl Fn(usize) -> Attention,
) -> Result<Architecture> {
    let dense = mlp(config, sizes)?;
    let sparse = sparse_layers(config)?;
    lineage(config, model_type, sizes, |l| {
        let feed_forward = if sparse(l) { Operation::Experts(experts) } else { Operation::Dense(dense) };
        pre_norm(sizes, attention(l), feed_forward)
    })
}
