//! The consumer side of [`super::delivery`]: the dispatch thread; in an engine that polls, the host's own calls; and
//! [`Engine::next`].
//!
//! In an engine opened with [`super::Delivery::Poll`], callbacks run, their sinks are dropped, and log lines are shown
//! only inside open, poll, wait, close and drop, on the calling thread. One thread at a time may deliver: it has the
//! *turn*. Closing waits for the turn and then delivers until the engine thread has ended.

use super::delivery::completions;
use super::delivery::ready::{Left, Popped, Round, Turn, TurnOr};
use super::delivery::{
    Buffer, Hold, Item, Outbox, Receiver, Route, call_host, closed, in_callback, queue::Read, this_thread,
};
use super::{Command, Engine, Event, FinishReason, LOG_TARGET, LogLevel, Next, Shared, facade_level, refuse_blocking};
use crate::error::{Error, Result, Status};
use crate::limits;
use crate::os::thread;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whether the deadline has passed; needed where a wait would otherwise go on as long as there are items to deliver.
fn has_passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

/// The time at which a wait ends; `None`: never, also when the clock cannot represent the time.
pub(super) fn deadline(timeout: Option<Duration>) -> Option<Instant> {
    timeout.and_then(|t| Instant::now().checked_add(t))
}

impl Shared {
    /// The dispatch thread's body.
    pub(super) fn deliver(&self) {
        while let Popped::Item(item) = self.dispatch.callbacks.pop(None) {
            self.show(item);
        }
    }

    /// Delivers one item to host code; true if it was an event.
    fn show(&self, item: Item) -> bool {
        match item {
            Item::Log(level, line) => {
                self.dispatch.log_taken();
                self.call_log(level, &line);
                false
            }
            Item::Request(outbox) => self.show_event(&outbox),
        }
    }

    /// Runs the callback on the pending event; false when there is none, because it was dropped meanwhile (cancel).
    fn show_event(&self, outbox: &Outbox) -> bool {
        let Some(mut lent) = outbox.queue.lend() else { return false };
        let last = lent.last;
        let Some(mut sink) = lent.sink.take() else { return false };
        let Receiver::Callback(callback, shown) = &mut sink else { return false };
        // A panic in a Rust callback counts as "stop"; it must not end this thread.
        let mut call = |event: &Event| call_host(|| callback(event)).unwrap_or(false);
        let (go_on, resume) = match shown.read(&mut lent.content.event) {
            Ok(()) => {
                let resume = outbox.queue.restore(lent);
                (call(shown), resume)
            }
            // No memory for a copy: the callback is shown the queue's own buffer, and the queue works with the smaller
            // one meanwhile. The buffer has room for the NUL; if it had none, a C callback would stop the request.
            Err(_) => {
                let _ = lent.content.event.terminate();
                (call(&lent.content.event), outbox.queue.restore(lent))
            }
        };
        if last {
            call_host(|| drop(sink));
            outbox.leave(&self.dispatch.unread);
            outbox.queue.end();
            self.dispatch.callbacks.note_done();
            return true;
        }
        outbox.queue.give_back(sink);
        if !go_on {
            outbox.mute(FinishReason::Callback);
            self.send_anyway(Command::Cancel(outbox.id, FinishReason::Callback));
        } else if resume {
            self.send_anyway(Command::Resume(outbox.id));
        }
        true
    }

    /// Writes a log line to the log callback or to the `log` crate. While an engine opens, this runs on the opening
    /// thread.
    pub(super) fn call_log(&self, level: LogLevel, line: &str) {
        let write = || match (&self.log, facade_level(level)) {
            (Some(log), _) => log(level, line),
            (None, Some(level)) => log::log!(target: LOG_TARGET, level, "{line}"),
            (None, None) => {}
        };
        thread::on_caller(|| call_host(write));
    }

    /// Delivers until the engine thread has ended and nothing is left, then ends the turn.
    fn deliver_rest(&self, turn: Turn<'_, Item>) {
        while let Round::Items(_) = turn.round(None, false) {
            while let Some(item) = turn.take() {
                self.show(item);
            }
        }
        self.leave(turn);
    }

