//! gpt-oss: experts with biases and a clamped activation, 4-bit floats as published or plain; sinks, and a window in every second
//! layer.

use super::*;
use crate::dtype::BlockFormat;
use std::sync::LazyLock;

/// `model_type` gpt_oss.
pub static GPT_OSS: Family = Family { model_types: &["gpt_oss"], architecture, ignored: HF_IGNORED };

const PLAIN: ExpertNames = ExpertNames {
    router: "mlp.router",
    choice_bias: "",
    gate: "mlp.experts.gate_up_proj",
    up: "mlp.experts.gate_up_proj",
    down: "mlp.experts.down_proj",
    stack: Stack::Columns,
};

const MXFP4: ExpertNames = ExpertNames {
    gate: "mlp.experts.gate_up_proj_blocks",
    up: "mlp.experts.gate_up_proj_blocks",
    down: "mlp.experts.down_proj_blocks",
    stack: Stack::Mxfp4,
    ..PLAIN
};

/// As GGUF files have them, of which the source takes stacks apart.
const APART: ExpertNames = ExpertNames {
    gate: "mlp.experts.{e}.gate_proj",
    up: "mlp.experts.{e}.up_proj",
    down: "mlp.experts.{e}.down_proj",
    stack: Stack::Rows,
    ..PLAIN
};

/// What the config says first, in case that nothing is there to look at.
static EXPERTS: [[ExpertNames; 3]; 2] = [[PLAIN, MXFP4, APART], [MXFP4, PLAIN, APART]];

/// What its class has where the config has nothing.
static DEFAULTS: LazyLock<Value> = LazyLock::new(
    || serde_json::json!({"rope_theta": 150_000.0, "sliding_window": 128, "rms_norm_eps": 1e-5, "head_dim": 64}),
);

fn architecture(config: &Config, model_type: &str) -> Result<Architecture> {
    let config = &config.with_defaults(&DEFAULTS);
    let sizes = ModelDims::read(config, false)?;
    let windows = windows(config, sizes.layers, |l| l.is_multiple_of(2))?;
    let bias = config.flag("attention_bias", true)?;
    let attention = Attention { qkv_bias: bias, out_bias: bias, sinks: true, ..plain_attention(&sizes) };
    let (count, chosen) = expert_counts(config, &["num_local_experts", "num_experts"], "num_experts_per_tok")?;
    let activation = Activation::Clamped {
        alpha: config.positive_f32("swiglu_alpha", Some(1.702))?,
        limit: config.positive_f32("swiglu_limit", Some(7.0))?,
    };
    let method = config.object("quantization_config").map(|said| said.text("quant_method")).transpose()?.flatten();
    let quantized = method == Some("mxfp4");
    if quantized {
        let block = BlockFormat::Mxfp4.weights();
        config.divisible("hidden_size", sizes.hidden, "weights of a block", block)?;
        config.divisible("intermediate_size", sizes.intermediate, "weights of a block", block)?;
    }
    let experts = Experts {
        count,
        each: Dense { activation, bias: true, ..plain_dense(&sizes) },
        routing: Routing::softmax(chosen, true),
        router_bias: true,
        choice_bias: false,
        shared: None,
        scale: "",
        inside: None,
        names: &EXPERTS[usize::from(quantized)],
    };
    lineage(config, model_type, &sizes, |l| {
        pre_norm(&sizes, Attention { window: windows[l], ..attention }, Operation::Experts(experts))
    })
}
