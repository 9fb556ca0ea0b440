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
//! What is in use when the work is over, a table that a dependency keeps in a static for example, keeps its backup for good.

use crate::reserve::{ALIGN_MAX, Units, WORD_BYTES};
use library::os::shortage::Backups;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Most backups at once; more pieces of work run without one, behind the reserve alone.
const BACKUPS_MAX: usize = 16;
/// A backup's length is a multiple of this.
const GRANULE: usize = 64 << 10;
/// Bits of an entry that count granules: up to 16 GiB.
const LENGTH_BITS: u32 = 18;
/// The answer of [`begin`] for work that runs without a backup.
const NONE: usize = usize::MAX;

/// One backup.
struct Slot {
    /// 0 = free, 1 = being made or taken apart; else the memory's page number and, in the lowest bits, its granules.
    entry: AtomicU64,
    /// The block that the system gave: the bitmap, then the memory. Written while the entry is 1.
    block: AtomicUsize,
    /// Words of the bitmap.
    words: AtomicUsize,
    next: AtomicUsize,
    /// What [`CURRENT`] was before.
    outer: AtomicUsize,
}

static SLOTS: [Slot; BACKUPS_MAX] = [const {
    Slot {
        entry: AtomicU64::new(0),
        block: AtomicUsize::new(0),
        words: AtomicUsize::new(0),
        next: AtomicUsize::new(0),
        outer: AtomicUsize::new(0),
    }
}; BACKUPS_MAX];

/// Backups in the table.
static ACTIVE: AtomicUsize = AtomicUsize::new(0);

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
    let claimed = |slot: &Slot| slot.entry.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok();
    let index = if granules >> LENGTH_BITS == 0 { SLOTS.iter().position(claimed) } else { None };
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
    slot.outer.store(CURRENT.replace(index + 1), Ordering::Relaxed);
    slot.entry.store(entry << LENGTH_BITS | granules, Ordering::Release);
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
    let units = slot.units();
    if units.used_bytes() > 0 {
        return;
    }
    let (block, words) = (slot.block.load(Ordering::Relaxed), units.used.len());
    slot.entry.store(1, Ordering::Release);
    ACTIVE.fetch_sub(1, Ordering::Release);
    if let Some(layout) = layout(words) {
        // SAFETY: `begin` allocated it with this layout; nothing in it is in use, and only this thread, whose backup it was,
        // and those that worked for it, which have ended, could take of it.
        unsafe { System.dealloc(std::ptr::with_exposed_provenance_mut(block), layout) };
    }
    slot.entry.store(0, Ordering::Release);
}

/// A block from the backup behind this thread's work; NULL when there is none, or none that large.
pub(crate) fn allocate(size: usize, align: usize) -> *mut u8 {
    match CURRENT.get() {
        0 => std::ptr::null_mut(),
        current => SLOTS[current - 1].units().allocate(size, align, 0),
    }
}

/// The backup that this block is of, if it is of one.
#[inline]
pub(crate) fn of(block: *const u8) -> Option<Units<'static>> {
    if ACTIVE.load(Ordering::Acquire) == 0 { None } else { find(block) }
}

#[cold]
fn find(block: *const u8) -> Option<Units<'static>> {
    let holds = |slot: &&Slot| {
        let entry = slot.entry.load(Ordering::Acquire);
        let start = (entry >> LENGTH_BITS) as usize * ALIGN_MAX;
        let length = (entry & ((1 << LENGTH_BITS) - 1)) as usize * GRANULE;
        entry > 1 && block.addr().wrapping_sub(start) < length
    };
    SLOTS.iter().find(holds).map(Slot::units)
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
    fn what_the_system_cannot_have_is_refused_and_what_is_in_use_stays() {
        assert_eq!(begin(usize::MAX / 4), 0);
        assert_eq!(begin(usize::MAX), 0);
        let token = begin(1000);
        let kept = allocate(500, 16);
        end(token);
        assert!(of(kept).is_some() && allocate(1, 1).is_null());
    }
}
