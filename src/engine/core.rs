//! The engine thread. It handles commands and, while there is work, runs steps: plan, forward pass, sampling,
//! bookkeeping, delivery of tokens.
//!
//! Only this thread uses the scheduler, the model and the device (law 6). A panic fails every request and marks the
//! engine dead; the thread keeps running and answers later commands with that error (law 2).

use super::active::{Active, End, NewRequest, panicked};
use super::api::{EventKind, FinishReason, LogLevel, Stats};
use super::control::Meter;
use super::defer::Deferred;
use super::delivery::{Outbox, Produced, closed, lock};
use super::model_runner::ModelRunner;
use super::prefix::Prefixes;
use super::step::InFlightStep;
use super::table::Table;
use super::trace::{Trace, Tracer};
use super::{Command, Shared};
use crate::cache::SequenceHandle;
use crate::error::{Error, Result, copied, reserved};
use crate::os::shortage;
use crate::scheduler::{PlanFn, Row};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Everything the engine thread owns.
pub(super) struct Core {
    pub shared: Arc<Shared>,
    pub runner: ModelRunner,
    pub active: Table,
    pub deferred: Deferred,
    /// Commands taken from the mailbox and not yet handled.
    pub inbox: VecDeque<Command>,
    /// Page copies that save or restore a prefix, run between two steps when the duty limit allows.
    pub copies: VecDeque<super::prefix::Command>,
    /// Pause and duty limit as last read from the mailbox, and the working time charged to the limit.
    pub meter: Meter,
    /// The request that `admit` is working on. It is in neither `inbox` nor `active`; if `admit` panics, it is failed
    /// from here.
    admitting: Option<Arc<Outbox>>,
    prefixes: Prefixes,
    pub stats: Stats,
    pub spent: PhaseTimes,
    /// Set once the engine is closing: the time at which the requests that still run are cancelled.
    pub closing: Option<Instant>,
    /// Set by a panic or a device failure: the error that every request gets. No step runs any more.
    pub dead: Option<Error>,
    /// Steps that were submitted and not finished, oldest first.
    pub in_flight: VecDeque<InFlightStep>,
    /// Steps that are not in flight, kept for their buffers.
    pub spare_steps: Vec<InFlightStep>,
    /// When the last step was finished.
    pub finished_at: Instant,
    /// Time that the current step has waited for the device.
    pub waited: Duration,
    /// Plans the steps in place of the scheduler.
    pub planner: Option<PlanFn>,
    pub trace: Option<Tracer>,
}

/// Time spent in each phase, summed over all steps.
#[derive(Default)]
pub(super) struct PhaseTimes {
    pub cleanup: Duration,
    pub refill: Duration,
    prefill: Duration,
    decode: Duration,
}

impl Core {
    /// An engine without requests.
    ///
    /// # Errors
    /// `Memory`.
    pub fn new(
        shared: Arc<Shared>,
        runner: ModelRunner,
        planner: Option<PlanFn>,
        trace: Option<Trace>,
    ) -> Result<Core> {
        let steps_max = runner.backend.steps_in_flight();
        let spare_steps = (0..steps_max).map(|_| InFlightStep::new(&runner)).collect::<Result<_>>()?;
        let stats = Stats { pages_free: runner.scheduler.pages().2 as u64, ..Stats::default() };
        shared.stats.publish(&stats);
        Ok(Core {
            shared,
            runner,
            active: Table::default(),
            deferred: Deferred::default(),
            inbox: super::mailbox::command_list()?,
            copies: VecDeque::new(),
            meter: Meter::new(Instant::now()),
            admitting: None,
            prefixes: Prefixes::default(),
            stats,
            spent: PhaseTimes::default(),
            closing: None,
            dead: None,
            in_flight: reserved("the steps in flight", steps_max)?.into(),
            spare_steps,
            finished_at: Instant::now(),
            waited: Duration::ZERO,
            planner,
            trace: trace.map(Tracer::new),
        })
    }

