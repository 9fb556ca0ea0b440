//! Read-only file mappings.
//!
//! Weights are used where the page cache holds them: nothing is copied at open, and processes that serve the same
//! model share its memory. The price is the one listed exception to "nothing escapes": a file that is truncated or
//! rewritten while mapped changes under the reader or raises SIGBUS. Callers who cannot rule that out open without
//! mapping.

use std::fs::File;
use std::io;
use std::ops::Range;

/// A multiple of every system's memory pages.
#[cfg(unix)]
const PAGE_BYTES: usize = 1 << 16;

/// Bytes of a file, mapped shared and read-only. The address never changes; dropping it unmaps.
#[derive(Debug)]
pub struct Mapping(memmap2::Mmap);

impl Mapping {
    /// Maps `len` bytes of `file` from byte `offset` on, which must be there. The file may be closed afterwards.
    pub fn new(file: &File, offset: u64, len: usize) -> io::Result<Mapping> {
        let mut options = memmap2::MmapOptions::new();
        options.offset(offset).len(len);
        // SAFETY: the mapping is read-only and the bytes lie within the file, which the caller has just measured.
        // That nobody changes or truncates them while they are mapped cannot be checked: it is the documented
        // exception, and opening without mapping is the way around it.
        unsafe { options.map(file) }.map(Mapping)
    }

    /// Tells the system that these bytes are not wanted soon: memory pages of `range`, but for some at its ends, no longer
    /// count as this process's. Read again, they come from the page cache or the file. A hint: nothing happens where there is no such
    /// call, or outside the mapping.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        {
            let (begin, end) = (range.start.next_multiple_of(PAGE_BYTES), range.end / PAGE_BYTES * PAGE_BYTES);
            if begin < end && end <= self.0.len() {
                // SAFETY: the mapping is of a file, shared and read-only: dropped pages are the same when they come back.
                let _ =
                    unsafe { self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, begin, end - begin) };
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// The mapped bytes; their address modulo a memory page is that of their offset in the file.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}
