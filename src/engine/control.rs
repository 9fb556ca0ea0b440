//! Pause, duty limit and cache of a running engine: what hosts may ask of it at any time, and how the engine thread
//! obeys.
//!
//! The wishes lie in the mailbox ([`Control`], under its lock). The engine thread looks at them between two steps
//! ([`Core::take_commands`]) and between two layers of a step ([`Core::forward`]), and sleeps where they forbid it to go on.
//!
//! A step that is held between layers is not lost: it goes on when it may. Meanwhile requests come, are cancelled and
//! meet their deadlines as between steps, which leaves the step's rows alone. What is for two steps only waits for the
//! step's end; on a paused engine, where that may be far, the step is given up instead, as it is when nobody wants any of its
//! rows any more. A step that was given up left no trace: its rows are planned again and compute the same (law 1).

use super::active::End;
use super::api::FinishReason;
use super::core::Core;
use super::delivery::{closed, lock, wait_until};
use super::duty::{Bucket, Duty};
use super::mailbox::Mailbox;
use super::{Command, Engine, refuse_blocking};
use crate::error::Result;
use std::time::{Duration, Instant};

/// What hosts wish of the engine thread, and how far it is with that.
#[derive(Debug, Default)]
pub(super) struct Control {
    pause: bool,
    /// The engine thread has seen `pause`: no step is running and none begins.
    at_rest: bool,
    duty: Option<Duty>,
}

impl Control {
    /// Not paused, with a duty limit.
    pub fn new(duty: Option<Duty>) -> Control {
        Control { duty, ..Control::default() }
    }
}

/// The engine thread's side: what it knows of the wishes, and the time it worked.
pub(super) struct Meter {
    bucket: Bucket,
    paused: bool,
    /// When work may go on, under the duty limit.
    ready_at: Option<Instant>,
    /// Since when it works.
    since: Option<Instant>,
    /// Rest within this step.
    rested: Duration,
}

impl Meter {
    /// A meter without a limit.
    pub fn new(now: Instant) -> Meter {
        Meter { bucket: Bucket::new(None, now), paused: false, ready_at: None, since: None, rested: Duration::ZERO }
    }

    /// Whether no work may be done now, as of the last look at the wishes.
    pub fn held(&self) -> bool {
        self.paused || self.ready_at.is_some()
    }

    /// Whether there is a duty limit.
    pub fn limited(&self) -> bool {
        self.bucket.limited()
    }

    /// Time the current step has spent resting.
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
    /// Keeps the engine from working until [`Engine::resume`]. True: no step is running and none will begin. False: the
    /// running layer was not over within `timeout` (`None` waits forever), or another thread resumed the engine; the
    /// pause stays requested in the first case. Requests are accepted, cancelled and meet their deadlines
    /// as always. Idempotent.
    ///
    /// # Errors
    /// `Closed`, `Reentrant` when it would block inside a callback.
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

    /// Ends a pause; fine when there is none.
    ///
    /// # Errors
    /// `Closed`.
    pub fn resume(&self) -> Result<()> {
        self.control(|control| (control.pause, control.at_rest) = (false, false))?;
        self.shared.rested.notify_all();
        Ok(())
    }

    /// Limits the engine to `work_us` microseconds of work in every `interval_us`; 0 and 0 is no limit. Work is the time
    /// steps take, and copying the pages of saved and restored prefixes. The engine rests between two layers, on a GPU between two
    /// steps, so it works longer by at most the layer or step that exceeds the limit, and pays for that afterwards. After idling it may work `work_us` at once, so that two intervals that
    /// touch can have up to twice `work_us`. Takes effect at once, also in a step.
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
    /// Takes in what has arrived. While there is nothing to do (`idle`) or no work may be done, sleeps until something
    /// arrives or a time comes.
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
            // A step that was submitted is waited for first.
            if !(idle || held)
                || self.in_flight.is_some()
                || may_copy
                || !mailbox.commands.is_empty()
                || !self.inbox.is_empty()
            {
                break;
            }
            // Nobody waits for an engine without requests, pins and copies to be allowed to work.
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

    /// Takes the commands over without needing memory: what there is none for stays in the mailbox for the next time.
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

    /// Runs the planned step through the model, layer by layer. False when it was given up.
    pub fn forward(&mut self) -> bool {
        let runner = &mut self.runner;
        runner.model.begin(&mut *runner.backend, &runner.step);
        for layer in 0..self.runner.model.layers() {
            if !self.yield_point() {
                return false;
            }
            let runner = &mut self.runner;
            runner.model.layer(&mut *runner.backend, &runner.step, layer);
        }
        true
    }

    /// Runs `work` on the clock of the duty limit. Finding that there is nothing to do is free: it would cost a host with a
    /// small limit its next interval.
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

    /// Copies the pages that callers wait for, as far as the duty limit allows. A pause is no reason to let them wait: nothing
    /// is computed. An engine that takes nothing any more refuses them at once.
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

    /// Cuts off what still runs, when the engine is closing and the grace is over or could not help.
    pub fn cut_off(&mut self) {
        if self.closing.is_some_and(|cut| self.meter.paused || Instant::now() >= cut) {
            self.end_all(|| End::Cancelled(FinishReason::Close));
        }
    }

    /// Between two layers: rests as long as work is forbidden. False when the step is to be given up.
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

    /// Obeys what leaves the rows of a step alone; the rest waits in the inbox, in its order. Who reads the statistics
    /// meanwhile sees the step under way.
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

    /// Whether a step that is held should be run to its end.
    fn is_step_wanted(&mut self) -> bool {
        let waited_for = self.meter.paused && !self.inbox.is_empty();
        let (active, scheduler, rows) = (&mut self.active, &self.runner.scheduler, &self.runner.plan.rows);
        let pins = |sequence| scheduler.get(sequence).is_some_and(|s| s.pin.is_some() && !s.finished);
        !waited_for && rows.iter().any(|row| active.get_mut(row.sequence).is_some() || pins(row.sequence))
    }

    /// Takes over the wishes; true when no work may be done now. Tells who waits for a pause.
    fn look(&mut self, mailbox: &mut Mailbox) -> bool {
        let (control, now) = (&mut mailbox.control, Instant::now());
        self.meter.bucket.set(control.duty, now);
        self.meter.ready_at = self.meter.bucket.ready_at(now);
        self.meter.paused = control.pause;
        if control.pause && self.in_flight.is_none() && !std::mem::replace(&mut control.at_rest, true) {
            self.shared.rested.notify_all();
        }
        self.meter.held()
    }

    /// The next deadline of a request, or of the engine.
    fn next_time(&self) -> Option<Instant> {
        let deferred = self.deferred.deadlines().min();
        self.active.next_deadline().into_iter().chain(deferred).chain(self.closing).min()
    }

    /// Law 3 whenever there is nothing to do: an error here is a defect and ends the engine like any panic of a step.
    #[cfg(debug_assertions)]
    fn check_when_idle(&mut self) {
        if let Err(error) = self.check() {
            panic!("an idle engine's accounting is wrong: {error}");
        }
    }
}
