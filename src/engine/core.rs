//! The engine thread. It handles commands and, while there is work, runs steps: schedule, forward pass, sampling,
//! bookkeeping, delivery of tokens.
//!
//! Only this thread uses the scheduler, the model and the device (law 6). A panic fails every request and marks the
//! engine dead; the thread keeps running and answers later commands with that error (law 2).
//!
//! What it owns, in reading order: [`super::requests`], [`super::prefixes`] and the commands that change both
//! ([`super::state`]); when it may work ([`super::pacing`]); the steps ([`super::step`]).

use super::drafting::Drafting;
use super::step::Steps;
use super::{EngineState, ModelRunner, Pacing, Shared, Trace, panicked};
use crate::error::Result;
use crate::os::shortage;
use crate::scheduler::ScheduleFn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

/// Everything the engine thread owns.
pub(super) struct Core {
    state: EngineState,
    pacing: Pacing,
    steps: Steps,
}

impl Core {
    /// An engine without requests.
    ///
    /// # Errors
    /// `Memory`.
    pub fn new(
        shared: Arc<Shared>,
        runner: ModelRunner,
        schedule_fn: Option<ScheduleFn>,
        trace: Option<Trace>,
        drafting: Option<Drafting>,
    ) -> Result<Core> {
        let steps = Steps::new(&runner, schedule_fn)?;
        let mut state = EngineState::new(shared, runner, drafting)?;
        state.new_trace = trace.map(|trace| Some(Box::new(trace)));
        Ok(Core { state, pacing: Pacing::new(Instant::now()), steps })
    }

    /// The thread's body: returns when the engine has been closed and every request has ended.
    pub fn run(mut self) {
        self.state.runner.backend.attach();
        if let Some(drafting) = &mut self.state.requests.drafting {
            drafting.attach();
        }
        while catch_unwind(AssertUnwindSafe(|| self.serve())).is_err() {
            self.steps.give_up();
            self.state.mark_dead(&panicked());
        }
    }

    fn serve(&mut self) {
        // True after an empty batch: only a command or a deadline can make the next batch non-empty.
        let mut idle = false;
        loop {
            // When the engine becomes idle, its accounting is checked (law 3). An error is a defect: it panics, which ends
            // the engine like a panic in a step.
            if cfg!(debug_assertions)
                && idle
                && !self.state.is_dead()
                && let Err(error) = self.state.check()
            {
                panic!("an idle engine's accounting is wrong: {error}");
            }
            self.pacing.wait_for_work(&mut self.state, idle, self.steps.at_rest());
            self.state.handle_commands();
            while let Some(trace) = self.state.new_trace.take() {
                self.steps.set_trace(trace.map(|trace| *trace), &mut self.state);
                self.state.handle_commands();
            }
            self.copy_pages();
            let (state, pacing) = (&mut self.state, &mut self.pacing);
            let may_step = !pacing.held();
            pacing.begin_work();
            let worked = if may_step {
                shortage::forget();
                !state.is_dead() && self.steps.step(state, pacing)
            } else {
                self.steps.drain(state)
            };
            pacing.end_work(worked);
            // Steps should not allocate. If one did and memory ran out, its requests fail instead of the process.
            if may_step && let Err(error) = shortage::check("a step") {
                state.fail_step(&error);
            }
            idle = !worked && may_step;
            state.publish_all();
            state.cancel_after_grace(pacing.paused());
            if state.is_over() {
                state.publish();
                return;
            }
        }
    }

    /// Runs the queued page copies as far as the duty limit allows. A dead or closing engine refuses all of them at
    /// once.
    fn copy_pages(&mut self) {
        while !self.state.prefixes.copies.is_empty() && (self.state.refuses_copies() || self.pacing.may_copy()) {
            let Some(copy) = self.state.prefixes.copies.pop_front() else { return };
            self.pacing.begin_work();
            self.state.handle_prefix(copy);
            self.pacing.end_work(true);
        }
    }
}

impl Drop for Core {
    /// Sends the terminal event of every request that has none, and stops the text thread and the delivery.
    fn drop(&mut self) {
        self.state.abandon();
        let shared = &self.state.shared;
        shared.texts.stop();
        shared.guides.stop();
        shared.dispatch.stop();
        shared.adopt_orphans();
    }
}
