//! Byte buffers on cache-line boundaries, whose allocation may fail without ending the process.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// Alignment of [`AlignedBytes`]: a cache line, and the widest vector register there is.
pub const ALIGNMENT: usize = 64;

/// A zero-initialised heap buffer whose address is a multiple of [`ALIGNMENT`] and never changes.
#[derive(Debug)]
pub struct AlignedBytes {
    start: NonNull<u8>,
    len: usize,
}

/// Lends its alignment to the address of an empty buffer.
#[repr(align(64))]
struct CacheLine;
const _: () = assert!(align_of::<CacheLine>() == ALIGNMENT);

// SAFETY: the buffer is plain memory owned by this value alone; shared access is read-only through `&self`, and
// writing needs `&mut self`.
unsafe impl Send for AlignedBytes {}
// SAFETY: as above.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    /// `len` zero bytes, or `None` when the system has no memory for them.
    pub fn zeroed(len: usize) -> Option<AlignedBytes> {
        if len == 0 {
            return Some(AlignedBytes { start: NonNull::<CacheLine>::dangling().cast(), len });
        }
        let layout = Layout::from_size_align(len, ALIGNMENT).ok()?;
        // SAFETY: the layout has a nonzero size.
        let start = unsafe { alloc_zeroed(layout) };
        NonNull::new(start).map(|start| AlignedBytes { start, len })
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `start` owns `len` initialised bytes for as long as `self` lives, or `len` is 0 and it dangles
        // non-null, which an empty slice allows.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes, to write.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        if let (true, Ok(layout)) = (self.len > 0, Layout::from_size_align(self.len, ALIGNMENT)) {
            // SAFETY: `start` came from `alloc_zeroed` with this very layout and is freed once.
            unsafe { dealloc(self.start.as_ptr(), layout) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_zero_and_writable() {
        for len in [0usize, 1, 63, 64, 65, 4097] {
            let mut bytes = AlignedBytes::zeroed(len).expect("small");
            assert_eq!(bytes.as_slice(), vec![0u8; len]);
            assert_eq!(bytes.as_slice().as_ptr() as usize % ALIGNMENT, 0);
            if len > 0 {
                bytes.as_mut_slice()[len - 1] = 7;
                assert_eq!(bytes.as_slice()[len - 1], 7);
            }
        }
    }

    #[test]
    fn an_impossible_size_is_none() {
        assert!(AlignedBytes::zeroed(usize::MAX).is_none());
        assert!(AlignedBytes::zeroed(isize::MAX as usize - 128).is_none());
    }
}
