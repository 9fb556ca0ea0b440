//! The consumer side of [`super::delivery`]: the dispatch thread, and in an engine that polls, the host's own calls. What
//! callers see of it is in [`super::request`] and [`super::events`].
//!
//! In an engine opened with [`super::Delivery::Poll`], callbacks run, their sinks are dropped, and log lines are shown
//! only inside open, poll, wait, close and drop, on the calling thread. One thread at a time may deliver: it has the
//! *turn*. Closing waits for the turn and then delivers until the engine thread has ended.

use super::delivery::queue::Read;
use super::delivery::ready::{Left, Popped, Round, Turn, TurnOr};
use super::delivery::{Buffer, Item, Receiver, Route};
use super::{Command, Event, FinishReason, Next, Outbox, Shared, call_host, closed, in_callback};
use crate::error::{Error, Result, Status};
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
        let (go_on, resume) = match outbox.show(&mut lent.content.event, shown) {
            Ok(()) => {
                let resume = outbox.queue.restore(lent);
                (call(shown), resume)
            }
            // No memory for a copy: the callback is shown the queue's own buffer, and the queue works with the smaller
            // one meanwhile.
            Err(_) => {
                outbox.show_within(&mut lent.content.event);
                (call(&lent.content.event), outbox.queue.restore(lent))
            }
        };
        if last {
            call_host(|| drop(sink));
            outbox.leave();
            outbox.queue.end();
            self.dispatch.callbacks.note_done();
            return true;
        }
        outbox.queue.give_back(sink);
        if !go_on {
            outbox.mute(FinishReason::Callback);
            self.mailbox.send_anyway(Command::Cancel(outbox.id, FinishReason::Callback));
        } else if resume {
            self.mailbox.send_anyway(Command::Resume(outbox.id));
        }
        true
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

    /// [`Engine::close`](super::Engine::close): delivers everything that still comes, on the calling thread.
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
    pub(super) fn poll(&self, timeout: Option<Duration>, events_max: u32) -> Result<u32> {
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
                    outbox.leave();
                }
                if resume {
                    self.mailbox.send_anyway(Command::Resume(outbox.id));
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
        let resume = || self.mailbox.send_anyway(Command::Resume(outbox.id));
        let (grown, read) = (|room| outbox.grown(room), |buffer: &mut Buffer| copy(outbox, &mut buffer.event));
        let read = outbox.queue.rest(deadline(timeout), resume, grown, read)?;
        Ok(self.pulled(outbox, read))
    }
}

/// A copy of the event for the reader, in memory of its own.
pub(super) fn copy(outbox: &Outbox, event: &mut Event) -> Result<Box<Event>> {
    let mut copy = Box::new(Event::empty(outbox.id, outbox.tag));
    outbox.show(event, &mut copy)?;
    Ok(copy)
}
