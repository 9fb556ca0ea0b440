//! Memory for the moment when the system has none left, handed out in units of 16 bytes by a bitmap: the reserve, a fixed region in
//! the library's own image, and what [`super::backup`] takes before a piece of work.
//!
//! A block is a run of units whose bits are set. A bit is set by exactly one successful compare-and-exchange, of the thread that
//! then owns its unit, and cleared by the owner alone; so two blocks never share a unit, whatever the threads do. There is no
//! lock: a thread that is stopped, or was another one when the process forked, keeps nobody waiting.
//!
//! The bitmap is searched from where the last block ended. That is some microseconds when the region is nearly full, and happens
//! only where the alternative is the end of the process.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Bytes of a unit, and the least alignment of a block.
pub(crate) const UNIT: usize = 16;
/// Bytes that one word of the bitmap stands for.
pub(crate) const WORD_BYTES: usize = UNIT * 64;
/// Largest alignment of a block: that of the memory.
pub(crate) const ALIGN_MAX: usize = 4096;

/// `WORDS` times [`WORD_BYTES`] bytes that are there from the start.
#[repr(C, align(4096))]
pub(crate) struct Reserve<const WORDS: usize> {
    memory: UnsafeCell<[[u8; WORD_BYTES]; WORDS]>,
    used: [AtomicU64; WORDS],
    next: AtomicUsize,
}

// SAFETY: the memory is only touched by the owners of blocks, which never overlap; the rest is atomic.
unsafe impl<const WORDS: usize> Sync for Reserve<WORDS> {}

impl<const WORDS: usize> Reserve<WORDS> {
    /// All units free. All zero, so that a static one takes no place in a file.
    pub(crate) const fn new() -> Self {
        Reserve {
            memory: UnsafeCell::new([[0; WORD_BYTES]; WORDS]),
            used: [const { AtomicU64::new(0) }; WORDS],
            next: AtomicUsize::new(0),
        }
    }

    /// Its units.
    #[inline]
    pub(crate) fn units(&self) -> Units<'_> {
        Units { memory: self.memory.get().cast(), used: &self.used, next: &self.next }
    }
}

/// Memory in units, and who uses them.
#[derive(Clone, Copy)]
pub(crate) struct Units<'a> {
    /// Aligned to [`ALIGN_MAX`]; as many units as `used` has bits.
    pub(crate) memory: *mut u8,
    pub(crate) used: &'a [AtomicU64],
    /// Unit where the next search begins.
    pub(crate) next: &'a AtomicUsize,
}

