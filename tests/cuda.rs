//! The CUDA backend: engines on a GPU, or on the stand-in for NVIDIA's driver where there is none, which runs the very kernels
//! on the CPU and punishes every result that is read too early.
#![cfg(all(feature = "cuda", target_os = "linux"))]
#![allow(clippy::print_stdout, reason = "seeds and measured differences belong to a test's report")]

mod cuda_driver;
#[path = "parity/cases.rs"]
mod parity;
#[path = "cuda/steps.rs"]
mod steps;
mod target;

use parity::Depth;

#[test]
fn f32_parity() {
    let Some(_driver) = cuda_driver::begin() else { return };
    target::use_gpu();
    parity::f32_logprobs_and_greedy_tokens_equal_the_reference(Depth::Short);
}

#[test]
fn bf16_parity() {
    let Some(_driver) = cuda_driver::begin() else { return };
    target::use_gpu();
    parity::bf16_stays_as_close_as_the_reference_itself(Depth::Short);
}

#[test]
fn decode_steps_are_recorded_and_waited_for_once() {
    let Some(driver) = cuda_driver::begin() else { return };
    steps::decode_steps_are_recorded_and_waited_for_once(&driver);
}

#[test]
fn steps_ahead_change_nothing() {
    let Some(_driver) = cuda_driver::begin() else { return };
    steps::steps_ahead_change_nothing();
}
