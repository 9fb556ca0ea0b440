//! Pause, duty limit and sleep of the engine thread.
//!
//! The host sets [`Control`](super::mailbox::Control), in the mailbox and under its lock. The engine thread reads it between
//! two steps ([`Pacing::wait_for_work`]) and, where only one step may be in flight, between two layers of a step
//! ([`Pacing::wait_within_step`]). It sleeps while it may not work.
//!
//! A step that is held between two layers continues when work is allowed again. Meanwhile submits, cancels and
//! deadlines are handled, which leave the rows of the step as they are; other commands wait for the end of the step.
//! The step is abandoned when none of its rows belongs to a live request or pin any more, or when such a command waits
//! on a paused engine, whose pause may be long. An abandoned step leaves no trace: its rows are planned again and
//! compute the same (law 1).

use super::duty::Bucket;
use super::mailbox::Mail;
use super::{EngineState, Shared};
use std::time::{Duration, Instant};

/// The engine thread's copy of pause and duty limit, and its account of working time.
pub(super) struct Pacing {
    bucket: Bucket,
    /// [`Control`](super::mailbox::Control)'s `pause`, as last read.
    paused: bool,
    /// When the duty limit allows work again; `None` = now.
    ready_at: Option<Instant>,
    /// Start of the working time being measured; `None` while the engine thread is not working.
    since: Option<Instant>,
    /// Time that the current step has spent resting between layers.
    rested: Duration,
}

impl Pacing {
    /// No pause and no limit.
    pub fn new(now: Instant) -> Pacing {
        Pacing { bucket: Bucket::new(None, now), paused: false, ready_at: None, since: None, rested: Duration::ZERO }
    }

    /// Whether the host has paused the engine, as last read.
    pub fn paused(&self) -> bool {
        self.paused
    }

    /// Whether a pause or the duty limit forbids work, as last read.
    pub fn held(&self) -> bool {
        self.paused || self.ready_at.is_some()
    }

    /// Whether there is a duty limit.
    pub fn limited(&self) -> bool {
        self.bucket.limited()
    }

    /// Time that the current step has spent resting between layers.
    pub fn rested(&self) -> Duration {
        self.rested
    }

    /// Whether the duty limit allows page copies now. A pause does not hold them, since they compute nothing.
    pub fn may_copy(&mut self) -> bool {
        self.ready_at = self.bucket.ready_at(Instant::now());
        self.ready_at.is_none()
    }

    /// Work begins.
    pub fn begin_work(&mut self) {
        self.rested = Duration::ZERO;
        self.since = Some(Instant::now());
    }

    /// Work has ended: its time is charged to the duty limit. If nothing was done (`worked` false), it is not: under a
    /// small limit even that short time could delay the next step by an interval.
    pub fn end_work(&mut self, worked: bool) {
        if worked {
            self.charge(Instant::now());
        }
        self.since = None;
    }

    fn charge(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.bucket.spend(now.saturating_duration_since(since), now);
        }
    }

    /// Moves commands from the mailbox to the inbox. While there is nothing to do (`idle`) or work is not allowed,
    /// sleeps until a command arrives, a deadline passes or the duty limit allows work. With a step in flight (`at_rest`
    /// false) there is no sleep: the step is finished first.
    pub fn wait_for_work(&mut self, state: &mut EngineState, idle: bool, at_rest: bool) {
        let shared = state.shared.clone();
        let mut mail = shared.mailbox.lock();
        loop {
            let held = self.read_control(&mut mail, &shared, at_rest);
            let may_copy = !state.prefixes.copies.is_empty() && self.ready_at.is_none();
            let sleeps = (idle || held) && at_rest && !may_copy;
            let nudged = std::mem::take(&mut mail.nudged);
            if !sleeps || nudged || !mail.commands.is_empty() || state.has_commands() {
                break;
            }
            // Without requests, pins and copies there is no need to wake up when the duty limit allows work again.
            let ready = if state.has_work() { self.ready_at } else { None };
            let wake_at = state.next_time().into_iter().chain(ready).min();
            state.runner.backend.rest();
            let (again, in_time) = shared.mailbox.wait(mail, wake_at);
            mail = again;
            if !in_time {
                self.read_control(&mut mail, &shared, at_rest);
                break;
            }
        }
        state.take_mail(&mut mail);
    }

    /// Called before each layer: sleeps while work is not allowed and handles commands meanwhile. False when the step
    /// is to be abandoned.
    pub fn wait_within_step(&mut self, state: &mut EngineState) -> bool {
        let begin = Instant::now();
        self.charge(begin);
        let shared = state.shared.clone();
        loop {
            // The lock is not held while commands are handled.
            let held = self.read_control(&mut shared.mailbox.lock(), &shared, true);
            if !held {
                break;
            }
            state.handle_within_step(self.paused);
            if !state.is_step_wanted() || (self.paused && state.has_commands()) {
                return false;
            }
            let mut mail = shared.mailbox.lock();
            if self.read_control(&mut mail, &shared, true) && mail.commands.is_empty() {
                let wake_at = state.next_time().into_iter().chain(self.ready_at).min();
                state.runner.backend.rest();
                (mail, _) = shared.mailbox.wait(mail, wake_at);
            }
            state.take_mail(&mut mail);
        }
        let end = Instant::now();
        self.rested += end.saturating_duration_since(begin);
        self.since = Some(end);
        true
    }

    /// Reads pause and duty limit from the mailbox; true when work is not allowed now. Confirms a pause to its callers
    /// when the engine thread is `at_rest`: no step is in flight.
    fn read_control(&mut self, mail: &mut Mail, shared: &Shared, at_rest: bool) -> bool {
        let now = Instant::now();
        self.bucket.set(mail.control.duty, now);
        self.ready_at = self.bucket.ready_at(now);
        self.paused = mail.control.pause;
        if at_rest {
            shared.mailbox.confirm_pause(mail);
        }
        self.held()
    }
}
