//! Buffers of the CPU backend: zeroed, aligned to 64 bytes; running out of memory is an error instead of an abort.

use crate::error::{Error, Result};
use crate::os::aligned::AlignedBytes;

/// A zeroed allocation. The system backs the pages of a large one with memory only when they are first written.
pub struct Buffer(AlignedBytes);

impl Buffer {
    /// Allocates `bytes` zeroed bytes. `what` names them in the error.
    pub fn zeroed(bytes: usize, what: &str) -> Result<Buffer> {
        AlignedBytes::zeroed(bytes).map(Buffer).ok_or_else(|| Error::memory(what, bytes as u64))
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// All bytes, for writing.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_mut_slice()
    }

    /// Pointer to the first byte, for tasks that write disjoint parts of the buffer.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_slice().as_mut_ptr()
    }

    /// The buffer as f32.
    pub fn floats(&self) -> &[f32] {
        let bytes = self.bytes();
        // SAFETY: aligned to 64 bytes, initialised, and every bit pattern is an f32.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / 4) }
    }

    /// The buffer as f32, for writing.
    pub fn floats_mut(&mut self) -> &mut [f32] {
        let floats = self.bytes().len() / 4;
        // SAFETY: as `floats`, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr().cast(), floats) }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}
