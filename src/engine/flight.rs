//! Steps on a device that samples: the next step is planned and submitted while the last one runs.
//!
//! A submitted step is a [`Flight`]. What it samples has a place in its sequences before anybody knows it
//! ([`Scheduler::append_unknown`](crate::scheduler::Scheduler::append_unknown)), so that the next plan goes on from there; the
//! device finds the token where the last step left it. When a flight lands, its tokens become known, and are handed on. A
//! request that turns out to have ended has a row too many in the step that is already under way, which nobody looks at: the
//! device works in order, so the pages it gave back are written by others only after that.
//!
//! Tokens that depend on what was sampled before (penalties) need a host that knows it: after a step with such a row the next
//! plan waits for its landing. At most one flight is in the air when a plan is made, and none while the engine rests.

use super::active::{Active, End};
use super::api::FinishReason;
use super::core::Core;
use super::machine::{Machine, Wanted};
use crate::backend::{Adjust, Draw, DrawKind, NO_TOKEN, Tables, Ticket, adjusts_max};
use crate::error::{Error, Result, reserved};
use crate::limits;
use crate::sampling::{Sampled, SamplingParams};
use crate::scheduler::Row;
use std::time::{Duration, Instant};

/// A step that was submitted and has not been waited for.
pub(super) struct Flight {
    rows: Vec<Row>,
    tokens: usize,
    /// What was drawn, and of each whether its place is in its sequence already.
    wanted: Vec<(Wanted, bool)>,
    /// None: all of it has been waited for.
    ticket: Option<Ticket>,
    /// The next step may be planned before this one has landed.
    goes_on: bool,
    begun: Instant,
}

