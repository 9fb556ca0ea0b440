//! The engine thread's table of deferred requests.

use super::new_request::NewRequest;
use std::collections::BTreeMap;
use std::time::Instant;

/// Requests whose prompt is not ready, by id, which is the order of their submits. Engine thread only.
#[derive(Default)]
pub(super) struct Deferred {
    requests: BTreeMap<u64, Box<NewRequest>>,
}

impl Deferred {
    /// Adds a request whose prompt is not ready.
    pub fn insert(&mut self, request: Box<NewRequest>) {
        self.requests.insert(request.delivery.id, request);
    }

    /// Removes and returns the request whose prompt has become ready; None if it has ended.
    pub fn take(&mut self, id: u64) -> Option<Box<NewRequest>> {
        self.requests.remove(&id)
    }

    /// Removes and returns the first request with an id of at least `from` that `which` selects. To remove all of them,
    /// call again with the next id: this needs no list, which could fail to allocate.
    pub fn take_next(&mut self, from: u64, which: impl Fn(&NewRequest) -> bool) -> Option<Box<NewRequest>> {
        let (&id, _) = self.requests.range(from..).find(|(_, request)| which(request))?;
        self.requests.remove(&id)
    }

    /// The request with this id, if its prompt is not ready.
    pub fn get(&self, id: u64) -> Option<&NewRequest> {
        self.requests.get(&id).map(|request| &**request)
    }

    /// Whether `which` selects any of the requests.
    pub fn any(&self, which: impl Fn(&NewRequest) -> bool) -> bool {
        self.requests.values().any(|request| which(request))
    }

    /// The number of requests.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// The deadlines of the requests that have one.
    pub fn deadlines(&self) -> impl Iterator<Item = Instant> {
        self.requests.values().filter_map(|r| r.deadline)
    }
}
