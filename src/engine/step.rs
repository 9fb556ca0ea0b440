//! A step of the engine: schedule, submit, finish what may no longer be in flight, deliver.
//!
//! From the run loop (`Core::serve` in [`super::core`]) to the device, a step passes five functions: here [`Steps::step`],
//! `Steps::submit` and `compute`, then in [`crate::model::forward`] [`Model::layer`](crate::model::Model::layer) and the part
//! of the layer, which calls the operations of [`Backend`](crate::backend::Backend).
//!
//! How many steps may be in flight is the device's ([`steps_in_flight`](crate::backend::Steps::steps_in_flight)). With one, a step is finished
//! before the next is scheduled. With more, the next step is scheduled and submitted while this one runs: each sampled token has a
//! place in its sequence before its value is known
//! ([`Scheduler::append_unknown`](crate::scheduler::Scheduler::append_unknown)), and the device takes the value from where the last
//! step left it. A request that turns out to have ended has a row too many in the step that is already submitted, whose result is
//! dropped; the device works in order, so the pages the request gave back are written by others only after that.
//!
//! A request with drafts in its row has no other before it is known which of them are tokens of it; so has one whose next draft is
//! likelier right than not, which needs the token before it.
//!
//! A request with penalties needs the value on the host before its next token can be asked for: it has no row in the step that is
//! submitted meanwhile, and holds up none of the others. Where such requests are at least as many as the others, the step is finished
//! before the next is scheduled, so that all of them share it.

use super::active::Active;
use super::delivery::Piece;
use super::host_logits::Turn;
use super::model_runner::LogitsPosition;
use super::pooling;
use super::tracer::Tracer;
use super::{End, EngineState, FinishReason, LogLevel, ModelRunner, Pacing, Trace};
use crate::backend::Ticket;
use crate::error::{Error, Result, reserved};
use crate::sampling::{
    Dry, LogitAdjustment, NO_FINITE_LOGIT, NO_TOKEN, SamplingKind, SamplingParams, SamplingRequest, adjustments_max,
    mask_words,
};
use crate::scheduler::{Row, ScheduleFn};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A step waits for masks for at most this part of the time of the last one.
const GUIDE_PATIENCE: u32 = 100;

/// What was asked of the logits at a position.
#[derive(Clone, Copy)]
struct Asked {
    at: LogitsPosition,
    kind: SamplingKind,
    /// The sampled token has a place in its sequence already, as an unknown one.
    appended: bool,
}

/// A step that was submitted and not finished.
struct InFlightStep {
    rows: Vec<Row>,
    /// Number of tokens of the rows.
    tokens: usize,
    /// The positions of the logits, with what was asked of each.
    positions: Vec<Asked>,
    /// Sequences that the next step may continue without their newest token, and sequences that wait for it.
    continued: usize,
    sitting_out: usize,
    /// It was waited for: hosts have logits of it and may answer at once, or embeddings are made of it. What else it brings is
    /// delivered before the next step.
    to_hosts: bool,
    /// Drafts that were accepted while it was submitted, as it was sampled in pieces.
    accepted: u64,
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
    fn new(runner: &ModelRunner) -> Result<InFlightStep> {
        Ok(InFlightStep {
            rows: reserved("the rows of a step", runner.batch.rows.capacity())?,
            tokens: 0,
            positions: reserved("the sampled positions of a step", runner.model.logits_rows_max())?,
            continued: 0,
            sitting_out: 0,
            to_hosts: false,
            accepted: 0,
            ticket: None,
            begun: Instant::now(),
        })
    }
}

/// The steps of an engine: those in flight, and the buffers of the others.
pub(super) struct Steps {
    /// Steps that were submitted and not finished, oldest first.
    in_flight: VecDeque<InFlightStep>,
    /// Steps that are not in flight, kept for their buffers.
    spare: Vec<InFlightStep>,
    /// When the last step was finished.
    finished_at: Instant,
    /// Time that the current step has waited for the device.
    waited: Duration,
    /// Time of the last step that was finished.
    last: Duration,
    /// Schedules the steps in place of the scheduler.
    schedule_fn: Option<ScheduleFn>,
    trace: Option<Tracer>,
}

impl Steps {
    /// No step in flight.
    ///
    /// # Errors
    /// `Memory`.
    pub fn new(runner: &ModelRunner, schedule_fn: Option<ScheduleFn>) -> Result<Steps> {
        let most = runner.backend.steps_in_flight();
        Ok(Steps {
            in_flight: reserved("the steps in flight", most)?.into(),
            spare: (0..most).map(|_| InFlightStep::new(runner)).collect::<Result<_>>()?,
            finished_at: Instant::now(),
            waited: Duration::ZERO,
            last: Duration::ZERO,
            schedule_fn,
            trace: None,
        })
    }