    /// The thread's body: returns when the engine has been closed and every request has ended.
    pub fn run(mut self) {
        self.runner.backend.attach();
        while catch_unwind(AssertUnwindSafe(|| self.serve())).is_err() {
            self.die(panicked());
        }
    }

    /// Marks the engine dead: fails all requests and prefixes with `why`; later ones are refused with the same error.
    pub fn die(&mut self, why: Error) {
        self.shared.log(LogLevel::Error, || why.message.clone());
        self.dead = Some(why.clone());
        // Steps in flight are not waited for: their requests end with `why`.
        self.spare_steps.extend(self.in_flight.drain(..));
        self.abandon(&why);
        self.publish();
    }

    /// Fails the request being admitted, all other requests and all prefixes.
    fn abandon(&mut self, why: &Error) {
        let orphan = self.admitting.take();
        for delivery in orphan.into_iter().filter(|d| !d.is_finished()) {
            self.stats.failed += 1;
            self.shared.pending.fetch_sub(1, Ordering::Relaxed);
            let end = End::Failed(why.clone()).parts();
            delivery.finish(&self.shared.dispatch, end, Produced::default(), |_| {});
        }
        self.end_all(|| End::Failed(why.clone()));
        self.prefixes.fail_all(|| why.clone());
    }

    fn serve(&mut self) {
        // True after an empty plan: only a command or a deadline can make the next plan non-empty.
        let mut idle = false;
        loop {
            self.take_commands(idle);
            // Popped one by one, so that a panic in one command leaves the others in the inbox.
            while let Some(command) = self.inbox.pop_front() {
                self.handle(command);
            }
            self.expire();
            self.copy_pages();
            let may_step = !self.meter.held();
            if !may_step {
                self.metered(Core::drain);
            }
            shortage::forget();
            let worked = self.dead.is_none() && may_step && self.metered(Core::step);
            // Steps should not allocate. If one did and memory ran out, its requests fail instead of the process.
            if let Err(error) = shortage::check("a step") {
                self.fail_step(&error);
            }
            idle = !worked && may_step;
            self.publish();
            // After `publish`, so that a caller that waited for a prefix reads statistics that include its last step.
            self.prefixes.note(&mut self.runner, &self.shared);
            self.cut_off();
            // Not before the inbox is empty: requests submitted during the step still need their terminal event.
            if self.closing.is_some() && self.is_idle() && self.inbox.is_empty() {
                self.publish();
                return;
            }
        }
    }

    /// Whether there are no requests, active or deferred.
    pub fn is_idle(&self) -> bool {
        self.active.is_empty() && self.deferred.len() == 0
    }

    pub fn handle(&mut self, command: Command) {
        shortage::forget();
        match command {
            Command::Submit(request) => {
                self.admitting = Some(request.delivery.clone());
                self.admit(*request);
                self.admitting = None;
            }
            Command::Defer(request) => {
                self.deferred.insert(request);
                if let Some(why) = self.dead.clone() {
                    self.end_all(|| End::Failed(why.clone()));
                }
            }
            Command::PromptReady(id, prompt) => self.prepared(id, prompt),
            Command::Cancel(id, reason) => {
                self.end_deferred_where(|r| r.delivery.id == id, || End::Cancelled(reason));
                if let Some(handle) = self.active.find(id) {
                    self.end(handle, End::Cancelled(reason));
                }
            }
            Command::CancelAll => self.end_all(|| End::Cancelled(FinishReason::Cancel)),
            Command::Resume(id) => {
                if let Some(handle) = self.active.find(id) {
                    self.runner.scheduler.set_paused(handle, false);
                }
            }
            Command::Check(reply) => {
                if let Some(why) = &self.dead {
                    return reply.put(Err(why.clone()));
                }
                // Finished sequences hold their pages until the next cleanup; release them before checking.
                self.runner.scheduler.cleanup();
                // Before the answer, so that the caller reads statistics of the state that was checked.
                self.publish();
                reply.put(self.check());
            }
            Command::ClearCache => self.runner.scheduler.clear_cache(),
            Command::Prefix(command) if command.is_copy() => self.copies.push_back(command),
            Command::Prefix(command) => self.handle_prefix(command),
            Command::Close(cut) => {
                self.closing = Some(cut);
                self.prefixes.stop_computing(&mut self.runner);
            }
            // Panics, unless the engine is dead already.
            Command::Panic => assert!(self.dead.is_some(), "a test asked the engine thread to panic"),
        }
    }

