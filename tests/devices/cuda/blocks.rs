//! Weights in blocks of GGUF files on a GPU: as many bytes there as in the file, the CPU's numbers, law 1; and 8-bit floats.

use super::engines::{CPU, GPU, assert_nothing_lives, generate, options, salted, submit, tokens};
use crate::cuda_driver::{self, Gpu};
use crate::support::eight_bit_floats::{Scales, folders};
use crate::support::gguf::{Writer, random_model, random_model_of};
use crate::support::jobs::drain;
use astrai::dtype::BlockFormat;
use astrai::engine::*;
use safetensors::tensor::Dtype;
use std::path::Path;

/// Log probabilities of a prompt.
fn score(engine: &Engine, prompt: &[u32]) -> Vec<f32> {
    let options = RequestOptions { max_tokens: Some(0), prompt_logprobs: true, ..RequestOptions::default() };
    let events = drain(&engine.submit(&tokens(prompt), &options, Sink::Pull).unwrap());
    assert_eq!(events.last().unwrap().error, None);
    events.last().unwrap().prompt_logprobs[1..].to_vec()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f32>() / a.len() as f32
}

/// Tokens of the models of this file, which have fewer than others.
fn prompt(count: usize, salt: u32) -> Vec<u32> {
    salted(count, salt).into_iter().map(|token| token % 96).collect()
}

fn written(dir: &Path, name: &str, writer: &Writer) -> std::path::PathBuf {
    let path = dir.join(format!("{name}.gguf"));
    std::fs::write(&path, writer.file()).unwrap();
    path
}

/// What a model in blocks has to do on a GPU; `blocks` are the bytes of its tensors.
#[track_caller]
fn check(gpu: &Gpu, file: &Path, blocks: u64) {
    let name = file.display();
    let open =
        |target, compute| Engine::open(file, EngineOptions { compute, step_tokens: 40, ..options(target) }).unwrap();
    let long = prompt(37, 3);
    let want = score(&open(CPU, Type::F32), &long);
    let of_cpu = distance(&score(&open(CPU, Type::Auto), &long), &want);
    let engine = open(GPU, Type::Auto);
    let used = Engine::plan(file, &options(GPU)).unwrap().weight_bytes;
    assert!(used >= blocks && used < blocks + blocks / 8 + 32_768, "{name}: {used} bytes of {blocks}");
    // Inputs are rounded to bf16, on the CPU to 8 bits.
    let off = distance(&score(&engine, &long), &want);
    println!("{name}: {off} nats from f32, the CPU {of_cpu}");
    assert!(off > 0.0 && off < of_cpu, "{name}: {off} nats, the CPU {of_cpu}");
    // Law 1: alone by the kernels for few rows, among neighbours by those for many.
    let alone = generate(&engine, &prompt(20, 1), 4);
    engine.clear_cache().unwrap();
    let other = submit(&engine, &prompt(37, 4), 3);
    assert_eq!(generate(&engine, &prompt(20, 1), 4), alone, "{name}");
    assert!(drain(&other).last().unwrap().terminal());
    drop((other, engine));
    if let Gpu::StandIn(driver) = gpu {
        assert_nothing_lives(driver, &name.to_string());
        assert_eq!(driver.message(), "");
    }
}

#[test]
fn every_format_has_the_numbers_of_the_cpu_in_the_bytes_of_the_file() {
    let Some(gpu) = cuda_driver::any_gpu() else { return };
    let dir = tempfile::tempdir().unwrap();
    for format in BlockFormat::ALL {
        let file = written(dir.path(), format.name(), &random_model(format));
        let weights = 2 * (256 * 256 * 2 + 256 * 128 * 2 + 3 * 256 * 512) + 2 * 96 * 256;
        check(&gpu, &file, (weights / format.weights() * format.bytes()) as u64);
    }
}

/// Experts whose matrices have different formats, also such as have kernels for other tiles.
#[test]
fn experts_of_several_formats() {
    let Some(gpu) = cuda_driver::any_gpu() else { return };
    let dir = tempfile::tempdir().unwrap();
    for (name, gate, up, down) in [
        ("down", BlockFormat::Q4K, BlockFormat::Q4K, BlockFormat::Q6K),
        ("all", BlockFormat::Q8_0, BlockFormat::Q5_1, BlockFormat::Q4_0),
    ] {
        let of = |matrix: &str| match matrix {
            "ffn_gate_exps" => gate,
            "ffn_up_exps" => up,
            "ffn_down_exps" => down,
            _ => BlockFormat::Q8_0,
        };
        let bytes = |format: BlockFormat, weights: usize| weights / format.weights() * format.bytes();
        let rest = bytes(BlockFormat::Q8_0, 2 * (256 * 256 * 2 + 256 * 128 * 2) + 2 * 96 * 256);
        let experts: usize = [gate, up, down].iter().map(|format| bytes(*format, 2 * 4 * 256 * 512)).sum();
        check(&gpu, &written(dir.path(), name, &random_model_of(4, of)), (rest + experts) as u64);
    }
}

/// Computing in f32 no input is rounded: what is left is the order of sums.
#[test]
fn in_f32_nothing_is_rounded() {
    let Some(_gpu) = cuda_driver::any_gpu() else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = written(dir.path(), "f32", &random_model(BlockFormat::Q5K));
    let score_on = |target| {
        let options = EngineOptions { compute: Type::F32, ..options(target) };
        score(&Engine::open(&file, options).unwrap(), &prompt(20, 3))
    };
    let off = distance(&score_on(GPU), &score_on(CPU));
    assert!(off < 2e-4, "{off} nats");
}

/// 8-bit floats become bf16, or f32 where that is computed in, of the very numbers that they stand for.
#[test]
fn eight_bit_floats_are_the_numbers_they_stand_for() {
    let Some(_gpu) = cuda_driver::any_gpu() else { return };
    for name in ["qwen3", "mixtral"] {
        let [eight, wide, narrow] = folders(name, Scales::Block([24, 16], Dtype::F32));
        for (compute, numbers) in [(Type::F32, wide), (Type::Bf16, narrow)] {
            let [got, want] = [&eight, &numbers].map(|dir| {
                let options = EngineOptions { compute, ..options(GPU) };
                score(&Engine::open(dir.path(), options).unwrap(), &prompt(20, 3))
            });
            assert!(got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()), "{name} {compute:?}");
        }
    }
}
