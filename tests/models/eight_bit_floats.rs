//! Checkpoints in 8-bit floats: each way that scales lie beside the weights gives the bits of the same numbers in f32.

use crate::support::eight_bit_floats::{Scales, Tensor, config, folders, read, write};
use crate::support::lines::Lines;
use crate::support::random::Random;
use astrai::Status;
use astrai::backend::cpu;
use astrai::dtype::DType;
use astrai::encoding::Encoding;
use astrai::engine::*;
use safetensors::tensor::Dtype;
use std::collections::BTreeMap;
use std::path::Path;
use tempfile::TempDir;

fn open(dir: &Path, compute: Type, weights: Type, cpu_tier: CpuTier) -> Engine {
    let options =
        EngineOptions { compute, weights, cpu_tier, threads: 2, memory_budget: 64 << 20, ..EngineOptions::default() };
    Engine::open(dir, options).unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
}

/// Log probabilities of a prompt and of what follows it.
fn logprobs(engine: &Engine) -> Vec<f32> {
    let tokens = (0..45).map(|i| (i * i * 7 + 3) % 64).collect();
    let prompt = Prompt { parts: vec![PromptPart::Tokens(tokens)], ..Prompt::default() };
    let options = RequestOptions {
        temperature: Some(0.0),
        ignore_eos: true,
        max_tokens: Some(6),
        prompt_logprobs: true,
        logprobs: Some(3),
        ..RequestOptions::default()
    };
    match engine.submit(&prompt, &options, Sink::Pull).unwrap().wait(None).unwrap() {
        Next::Event(event) => {
            event.prompt_logprobs.iter().skip(1).chain(&event.logprobs).chain(&event.top_logprobs).copied().collect()
        }
        other => panic!("{other:?}"),
    }
}

fn bits(all: &[f32]) -> Vec<u32> {
    all.iter().map(|x| x.to_bits()).collect()
}

/// Whole tensors, rows of fused ones, experts one by one and in stacks, the absorbed matrix of latent attention.
const KINDS: [&str; 7] = ["qwen3", "phi3_short", "ministral3", "mixtral", "qwen2_moe", "qwen3_5_moe", "deepseek_v3"];

#[test]
fn every_way_to_scale_gives_the_bits_of_its_numbers() {
    let scales = [
        Scales::Matrix,
        Scales::Row,
        Scales::Block([128, 128], Dtype::F32),
        Scales::Block([24, 16], Dtype::BF16),
        Scales::Block([8, 40], Dtype::F8_E8M0),
    ];
    for name in KINDS {
        for scales in scales {
            let [eight, wide, narrow] = folders(name, scales);
            for tier in cpu::tiers() {
                let what = format!("{name} {scales:?} {tier:?}");
                let got = logprobs(&open(eight.path(), Type::F32, Type::Auto, tier));
                assert!(got.iter().all(|l| l.is_finite() && *l <= 0.0), "{what}");
                assert_eq!(bits(&got), bits(&logprobs(&open(wide.path(), Type::F32, Type::Auto, tier))), "{what}");
                let eight = open(eight.path(), Type::Bf16, Type::Auto, tier);
                assert_eq!(eight.info().weights, Some(Encoding::Stored(DType::F8E4m3)), "{what}");
                let (got, want) = (logprobs(&eight), logprobs(&open(narrow.path(), Type::Bf16, Type::Auto, tier)));
                // Tiers with products of bf16 round the numbers to that, others do not.
                if matches!(tier, CpuTier::Avx512 | CpuTier::Amx) {
                    assert_eq!(bits(&got), bits(&want), "{what}");
                }
                // Where two experts are nearly alike, rounding may choose the other one: such a token is far off.
                let mut far: Vec<f32> = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).collect();
                far.sort_by(f32::total_cmp);
                assert!(far[far.len() / 2] < 0.05, "{what}: {far:?}");
            }
        }
    }
}

#[test]
fn quantized_again_they_are_the_panels_of_their_numbers() {
    for name in ["qwen3", "qwen3_5_moe"] {
        let [eight, wide, _] = folders(name, Scales::Block([24, 16], Dtype::F32));
        for weights in [Type::Q8, Type::Q4] {
            let [got, want] =
                [eight.path(), wide.path()].map(|dir| logprobs(&open(dir, Type::Auto, weights, CpuTier::Auto)));
            assert_eq!(bits(&got), bits(&want), "{name} {weights:?}");
        }
    }
}

