//! LFM2 and LFM2-MoE: most layers are a short convolution between two products, the others attend. LFM3 norms what is added, too,
//! and gates its heads.

use super::hybrid::layer_kinds;
use super::*;

/// `model_type` lfm2.
pub static LFM2: Family = Family { model_types: &["lfm2"], architecture: lfm2, ignored: HF_IGNORED };
/// `model_type` lfm2_moe.
pub static LFM2_MOE: Family = Family { model_types: &["lfm2_moe"], architecture: lfm2_moe, ignored: HF_IGNORED };
/// `model_type` lfm3.
pub static LFM3: Family = Family { model_types: &["lfm3"], architecture: lfm3, ignored: HF_IGNORED };

static CONV: ShortConvNames =
    ShortConvNames { b: "conv.in_proj", c: "conv.in_proj", x: "conv.in_proj", conv: "conv.conv", out: "conv.out_proj" };

static ATTENTION: AttentionNames = AttentionNames {
    out: "self_attn.out_proj",
    q_norm: "self_attn.q_layernorm",
    k_norm: "self_attn.k_layernorm",
    ..HF_ATTENTION
};

static DENSE: DenseNames = DenseNames { gate: "feed_forward.w1", up: "feed_forward.w3", down: "feed_forward.w2" };

static EXPERTS: [ExpertNames; 1] = [ExpertNames {
    router: "feed_forward.gate",
    choice_bias: "feed_forward.expert_bias",
    gate: "feed_forward.experts.{e}.w1",
    up: "feed_forward.experts.{e}.w3",
    down: "feed_forward.experts.{e}.w2",
    stack: Stack::Rows,
}];

/// The mixer of a layer.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Conv,
    Full,
    Sliding,
}

const KINDS: [(&str, Kind); 4] = [
    ("conv", Kind::Conv),
    ("short_conv", Kind::Conv),
    ("full_attention", Kind::Full),
    ("sliding_attention", Kind::Sliding),
];

fn dims(config: &Config) -> Result<ModelDims> {
    let tied = config.flag("tie_embedding", true)?;
    Ok(ModelDims { eps: config.eps("norm_eps", 1e-5)?, ..ModelDims::read(config, tied)? })
}

fn short_conv(config: &Config, sizes: &ModelDims) -> Result<Operation> {
    Ok(Operation::ShortConv(ShortConv {
        channels: sizes.hidden,
        kernel: config.optional_size("conv_L_cache", limits::CONV_KERNEL_MAX)?.unwrap_or(3),
        bias: config.flag("conv_bias", false)?,
        names: &CONV,
    }))
}

/// LFM2, whose feed-forward parts `feed_forward` gives.
fn model(
    config: &Config,
    model_type: &str,
    sizes: &ModelDims,
    feed_forward: impl Fn(usize) -> Operation,
) -> Result<Architecture> {
    let conv = short_conv(config, sizes)?;
    let attention = Attention { head_norm: HeadNorm::BeforeRotary, names: &ATTENTION, ..plain_attention(sizes) };
    let attends = config.layer_list("full_attn_idxs")?;
    let listed = |l: usize| if attends.contains(&l) { Kind::Full } else { Kind::Conv };
    let kinds = layer_kinds(config, sizes.layers, &KINDS[..3])?;
    let kinds = kinds.unwrap_or_else(|| (0..sizes.layers).map(listed).collect());
    let norm = |name| Norm::rms(name, sizes.eps);
    let model = lineage(config, model_type, sizes, |l| {
        let mixer = if kinds[l] == Kind::Conv { conv } else { Operation::Attention(attention) };
        vec![Block::new(norm("operator_norm"), mixer), Block::new(norm("ffn_norm"), feed_forward(l))]
    })?;
    Ok(Architecture { final_norm: norm("model.embedding_norm"), ..model })
}

