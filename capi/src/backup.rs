//! Memory behind a piece of work that cannot be refused any: what [`library::os::shortage::backed`] runs. The estimate of what it
//! takes is allocated before as one block, which may fail, and kept until it is over. Should the system refuse a block meanwhile,
//! the thread gets it from there, of any size; the work is then given up when it is over, what it made is dropped, and the backup
//! is empty again. Untouched, as nearly always, the block takes address space and no memory.
//!
//! A block's address must say whose it is, so the backups in use stand in a table that every `dealloc` looks at while there is
//! one. An entry is one word, so that nobody sees half of it. What a thread frees was allocated before, and so was its backup
//! entered before: it sees the entry. An entry is removed before its memory goes back to the system: who is given that memory
//! anew sees it removed.
//!
//! What is in use when the work is over, a table that a dependency has built for later for example, keeps its backup until it is
//! freed: the last of all that use one takes it apart.

use crate::reserve::{ALIGN_MAX, Units, WORD_BYTES};
use library::limits::BACKUPS_MAX;
use library::os::shortage::Backups;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A backup's length is a multiple of this.
const GRANULE: usize = 64 << 10;
/// Bits of an entry that count granules: up to 16 GiB.
const LENGTH_BITS: u32 = 18;
/// The answer of [`begin`] for work that runs without a backup.
const NONE: usize = usize::MAX;

/// The table: 0 = free, 1 = being made or taken apart; else the memory's page number and, in the lowest bits, its granules.
/// Apart from the rest of a backup, so that a look at all of them touches few cache lines.
static ENTRIES: [AtomicU64; BACKUPS_MAX] = [const { AtomicU64::new(0) }; BACKUPS_MAX];

/// One backup, of the entry with the same index.
struct Slot {
    /// The block that the system gave: the bitmap, then the memory. Written while the entry is 1.
    block: AtomicUsize,
    /// Words of the bitmap.
    words: AtomicUsize,
    next: AtomicUsize,
    /// The work behind which it is, and the blocks in use.
    users: AtomicUsize,
    /// What [`CURRENT`] was before.
    outer: AtomicUsize,
}

static SLOTS: [Slot; BACKUPS_MAX] = [const {
    Slot {
        block: AtomicUsize::new(0),
        words: AtomicUsize::new(0),
        next: AtomicUsize::new(0),
        users: AtomicUsize::new(0),
        outer: AtomicUsize::new(0),
    }
}; BACKUPS_MAX];

/// Backups in the table: a free of a block that is of none costs no more than a look at this.
static ACTIVE: AtomicUsize = AtomicUsize::new(0);
/// Entries that have ever been used: those after them need no look.
static ENTRIES_USED: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// One more than the index of the backup behind this thread's work, 0 = none.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// For the Rust library to call.
pub(crate) const BACKUPS: Backups =
    Backups { begin, end, current: || CURRENT.get(), adopt: |backup| CURRENT.set(backup) };

impl Slot {
    fn units(&self) -> Units<'_> {
        let (block, words) = (self.block.load(Ordering::Relaxed), self.words.load(Ordering::Relaxed));
        let block = std::ptr::with_exposed_provenance_mut::<u8>(block);
        // SAFETY: `begin` made the block with these words at its start, zeroed, and it stays as long as the entry does.
        let used = unsafe { std::slice::from_raw_parts(block.cast::<AtomicU64>(), words) };
        Units { memory: memory_of(block, words), used, next: &self.next }
    }

    /// A user less; the last one gives the memory back to the system.
    fn leave(&self, entry: &AtomicU64) {
        // Acquire and release: all that the others did with the memory comes before it is given back.
        if self.users.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let (block, words) = (self.block.load(Ordering::Relaxed), self.words.load(Ordering::Relaxed));
        entry.store(1, Ordering::Release);
        ACTIVE.fetch_sub(1, Ordering::Release);
        if let Some(layout) = layout(words) {
            // SAFETY: `begin` allocated it with this layout. Nobody uses it: the work is over, so nothing more is taken of it, and
            // no block of it is left.
            unsafe { System.dealloc(std::ptr::with_exposed_provenance_mut(block), layout) };
        }
        entry.store(0, Ordering::Release);
    }
}

