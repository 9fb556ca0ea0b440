//! Constrained requests on the CPU.

use crate::support::constraints as cases;
use crate::support::target;
use astrai::engine::CpuTier;

fn open() -> astrai::engine::Engine {
    cases::open(target::Target::Cpu(CpuTier::Auto))
}

#[test]
fn answers_meet_their_constraints() {
    cases::answers_meet_their_constraints(&open(), 12);
}

#[test]
fn a_constrained_request_never_depends_on_its_neighbours() {
    cases::a_constrained_request_never_depends_on_its_neighbours(&open(), 9, 50);
}

#[test]
fn a_late_mask_holds_up_nobody_else() {
    cases::a_late_mask_holds_up_nobody_else(&open(), 4, 20);
}

#[test]
fn constraints_end_their_own_requests_alone() {
    cases::constraints_end_their_own_requests_alone(&open());
}
