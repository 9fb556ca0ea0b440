//! Limits on the number of requests: those that run or wait, and those that have ended but whose last event was not
//! read.

use super::Outbox;
use crate::error::{Error, Result, Status, Unit};
use crate::limits;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One of the places of running and waiting requests and of pins being computed, given back on drop.
pub(super) struct Permit(Arc<AtomicUsize>);

impl Permit {
    /// Takes one of `max` places, of which `pending` are taken.
    ///
    /// # Errors
    /// `QueueFull` when all are taken.
    pub fn take(pending: &Arc<AtomicUsize>, max: usize) -> Result<Permit> {
        if one_more(pending, max) {
            return Ok(Permit(pending.clone()));
        }
        Err(refused(max, format!("{max} requests are running or waiting already; try again later")))
    }

    /// As [`Permit::take`], for a new request: counts it as unread as well, and reserves room for its events. On an error
    /// nothing is counted.
    ///
    /// # Errors
    /// `QueueFull` when too many requests are pending or unread; `Memory`.
    pub fn for_request(pending: &Arc<AtomicUsize>, max: usize, outbox: &Outbox) -> Result<Permit> {
        let permit = Permit::take(pending, max)?;
        let max = max + limits::UNREAD_MAX;
        if !one_more(&outbox.dispatch.unread, max) {
            drop(permit);
            let ended = max.saturating_sub(pending.load(Ordering::Relaxed));
            let message = format!(
                "the last events of {max} requests have not been taken, {ended} of which have ended: take them (with poll, next or \
                 wait), or free the handles of requests that nobody will read"
            );
            return Err(refused(max, message));
        }
        outbox.count();
        outbox.expect().inspect_err(|_| outbox.leave())?;
        Ok(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn refused(max: usize, message: String) -> Error {
    Error::new(Status::QueueFull, message).numbers(Unit::Count, max as u64 + 1, max as u64)
}

/// Increments `count` unless it has reached `max`; false when it has.
fn one_more(count: &AtomicUsize, max: usize) -> bool {
    let more = |n: usize| (n < max).then_some(n + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}
