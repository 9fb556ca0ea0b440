//! The table of active requests, with indexes by sequence, by request id and by deadline.

use super::active::Active;
use crate::cache::SequenceHandle;
use crate::error::{Error, Result};
use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

/// The active requests. Engine thread only.
///
/// Invariant: `places` holds each request at the index of its sequence's handle. `ids` names exactly these requests,
/// `deadlines` exactly those of them that have a deadline, each with its index.
#[derive(Default)]
pub(super) struct Table {
    places: Vec<Option<Box<Active>>>,
    ids: HashMap<u64, SequenceHandle>,
    deadlines: BTreeSet<(Instant, usize)>,
}

impl Table {
    /// Number of requests.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no requests.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Makes room for a request with this handle, so that [`Table::insert`] does not have to grow `places` or `ids`.
    ///
    /// # Errors
    /// `Memory`.
    pub fn reserve(&mut self, handle: SequenceHandle) -> Result<()> {
        let more = (handle.index() + 1).saturating_sub(self.places.len());
        let bytes = ((handle.index() + 1) * size_of::<Option<Box<Active>>>()) as u64;
        self.places.try_reserve(more).map_err(|_| Error::memory("the table of requests", bytes))?;
        self.ids.try_reserve(1).map_err(|_| Error::memory("the table of requests", bytes))
    }

    /// Adds a request. No other request has its handle.
    pub fn insert(&mut self, active: Active) {
        let (handle, index) = (active.handle, active.handle.index());
        if index >= self.places.len() {
            self.places.resize_with(index + 1, || None);
        }
        self.ids.insert(active.request.delivery.id, handle);
        self.deadlines.extend(active.request.deadline.map(|d| (d, index)));
        self.places[index] = Some(Box::new(active));
    }

    /// The request of a sequence; `None` when it has ended.
    pub fn get(&self, handle: SequenceHandle) -> Option<&Active> {
        self.places.get(handle.index())?.as_deref().filter(|a| a.handle == handle)
    }

    /// As [`Table::get`], mutable.
    pub fn get_mut(&mut self, handle: SequenceHandle) -> Option<&mut Active> {
        self.places.get_mut(handle.index())?.as_deref_mut().filter(|a| a.handle == handle)
    }

    /// The sequence of the request with this id; `None` when it has ended.
    pub fn find(&self, id: u64) -> Option<SequenceHandle> {
        self.ids.get(&id).copied()
    }

    /// Removes a request; does nothing when there is none with this handle.
    pub fn remove(&mut self, handle: SequenceHandle) {
        let Some(active) = self.places.get_mut(handle.index()).and_then(|p| p.take_if(|a| a.handle == handle)) else {
            return;
        };
        self.ids.remove(&active.request.delivery.id);
        if let Some(deadline) = active.request.deadline {
            self.deadlines.remove(&(deadline, handle.index()));
        }
    }

    /// Removes and returns all requests.
    pub fn drain(&mut self) -> impl Iterator<Item = Box<Active>> {
        self.ids.clear();
        self.deadlines.clear();
        self.places.drain(..).flatten()
    }

    /// Upper bound of the indices, for iterating with [`Table::at`].
    pub fn end(&self) -> usize {
        self.places.len()
    }

    /// The sequence of the request at an index; `None` when there is none.
    pub fn at(&self, index: usize) -> Option<SequenceHandle> {
        Some(self.places.get(index)?.as_ref()?.handle)
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|d| d.0)
    }

    /// The sequence of the request with the earliest deadline, if that has passed.
    pub fn expired(&self, now: Instant) -> Option<SequenceHandle> {
        self.deadlines.first().filter(|d| d.0 <= now).and_then(|d| self.at(d.1))
    }
}
