//! Law 1 on a GPU, laws 3 and 6 with it: the storms that every tier of the CPU has to stand, with blocks in random order.

use super::engines::{CPU, GPU, assert_nothing_lives};
use crate::cuda_driver::{self, Gpu};
use crate::support::models::fixture;
use crate::support::models::fixtures;
use crate::support::random::{Random, rounds, seed};
use crate::support::storm::neighbours as cases;
use crate::support::target;

/// A GPU; of the stand-in, with another order of blocks and threads in every launch.
fn begin() -> Option<Gpu> {
    let gpu = cuda_driver::any_gpu()?;
    target::use_gpu();
    if let Gpu::StandIn(driver) = &gpu {
        let order = Random(seed()).below(1 << 30) as u64 | 1;
        println!("order of blocks: {order}");
        driver.set_seed(order);
    }
    Some(gpu)
}

#[track_caller]
fn end(gpu: &Gpu) {
    let Gpu::StandIn(driver) = gpu else { return };
    assert_nothing_lives(driver, "after the storm");
    assert_eq!(driver.message(), "", "a kernel or a call was refused");
}

/// Models of every kind, in bf16 and f32, with stored, 8-bit and 4-bit weights, pages of bf16, i8 and f32. Long runs take all.
#[test]
fn a_token_never_depends_on_its_neighbours() {
    let Some(gpu) = begin() else { return };
    let some = [
        "llama",
        "mistral",
        "gemma3_text",
        "astrai_gqa",
        "astrai_mla_norm",
        "astrai_moe",
        "qwen3_moe_mixed",
        "deepseek_v3",
    ]
    .map(fixture);
    if rounds() > 1 {
        cases::a_token_never_depends_on_its_neighbours(&fixtures(), 9).assert_busy(2 * rounds());
    } else {
        let tally = cases::a_token_never_depends_on_its_neighbours(&some, 4);
        // The others have tests of their own, below.
        let seen = [tally.finished, tally.cut, tally.prefix_hits, tally.preemptions + tally.stalls];
        assert!(seen.iter().all(|&n| n > 0), "{tally:?}");
    }
    end(&gpu);
}

/// The same of a model with heads that have pages of i8, and a vocabulary of more than one block of the search.
#[test]
fn the_storyteller_obeys_law_one_too() {
    let Some(gpu) = begin() else { return };
    cases::the_storyteller_obeys_law_one_too(if rounds() > 1 { 4 } else { 2 });
    end(&gpu);
}

#[test]
fn the_storyteller_is_preempted_and_nobody_can_see_it() {
    let Some(gpu) = begin() else { return };
    cases::the_storyteller_is_preempted_and_nobody_can_see_it(if rounds() > 1 { 4 } else { 1 });
    end(&gpu);
}

#[test]
fn sixty_four_at_once_are_each_as_if_alone() {
    let Some(gpu) = begin() else { return };
    cases::sixty_four_at_once_are_each_as_if_alone(if rounds() > 1 { 20 } else { 2 });
    end(&gpu);
}

#[test]
fn a_cancel_in_the_middle_of_a_prompt_gives_everything_back() {
    let Some(gpu) = begin() else { return };
    cases::a_cancel_in_the_middle_of_a_prompt_gives_everything_back(2);
    end(&gpu);
}

/// Law 6: two engines on the GPU and one on the CPU.
#[test]
fn engines_side_by_side_do_not_notice_each_other() {
    let Some(gpu) = begin() else { return };
    cases::engines_side_by_side_do_not_notice_each_other(["llama", "astrai_moe", "llama"], [GPU, GPU, CPU], 4);
    end(&gpu);
}
