//! A step of the engine: plan, submit, finish what may no longer be in flight, deliver.
//!
//! How many steps may be in flight is the device's ([`steps_in_flight`](crate::backend::Backend::steps_in_flight)). With one, a step is finished
//! before the next is planned. With more, the next step is planned and submitted while this one runs: each sampled token has a
//! place in its sequence before its value is known
//! ([`Scheduler::append_unknown`](crate::scheduler::Scheduler::append_unknown)), and the device takes the value from where the last
//! step left it. A request that turns out to have ended has a row too many in the step that is already submitted, whose result is
//! dropped; the device works in order, so the pages the request gave back are written by others only after that.
//!
//! A request with penalties needs the value on the host before its next token can be asked for: it has no row in the step that is
//! submitted meanwhile, and holds up none of the others. Where such requests are at least as many as the others, the step is finished
//! before the next is planned, so that all of them share it.

use super::active::{Active, End, Token};
use super::api::FinishReason;
use super::core::Core;
use super::model_runner::{LogitsPosition, ModelRunner};
use crate::backend::Ticket;
use crate::error::{Error, Result, reserved};
use crate::sampling::{
    LogitAdjustment, NO_FINITE_LOGIT, NO_TOKEN, SamplingKind, SamplingParams, SamplingRequest, adjustments_max,
};
use crate::scheduler::Row;
use std::time::{Duration, Instant};

/// What was asked of the logits at a position.
#[derive(Clone, Copy)]
struct Asked {
    at: LogitsPosition,
    kind: SamplingKind,
    /// The sampled token has a place in its sequence already, as an unknown one.
    appended: bool,
}

/// A step that was submitted and not finished.
pub(super) struct InFlightStep {
    rows: Vec<Row>,
    /// Number of tokens of the rows.
    tokens: usize,
    /// The positions of the logits, with what was asked of each.
    positions: Vec<Asked>,
    /// Sequences that the next step may continue without their newest token, and sequences that wait for it.
    continued: usize,
    sitting_out: usize,
    /// `None` when the output has already been waited for.
    ticket: Option<Ticket>,
    /// When the work of the step began.
    begun: Instant,
}

impl InFlightStep {
    /// With room for the largest step.
    ///
    /// # Errors
    /// `Memory`.
    pub fn new(runner: &ModelRunner) -> Result<InFlightStep> {
        Ok(InFlightStep {
            rows: reserved("the rows of a step", runner.plan.rows.capacity())?,
            tokens: 0,
            positions: reserved("the sampled positions of a step", runner.model.logits_rows_max())?,
            continued: 0,
            sitting_out: 0,
            ticket: None,
            begun: Instant::now(),
        })
    }
}

impl Core {
    /// One step; false when there was nothing to do.
    pub(super) fn step(&mut self) -> bool {
        let entered = Instant::now();
        self.waited = Duration::ZERO;
        if self.in_flight.back().is_some_and(|step| step.sitting_out > 0 && step.sitting_out >= step.continued) {
            self.finish();
            if self.dead.is_some() {
                return true;
            }
        }
        let planned = match self.runner.schedule(&mut self.planner, &mut self.spent) {
            Ok(planned) => planned,
            Err(error) => {
                self.fail_step(&error);
                return true;
            }
        };
        if self.runner.plan.rows.is_empty() {
            return self.finish();
        }
        self.note_admissions(entered);
        match self.submit(planned) {
            Ok(true) => {}
            Ok(false) => return true,
            Err(error) => {
                self.die(error);
                return true;
            }
        }
        // Under a duty limit the engine rests between two steps, with nothing in flight.
        let most = if self.meter.limited() { 1 } else { self.runner.backend.steps_in_flight() };
        let in_flight = self.in_flight.len();
        while self.in_flight.len() >= most && self.finish() {}
        if let Some(trace) = &mut self.trace {
            let host = entered.elapsed().saturating_sub(self.waited);
            trace.call(&self.runner.scheduler, self.runner.page_tokens, in_flight, host);
        }
        true
    }

