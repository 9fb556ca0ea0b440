//! Buffers of the CPU backend: zeroed, aligned to a cache line, and an error instead of an abort when memory is out.

use crate::error::{Error, Result};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// Alignment of every buffer, in bytes: a cache line, and the widest vector register.
pub const ALIGN: usize = 64;

/// A zeroed allocation. Large ones are untouched by the system until written.
pub struct Buffer {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the buffer owns its memory; access follows the borrow of the Buffer.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `bytes` zero bytes for `what`.
    pub fn zeroed(bytes: usize, what: &str) -> Result<Buffer> {
        let layout =
            Layout::from_size_align(bytes.max(1), ALIGN).map_err(|_| Error::memory(what, bytes as u64))?;
        // SAFETY: the layout's size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(|| Error::memory(what, bytes as u64))?;
        Ok(Buffer { start, layout })
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: allocated with this size and initialised to zero.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }

    /// First byte, for writers that split the buffer among themselves.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The buffer as f32.
    pub fn floats(&self) -> &[f32] {
        // SAFETY: aligned to 64 bytes, initialised, every bit pattern is an f32.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.layout.size() / 4) }
    }

    /// The buffer as f32, for writing.
    pub fn floats_mut(&mut self) -> &mut [f32] {
        // SAFETY: as `floats`, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.layout.size() / 4) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}
