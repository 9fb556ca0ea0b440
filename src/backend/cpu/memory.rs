//! Buffers of the CPU backend: zeroed, aligned to a cache line, and an error instead of an abort when memory is out.

use crate::error::{Error, Result};
use crate::os::aligned::AlignedBytes;

/// A zeroed allocation. Large ones are untouched by the system until written.
pub struct Buffer(AlignedBytes);

impl Buffer {
    /// `bytes` zero bytes for `what`.
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

    /// First byte, for writers that split the buffer among themselves.
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
