//! Where the models of the tests are.

use std::path::{Path, PathBuf};

/// The folder with `models` and `tests`: that of the sources, or where ASTRAI_TEST_ROOT says that they are now.
pub fn root() -> PathBuf {
    std::env::var_os("ASTRAI_TEST_ROOT").map_or(env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// The model with a tokenizer that tells stories.
pub fn storyteller() -> PathBuf {
    let model = root().join("models/storyteller");
    assert!(model.join("config.json").is_file(), "{} is not there: is this a whole clone?", model.display());
    model
}

/// One of the tiny models of random weights, which have no tokenizer. Each has a context of 256 tokens.
pub fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures/parity").join(name)
}

/// One of each kind: together they have every operation and every option. The others differ from these by names and numbers, and
/// are compared with their reference alone.
const KINDS: [&str; 27] = [
    "astrai_full",
    "astrai_gqa",
    "astrai_mla",
    "astrai_mla_norm",
    "astrai_moe",
    "cohere2",
    "gemma2",
    "gemma3_text",
    "glm4_moe",
    "granitemoe",
    "llama",
    "llama_bias",
    "llama_f16",
    "llama_sharded",
    "ministral3",
    "mistral",
    "mixtral",
    "nemotron",
    "olmo3",
    "phi3_long",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "qwen3_moe_mixed",
    "smollm3",
    "stablelm",
];

/// One of them of each kind.
pub fn fixtures() -> Vec<PathBuf> {
    KINDS.iter().map(|name| fixture(name)).collect()
}

/// Copies a model's files, to be changed.
pub fn copy(model: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(model).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file()) {
        std::fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}
