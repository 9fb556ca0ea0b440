//! What tells one set of weights from another.

use super::{ModelSource, TensorInfo};
use crate::error::{Error, Result};
use xxhash_rust::xxh3::Xxh3;

/// Tensors that [`sample_hash`] looks into, evenly spread.
const SAMPLED_TENSORS: usize = 64;
/// Bytes of each that it reads.
const SAMPLED_BYTES: usize = 64;

/// A hash of every tensor: name, type, shape, and all bytes. One tensor is in memory at a time, if the source has to read.
///
/// # Errors
/// As of [`ModelSource::tensor`].
pub fn contents_hash(source: &dyn ModelSource) -> Result<u64> {
    hash(source, usize::MAX, 1)
}

/// A hash of every tensor's name, type and shape, and of a few bytes here and there: as good as [`contents_hash`] for
/// giving models different names, and quick, but not to be trusted beyond that.
///
/// # Errors
/// As of [`ModelSource::tensor`].
pub fn sample_hash(source: &dyn ModelSource) -> Result<u64> {
    hash(source, SAMPLED_BYTES, source.tensors()?.len().div_ceil(SAMPLED_TENSORS).max(1))
}

/// Of all names, types and shapes, and of the first `bytes_max` bytes of every `step`-th tensor.
fn hash(source: &dyn ModelSource, bytes_max: usize, step: usize) -> Result<u64> {
    let mut hash = Xxh3::new();
    for (at, TensorInfo { name, dtype, shape }) in source.tensors()?.iter().enumerate() {
        let missing = || {
            let subject = source.subject();
            Error::internal(format!("{subject} lists the tensor {name:?} and has no bytes for it")).about(subject)
        };
        // The name's length comes first, then what cannot be mistaken for more of it: no two checkpoints hash the same bytes.
        hash.update(format!("{} {name} {dtype} {shape:?};", name.len()).as_bytes());
        if at.is_multiple_of(step) {
            let (_, bytes) = source.tensor(name)?.ok_or_else(missing)?;
            let bytes = bytes.as_slice();
            hash.update(bytes.get(..bytes_max).unwrap_or(bytes));
        }
    }
    Ok(hash.digest())
}
