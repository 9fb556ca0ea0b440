//! The C libraries' global allocator: the system's, with a [`Reserve`] behind it.
//!
//! Rust code and its libraries allocate small blocks in a thousand places, and where one cannot be had the standard library ends
//! the process. So a block of at most [`RESERVE_BLOCK_BYTES_MAX`] that the system refuses comes from the reserve, and the thread
//! is marked ([`library::os::shortage`]): the call, or the step, that works on it is given up with `ERR_MEMORY` at its next check,
//! and what it took drains back. Larger blocks fail; what asks for them can take no for an answer.
//!
//! This is process-global memory that changes: law 2 and law 6 list it as an exception.

use crate::reserve::{Reserve, WORD_BYTES};
use library::limits::{RESERVE_BLOCK_BYTES_MAX, RESERVE_BYTES};
use library::os::shortage;
use std::alloc::{GlobalAlloc, Layout, System};

/// The one reserve of a library.
static RESERVE: Reserve<{ RESERVE_BYTES / WORD_BYTES }> = Reserve::new();

/// See the module.
pub(crate) struct Allocator;

// SAFETY: each block is the system's or the reserve's, which are sound, and its address says whose; layouts are passed on as
// they came. Nothing here unwinds or allocates.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        let block = unsafe { System.alloc(layout) };
        if block.is_null() { from_reserve(layout.size(), layout.align()) } else { block }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        let block = unsafe { System.alloc_zeroed(layout) };
        if block.is_null() { zeroed_from_reserve(layout.size(), layout.align()) } else { block }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if RESERVE.contains(block) {
            // SAFETY: a block of the reserve, with its size; the caller gives it up.
            unsafe { RESERVE.release(block, layout.size()) }
        } else {
            // SAFETY: the caller's promises are passed on; the block is the system's.
            unsafe { System.dealloc(block, layout) }
        }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !RESERVE.contains(block) {
            // SAFETY: the caller's promises are passed on; the block is the system's.
            let grown = unsafe { System.realloc(block, layout, size) };
            if !grown.is_null() {
                return grown;
            }
        }
        // SAFETY: the caller's promises are passed on.
        unsafe { self.moved(block, layout, size) }
    }
}

impl Allocator {
    /// [`GlobalAlloc::realloc`] of what the system cannot resize: another block with the same content.
    #[cold]
    unsafe fn moved(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the alignment is that of a layout, and by the caller's promise `size`, rounded up to it, fits an isize.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: `size` is not zero, by the caller's promise.
        let grown = unsafe { self.alloc(new) };
        if !grown.is_null() {
            // SAFETY: both blocks hold as many bytes, and are two; the old one is the caller's, with this layout.
            unsafe {
                grown.copy_from_nonoverlapping(block, size.min(layout.size()));
                self.dealloc(block, layout);
            }
        }
        grown
    }
}

#[cold]
fn from_reserve(size: usize, align: usize) -> *mut u8 {
    // Whoever links the static library and takes this function takes the one that silences panics too.
    std::hint::black_box(&crate::panics::ON_LOAD);
    if size > RESERVE_BLOCK_BYTES_MAX {
        return std::ptr::null_mut();
    }
    shortage::note(size);
    RESERVE.allocate(size, align)
}

