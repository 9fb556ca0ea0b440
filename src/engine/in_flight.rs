//! Steps on a device that samples: the next step is planned and submitted while the last one runs.
//!
//! A submitted step is an [`InFlightStep`]. What it samples has a place in its sequences before anybody knows it
//! ([`Scheduler::append_unknown`](crate::scheduler::Scheduler::append_unknown)), so that the next plan goes on from there; the
//! device finds the token where the last step left it. When a step is finished, its tokens become known and are delivered. A
//! request that turns out to have ended has a row too many in the step that is already under way, which nobody looks at: the
//! device works in order, so the pages it gave back are written by others only after that.
//!
//! Tokens that depend on what was sampled before (penalties) need a host that knows it: after a step with such a row the next
//! plan waits until it is finished. At most one step is in flight when a plan is made, and none while the engine rests.

use super::active::{Active, End};
use super::api::FinishReason;
use super::core::Core;
use super::model_runner::{LogitsPosition, ModelRunner};
use crate::backend::{LogitAdjustment, NO_TOKEN, SamplingKind, SamplingRequest, Tables, Ticket, adjustments_max};
use crate::error::{Error, Result, reserved};
use crate::limits;
use crate::sampling::{Sampled, SamplingParams};
use crate::scheduler::Row;
use std::time::{Duration, Instant};

/// A step that was submitted and has not been waited for.
pub(super) struct InFlightStep {
    rows: Vec<Row>,
    tokens: usize,
    /// The sampled positions, and of each whether its place is in its sequence already.
    positions: Vec<(LogitsPosition, bool)>,
    /// None: all of it has been waited for.
    ticket: Option<Ticket>,
    /// The next step may be planned before this one is finished.
    next_may_be_planned: bool,
    begun: Instant,
}

impl InFlightStep {
    /// As many as there are at once: one in flight, one being submitted. With room for the largest step.
    pub fn two(runner: &ModelRunner) -> Result<Vec<InFlightStep>> {
        let (rows, positions) = (runner.plan.rows.capacity(), runner.model.logits_rows_max());
        let one = || {
            Ok(InFlightStep {
                rows: reserved("the rows of a step", rows)?,
                tokens: 0,
                positions: reserved("the sampled positions of a step", positions)?,
                ticket: None,
                next_may_be_planned: true,
                begun: Instant::now(),
            })
        };
        Ok(vec![one()?, one()?])
    }
}

impl Core {
    /// Submits a step, then waits for the one before; false when there was neither.
    pub(super) fn step_ahead(&mut self) -> bool {
        let entered = Instant::now();
        self.waited = Duration::ZERO;
        if self.in_flight.as_ref().is_some_and(|step| !step.next_may_be_planned) {
            self.finish();
            if self.dead.is_some() {
                return true;
            }
        }
        let begin = Instant::now();
        if let Err(error) = self.runner.schedule(&mut self.spent) {
            self.fail_step(&error);
            return true;
        }
        if self.runner.plan.rows.is_empty() {
            return self.finish();
        }
        self.note_admissions(begin);
        match self.submit(begin) {
            Ok(step) => {
                self.finish();
                if self.dead.is_none() {
                    self.in_flight = Some(step);
                }
            }
            Err(error) => self.die(error),
        }
        if let Some(trace) = &mut self.trace {
            let host = entered.elapsed().saturating_sub(self.waited);
            trace.call(&self.runner.scheduler, self.runner.page_tokens, host);
        }
        true
    }

    /// Submits the planned step.
    fn submit(&mut self, begun: Instant) -> Result<InFlightStep> {
        let whole = self.ask(0) == self.runner.logits_positions.len();
        let single = self.runner.plan.rows.iter().all(|row| row.count == 1);
        let recordable = whole && single && self.runner.logits_positions.len() == self.runner.plan.rows.len();
        if recordable {
            self.runner.fill_up();
        }
        self.runner.submit(whole, recordable);
        if let Some(trace) = &mut self.trace {
            trace.rows(&self.runner.plan, &self.runner.scheduler, &self.active);
        }
        let mut step = self.spare_steps.pop().ok_or_else(|| Error::internal("two steps are in flight"))?;
        (step.begun, step.tokens, step.ticket) = (begun, self.runner.plan.tokens, None);
        // Under a duty limit the engine rests between two steps, with nothing in flight.
        step.next_may_be_planned = !self.meter.limited();
        step.rows.clear();
        step.rows.extend_from_slice(&self.runner.plan.rows);
        step.positions.clear();
        for row in &self.runner.plan.rows {
            self.runner.scheduler.computed(row);
        }
        if whole {
            step.ticket = Some(self.runner.backend.copy_out());
            self.append_unknown_tokens(&mut step);
        } else {
            self.in_pieces()?;
        }
        Ok(step)
    }

