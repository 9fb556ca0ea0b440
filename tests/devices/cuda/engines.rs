//! Engines for the tests beside this file: small, with their log lines, and what must be left when they are gone.

use crate::cuda_driver::{Counts, Driver};
use crate::support::jobs::{Answer, answer, drain};
pub use crate::support::lines::Lines;
use crate::support::target::Target;
use astrai::engine::*;
use astrai::{Error, Result};
use std::path::Path;

pub const GPU: Target = Target::Gpu(0);
pub const CPU: Target = Target::Cpu(CpuTier::Auto);

/// A small engine of that target.
pub fn options(target: Target) -> EngineOptions {
    EngineOptions { threads: 1, max_running: 4, step_tokens: 32, memory_budget: 64 << 20, ..target.options() }
}

pub fn tokens(prompt: &[u32]) -> Prompt {
    Prompt { parts: vec![PromptPart::Tokens(prompt.to_vec())], ..Prompt::default() }
}

/// A request that depends on its seed alone.
pub fn wanted(max_tokens: u32) -> RequestOptions {
    RequestOptions {
        seed: Some(11),
        ignore_eos: true,
        max_tokens: Some(max_tokens),
        temperature: Some(0.8),
        logprobs: Some(2),
        queue_tokens: 1000,
        ..RequestOptions::default()
    }
}

/// The tokens of a prompt that differ with `salt` from the first one on.
pub fn salted(count: usize, salt: u32) -> Vec<u32> {
    (0..count as u32).map(|i| (i * 7 + salt * 13 + 1) % 120).collect()
}

pub fn submit(engine: &Engine, prompt: &[u32], max_tokens: u32) -> Request {
    engine.submit(&tokens(prompt), &wanted(max_tokens), Sink::Pull).unwrap()
}

/// What a request gives, which runs to its end.
pub fn generate(engine: &Engine, prompt: &[u32], max_tokens: u32) -> Answer {
    let events = drain(&submit(engine, prompt, max_tokens));
    assert_eq!(events.last().unwrap().error, None);
    answer(&events)
}

/// Why an engine does not open.
#[track_caller]
pub fn refusal(dir: &Path, options: EngineOptions) -> Error {
    let opened: Result<Engine> = Engine::open(dir, options);
    opened.map(|_| ()).expect_err("it must not open")
}

/// What exists on the device just now, and what was left to a context to clean up.
pub fn live(driver: &Driver) -> Counts {
    let c = driver.counts();
    Counts {
        live_device_bytes: c.live_device_bytes,
        live_device_allocations: c.live_device_allocations,
        live_pinned_bytes: c.live_pinned_bytes,
        live_streams: c.live_streams,
        live_events: c.live_events,
        live_modules: c.live_modules,
        live_graphs: c.live_graphs,
        live_contexts: c.live_contexts,
        lost_with_contexts: c.lost_with_contexts,
        ..Counts::default()
    }
}

/// Nothing of any engine is left on the device.
#[track_caller]
pub fn assert_nothing_lives(driver: &Driver, what: &str) {
    assert_eq!(live(driver), Counts::default(), "{what}: {}", driver.message());
}
