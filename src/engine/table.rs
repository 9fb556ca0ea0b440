//! The requests the engine thread serves, found by sequence, by id and by deadline without looking at the others.

use super::active::Active;
use crate::cache::SequenceHandle;
use crate::error::{Error, Result};
use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

/// Active requests.
///
/// Invariant: `ids` and `deadlines` name exactly the requests in `places` (those that have a deadline), each of which
/// lies at the index of its sequence's handle.
#[derive(Default)]
pub(super) struct Table {
    places: Vec<Option<Box<Active>>>,
    ids: HashMap<u64, SequenceHandle>,
    deadlines: BTreeSet<(Instant, usize)>,
}

impl Table {
    /// Requests.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Makes room for one more request.
    ///
    /// # Errors
    /// `Memory`.
    pub fn reserve(&mut self, handle: SequenceHandle) -> Result<()> {
        let more = (handle.index() + 1).saturating_sub(self.places.len());
        let bytes = ((handle.index() + 1) * size_of::<Option<Box<Active>>>()) as u64;
        self.places.try_reserve(more).map_err(|_| Error::memory("the table of requests", bytes))?;
        self.ids.try_reserve(1).map_err(|_| Error::memory("the table of requests", bytes))
    }

    /// Adds a request under its handle, which no other has.
    pub fn insert(&mut self, active: Active) {
        let (handle, index) = (active.handle, active.handle.index());
        if index >= self.places.len() {
            self.places.resize_with(index + 1, || None);
        }
        self.ids.insert(active.request.delivery.id, handle);
        self.deadlines.extend(active.request.deadline.map(|d| (d, index)));
        self.places[index] = Some(Box::new(active));
    }

    /// The request of a sequence.
    pub fn get(&self, handle: SequenceHandle) -> Option<&Active> {
        self.places.get(handle.index())?.as_deref().filter(|a| a.handle == handle)
    }

    /// The request of a sequence.
    pub fn get_mut(&mut self, handle: SequenceHandle) -> Option<&mut Active> {
        self.places.get_mut(handle.index())?.as_deref_mut().filter(|a| a.handle == handle)
    }

    /// The sequence of the request with this id.
    pub fn find(&self, id: u64) -> Option<SequenceHandle> {
        self.ids.get(&id).copied()
    }

    /// Takes a request out.
    pub fn remove(&mut self, handle: SequenceHandle) {
        let Some(active) = self.places.get_mut(handle.index()).and_then(|p| p.take_if(|a| a.handle == handle)) else {
            return;
        };
        self.ids.remove(&active.request.delivery.id);
        if let Some(deadline) = active.request.deadline {
            self.deadlines.remove(&(deadline, handle.index()));
        }
    }

    /// Takes all requests out.
    pub fn drain(&mut self) -> impl Iterator<Item = Box<Active>> {
        self.ids.clear();
        self.deadlines.clear();
        self.places.drain(..).flatten()
    }

    /// Indices below which all requests lie; [`Table::at`] names the one at an index.
    pub fn end(&self) -> usize {
        self.places.len()
    }

    /// The sequence of the request at an index.
    pub fn at(&self, index: usize) -> Option<SequenceHandle> {
        Some(self.places.get(index)?.as_ref()?.handle)
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|d| d.0)
    }

    /// A request whose deadline has passed.
    pub fn expired(&self, now: Instant) -> Option<SequenceHandle> {
        self.deadlines.first().filter(|d| d.0 <= now).and_then(|d| self.at(d.1))
    }
}
