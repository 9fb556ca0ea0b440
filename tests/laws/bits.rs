//! The bits of fixed requests: tokens and log probabilities of every fixture and of the storyteller, on every tier and in every
//! format, against `tests/fixtures/bits.txt`. A change of the engine that is not meant to change numbers leaves them as they are;
//! one that is meant to moves [`astrai::backend::NUMERICS_VERSION`] and writes the file anew with `ASTRAI_BLESS=1`, on a processor
//! with every tier.

use crate::support::jobs::{Job, answer, drain};
use crate::support::models::{fixtures, root, storyteller};
use crate::support::random::Random;
use crate::support::target::{self, Target};
use astrai::Status;
use astrai::engine::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// Weights, pages, products.
const FORMATS: [(Type, Type, Type); 7] = [
    (Type::Auto, Type::Auto, Type::Auto),
    (Type::Auto, Type::Auto, Type::F32),
    (Type::Auto, Type::Q8, Type::Auto),
    (Type::Q8, Type::Q8, Type::Auto),
    (Type::Q8, Type::F32, Type::F32),
    (Type::Q4, Type::Auto, Type::Auto),
    (Type::Q4, Type::Q8, Type::F32),
];

/// How many requests share a step.
const BATCHES: [u32; 2] = [1, 8];

fn file() -> PathBuf {
    root().join("tests/fixtures/bits.txt")
}

/// Eight requests that differ in length, sampling and what is asked of them.
fn jobs(vocab: usize) -> Vec<Job> {
    let mut random = Random(20261129);
    let mut jobs = Vec::new();
    for (index, length) in [1, 5, 17, 40, 64, 33, 131, 90].into_iter().enumerate() {
        let prompt = (0..length).map(|_| random.below(vocab) as u32).collect();
        let options = RequestOptions {
            seed: Some(index as u64),
            ignore_eos: true,
            max_tokens: Some(5 + index as u32),
            temperature: Some([0.0, 1.0, 0.7, 1.5][index % 4]),
            top_p: Some([1.0, 0.9, 1.0][index % 3]),
            top_k: Some([0, 0, 7, 40, 0][index % 5]),
            min_p: Some(if index % 7 == 6 { 0.05 } else { 0.0 }),
            repetition_penalty: Some(if index % 5 == 3 { 1.2 } else { 1.0 }),
            presence_penalty: Some(if index % 6 == 5 { 0.4 } else { 0.0 }),
            frequency_penalty: Some(if index % 7 == 3 { 0.3 } else { 0.0 }),
            logprobs: Some(3),
            prompt_logprobs: index % 4 == 1,
            ..RequestOptions::default()
        };
        jobs.push(Job { prompt, options });
    }
    jobs
}

/// The hash of all answers, which does not depend on how many requests share a step; what was refused by name.
fn bits(dir: &Path, target: Target, (weights, kv, compute): (Type, Type, Type)) -> String {
    let mut seen = Vec::new();
    for batch in BATCHES {
        let options = EngineOptions {
            weights,
            kv,
            compute,
            threads: 1 + batch % 2,
            max_running: batch,
            step_tokens: 16 * batch,
            context_length: 256,
            ..target.options()
        };
        let engine = match Engine::open(dir, options) {
            Ok(engine) => engine,
            Err(error) if error.status == Status::Unsupported => return format!("no {}", error.subject),
            Err(error) => panic!("{dir:?} on {target:?}: {error:?}"),
        };
        let requests: Vec<Request> =
            jobs(engine.info().vocab_size as usize).iter().map(|job| job.submit(&engine, Sink::Pull)).collect();
        let answers: Vec<_> = requests.iter().map(|request| answer(&drain(request))).collect();
        let numbers = answers.iter().flat_map(|a| [&a.tokens, &a.logprobs, &a.top, &a.prompt_logprobs]);
        let bytes: Vec<u8> = numbers.flatten().flat_map(|n| n.to_le_bytes()).collect();
        assert!(answers.iter().zip(jobs(1)).all(|(a, job)| a.tokens.len() == job.options.max_tokens.unwrap() as usize));
        seen.push(xxh3_64(&bytes));
    }
    assert!(seen.iter().all(|hash| *hash == seen[0]), "{dir:?} on {target:?} in batches of {BATCHES:?}: {seen:x?}");
    format!("{:016x}", seen[0])
}

fn name(target: Target) -> String {
    match target {
        Target::Cpu(tier) => format!("{tier:?}").to_lowercase(),
        Target::Gpu(_) => "gpu".into(),
        Target::Plain => "plain".into(),
    }
}

/// Compares the models' bits on the targets of this process with the file's.
pub fn are_as_ever(models: &[PathBuf]) {
    let text = std::fs::read_to_string(file()).unwrap_or_default();
    let mut known: BTreeMap<String, String> =
        text.lines().filter_map(|line| line.rsplit_once(": ")).map(|(key, bits)| (key.into(), bits.into())).collect();
    let mut wrong = Vec::new();
    for dir in models {
        let model = dir.file_name().unwrap().to_str().unwrap();
        for target in target::all() {
            // The storyteller is large for a test; its layers are those of `llama`.
            let formats = if model == "storyteller" { &FORMATS[3..4] } else { &FORMATS[..] };
            if model == "storyteller" && target == Target::Cpu(CpuTier::Reference) {
                continue;
            }
            for &format in formats {
                let (weights, kv, compute) = format;
                let key = format!("{model} {} weights={weights:?} kv={kv:?} compute={compute:?}", name(target));
                let now = bits(dir, target, format);
                let before = known.insert(key.clone(), now.clone());
                if before.is_none() && matches!(target, Target::Cpu(CpuTier::Amx | CpuTier::Neon)) {
                    // Few machines have these: what is new is not known of them before it is blessed on one.
                    println!("{key}: {now}, nothing before");
                } else if before.as_ref() != Some(&now) {
                    wrong.push(format!("{key}: {} now, {} before", now, before.as_deref().unwrap_or("nothing")));
                }
            }
        }
    }
    if std::env::var_os("ASTRAI_BLESS").is_some() {
        let lines: String = known.iter().map(|(key, bits)| format!("{key}: {bits}\n")).collect();
        std::fs::write(file(), lines).unwrap();
        return;
    }
    assert!(wrong.is_empty(), "{} of the file's bits have moved:\n{}", wrong.len(), wrong.join("\n"));
}

/// Every fixture and the storyteller.
pub fn models() -> Vec<PathBuf> {
    fixtures().into_iter().chain([storyteller()]).collect()
}