    /// Traces the steps from the next one on, or no more. Without memory for it they are not traced.
    pub fn set_trace(&mut self, trace: Option<Trace>, state: &mut EngineState) {
        self.trace = trace.map(Tracer::new);
        let (scheduler, ends) = (&mut state.runner.scheduler, &mut state.requests.ends);
        if let Err(error) = Tracer::prepare(self.trace.as_ref(), scheduler, ends) {
            state.shared.log(LogLevel::Warn, || format!("the steps are not traced: {}", error.message));
            self.trace = None;
        }
        if let Some(trace) = &mut self.trace {
            trace.rest(&state.runner.scheduler);
        }
    }

    /// Whether no step is in flight.
    pub fn at_rest(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Steps in flight are not waited for: their requests have ended.
    pub fn give_up(&mut self) {
        self.spare.extend(self.in_flight.drain(..));
    }

    fn mark_dead(&mut self, state: &mut EngineState, why: &Error) {
        self.give_up();
        state.mark_dead(why);
    }

    /// One step; false when there was nothing to do.
    pub fn step(&mut self, state: &mut EngineState, pacing: &mut Pacing) -> bool {
        let entered = Instant::now();
        self.waited = Duration::ZERO;
        if self.in_flight.back().is_some_and(|step| step.sitting_out > 0 && step.sitting_out >= step.continued) {
            self.finish(state);
            if state.is_dead() {
                return true;
            }
        }
        self.settle_guides(state);
        state.requests.offer_drafts(&mut state.runner.scheduler);
        let scheduled = match state.runner.schedule(&mut self.schedule_fn, &mut state.requests.counters) {
            Ok(scheduled) => scheduled,
            Err(error) => {
                state.fail_step(&error);
                return true;
            }
        };
        if let Some(trace) = &mut self.trace {
            trace.scheduled(&mut state.runner.scheduler, &mut state.requests.ends);
        }
        if state.runner.batch.rows.is_empty() {
            let finished = self.finish(state);
            if let Some(trace) = self.trace.as_mut().filter(|_| !finished) {
                trace.rest(&state.runner.scheduler);
            }
            return finished;
        }
        state.note_admissions(entered);
        match self.submit(state, pacing, scheduled) {
            Ok(true) => {}
            Ok(false) => return true,
            Err(error) => {
                self.mark_dead(state, &error);
                return true;
            }
        }
        // Under a duty limit the engine rests between two steps, with nothing in flight.
        let to_hosts = self.in_flight.back().is_some_and(|step| step.to_hosts);
        let most = if pacing.limited() || to_hosts { 1 } else { state.runner.backend.steps_in_flight() };
        let in_flight = self.in_flight.len();
        while self.in_flight.len() >= most && self.finish(state) {}
        if let Some(trace) = &mut self.trace {
            let host = entered.elapsed().saturating_sub(self.waited);
            trace.call(&state.runner.scheduler, in_flight, host);
        }
        true
    }

    /// Goes on with the constrained requests whose masks are there. A little is waited for those that are not, so that a mask that
    /// takes microseconds does not cost its row a step; longer ones make their own rows sit out.
    fn settle_guides(&self, state: &mut EngineState) {
        let begin = Instant::now();
        while state.requests.settle_guides(&mut state.runner.scheduler) > 0
            && begin.elapsed() < self.last / GUIDE_PATIENCE
        {
            std::thread::yield_now();
        }
    }

    /// Submits the scheduled step; false when it was given up between two layers.
    ///
    /// # Errors
    /// As [`Steps::sample_in_pieces`].
    fn submit(&mut self, state: &mut EngineState, pacing: &mut Pacing, scheduled: Instant) -> Result<bool> {
        let whole = collect_requests(state, 0)? == state.runner.logits_positions.len();
        if !compute(state, pacing) {
            return Ok(false);
        }
        if let Some(trace) = &mut self.trace {
            trace.rows(&state.runner.batch, &state.runner.scheduler, &state.requests.active);
        }
        let mut step = self.spare.pop().ok_or_else(|| Error::internal("too many steps are in flight"))?;
        (step.begun, step.tokens, step.ticket) = (scheduled + pacing.rested(), state.runner.batch.tokens, None);
        step.rows.clear();
        step.rows.extend_from_slice(&state.runner.batch.rows);
        step.positions.clear();
        (step.continued, step.sitting_out, step.to_hosts, step.accepted) = (0, 0, false, 0);
        for row in &state.runner.batch.rows {
            state.runner.scheduler.computed(row);
        }
        if whole {
            state.runner.sample_all();
            step.ticket = Some(state.runner.backend.copy_out());
            match give_to_hosts(state, 0, state.runner.logits_positions.len()) {
                Ok(given) => step.to_hosts = given,
                Err(error) => {
                    self.spare.push(step);
                    return Err(error);
                }
            }
            append_unknown_tokens(state, &mut step);
        } else {
            let accepted = state.runner.scheduler.counters().accepted;
            if let Err(error) = self.sample_in_pieces(state) {
                self.spare.push(step);
                return Err(error);
            }
            step.accepted = state.runner.scheduler.counters().accepted - accepted;
        }
        match pooling::pool(state, step.begun) {
            Ok(pooled) => step.to_hosts |= pooled,
            Err(error) => {
                self.spare.push(step);
                return Err(error);
            }
        }
        if state.is_dead() {
            self.spare.push(step);
        } else {
            self.in_flight.push_back(step);
        }
        Ok(true)
    }

    /// Samples a step whose logits do not fit one sampling batch, piece by piece, and waits for each. Finishes the
    /// previous steps first, so that nothing else is in flight.
    ///
    /// # Errors
    /// `Device`; `Internal` when the adjustments of one row exceed the limit.
    fn sample_in_pieces(&mut self, state: &mut EngineState) -> Result<()> {
        while self.finish(state) {}
        let mut first = 0;
        while first < state.runner.logits_positions.len() && !state.is_dead() {
            let count = collect_requests(state, first)?;
            if count == 0 {
                return Err(Error::internal("the biases of a row are more than there is room for"));
            }
            let runner = &mut state.runner;
            runner.sample(first, count);
            let ticket = runner.backend.copy_out();
            runner.backend.wait_sampled(ticket, &mut runner.sampled)?;
            give_to_hosts(state, first, count)?;
            for index in 0..count {
                let (at, kind) = state.runner.asked(first + index, index);
                deliver(state, Asked { at, kind, appended: false }, index);
            }
            first += count;
        }
        Ok(())
    }

    /// Waits for the oldest step in flight and delivers its tokens; false when there is none. A device failure ends the
    /// engine.
    pub fn finish(&mut self, state: &mut EngineState) -> bool {
        let Some(step) = self.in_flight.pop_front() else { return false };
        let begin = Instant::now();
        let arrived = step.ticket.map(|ticket| state.runner.backend.wait_sampled(ticket, &mut state.runner.sampled));
        self.waited += begin.elapsed();
        if let Some(Err(error)) = arrived {
            self.spare.push(step);
            self.mark_dead(state, &error);
            return true;
        }
        let accepted = state.runner.scheduler.counters().accepted;
        for (index, asked) in step.positions.iter().enumerate() {
            deliver(state, *asked, index);
        }
        let accepted = step.accepted + state.runner.scheduler.counters().accepted - accepted;
        let now = Instant::now();
        // Steps overlap: the time of a step counts from when the previous one was finished.
        let spent = now.saturating_duration_since(step.begun.max(self.finished_at));
        (self.finished_at, self.last) = (now, spent);
        state.requests.account(&step.rows, step.tokens, spent, accepted);
        self.spare.push(step);
        true
    }

    /// Finishes the steps in flight and waits until the device is idle; false when no step was in flight.
    pub fn drain(&mut self, state: &mut EngineState) -> bool {
        if !self.finish(state) {
            return false;
        }
        while self.finish(state) {}
        let waited = state.runner.backend.wait();
        if !state.is_dead()
            && let Err(error) = waited
        {
            self.mark_dead(state, &error);
        }
        true
    }
}

/// Begins the scheduled step and submits its layers. Where the device computes them within these calls, pause and duty limit
/// are obeyed between two layers; false when the step was given up then.
fn compute(state: &mut EngineState, pacing: &mut Pacing) -> bool {
    let runner = &mut state.runner;
    let within_calls = runner.backend.steps_in_flight() == 1;
    runner.model.begin(&mut *runner.backend);
    for layer in 0..state.runner.model.layers() {
        if within_calls && !pacing.wait_within_step(state) {
            return false;
        }
        let runner = &mut state.runner;
        runner.model.layer(&mut *runner.backend, layer);
    }
    true
}

/// Fills the step's sampling requests for the logits positions from `first` on, as many as the limits on
/// rows and adjustments allow; returns how many.
///
/// # Errors
/// `Memory` for the adjustments of drafts.
fn collect_requests(state: &mut EngineState, first: usize) -> Result<usize> {
    let runner = &mut state.runner;
    let sampling = &mut runner.backend.step().sampling;
    sampling.clear();
    let vocab = runner.model.vocab();
    let (rows_max, adjustments_max) = (runner.model.logits_rows_max(), adjustments_max(vocab));
    for position in runner.logits_positions[first..].iter().take(rows_max) {
        let first_adjustment = sampling.adjustments.len();
        let room = adjustments_max - first_adjustment;
        let request = match state.requests.active.get(position.sequence) {
            None => SamplingRequest::default(),
            // Sampled in pieces, of which one has ended the row before its end.
            Some(_) if position.draft > 0 && first > 0 && !runner.scheduler.is_unsettled(position.sequence) => {
                SamplingRequest::default()
            }
            Some(active)
                if samples(active, position)
                    && (adjustments_of(active) + position.draft).min(adjustments_max) > room =>
            {
                break;
            }
            Some(active) => {
                // Those that are no tokens of the request yet, as they are after a piece of its row.
                let accepted = runner.scheduler.accepted_drafts(position.sequence).unwrap_or(0);
                let drafts = runner.scheduler.get(position.sequence).map_or(&[][..], |s| &s.drafts);
                let drafts = drafts.get(accepted..position.draft).unwrap_or_default();
                let mut request = sampling_request(active, position, drafts, &mut sampling.adjustments)?;
                if let (Some(guide), SamplingKind::Sample) = (&active.request.guide, request.kind) {
                    guide.write_mask(drafts.len(), &mut sampling.masks);
                    request.mask = (sampling.masks.len() / mask_words(vocab)) as u32;
                }
                request
            }
        };
        sampling.rows.push(SamplingRequest { first_adjustment: first_adjustment as i32, ..request });
    }
    Ok(sampling.rows.len())
}

/// Fills `step.positions`. Where steps overlap, it appends an unknown token to each sequence that the next step may
/// continue without knowing it.
fn append_unknown_tokens(state: &mut EngineState, step: &mut InFlightStep) {
    let overlap = state.runner.backend.steps_in_flight() > 1;
    for row in 0..state.runner.logits_positions.len() {
        let (at, kind) = state.runner.asked(row, row);
        let mut appended = false;
        if let Some(active) = state.requests.active.get_mut(at.sequence).filter(|_| overlap)
            && kind == SamplingKind::Sample
            // The last token of a request is not computed any further.
            && active.generated + active.ahead + 1 < active.request.max_tokens
        {
            let promising = active.drafts.as_ref().is_some_and(|own| own.promising);
            if active.request.params.uses_history() || active.request.guide.is_some() || at.drafts > 0 || promising {
                step.sitting_out += usize::from(at.draft == 0);
                step.positions.push(Asked { at, kind, appended });
                continue;
            }
            match state.runner.scheduler.append_unknown(at.sequence, row as u32) {
                Ok(()) => {
                    active.ahead += 1;
                    appended = true;
                    step.continued += 1;
                }
                Err(error) => state.end(at.sequence, End::Failed(error)),
            }
        }
        step.positions.push(Asked { at, kind, appended });
    }
}

/// Delivers row `index` of the sampled output, the answer to what was asked; an error ends the request.
fn deliver(state: &mut EngineState, asked: Asked, index: usize) {
    if let Err(error) = use_sampled(state, asked, index) {
        state.end(asked.at.sequence, End::Failed(error));
    }
}

fn use_sampled(state: &mut EngineState, Asked { at, kind, appended }: Asked, index: usize) -> Result<()> {
    let (handle, runner) = (at.sequence, &mut state.runner);
    // After a draft that was not what was sampled, or one that ended the row before its end.
    if at.draft > 0 && !runner.scheduler.is_unsettled(handle) {
        return Ok(());
    }
    let Some(active) = state.requests.active.get_mut(handle) else { return Ok(()) };
    let logprob = runner.sampled.logprobs[index];
    match kind {
        SamplingKind::Given => {
            active.prompt_logprobs.push(logprob);
            return Ok(());
        }
        // The end of a prompt of which nothing but its log probabilities was asked.
        SamplingKind::Idle => {
            state.end(handle, End::Finished(FinishReason::Length));
            return Ok(());
        }
        // The host has its logits.
        SamplingKind::Host => return Ok(()),
        SamplingKind::Sample => {}
    }
    let token = runner.sampled.tokens[index];
    if [NO_TOKEN, NO_FINITE_LOGIT].contains(&token) {
        let constrained = active.request.guide.is_some();
        return Err(no_token(token, &active.request.params, constrained, at.position));
    }
    let asked = active.request.params.logprobs;
    let top = asked.filter(|count| *count > 0).map(|count| runner.sampled.tops(index, count as usize));
    let (top_tokens, top_logprobs) = top.unwrap_or_default();
    let sampled =
        Piece { token, text: "", special_name: None, logprob: asked.map(|_| logprob), top_tokens, top_logprobs };
    state.requests.take_token(handle, sampled, appended, &mut runner.scheduler)
}

/// Whether a token is sampled from the logits at a position.
fn samples(active: &Active, at: &LogitsPosition) -> bool {
    at.position + 1 >= active.request.prompt.len() && active.request.max_tokens > 0
}

/// The sampling request for the logits at a position, after `drafts` that are no tokens of the request yet. Appends the request's adjustments to `adjustments`;
/// `first_adjustment` is left to the caller.
///
/// # Errors
/// `Memory`.
fn sampling_request(
    active: &Active,
    at: &LogitsPosition,
    drafts: &[u32],
    adjustments: &mut Vec<LogitAdjustment>,
) -> Result<SamplingRequest> {
    if let Some(&next) = active.request.prompt.get(at.position + 1) {
        let kind = SamplingKind::Given;
        return Ok(SamplingRequest { kind, given: next, logprobs: 0, ..SamplingRequest::default() });
    }
    if !samples(active, at) {
        return Ok(SamplingRequest::default());
    }
    if active.request.host.is_some() {
        return Ok(SamplingRequest { kind: SamplingKind::Host, logprobs: -1, ..SamplingRequest::default() });
    }
    let before = adjustments.len();
    if !drafts.is_empty() && active.request.params.uses_counts() {
        active.adjustments.append_after(drafts, adjustments)?;
    } else {
        append_adjustments(active, adjustments);
    }
    Ok(active.request.params.request(at.position as u64 + 1, adjustments.len() - before))
}

/// Appends what a row of the request changes of its logits.
fn append_adjustments(active: &Active, adjustments: &mut Vec<LogitAdjustment>) {
    let changes = active.adjustments.entries();
    match &active.dry {
        Some(dry) => dry.merge(changes, adjustments),
        None => adjustments.extend_from_slice(changes),
    }
}

/// Reads the logits of the rows whose tokens the host chooses, of `count` positions from `first` on, and gives them to their hosts. Waits
/// for the step where there are such rows, and says whether there are. Their requests are paused until the host has chosen, so that they
/// keep no place from others.
///
/// # Errors
/// `Device`.
fn give_to_hosts(state: &mut EngineState, first: usize, count: usize) -> Result<bool> {
    let (runner, mut given) = (&mut state.runner, false);
    for row in 0..count {
        let (at, kind) = runner.asked(first + row, row);
        if kind != SamplingKind::Host {
            continue;
        }
        let Some(active) = state.requests.active.get_mut(at.sequence) else { continue };
        let Some(host) = active.request.host.as_ref().map(|seat| seat.0.clone()) else { continue };
        let made = Turn::new(runner.model.vocab(), &runner.allowed, at.position as u64 + 1).and_then(|mut turn| {
            let most = adjustments_of(active);
            turn.adjustments = reserved("the adjustments of a request", most)?;
            append_adjustments(active, &mut turn.adjustments);
            if let Some(guide) = &active.request.guide {
                turn.mask = reserved("the mask of a request", mask_words(runner.model.vocab()))?;
                guide.write_mask(0, &mut turn.mask);
            }
            Ok(turn)
        });
        match made {
            Ok(mut turn) => {
                runner.model.read_logits(&mut *runner.backend, row, &mut turn.logits)?;
                active.with_host = true;
                runner.scheduler.set_paused(at.sequence, true);
                host.give(turn);
                given = true;
            }
            Err(error) => state.requests.end(at.sequence, End::Failed(error), &mut runner.scheduler),
        }
    }
    Ok(given)
}

/// At most so many adjustments does a row of the request have.
fn adjustments_of(active: &Active) -> usize {
    active.adjustments.entries().len() + active.dry.as_ref().map_or(0, Dry::entries)
}

/// Why no token could be sampled: `token` says whether the device found a finite logit, if it can tell.
fn no_token(token: u32, params: &SamplingParams, constrained: bool, position: usize) -> Error {
    if token == NO_FINITE_LOGIT || params.bias.is_empty() && !params.uses_history() && !constrained {
        return Error::format(format!(
            "the model computed no finite logit at position {}: its weights are damaged or numbers overflowed; try again with \
             compute = f32",
            position + 1
        ));
    }
    Error::argument(
        "bias, penalties and constraint together forbid every token, or the model computed no finite logit; leave at least one token",
    )
    .about("bias")
}