    /// Submits the planned step; false when it was given up between two layers.
    ///
    /// # Errors
    /// As [`Core::sample_in_pieces`].
    fn submit(&mut self, planned: Instant) -> Result<bool> {
        let whole = self.collect_requests(0) == self.runner.logits_positions.len();
        if !self.compute(whole) {
            return Ok(false);
        }
        if let Some(trace) = &mut self.trace {
            trace.rows(&self.runner.plan, &self.runner.scheduler, &self.active);
        }
        let mut step = self.spare_steps.pop().ok_or_else(|| Error::internal("too many steps are in flight"))?;
        (step.begun, step.tokens, step.ticket) = (planned + self.meter.rested(), self.runner.plan.tokens, None);
        step.rows.clear();
        step.rows.extend_from_slice(&self.runner.plan.rows);
        step.positions.clear();
        (step.continued, step.sitting_out) = (0, 0);
        for row in &self.runner.plan.rows {
            self.runner.scheduler.computed(row);
        }
        if whole {
            step.ticket = Some(self.runner.backend.copy_out());
            self.append_unknown_tokens(&mut step);
        } else if let Err(error) = self.sample_in_pieces() {
            self.spare_steps.push(step);
            return Err(error);
        }
        if self.dead.is_some() {
            self.spare_steps.push(step);
        } else {
            self.in_flight.push_back(step);
        }
        Ok(true)
    }

    /// Submits the operations of the step, with those that sample when `whole`; false when it was given up.
    fn compute(&mut self, whole: bool) -> bool {
        let recordable = self.runner.begin(whole);
        if recordable && self.runner.backend.replay() {
            return true;
        }
        if !self.forward() {
            return false;
        }
        self.runner.sample_all(whole);
        if recordable && !self.runner.backend.recorded() {
            // The recording failed, and nothing was submitted.
            self.forward();
            self.runner.sample_all(whole);
        }
        true
    }

    /// Fills `runner.sampling` with the requests for the logits positions from `first` on, as many as the limits on
    /// rows and adjustments allow; returns how many.
    fn collect_requests(&mut self, first: usize) -> usize {
        let runner = &mut self.runner;
        runner.sampling.clear();
        let (rows_max, adjustments_max) = (runner.model.logits_rows_max(), adjustments_max(runner.model.vocab()));
        for position in runner.logits_positions[first..].iter().take(rows_max) {
            let first_adjustment = runner.sampling.adjustments.len();
            let room = adjustments_max - first_adjustment;
            let request = match self.active.get(position.sequence) {
                None => SamplingRequest::default(),
                Some(active) if samples(active, position) && active.adjustments.entries().len() > room => break,
                Some(active) => sampling_request(active, position, &mut runner.sampling.adjustments),
            };
            runner.sampling.rows.push(SamplingRequest { first_adjustment: first_adjustment as i32, ..request });
        }
        runner.sampling.rows.len()
    }

    /// Fills `step.positions`. Where steps overlap, it appends an unknown token to each sequence that the next step may
    /// continue without knowing it.
    fn append_unknown_tokens(&mut self, step: &mut InFlightStep) {
        let overlap = self.runner.backend.steps_in_flight() > 1;
        for row in 0..self.runner.logits_positions.len() {
            let (at, kind) = (self.runner.logits_positions[row], self.runner.sampling.rows[row].kind);
            let mut appended = false;
            if let Some(active) = self.active.get_mut(at.sequence).filter(|_| overlap)
                && kind == SamplingKind::Sample
                // The last token of a request is not computed any further.
                && active.generated + active.ahead + 1 < active.request.max_tokens
            {
                if active.request.params.uses_counts() {
                    step.sitting_out += 1;
                    step.positions.push(Asked { at, kind, appended });
                    continue;
                }
                match self.runner.scheduler.append_unknown(at.sequence, row as u32) {
                    Ok(()) => {
                        active.ahead += 1;
                        appended = true;
                        step.continued += 1;
                    }
                    Err(error) => self.end(at.sequence, End::Failed(error)),
                }
            }
            step.positions.push(Asked { at, kind, appended });
        }
    }

    /// Samples a step whose logits do not fit one sampling batch, piece by piece, and waits for each. Finishes the
    /// previous steps first, so that nothing else is in flight.
    ///
    /// # Errors
    /// `Device`; `Internal` when the adjustments of one row exceed the limit.
    fn sample_in_pieces(&mut self) -> Result<()> {
        while self.finish() {}
        let mut first = 0;
        while first < self.runner.logits_positions.len() && self.dead.is_none() {
            let count = self.collect_requests(first);
            if count == 0 {
                return Err(Error::internal("the biases of a row are more than there is room for"));
            }
            let runner = &mut self.runner;
            runner.sample(first, count);
            let ticket = runner.backend.copy_out();
            runner.backend.wait_sampled(ticket, &mut runner.sampled)?;
            for index in 0..count {
                let (at, kind) = (self.runner.logits_positions[first + index], self.runner.sampling.rows[index].kind);
                self.deliver(Asked { at, kind, appended: false }, index);
            }
            first += count;
        }
        Ok(())
    }

