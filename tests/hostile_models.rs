//! Checkpoints whose parts contradict each other: every one a clear error that names what was found and what was
//! expected, before any memory is sized by it.

use astrai::engine::*;
use astrai::{Error, Status};
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

/// A copy of a fixture with its config changed.
fn changed(fixture: &str, change: impl FnOnce(&mut Value)) -> TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity").join(fixture);
    let dir = TempDir::new().unwrap();
    std::fs::copy(from.join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    let mut config: Value = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

fn open(dir: &TempDir) -> Result<Engine, Error> {
    Engine::open(dir.path(), EngineOptions { memory_budget: 8 << 20, threads: 1, ..EngineOptions::default() })
}

fn refused(dir: &TempDir, status: Status, says: &[&str]) {
    // A budget that even absurd sizes fit into: what is wrong is the checkpoint, not the memory.
    let options = EngineOptions { memory_budget: 1 << 50, threads: 1, ..EngineOptions::default() };
    let error = Engine::open(dir.path(), options).map(|_| ()).expect_err("the checkpoint is broken");
    assert_eq!(error.status, status, "{error}");
    for part in says {
        assert!(error.message.contains(part) || error.subject.contains(part), "{error} does not mention {part}");
    }
}

#[test]
fn nonsense_in_the_config_names_its_key() {
    for (key, value) in [
        ("num_attention_heads", json!(0)),
        ("num_attention_heads", json!(-4)),
        ("num_attention_heads", json!(1e300)),
        ("num_key_value_heads", json!(3)),
        ("num_hidden_layers", json!(4_000_000_000u64)),
        ("hidden_size", json!("wide")),
        ("vocab_size", json!(1u64 << 60)),
        ("max_position_embeddings", json!(0)),
        ("rms_norm_eps", json!(-1.0)),
        ("hidden_act", json!(7)),
    ] {
        let dir = changed("llama_f16", |c| c[key] = value);
        refused(&dir, Status::Format, &["config.json", key]);
    }
}

#[test]
fn hidden_size_must_divide_into_heads() {
    let dir = changed("llama_f16", |c| {
        c["num_attention_heads"] = json!(7);
        c["num_key_value_heads"] = json!(7);
        c.as_object_mut().unwrap().remove("head_dim");
    });
    refused(&dir, Status::Format, &["hidden_size", "num_attention_heads"]);
}

#[test]
fn absurd_sizes_within_the_limits_fail_on_the_tensors_and_allocate_nothing() {
    for key in ["intermediate_size", "vocab_size"] {
        let dir = changed("llama_f16", |c| c[key] = json!(1 << 20));
        refused(&dir, Status::Format, &["shape"]);
    }
}

#[test]
fn a_long_advertised_context_opens() {
    let dir = changed("llama_f16", |c| c["max_position_embeddings"] = json!(16_000_000));
    let engine = open(&dir).unwrap();
    assert!(engine.info().context_length < 16_000_000, "what the pages hold");
    let dir = changed("llama_f16", |c| c["max_position_embeddings"] = json!(1u64 << 40));
    refused(&dir, Status::Format, &["max_position_embeddings"]);
}

#[test]
fn an_unknown_family_lists_the_known_ones() {
    let dir = changed("llama", |c| c["model_type"] = json!("llamma"));
    refused(&dir, Status::Unsupported, &["llamma", "qwen3_moe", "autoregressive_lm"]);
}

#[test]
fn an_unknown_activation_or_rope_scaling_is_not_guessed() {
    refused(&changed("llama_f16", |c| c["hidden_act"] = json!("relu2")), Status::Unsupported, &["relu2", "silu"]);
    let dir = changed("llama_f16", |c| c["rope_scaling"] = json!({"rope_type": "warp", "factor": 2.0}));
    refused(&dir, Status::Unsupported, &["warp", "llama3"]);
    let dir = changed("llama_f16", |c| c["rope_scaling"] = json!({"rope_type": "llama3", "factor": "two"}));
    refused(&dir, Status::Format, &["factor"]);
}

#[test]
fn a_missing_tensor_is_named_with_its_shape() {
    let dir = changed("llama_f16", |c| c["num_hidden_layers"] = json!(4));
    refused(&dir, Status::Format, &["model.layers.3.", "no tensor"]);
    let dir = changed("llama", |c| c["tie_word_embeddings"] = json!(false));
    refused(&dir, Status::Format, &["lm_head.weight", "no tensor"]);
}

#[test]
fn a_tensor_nobody_reads_is_an_error() {
    let dir = changed("llama_f16", |c| c["num_hidden_layers"] = json!(2));
    refused(&dir, Status::Format, &["model.layers.2.", "not part of"]);
    let dir = changed("llama_bias", |c| c["attention_bias"] = json!(false));
    refused(&dir, Status::Format, &["bias"]);
}

#[test]
fn a_wrong_shape_says_both() {
    let dir = changed("llama_f16", |c| c["intermediate_size"] = json!(24));
    refused(&dir, Status::Format, &["gate_proj.weight", "24"]);
}

#[test]
fn a_type_no_kernel_reads_is_refused_by_name() {
    let dir = changed("qwen3", |_| {});
    let path = dir.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(5).position(|w| w == b"\"F32\"").expect("an f32 tensor");
    bytes[at + 1] = b'I';
    std::fs::write(&path, bytes).unwrap();
    refused(&dir, Status::Unsupported, &["i32", "bf16"]);
}

/// A tokenizer that makes ids the model has no embedding for: the request is refused, the engine lives.
#[test]
fn a_vocabulary_smaller_than_the_tokenizers_is_noticed_at_submit() {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/storyteller");
    let dir = TempDir::new().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        std::fs::copy(from.join(file), dir.path().join(file)).unwrap();
    }
    let mut config: Value = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    let (rows, hidden) = (300, config["hidden_size"].as_u64().unwrap() as usize);
    config["vocab_size"] = json!(rows);
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let cut = all.tensors().into_iter().map(|(name, t)| {
        let view = match name.as_str() {
            "model.embed_tokens.weight" => {
                let data = &t.data()[..rows * hidden * 2];
                safetensors::tensor::TensorView::new(t.dtype(), vec![rows, hidden], data).unwrap()
            }
            _ => t,
        };
        (name, view)
    });
    std::fs::write(dir.path().join("model.safetensors"), safetensors::serialize(cut, None).unwrap()).unwrap();
    let engine = open(&dir).unwrap();
    let text = "Tell me a story about Mira, the old lighthouse and a silver key.";
    let chat = Prompt { messages: vec![json!({"role": "user", "content": text})], ..Prompt::default() };
    let raw = Prompt { parts: vec![PromptPart::Text { text: text.into(), special: false }], ..Prompt::default() };
    for prompt in [&chat, &raw] {
        let error = engine.submit(prompt, &RequestOptions::default(), Sink::Pull).map(|_| ()).unwrap_err();
        assert_eq!((error.status, error.available), (Status::Argument, rows as u64), "{error}");
    }
    engine.check().unwrap();
}

