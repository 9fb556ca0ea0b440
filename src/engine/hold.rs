//! The hold that an event has on its request: no other event of the request is given out while it lasts.

use std::fmt;
use std::sync::Arc;

/// A request whose events are given out one at a time.
pub trait Held: Send + Sync {
    /// Releases the event that was taken with this ticket; the request's next event may be taken.
    fn release(self: Arc<Self>, ticket: u64);
}

/// Part of an event taken from the engine's queue; dropping it allows the request's next event. A copy holds nothing.
#[derive(Default)]
pub struct Hold(Option<(Arc<dyn Held>, u64)>);

impl Hold {
    /// The hold of an event that was taken with this ticket.
    pub(in crate::engine) fn new(request: Arc<dyn Held>, ticket: u64) -> Hold {
        Hold(Some((request, ticket)))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some((request, ticket)) = self.0.take() {
            request.release(ticket);
        }
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