    /// Waits for the oldest step in flight and delivers its tokens; false when there is none. A device failure ends the
    /// engine.
    pub(super) fn finish(&mut self) -> bool {
        let Some(step) = self.in_flight.pop_front() else { return false };
        let begin = Instant::now();
        let arrived = step.ticket.map(|ticket| self.runner.backend.wait_sampled(ticket, &mut self.runner.sampled));
        self.waited += begin.elapsed();
        if let Some(Err(error)) = arrived {
            self.spare_steps.push(step);
            self.die(error);
            return true;
        }
        for (index, asked) in step.positions.iter().enumerate() {
            self.deliver(*asked, index);
        }
        self.stats.steps += 1;
        let now = Instant::now();
        // Steps overlap: the time of a step counts from when the previous one was finished.
        let spent = now.saturating_duration_since(step.begun.max(self.finished_at));
        self.finished_at = now;
        self.account(&step.rows, step.tokens, spent);
        self.spare_steps.push(step);
        true
    }

    /// Finishes the steps in flight and waits until the device is idle; false when no step was in flight.
    pub(super) fn drain(&mut self) -> bool {
        if !self.finish() {
            return false;
        }
        while self.finish() {}
        if let (None, Err(error)) = (&self.dead, self.runner.backend.wait()) {
            self.die(error);
        }
        true
    }

    /// Delivers row `index` of the sampled output, the answer to what was asked; an error ends the request.
    fn deliver(&mut self, asked: Asked, index: usize) {
        if let Err(error) = self.use_sampled(asked, index) {
            self.end(asked.at.sequence, End::Failed(error));
        }
    }

    fn use_sampled(&mut self, Asked { at, kind, appended }: Asked, index: usize) -> Result<()> {
        let (handle, runner) = (at.sequence, &mut self.runner);
        let Some(active) = self.active.get_mut(handle) else { return Ok(()) };
        let logprob = runner.sampled.logprobs[index];
        match kind {
            SamplingKind::Given => {
                active.prompt_logprobs.push(logprob);
                return Ok(());
            }
            // The end of a prompt of which nothing but its log probabilities was asked.
            SamplingKind::Idle => {
                self.end(handle, End::Finished(FinishReason::Length));
                return Ok(());
            }
            SamplingKind::Sample => {}
        }
        let token = runner.sampled.tokens[index];
        if [NO_TOKEN, NO_FINITE_LOGIT].contains(&token) {
            return Err(no_token(token, &active.request.params, at.position));
        }
        if appended {
            active.ahead -= 1;
            runner.scheduler.know(handle, token);
        } else {
            runner.scheduler.append(handle, token)?;
        }
        self.stats.tokens_out += 1;
        let asked = active.request.params.logprobs;
        let top = asked.filter(|count| *count > 0).map(|count| runner.sampled.tops(index, count as usize));
        let (top_tokens, top_logprobs) = top.unwrap_or_default();
        let token = Token { id: token, logprob: asked.map(|_| logprob), top_tokens, top_logprobs };
        let (finish, full) = active.accept(token, &self.shared.dispatch)?;
        if full {
            runner.scheduler.set_paused(handle, true);
        }
        if let Some(reason) = finish {
            self.end(handle, End::Finished(reason));
        }
        Ok(())
    }
}

/// Whether a token is sampled from the logits at a position.
fn samples(active: &Active, at: &LogitsPosition) -> bool {
    at.position + 1 >= active.request.prompt.len() && active.request.max_tokens > 0
}

/// The sampling request for the logits at a position. Appends the request's adjustments to `adjustments`;
/// `first_adjustment` is left to the caller.
fn sampling_request(active: &Active, at: &LogitsPosition, adjustments: &mut Vec<LogitAdjustment>) -> SamplingRequest {
    if let Some(&next) = active.request.prompt.get(at.position + 1) {
        return SamplingRequest { kind: SamplingKind::Given, given: next, logprobs: 0, ..SamplingRequest::default() };
    }
    if !samples(active, at) {
        return SamplingRequest::default();
    }
    let changes = active.adjustments.entries();
    adjustments.extend_from_slice(changes);
    active.request.params.request(at.position as u64 + 1, changes.len())
}

/// Why no token could be sampled: `token` says whether the device found a finite logit, if it can tell.
fn no_token(token: u32, params: &SamplingParams, position: usize) -> Error {
    if token == NO_FINITE_LOGIT || params.bias.is_empty() && !params.uses_counts() {
        return Error::format(format!(
            "the model computed no finite logit at position {}: its weights are damaged or numbers overflowed; try again with \
             compute = f32",
            position + 1
        ));
    }
    Error::argument(
        "bias or penalties forbid every token, or the model computed no finite logit; leave at least one token",
    )
    .about("bias")
}
