//! The bytes of a tensor or a file, wherever they live.

use crate::os::aligned::AlignedBytes;
use crate::os::mmap::Mapping;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Immutable bytes. Cloning is cheap and shares them; they keep their owner (a mapping or a buffer) alive and never
/// move.
#[derive(Clone)]
pub struct Bytes {
    owner: Owner,
    /// Within the owner's.
    range: Range<usize>,
}

#[derive(Clone)]
enum Owner {
    Mapped(Arc<Mapping>),
    Aligned(Arc<AlignedBytes>),
    Plain(Arc<Vec<u8>>),
}

impl Owner {
    fn as_slice(&self) -> &[u8] {
        match self {
            Owner::Mapped(mapping) => mapping.as_slice(),
            Owner::Aligned(bytes) => bytes.as_slice(),
            Owner::Plain(bytes) => bytes,
        }
    }

    /// `None` when the range is not within it.
    fn bytes(self, range: Range<usize>) -> Option<Bytes> {
        self.as_slice().get(range.clone())?;
        Some(Bytes { owner: self, range })
    }
}

impl Bytes {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // The range was checked when it was made.
        self.owner.as_slice().get(self.range.clone()).unwrap_or_default()
    }

    /// Owned bytes, aligned as the allocator likes.
    pub fn from_vec(bytes: Vec<u8>) -> Bytes {
        Bytes { range: 0..bytes.len(), owner: Owner::Plain(Arc::new(bytes)) }
    }

    /// Owned bytes on a cache line.
    pub(crate) fn from_aligned(bytes: AlignedBytes) -> Bytes {
        Bytes { range: 0..bytes.as_slice().len(), owner: Owner::Aligned(Arc::new(bytes)) }
    }

    /// Part of a mapping; `None` when the range is not within it.
    pub(super) fn mapped(mapping: &Arc<Mapping>, range: Range<usize>) -> Option<Bytes> {
        Owner::Mapped(Arc::clone(mapping)).bytes(range)
    }

    /// A part of them; `None` when it is not within them.
    pub fn part(&self, range: Range<usize>) -> Option<Bytes> {
        self.as_slice().get(range.clone())?;
        let start = self.range.start;
        self.owner.clone().bytes(start + range.start..start + range.end)
    }

    /// They are not wanted soon: those of a mapped file leave this process's memory until they are read again.
    pub fn release(&self) {
        if let Owner::Mapped(mapping) = &self.owner {
            mapping.release(self.range.clone());
        }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether they lie in a mapped file, where they cost no memory of this process's own.
    pub fn is_mapped(&self) -> bool {
        matches!(self.owner, Owner::Mapped(_))
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({} bytes, mapped: {})", self.len(), self.is_mapped())
    }
}