#[test]
fn a_plan_counts_codes_and_scales() {
    let [eight, wide, narrow] = folders("qwen3", Scales::Block([128, 128], Dtype::F32));
    let bytes = |dir: &TempDir| Engine::plan(dir.path(), &EngineOptions::default()).unwrap().weight_bytes;
    assert!(bytes(&eight) < bytes(&narrow) && bytes(&narrow) < bytes(&wide));
}

/// Opens, and gives the log's warnings.
fn warnings(dir: &Path) -> Vec<String> {
    let lines = Lines::default();
    let options = EngineOptions { memory_budget: 12 << 20, threads: 1, ..EngineOptions::default() };
    drop(Engine::open(dir, lines.at(LogLevel::Warn, options)).unwrap());
    lines.all()
}

#[test]
fn scales_of_inputs_are_left_with_a_line_in_the_log() {
    let [eight, ..] = folders("qwen3", Scales::Matrix);
    let lines = warnings(eight.path());
    assert!(lines.iter().any(|l| l.contains("activation_scale") && l.contains("scale of inputs")), "{lines:?}");
    assert!(!lines.iter().any(|l| l.contains("not quantized although")), "{lines:?}");
}

/// Opens a changed folder, which must fail.
fn refused(change: impl FnOnce(&mut BTreeMap<String, Tensor>), status: Status, says: &str) {
    let [eight, ..] = folders("qwen3", Scales::Block([24, 16], Dtype::F32));
    let (said, mut tensors) = (config(eight.path()), read(eight.path()));
    change(&mut tensors);
    write(eight.path(), &said, &tensors);
    let error = Engine::open(eight.path(), EngineOptions::default()).err().expect("refused");
    assert!(error.status == status && error.to_string().contains(says), "{error}");
    assert!(!error.to_string().contains("open the original"), "{error}");
}

#[test]
fn what_is_missing_or_does_not_fit_is_named() {
    const WEIGHT: &str = "model.layers.1.mlp.down_proj.weight";
    let scales = format!("{WEIGHT}_scale_inv");
    refused(
        |all| drop(all.remove(&scales)),
        Status::Format,
        "no tensor model.layers.1.mlp.down_proj.weight_scale_inv, the scales",
    );
    let short = (Dtype::F32, vec![2], vec![0; 8]);
    refused(|all| drop(all.insert(scales.clone(), short)), Status::Format, "has shape [2], but scales of");
    let whole = (Dtype::I32, vec![1], vec![0; 4]);
    refused(|all| drop(all.insert(scales.clone(), whole)), Status::Unsupported, "is i32");
    let narrow = |all: &mut BTreeMap<String, Tensor>| {
        let (_, shape, _) = all.get_mut(WEIGHT).unwrap();
        shape.swap(0, 1);
    };
    refused(narrow, Status::Format, "but config.json makes it");
}

/// Weights that are no numbers reach the answer: a damaged file does not pass for a good one.
#[test]
fn any_codes_and_scales_are_safe() {
    let mut random = Random(17);
    for _ in 0..6 {
        let [eight, ..] = folders("qwen3", Scales::Block([24, 16], Dtype::F32));
        let (said, mut tensors) = (config(eight.path()), read(eight.path()));
        for (_, (dtype, _, bytes)) in tensors.iter_mut().filter(|(name, _)| name.contains("proj")) {
            if *dtype == Dtype::F8_E4M3 || random.below(2) == 0 {
                bytes.iter_mut().for_each(|b| *b = random.below(256) as u8);
            }
        }
        write(eight.path(), &said, &tensors);
        for compute in [Type::F32, Type::Bf16] {
            let options = EngineOptions { compute, memory_budget: 12 << 20, threads: 1, ..EngineOptions::default() };
            // Whatever comes of it: the scales are refused, or there is an answer or an error and the engine goes on.
            let engine = match Engine::open(eight.path(), options) {
                Ok(engine) => engine,
                Err(error) => {
                    assert!(
                        error.status == Status::Unsupported && error.to_string().contains("has a scale of"),
                        "{error}"
                    );
                    continue;
                }
            };
            let prompt = Prompt { parts: vec![PromptPart::Tokens(vec![1, 2, 3])], ..Prompt::default() };
            for _ in 0..2 {
                let request = engine.submit(&prompt, &RequestOptions::default(), Sink::Pull).unwrap();
                assert!(matches!(request.wait(None).unwrap(), Next::Event(_)));
            }
        }
    }
}
