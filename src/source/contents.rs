//! What tells one set of weights from another.

use super::{Bytes, ModelSource, TensorInfo};
use crate::error::{Error, Result, Status};
use std::ops::Range;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Tensors that [`sample_hash`] looks into, about, where there are more.
const SAMPLED_TENSORS: usize = 4096;
/// Bytes of each that it reads.
const SAMPLED_BYTES: usize = 64;
/// Bytes hashed between two questions whether to go on.
const HASHED_BYTES: usize = 8 << 20;

/// A hash of every tensor: name, type, shape, and all bytes. One tensor is in memory at a time, if the source has to read.
/// `go_on` is asked now and then.
///
/// # Errors
/// `Aborted`, by `go_on`; those of [`ModelSource::tensor`].
pub fn contents_hash(source: &dyn ModelSource, go_on: &mut dyn FnMut() -> bool) -> Result<u64> {
    let mut hash = Xxh3::new();
    for info in source.tensors()? {
        describe(info, &mut hash);
        for piece in bytes(source, &info.name)?.as_slice().chunks(HASHED_BYTES) {
            hash.update(piece);
            if !go_on() {
                let subject = source.subject();
                return Err(Error::new(Status::Aborted, format!("reading {subject} was aborted")).about(subject));
            }
        }
    }
    Ok(hash.digest())
}

/// A hash of every tensor's name, type and shape, and of a few bytes from the middle of each (of some, where there are very
/// many): enough to give models different names, and quick, but not to be trusted beyond that.
///
/// # Errors
/// As of [`ModelSource::tensor`].
pub fn sample_hash(source: &dyn ModelSource) -> Result<u64> {
    let one_in = source.tensors()?.len().div_ceil(SAMPLED_TENSORS).max(1) as u64;
    let mut hash = Xxh3::new();
    for info in source.tensors()? {
        describe(info, &mut hash);
        // By name and not by place: every so many tensors would be always the same ones of a layer.
        if xxh3_64(info.name.as_bytes()).is_multiple_of(one_in) {
            let bytes = bytes(source, &info.name)?;
            hash.update(bytes.as_slice().get(middle(bytes.len())).unwrap_or_default());
        }
    }
    Ok(hash.digest())
}

/// The bytes to sample, of so many.
fn middle(len: usize) -> Range<usize> {
    let start = len.saturating_sub(SAMPLED_BYTES) / 2;
    start..len.min(start + SAMPLED_BYTES)
}

/// The name's length comes first, then what cannot be mistaken for more of it: no two checkpoints hash the same bytes.
fn describe(TensorInfo { name, dtype, shape }: &TensorInfo, hash: &mut Xxh3) {
    hash.update(format!("{} {name} {dtype} {shape:?};", name.len()).as_bytes());
}

fn bytes(source: &dyn ModelSource, name: &str) -> Result<Bytes> {
    let missing = || {
        let subject = source.subject();
        Error::internal(format!("{subject} lists the tensor {name:?} and has no bytes for it")).about(subject)
    };
    Ok(source.tensor(name)?.ok_or_else(missing)?.1)
}
