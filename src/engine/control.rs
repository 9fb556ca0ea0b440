//! Pause, duty limit and cache control of a running engine: the calls of the host, and how the engine thread follows
//! them.
//!
//! The host sets [`Control`], in the mailbox and under its lock. The engine thread reads it between two steps
//! ([`Core::take_commands`]) and, where only one step may be in flight, between two layers of a step ([`Core::forward`]).
//! It sleeps while it may not work.
//!
//! A step that is held between two layers continues when work is allowed again. Meanwhile submits, cancels and
//! deadlines are handled, which leave the rows of the step as they are; other commands wait for the end of the step.
//! The step is abandoned when none of its rows belongs to a live request or pin any more, or when such a command waits
//! on a paused engine, whose pause may be long. An abandoned step leaves no trace: its rows are scheduled again and
//! compute the same (law 1).

use super::active::End;
use super::api::FinishReason;
use super::core::Core;
use super::delivery::{closed, lock, wait_until};
use super::duty::{Bucket, Duty};
use super::mailbox::Mailbox;
use super::{Command, Engine, refuse_blocking};
use crate::error::Result;
use std::time::{Duration, Instant};

/// Pause and duty limit that the host has set, and whether the engine thread has paused.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// The host has requested a pause.
    pause: bool,
    /// The engine thread has seen `pause`: no step is running and none begins.
    at_rest: bool,
    /// The duty limit; `None` = no limit.
    duty: Option<Duty>,
}

impl Control {
    /// Not paused, with a duty limit.
    pub fn new(duty: Option<Duty>) -> Control {
        Control { duty, ..Control::default() }
    }
}

/// The engine thread's copy of pause and duty limit, and its account of working time.
pub(super) struct Meter {
    bucket: Bucket,
    /// [`Control`]'s `pause`, as last read.
    paused: bool,
    /// When the duty limit allows work again; `None` = now.
    ready_at: Option<Instant>,
    /// Start of the working time being measured; `None` while the engine thread is not working.
    since: Option<Instant>,
    /// Time that the current step has spent resting between layers.
    rested: Duration,
}

impl Meter {
    /// A meter without a limit.
    pub fn new(now: Instant) -> Meter {
        Meter { bucket: Bucket::new(None, now), paused: false, ready_at: None, since: None, rested: Duration::ZERO }
    }

    /// Whether a pause or the duty limit forbids work, as of the last [`Core::look`].
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

    fn start(&mut self, now: Instant) {
        self.since = Some(now);
    }

    fn stop(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.bucket.spend(now.saturating_duration_since(since), now);
        }
    }
}

impl Engine {
    /// Stops the engine from working until [`Engine::resume`]. Returns true when no step is running and none will
    /// begin. Returns false when the running layer (on a GPU, the running step) did not end within `timeout` (`None` =
    /// no timeout), in which case the pause stays requested, or when another thread resumed the engine. Requests are
    /// accepted and cancelled and meet their deadlines as always. Idempotent.
    ///
    /// # Errors
    /// `Closed`; `Reentrant` when it would block inside a callback.
    pub fn pause(&self, timeout: Option<Duration>) -> Result<bool> {
        refuse_blocking(timeout, "pause")?;
        self.open_or_closed()?;
        if self.text_only {
            return Ok(true);
        }
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        let mut mailbox = lock(&self.shared.mailbox);
        mailbox.control.pause = true;
        self.shared.mail.notify_one();
        loop {
            if mailbox.gone {
                return Err(closed());
            }
            if mailbox.control.at_rest || !mailbox.control.pause {
                return Ok(mailbox.control.at_rest);
            }
            let (again, in_time) = wait_until(&self.shared.rested, mailbox, deadline);
            mailbox = again;
            if !in_time {
                return Ok(false);
            }
        }
    }

    /// Ends a pause; does nothing when there is none.
    ///
    /// # Errors
    /// `Closed`.
    pub fn resume(&self) -> Result<()> {
        self.control(|control| (control.pause, control.at_rest) = (false, false))?;
        self.shared.rested.notify_all();
        Ok(())
    }

