//! [`Engine::poll`] and [`Engine::next`]: how a host receives the events of all requests of an engine.

use super::delivery::completions::Popped;
use super::delivery::{Destination, Events, discard};
use super::hold::Held;
use super::receive::{copy, deadline};
use super::{
    Command, Engine, Event, Hold, Next, Outbox, Prompt, Request, RequestOptions, Shared, Sink, call_host, in_callback,
    refuse_blocking, this_thread,
};
use crate::error::{Error, Result, Status};
use crate::limits;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
        self.shared.next_listed(&self.shared.dispatch.completions, timeout)
    }

    /// A queue of events apart from that of [`Engine::next`], for a part of a program that shares the engine with others.
    ///
    /// # Errors
    /// `Closed`; `Memory`.
    pub fn event_queue(&self) -> Result<EventQueue> {
        self.open_or_closed()?;
        Ok(EventQueue(Arc::new(Apart { shared: self.shared.clone(), events: self.shared.dispatch.list_apart()? })))
    }
}

/// The events of those requests of an engine that are submitted to it; see [`Engine::event_queue`]. Clones are the same queue. When
/// the last one is dropped, what is queued is dropped, and what still comes; requests go on.
#[derive(Clone)]
pub struct EventQueue(Arc<Apart>);

struct Apart {
    shared: Arc<Shared>,
    events: Arc<Events>,
}

impl EventQueue {
    /// As [`Engine::submit`] to `engine`, which made this queue, with [`super::Sink::Engine`].
    ///
    /// # Errors
    /// As there; `Argument` for another engine.
    pub fn submit(&self, engine: &Engine, prompt: &Prompt, options: &RequestOptions) -> Result<Request> {
        if !Arc::ptr_eq(&engine.shared, &self.0.shared) {
            return Err(Error::argument("the queue of events is another engine's").about("engine"));
        }
        let to = Destination { sink: Sink::Engine(Box::new(())), events: self.0.events.clone() };
        engine.submit_to(prompt, options, to)
    }

    /// As [`Engine::next`], for requests that were submitted to this queue.
    ///
    /// # Errors
    /// As there.
    pub fn next(&self, timeout: Option<Duration>) -> Result<Next> {
        self.0.shared.next_listed(&self.0.events, timeout)
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        discard(&self.events);
    }
}

impl Shared {
    /// [`Engine::next`] of a list.
    fn next_listed(&self, events: &Events, timeout: Option<Duration>) -> Result<Next> {
        refuse_blocking(timeout, "next")?;
        let (until, me) = (deadline(timeout), this_thread());
        let patience = || Instant::now() + Duration::from_millis(limits::HELD_WAIT_MS);
        loop {
            let (outbox, ticket) = match events.pop(until, me, patience) {
                Popped::Item(outbox, ticket) => (outbox, ticket),
                Popped::Timeout => return Ok(Next::Timeout),
                Popped::Stopped => return Ok(Next::End),
                Popped::Busy => return Err(all_held()),
            };
            if let Some(event) = self.take_of(&outbox, ticket)? {
                return Ok(Next::Event(event));
            }
        }
    }

    /// Takes the event of a listed request, which the caller holds by `ticket`; None when it was dropped meanwhile
    /// (cancel).
    fn take_of(&self, outbox: &Arc<Outbox>, ticket: u64) -> Result<Option<Box<Event>>> {
        let Some(mut taken) = outbox.queue.take_listed() else {
            outbox.clone().release(ticket);
            return Ok(None);
        };
        let mut event = match copy(outbox, &mut taken.content.event) {
            Ok(event) => event,
            Err(error) => {
                outbox.queue.restore_unread(taken);
                outbox.clone().release(ticket);
                return Err(error);
            }
        };
        if taken.last {
            let receiver = taken.sink.take();
            call_host(|| drop(receiver));
            outbox.queue.restore(taken);
            outbox.leave();
            outbox.ended(ticket);
            outbox.queue.end();
            return Ok(Some(event));
        }
        event.hold = Hold::new(outbox.clone(), ticket);
        if outbox.queue.restore(taken) {
            self.mailbox.send_anyway(Command::Resume(outbox.id));
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
