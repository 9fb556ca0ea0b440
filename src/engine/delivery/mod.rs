//! Delivery of events from the engine thread to their consumers: one bounded queue per request, and lists of the
//! requests that have something to deliver.
//!
//! | file | what it is for |
//! |---|---|
//! | [`queue`] | the queue of one request: everything unread, merged into one buffer |
//! | [`buffer`] | the contents of such a queue: an event in preallocated memory |
//! | [`ready`] | the list of what is ready for callbacks, and the turn of the one thread that runs them |
//! | [`completions`] | the list of what is ready for [`super::Engine::next`] on any thread, and which events are out |
//! | [`waker`] | the thread that wakes a polling host |
//! | [`sync`] | the locks of the queue and the lists, which `tests/loom` replaces to explore their interleavings |
//! | [`outbox`] | the interface for the engine thread: a request's [`Outbox`], an engine's [`Dispatch`] |
//!
//! The consumers are in [`super::receive`]. Law 5: a full queue pauses its own request only, and no callback runs on
//! the engine thread or under a lock.

mod buffer;
pub(super) mod completions;
mod outbox;
pub(super) mod queue;
pub(super) mod ready;
mod sync;
mod waker;

pub use super::callback::CallbackScope;
pub(super) use buffer::{Buffer, PerToken, Piece, Produced, with_nul};
pub(super) use outbox::{Destination, Dispatch, Events, Item, Outbox, Receiver, Route, discard};
pub(super) use sync::{lock, wait_for, wait_until};
