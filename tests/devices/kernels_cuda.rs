//! The CUDA kernels in their host build: g++ compiles the very sources in kernels/ against kernels/host.cuh, and every kernel
//! runs at edge sizes against plain loops or the CPU's reference tier; law 1 for each of them. The same again under the
//! AddressSanitizer, in a process of its own.
//!
//! Without g++ the tests print SKIP, and fail if ASTRAI_REQUIRE names it. Threads and blocks run in an order that the seed
//! shuffles (ASTRAI_TEST_SEED), which shows missing barriers.
//!
//! With ASTRAI_TEST_DEVICE=cuda (cuda:1, ...) the same tests launch the library's own kernels on that device through the driver;
//! without one they print SKIP, and fail if ASTRAI_REQUIRE names gpu. What only the host build can show is skipped there.

mod attention;
#[cfg(feature = "cuda")]
mod device;
mod elements;
mod experts;
mod host;
#[cfg(not(feature = "cuda"))]
mod no_device;
mod products;
mod rows;
mod sampling;
mod selftest;

use crate::build;
use crate::support::random::Random;
#[cfg(not(feature = "cuda"))]
use no_device as device;
use std::process::{Command, Stdio};

/// Whether to go on; prints the seed.
fn begin() -> bool {
    if device::index().is_some() {
        return device::available();
    }
    let available = build::available();
    println!("ASTRAI_TEST_SEED={}", host::seed());
    available
}

/// As [`begin`], for what only the host build shows.
fn begin_on_host(what: &str) -> bool {
    if device::index().is_some() {
        println!("SKIP: {what} only in the host build");
        return false;
    }
    begin()
}

fn rounded(v: f32) -> f32 {
    half::bf16::from_f32(v).to_f32()
}

/// The largest difference is at most `tolerance`.
#[track_caller]
fn close(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let difference = (f64::from(got) - expected).abs();
        assert!(difference <= tolerance, "{what}, element {i}: {got} for {expected}");
    }
}

#[track_caller]
fn same_bits(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_eq!(got.to_bits(), expected.to_bits(), "{what}, element {i}: {got} and {expected}");
    }
}

/// All tests of this file again, with the kernels built for the AddressSanitizer, but for those that reach no memory which
/// others do not.
#[test]
fn nothing_is_read_or_written_out_of_bounds() {
    if std::env::var_os(host::SANITIZED).is_some() || !begin_on_host("the AddressSanitizer sees memory") {
        return;
    }
    let runtime = Command::new("g++").arg("-print-file-name=libasan.so").output().unwrap();
    let runtime = String::from_utf8(runtime.stdout).unwrap().trim().to_owned();
    if !runtime.starts_with('/') {
        println!("SKIP: g++ has no AddressSanitizer");
        return;
    }
    // Preloaded: it has to come before every other library. Leaks are none of its business here.
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--test-threads=2",
            "kernels_cuda::",
            "--skip",
            "a_row_has_the_same_bits",
            "--skip",
            "a_row_of_attention",
        ])
        .args(["--skip", "products_in_a_group", "--skip", "draws_follow", "--skip", "ties_are_cut"])
        .args(["--skip", "a_missing_barrier"])
        .env(host::SANITIZED, "1")
        .env("LD_PRELOAD", runtime)
        .env("ASAN_OPTIONS", "detect_leaks=0:use_sigaltstack=0:detect_stack_use_after_return=0")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{}\n{}", told[0], told[1]);
}
