//! Tokens per second on a model folder (models/storyteller unless another is named): decoding with 1, 4 and 16
//! streams, and prefill of a long prompt.
//!
//!     cargo bench --bench decode [-- DIR]
//!
//! The measurements take turns within a round, so that a machine that slows down slows all of them; the median over
//! the rounds counts, and the spread is shown beside it. Prompts differ in every round: nothing is cached.
#![allow(clippy::print_stdout, reason = "a program that prints a table")]

use astrai::Error;
use astrai::engine::{Engine, EngineOptions, Event, Next, Prompt, PromptPart, Request, RequestOptions, Sink, Usage};
use std::path::PathBuf;

const ROUNDS: usize = 7;
const STREAMS: [usize; 3] = [1, 4, 16];
/// Tokens each stream generates.
const DECODE_TOKENS: u32 = 128;
/// Tokens of a decoding stream's prompt.
const PROMPT_TOKENS: usize = 16;
/// Tokens of the prefill prompt, if the context has room for them.
const PREFILL_TOKENS: usize = 1024;
const SEED: u64 = 7;

fn main() -> Result<(), Error> {
    let folder = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let dir =
        folder.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models/storyteller"), PathBuf::from);
    let options = EngineOptions { max_running: 16, ..EngineOptions::default() };
    let engine = Engine::open(&dir, options)?;
    let info = engine.info();
    let mut prompts = Prompts { vocab: u64::from(info.vocab_size), state: SEED };
    let prefill_tokens = PREFILL_TOKENS.min(info.context_length as usize / 2);
    println!("{} on {}, {:?}, {:?}", dir.display(), info.device_name, info.cpu_tier, info.compute);
    println!("seed {SEED}, {ROUNDS} rounds; tokens per second: median (lowest to highest)");

    let mut decode = [const { Vec::new() }; STREAMS.len()];
    let mut prefill = Vec::new();
    measure_decode(&engine, &mut prompts, 1)?; // touches the weights once, uncounted
    for _ in 0..ROUNDS {
        for (rates, streams) in decode.iter_mut().zip(STREAMS) {
            rates.push(measure_decode(&engine, &mut prompts, streams)?);
        }
        prefill.push(measure_prefill(&engine, &mut prompts, prefill_tokens)?);
    }
    for (rates, streams) in decode.iter_mut().zip(STREAMS) {
        print_row(&format!("decode, {streams} streams of {DECODE_TOKENS} tokens"), rates);
    }
    print_row(&format!("prefill, {prefill_tokens} tokens"), &mut prefill);
    Ok(())
}

/// Tokens after each stream's first, over the time of the slowest.
fn measure_decode(engine: &Engine, prompts: &mut Prompts, streams: usize) -> Result<f64, Error> {
    let requests: Vec<Request> =
        (0..streams).map(|_| submit(engine, prompts.next(PROMPT_TOKENS), DECODE_TOKENS)).collect::<Result<_, _>>()?;
    let usages: Vec<Usage> = requests.iter().map(finish).collect::<Result<_, _>>()?;
    let tokens: u64 = usages.iter().map(|usage| u64::from(usage.generated_tokens) - 1).sum();
    let time_us = usages.iter().map(|usage| usage.decode_us).max().unwrap_or(0).max(1);
    Ok(tokens as f64 * 1e6 / time_us as f64)
}

/// Tokens of the prompt over the time to the first token.
fn measure_prefill(engine: &Engine, prompts: &mut Prompts, tokens: usize) -> Result<f64, Error> {
    let usage = finish(&submit(engine, prompts.next(tokens), 1)?)?;
    Ok(tokens as f64 * 1e6 / usage.first_token_us.max(1) as f64)
}

fn submit(engine: &Engine, tokens: Vec<u32>, max_tokens: u32) -> Result<Request, Error> {
    let prompt = Prompt { parts: vec![PromptPart::Tokens(tokens)], ..Prompt::default() };
    let options = RequestOptions {
        max_tokens: Some(max_tokens),
        ignore_eos: true,
        temperature: Some(0.8),
        seed: Some(SEED),
        ..RequestOptions::default()
    };
    engine.submit(&prompt, &options, Sink::Pull)
}

fn finish(request: &Request) -> Result<Usage, Error> {
    match request.wait(None)? {
        Next::Event(event) => match *event {
            Event { error: Some(error), .. } => Err(error),
            Event { usage: Some(usage), .. } if usage.generated_tokens > 0 => Ok(usage),
            event => Err(Error::internal(format!("a stream ended without tokens: {event:?}"))),
        },
        other => Err(Error::internal(format!("a stream ended without a last event: {other:?}"))),
    }
}

fn print_row(name: &str, rates: &mut [f64]) {
    rates.sort_by(f64::total_cmp);
    if let (Some(low), Some(median), Some(high)) = (rates.first(), rates.get(rates.len() / 2), rates.last()) {
        println!("{name:36}{median:10.1}  ({low:.1} to {high:.1})");
    }
}

/// Seeded prompts of random tokens.
struct Prompts {
    vocab: u64,
    state: u64,
}

impl Prompts {
    fn next(&mut self, tokens: usize) -> Vec<u32> {
        let token = |_| {
            self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.state >> 33) % self.vocab) as u32
        };
        (0..tokens).map(token).collect()
    }
}
