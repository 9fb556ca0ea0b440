//! Nanoseconds to free a page and take another, from a thousand pages to a million: it should hardly change.
//!
//!     cargo bench --bench pages
//!
//! `last freed` gives back the page that was just taken, so that what is touched stays in the cache: the work itself.
//! `at random` gives back any page of a pool that is nine tenths full, as a server's requests do: the work and the memory's
//! distance. The median of the rounds counts.
#![allow(clippy::print_stdout, reason = "a program that prints a table")]

use astrai::cache::{Page, PagePool};
use std::hint::black_box;
use std::time::Instant;

const SIZES: [usize; 7] = [1_000, 4_000, 16_000, 64_000, 256_000, 500_000, 1_000_000];
const ROUNDS: usize = 301;
/// Pages freed and taken in a round: shorter than a turn of the operating system.
const PAIRS: usize = 20_000;
const SEED: u64 = 7;

fn main() {
    println!(
        "seed {SEED}, {ROUNDS} rounds of {PAIRS} pairs; ns per free + alloc: median (a tenth below, a tenth above)"
    );
    println!("{:>10}{:>28}{:>28}", "pages", "last freed", "at random");
    for size in SIZES {
        println!("{size:>10}{:>28}{:>28}", measure(size, false), measure(size, true));
    }
}

fn measure(size: usize, random: bool) -> String {
    let mut pool = PagePool::new(size).unwrap();
    let mut owned: Vec<Page> = (0..size * 9 / 10).filter_map(|_| pool.alloc()).collect();
    let mut state = SEED;
    let mut times: Vec<f64> = (0..ROUNDS).map(|_| round(&mut pool, &mut owned, random, &mut state)).collect();
    times.sort_by(f64::total_cmp);
    format!("{:.1} ({:.1}, {:.1})", times[ROUNDS / 2], times[ROUNDS / 10], times[ROUNDS - 1 - ROUNDS / 10])
}

/// One round; the same choice of places is made for both kinds, so that drawing it costs both the same.
fn round(pool: &mut PagePool, owned: &mut [Page], random: bool, state: &mut u64) -> f64 {
    let begin = Instant::now();
    for _ in 0..PAIRS {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = ((*state >> 33) as usize * owned.len()) >> 31;
        let at = if random { at } else { black_box(at) & 1 };
        pool.release(owned[at]);
        owned[at] = pool.alloc().expect("one was just freed");
    }
    begin.elapsed().as_nanos() as f64 / PAIRS as f64
}
