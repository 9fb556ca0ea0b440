//! Looking at the pages from outside, for measurements and for showing them.

use super::{Scheduler, Sequence};
use crate::cache::prefix::{NodeId, NodeView};
use crate::cache::{Keep, NO_FRAME, Page, SequenceHandle};

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
            let kept = pages.iter().enumerate().filter(|(_, page)| **page != NO_FRAME);
            kept.for_each(|(index, &page)| see(OwnedPage { page, owner, index }));
        };
        for &handle in &self.running {
            let table = self.sequences.get(handle).and_then(|s| s.tables.get(group));
            all(PageOwner::Sequence(handle), table.map_or(&[], Vec::as_slice));
        }
        self.pins_and_frames(group).for_each(|(pin, frames)| all(PageOwner::Pin(pin), frames));
        for (&handle, sequence) in self.running.iter().filter_map(|h| Some((h, self.sequences.get(*h)?))) {
            let index = sequence.computed / self.capacity.page_tokens;
            let owner = PageOwner::Sequence(handle);
            sequence.states[group].frames().for_each(|page| see(OwnedPage { page, owner, index }));
        }
        self.tree.views().for_each(|node| {
            if let Some(&page) = node.frames.get(group).filter(|page| **page != NO_FRAME) {
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
        let tables = running.flat_map(|s| {
            let pages = s.tables.iter().zip(&self.capacity.groups).filter(|(_, group)| group.keep != Keep::State);
            pages.map(|(table, _)| (table, s.computed))
        });
        tables.map(|(table, computed)| (table.len() * self.capacity.page_tokens).saturating_sub(computed)).sum()
    }
}
