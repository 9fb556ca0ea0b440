//! Looking at the pages from outside, for measurements.

use super::Scheduler;
use crate::cache::{Page, SequenceHandle};

/// An owner of a page frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageOwner {
    /// The prefix tree.
    Tree,
    /// A sequence.
    Sequence(SequenceHandle),
    /// A pinned prefix.
    Pin,
}

impl Scheduler {
    /// Calls `see` for every owner of every page frame of a layer group, in no particular order.
    pub fn page_owners(&self, group: usize, mut see: impl FnMut(Page, PageOwner)) {
        for &handle in &self.running {
            let table = self.sequences.get(handle).and_then(|s| s.tables.get(group));
            table.into_iter().flatten().for_each(|&page| see(page, PageOwner::Sequence(handle)));
        }
        self.pinned_frames(group).for_each(|page| see(page, PageOwner::Pin));
        self.tree.pages(group).for_each(|page| see(page, PageOwner::Tree));
    }

    /// Token places of used page frames that hold no token, over all layer groups: the ends of last pages, which are
    /// never shared.
    pub fn empty_places(&self) -> usize {
        let running = self.running.iter().filter_map(|&handle| self.sequences.get(handle));
        let tables = running.flat_map(|s| s.tables.iter().map(|table| (table, s.computed)));
        tables.map(|(table, computed)| (table.len() * self.capacity.page_tokens).saturating_sub(computed)).sum()
    }
}