#[cold]
fn zeroed_from_reserve(size: usize, align: usize) -> *mut u8 {
    let block = from_reserve(size, align);
    if !block.is_null() {
        // SAFETY: a block of at least `size` bytes that nobody else knows.
        unsafe { block.write_bytes(0, size) };
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One at a time: all look at the one reserve.
    fn alone() -> std::sync::MutexGuard<'static, ()> {
        static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
        ONE.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn a_refused_block_comes_from_the_reserve_marks_its_thread_and_drains_back() {
        let _alone = alone();
        shortage::forget();
        let block = from_reserve(100, 8);
        assert!(RESERVE.contains(block) && shortage::is_noted());
        let other = std::thread::spawn(shortage::is_noted).join().unwrap();
        assert!(!other, "another thread has nothing to do with it");
        // SAFETY: the block is this test's.
        unsafe { Allocator.dealloc(block, layout(100, 8)) };
        assert_eq!(RESERVE.used_bytes(), 0);
        shortage::forget();
        assert!(from_reserve(RESERVE_BLOCK_BYTES_MAX + 1, 1).is_null());
        assert!(!shortage::is_noted(), "what fails tells its caller");
        let largest = from_reserve(RESERVE_BLOCK_BYTES_MAX, 4096);
        assert!(RESERVE.contains(largest));
        // SAFETY: as above.
        unsafe { Allocator.dealloc(largest, layout(RESERVE_BLOCK_BYTES_MAX, 4096)) };
        shortage::forget();
    }

    #[test]
    fn zeroed_blocks_are_zero_whoever_had_them_before() {
        let _alone = alone();
        let dirty = from_reserve(4096, 1);
        // SAFETY: the block is this test's.
        unsafe {
            dirty.write_bytes(0xff, 4096);
            Allocator.dealloc(dirty, layout(4096, 1));
        }
        let blocks: Vec<_> = (0..RESERVE_BYTES / 4096).map(|_| zeroed_from_reserve(4096, 1)).collect();
        assert!(blocks.contains(&dirty));
        for block in blocks {
            // SAFETY: as above.
            unsafe {
                assert!(std::slice::from_raw_parts(block, 4096).iter().all(|byte| *byte == 0));
                Allocator.dealloc(block, layout(4096, 1));
            }
        }
        shortage::forget();
    }

    #[test]
    fn a_block_is_resized_out_of_the_reserve_and_keeps_its_content() {
        let _alone = alone();
        for size in [1, 40, 300, 100_000] {
            let block = from_reserve(40, 16);
            // SAFETY: the block is this test's, and resized and freed once with its layout.
            unsafe {
                (0..40).for_each(|i| block.add(i).write(i as u8));
                let moved = Allocator.realloc(block, layout(40, 16), size);
                assert!(!RESERVE.contains(moved), "the system has memory again");
                assert!((0..size.min(40)).all(|i| moved.add(i).read() == i as u8));
                Allocator.dealloc(moved, layout(size, 16));
            }
        }
        assert_eq!(RESERVE.used_bytes(), 0);
        shortage::forget();
    }

    #[test]
    fn what_the_system_cannot_have_is_null_and_changes_nothing() {
        let _alone = alone();
        let huge = layout(isize::MAX as usize - 4096, 16);
        // SAFETY: a block of this test's; a failed resize leaves it.
        unsafe {
            assert!(Allocator.alloc(huge).is_null() && Allocator.alloc_zeroed(huge).is_null());
            let block = Allocator.alloc(layout(64, 16));
            block.write_bytes(7, 64);
            assert!(Allocator.realloc(block, layout(64, 16), huge.size()).is_null());
            assert!((0..64).all(|i| block.add(i).read() == 7));
            Allocator.dealloc(block, layout(64, 16));
        }
        assert!(!shortage::is_noted() && RESERVE.used_bytes() == 0);
    }

    #[test]
    fn an_exhausted_reserve_says_so() {
        let _alone = alone();
        let mut blocks = Vec::with_capacity(RESERVE_BYTES / RESERVE_BLOCK_BYTES_MAX);
        while let block = from_reserve(RESERVE_BLOCK_BYTES_MAX, 1)
            && !block.is_null()
        {
            blocks.push(block);
        }
        assert_eq!(blocks.len(), RESERVE_BYTES / RESERVE_BLOCK_BYTES_MAX);
        for block in blocks {
            // SAFETY: allocated above.
            unsafe { Allocator.dealloc(block, layout(RESERVE_BLOCK_BYTES_MAX, 1)) };
        }
        assert_eq!(RESERVE.used_bytes(), 0);
        shortage::forget();
    }
}
