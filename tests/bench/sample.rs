//! What sampling one token costs at a real vocabulary size, in microseconds: the median of interleaved rounds.
//!
//!     cargo bench --bench sample
#![allow(clippy::print_stdout, reason = "a program that prints a table")]

use astrai::Error;
use astrai::backend::cpu::{Compute, CpuBackend, Tier, TierPasses};
use astrai::backend::{Linear, MaxBatchShape, Memory, Operations, Sampling, Steps};
use astrai::dtype::DType;
use astrai::encoding::Encoding;
use astrai::os::aligned::AlignedBytes;
use astrai::os::thread::ThreadOptions;
use astrai::sampling::{AllowedTokens, Sampler, SamplingParams};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

const VOCAB: usize = 151_936;
const ROUNDS: usize = 9;
const DRAWS: u64 = 40;
const SEED: u64 = 3;

/// Logits of about the spread of a language model's: sums of twelve uniform numbers are nearly normal.
fn logits() -> Vec<f32> {
    let mut state = SEED;
    let mut uniform = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..VOCAB).map(|_| ((0..12).map(|_| uniform()).sum::<f32>() - 6.0) * 2.5).collect()
}

fn main() -> Result<(), Error> {
    let drawn = SamplingParams { temperature: 0.8, ..SamplingParams::default() };
    let cases = [
        ("greedy", SamplingParams::default()),
        ("greedy, 5 logprobs", SamplingParams { logprobs: Some(5), ..SamplingParams::default() }),
        ("temperature", drawn.clone()),
        ("top_k 40", SamplingParams { top_k: 40, ..drawn.clone() }),
        ("top_p 0.95", SamplingParams { top_p: 0.95, ..drawn.clone() }),
        ("top_k 40, top_p 0.95, min_p 0.05", SamplingParams { top_k: 40, top_p: 0.95, min_p: 0.05, ..drawn }),
    ];
    let (logits, mut sampler, passes) = (logits(), Sampler::new(VOCAB)?, TierPasses::of(Tier::Auto)?);
    let mask = AllowedTokens::all(VOCAB);
    let mut times = vec![Vec::new(); cases.len()];
    for _ in 0..ROUNDS {
        for ((_, params), times) in cases.iter().zip(&mut times) {
            let (mut ids, mut logprobs) = ([0; 5], [0.0; 5]);
            let start = Instant::now();
            for position in 0..DRAWS {
                let request = params.request(position, 0);
                black_box(sampler.sample(&passes, &logits, &mask, &request, (&[], None), (&mut ids, &mut logprobs)));
            }
            times.push(start.elapsed().as_secs_f64() * 1e6 / DRAWS as f64);
        }
    }
    println!("vocabulary {VOCAB}, seed {SEED}, {ROUNDS} rounds; microseconds: median (lowest to highest)");
    for ((name, _), times) in cases.iter().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        println!("{name:34} {:7.0} ({:.0} to {:.0})", times[ROUNDS / 2], times[0], times[ROUNDS - 1]);
    }
    many_rows(&logits)
}

/// Rows of a step that are sampled at a time.
const ROWS: usize = 16;

/// What a step spends on the logits and samples of several rows, by one thread and by two in turns. The product that makes the
/// logits has one input, so that it takes little of that.
fn many_rows(logits: &[f32]) -> Result<(), Error> {
    let params = SamplingParams { temperature: 0.8, top_p: 0.95, ..SamplingParams::default() };
    let requests: Vec<_> = (0..ROWS as u64).map(|position| params.request(position, 0)).collect();
    let mut backends = Vec::new();
    for threads in [1, 2] {
        let mut backend = CpuBackend::new(Tier::Auto, Compute::F32, threads, ThreadOptions::default())?;
        backend.reserve(&MaxBatchShape {
            rows: ROWS,
            logits_rows: ROWS,
            vocab: VOCAB,
            in_features: 1,
            ..MaxBatchShape::default()
        })?;
        backend.set_vocabulary_mask(&AllowedTokens::all(VOCAB))?;
        let mut column = |values: &[f32]| {
            let mut bytes = AlignedBytes::zeroed(values.len() * 4).expect("memory");
            bytes.as_mut_slice().chunks_mut(4).zip(values).for_each(|(to, x)| to.copy_from_slice(&x.to_le_bytes()));
            backend.weight(Arc::new(bytes), Encoding::Stored(DType::F32), values.len(), 1)
        };
        let (weight, ones) = (column(logits)?, column(&[1.0])?);
        let (x, out) = (backend.alloc(ROWS, "inputs")?, backend.alloc(ROWS * VOCAB, "logits")?);
        let step = backend.step();
        step.tokens.extend([0; ROWS]);
        step.sampling.rows.extend_from_slice(&requests);
        backend.embed(ones, 1.0, x);
        backends.push((backend, x, Linear { weight, bias: None, out, accumulate: false }, Vec::new()));
    }
    for _ in 0..ROUNDS {
        for (backend, x, head, times) in &mut backends {
            let start = Instant::now();
            for _ in 0..4 {
                backend.sample(*x, ROWS, *head, None);
            }
            times.push(start.elapsed().as_secs_f64() * 1e6 / 4.0);
        }
    }
    for (threads, (.., times)) in backends.iter_mut().enumerate() {
        times.sort_by(f64::total_cmp);
        let name = format!("{ROWS} rows, top_p 0.95, {} threads", threads + 1);
        println!("{name:34} {:7.0} ({:.0} to {:.0})", times[ROUNDS / 2], times[0], times[ROUNDS - 1]);
    }
    Ok(())
}