    /// Ends a turn. If no other thread will take it again, first delivers the rest.
    fn leave(&self, turn: Turn<'_, Item>) {
        match turn.leave() {
            Left::Free => {}
            Left::Owing => self.dispatch.wake_if_owed(),
            Left::Orphaned(turn) => self.deliver_rest(turn),
        }
    }

    /// [`Engine::close`]: delivers everything that still comes, on the calling thread.
    pub(super) fn deliver_to_the_end(&self) {
        if let TurnOr::Turn(turn) = self.dispatch.callbacks.turn(None, || false) {
            self.deliver_rest(turn);
        }
    }

    /// The engine is dropped inside a callback: no other thread will take a turn any more. Delivers the rest here if
    /// the turn is free; otherwise the thread that has it will. A thread of the engine itself cannot wait for its own
    /// end, so there it is left to [`Shared::adopt_orphans`].
    pub(super) fn orphan(&self, on_own_thread: bool) {
        match self.dispatch.callbacks.orphan() {
            Some(turn) if on_own_thread => drop(turn),
            Some(turn) => self.deliver_rest(turn),
            None => {}
        }
    }

    /// Called when the engine thread ends: delivers the rest if no other thread will.
    pub(super) fn adopt_orphans(&self) {
        if let Some(turn) = self.dispatch.callbacks.adopt() {
            self.leave(turn);
        }
    }

    /// Waits for the first event, then delivers at most `events_max` events (0 = no limit) and at most one per request.
    fn poll(&self, timeout: Option<Duration>, events_max: u32) -> Result<u32> {
        // Before the turn begins: items that arrive later wake the host again.
        self.dispatch.waker.forget();
        let Some(turn) = self.dispatch.callbacks.try_turn() else {
            let message = "another thread is delivering this engine's callbacks (in poll or wait); let one thread poll";
            return Err(Error::new(Status::Busy, message).about("engine"));
        };
        let until = deadline(timeout);
        let mut ran = 0;
        while ran == 0 {
            match turn.round(until, true) {
                Round::Items(count) => ran = self.show_round(&turn, count, events_max),
                Round::Timeout => break,
                Round::Over => {
                    self.leave(turn);
                    return Err(closed());
                }
            }
            if has_passed(until) {
                break;
            }
        }
        self.leave(turn);
        Ok(ran)
    }

    /// Delivers the first `count` items, the ones present when the round began: at most one event per request, and log
    /// lines. Returns the number of events.
    fn show_round(&self, turn: &Turn<'_, Item>, count: usize, events_max: u32) -> u32 {
        let mut ran = 0;
        for _ in 0..count {
            let Some(item) = turn.take() else { break };
            ran += self.show(item) as u32;
            if ran == events_max && events_max > 0 {
                break;
            }
        }
        ran
    }

    /// Waits for the end of a callback request in an engine that polls. Delivers meanwhile, unless another thread does.
    fn wait_delivering(&self, outbox: &Outbox, timeout: Option<Duration>) -> Next {
        let ended = || outbox.queue.is_ended();
        if in_callback() {
            // Callbacks are not nested.
            return if ended() { Next::End } else { Next::Timeout };
        }
        let until = deadline(timeout);
        let turn = match self.dispatch.callbacks.turn(until, ended) {
            TurnOr::Turn(turn) => turn,
            TurnOr::Done => return Next::End,
            TurnOr::Timeout => return Next::Timeout,
        };
        let mut outcome = Next::End;
        while !ended() {
            match turn.round(until, false) {
                Round::Items(count) => _ = self.show_round(&turn, count, 0),
                Round::Timeout => {
                    outcome = Next::Timeout;
                    break;
                }
                Round::Over => break,
            }
            if has_passed(until) && !ended() {
                outcome = Next::Timeout;
                break;
            }
        }
        self.leave(turn);
        outcome
    }

