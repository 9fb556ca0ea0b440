//! Constrained requests on a GPU: several steps are in flight there, and masks are uploaded.

use super::engines::{GPU, assert_nothing_lives};
use crate::cuda_driver::{self, Gpu};
use crate::support::constraints as cases;

#[test]
fn constraints_are_met_and_hold_up_nobody() {
    let Some(gpu) = cuda_driver::any_gpu() else { return };
    let engine = cases::open(GPU);
    cases::a_late_mask_holds_up_nobody_else(&engine, 2, 6);
    cases::constraints_end_their_own_requests_alone(&engine);
    cases::a_constrained_request_never_depends_on_its_neighbours(&engine, 3, 14);
    drop(engine);
    if let Gpu::StandIn(driver) = &gpu {
        assert_nothing_lives(driver, "after constraints");
        assert_eq!(driver.message(), "");
    }
}
