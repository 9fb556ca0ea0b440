//! The CUDA backend: engines on a GPU, or on the stand-in for NVIDIA's driver where there is none, which runs the very kernels
//! on the CPU and punishes every result that is read too early. ASTRAI_TEST_DEVICE=cuda (cuda:1, ...) names a real one.
#![cfg(all(feature = "cuda", target_os = "linux"))]
#![allow(clippy::print_stdout, reason = "seeds and measured differences belong to a test's report")]

#[path = "cuda/check.rs"]
mod check;
mod cuda_driver;
#[path = "parity/cases.rs"]
mod parity;
mod target;

use cuda_driver::Gpu;
use parity::Depth;

/// Everything on a real GPU, unless ASTRAI_TEST_DEPTH is `short`.
fn depth(gpu: &Gpu) -> Depth {
    let short = std::env::var("ASTRAI_TEST_DEPTH").is_ok_and(|depth| depth == "short");
    if gpu.is_real() && !short { Depth::Whole } else { Depth::Short }
}

#[test]
fn f32_parity() {
    let Some(gpu) = cuda_driver::any_gpu() else { return };
    target::use_gpu();
    parity::f32_logprobs_and_greedy_tokens_equal_the_reference(depth(&gpu));
}

#[test]
fn bf16_parity() {
    let Some(gpu) = cuda_driver::any_gpu() else { return };
    target::use_gpu();
    parity::bf16_stays_as_close_as_the_reference_itself(depth(&gpu));
}
