//! Llama 2 and 3, TinyLlama, SmolLM2: the plain lineage, with optional biases and Llama 3's rotary scaling.

use super::*;

/// `model_type` llama.
pub static LLAMA: Family = Family { model_types: &["llama"], architecture, ignored: HF_IGNORED };

fn architecture(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let bias = config.flag("attention_bias", false)?;
    let attention = Attention { qkv_bias: bias, out_bias: bias, ..plain_attention(&sizes) };
    let mlp = mlp_with_bias(config, &sizes)?;
    lineage(config, model_type, &sizes, |_| pre_norm(&sizes, attention, Operation::Dense(mlp)))
}