/// Where the memory begins behind a bitmap.
fn memory_of(block: *mut u8, words: usize) -> *mut u8 {
    let bitmap = block.wrapping_add(words * size_of::<u64>());
    bitmap.wrapping_add(bitmap.addr().next_multiple_of(ALIGN_MAX) - bitmap.addr())
}

fn layout(words: usize) -> Option<Layout> {
    let bytes = words.checked_mul(WORD_BYTES + size_of::<u64>())?.checked_add(ALIGN_MAX)?;
    Layout::from_size_align(bytes, align_of::<u64>()).ok()
}

/// Takes `bytes` and keeps them behind what this thread does from now on; 0 when the system does not have them.
fn begin(bytes: usize) -> usize {
    let granules = bytes.max(1).div_ceil(GRANULE);
    let words = granules.saturating_mul(GRANULE / WORD_BYTES);
    let Some(layout) = layout(words) else { return 0 };
    let granules = granules as u64;
    // SAFETY: the layout is not empty.
    let block = unsafe { System.alloc(layout) };
    if block.is_null() {
        return 0;
    }
    let entry = (memory_of(block, words).addr() / ALIGN_MAX) as u64;
    let claimed = |entry: &AtomicU64| entry.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok();
    let index = if granules >> LENGTH_BITS == 0 { ENTRIES.iter().position(claimed) } else { None };
    let Some(index) = index else {
        // SAFETY: allocated above; at least it could be had.
        unsafe { System.dealloc(block, layout) };
        return NONE;
    };
    // SAFETY: the block begins with so many words, which are this thread's until the entry is written.
    unsafe { block.write_bytes(0, words * size_of::<u64>()) };
    let slot = &SLOTS[index];
    slot.block.store(block.expose_provenance(), Ordering::Relaxed);
    slot.words.store(words, Ordering::Relaxed);
    slot.next.store(0, Ordering::Relaxed);
    slot.users.store(1, Ordering::Relaxed);
    slot.outer.store(CURRENT.replace(index + 1), Ordering::Relaxed);
    ENTRIES_USED.fetch_max(index + 1, Ordering::Relaxed);
    ENTRIES[index].store(entry << LENGTH_BITS | granules, Ordering::Release);
    ACTIVE.fetch_add(1, Ordering::Release);
    index + 1
}

/// The work is over. `token` is what `begin` gave it.
fn end(token: usize) {
    if token == NONE {
        return;
    }
    let slot = &SLOTS[token - 1];
    CURRENT.set(slot.outer.load(Ordering::Relaxed));
    slot.leave(&ENTRIES[token - 1]);
}

/// A block from the backup behind this thread's work; NULL when there is none, or none that large.
pub(crate) fn allocate(size: usize, align: usize) -> *mut u8 {
    let current = CURRENT.get();
    if current == 0 {
        return std::ptr::null_mut();
    }
    let slot = &SLOTS[current - 1];
    let block = slot.units().allocate(size, align, 0);
    if !block.is_null() {
        slot.users.fetch_add(1, Ordering::Relaxed);
    }
    block
}

/// The backup that a block is of.
#[derive(Clone, Copy)]
pub(crate) struct Owner {
    index: usize,
}

impl Owner {
    /// Takes a block back.
    ///
    /// # Safety
    /// `block` came from [`allocate`] with this `size`, is of this backup, and nobody uses it any more.
    pub(crate) unsafe fn release(self, block: *mut u8, size: usize) {
        // SAFETY: by the caller's promise; and as a block of it is in use, the backup's memory is there.
        unsafe { SLOTS[self.index].units().release(block, size) };
        SLOTS[self.index].leave(&ENTRIES[self.index]);
    }
}

