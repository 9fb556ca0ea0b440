//! Published models by name, as their `config.json` describes them: what speed depends on, without the download.

use serde_json::{Value, json};

/// Makes the `config.json` of a shape.
type Config = fn() -> Value;

const SHAPES: [(&str, Config); 23] = [
    ("storyteller", || dense("llama", [192, 512, 6, 6, 1, 32], 3072, 2048, 10_000.0, true)),
    ("astrai-1b", astrai_1b),
    ("smollm2-135m", || dense("llama", [576, 1536, 30, 9, 3, 64], 49152, 8192, 1e5, true)),
    ("smollm2-360m", || dense("llama", [960, 2560, 32, 15, 5, 64], 49152, 8192, 1e5, true)),
    ("smollm2-1.7b", || dense("llama", [2048, 8192, 24, 32, 32, 64], 49152, 8192, 1.3e5, true)),
    ("qwen2.5-0.5b", || dense("qwen2", [896, 4864, 24, 14, 2, 64], 151_936, 32768, 1e6, true)),
    ("qwen3-0.6b", || dense("qwen3", [1024, 3072, 28, 16, 8, 128], 151_936, 40960, 1e6, true)),
    ("qwen3-1.7b", || dense("qwen3", [2048, 6144, 28, 16, 8, 128], 151_936, 40960, 1e6, true)),
    ("qwen3-4b", || dense("qwen3", [2560, 9728, 36, 32, 8, 128], 151_936, 40960, 1e6, true)),
    ("qwen3-8b", || dense("qwen3", [4096, 12288, 36, 32, 8, 128], 151_936, 40960, 1e6, false)),
    ("llama3.2-1b", || llama3([2048, 8192, 16, 32, 8, 64], 32.0, true)),
    ("llama3.2-3b", || llama3([3072, 8192, 28, 24, 8, 128], 32.0, true)),
    ("llama3.1-8b", || llama3([4096, 14336, 32, 32, 8, 128], 8.0, false)),
    ("gemma3-1b", gemma3_1b),
    ("gemma4-e2b", gemma4_e2b),
    ("granite-4-h-micro", granite_4_h_micro),
    ("lfm2-350m", lfm2_350m),
    ("qwen3.5-0.8b", qwen3_5_0_8b),
    ("smollm3-3b", || dense("smollm3", [2048, 11008, 36, 16, 4, 128], 128_256, 65536, 5e6, true)),
    ("phi4-mini", phi4_mini),
    ("gpt-oss-20b", gpt_oss_20b),
    ("deepseek-v2-lite", deepseek_v2_lite),
    ("mistral-7b", || dense("mistral", [4096, 14336, 32, 32, 8, 128], 32768, 32768, 1e6, false)),
];

/// The same with another number of layers.
pub fn with_layers(mut config: Value, layers: u32) -> Value {
    config["num_hidden_layers"] = json!(layers);
    if let Some(types) = config["layer_types"].as_array().cloned() {
        config["layer_types"] = types.iter().cycle().take(layers as usize).cloned().collect();
    }
    config
}

/// Names of all shapes.
pub fn names() -> Vec<&'static str> {
    SHAPES.iter().map(|(name, _)| *name).collect()
}

/// The `config.json` of a shape.
pub fn config(name: &str) -> Option<Value> {
    SHAPES.iter().find(|(known, _)| *known == name).map(|(_, config)| config())
}

/// Hidden and intermediate width, layers, query heads, KV heads, elements of a head.
type ShapeDims = [u32; 6];

fn dense(model_type: &str, sizes: ShapeDims, vocab: u32, context: u32, theta: f64, tied: bool) -> Value {
    let [hidden, intermediate, layers, heads, kv_heads, head_dim] = sizes;
    json!({
        "model_type": model_type,
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": context,
        "rope_theta": theta,
        "rms_norm_eps": if model_type.starts_with("qwen") { 1e-6 } else { 1e-5 },
        "hidden_act": "silu",
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
    })
}

