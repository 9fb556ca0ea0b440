//! What a saved prefix must have in common with the engine that restores it: everything that decides the bits of a page.
//!
//! Most of it is known when the engine opens. The contents of the weights are not looked at then: opening maps a checkpoint
//! and reads little of it. They are hashed, all bytes of all tensors, when the first prefix is saved or restored, on the thread
//! of that caller, and the hash is kept. Who comes meanwhile waits for it.
//!
//! The engine thread's [`super::model_runner::ModelRunner`] owns the source, so that a closed engine lets its weights go, whoever still
//! has the identity. The source shares its bytes with the backend: keeping it takes no memory of its own.

use super::api::{Info, Type};
use super::delivery::{closed, lock};
use super::plan::LongestContext;
use crate::backend::{KvShape, NUMERICS_VERSION};
use crate::error::{Error, Result, Status, Unit};
use crate::model::architecture::Architecture;
use crate::source::{ModelSource, contents_hash};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, Weak};
use xxhash_rust::xxh3::xxh3_64;

/// What decides the bits of a page. Its fields are those of a prefix file: a message names them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Description {
    pub model_type: String,
    pub config_hash: String,
    /// Names, types, shapes and contents of all tensors.
    pub weights_hash: String,
    pub tokenizer_hash: String,
    pub numerics_version: u32,
    pub platform: String,
    pub device: String,
    /// The CPU's tier, or the GPU's architecture.
    pub arch: String,
    pub compute: String,
    pub weights: String,
    pub kv: String,
    pub page_tokens: u64,
    /// The context that the rotary frequencies were chosen for; 0 where they are the same for every context.
    #[serde(default)]
    pub rotary_context: u64,
    pub groups: Vec<GroupShape>,
    /// Not part of the identity.
    pub tokens: u64,
}

/// One layer group's part of a page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupShape {
    pub layers: u64,
    pub kv_heads: u64,
    pub k_dim: u64,
    pub v_dim: u64,
}

/// How pages lie in memory, and which tokens they may hold.
#[derive(Clone, Debug)]
pub(super) struct PrefixLayout {
    /// Of a page's frame, for each layer group.
    pub frame_bytes: Vec<usize>,
    pub page_tokens: usize,
    pub vocab: usize,
    pub context: usize,
    /// The longest that an engine of the model could be opened with.
    pub longest: LongestContext,
}

impl PrefixLayout {
    /// Bytes of one page, all layer groups; `None` when that overflows.
    pub fn page_bytes(&self) -> Option<usize> {
        self.frame_bytes.iter().try_fold(0usize, |sum, &bytes| sum.checked_add(bytes))
    }
}

/// What the prefixes of an engine have in common.
pub(super) struct Identity {
    pub layout: PrefixLayout,
    /// With an empty `weights_hash`.
    known: Description,
    weights: Weights,
}

/// The contents of the weights.
struct Weights {
    source: Weak<dyn ModelSource>,
    hash: Mutex<Option<u64>>,
}

impl Identity {
    /// Looks at a model and what the options made of it, but not at its weights. `shapes` are the layer groups'; their frame
    /// counts are not used.
    /// `arch` names the device's instructions.
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
        let frame_bytes =
            shapes.iter().map(|s| s.frame_bytes().ok_or_else(overflow)).collect::<Result<Vec<usize>>>()?;
        let first = shapes.first().ok_or_else(|| Error::format("config.json describes a model without layers"))?;
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
            device: format!("{:?}", info.device).to_lowercase(),
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
        let layout = PrefixLayout { frame_bytes, page_tokens: first.page_tokens, vocab, context, longest };
        let weights = Weights { source: Arc::downgrade(source), hash: Mutex::new(None) };
        Ok(Identity { layout, known, weights })
    }

    /// The whole description. The first call reads all weights, once for the engine.
    ///
    /// # Errors
    /// `Closed` when the engine let its weights go before they were hashed; `Memory` and others of the source, which name the
    /// tensor or the file.
    pub fn description(&self) -> Result<Description> {
        Ok(Description { weights_hash: hex(self.weights.hash(&mut || true)?), ..self.known.clone() })
    }

    /// The hash of all weights: [`contents_hash`]. Errors as of [`Identity::description`].
    pub fn contents(&self, go_on: &mut dyn FnMut() -> bool) -> Result<u64> {
        self.weights.hash(go_on)
    }

    /// Says in which point a file's description is of something else, as far as that is known without the weights.
    pub fn compare(&self, file: &Description, shown: &str) -> Result<()> {
        differ(file, &Description { weights_hash: file.weights_hash.clone(), ..self.known.clone() }, shown)
    }

    /// Says whether a file's description is of other weights. Errors as of [`Identity::description`], and `Mismatch`.
    pub fn compare_weights(&self, file: &Description, shown: &str) -> Result<()> {
        differ(file, &self.description()?, shown)
    }
}

/// An error that names the first difference.
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
    /// Computed under the lock, so that two callers do not both read everything. A failure is not kept.
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