    /// Handles a prefix command, or refuses it when the engine is dead or closing.
    pub fn handle_prefix(&mut self, command: super::prefix::Command) {
        let refusal = self.dead.clone().or_else(|| self.closing.map(|_| closed()));
        self.prefixes.handle(command, &mut self.runner, &self.shared, refusal);
    }

    /// Checks the scheduler's accounting of pages and slots (law 3), and that the live sequences are as many as active
    /// requests and pins being computed.
    ///
    /// # Errors
    /// `Internal`.
    pub fn check(&self) -> Result<()> {
        self.runner.scheduler.check()?;
        let (running, waiting, _) = self.runner.scheduler.counts();
        let pins = self.runner.scheduler.pins_computing();
        if running + waiting != self.active.len() + pins {
            let message = format!(
                "{} requests and {pins} pins, but {running} sequences run and {waiting} wait",
                self.active.len()
            );
            return Err(Error::internal(message));
        }
        Ok(())
    }

    fn admit(&mut self, mut request: NewRequest) {
        let delivery = request.delivery.clone();
        let refuse = |error: Error| {
            self.shared.pending.fetch_sub(1, Ordering::Relaxed);
            delivery.finish(&self.shared.dispatch, End::Failed(error).parts(), Produced::default(), |_| {});
        };
        if let Some(why) = &self.dead {
            self.stats.failed += 1;
            return refuse(why.clone());
        }
        // The scheduler's copy grows with the generated tokens; the request keeps its own for prompt logprobs and
        // usage.
        let prompt = match copied("a prompt", &request.prompt) {
            Ok(prompt) => prompt,
            Err(error) => {
                self.stats.failed += 1;
                return refuse(error);
            }
        };
        let logits_from = if request.prompt_logprobs { 0 } else { prompt.len() - 1 };
        let len_max = prompt.len() + request.max_tokens;
        self.stats.tokens_in += prompt.len() as u64;
        if request.max_tokens == 0 && !request.prompt_logprobs {
            request.stream = None;
        }
        let priority = request.priority;
        let nothing_to_do = request.max_tokens == 0 && !request.prompt_logprobs;
        let admitted = self
            .runner
            .scheduler
            .submit(prompt, len_max, logits_from, priority)
            .and_then(|handle| Active::new(request, handle).inspect_err(|_| self.runner.scheduler.finish(handle)));
        match admitted {
            Ok(active) => {
                let handle = active.handle;
                if let Err(error) = self.active.reserve(handle) {
                    self.runner.scheduler.finish(handle);
                    self.stats.failed += 1;
                    return refuse(error);
                }
                self.active.insert(active);
                if let Err(error) = shortage::check("a request") {
                    self.end(handle, End::Failed(error));
                } else if nothing_to_do {
                    self.end(handle, End::Finished(FinishReason::Length));
                }
            }
            Err(error) => {
                self.stats.failed += 1;
                refuse(error);
            }
        }
    }

    pub fn end_all(&mut self, end: impl Fn() -> End) {
        self.end_deferred_where(|_| true, &end);
        for index in 0..self.active.end() {
            if let Some(handle) = self.active.at(index) {
                self.end(handle, end());
            }
        }
    }

