//! Byte buffers on page boundaries, whose allocation may fail without ending the process.

use memmap2::MmapMut;

/// Alignment of [`AlignedBytes`] that callers may rely on: a cache line, and the widest vector register there is.
pub const ALIGNMENT: usize = 64;

/// Buffers of this many bytes and more ask for large pages, on Linux.
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux is asked"))]
const LARGE: usize = 8 << 20;

/// A zero-initialised buffer whose address is a multiple of [`ALIGNMENT`] and never changes. It is an anonymous mapping:
/// the system gives memory to the parts that are written, when they are.
///
/// Thousands of them, one for each expert's matrix, are no danger to Linux's limit of 65,530 areas: adjacent mappings of one
/// kind become one area (20,000 of 200 KiB and 300 of 10 MiB took one line of `/proc/self/maps` more), and only a change
/// between buffers above and below [`LARGE`] begins another.
#[derive(Debug)]
pub struct AlignedBytes {
    map: MmapMut,
    len: usize,
}

impl AlignedBytes {
    /// `len` zero bytes, or `None` when the system refuses them.
    pub fn zeroed(len: usize) -> Option<AlignedBytes> {
        // The standard library's slices end at isize::MAX; a mapping has at least one byte.
        isize::try_from(len).ok()?;
        let map = MmapMut::map_anon(len.max(1)).ok()?;
        // Large pages save most of the faults and of the address translation; a system without them loses nothing.
        #[cfg(target_os = "linux")]
        if len >= LARGE {
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Some(AlignedBytes { map, len })
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.map[..self.len]
    }

    /// The bytes, to write.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.map[..self.len]
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
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
