//! How many requests an engine takes: those that run and wait, and those that have ended and were not read.

use super::Engine;
use super::delivery::Outbox;
use crate::error::{Error, Result, Status, Unit};
use crate::limits;
use std::sync::atomic::{AtomicUsize, Ordering};

fn refused(max: usize, message: String) -> Error {
    Error::new(Status::QueueFull, message).numbers(Unit::Count, max as u64 + 1, max as u64)
}

fn one_more(count: &AtomicUsize, max: usize) -> bool {
    let more = |n: usize| (n < max).then_some(n + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}

impl Engine {
    /// Counts one more request or pin, unless as many as may run and wait are there already.
    pub(super) fn reserve_place(&self) -> Result<()> {
        let max = self.running_max + self.waiting_max;
        if one_more(&self.shared.pending, max) {
            return Ok(());
        }
        Err(refused(max, format!("{max} requests are running or waiting already; try again later")))
    }

    /// The same of a request, which also has to be read one day: unless too many that have ended were not read.
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

    /// The request was not accepted after all.
    pub(super) fn displace(&self, outbox: &Outbox) {
        self.shared.pending.fetch_sub(1, Ordering::Relaxed);
        outbox.leave(&self.shared.dispatch.unread);
        self.shared.dispatch.unexpect(outbox.route);
    }
}
