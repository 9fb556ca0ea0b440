//! What sampling one token costs at a real vocabulary size, in microseconds: the median of interleaved rounds.
//!
//!     cargo bench --bench sample
#![allow(clippy::print_stdout, reason = "a program that prints a table")]

use astrai::Error;
use astrai::sampling::{AllowedTokens, Sampler, SamplingParams, TokenCounts};
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
    let (logits, mut sampler) = (logits(), Sampler::new(VOCAB)?);
    let (allowed, none) = (AllowedTokens::all(VOCAB), TokenCounts::new());
    let mut times = vec![Vec::new(); cases.len()];
    for _ in 0..ROUNDS {
        for ((_, params), times) in cases.iter().zip(&mut times) {
            let start = Instant::now();
            for position in 0..DRAWS {
                sampler.sample(&logits, &allowed, params, &none, position, &mut Vec::new(), &mut Vec::new())?;
            }
            times.push(start.elapsed().as_secs_f64() * 1e6 / DRAWS as f64);
        }
    }
    println!("vocabulary {VOCAB}, seed {SEED}, {ROUNDS} rounds; microseconds: median (lowest to highest)");
    for ((name, _), times) in cases.iter().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        println!("{name:34} {:7.0} ({:.0} to {:.0})", times[ROUNDS / 2], times[0], times[ROUNDS - 1]);
    }
    Ok(())
}