/// The backup that this block is of, if it is of one.
#[inline]
pub(crate) fn of(block: *const u8) -> Option<Owner> {
    if ACTIVE.load(Ordering::Acquire) == 0 { None } else { find(block) }
}

#[cold]
fn find(block: *const u8) -> Option<Owner> {
    // Who has a block of an entry has seen this number no lower: the entry was made before the block.
    let used = ENTRIES_USED.load(Ordering::Relaxed).min(BACKUPS_MAX);
    let holds = |entry: &AtomicU64| {
        let entry = entry.load(Ordering::Acquire);
        let start = (entry >> LENGTH_BITS) as usize * ALIGN_MAX;
        let length = (entry & ((1 << LENGTH_BITS) - 1)) as usize * GRANULE;
        entry > 1 && block.addr().wrapping_sub(start) < length
    };
    ENTRIES[..used].iter().position(holds).map(|index| Owner { index })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_a_backup_are_found_by_their_address_and_go_back() {
        let token = begin(300_000);
        assert!(token != 0 && token != NONE);
        let large = allocate(200_000, 64);
        let small = allocate(1, 1);
        assert!(!large.is_null() && !small.is_null() && allocate(200_000, 1).is_null());
        assert!(of(large).is_some() && of(small).is_some() && of(large.wrapping_add(199_999)).is_some());
        let elsewhere = Box::new(7);
        assert!(of((&raw const *elsewhere).cast()).is_none());
        std::thread::spawn(|| assert!(allocate(1, 1).is_null(), "it is another thread's")).join().unwrap();
        let worker = std::thread::spawn(move || {
            (BACKUPS.adopt)(token);
            let block = allocate(1, 1);
            // SAFETY: allocated just now.
            unsafe { of(block).expect("what works for a thread has its backup").release(block, 1) };
        });
        worker.join().unwrap();
        // The work inside has a backup of its own.
        let inner = begin(1);
        let of_inner = allocate(GRANULE, 1);
        assert!(inner != token && !of_inner.is_null() && allocate(GRANULE, 1).is_null());
        // SAFETY: blocks of these sizes, given back once each, on another thread as on this one.
        unsafe {
            of(of_inner).unwrap().release(of_inner, GRANULE);
            end(inner);
            assert!(of(of_inner).is_none());
            let (large, small) = (large.expose_provenance(), small.expose_provenance());
            let elsewhere = std::thread::spawn(move || {
                let block = |address| std::ptr::with_exposed_provenance_mut::<u8>(address);
                of(block(large)).unwrap().release(block(large), 200_000);
                of(block(small)).unwrap().release(block(small), 1);
            });
            elsewhere.join().unwrap();
        }
        end(token);
        assert!(of(large).is_none() && allocate(1, 1).is_null());
    }

    #[test]
    fn what_the_system_cannot_have_is_refused_and_what_is_in_use_stays_until_it_is_freed() {
        assert_eq!(begin(usize::MAX / 4), 0);
        assert_eq!(begin(usize::MAX), 0);
        // More often than there are places.
        for _ in 0..2 * BACKUPS_MAX {
            let token = begin(1000);
            assert!(token != 0 && token != NONE);
            let (kept, longer) = (allocate(500, 16), allocate(10, 1));
            end(token);
            assert!(of(kept).is_some() && of(longer).is_some() && allocate(1, 1).is_null());
            let longer = longer.expose_provenance();
            // SAFETY: blocks of these sizes, given back once each.
            unsafe {
                of(kept).unwrap().release(kept, 500);
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        let longer = std::ptr::with_exposed_provenance_mut::<u8>(longer);
                        of(longer).expect("the backup is there as long as a block of it").release(longer, 10);
                    });
                });
            }
            assert!(of(kept).is_none());
        }
    }
}
