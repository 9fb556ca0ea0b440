//! Llama 2 and 3, TinyLlama, SmolLM2: the plain lineage, with optional biases and Llama 3's rotary scaling.

use super::*;

/// `model_type` llama.
pub static LLAMA: Family = Family { model_types: &["llama"], architecture, ignored: HF_IGNORED };

fn architecture(config: &Config, model_type: &str) -> Result<Architecture> {
    let sizes = ModelDims::read(config, false)?;
    let bias = config.flag("attention_bias", false)?;
    let mlp_bias = config.flag("mlp_bias", false)?;
    lineage(config, model_type, &sizes, &HF_NAMES, |_| Layer {
        attention: Attention { qkv_bias: bias, out_bias: bias, ..plain_attention(&sizes) },
        ffn: Ffn::Dense { intermediate: sizes.intermediate, bias: mlp_bias },
    })
}
