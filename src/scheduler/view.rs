//! Looking at the pages from outside, for measurements.

use super::Scheduler;
use crate::cache::{Handle, Page};

/// An owner of a page frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageOwner {
    /// The prefix tree.
    Tree,
    /// A sequence.
    Sequence(Handle),
}

impl Scheduler {
    /// Calls `see` for every owner of every page frame of a layer group, in no particular order.
    pub fn page_owners(&self, group: usize, mut see: impl FnMut(Page, PageOwner)) {
        for (handle, sequence) in self.sequences.iter() {
            for &page in sequence.tables.get(group).into_iter().flatten() {
                see(page, PageOwner::Sequence(handle));
            }
        }
        self.tree.pages(group).for_each(|page| see(page, PageOwner::Tree));
    }

    /// Token places of used page frames that hold no token, over all layer groups: the ends of last pages, which are
    /// never shared.
    pub fn empty_places(&self) -> usize {
        let tables = self.sequences.iter().flat_map(|(_, s)| s.tables.iter().map(move |table| (table, s.computed)));
        tables.map(|(table, computed)| (table.len() * self.capacity.page_tokens).saturating_sub(computed)).sum()
    }
}
