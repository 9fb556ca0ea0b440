//! The CUDA backend: engines on a GPU, or on the stand-in for NVIDIA's driver where there is none, which runs the very kernels
//! on the CPU and punishes every result that is read too early. ASTRAI_TEST_DEVICE=cuda (cuda:1, ...) names a real one.
//!
//! | file | what it holds the backend to |
//! |---|---|
//! | `support/parity.rs` | the reference implementations' numbers |
//! | `cuda/neighbours.rs` | law 1: a token never depends on its neighbours |
//! | `cuda/operations.rs` | the reference tier, one operation at a time |
//! | `states.rs` | the reference tier, and the same bits in steps of any lengths |
//! | `heads.rs` | the same of products of heads |
//! | `cuda/states.rs` | sequences that go on from any step, where states are kept |
//! | `cuda/opening.rs` | what a machine may lack, said clearly; nothing left behind by an open that fails |
//! | `cuda/loss.rs` | laws 2 and 4 when the device is lost |
//! | `cuda/leaks.rs` | law 3: memory, handles and the host's own context; the plan |
//! | `cuda/files.rs` | what is kept in files: quantized weights, prefixes |
//! | `cuda/blocks.rs` | weights in blocks of GGUF files, and in 8-bit floats |
//! | `cuda/constraints.rs` | constraints of requests |
//! | `cuda/blaslt.rs` | NVIDIA's own products, where law 1 has been given up for them |
//! | `cuda/check.rs` | gpu-check and `astrai bench` on a GPU, all but speed |
//! | `cuda/abi.rs` | the options of the C interface |

mod abi;
mod blaslt;
mod blocks;
mod check;
mod constraints;
mod engines;
mod files;
mod leaks;
mod loss;
mod neighbours;
mod opening;
mod operations;
mod states;
mod steps;

use crate::cuda_driver::{self, Gpu};
use crate::support::embeddings;
use crate::support::parity::{self, Depth};
use crate::support::target;

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

#[test]
fn embeddings_equal_the_reference() {
    let Some(gpu) = cuda_driver::any_gpu() else { return };
    target::use_gpu();
    let gpu_alone = target::all();
    for name in embeddings::NAMES {
        embeddings::f32_embeddings_equal_the_reference(&gpu_alone, name);
        if gpu.is_real() {
            embeddings::bf16_embeddings_stay_as_close_as_the_reference_itself(&gpu_alone, name);
            embeddings::an_embedding_never_depends_on_its_neighbours(&gpu_alone, name);
        }
    }
}

#[test]
fn operations_agree_with_the_reference() {
    let Some(_gpu) = cuda_driver::any_gpu() else { return };
    operations::operations_agree_with_the_reference();
}

#[test]
fn states_agree_with_the_reference_and_steps_change_nothing() {
    let Some(_gpu) = cuda_driver::any_gpu() else { return };
    crate::states::on_a_gpu();
}

#[test]
fn products_of_heads_agree_with_the_reference() {
    let Some(_gpu) = cuda_driver::any_gpu() else { return };
    crate::heads::on_a_gpu();
}

#[test]
fn a_sequence_goes_on_from_every_step() {
    let Some(_driver) = cuda_driver::begin() else { return };
    states::a_sequence_goes_on_from_every_step();
}

#[test]
fn heads_of_all_widths_that_there_are() {
    let Some(_gpu) = cuda_driver::any_gpu() else { return };
    operations::heads_of_all_widths_that_there_are();
}

#[test]
fn recorded_operations_compute_the_same() {
    let Some(driver) = cuda_driver::begin() else { return };
    operations::recorded_operations_compute_the_same(&driver);
}

#[test]
fn decode_steps_are_recorded_and_waited_for_once() {
    let Some(driver) = cuda_driver::begin() else { return };
    steps::decode_steps_are_recorded_and_waited_for_once(&driver);
}

#[test]
fn a_stream_with_penalties_holds_up_no_other() {
    let Some(_driver) = cuda_driver::begin() else { return };
    steps::a_stream_with_penalties_holds_up_no_other();
}

#[test]
fn streams_with_penalties_share_their_steps() {
    let Some(_driver) = cuda_driver::begin() else { return };
    steps::streams_with_penalties_share_their_steps();
}

#[test]
fn steps_ahead_change_nothing() {
    let Some(_driver) = cuda_driver::begin() else { return };
    steps::steps_ahead_change_nothing();
}

#[test]
fn hosts_get_the_logits_of_the_device() {
    let Some(_driver) = cuda_driver::begin() else { return };
    steps::hosts_get_the_logits_of_the_device();
}

/// A figure, not a bound: `ASTRAI_TEST_STREAMS=256 cargo test --release --features cli,cuda --test devices host_time -- --nocapture`.
#[test]
fn host_time() {
    let Some(driver) = cuda_driver::begin() else { return };
    driver.set_idle(true);
    let streams = std::env::var("ASTRAI_TEST_STREAMS").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    println!("{streams} streams: the host spends {:?} on a step", steps::host_time(streams));
}

#[test]
fn a_panic_in_the_air_leaves_nothing_running() {
    let Some(_driver) = cuda_driver::begin() else { return };
    steps::a_panic_in_the_air_leaves_nothing_running();
}
