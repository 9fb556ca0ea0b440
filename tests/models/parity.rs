//! Every family against the implementation its checkpoints were made for: tiny random models whose log probabilities were
//! computed elsewhere (`tests/fixtures/parity/README.md` describes the files, `tools/make_parity_fixtures.py` makes them).

use crate::support::parity as cases;
use cases::Depth;

#[test]
fn f32_logprobs_and_greedy_tokens_equal_the_reference() {
    cases::f32_logprobs_and_greedy_tokens_equal_the_reference(Depth::Whole);
}

#[test]
fn bf16_stays_as_close_as_the_reference_itself() {
    cases::bf16_stays_as_close_as_the_reference_itself(Depth::Whole);
}

#[test]
fn what_does_not_open_yet_is_refused() {
    cases::what_does_not_open_yet_is_refused();
}