    fn end_deferred_where(&mut self, which: impl Fn(&NewRequest) -> bool, end: impl Fn() -> End) {
        if !self.deferred.any(&which) {
            return;
        }
        // First, so that the helper has dropped a prompt before its request's terminal event can be read.
        self.shared.helper.forget(|id| self.deferred.get(id).is_some_and(&which));
        let mut from = 0;
        while let Some(request) = self.deferred.take_next(from, &which) {
            from = request.delivery.id;
            self.end_deferred(&request, end());
        }
    }

    /// Submits a deferred request whose prompt is ready (`prompt`: token ids, and how many more tokens the context
    /// holds), or fails it with the error. Does nothing when the request has ended.
    fn prepared(&mut self, id: u64, prompt: Result<(Vec<u32>, usize)>) {
        let Some(mut request) = self.deferred.take(id) else { return };
        match prompt {
            Ok((tokens, room)) => {
                request.max_tokens = request.max_tokens.min(room);
                request.prompt = tokens;
                self.handle(Command::Submit(request));
            }
            Err(error) => self.end_deferred(&request, End::Failed(error)),
        }
    }

    /// Ends a deferred request, which has no sequence yet.
    fn end_deferred(&mut self, request: &NewRequest, end: End) {
        self.shared.pending.fetch_sub(1, Ordering::Relaxed);
        count(&mut self.stats, request.finish(end, &self.shared.dispatch));
    }

    /// Ends the request of a sequence: gives the sequence back to the scheduler and sends the terminal event. Does
    /// nothing when the request has ended.
    pub fn end(&mut self, handle: SequenceHandle, end: End) {
        let Some(active) = self.active.get_mut(handle) else { return };
        // Before the terminal event, so that a caller that has read it can submit again at once.
        if std::mem::take(&mut active.counted) {
            self.shared.pending.fetch_sub(1, Ordering::Relaxed);
        }
        let sequence = self.runner.scheduler.get(handle);
        let history = sequence.map_or((0, 0), |s| (s.preemptions, s.cached_tokens.unwrap_or(0)));
        self.runner.scheduler.finish(handle);
        let kind = active.finish(end, history, &self.shared.dispatch);
        count(&mut self.stats, kind);
        // Removed last: if something above panics, the request is still in the table and gets its terminal event.
        self.active.remove(handle);
    }

    /// Ends requests whose deadline has passed.
    pub fn expire(&mut self) {
        let now = Instant::now();
        if self.deferred.deadlines().any(|d| d <= now) {
            let expired = |r: &NewRequest| r.deadline.is_some_and(|d| d <= now);
            self.end_deferred_where(expired, || End::Cancelled(FinishReason::Deadline));
        }
        while let Some(handle) = self.active.expired(now) {
            self.end(handle, End::Cancelled(FinishReason::Deadline));
        }
    }

    /// Fails every request that has a row in the plan.
    pub fn fail_step(&mut self, error: &Error) {
        for index in 0..self.runner.plan.rows.len() {
            self.end(self.runner.plan.rows[index].sequence, End::Failed(error.clone()));
        }
    }

    /// For each request that has its first row: records its admission and reserves the memory its output will need. A
    /// request whose memory is refused fails.
    pub fn note_admissions(&mut self, now: Instant) {
        for index in 0..self.runner.plan.rows.len() {
            let handle = self.runner.plan.rows[index].sequence;
            let Some(active) = self.active.get_mut(handle).filter(|a| a.admitted.is_none()) else { continue };
            active.admitted = Some(now);
            self.stats.queue_us += now.duration_since(active.request.submitted).as_micros() as u64;
            let vocab = self.runner.model.vocab();
            let tokens = self.runner.scheduler.reserve(handle, active.request.max_tokens);
            let reserved = tokens.and_then(|()| active.reserve(vocab)).and_then(|()| shortage::check("a request"));
            if let Err(error) = reserved {
                self.end(handle, End::Failed(error));
                // Clears the note of the refusal, so that the next request is checked for its own memory only.
                shortage::forget();
            }
        }
    }