    /// [`super::Request::next`].
    pub(super) fn next_of(&self, outbox: &Outbox, timeout: Option<Duration>) -> Result<Next> {
        match outbox.route {
            Route::Pull => {}
            Route::Callback => {
                let message = "the request delivers through its callback; next is for requests without one";
                return Err(Error::argument(message).about("request"));
            }
            Route::Engine => {
                let message = "the request's events go to its engine's queue; take them with astrai_engine_next";
                return Err(Error::argument(message).about("request"));
            }
        }
        let read = outbox.queue.next(deadline(timeout), |buffer| copy(outbox, &mut buffer.event))?;
        Ok(self.pulled(outbox, read))
    }

    fn pulled(&self, outbox: &Outbox, read: Read<Box<Event>>) -> Next {
        match read {
            Read::Event(event, resume) => {
                if event.terminal() {
                    outbox.leave(&self.dispatch.unread);
                }
                if resume {
                    self.send_anyway(Command::Resume(outbox.id));
                }
                Next::Event(event)
            }
            Read::Timeout => Next::Timeout,
            Read::End => Next::End,
        }
    }

    /// [`super::Request::wait`].
    pub(super) fn wait_for(&self, outbox: &Outbox, timeout: Option<Duration>) -> Result<Next> {
        if outbox.route == Route::Callback && self.dispatch.poll {
            return Ok(self.wait_delivering(outbox, timeout));
        }
        if outbox.route != Route::Pull {
            return Ok(if outbox.queue.wait_ended(deadline(timeout)) { Next::End } else { Next::Timeout });
        }
        let resume = || self.send_anyway(Command::Resume(outbox.id));
        let (grown, read) = (|room| outbox.grown(room), |buffer: &mut Buffer| copy(outbox, &mut buffer.event));
        let read = outbox.queue.rest(deadline(timeout), resume, grown, read)?;
        Ok(self.pulled(outbox, read))
    }
}

/// A copy of the event for the reader, in memory of its own.
fn copy(outbox: &Outbox, event: &mut Event) -> Result<Box<Event>> {
    let mut copy = Box::new(Event::empty(outbox.id, outbox.tag));
    copy.read(event)?;
    Ok(copy)
}

impl Engine {
    /// Runs the callbacks of an engine opened with [`super::Delivery::Poll`] on the calling thread and returns the
    /// number of events shown. Waits for the first event: `None` without limit, zero not at all. A call shows at most
    /// one event per request, in the order in which they became ready, and at most `events_max` in total (0 = no
    /// limit); log lines do not count. When it returns `events_max`, more events may be ready, for which the host is
    /// not woken.
    ///
    /// # Errors
    /// `Reentrant` inside a callback, whatever the timeout; `Busy` while another thread delivers; `Argument` on an
    /// engine with a dispatch thread; `Closed`.
    pub fn poll(&self, timeout: Option<Duration>, events_max: u32) -> Result<u32> {
        if in_callback() {
            let message = "poll runs callbacks and must not be called inside one, whatever its timeout";
            return Err(Error::new(Status::Reentrant, message));
        }
        if !self.shared.dispatch.poll {
            let message = "poll is for engines opened with ASTRAI_DELIVER_POLL; this one has a dispatch thread, which runs the callbacks";
            return Err(Error::argument(message).about("delivery"));
        }
        self.open_or_closed()?;
        self.shared.poll(timeout, events_max)
    }

    /// Takes the merged event of the request that has been ready longest, among those submitted with
    /// [`super::Sink::Engine`]. Any number of threads may call it. Until the event is dropped ([`Event::release`]), no
    /// other event of its request is given out; new output accumulates, and the request then goes to the end of the
    /// list. `None` waits without limit, zero polls. After close it returns what is queued, then [`Next::End`].
    ///
    /// # Errors
    /// `Busy` when no event can come before one is dropped, because every request that has not ended has one out: at
    /// once if the calling thread took all of them, otherwise when none was dropped or taken for
    /// [`limits::HELD_WAIT_MS`]. `Reentrant` when it would block inside a callback; `Memory` for the event, which stays
    /// queued.
    pub fn next(&self, timeout: Option<Duration>) -> Result<Next> {
        refuse_blocking(timeout, "next")?;
        let (shared, until, me) = (&self.shared, deadline(timeout), this_thread());
        let patience = || Instant::now() + Duration::from_millis(limits::HELD_WAIT_MS);
        loop {
            let (outbox, ticket) = match shared.dispatch.completions.pop(until, me, patience) {
                completions::Popped::Item(outbox, ticket) => (outbox, ticket),
                completions::Popped::Timeout => return Ok(Next::Timeout),
                completions::Popped::Stopped => return Ok(Next::End),
                completions::Popped::Busy => return Err(all_held()),
            };
            if let Some(event) = shared.take_of(&outbox, ticket)? {
                return Ok(Next::Event(event));
            }
        }
    }
}

