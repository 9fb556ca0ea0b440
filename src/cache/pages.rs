//! The page frames of one layer group: which are free, how many owners each of the others has, and which of those that only
//! the prefix tree owns was used last.

use super::bitset::BitSet;
use crate::error::{Result, filled};

/// Index of a page frame.
pub type Page = u32;

/// No page frame: what a table has for a page that is not kept.
pub const NO_FRAME: Page = Page::MAX;

const NO_NODE: u32 = u32::MAX;

/// What the prefix tree has of a frame.
#[derive(Clone, Copy, Debug)]
struct InTree {
    /// The node whose page it holds; [`NO_NODE`] when the tree is no owner.
    node: u32,
    /// Neighbours in the list of cached frames.
    older: Page,
    younger: Page,
}

/// Page frames with reference counts.
///
/// Invariants: a frame is in `free` exactly when its count is 0; a frame is in the list of cached frames exactly when its one
/// owner is the prefix tree, and `cached` is the list's length; used + cached + free = total.
#[derive(Debug)]
pub struct PagePool {
    free: BitSet,
    owners: Vec<u32>,
    in_tree: Vec<InTree>,
    cached: usize,
    /// Ends of the list of cached frames.
    oldest: Page,
    youngest: Page,
}

impl PagePool {
    /// `frames` free page frames.
    ///
    /// # Errors
    /// `Memory`.
    pub fn new(frames: usize) -> Result<PagePool> {
        let none = InTree { node: NO_NODE, older: NO_FRAME, younger: NO_FRAME };
        let (owners, in_tree) = (filled("page frames", frames, 0)?, filled("page frames", frames, none)?);
        let (oldest, youngest) = (NO_FRAME, NO_FRAME);
        Ok(PagePool { free: BitSet::full(frames)?, owners, in_tree, cached: 0, oldest, youngest })
    }

    /// Frames in all.
    pub fn total(&self) -> usize {
        self.owners.len()
    }

    /// Frames nobody owns.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Frames that only the prefix tree owns.
    pub fn cached(&self) -> usize {
        self.cached
    }

    /// Whether only the prefix tree owns a frame.
    pub fn is_cached(&self, page: Page) -> bool {
        self.is_in_tree(page) && self.owners[page as usize] == 1
    }

    fn is_in_tree(&self, page: Page) -> bool {
        self.in_tree[page as usize].node != NO_NODE
    }

    /// Of the frames that only the prefix tree owns, the one that was given back longest ago, and its node.
    pub fn oldest_cached(&self) -> Option<(Page, u32)> {
        (self.oldest != NO_FRAME).then(|| (self.oldest, self.in_tree[self.oldest as usize].node))
    }

    /// The prefix tree becomes an owner of a frame that a sequence owns: it holds the page of `node`.
    pub fn cache(&mut self, page: Page, node: u32) {
        let before = std::mem::replace(&mut self.in_tree[page as usize].node, node);
        assert!(before == NO_NODE, "page {page} is in the tree twice");
        assert!(self.owners[page as usize] > 0, "page {page} is free and cannot be cached");
        self.owners[page as usize] += 1;
    }

    /// The prefix tree gives a frame up.
    pub fn uncache(&mut self, page: Page) {
        assert!(self.is_in_tree(page), "page {page} is not in the tree");
        if self.is_cached(page) {
            self.unlist(page);
        }
        self.in_tree[page as usize].node = NO_NODE;
        self.release(page);
    }

    /// As [`PagePool::release`]: one that is cached from now on is the first to be given up, not the last.
    pub fn release_as_oldest(&mut self, page: Page) {
        self.release(page);
        if self.is_cached(page) {
            self.unlist(page);
            self.list_between(NO_FRAME, page, self.oldest);
        }
    }

    /// Puts a frame into the list between two neighbours, of which one may be an end.
    fn list_between(&mut self, older: Page, page: Page, younger: Page) {
        self.cached += 1;
        (self.in_tree[page as usize].older, self.in_tree[page as usize].younger) = (older, younger);
        *(if older == NO_FRAME { &mut self.oldest } else { &mut self.in_tree[older as usize].younger }) = page;
        *(if younger == NO_FRAME { &mut self.youngest } else { &mut self.in_tree[younger as usize].older }) = page;
    }