    /// Says what is asked of the wanted rows from `first` on, as many as there is room for; how many those are.
    fn ask(&mut self, first: usize) -> usize {
        let runner = &mut self.runner;
        runner.sampling.clear();
        let (rows_max, adjustments_max) = (runner.model.logits_rows_max(), adjustments_max(runner.model.vocab()));
        for position in runner.logits_positions[first..].iter().take(rows_max) {
            let first_adjustment = runner.sampling.adjustments.len();
            let request = match self.active.get(position.sequence) {
                None => SamplingRequest::default(),
                Some(active) if first_adjustment + active.adjustments.entries().len() > adjustments_max => break,
                Some(active) => sampling_request(active, position, &mut runner.sampling.adjustments),
            };
            runner.sampling.rows.push(SamplingRequest { first_adjustment: first_adjustment as i32, ..request });
        }
        runner.sampling.rows.len()
    }

    /// Gives what the step samples its place in the sequences, so that the next plan goes on from there.
    fn append_unknown_tokens(&mut self, step: &mut InFlightStep) {
        for row in 0..self.runner.logits_positions.len() {
            let at = self.runner.logits_positions[row];
            let mut placed = false;
            if let Some(active) = self.active.get_mut(at.sequence)
                && self.runner.sampling.rows[row].kind == SamplingKind::Sample
            {
                // The last one is not computed any further.
                let more = active.generated + active.ahead + 1 < active.request.max_tokens;
                if more && active.request.params.uses_counts() {
                    step.next_may_be_planned = false;
                } else if more {
                    match self.runner.scheduler.append_unknown(at.sequence, row as u32) {
                        Ok(()) => {
                            active.ahead += 1;
                            placed = true;
                        }
                        Err(error) => self.end(at.sequence, End::Failed(error)),
                    }
                }
            }
            step.positions.push((at, placed));
        }
    }

    /// Samples a step that wants more than fits at once, piece by piece. Nothing is left in flight.
    fn in_pieces(&mut self) -> Result<()> {
        self.finish();
        let mut first = 0;
        while first < self.runner.logits_positions.len() && self.dead.is_none() {
            let count = self.ask(first);
            if count == 0 {
                return Err(Error::internal("the biases of a row are more than there is room for"));
            }
            let runner = &mut self.runner;
            runner.sample(first, count);
            let ticket = runner.backend.copy_out();
            runner.backend.wait_sampled(ticket, &mut runner.sampled)?;
            for index in 0..count {
                let at = self.runner.logits_positions[first + index];
                self.take(at, index, false);
            }
            first += count;
        }
        Ok(())
    }

    /// Waits for the step in flight and delivers what it sampled. False when there is none.
    pub(super) fn finish(&mut self) -> bool {
        let Some(step) = self.in_flight.take() else { return false };
        let begin = Instant::now();
        let arrived = step.ticket.map(|ticket| self.runner.backend.wait_sampled(ticket, &mut self.runner.sampled));
        self.waited += begin.elapsed();
        if let Some(Err(error)) = arrived {
            self.spare_steps.push(step);
            self.die(error);
            return true;
        }
        for (index, (position, placed)) in step.positions.iter().enumerate() {
            self.take(*position, index, *placed);
        }
        self.stats.steps += 1;
        let now = Instant::now();
        // Steps overlap; each is counted from the end of the one before.
        let spent = now - step.begun.max(self.finished_at);
        self.finished_at = now;
        self.account(&step.rows, step.tokens, spent);
        self.spare_steps.push(step);
        true
    }

    /// Waits for all that was submitted: the engine comes to rest.
    pub(super) fn drain(&mut self) -> bool {
        if !self.finish() {
            return false;
        }
        if let (None, Err(error)) = (&self.dead, self.runner.backend.wait()) {
            self.die(error);
        }
        true
    }

    /// Uses the `index`-th sampled token; a request that fails over it ends.
    fn take(&mut self, at: LogitsPosition, index: usize, placed: bool) {
        if let Err(error) = self.use_sampled(at, index, placed) {
            self.end(at.sequence, End::Failed(error));
        }
    }