/// The whole of the KV pages is reserved at open, but the system only gives what is written.
#[cfg(target_os = "linux")]
#[test]
fn opening_does_not_touch_the_pages() {
    let dir = changed("llama_f16", |c| c["max_position_embeddings"] = json!(16_000_000));
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/statm").unwrap();
        status.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let before = resident();
    let options = EngineOptions { memory_budget: 2 << 30, threads: 1, ..EngineOptions::default() };
    let engine = Engine::open(dir.path(), options).unwrap();
    let grown = resident().saturating_sub(before);
    assert!(grown < 512 << 20, "{grown} bytes became resident, of 2 GiB reserved");
    drop(engine);
}

#[test]
fn options_out_of_range_or_not_built_are_refused_by_name() {
    let dir = changed("llama_f16", |_| {});
    let refused = |options: EngineOptions, status, name: &str| {
        let error = Engine::open(dir.path(), options).map(|_| ()).expect_err(name);
        assert_eq!((error.status, error.subject.as_str()), (status, name), "{error}");
    };
    let base = EngineOptions::default;
    refused(EngineOptions { threads: 1 << 20, ..base() }, Status::Argument, "threads");
    refused(EngineOptions { context_length: 1 << 20, ..base() }, Status::Argument, "context_length");
    refused(EngineOptions { memory_budget: 1, ..base() }, Status::Memory, "memory_budget");
    // A build that has the backend is held to more in tests/cuda/opening.rs.
    if !astrai::backend::cuda::BUILT {
        refused(EngineOptions { device: Device::Cuda, ..base() }, Status::Unsupported, "device");
    }
    refused(EngineOptions { device_index: -1, ..base() }, Status::Argument, "device_index");
    refused(EngineOptions { device: Device::Cpu, device_index: 1, ..base() }, Status::Argument, "device_index");
    refused(EngineOptions { weights: Type::Bf16, ..base() }, Status::Unsupported, "weights");
    let foreign = if cfg!(target_arch = "aarch64") { CpuTier::Avx2 } else { CpuTier::Neon };
    refused(EngineOptions { cpu_tier: foreign, ..base() }, Status::Unsupported, "cpu_tier");
}