    /// Limits the engine to `work_us` microseconds of work in every `interval_us`; 0 and 0 is no limit. Work is the
    /// time of steps and of copying pages when prefixes are saved or restored. The engine rests between two layers, on
    /// a GPU between two steps, so it may exceed the limit by at most one layer or step, and rests longer afterwards.
    /// After being idle it may work `work_us` at once, so that two adjacent intervals can have up to twice `work_us`.
    /// Takes effect at once, also within a step.
    ///
    /// # Errors
    /// `Argument` with both numbers when `work_us` exceeds `interval_us` or is 0 alone; `Closed`.
    pub fn set_duty(&self, work_us: u32, interval_us: u32) -> Result<()> {
        let duty = Duty::new(work_us, interval_us)?;
        self.control(|control| control.duty = duty)
    }

    /// Drops all cached pages that no request uses and no prefix pins, before the next step.
    ///
    /// # Errors
    /// `Closed`.
    pub fn clear_cache(&self) -> Result<()> {
        if self.text_only {
            return self.open_or_closed();
        }
        self.shared.send(Command::ClearCache)
    }

    /// Changes the control state and wakes the engine thread.
    ///
    /// # Errors
    /// `Closed`.
    fn control(&self, change: impl FnOnce(&mut Control)) -> Result<()> {
        let mut mailbox = lock(&self.shared.mailbox);
        if mailbox.closed {
            return Err(closed());
        }
        change(&mut mailbox.control);
        drop(mailbox);
        self.shared.mail.notify_one();
        Ok(())
    }
}

impl Core {
    /// Moves commands from the mailbox to the inbox. While there is nothing to do (`idle`) or work is not allowed,
    /// sleeps until a command arrives, a deadline passes or the duty limit allows work.
    pub fn take_commands(&mut self, idle: bool) {
        #[cfg(debug_assertions)]
        if idle && self.dead.is_none() {
            self.check_when_idle();
        }
        let shared = self.shared.clone();
        let mut mailbox = lock(&shared.mailbox);
        loop {
            let held = self.look(&mut mailbox);
            let may_copy = !self.copies.is_empty() && self.meter.ready_at.is_none();
            // With a step in flight there is no sleep: the step is finished first.
            if !(idle || held)
                || !self.in_flight.is_empty()
                || may_copy
                || !mailbox.commands.is_empty()
                || !self.inbox.is_empty()
            {
                break;
            }
            // Without requests, pins and copies there is no need to wake up when the duty limit allows work again.
            let work = !self.active.is_empty() || self.runner.scheduler.pins_computing() > 0 || !self.copies.is_empty();
            let ready = if work { self.meter.ready_at } else { None };
            let wake_at = self.next_time().into_iter().chain(ready).min();
            self.runner.backend.rest();
            let (again, in_time) = wait_until(&shared.mail, mailbox, wake_at);
            mailbox = again;
            if !in_time {
                self.look(&mut mailbox);
                break;
            }
        }
        self.take_mail(&mut mailbox);
    }

    /// Moves commands from the mailbox to the inbox, also when memory is out: those that the inbox cannot grow for stay
    /// in the mailbox until the next call.
    fn take_mail(&mut self, mailbox: &mut Mailbox) {
        if self.inbox.is_empty() {
            std::mem::swap(&mut self.inbox, &mut mailbox.commands);
        } else {
            let all = mailbox.commands.len();
            let room = self.inbox.try_reserve(all).map_or(self.inbox.capacity() - self.inbox.len(), |()| all);
            self.inbox.extend(mailbox.commands.drain(..room.min(all)));
        }
        self.shared.note_taken(mailbox);
    }

    /// Begins the scheduled step and submits its layers. Where the device computes them within these calls, pause and duty limit
    /// are obeyed between two layers; false when the step was given up then.
    pub fn forward(&mut self) -> bool {
        let within_calls = self.runner.backend.steps_in_flight() == 1;
        self.runner.begin();
        for layer in 0..self.runner.model.layers() {
            if within_calls && !self.yield_point() {
                return false;
            }
            self.runner.layer(layer);
        }
        true
    }

    /// Runs `work` and charges its time to the duty limit. A call that returns false did nothing and is not charged:
    /// under a small limit even its short time could delay the next step by an interval.
    pub fn metered(&mut self, work: impl FnOnce(&mut Core) -> bool) -> bool {
        self.meter.rested = Duration::ZERO;
        self.meter.start(Instant::now());
        let worked = work(self);
        if worked {
            self.meter.stop(Instant::now())
        } else {
            self.meter.since = None
        }
        worked
    }

