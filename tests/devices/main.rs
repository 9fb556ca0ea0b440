//! What computes: the kernels of every CPU tier and of CUDA against references, the stand-in for NVIDIA's driver, and engines
//! on a GPU. No engine of these tests is on the CPU alone: [`support::target`] is the GPU for the whole process.
//!
//! ASTRAI_TEST_DEVICE=cuda (cuda:1, ...) names a real GPU, in a build with the feature `cuda`; `kernels_cuda` and `cuda` run on
//! it then.
#![allow(
    clippy::print_stdout,
    reason = "a skipped test says so; seeds and measured differences belong to a test's report"
)]

#[cfg(target_os = "linux")]
mod build;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod cuda;
#[cfg(target_os = "linux")]
mod cuda_driver;
mod heads;
mod kernels;
#[cfg(target_os = "linux")]
mod kernels_cuda;
mod operations;
mod states;
#[path = "../support/mod.rs"]
mod support;