/// The width of its feed-forward parts is a part of what the config says, in whole blocks.
fn lfm2(config: &Config, model_type: &str) -> Result<Architecture> {
    let width = config.optional_size("block_ff_dim", limits::WIDTH_MAX)?;
    let width = width.map_or_else(|| config.size("intermediate_size", limits::WIDTH_MAX), Ok)?;
    let left_out = serde_json::json!({"rope_theta": 1e6, "intermediate_size": width});
    let config = &config.with_defaults(&left_out);
    let sizes = dims(config)?;
    let intermediate = match config.flag("block_auto_adjust_ff_dim", true)? {
        false => width,
        true => {
            let part = (2 * width / 3) as f64 * config.positive("block_ffn_dim_multiplier", Some(1.0))?;
            let block = config.optional_size("block_multiple_of", limits::WIDTH_MAX)?.unwrap_or(256);
            (part as usize).max(1).next_multiple_of(block)
        }
    };
    if intermediate > limits::WIDTH_MAX {
        return Err(config.bad("block_ffn_dim_multiplier", format_args!("makes a width of {intermediate}")));
    }
    let dense = Dense { intermediate, names: &DENSE, ..plain_dense(&sizes) };
    model(config, model_type, &sizes, |_| Operation::Dense(dense))
}

fn lfm2_moe(config: &Config, model_type: &str) -> Result<Architecture> {
    let left_out = serde_json::json!({"rope_theta": 1e6});
    let config = &config.with_defaults(&left_out);
    let sizes = dims(config)?;
    let (count, chosen) = expert_counts(config, &["num_experts"], "num_experts_per_tok")?;
    let dense = Dense { names: &DENSE, ..plain_dense(&sizes) };
    let intermediate = config.size("moe_intermediate_size", limits::WIDTH_MAX)?;
    let routing = Routing {
        chosen,
        score: RouterScore::Sigmoid,
        renormalise: config.flag("norm_topk_prob", true)?,
        epsilon: 1e-6,
        factor: config.factor("routed_scaling_factor", 1.0)?,
        groups: None,
    };
    let experts = Experts {
        choice_bias: config.flag("use_expert_bias", true)?,
        ..Experts::new(count, Dense { intermediate, ..dense }, routing, &EXPERTS)
    };
    let first = config.optional_count("num_dense_layers", limits::LAYERS_MAX)?.unwrap_or(2);
    model(config, model_type, &sizes, |l| if l < first { Operation::Dense(dense) } else { Operation::Experts(experts) })
}

fn lfm3(config: &Config, model_type: &str) -> Result<Architecture> {
    let left_out = serde_json::json!({"conv_L_cache": 7});
    let config = &config.with_defaults(&left_out);
    let sizes = dims(config)?;
    let conv = short_conv(config, &sizes)?;
    let (full, sliding) = rotaries_by_type(config, &sizes, ("rope_local_base_freq", 1e4))?;
    let window = config.optional_size("sliding_window", limits::CONTEXT_MAX)?.map(|w| w as u32);
    let bias = config.flag("attention_bias", false)?;
    let attention = Attention {
        head_norm: HeadNorm::BeforeRotary,
        gate: if config.flag("use_attention_gate", true)? { Gate::PerHead } else { Gate::None },
        qkv_bias: bias,
        out_bias: bias,
        ..plain_attention(&sizes)
    };
    let sandwich = config.flag("use_sandwich_norm", true)?;
    let missing = || config.bad("layer_types", "is missing");
    let kinds = layer_kinds(config, sizes.layers, &KINDS)?.ok_or_else(missing)?;
    if kinds.contains(&Kind::Sliding) && window.is_none() {
        return Err(config.bad("sliding_window", "is missing, but a layer slides"));
    }
    let dense = Operation::Dense(Dense { names: &DENSE, ..plain_dense(&sizes) });
    let norm = |name| Norm::rms(name, sizes.eps);
    let mut model = with_rotary(model_type, &sizes, full, |l| {
        let mixer = match kinds[l] {
            Kind::Conv => conv,
            Kind::Full => Operation::Attention(attention),
            Kind::Sliding => {
                let rotary = Some(HeadRotary { index: 1, start: 0, interleaved: false });
                Operation::Attention(Attention { window, rotary, ..attention })
            }
        };
        let block = |before, operation, after| Block {
            after: sandwich.then(|| norm(after)),
            ..Block::new(norm(before), operation)
        };
        vec![block("operator_norm", mixer, "post_operator_norm"), block("ffn_norm", dense, "post_ffn_norm")]
    });
    model.rotaries.push(sliding);
    Ok(Architecture { final_norm: norm("model.embedding_norm"), ..model })
}
