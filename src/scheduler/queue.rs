//! The order in which waiting sequences are admitted.
//!
//! By priority, then by age, in buckets of [`limits::AGE_BUCKET_ARRIVALS`] arrivals; within a bucket the scheduler takes
//! the one whose prefix is cached the furthest. A sequence that saw [`limits::OVERTAKEN_MAX`] admissions while it waited,
//! in all its waits together, is *overdue*: it ranks before every priority from then on until it ends.
//!
//! So a sequence is overtaken by at most `OVERTAKEN_MAX + AGE_BUCKET_ARRIVALS` later ones, whatever their priorities and
//! prefixes are. Paused sequences wait outside of the queue: they could not use their turn.

use crate::cache::SequenceHandle;
use crate::limits;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Place of a sequence among all others: less is served first and preempted last. No two are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// Priority, or [`OVERDUE`].
    urgency: Reverse<i64>,
    /// Number of the submit.
    arrival: u64,
}

/// Urgency above every priority.
const OVERDUE: i64 = i64::MAX;

impl Rank {
    /// Of a sequence that has just arrived.
    pub fn new(priority: i32, arrival: u64) -> Rank {
        Rank { urgency: Reverse(priority as i64), arrival }
    }

    /// Number of the submit.
    pub fn arrival(self) -> u64 {
        self.arrival
    }

    /// Whether it has been overtaken often enough.
    pub fn is_overdue(self) -> bool {
        self.urgency.0 == OVERDUE
    }

    fn overdue(self) -> Rank {
        Rank { urgency: Reverse(OVERDUE), ..self }
    }

    /// Within a bucket the scheduler may choose.
    pub fn same_bucket(self, other: Rank) -> bool {
        let bucket = |r: Rank| (r.urgency, r.arrival / limits::AGE_BUCKET_ARRIVALS as u64);
        bucket(self) == bucket(other)
    }
}

/// Waiting sequences.
///
/// Invariant: `waits` holds exactly the members of `by_rank` that are not overdue.
#[derive(Debug)]
pub struct Queue {
    by_rank: BTreeMap<Rank, SequenceHandle>,
    /// When each began to wait, as a number of admissions, with its rank.
    waits: BTreeMap<(u64, u64), Rank>,
    admissions: u64,
}

impl Default for Queue {
    fn default() -> Queue {
        // Nobody's wait began before the first admission.
        Queue { by_rank: BTreeMap::new(), waits: BTreeMap::new(), admissions: limits::OVERTAKEN_MAX as u64 }
    }
}

impl Queue {
    /// Waiting sequences.
    pub fn len(&self) -> usize {
        self.by_rank.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.by_rank.is_empty()
    }

    /// Adds a sequence that saw `waited` admissions in its earlier waits; returns what [`Queue::remove`] wants to know.
    pub fn insert(&mut self, rank: Rank, handle: SequenceHandle, waited: u64) -> u64 {
        let since = self.admissions - waited.min(limits::OVERTAKEN_MAX as u64);
        self.by_rank.insert(rank, handle);
        if !rank.is_overdue() {
            self.waits.insert((since, rank.arrival), rank);
        }
        since
    }

    /// Removes a sequence that waits since `since`; how many admissions it saw in all.
    pub fn remove(&mut self, rank: Rank, since: u64) -> u64 {
        self.waits.remove(&(since, rank.arrival));
        self.by_rank.remove(&rank);
        self.admissions - since
    }

    /// Notes that a sequence was admitted.
    pub fn count_admission(&mut self) {
        self.admissions += 1;
    }

    /// Moves the next overdue sequence before the others; its handle and new rank, which the caller keeps with it.
    pub fn promote(&mut self) -> Option<(SequenceHandle, Rank)> {
        let (&key, &rank) = self.waits.first_key_value()?;
        if self.admissions - key.0 < limits::OVERTAKEN_MAX as u64 {
            return None;
        }
        self.waits.remove(&key);
        let handle = self.by_rank.remove(&rank)?;
        self.by_rank.insert(rank.overdue(), handle);
        Some((handle, rank.overdue()))
    }

    /// All, first in line first.
    pub fn iter(&self) -> impl Iterator<Item = (Rank, SequenceHandle)> {
        self.by_rank.iter().map(|(&rank, &handle)| (rank, handle))
    }
}