fn llama3(sizes: ShapeDims, factor: f64, tied: bool) -> Value {
    let mut config = dense("llama", sizes, 128_256, 131_072, 5e5, tied);
    config["rope_scaling"] = json!({
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    config
}

fn gemma3_1b() -> Value {
    let mut config = dense("gemma3_text", [1152, 6912, 26, 4, 1, 256], 262_144, 32768, 1e6, true);
    config["hidden_activation"] = json!("gelu_pytorch_tanh");
    config["query_pre_attn_scalar"] = json!(256);
    config["rope_local_base_freq"] = json!(10_000.0);
    config["sliding_window"] = json!(512);
    config["sliding_window_pattern"] = json!(6);
    config
}

fn gemma4_e2b() -> Value {
    let mut config = dense("gemma4_text", [1536, 6144, 35, 8, 1, 256], 262_144, 131_072, 1e6, true);
    config["hidden_size_per_layer_input"] = json!(256);
    config["num_kv_shared_layers"] = json!(20);
    config["use_double_wide_mlp"] = json!(true);
    config["global_head_dim"] = json!(512);
    config["sliding_window"] = json!(512);
    config["final_logit_softcapping"] = json!(30.0);
    let kind = |l: u32| if (l + 1).is_multiple_of(5) { "full_attention" } else { "sliding_attention" };
    config["layer_types"] = (0..35).map(kind).collect();
    config
}

fn granite_4_h_micro() -> Value {
    let mut config = dense("granitemoehybrid", [2048, 8192, 40, 32, 8, 64], 100_352, 131_072, 10_000.0, true);
    config["shared_intermediate_size"] = json!(8192);
    config["num_local_experts"] = json!(0);
    config["mamba_n_heads"] = json!(64);
    config["mamba_d_state"] = json!(128);
    config["position_embedding_type"] = json!("nope");
    config["embedding_multiplier"] = json!(12.0);
    config["residual_multiplier"] = json!(0.22);
    config["attention_multiplier"] = json!(0.015625);
    config["logits_scaling"] = json!(8.0);
    config["layer_types"] = (0..40).map(|l| if l % 10 == 5 { "attention" } else { "mamba" }).collect();
    config
}

fn lfm2_350m() -> Value {
    let mut config = dense("lfm2", [1024, 6656, 16, 16, 8, 64], 65_536, 128_000, 1e6, true);
    config["block_ff_dim"] = json!(6656);
    config["full_attn_idxs"] = json!([2, 5, 8, 10, 12, 14]);
    config
}

fn qwen3_5_0_8b() -> Value {
    let mut config = dense("qwen3_5_text", [1024, 3584, 24, 8, 2, 256], 248_320, 262_144, 1e7, true);
    config["partial_rotary_factor"] = json!(0.25);
    config["linear_num_value_heads"] = json!(16);
    config
}

/// The factors of its LongRoPE, which speed does not depend on, are all 1.
fn phi4_mini() -> Value {
    let mut config = dense("phi3", [3072, 8192, 32, 24, 8, 128], 200_064, 131_072, 10_000.0, true);
    config["partial_rotary_factor"] = json!(0.75);
    config["original_max_position_embeddings"] = json!(4096);
    let factors = vec![1.0; 48];
    config["rope_scaling"] = json!({"type": "longrope", "short_factor": factors, "long_factor": factors});
    config
}

fn gpt_oss_20b() -> Value {
    let mut config = dense("gpt_oss", [2880, 2880, 24, 64, 8, 64], 201_088, 131_072, 150_000.0, false);
    config["attention_bias"] = json!(true);
    config["num_local_experts"] = json!(32);
    config["num_experts_per_tok"] = json!(4);
    config["sliding_window"] = json!(128);
    config["swiglu_limit"] = json!(7.0);
    config["quantization_config"] = json!({"quant_method": "mxfp4"});
    config["rope_scaling"] = json!({
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": false,
        "original_max_position_embeddings": 4096,
    });
    config
}

fn deepseek_v2_lite() -> Value {
    let mut config = dense("deepseek_v2", [2048, 10944, 27, 16, 16, 64], 102_400, 163_840, 10_000.0, false);
    config["rms_norm_eps"] = json!(1e-6);
    config["kv_lora_rank"] = json!(512);
    config["q_lora_rank"] = Value::Null;
    config["qk_nope_head_dim"] = json!(128);
    config["qk_rope_head_dim"] = json!(64);
    config["v_head_dim"] = json!(128);
    config["moe_intermediate_size"] = json!(1408);
    config["n_routed_experts"] = json!(64);
    config["n_shared_experts"] = json!(2);
    config["num_experts_per_tok"] = json!(6);
    config["first_k_dense_replace"] = json!(1);
    config["norm_topk_prob"] = json!(false);
    config["routed_scaling_factor"] = json!(1.0);
    config["topk_method"] = json!("greedy");
    config
}

/// The published sizes; context and tying, which speed hardly depends on, are those of the family's defaults.
fn astrai_1b() -> Value {
    json!({
        "model_type": "autoregressive_lm",
        "vocab_size": 100_000,
        "hidden_size": 1536,
        "intermediate_size": 6912,
        "num_hidden_layers": 24,
        "num_attention_heads": 24,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "attn_type": "gqa",
        "ffn_type": "mlp",
        "tie_word_embeddings": true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use astrai::model::config::Config;
    use astrai::model::{binder, families};

    /// Weights of a shape.
    fn parameters(name: &str) -> u64 {
        let config = config(name).expect("a known name");
        let (family, model_type) = families::find(&config, name).expect("a known family");
        let architecture = (family.architecture)(&Config::new(&config, name), &model_type).expect("a valid config");
        let tensors = binder::expected(&architecture).expect("no error");
        tensors.iter().map(|(_, shape)| shape.iter().map(|&d| d as u64).product::<u64>()).sum()
    }

    #[test]
    fn every_shape_has_as_many_weights_as_the_published_model() {
        // In millions, as the models' pages have it.
        let published = [
            ("smollm2-135m", 134.5),
            ("smollm2-360m", 361.8),
            ("smollm2-1.7b", 1711.4),
            ("qwen2.5-0.5b", 494.0),
            ("qwen3-0.6b", 596.0),
            ("qwen3-1.7b", 1720.6),
            ("qwen3-4b", 4022.5),
            ("qwen3-8b", 8190.7),
            ("llama3.2-1b", 1235.8),
            ("llama3.2-3b", 3212.7),
            ("llama3.1-8b", 8030.3),
            ("gemma3-1b", 999.9),
            ("granite-4-h-micro", 3191.4),
            ("lfm2-350m", 354.5),
            ("smollm3-3b", 3075.1),
            ("phi4-mini", 3836.0),
            ("deepseek-v2-lite", 15706.5),
            ("mistral-7b", 7248.0),
        ];
        for (name, millions) in published {
            let here = parameters(name) as f64 / 1e6;
            assert!((here - millions).abs() < 0.1, "{name}: {here} million, published {millions}");
        }
        // Of 4-bit floats two are one byte of a tensor, with one more byte for 32: 20,914.8 million weights.
        assert!(parameters("gpt-oss-20b") < 20_914_800_000);
        assert_eq!(names().len(), published.len() + 5);
        assert_eq!(with_layers(config("gemma3-1b").expect("known"), 7)["num_hidden_layers"], 7);
    }

    #[test]
    fn the_storyteller_is_the_one_of_this_repository() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/storyteller/config.json");
        let stored: Value = serde_json::from_slice(&std::fs::read(path).expect("readable")).expect("JSON");
        let ours = config("storyteller").expect("a known name");
        for (key, value) in ours.as_object().expect("an object") {
            assert_eq!(&stored[key], value, "{key}");
        }
    }
}