impl Flight {
    /// As many as there are at once: one in the air, one that takes off. With room for the largest step.
    pub fn two(machine: &Machine) -> Result<Vec<Flight>> {
        let (rows, wanted) = (machine.plan.rows.capacity(), machine.model.logits_rows_max());
        let one = || {
            Ok(Flight {
                rows: reserved("the rows of a step", rows)?,
                tokens: 0,
                wanted: reserved("the wanted logits of a step", wanted)?,
                ticket: None,
                goes_on: true,
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
        if self.flight.as_ref().is_some_and(|flight| !flight.goes_on) {
            self.land();
            if self.dead.is_some() {
                return true;
            }
        }
        let begin = Instant::now();
        if let Err(error) = self.machine.schedule(&mut self.spent) {
            self.fail_step(&error);
            return true;
        }
        if self.machine.plan.rows.is_empty() {
            return self.land();
        }
        self.note_admissions(begin);
        match self.take_off(begin) {
            Ok(flight) => {
                self.land();
                if self.dead.is_none() {
                    self.flight = Some(flight);
                }
            }
            Err(error) => self.die(error),
        }
        if let Some(trace) = &mut self.trace {
            let host = entered.elapsed().saturating_sub(self.waited);
            trace.call(&self.machine.scheduler, self.machine.page_tokens, host);
        }
        true
    }

    /// Submits the planned step.
    fn take_off(&mut self, begun: Instant) -> Result<Flight> {
        let whole = self.ask(0) == self.machine.wanted.len();
        let single = self.machine.plan.rows.iter().all(|row| row.count == 1);
        let recordable = whole && single && self.machine.wanted.len() == self.machine.plan.rows.len();
        if recordable {
            self.machine.fill_up();
        }
        self.machine.submit(whole, recordable);
        if let Some(trace) = &mut self.trace {
            trace.rows(&self.machine.plan, &self.machine.scheduler, &self.active);
        }
        let mut flight = self.landed.pop().ok_or_else(|| Error::internal("two steps are in the air"))?;
        (flight.begun, flight.tokens, flight.ticket) = (begun, self.machine.plan.tokens, None);
        // Under a duty limit the engine rests between two steps, with nothing in the air.
        flight.goes_on = !self.meter.limited();
        flight.rows.clear();
        flight.rows.extend_from_slice(&self.machine.plan.rows);
        flight.wanted.clear();
        for row in &self.machine.plan.rows {
            self.machine.scheduler.computed(row);
        }
        if whole {
            flight.ticket = Some(self.machine.backend.collect());
            self.go_ahead(&mut flight);
        } else {
            self.in_pieces()?;
        }
        Ok(flight)
    }

    /// Says what is asked of the wanted rows from `first` on, as many as there is room for; how many those are.
    fn ask(&mut self, first: usize) -> usize {
        let machine = &mut self.machine;
        machine.draws.clear();
        let (rows_max, adjusts_max) = (machine.model.logits_rows_max(), adjusts_max(machine.model.vocab()));
        for wanted in machine.wanted[first..].iter().take(rows_max) {
            let at = machine.draws.adjusts.len();
            let draw = match self.active.get(wanted.sequence) {
                None => Draw::default(),
                Some(active) if at + active.adjusts.entries().len() > adjusts_max => break,
                Some(active) => draw_of(active, wanted, &mut machine.draws.adjusts),
            };
            machine.draws.draws.push(Draw { first_adjust: at as i32, ..draw });
        }
        machine.draws.draws.len()
    }

    /// Gives what the step samples its place in the sequences, so that the next plan goes on from there.
    fn go_ahead(&mut self, flight: &mut Flight) {
        for row in 0..self.machine.wanted.len() {
            let wanted = self.machine.wanted[row];
            let mut placed = false;
            if let Some(active) = self.active.get_mut(wanted.sequence)
                && self.machine.draws.draws[row].kind == DrawKind::Sample
            {
                // The last one is not computed any further.
                let more = active.generated + active.ahead + 1 < active.request.max_tokens;
                if more && active.request.params.uses_counts() {
                    flight.goes_on = false;
                } else if more {
                    match self.machine.scheduler.append_unknown(wanted.sequence, row as u32) {
                        Ok(()) => {
                            active.ahead += 1;
                            placed = true;
                        }
                        Err(error) => self.end(wanted.sequence, End::Failed(error)),
                    }
                }
            }
            flight.wanted.push((wanted, placed));
        }
    }

    /// Samples a step that wants more than fits at once, piece by piece. Nothing is left in the air.
    fn in_pieces(&mut self) -> Result<()> {
        self.land();
        let mut first = 0;
        while first < self.machine.wanted.len() && self.dead.is_none() {
            let count = self.ask(first);
            if count == 0 {
                return Err(Error::internal("the biases of a row are more than there is room for"));
            }
            let machine = &mut self.machine;
            machine.sample(first, count);
            let ticket = machine.backend.collect();
            machine.backend.drawn(ticket, &mut machine.drawn)?;
            for index in 0..count {
                let wanted = self.machine.wanted[first + index];
                self.take(wanted, index, false);
            }
            first += count;
        }
        Ok(())
    }

    /// Waits for the step in the air and hands on what it sampled. False when there is none.
    pub(super) fn land(&mut self) -> bool {
        let Some(flight) = self.flight.take() else { return false };
        let begin = Instant::now();
        let arrived = flight.ticket.map(|ticket| self.machine.backend.drawn(ticket, &mut self.machine.drawn));
        self.waited += begin.elapsed();
        if let Some(Err(error)) = arrived {
            self.landed.push(flight);
            self.die(error);
            return true;
        }
        for (index, (wanted, placed)) in flight.wanted.iter().enumerate() {
            self.take(*wanted, index, *placed);
        }
        self.stats.steps += 1;
        let now = Instant::now();
        // Steps overlap; each is counted from the end of the one before.
        let spent = now - flight.begun.max(self.landed_at);
        self.landed_at = now;
        self.account(&flight.rows, flight.tokens, spent);
        self.landed.push(flight);
        true
    }

    /// Waits for all that was submitted: the engine comes to rest.
    pub(super) fn come_down(&mut self) -> bool {
        if !self.land() {
            return false;
        }
        if let (None, Err(error)) = (&self.dead, self.machine.backend.wait()) {
            self.die(error);
        }
        true
    }

    /// Uses the `index`-th of what was drawn; a request that fails over it ends.
    fn take(&mut self, wanted: Wanted, index: usize, placed: bool) {
        if let Err(error) = self.use_drawn(wanted, index, placed) {
            self.end(wanted.sequence, End::Failed(error));
        }
    }

    fn use_drawn(&mut self, wanted: Wanted, index: usize, placed: bool) -> Result<()> {
        let (handle, machine) = (wanted.sequence, &mut self.machine);
        let Some(active) = self.active.get_mut(handle) else { return Ok(()) };
        if wanted.position + 1 < active.request.prompt.len() {
            active.prompt_logprobs.push(machine.drawn.logprobs[index]);
            return Ok(());
        }
        if active.request.max_tokens == 0 {
            self.end(handle, End::Finished(FinishReason::Length));
            return Ok(());
        }
        let token = machine.drawn.tokens[index];
        if token == NO_TOKEN {
            return Err(nothing_left(&active.request.params, wanted.position));
        }
        machine.top_tokens.clear();
        machine.top_logprobs.clear();
        if let Some(count @ 1..) = active.request.params.logprobs {
            let (tokens, logprobs) = machine.drawn.tops(index, count as usize);
            machine.top_tokens.extend_from_slice(tokens);
            machine.top_logprobs.extend_from_slice(logprobs);
        }
        if placed {
            active.ahead -= 1;
            machine.scheduler.know(handle, token);
        } else {
            machine.scheduler.append(handle, token)?;
        }
        let logprob = machine.drawn.logprobs[index];
        self.hand_on(handle, Sampled { token, logprob })
    }
}

impl Machine {
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
            step.wanted.push(row as u32);
            for tables in &mut step.tables {
                tables.starts.push(tables.pages.len() as u32);
                tables.pages.push(self.spare_frame);
            }
            self.draws.draws.push(Draw::default());
        }
    }

    /// Submits the step; with `sampled` all that it wants is sampled.
    fn submit(&mut self, sampled: bool, recordable: bool) {
        self.backend.begin(&self.step);
        if sampled {
            self.backend.draws(&self.draws);
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
        if sampled && !self.step.wanted.is_empty() {
            self.logits_and_tokens(0, self.step.wanted.len());
        }
    }

    /// Samples `count` wanted rows from `first` on, as the draws say.
    fn sample(&mut self, first: usize, count: usize) {
        self.backend.draws(&self.draws);
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
fn draw_of(active: &Active, wanted: &Wanted, adjusts: &mut Vec<Adjust>) -> Draw {
    if let Some(&next) = active.request.prompt.get(wanted.position + 1) {
        return Draw { kind: DrawKind::Given, given: next, logprobs: 0, ..Draw::default() };
    }
    if active.request.max_tokens == 0 {
        return Draw::default();
    }
    let p = &active.request.params;
    let changes = active.adjusts.entries();
    adjusts.extend_from_slice(changes);
    Draw {
        seed: p.seed,
        position: wanted.position as u64 + 1,
        temperature: p.temperature,
        top_p: p.top_p,
        min_p: p.min_p,
        top_k: i32::try_from(p.top_k).unwrap_or(i32::MAX),
        repetition_penalty: p.repetition_penalty,
        presence_penalty: p.presence_penalty,
        frequency_penalty: p.frequency_penalty,
        logprobs: p.logprobs.map_or(-1, |n| n.min(limits::TOP_LOGPROBS_MAX as u32) as i32),
        first_adjust: 0,
        adjusts: changes.len() as i32,
        kind: DrawKind::Sample,
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
