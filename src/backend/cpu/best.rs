//! The largest results of a matrix product, found by the tasks that computed them, so that sampling reads a few
//! candidates instead of a whole row of logits.
//!
//! Each thread keeps a sorted list for every row; the lists are merged at the end. The result does not depend on the
//! threads: of equal values the one with the lower output index ranks higher.

use super::Shared;

/// (value, output index).
type Candidate = (f32, u32);

/// An empty entry.
const NONE: Candidate = (f32::NEG_INFINITY, u32::MAX);

/// Results compared with the list's smallest entry at once.
const CHUNK: usize = 32;

/// A search in progress, shared by the tasks of one product.
#[derive(Clone, Copy)]
pub(super) struct Search {
    /// `[threads, rows, count]`: in descending order.
    lists: Shared<Candidate>,
    rows: usize,
    count: usize,
    limit: usize,
}

impl Search {
    /// A search for the `count` largest results per row, among outputs below `limit`. `found` holds the lists.
    pub fn new(threads: usize, rows: usize, count: usize, limit: usize, found: &mut Vec<Candidate>) -> Search {
        found.clear();
        found.resize(threads * rows * count, NONE);
        Search { lists: Shared(found.as_mut_ptr()), rows, count, limit }
    }

    /// Adds results of a row to the list of `thread`; `first` is the output index of the first of them.
    ///
    /// # Safety
    /// The vector passed to `new` is alive and not used otherwise; no two running tasks have the same `thread`.
    pub unsafe fn look(self, thread: usize, row: usize, first: usize, results: &[f32]) {
        let start = (thread * self.rows + row) * self.count;
        // SAFETY: inside the lists; the rest is guaranteed by the caller.
        let list = unsafe { self.lists.slice(start..start + self.count) };
        let results = &results[..results.len().min(self.limit.saturating_sub(first))];
        for (chunk, results) in results.chunks(CHUNK).enumerate() {
            let least = list[self.count - 1].0;
            let largest = results.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
            if largest >= least {
                let outputs = (first + chunk * CHUNK) as u32..;
                results.iter().zip(outputs).for_each(|(&x, output)| keep(list, (x, output)));
            }
        }
    }

    /// Merges the `lists` passed to `new` into `found`, `[rows, count]`.
    pub fn merge(lists: &mut [Candidate], rows: usize, count: usize, found: &mut Vec<Candidate>) {
        let (merged, others) = lists.split_at_mut(rows * count);
        for thread in others.chunks(rows * count) {
            for (list, other) in merged.chunks_mut(count).zip(thread.chunks(count)) {
                other.iter().for_each(|&entry| keep(list, entry));
            }
        }
        found.clear();
        found.extend_from_slice(merged);
    }
}

fn better(a: Candidate, b: Candidate) -> bool {
    a.0 > b.0 || a.0 == b.0 && a.1 < b.1
}

/// Inserts a finite result into a sorted list if it is better than the last entry, which it replaces.
fn keep(list: &mut [Candidate], entry: Candidate) {
    if !entry.0.is_finite() || !list.last().is_some_and(|&last| better(entry, last)) {
        return;
    }
    let mut at = list.len() - 1;
    while at > 0 && better(entry, list[at - 1]) {
        list[at] = list[at - 1];
        at -= 1;
    }
    list[at] = entry;
}