    fn use_sampled(&mut self, at: LogitsPosition, index: usize, placed: bool) -> Result<()> {
        let (handle, runner) = (at.sequence, &mut self.runner);
        let Some(active) = self.active.get_mut(handle) else { return Ok(()) };
        if at.position + 1 < active.request.prompt.len() {
            active.prompt_logprobs.push(runner.sampled.logprobs[index]);
            return Ok(());
        }
        if active.request.max_tokens == 0 {
            self.end(handle, End::Finished(FinishReason::Length));
            return Ok(());
        }
        let token = runner.sampled.tokens[index];
        if token == NO_TOKEN {
            return Err(nothing_left(&active.request.params, at.position));
        }
        runner.top_tokens.clear();
        runner.top_logprobs.clear();
        if let Some(count @ 1..) = active.request.params.logprobs {
            let (tokens, logprobs) = runner.sampled.tops(index, count as usize);
            runner.top_tokens.extend_from_slice(tokens);
            runner.top_logprobs.extend_from_slice(logprobs);
        }
        if placed {
            active.ahead -= 1;
            runner.scheduler.know(handle, token);
        } else {
            runner.scheduler.append(handle, token)?;
        }
        let logprob = runner.sampled.logprobs[index];
        self.emit(handle, Sampled { token, logprob })
    }
}

impl ModelRunner {
    /// Adds rows that nobody wants, up to a number of which steps are recorded.
    fn fill_up(&mut self) {
        let (step, rows) = (&mut self.step, self.plan.rows.len());
        let filled = self.backend.padded(rows);
        // Sequences that share pages may name more than were reserved for.
        let room = |tables: &mut Tables| tables.pages.try_reserve(filled - rows).is_ok();
        if filled > self.model.logits_rows_max() || !step.tables.iter_mut().all(room) {
            return;
        }
        for row in rows..filled {
            step.tokens.push(0);
            step.positions.push(0);
            step.sequences.push(row as u32);
            step.logits_indices.push(row as u32);
            for tables in &mut step.tables {
                tables.starts.push(tables.pages.len() as u32);
                tables.pages.push(self.spare_frame);
            }
            self.sampling.rows.push(SamplingRequest::default());
        }
    }

    /// Submits the step; with `sampled` all that it wants is sampled.
    fn submit(&mut self, sampled: bool, recordable: bool) {
        self.backend.begin(&self.step);
        if sampled {
            self.backend.set_sampling(&self.sampling);
        }
        if recordable && self.backend.replay() {
            return;
        }
        self.run(sampled);
        if recordable && !self.backend.recorded() {
            self.run(sampled);
        }
    }

    fn run(&mut self, sampled: bool) {
        self.model.run(&mut *self.backend, &self.step);
        if sampled && !self.step.logits_indices.is_empty() {
            self.logits_and_tokens(0, self.step.logits_indices.len());
        }
    }

    /// Samples `count` wanted rows from `first` on, as their requests say.
    fn sample(&mut self, first: usize, count: usize) {
        self.backend.set_sampling(&self.sampling);
        self.logits_and_tokens(first, count);
    }

    fn logits_and_tokens(&mut self, first: usize, count: usize) {
        let vocab = self.model.vocab();
        // What fails is told when the tokens are waited for.
        if let Ok(logits) = self.model.logits(&mut *self.backend, &self.step, first, count, None) {
            self.backend.sample(logits, count, vocab);
        }
    }
}

/// What is asked of the logits after a position of a request.
fn sampling_request(active: &Active, at: &LogitsPosition, adjustments: &mut Vec<LogitAdjustment>) -> SamplingRequest {
    if let Some(&next) = active.request.prompt.get(at.position + 1) {
        return SamplingRequest { kind: SamplingKind::Given, given: next, logprobs: 0, ..SamplingRequest::default() };
    }
    if active.request.max_tokens == 0 {
        return SamplingRequest::default();
    }
    let p = &active.request.params;
    let changes = active.adjustments.entries();
    adjustments.extend_from_slice(changes);
    SamplingRequest {
        seed: p.seed,
        position: at.position as u64 + 1,
        temperature: p.temperature,
        top_p: p.top_p,
        min_p: p.min_p,
        top_k: i32::try_from(p.top_k).unwrap_or(i32::MAX),
        repetition_penalty: p.repetition_penalty,
        presence_penalty: p.presence_penalty,
        frequency_penalty: p.frequency_penalty,
        logprobs: p.logprobs.map_or(-1, |n| n.min(limits::TOP_LOGPROBS_MAX as u32) as i32),
        first_adjustment: 0,
        adjustments: changes.len() as i32,
        kind: SamplingKind::Sample,
        given: 0,
    }
}

/// No token may be sampled: the device does not say why.
fn nothing_left(params: &SamplingParams, position: usize) -> Error {
    if params.bias.is_empty() && !params.uses_counts() {
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
