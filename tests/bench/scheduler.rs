//! What a step's bookkeeping costs: the scheduler with a model that computes nothing.
//!
//! `cargo bench --bench scheduler`; medians of 2,000 steps, in microseconds.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

#[path = "../support/fake.rs"]
mod fake;

use fake::Fake;
use std::time::Instant;

fn main() {
    println!("{:>9} {:>8} {:>12} {:>12}", "sequences", "tokens", "median us", "p99 us");
    for (running, tokens) in [(1, 2000), (16, 2000), (64, 2000), (256, 500), (256, 2000), (1024, 2000)] {
        let mut fake = Fake::warmed_up(running, tokens, running * (tokens / 16 + 160));
        let mut times: Vec<f64> = (0..2000)
            .map(|_| {
                let begin = Instant::now();
                fake.step();
                begin.elapsed().as_secs_f64() * 1e6
            })
            .collect();
        times.sort_by(f64::total_cmp);
        println!("{running:>9} {tokens:>8} {:>12.1} {:>12.1}", times[1000], times[1980]);
        fake.scheduler.check().expect("the accounting is right");
    }
}
