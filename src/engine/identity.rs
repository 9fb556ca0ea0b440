//! What a saved prefix must have in common with the engine that restores it: everything that determines the bits of a
//! page.
//!
//! Most of it is known when the engine opens. The contents of the weights are not: opening maps a checkpoint and reads
//! little of it. All bytes of all tensors are hashed when the first prefix is saved or restored, on the calling thread,
//! and the hash is kept. Callers that need it meanwhile wait for that thread.
//!
//! The engine thread's [`super::model_runner::ModelRunner`] owns the source; the identity has only a weak reference, so
//! that closing the engine frees the weights even if an identity is still alive. The source shares its bytes with the
//! backend, so keeping it takes no additional memory.

use super::api::{Info, Type};
use super::layer_groups::keep_of;
use super::memory_plan::LongestContext;
use super::{closed, lock};
use crate::backend::{FrameContent, KvShape, NUMERICS_VERSION};
use crate::cache::Keep;
use crate::error::{Error, Result, Status, Unit};
use crate::model::architecture::Architecture;
use crate::source::{ModelSource, contents_hash};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, Weak};
use xxhash_rust::xxh3::xxh3_64;

/// Everything that determines the bits of a page. The fields are those of a prefix file, and mismatch messages name
/// them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Description {
    pub model_type: String,
    pub config_hash: String,
    /// Hash of the names, types, shapes and contents of all tensors.
    pub weights_hash: String,
    pub tokenizer_hash: String,
    pub numerics_version: u32,
    pub platform: String,
    pub device: String,
    /// The CPU's instruction-set tier, or the GPU's architecture.
    pub arch: String,
    pub compute: String,
    pub weights: String,
    pub kv: String,
    pub page_tokens: u64,
    /// The context length that the rotary frequencies were computed for; 0 if they do not depend on it.
    #[serde(default)]
    pub rotary_context: u64,
    pub groups: Vec<GroupShape>,
    /// The number of tokens in the file; not compared.
    pub tokens: u64,
}

/// The shape of one layer group's part of a page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupShape {
    pub layers: u64,
    pub kv_heads: u64,
    pub k_dim: u64,
    pub v_dim: u64,
}

/// The memory layout of pages, and the limits on the tokens they hold.
#[derive(Clone, Debug)]
pub(super) struct PrefixLayout {
    /// Bytes of one frame, for each layer group, and what the group keeps.
    pub frames: Vec<(usize, Keep)>,
    pub page_tokens: usize,
    pub vocab: usize,
    pub context: usize,
    /// The longest context with which this model could be opened; for error messages.
    pub longest: LongestContext,
}

impl PrefixLayout {
    /// The frames that are kept of one page of a prefix of `pages` pages: the group and the bytes of each.
    pub fn kept(&self, page: usize, pages: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        let first = move |keep: Keep| keep.first_needed(pages * self.page_tokens, self.page_tokens);
        let kept = self.frames.iter().enumerate().filter(move |(_, (_, keep))| page >= first(*keep));
        kept.map(|(group, &(bytes, _))| (group, bytes))
    }

    /// Bytes of one page of a prefix of `pages` pages; `None` on overflow.
    pub fn page_bytes(&self, page: usize, pages: usize) -> Option<usize> {
        self.kept(page, pages).try_fold(0usize, |sum, (_, bytes)| sum.checked_add(bytes))
    }

    /// Bytes of all of them; `None` on overflow.
    pub fn bytes(&self, pages: usize) -> Option<u64> {
        let tokens = pages.checked_mul(self.page_tokens)?;
        let of_group = |&(bytes, keep): &(usize, Keep)| {
            let kept = pages - keep.first_needed(tokens, self.page_tokens).min(pages);
            (bytes as u64).checked_mul(kept as u64)
        };
        self.frames.iter().map(of_group).try_fold(0u64, |sum, bytes| sum.checked_add(bytes?))
    }
}

/// What all prefixes of an engine have in common.
pub(super) struct Identity {
    pub layout: PrefixLayout,
    /// The description, with an empty `weights_hash`.
    known: Description,
    weights: Weights,
}

/// The weights and, once computed, the hash of their contents.
struct Weights {
    source: Weak<dyn ModelSource>,
    hash: Mutex<Option<u64>>,
}

