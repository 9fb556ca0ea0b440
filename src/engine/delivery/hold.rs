//! What keeps the next event of a request back while one of its events is out.

use super::outbox::Outbox;
use crate::engine::Shared;
use std::fmt;
use std::sync::Arc;

/// Held by an event from the engine's queue; dropped, it lets the next one come. A copy holds nothing.
#[derive(Default)]
pub struct Hold(Option<Held>);

struct Held {
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
    ticket: u64,
}

impl Hold {
    /// Of an event that was taken with this ticket.
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
    /// What an event says does not depend on it.
    fn eq(&self, _: &Hold) -> bool {
        true
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "held" } else { "free" })
    }
}