    /// Runs the queued page copies as far as the duty limit allows. A pause does not hold them, since they compute
    /// nothing. A dead or closing engine refuses all of them at once.
    pub fn copy_pages(&mut self) {
        while !self.copies.is_empty() {
            if self.dead.is_none() && self.closing.is_none() {
                self.meter.ready_at = self.meter.bucket.ready_at(Instant::now());
                if self.meter.ready_at.is_some() {
                    return;
                }
            }
            self.metered(|core| {
                core.copies.pop_front().into_iter().for_each(|copy| core.handle_prefix(copy));
                true
            });
        }
    }

    /// On a closing engine: cancels all requests when the grace period is over, or at once when the engine is paused.
    pub fn cut_off(&mut self) {
        if self.closing.is_some_and(|cut| self.meter.paused || Instant::now() >= cut) {
            self.end_all(|| End::Cancelled(FinishReason::Close));
        }
    }

    /// Called before each layer: sleeps while work is not allowed and handles commands meanwhile. False when the step
    /// is to be abandoned.
    fn yield_point(&mut self) -> bool {
        let begin = Instant::now();
        self.meter.stop(begin);
        let shared = self.shared.clone();
        while self.look(&mut lock(&shared.mailbox)) {
            self.obey_within_step();
            if !self.is_step_wanted() {
                return false;
            }
            let mut mailbox = lock(&shared.mailbox);
            if self.look(&mut mailbox) && mailbox.commands.is_empty() {
                let wake_at = self.next_time().into_iter().chain(self.meter.ready_at).min();
                self.runner.backend.rest();
                (mailbox, _) = wait_until(&shared.mail, mailbox, wake_at);
            }
            self.take_mail(&mut mailbox);
        }
        let end = Instant::now();
        self.meter.rested += end.saturating_duration_since(begin);
        self.meter.start(end);
        true
    }

    /// Handles the commands in the inbox that leave the step's rows as they are; the others stay there, in order. Also
    /// ends requests at their deadline or at the engine's close, and publishes the statistics.
    fn obey_within_step(&mut self) {
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
        self.expire();
        self.cut_off();
        self.publish();
    }

    /// Whether a held step is to be completed: some row belongs to a live request or pin, and on a paused engine no
    /// command waits for the end of the step.
    fn is_step_wanted(&mut self) -> bool {
        let waited_for = self.meter.paused && !self.inbox.is_empty();
        let (active, scheduler, rows) = (&mut self.active, &self.runner.scheduler, &self.runner.batch.rows);
        let pins = |sequence| scheduler.get(sequence).is_some_and(|s| s.pin.is_some() && !s.finished);
        !waited_for && rows.iter().any(|row| active.get_mut(row.sequence).is_some() || pins(row.sequence))
    }

    /// Reads pause and duty limit from the mailbox; true when work is not allowed now. Confirms a pause to its callers
    /// once no step is in flight.
    fn look(&mut self, mailbox: &mut Mailbox) -> bool {
        let (control, now) = (&mut mailbox.control, Instant::now());
        self.meter.bucket.set(control.duty, now);
        self.meter.ready_at = self.meter.bucket.ready_at(now);
        self.meter.paused = control.pause;
        if control.pause && self.in_flight.is_empty() && !std::mem::replace(&mut control.at_rest, true) {
            self.shared.rested.notify_all();
        }
        self.meter.held()
    }

    /// The earliest of the requests' deadlines and the end of a closing engine's grace period.
    fn next_time(&self) -> Option<Instant> {
        let deferred = self.deferred.deadlines().min();
        self.active.next_deadline().into_iter().chain(deferred).chain(self.closing).min()
    }

    /// Checks the accounting (law 3) when the engine becomes idle. An error is a defect: it panics, which ends the
    /// engine like a panic in a step.
    #[cfg(debug_assertions)]
    fn check_when_idle(&mut self) {
        if let Err(error) = self.check() {
            panic!("an idle engine's accounting is wrong: {error}");
        }
    }
}