impl Shared {
    /// Takes the event of a listed request, which the caller holds by `ticket`; None when it was dropped meanwhile
    /// (cancel).
    fn take_of(self: &Arc<Self>, outbox: &Arc<Outbox>, ticket: u64) -> Result<Option<Box<Event>>> {
        let Some(mut taken) = outbox.queue.take_listed() else {
            outbox.release(&self.dispatch, ticket);
            return Ok(None);
        };
        let mut event = match copy(outbox, &mut taken.content.event) {
            Ok(event) => event,
            Err(error) => {
                outbox.queue.restore_unread(taken);
                outbox.release(&self.dispatch, ticket);
                return Err(error);
            }
        };
        if taken.last {
            let receiver = taken.sink.take();
            call_host(|| drop(receiver));
            outbox.queue.restore(taken);
            outbox.leave(&self.dispatch.unread);
            self.dispatch.completions.ended(ticket);
            outbox.queue.end();
            return Ok(Some(event));
        }
        event.hold = Hold::new(self.clone(), outbox.clone(), ticket);
        if outbox.queue.restore(taken) {
            self.send_anyway(Command::Resume(outbox.id));
        }
        Ok(Some(event))
    }
}

fn all_held() -> Error {
    let message = "every request of this engine's queue has an event out that was not freed, and gives no other until then; free \
                   one with astrai_event_free";
    Error::new(Status::Busy, message).about("event")
}

#[cfg(test)]
mod tests {
    use crate::engine::delivery::lock;
    use crate::engine::{Delivery, Engine, EngineOptions, LogLevel, Next, Prompt, PromptPart, RequestOptions, Sink};
    use std::path::Path;
    use std::sync::{Arc, Mutex, Weak};
    use std::time::Duration;

    /// Each log line that is shown queues the next one, so the list is never empty, and the engine is paused, so the
    /// request never ends: without a check of the clock the wait would not return.
    #[test]
    fn a_wait_is_over_in_time_while_there_is_always_something_to_deliver() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/storyteller");
        let shared: Arc<Mutex<Weak<super::Shared>>> = Arc::default();
        let known = shared.clone();
        let options = EngineOptions {
            threads: 1,
            delivery: Delivery::Poll,
            log: Some(Arc::new(move |level, line| {
                if let Some(shared) = lock(&known).upgrade() {
                    shared.dispatch.log(level, line.to_owned());
                }
            })),
            ..EngineOptions::default()
        };
        let engine = Engine::open(&dir, options).unwrap();
        assert!(engine.pause(None).unwrap());
        let text = PromptPart::Text { text: "Once".into(), special: false };
        let prompt = Prompt { parts: vec![text], ..Prompt::default() };
        let request = engine.submit(&prompt, &RequestOptions::default(), Sink::Callback(Box::new(|_| true))).unwrap();
        *lock(&shared) = Arc::downgrade(&engine.shared);
        engine.shared.dispatch.log(LogLevel::Info, "on and on".into());
        assert!(matches!(request.wait(Some(Duration::from_millis(1))).unwrap(), Next::Timeout));
        assert_eq!(engine.poll(Some(Duration::from_millis(1)), 0).unwrap(), 0);
        // There is always one more line in the list.
        assert!(engine.shared.dispatch.callbacks.try_turn().unwrap().take().is_some());
        *lock(&shared) = Weak::new();
    }
}