    /// Adds the time `spent` on `rows` to the phase times, split between prefill and decode in proportion to their
    /// tokens, and to the prefill time of each request with a prefill row. `tokens`: tokens of all rows.
    pub fn account(&mut self, rows: &[Row], tokens: usize, spent: Duration) {
        let scheduler = &self.runner.scheduler;
        let is_prefill = |r: &&Row| scheduler.get(r.sequence).is_some_and(|s| r.is_prefill(s));
        let prefill: usize = rows.iter().filter(is_prefill).map(|r| r.count).sum();
        let share = spent.mul_f64(prefill as f64 / tokens.max(1) as f64);
        self.spent.prefill += share;
        self.spent.decode += spent - share;
        for row in rows.iter().filter(is_prefill) {
            if let Some(active) = self.active.get_mut(row.sequence) {
                active.prefill += spent;
            }
        }
    }

    /// Publishes a new snapshot of the statistics.
    pub fn publish(&mut self) {
        let (running, waiting, stalled) = self.runner.scheduler.counts();
        let (used, cached, free) = self.runner.scheduler.pages();
        let counters = self.runner.scheduler.counters();
        let s = &mut self.stats;
        (s.running, s.waiting, s.stalled) = (running as u32, (waiting + self.deferred.len()) as u32, stalled as u32);
        (s.pages_used, s.pages_cached, s.pages_free) = (used as u64, cached as u64, free as u64);
        (s.preemptions, s.evictions) = (counters.preemptions, counters.evictions);
        (s.prefix_tokens_seen, s.prefix_tokens_hit) = (counters.prefix_tokens_seen, counters.prefix_tokens_hit);
        let micros = |d: Duration| d.as_micros() as u64;
        (s.cleanup_us, s.refill_us) = (micros(self.spent.cleanup), micros(self.spent.refill));
        (s.prefill_us, s.decode_us) = (micros(self.spent.prefill), micros(self.spent.decode));
        s.log_dropped = self.shared.dispatch.logs_dropped();
        self.shared.stats.publish(s);
    }
}

/// Counts a request by the kind of its terminal event.
fn count(stats: &mut Stats, kind: Option<EventKind>) {
    match kind {
        Some(EventKind::Finished) => stats.finished += 1,
        Some(EventKind::Cancelled) => stats.cancelled += 1,
        Some(EventKind::Failed) => stats.failed += 1,
        Some(EventKind::Delta) | None => {}
    }
}

impl Drop for Core {
    /// Sends the terminal event of every request that has none, including those in the inbox and the mailbox, and stops
    /// the helper and the delivery.
    fn drop(&mut self) {
        for active in self.active.drain() {
            // Empty unless `die` itself panicked.
            let end = End::Failed(panicked()).parts();
            active.request.delivery.finish(&self.shared.dispatch, end, Produced::default(), |_| {});
        }
        while let Some(request) = self.deferred.take_next(0, |_| true) {
            request.finish(End::Failed(panicked()), &self.shared.dispatch);
        }
        let commands = {
            let mut mailbox = lock(&self.shared.mailbox);
            mailbox.closed = true;
            mailbox.gone = true;
            self.shared.note_taken(&mailbox);
            std::mem::take(&mut mailbox.commands)
        };
        for command in self.inbox.drain(..).chain(commands) {
            if let Command::Submit(request) | Command::Defer(request) = command {
                let end = (EventKind::Failed, FinishReason::Close, Some(closed()));
                request.delivery.finish(&self.shared.dispatch, end, Produced::default(), |_| {});
            }
        }
        self.shared.helper.stop();
        self.shared.rested.notify_all();
        self.shared.dispatch.stop();
        self.shared.adopt_orphans();
    }
}
