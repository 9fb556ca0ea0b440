//! Ends of requests, kept for a trace.

use super::TraceEvent;
use crate::error::{Result, reserved};
use crate::limits;

/// The ends since they were last taken, if they are kept.
#[derive(Default)]
pub(super) struct Ends {
    events: Option<Vec<TraceEvent>>,
    /// Ends for which there was no room.
    lost: u64,
}

impl Ends {
    /// Begins or ends to keep them, and forgets those that are there.
    ///
    /// # Errors
    /// `Memory` for [`limits::TRACE_EVENTS_MAX`] ends.
    pub fn keep(&mut self, keep: bool) -> Result<()> {
        let events = if keep { Some(reserved("the events of a trace", limits::TRACE_EVENTS_MAX)?) } else { None };
        *self = Ends { events, lost: 0 };
        Ok(())
    }

    /// Keeps an end, if they are kept.
    pub fn push(&mut self, end: impl FnOnce() -> TraceEvent) {
        match &mut self.events {
            Some(events) if events.len() < events.capacity() => events.push(end()),
            Some(_) => self.lost += 1,
            None => {}
        }
    }

    /// Gives the ends since the last call to `take`, and returns how many more there were than there is room for.
    pub fn take(&mut self, take: impl FnMut(TraceEvent)) -> u64 {
        self.events.iter_mut().flat_map(|events| events.drain(..)).for_each(take);
        std::mem::take(&mut self.lost)
    }
}
