//! What the commands of callers read and change: requests, prefixes and the scheduler. Engine thread only.

use super::drafting::Drafting;
use super::mailbox::{Mail, command_list};
use super::prefixes::Prefixes;
use super::requests::Requests;
use super::{
    Command, End, EventKind, FinishReason, LogLevel, ModelRunner, PrefixCommand, Produced, Shared, Trace, closed,
};
use crate::cache::SequenceHandle;
use crate::error::{Error, Result};
use crate::os::shortage;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// Everything the engine thread owns, except for its steps and its pace.
pub(super) struct EngineState {
    pub shared: Arc<Shared>,
    pub runner: ModelRunner,
    pub requests: Requests,
    pub prefixes: Prefixes,
    /// Commands taken from the mailbox and not yet handled.
    inbox: VecDeque<Command>,
    /// Set once the engine is closing: the time at which the requests that still run are cancelled.
    closing: Option<Instant>,
    /// A trace that was set and that the steps do not have yet.
    pub new_trace: Option<Option<Box<Trace>>>,
}

impl EngineState {
    /// An engine without requests.
    ///
    /// # Errors
    /// `Memory`.
    pub fn new(shared: Arc<Shared>, runner: ModelRunner, drafting: Option<Drafting>) -> Result<EngineState> {
        let (requests, inbox) = (Requests::new(shared.clone(), drafting), command_list()?);
        let mut state = EngineState {
            shared,
            runner,
            requests,
            prefixes: Prefixes::default(),
            inbox,
            closing: None,
            new_trace: None,
        };
        state.publish();
        Ok(state)
    }

