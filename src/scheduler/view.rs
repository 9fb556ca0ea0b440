//! Looking at the pages from outside, for measurements and for showing them.

use super::{Scheduler, Sequence};
use crate::cache::prefix::{NodeId, NodeView};
use crate::cache::{Page, SequenceHandle};

/// An owner of a page frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageOwner {
    /// A node of the prefix tree.
    Tree(NodeId),
    /// A sequence.
    Sequence(SequenceHandle),
    /// A pinned prefix, by its place among the pins.
    Pin(usize),
}

/// A page frame, one of its owners, and which page of the owner's tokens it holds: number `index` from the first on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnedPage {
    /// The frame.
    pub page: Page,
    /// The owner.
    pub owner: PageOwner,
    /// The logical page.
    pub index: usize,
}

impl Scheduler {
    /// Calls `see` for every owner of every page frame of a layer group, in no particular order.
    pub fn page_owners(&self, group: usize, mut see: impl FnMut(OwnedPage)) {
        let mut all = |owner, pages: &[Page]| {
            pages.iter().enumerate().for_each(|(index, &page)| see(OwnedPage { page, owner, index }));
        };
        for &handle in &self.running {
            let table = self.sequences.get(handle).and_then(|s| s.tables.get(group));
            all(PageOwner::Sequence(handle), table.map_or(&[], Vec::as_slice));
        }
        self.pins_and_frames(group).for_each(|(pin, frames)| all(PageOwner::Pin(pin), frames));
        self.tree.views().for_each(|node| {
            if let Some(&page) = node.frames.get(group) {
                see(OwnedPage { page, owner: PageOwner::Tree(node.id), index: node.depth - 1 });
            }
        });
    }

    /// The nodes of the prefix tree, the root excepted, in no particular order.
    pub fn tree_nodes(&self) -> impl Iterator<Item = NodeView<'_>> {
        self.tree.views()
    }

    /// All sequences: those that run, wait, and have ended since the last cleanup.
    pub fn sequences(&self) -> impl Iterator<Item = &Sequence> {
        self.sequences.iter().map(|(_, sequence)| sequence)
    }

    /// Token places of used page frames that hold no token, over all layer groups: the ends of last pages, which are
    /// never shared.
    pub fn empty_places(&self) -> usize {
        let running = self.running.iter().filter_map(|&handle| self.sequences.get(handle));
        let tables = running.flat_map(|s| s.tables.iter().map(|table| (table, s.computed)));
        tables.map(|(table, computed)| (table.len() * self.capacity.page_tokens).saturating_sub(computed)).sum()
    }
}