    fn unlist(&mut self, page: Page) {
        self.cached -= 1;
        let InTree { older, younger, .. } = self.in_tree[page as usize];
        *(if older == NO_FRAME { &mut self.oldest } else { &mut self.in_tree[older as usize].younger }) = younger;
        *(if younger == NO_FRAME { &mut self.youngest } else { &mut self.in_tree[younger as usize].older }) = older;
    }

    /// Takes a free frame; its caller is the one owner.
    pub fn alloc(&mut self) -> Option<Page> {
        let page = self.free.take_first()?;
        self.owners[page] = 1;
        Some(page as Page)
    }

    /// Adds an owner to a frame that has one.
    pub fn share(&mut self, page: Page) {
        assert!(self.owners[page as usize] > 0, "page {page} is free and cannot be shared");
        if self.is_cached(page) {
            self.unlist(page);
        }
        self.owners[page as usize] += 1;
    }

    /// Removes an owner; the last one frees the frame.
    pub fn release(&mut self, page: Page) {
        let owners = &mut self.owners[page as usize];
        assert!(*owners > 0, "page {page} was released twice");
        *owners -= 1;
        match self.owners[page as usize] {
            0 => _ = self.free.insert(page as usize),
            1 if self.is_in_tree(page) => self.list_between(self.youngest, page, NO_FRAME),
            _ => {}
        }
    }

    /// Proves that `owned` (one entry per owner) is everything that is not free; else says what differs.
    pub fn check(&self, owned: impl Iterator<Item = Page>) -> std::result::Result<(), String> {
        let mut counts = vec![0u32; self.owners.len()];
        for page in owned {
            *counts.get_mut(page as usize).ok_or(format!("page {page} does not exist"))? += 1;
        }
        for (page, (&counted, &recorded)) in counts.iter().zip(&self.owners).enumerate() {
            if counted != recorded {
                return Err(format!("page {page} has {counted} owners, but {recorded} are recorded"));
            }
            if (recorded == 0) != self.free.contains(page) {
                return Err(format!("page {page} has {recorded} owners and its free bit disagrees"));
            }
        }
        let cached = self.owners.iter().zip(&self.in_tree).filter(|(n, tree)| **n == 1 && tree.node != NO_NODE).count();
        let (mut at, mut listed) = (self.oldest, 0);
        while at != NO_FRAME && listed <= cached {
            if !self.is_cached(at) {
                return Err(format!("page {at} is listed as cached"));
            }
            listed += 1;
            at = self.in_tree[at as usize].younger;
        }
        match (cached, listed) == (self.cached, self.cached) {
            true => Ok(()),
            false => Err(format!("{cached} pages are cached, {listed} are listed, {} are counted", self.cached)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_frames_are_in_the_order_in_which_they_were_given_back() {
        let mut pool = PagePool::new(4).unwrap();
        let pages: Vec<Page> = (0..4).map(|_| pool.alloc().unwrap()).collect();
        pages.iter().for_each(|&page| pool.cache(page, 10 + page));
        for page in [2, 0, 3] {
            pool.release(pages[page]);
        }
        assert_eq!((pool.oldest_cached(), pool.cached()), (Some((2, 12)), 3));
        pool.share(2);
        assert_eq!(pool.oldest_cached(), Some((0, 10)));
        pool.uncache(0);
        pool.release(2);
        assert_eq!((pool.oldest_cached(), pool.free()), (Some((3, 13)), 1));
        pool.uncache(3);
        assert_eq!((pool.oldest_cached(), pool.check([1, 1, 2].into_iter())), (Some((2, 12)), Ok(())));
        pool.release_as_oldest(1);
        assert_eq!((pool.oldest_cached(), pool.check([1, 2].into_iter())), (Some((1, 11)), Ok(())));
    }

    #[test]
    fn counts_owners_and_notices_a_leak() {
        let mut pool = PagePool::new(3).unwrap();
        let (a, b) = (pool.alloc().unwrap(), pool.alloc().unwrap());
        pool.share(a);
        assert_eq!((pool.free(), pool.check([a, b, a].into_iter())), (1, Ok(())));
        assert!(pool.check([a, b].into_iter()).is_err());
        pool.release(a);
        pool.release(a);
        pool.release(b);
        assert_eq!((pool.free(), pool.check([].into_iter())), (3, Ok(())));
    }
}