    /// Whether commands wait in the inbox.
    pub fn has_commands(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// Moves commands from the mailbox to the inbox.
    pub fn take_mail(&mut self, mail: &mut Mail) {
        self.shared.mailbox.take(mail, &mut self.inbox);
    }

    /// Handles all commands in the inbox, or those before a new trace, which the others are to see.
    pub fn handle_commands(&mut self) {
        // Popped one by one, so that a panic in one command leaves the others in the inbox.
        while self.new_trace.is_none()
            && let Some(command) = self.inbox.pop_front()
        {
            self.handle(command);
        }
        self.requests.expire(&mut self.runner.scheduler);
    }

    /// Handles the commands in the inbox that leave the rows of a step as they are; the others stay there, in order. Also
    /// ends requests at their deadline or at the engine's close (`paused`: see [`EngineState::cancel_after_grace`]), and
    /// publishes the statistics.
    pub fn handle_within_step(&mut self, paused: bool) {
        for _ in 0..self.inbox.len() {
            let Some(command) = self.inbox.pop_front() else { break };
            match command {
                Command::Submit(_)
                | Command::Defer(_)
                | Command::PromptReady(..)
                | Command::Cancel(..)
                | Command::CancelAll
                | Command::Resume(_)
                | Command::Close(_) => self.handle(command),
                later => self.inbox.push_back(later),
            }
        }
        self.requests.expire(&mut self.runner.scheduler);
        self.cancel_after_grace(paused);
        self.publish();
    }

    fn handle(&mut self, command: Command) {
        shortage::forget();
        let scheduler = &mut self.runner.scheduler;
        match command {
            Command::Submit(request) => self.requests.submit(*request, scheduler),
            Command::Defer(request) => self.requests.defer(request),
            Command::PromptReady(id, prompt) => self.requests.prepared(id, prompt, scheduler),
            Command::Cancel(id, reason) => self.requests.cancel(id, reason, scheduler),
            Command::CancelAll => self.requests.end_all(|| End::Cancelled(FinishReason::Cancel), scheduler),
            Command::Chosen(id, chosen) => self.requests.chosen(id, &chosen, scheduler),
            Command::Resume(id) => self.requests.resume(id, scheduler),
            Command::Check(reply) => {
                if let Some(why) = self.requests.dead() {
                    return reply.put(Err(why.clone()));
                }
                // Finished sequences hold their pages until the next cleanup; release them before checking.
                scheduler.cleanup();
                // Before the answer, so that the caller reads statistics of the state that was checked.
                self.publish();
                reply.put(self.check());
            }
            Command::ClearCache => scheduler.clear_cache(),
            Command::Prefix(command) if command.is_copy() => self.prefixes.copies.push_back(command),
            Command::Prefix(command) => self.handle_prefix(command),
            Command::SetTrace(trace) => self.new_trace = Some(trace),
            Command::Close(cancel_at) => {
                self.closing = Some(cancel_at);
                self.prefixes.stop_computing(&mut self.runner);
            }
            // Panics, unless the engine is dead already.
            Command::Panic => assert!(self.is_dead(), "a test asked the engine thread to panic"),
        }
    }

    /// Handles a prefix command, or refuses it when the engine is dead or closing.
    pub fn handle_prefix(&mut self, command: PrefixCommand) {
        let refusal = self.requests.dead().cloned().or_else(|| self.closing.map(|_| closed()));
        self.prefixes.handle(command, &mut self.runner, &self.shared, refusal);
    }

    /// Whether a panic or a device failure has ended the engine's work: no step runs any more.
    pub fn is_dead(&self) -> bool {
        self.requests.dead().is_some()
    }

    /// Whether the engine is dead or closing, so that page copies are refused.
    pub fn refuses_copies(&self) -> bool {
        self.is_dead() || self.closing.is_some()
    }

    /// Checks the scheduler's accounting of pages and slots (law 3), and that the live sequences are as many as active
    /// requests and pins being computed.
    ///
    /// # Errors
    /// `Internal`.
    pub fn check(&self) -> Result<()> {
        let (scheduler, active) = (&self.runner.scheduler, self.requests.active.len());
        scheduler.check()?;
        let (running, waiting, _) = scheduler.counts();
        let pins = scheduler.pins_computing();
        if running + waiting != active + pins {
            let message = format!("{active} requests and {pins} pins, but {running} sequences run and {waiting} wait");
            return Err(Error::internal(message));
        }
        Ok(())
    }

    /// On a closing engine: cancels all requests when the grace period is over, or at once when the engine is paused.
    pub fn cancel_after_grace(&mut self, paused: bool) {
        if self.closing.is_some_and(|cancel_at| paused || Instant::now() >= cancel_at) {
            self.requests.end_all(|| End::Cancelled(FinishReason::Close), &mut self.runner.scheduler);
        }
    }

    /// The earliest of the requests' deadlines and the end of a closing engine's grace period.
    pub fn next_time(&self) -> Option<Instant> {
        self.requests.next_deadline().into_iter().chain(self.closing).min()
    }

    /// Whether there is something to compute or to copy.
    pub fn has_work(&self) -> bool {
        let computing = !self.requests.active.is_empty() || self.runner.scheduler.pins_computing() > 0;
        computing || !self.prefixes.copies.is_empty()
    }

    /// Whether the planned step is of use to somebody: some row belongs to a live request or pin.
    pub fn is_step_wanted(&self) -> bool {
        let (active, scheduler) = (&self.requests.active, &self.runner.scheduler);
        let pins = |sequence| scheduler.get(sequence).is_some_and(|s| s.pin.is_some() && !s.finished);
        self.runner.batch.rows.iter().any(|row| active.get(row.sequence).is_some() || pins(row.sequence))
    }

    /// Whether a closing engine has nothing left to do. Not before the inbox is empty: requests submitted during a step
    /// still need their terminal event.
    pub fn is_over(&self) -> bool {
        self.closing.is_some() && self.requests.is_empty() && self.inbox.is_empty()
    }

    /// Ends the request of a sequence.
    pub fn end(&mut self, handle: SequenceHandle, end: End) {
        self.requests.end(handle, end, &mut self.runner.scheduler);
    }

    /// Fails every request that has a row in the plan.
    pub fn fail_step(&mut self, error: &Error) {
        for row in &self.runner.batch.rows {
            self.requests.end(row.sequence, End::Failed(error.clone()), &mut self.runner.scheduler);
        }
    }

    /// For each request that has its first row in the plan: its admission, at `now`.
    pub fn note_admissions(&mut self, now: Instant) {
        let vocab = self.runner.model.vocab();
        for row in &self.runner.batch.rows {
            self.requests.note_admission(row.sequence, now, vocab, &mut self.runner.scheduler);
        }
    }

    /// Publishes a new snapshot of the statistics.
    pub fn publish(&mut self) {
        self.requests.publish(&self.runner.scheduler);
    }

    /// Publishes statistics, and then the prefixes that became ready, so that a caller that waited for one reads
    /// statistics that include its last step.
    pub fn publish_all(&mut self) {
        self.publish();
        self.prefixes.note(&mut self.runner, &self.shared);
    }

    /// Marks the engine dead: fails all requests and prefixes with `why`; later ones are refused with the same error.
    pub fn mark_dead(&mut self, why: &Error) {
        self.shared.log(LogLevel::Error, || why.message.clone());
        self.requests.mark_dead(why, &mut self.runner.scheduler);
        self.prefixes.fail_all(|| why.clone());
        self.publish();
    }

    /// The engine thread ends: sends the terminal event of every request that has none, including those in the inbox and
    /// the mailbox.
    pub fn abandon(&mut self) {
        self.requests.abandon();
        for command in self.inbox.drain(..).chain(self.shared.mailbox.end()) {
            if let Command::Submit(request) | Command::Defer(request) = command {
                let end = (EventKind::Failed, FinishReason::Close, Some(closed()));
                request.delivery.finish(end, Produced::default(), |_| {});
            }
        }
    }
}
