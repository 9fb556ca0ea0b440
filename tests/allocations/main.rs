//! What is allocated, when, and what a refusal does: tests by an allocator of their own, which is the whole program's. Hence a
//! program apart from the others; and where a test counts or refuses for all threads, a process of its own.
#![allow(clippy::print_stdout, reason = "the figures that the factors are chosen by")]

mod allocator;
mod estimates;
mod large_blocks;
mod steps;
#[path = "../support/mod.rs"]
mod support;
mod tokens;
