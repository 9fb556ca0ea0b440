//! The page frames of one layer group: which are free, and how many owners each of the others has.

use super::bitset::BitSet;

/// Index of a page frame.
pub type Page = u32;

/// Page frames with reference counts.
///
/// Invariant: a frame is in `free` exactly when its count is 0.
#[derive(Debug)]
pub struct PagePool {
    free: BitSet,
    owners: Vec<u32>,
}

impl PagePool {
    /// `frames` free page frames.
    pub fn new(frames: usize) -> PagePool {
        PagePool { free: BitSet::full(frames), owners: vec![0; frames] }
    }

    /// Frames in all.
    pub fn total(&self) -> usize {
        self.owners.len()
    }

    /// Frames nobody owns.
    pub fn free(&self) -> usize {
        self.free.len()
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
        *owners += 1;
    }

    /// Removes an owner; the last one frees the frame.
    pub fn release(&mut self, page: Page) {
        let owners = &mut self.owners[page as usize];
        assert!(*owners > 0, "page {page} was released twice");
        *owners -= 1;
        if *owners == 0 {
            self.free.insert(page as usize);
        }
    }

    /// Proves that `owned` (one entry per owner) is everything that is not free; else says what differs.
    pub fn check(&self, owned: impl Iterator<Item = Page>) -> Result<(), String> {
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
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_owners_and_notices_a_leak() {
        let mut pool = PagePool::new(3);
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
