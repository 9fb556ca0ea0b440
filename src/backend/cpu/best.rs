//! The largest results of a product, found by the tasks that computed them: the thread that samples then reads a few
//! numbers instead of a vocabulary.
//!
//! Each thread keeps a list for every row, best first; the lists are merged in the end. What is found depends on the results
//! alone: of equals the lower output is better.

use super::Shared;

/// (result, output).
type Candidate = (f32, u32);

/// An entry that nothing has taken yet.
const NONE: Candidate = (f32::NEG_INFINITY, u32::MAX);

/// Results looked at together.
const CHUNK: usize = 32;

/// A search under way.
#[derive(Clone, Copy)]
pub(super) struct Search {
    /// `[threads, rows, count]`.
    lists: Shared<Candidate>,
    rows: usize,
    count: usize,
    limit: usize,
}

impl Search {
    /// Of `count` results in each of `rows` rows, among outputs below `limit`.
    pub fn new(threads: usize, rows: usize, count: usize, limit: usize, found: &mut Vec<Candidate>) -> Search {
        found.clear();
        found.resize(threads * rows * count, NONE);
        Search { lists: Shared(found.as_mut_ptr()), rows, count, limit }
    }

    /// Looks at some results of a row, the first being output `first`.
    ///
    /// # Safety
    /// The vector that `new` was given lives and has no other user; no two tasks use one `thread` at a time.
    pub unsafe fn look(self, thread: usize, row: usize, first: usize, results: &[f32]) {
        let start = (thread * self.rows + row) * self.count;
        // SAFETY: inside the lists; the caller's promise.
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

    /// Leaves `[rows, count]` in `found`, of the `lists` that `new` was given.
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

/// Takes a finite result into a list if it belongs there.
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
