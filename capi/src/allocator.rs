//! The C libraries' global allocator: the system's, with a [`Reserve`] behind it.
//!
//! Rust code and its libraries allocate small blocks in a thousand places, and where one cannot be had the standard library ends
//! the process. So a block of at most [`RESERVE_BLOCK_BYTES_MAX`] that the system refuses comes from the reserve, and the thread
//! is marked ([`library::os::shortage`]): the call, or the step, that works on it is given up with `ERR_MEMORY` at its next check,
//! and what it took drains back. Larger blocks fail; what asks for them can take no for an answer, or has a [`backup`] behind it.
//! One half of the reserve is for blocks up to [`RESERVE_SMALL_BYTES_MAX`] alone: larger ones, most of which could have been
//! refused, must not take what those need.
//!
//! This is process-global memory that changes: law 2 and law 6 list it as an exception.

use crate::backup;
use crate::reserve::{Reserve, UNIT, WORD_BYTES};
use library::limits::{RESERVE_BLOCK_BYTES_MAX, RESERVE_BYTES, RESERVE_SMALL_BYTES_MAX};
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
        // SAFETY: the caller's promises are passed on: a block of the one whose it is, with its size, that is given up.
        unsafe {
            if RESERVE.units().contains(block) {
                RESERVE.units().release(block, layout.size());
            } else if let Some(backup) = backup::of(block) {
                backup.release(block, layout.size());
            } else {
                System.dealloc(block, layout);
            }
        }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !RESERVE.units().contains(block) && backup::of(block).is_none() {
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
    // Whoever links the static library and takes this function takes the one that the system calls on loading too.
    std::hint::black_box(&crate::load::ON_LOAD);
    let backed = backup::allocate(size, align);
    if backed.is_null() && size > RESERVE_BLOCK_BYTES_MAX {
        return std::ptr::null_mut();
    }
    shortage::note(size);
    if !backed.is_null() {
        return backed;
    }
    let lowest = if size > RESERVE_SMALL_BYTES_MAX { RESERVE_BYTES / UNIT / 2 } else { 0 };
    RESERVE.units().allocate(size, align, lowest)
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
        assert!(RESERVE.units().contains(block) && shortage::is_noted());
        let other = std::thread::spawn(shortage::is_noted).join().unwrap();
        assert!(!other, "another thread has nothing to do with it");
        // SAFETY: the block is this test's.
        unsafe { Allocator.dealloc(block, layout(100, 8)) };
        assert_eq!(RESERVE.units().used_bytes(), 0);
        shortage::forget();
        assert!(from_reserve(RESERVE_BLOCK_BYTES_MAX + 1, 1).is_null());
        assert!(!shortage::is_noted(), "what fails tells its caller");
        let largest = from_reserve(RESERVE_BLOCK_BYTES_MAX, 4096);
        assert!(RESERVE.units().contains(largest));
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
        // All of the reserve, but for the ends of a search that began in the middle.
        let blocks: Vec<_> = (1..RESERVE_BYTES / 4096).map(|_| zeroed_from_reserve(4096, 1)).collect();
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
                assert!(!RESERVE.units().contains(moved), "the system has memory again");
                assert!((0..size.min(40)).all(|i| moved.add(i).read() == i as u8));
                Allocator.dealloc(moved, layout(size, 16));
            }
        }
        assert_eq!(RESERVE.units().used_bytes(), 0);
        shortage::forget();
    }

    #[test]
    fn what_the_system_cannot_have_is_null_and_changes_nothing() {
        let _alone = alone();
        let huge = layout(isize::MAX as usize - 4096, 16);
        // SAFETY: a block of this test's; a failed resize leaves it.
        unsafe {
            // The compiler knows malloc and takes it for granted that an allocation nobody uses succeeds.
            let [plain, zeroed] = [Allocator.alloc(huge), Allocator.alloc_zeroed(huge)].map(std::hint::black_box);
            assert!(plain.is_null() && zeroed.is_null());
            let block = Allocator.alloc(layout(64, 16));
            block.write_bytes(7, 64);
            assert!(Allocator.realloc(block, layout(64, 16), huge.size()).is_null());
            assert!((0..64).all(|i| block.add(i).read() == 7));
            Allocator.dealloc(block, layout(64, 16));
        }
        assert!(!shortage::is_noted() && RESERVE.units().used_bytes() == 0);
    }

    #[test]
    fn an_exhausted_reserve_says_so_and_half_of_it_is_for_small_blocks() {
        let _alone = alone();
        let take = |size: usize| {
            let mut blocks = Vec::with_capacity(RESERVE_BYTES / size);
            while let block = from_reserve(size, 1)
                && !block.is_null()
            {
                blocks.push((block, size));
            }
            blocks
        };
        let large = take(RESERVE_BLOCK_BYTES_MAX);
        let small = take(RESERVE_SMALL_BYTES_MAX);
        // A search that began in the middle leaves ends.
        assert!((1..=RESERVE_BYTES / RESERVE_BLOCK_BYTES_MAX / 2).contains(&large.len()), "{} large", large.len());
        assert!(small.len() >= RESERVE_BYTES / RESERVE_SMALL_BYTES_MAX / 2 - 1, "{} small", small.len());
        for (block, size) in large.into_iter().chain(small) {
            // SAFETY: allocated above.
            unsafe { Allocator.dealloc(block, layout(size, 1)) };
        }
        assert_eq!(RESERVE.units().used_bytes(), 0);
        shortage::forget();
    }

    /// A thread that was refused a block of any size while its work had a backup gives the work up, and its backup is empty.
    #[test]
    fn backed_work_that_was_refused_memory_is_given_up_and_leaves_nothing() {
        let _alone = alone();
        let mut places = [0; 2];
        let error = shortage::backed("a test", 4 << 20, || {
            let (large, small) = (from_reserve(3 << 20, 8), from_reserve(10, 8));
            places = [large.addr(), small.addr()];
            assert!(backup::of(large).is_some() && backup::of(small).is_some() && RESERVE.units().used_bytes() == 0);
            // SAFETY: blocks of these sizes that nobody else knows.
            unsafe {
                (Vec::from_raw_parts(large, 0, 3 << 20), small.write(1), Allocator.dealloc(small, layout(10, 8))).0
            }
        })
        .unwrap_err();
        assert_eq!((error.status, error.needed), (library::Status::Memory, 3 << 20));
        assert!(places.iter().all(|place| *place != 0 && backup::of(std::ptr::without_provenance(*place)).is_none()));
        shortage::forget();
        assert_eq!(shortage::backed("a test", 1000, || 7).unwrap(), 7);
        assert_eq!(shortage::backed("a test", usize::MAX / 4, || 7).unwrap_err().needed, usize::MAX as u64 / 4);
        shortage::forget();
    }
}
