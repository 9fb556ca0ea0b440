//! Limits on the number of requests: those that run or wait, and those that have ended but whose last event was not
//! read.

use super::Engine;
use super::delivery::Outbox;
use crate::error::{Error, Result, Status, Unit};
use crate::limits;
use std::sync::atomic::{AtomicUsize, Ordering};

fn refused(max: usize, message: String) -> Error {
    Error::new(Status::QueueFull, message).numbers(Unit::Count, max as u64 + 1, max as u64)
}

/// Increments `count` unless it has reached `max`; false when it has.
fn one_more(count: &AtomicUsize, max: usize) -> bool {
    let more = |n: usize| (n < max).then_some(n + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}

impl Engine {
    /// Counts one more pending request or pin.
    ///
    /// # Errors
    /// `QueueFull` when as many as may run and wait are pending.
    pub(super) fn reserve_place(&self) -> Result<()> {
        let max = self.running_max + self.waiting_max;
        if one_more(&self.shared.pending, max) {
            return Ok(());
        }
        Err(refused(max, format!("{max} requests are running or waiting already; try again later")))
    }

    /// Counts a new request as pending and as unread, and reserves room for its events. On an error nothing is counted.
    ///
    /// # Errors
    /// `QueueFull` when too many requests are pending or unread; `Memory`.
    pub(super) fn place(&self, outbox: &Outbox) -> Result<()> {
        self.reserve_place()?;
        let (pending, unread) = (&self.shared.pending, &self.shared.dispatch.unread);
        let max = self.running_max + self.waiting_max + limits::UNREAD_MAX;
        if !one_more(unread, max) {
            pending.fetch_sub(1, Ordering::Relaxed);
            let ended = max.saturating_sub(pending.load(Ordering::Relaxed));
            let message = format!(
                "the last events of {max} requests have not been taken, {ended} of which have ended: take them (with poll, next or \
                 wait), or free the handles of requests that nobody will read"
            );
            return Err(refused(max, message));
        }
        outbox.count();
        self.shared.dispatch.expect(outbox.route).inspect_err(|_| {
            pending.fetch_sub(1, Ordering::Relaxed);
            outbox.leave(unread);
        })
    }

    /// Undoes [`Engine::place`] for a request that could not be submitted.
    pub(super) fn displace(&self, outbox: &Outbox) {
        self.shared.pending.fetch_sub(1, Ordering::Relaxed);
        outbox.leave(&self.shared.dispatch.unread);
        self.shared.dispatch.unexpect(outbox.route);
    }
}