impl Units<'_> {
    /// Whether a block of this memory begins at this address.
    #[inline]
    pub(crate) fn contains(&self, pointer: *const u8) -> bool {
        // One comparison: addresses below the memory wrap to large distances.
        pointer.addr().wrapping_sub(self.memory.addr()) < self.used.len() * WORD_BYTES
    }

    /// A block of at least `size` bytes, of unknown content, at a multiple of `align`, a power of two; NULL when there is none.
    /// It lies in the units from `lowest` on.
    pub(crate) fn allocate(&self, size: usize, align: usize, lowest: usize) -> *mut u8 {
        if size == 0 || size > self.used.len() * WORD_BYTES || align > ALIGN_MAX {
            return std::ptr::null_mut();
        }
        let (units, step) = (size.div_ceil(UNIT), align.div_ceil(UNIT));
        let first = self.next.load(Ordering::Relaxed).clamp(lowest, self.used.len() * 64);
        // The second search sees all there is. The third is for runs that another thread had begun to claim and gave back.
        let found = [first, lowest, lowest].into_iter().find_map(|from| self.claim_from(from, units, step));
        match found {
            Some(start) => {
                self.next.store(start + units, Ordering::Relaxed);
                // SAFETY: `start + units` is at most the number of units, so the offset lies in the memory.
                unsafe { self.memory.add(start * UNIT) }
            }
            None => std::ptr::null_mut(),
        }
    }

    /// Takes a block back.
    ///
    /// # Safety
    /// `pointer` came from [`Units::allocate`] with this `size`, and nobody uses the block any more.
    pub(crate) unsafe fn release(&self, pointer: *mut u8, size: usize) {
        let start = (pointer.addr() - self.memory.addr()) / UNIT;
        self.give_back(start, size.div_ceil(UNIT));
    }

    /// Bytes in use, in whole units.
    #[cfg(test)]
    pub(crate) fn used_bytes(&self) -> usize {
        self.used.iter().map(|word| word.load(Ordering::Acquire).count_ones() as usize * UNIT).sum()
    }

    /// Claims the first free run of `units` at or after `from` that begins at a multiple of `step`.
    fn claim_from(&self, from: usize, units: usize, step: usize) -> Option<usize> {
        let mut start = from.next_multiple_of(step);
        while start + units <= self.used.len() * 64 {
            match self.claim(start, units) {
                Ok(()) => return Some(start),
                Err(taken) => start = (taken + 1).next_multiple_of(step),
            }
        }
        None
    }

    /// Claims all these units or none; a unit that was taken, the last one of its word.
    fn claim(&self, start: usize, units: usize) -> Result<(), usize> {
        let mut claimed = start;
        for (word, mask) in pieces(start, units) {
            // Acquire: what the last owner did with the units comes before what this one does.
            let claim = self.used[word]
                .fetch_update(Ordering::Acquire, Ordering::Relaxed, |bits| (bits & mask == 0).then_some(bits | mask));
            if let Err(bits) = claim {
                self.give_back(start, claimed - start);
                return Err(word * 64 + 63 - (bits & mask).leading_zeros() as usize);
            }
            claimed = word * 64 + 64;
        }
        Ok(())
    }

    fn give_back(&self, start: usize, units: usize) {
        for (word, mask) in pieces(start, units) {
            let before = self.used[word].fetch_and(!mask, Ordering::Release);
            debug_assert_eq!(before & mask, mask, "units were given back that nobody owned");
        }
    }
}