impl Identity {
    /// The identity of an opened model, without reading its weights. `arch` names the device's instruction set,
    /// `weights` is the weight type that the options chose, and `shapes` are those of the layer groups (their frame
    /// counts are not used).
    pub fn of(
        source: &Arc<dyn ModelSource>,
        info: &Info,
        architecture: &Architecture,
        arch: String,
        weights: Type,
        shapes: Vec<KvShape>,
        longest: LongestContext,
    ) -> Result<Identity> {
        let overflow = || Error::format("config.json describes KV pages larger than this machine can address");
        let frames = shapes.iter().zip(architecture.groups());
        let frames = frames.map(|(s, group)| Ok((s.frame_bytes().ok_or_else(overflow)?, keep_of(&group))));
        let frames = frames.collect::<Result<Vec<(usize, Keep)>>>()?;
        let paged = shapes.iter().find(|s| s.content != FrameContent::State);
        let first =
            paged.or(shapes.first()).ok_or_else(|| Error::format("config.json describes a model without layers"))?;
        let tokenizer = source.tokenizer_json()?;
        let group = |s: &KvShape| GroupShape {
            layers: s.layers as u64,
            kv_heads: s.kv_heads as u64,
            k_dim: s.k_dim as u64,
            v_dim: s.v_dim as u64,
        };
        let known = Description {
            model_type: info.model_type.clone(),
            config_hash: hex(xxh3_64(source.config()?.to_string().as_bytes())),
            weights_hash: String::new(),
            tokenizer_hash: tokenizer.map_or("none".into(), |bytes| hex(xxh3_64(bytes.as_slice()))),
            numerics_version: NUMERICS_VERSION,
            platform: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            device: info.device.name().to_owned(),
            arch,
            compute: format!("{:?}", info.compute).to_lowercase(),
            weights: format!("{weights:?}").to_lowercase(),
            kv: first.dtype.to_string(),
            page_tokens: first.page_tokens as u64,
            rotary_context: architecture.rotary_context as u64,
            groups: shapes.iter().map(group).collect(),
            tokens: 0,
        };
        let (vocab, context) = (info.vocab_size as usize, info.context_length as usize);
        let layout = PrefixLayout { frames, page_tokens: first.page_tokens, vocab, context, longest };
        let weights = Weights { source: Arc::downgrade(source), hash: Mutex::new(None) };
        Ok(Identity { layout, known, weights })
    }

    /// The complete description. The first call for an engine reads all weights.
    ///
    /// # Errors
    /// `Closed` when the engine was closed before its weights were hashed; `Memory` and other errors of the source,
    /// which name the tensor or the file.
    pub fn description(&self) -> Result<Description> {
        Ok(Description { weights_hash: hex(self.weights.hash(&mut || true)?), ..self.known.clone() })
    }

    /// The hash of all weights ([`contents_hash`]); `go_on` returns false to stop. Errors as for
    /// [`Identity::description`].
    pub fn contents(&self, go_on: &mut dyn FnMut() -> bool) -> Result<u64> {
        self.weights.hash(go_on)
    }

    /// Fails with `Mismatch` if a file's description differs in any field but `weights_hash`.
    pub fn compare(&self, file: &Description, shown: &str) -> Result<()> {
        differ(file, &Description { weights_hash: file.weights_hash.clone(), ..self.known.clone() }, shown)
    }

    /// Fails with `Mismatch` if a file's description differs, including the weights. Errors as for
    /// [`Identity::description`].
    pub fn compare_weights(&self, file: &Description, shown: &str) -> Result<()> {
        differ(file, &self.description()?, shown)
    }
}

/// A `Mismatch` error that names the first field that differs, with both values.
fn differ(theirs: &Description, ours: &Description, shown: &str) -> Result<()> {
    let fields = |d: &Description| {
        let d = Description { tokens: 0, ..d.clone() };
        serde_json::to_value(d).map_err(|e| Error::internal(e.to_string()))
    };
    let (theirs, ours) = (fields(theirs)?, fields(ours)?);
    let (Some(theirs), Some(ours)) = (theirs.as_object(), ours.as_object()) else {
        return Err(Error::internal("a description is an object"));
    };
    let Some((name, there)) = theirs.iter().find(|(name, value)| ours.get(*name) != Some(value)) else {
        return Ok(());
    };
    let here = ours.get(name).cloned().unwrap_or_default();
    let message = format!(
        "{shown} was saved by an engine whose {name} is {there}, this engine's is {here}; open the model as it was or save the prefix anew"
    );
    let error = Error::new(Status::Mismatch, message).about(shown);
    Err(match (there.as_u64(), here.as_u64()) {
        (Some(there), Some(here)) => error.numbers(Unit::Count, there, here),
        _ => error,
    })
}

pub(super) fn hex(hash: u64) -> String {
    format!("{hash:016x}")
}

impl Weights {
    /// The hash, computed under the lock, so that two callers do not both read all weights. A failure is not cached.
    fn hash(&self, go_on: &mut dyn FnMut() -> bool) -> Result<u64> {
        let mut hash = lock(&self.hash);
        if let Some(hash) = *hash {
            return Ok(hash);
        }
        let source = self.source.upgrade().ok_or_else(closed)?;
        Ok(*hash.insert(contents_hash(&*source, go_on)?))
    }
}

#[cfg(test)]
mod tests;
