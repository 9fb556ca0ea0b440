//! Where the models of the tests are.

use astrai::engine::{Engine, EngineOptions};
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

/// Fixtures of what does not open yet: it is refused by name.
pub const NOT_YET: [&str; 1] = ["apertus"];

/// All that open: every family, with every option its config has.
pub fn all_fixtures() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fixture("")).unwrap().map(|e| e.unwrap().path());
    let mut dirs: Vec<PathBuf> = entries.filter(|p| p.join("config.json").is_file()).collect();
    dirs.retain(|dir| !NOT_YET.iter().any(|name| dir.ends_with(name)));
    dirs.sort();
    assert!(dirs.len() >= 75, "only {} fixtures", dirs.len());
    dirs
}

/// One of each kind: together they have every operation and every option. The others differ from these by names and numbers, and
/// are compared with their reference alone.
const KINDS: [&str; 46] = [
    "astrai_full",
    "astrai_gqa",
    "astrai_mla",
    "astrai_mla_norm",
    "astrai_moe",
    "cohere2",
    "deepseek_v2_grouped",
    "deepseek_v3",
    "falcon_h1_norm",
    "gemma2",
    "gemma3_text",
    "gemma4_text",
    "gemma4_text_k_eq_v",
    "gemma4_text_moe",
    "glm4_moe",
    "gpt_neox",
    "gpt_oss",
    "gpt_oss_mxfp4",
    "granite_swa",
    "granitemoe",
    "granitemoehybrid",
    "lfm2_moe",
    "lfm3",
    "llama",
    "llama_bias",
    "llama_f16",
    "llama_sharded",
    "mellum",
    "ministral3",
    "mistral",
    "mixtral",
    "nemotron",
    "nemotron_h_latent",
    "olmo3",
    "phi3_long",
    "phi_norm",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_5_text",
    "qwen3_moe",
    "qwen3_moe_mixed",
    "qwen3_next",
    "smollm3",
    "stablelm",
    "stablelm_parallel",
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

/// Gives an engine the memory for so many pages of `options.page_tokens` tokens, which must be given.
pub fn limit_pages(dir: &Path, options: &mut EngineOptions, pages: u64) {
    let page_tokens = u64::from(options.page_tokens);
    let mut plan = |memory_budget| {
        options.memory_budget = memory_budget;
        Engine::plan(dir, options).unwrap()
    };
    let whole = plan(0);
    let least = whole.weight_bytes + whole.workspace_bytes + pages * page_tokens * whole.kv_bytes_per_token;
    // States take a part that grows with the pages.
    let (mut short, mut enough) = (0, whole.state_bytes);
    let mut holds = |states: u64| plan(least + states).kv_tokens / page_tokens >= pages;
    if holds(short) {
        enough = short;
    }
    while enough - short > 1 {
        let middle = short + (enough - short) / 2;
        *(if holds(middle) { &mut enough } else { &mut short }) = middle;
    }
    options.memory_budget = least + enough;
}