/// The words of a run of units, each with the run's bits in it.
fn pieces(start: usize, units: usize) -> impl Iterator<Item = (usize, u64)> {
    let end = start + units;
    (start / 64..end.div_ceil(64)).filter(move |_| units > 0).map(move |word| {
        let (low, high) = (start.max(word * 64) - word * 64, end.min(word * 64 + 64) - word * 64);
        (word, (u64::MAX >> (64 - (high - low))) << low)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_cut_at_words() {
        let cut = |start, units| pieces(start, units).collect::<Vec<_>>();
        assert_eq!(cut(0, 0), []);
        assert_eq!(cut(64, 0), []);
        assert_eq!(cut(3, 2), [(0, 0b11000)]);
        assert_eq!(cut(63, 1), [(0, 1 << 63)]);
        assert_eq!(cut(64, 64), [(1, u64::MAX)]);
        assert_eq!(cut(60, 70), [(0, 0b1111 << 60), (1, u64::MAX), (2, 0b11)]);
    }

    #[test]
    fn blocks_are_aligned_apart_and_given_back() {
        static RESERVE: Reserve<16> = Reserve::new();
        let reserve = RESERVE.units();
        let mut blocks = Vec::new();
        for (size, align) in [(1, 1), (16, 8), (17, 16), (3000, 1), (64, 64), (100, 4096), (1, 2)] {
            let block = reserve.allocate(size, align, 0);
            assert!(reserve.contains(block) && block.addr().is_multiple_of(align.max(UNIT)), "{size} at {align}");
            // SAFETY: the block is this test's.
            unsafe { block.write_bytes(blocks.len() as u8, size) };
            blocks.push((block, size));
        }
        for (index, (block, size)) in blocks.into_iter().enumerate() {
            // SAFETY: written above; released once.
            unsafe {
                assert!(std::slice::from_raw_parts(block, size).iter().all(|byte| *byte == index as u8));
                reserve.release(block, size);
            }
        }
        assert_eq!(reserve.used_bytes(), 0);
    }

    #[test]
    fn what_does_not_fit_is_null_and_takes_nothing() {
        static RESERVE: Reserve<4> = Reserve::new();
        let reserve = RESERVE.units();
        let all = 4 * WORD_BYTES;
        for (size, align) in [(0, 1), (all + 1, 1), (usize::MAX, 1), (1, 8192)] {
            assert!(reserve.allocate(size, align, 0).is_null(), "{size} at {align}");
        }
        let whole = reserve.allocate(all, 4096, 0);
        assert!(reserve.contains(whole) && reserve.allocate(1, 1, 0).is_null());
        // SAFETY: allocated above.
        unsafe { reserve.release(whole, all) };
        // Every second unit in use: no two are together.
        let units: Vec<_> = (0..all / UNIT).map(|_| reserve.allocate(UNIT, 1, 0)).collect();
        assert!(units.iter().all(|unit| !unit.is_null()));
        // SAFETY: allocated above, each released once.
        units.iter().step_by(2).for_each(|unit| unsafe { reserve.release(*unit, UNIT) });
        assert!(reserve.allocate(UNIT + 1, 1, 0).is_null());
        assert_eq!(reserve.used_bytes(), all / 2);
        let again = reserve.allocate(UNIT, 1, 0);
        assert!(reserve.contains(again));
    }

    #[test]
    fn a_block_lies_above_the_lowest_unit_it_may_have() {
        static RESERVE: Reserve<4> = Reserve::new();
        let reserve = RESERVE.units();
        let half = |i: usize| reserve.memory.wrapping_add(i * 2 * WORD_BYTES);
        assert_eq!(reserve.allocate(2 * WORD_BYTES, 1, 128), half(1));
        assert!(reserve.allocate(UNIT, 1, 128).is_null(), "the upper half is full");
        assert_eq!(reserve.allocate(2 * WORD_BYTES, 1, 0), half(0));
    }

    #[test]
    fn addresses_outside_are_not_its_own() {
        static RESERVE: Reserve<1> = Reserve::new();
        let reserve = RESERVE.units();
        let first = reserve.allocate(1, 1, 0);
        for outside in [first.wrapping_sub(1), first.wrapping_add(WORD_BYTES), std::ptr::null_mut()] {
            assert!(!reserve.contains(outside));
        }
        assert!(reserve.contains(first.wrapping_add(WORD_BYTES - 1)));
    }

    /// Threads fill their blocks and find them unchanged; the region is too small for all, so runs are claimed and given back.
    #[test]
    fn threads_never_share_a_unit() {
        static RESERVE: Reserve<8> = Reserve::new();
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                scope.spawn(move || {
                    let reserve = RESERVE.units();
                    let (mut seed, mut held, mut served) = (u64::from(thread) + 1, Vec::new(), 0);
                    for _ in 0..20_000 {
                        seed ^= seed << 13;
                        seed ^= seed >> 7;
                        seed ^= seed << 17;
                        let size = 1 + (seed % 1500) as usize;
                        let block = reserve.allocate(size, 1 << (seed >> 32 & 7), 0);
                        if !block.is_null() {
                            served += 1;
                            // SAFETY: the block is this thread's.
                            unsafe { block.write_bytes(thread, size) };
                            held.push((block, size));
                        }
                        if block.is_null() || held.len() > 3 {
                            for (block, size) in held.drain(..) {
                                // SAFETY: written above; released once.
                                unsafe {
                                    assert!(std::slice::from_raw_parts(block, size).iter().all(|b| *b == thread));
                                    reserve.release(block, size);
                                }
                            }
                        }
                    }
                    // SAFETY: as above.
                    held.drain(..).for_each(|(block, size)| unsafe { reserve.release(block, size) });
                    assert!(served > 1000, "only {served} blocks were served");
                });
            }
        });
        assert_eq!(RESERVE.units().used_bytes(), 0);
    }
}
