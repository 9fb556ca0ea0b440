//! Steps on a device that samples: the next step is planned and submitted while the previous one runs.
//!
//! A submitted step is an [`InFlightStep`]. Each token it samples is appended to its sequence as an unknown token
//! ([`Scheduler::append_unknown`](crate::scheduler::Scheduler::append_unknown)) before its value reaches the host, so
//! that the next step can be planned; the device takes the value from the output of the previous step. Finishing a step
//! replaces its unknown tokens by their values and delivers them. When a request turns out to have ended, the step in
//! flight may still have a row of it, whose output is discarded. The pages of that request can be reused at once: the
//! device runs steps in order, so others write to them only after that row.
//!
//! Penalties depend on the tokens sampled before, which the host has to know: after a step that samples with penalties,
//! the next step is planned only when that step is finished. At most one step is in flight when a step is planned, and
//! none while the engine is paused or idle.

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

/// A step submitted to the device and not yet finished.
pub(super) struct InFlightStep {
    rows: Vec<Row>,
    /// Tokens of all rows.
    tokens: usize,
    /// Positions whose logits the step computes, in the order of its output; true where an unknown token was appended.
    positions: Vec<(LogitsPosition, bool)>,
    /// Identifies the step's output; `None` when nothing has to be waited for.
    ticket: Option<Ticket>,
    /// Whether the next step may be planned before this one is finished.
    next_may_be_planned: bool,
    /// When the planning of the step began.
    begun: Instant,
}

impl InFlightStep {
    /// Two records with room for the largest step: one for the step in flight, one for the step being submitted.
    ///
    /// # Errors
    /// `Memory`.
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
    /// Plans and submits a step, then finishes the previous one; false when there was neither.
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

    /// Submits the planned step and appends the tokens it samples as unknown ones. A step whose logits do not fit one
    /// sampling batch is sampled in pieces and waited for, so that it has no ticket.
    ///
    /// # Errors
    /// As of [`Core::in_pieces`].
    fn submit(&mut self, begun: Instant) -> Result<InFlightStep> {
        // `whole`: all logits fit one sampling batch. `recordable`: each row is one token with logits, so that the step
        // may be recorded or replayed as a whole.
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

    /// Fills `runner.sampling` with the requests for the logits positions from `first` on, as many as the limits on
    /// rows and adjustments allow; returns how many.
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

    /// Appends an unknown token to each sequence the step samples for, so that the next step can be planned, and fills
    /// `step.positions`. Clears `next_may_be_planned` where penalties need the value first.
    fn append_unknown_tokens(&mut self, step: &mut InFlightStep) {
        for row in 0..self.runner.logits_positions.len() {
            let at = self.runner.logits_positions[row];
            let mut placed = false;
            if let Some(active) = self.active.get_mut(at.sequence)
                && self.runner.sampling.rows[row].kind == SamplingKind::Sample
            {
                // The last token of a request never becomes an input of the model.
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

    /// Samples a step whose logits do not fit one sampling batch, piece by piece, and waits for each. Finishes the
    /// previous step first, so that nothing is left in flight.
    ///
    /// # Errors
    /// `Device`; `Internal` when the adjustments of one row exceed the limit.
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

    /// Waits for the step in flight and delivers its tokens; false when there is none. A device failure ends the
    /// engine.
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
        // Steps overlap: the time of a step counts from when the previous one was finished.
        let spent = now - step.begun.max(self.finished_at);
        self.finished_at = now;
        self.account(&step.rows, step.tokens, spent);
        self.spare_steps.push(step);
        true
    }

    /// Finishes the step in flight and waits until the device is idle; false when no step was in flight.
    pub(super) fn drain(&mut self) -> bool {
        if !self.finish() {
            return false;
        }
        if let (None, Err(error)) = (&self.dead, self.runner.backend.wait()) {
            self.die(error);
        }
        true
    }

    /// Uses row `index` of the sampled output, which belongs to `at`; an error ends the request. `placed`: the token
    /// was appended to its sequence as an unknown one.
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
    /// Pads the step with idle rows up to a batch size for which steps are recorded. Their output is discarded; their
    /// only page is `spare_frame`.
    fn fill_up(&mut self) {
        let (step, rows) = (&mut self.step, self.plan.rows.len());
        let filled = self.backend.padded(rows);
        // Without room in the page lists there is no padding: sequences that share pages may list more than were
        // reserved.
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

    /// Submits the operations of the step; with `sampled`, also logits and sampling for all its positions. A
    /// `recordable` step is replayed if one of the same shape was recorded, else it may be recorded now.
    fn submit(&mut self, sampled: bool, recordable: bool) {
        self.backend.begin(&self.step);
        if sampled {
            self.backend.set_sampling(&self.sampling);
        }
        if recordable && self.backend.replay() {
            return;
        }
        self.run(sampled);
        // False: the recording failed and nothing was submitted.
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

    /// Samples `count` of the step's logits positions, from `first` on, as `sampling` says.
    fn sample(&mut self, first: usize, count: usize) {
        self.backend.set_sampling(&self.sampling);
        self.logits_and_tokens(first, count);
    }

    fn logits_and_tokens(&mut self, first: usize, count: usize) {
        let vocab = self.model.vocab();
        // Errors are reported when the output is waited for.
        if let Ok(logits) = self.model.logits(&mut *self.backend, &self.step, first, count, None) {
            self.backend.sample(logits, count, vocab);
        }
    }
}

/// The sampling request for the logits of `at`: the log probability of the next prompt token, a sample, or nothing.
/// Appends the adjustments of a sample to `adjustments`.
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

/// The error for a row where no token can be sampled. The device does not report the cause, so it is inferred from the
/// parameters.
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
