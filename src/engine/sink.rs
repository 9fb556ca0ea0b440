//! Where a request's events go, and what a wait for one gives.

use super::Event;

/// Where a request's events go.
pub enum Sink {
    /// The caller pulls them with [`super::Request::next`] or [`super::Request::wait`].
    Pull,
    /// Called on the dispatch thread, or with [`super::Delivery::Poll`] inside the host's own calls; `false` stops the
    /// request. Dropped exactly once: after the terminal event was delivered, or before a failing submit returns.
    Callback(Box<dyn FnMut(&Event) -> bool + Send>),
    /// The engine's event queue, read with [`super::Engine::next`]. The value inside is dropped exactly once: when the
    /// terminal event is taken, when the engine is dropped and discards that event, or before a failing submit returns.
    Engine(Box<dyn Send>),
}

/// Outcome of a wait.
#[derive(Debug)]
pub enum Next {
    /// Everything pending, merged into one event.
    Event(Box<Event>),
    /// The timeout passed.
    Timeout,
    /// The terminal event was already taken (for callbacks and [`super::Engine::next`]: and the sink was dropped). As a result
    /// of [`super::Engine::next`]: the engine is closed and its queue is empty.
    End,
}
