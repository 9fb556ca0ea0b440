//! The page frames of one layer group: which are free, and how many owners each of the others has.

use super::bitset::BitSet;
use crate::error::{Result, filled};

/// Index of a page frame.
pub type Page = u32;

/// Page frames with reference counts.
///
/// Invariants: a frame is in `free` exactly when its count is 0; `cached` counts the frames whose one owner is the prefix
/// tree; used + cached + free = total.
#[derive(Debug)]
pub struct PagePool {
    free: BitSet,
    owners: Vec<u32>,
    /// The prefix tree is an owner.
    in_tree: Vec<bool>,
    cached: usize,
}

impl PagePool {
    /// `frames` free page frames.
    ///
    /// # Errors
    /// `Memory`.
    pub fn new(frames: usize) -> Result<PagePool> {
        let (owners, in_tree) = (filled("page frames", frames, 0)?, filled("page frames", frames, false)?);
        Ok(PagePool { free: BitSet::full(frames)?, owners, in_tree, cached: 0 })
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
        self.in_tree[page as usize] && self.owners[page as usize] == 1
    }

    /// The prefix tree becomes an owner of a frame that a sequence owns.
    pub fn cache(&mut self, page: Page) {
        assert!(!std::mem::replace(&mut self.in_tree[page as usize], true), "page {page} is in the tree twice");
        assert!(self.owners[page as usize] > 0, "page {page} is free and cannot be cached");
        self.owners[page as usize] += 1;
    }

    /// The prefix tree gives a frame up.
    pub fn uncache(&mut self, page: Page) {
        assert!(std::mem::replace(&mut self.in_tree[page as usize], false), "page {page} is not in the tree");
        self.cached -= usize::from(self.owners[page as usize] == 1);
        self.release(page);
    }

    /// Takes a free frame; its caller is the one owner.
    pub fn alloc(&mut self) -> Option<Page> {
        let page = self.free.take_first()?;
        self.owners[page] = 1;
        Some(page as Page)
    }

    /// Adds an owner to a frame that has one.
    pub fn share(&mut self, page: Page) {
        let owners = &mut self.owners[page as usize];
        assert!(*owners > 0, "page {page} is free and cannot be shared");
        self.cached -= usize::from(*owners == 1 && self.in_tree[page as usize]);
        *owners += 1;
    }

    /// Removes an owner; the last one frees the frame.
    pub fn release(&mut self, page: Page) {
        let owners = &mut self.owners[page as usize];
        assert!(*owners > 0, "page {page} was released twice");
        *owners -= 1;
        match *owners {
            0 => _ = self.free.insert(page as usize),
            1 => self.cached += usize::from(self.in_tree[page as usize]),
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
        let cached = self.owners.iter().zip(&self.in_tree).filter(|(n, tree)| **n == 1 && **tree).count();
        if cached != self.cached {
            Err(format!("{cached} pages are cached, {} are counted", self.cached))
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
