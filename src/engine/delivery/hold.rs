//! The hold that an event has on its request: no other event of the request is given out while it lasts.

use super::outbox::Outbox;
use crate::engine::Shared;
use std::fmt;
use std::sync::Arc;

/// Part of an event taken from the engine's queue; dropping it allows the request's next event. A copy holds nothing.
#[derive(Default)]
pub struct Hold(Option<Held>);

struct Held {
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
    ticket: u64,
}

impl Hold {
    /// The hold of an event that was taken with this ticket.
    pub(in crate::engine) fn new(shared: Arc<Shared>, outbox: Arc<Outbox>, ticket: u64) -> Hold {
        Hold(Some(Held { shared, outbox, ticket }))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.outbox.release(&self.shared.dispatch, self.ticket);
    }
}

impl Clone for Hold {
    fn clone(&self) -> Hold {
        Hold(None)
    }
}

impl PartialEq for Hold {
    /// Always equal: it does not belong to the event's contents.
    fn eq(&self, _: &Hold) -> bool {
        true
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "held" } else { "free" })
    }
}
