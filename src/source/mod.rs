//! Where a model comes from. [`ModelSource`] hides whether it is a folder of safetensors, a GGUF file or random numbers.
//!
//! Everything here is hostile until checked: sizes are compared with [`crate::limits`] before memory is asked for,
//! and what a [`ModelSource`] lists is safe to slice: each tensor's bytes are exactly its shape times its type. Whether
//! names and shapes make a model is for `model` to say. Called by the engine while it opens, on one thread.

mod bytes;
mod contents;
mod embedding;
mod files;
mod folder;
mod foreign;
mod generation;
mod gguf;
mod index;
mod json;
pub mod safetensors;
mod shard;
mod synthetic;
mod tensor_file;
mod text_files;
mod weight_files;

pub use bytes::Bytes;
pub use contents::{contents_hash, sample_hash};
pub use embedding::{DenseModule, EmbeddingModule, EmbeddingModules, Pooling};
pub use folder::{Folder, FolderOptions};
pub use generation::GenerationDefaults;
pub use gguf::Gguf;
pub use synthetic::Synthetic;
pub use tensor_file::TensorFile;
pub use text_files::{NamedTemplate, SpecialTokens};

use crate::backend::RandomWeight;
use crate::dtype::DType;
use crate::error::Result;
use std::path::Path;

/// Name, type and shape of a stored tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Name in the checkpoint.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Length of each dimension, outermost first; the product fits a `usize`. Empty for a scalar.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// The tensor of this name in a list that is sorted by name.
    pub fn find<'a>(sorted: &'a [TensorInfo], name: &str) -> Option<&'a TensorInfo> {
        sorted.binary_search_by(|info| info.name.as_str().cmp(name)).ok().and_then(|at| sorted.get(at))
    }
}

/// A model at rest. Errors name the file and what to do about it.
pub trait ModelSource: Send + Sync {
    /// The path, for messages.
    fn subject(&self) -> &str;
    /// `config.json`, an object. An error when there is none (sources opened for text only).
    fn config(&self) -> Result<&serde_json::Value>;
    /// `generation_config.json`, an object.
    fn generation_config(&self) -> Result<Option<&serde_json::Value>>;
    /// `tokenizer.json` as stored; `None` when the source has none. Read anew by each call.
    fn tokenizer_json(&self) -> Result<Option<Bytes>>;
    /// Special tokens by the names chat templates use.
    fn special_tokens(&self) -> Result<SpecialTokens>;
    /// What was found wrong with files that are advice or come into use later, one sentence each; what they would have said
    /// is left out.
    fn warnings(&self) -> &[String] {
        &[]
    }
    /// The chat template, if any; where there are several by name, the one named `default`. An error says why the file that
    /// should have it cannot be read: it matters to those who want to use it.
    fn chat_template(&self) -> Result<Option<String>>;
    /// The file that has the chat template.
    fn chat_template_file(&self) -> &str {
        self.subject()
    }
    /// Templates that go by other names. The one named `tool_use` is for prompts with tools, as in transformers.
    fn named_templates(&self) -> &[NamedTemplate] {
        &[]
    }
    /// How the model writes its answers, as `tokenizer_config.json` says it (see [`crate::constrain::answer`]); unchecked.
    fn response_template(&self) -> Option<&serde_json::Value> {
        None
    }
    /// How embeddings are made of hidden states, as the files of sentence-transformers say it; `None` where there are none.
    /// Read anew by each call. An error matters to those who want embeddings.
    fn embedding_modules(&self) -> Result<Option<EmbeddingModules>> {
        Ok(None)
    }
    /// All tensors, by name in ascending order.
    fn tensors(&self) -> Result<&[TensorInfo]>;
    /// A number that is another one when the files of the weights were written since, as far as the system tells without
    /// reading them; copies have others. `None` when it does not, there are no files, or they were written just now.
    fn stamp(&self) -> Option<u64> {
        None
    }
    /// Whether rows of query and key heads are stored so that elements that rotate together are adjacent, whatever the family
    /// has in its checkpoints.
    fn adjacent_rotary_pairs(&self) -> bool {
        false
    }
    /// Whether the gains of norms are stored whole, also of families whose checkpoints have one less than them.
    fn whole_gains(&self) -> bool {
        false
    }
    /// Of a tensor of random numbers about zero whose bytes nobody needs, what it is made of: a device may make it itself.
    fn random(&self, name: &str) -> Option<RandomWeight> {
        let _ = name;
        None
    }
    /// Whether a tensor is made when it is asked for, in memory of its own, of what the files have.
    fn is_made(&self, name: &str) -> bool {
        let _ = name;
        false
    }
    /// One tensor with its bytes: little-endian, row-major, and aligned to the element size. A tensor that lies
    /// misaligned in a mapped file is copied, by each call.
    fn tensor(&self, name: &str) -> Result<Option<(TensorInfo, Bytes)>>;
}

/// A source whose headers were read, and whose weights are not loaded yet: tensors have names, types and shapes, but
/// [`ModelSource::tensor`] finds none.
pub trait Loadable: ModelSource {
    /// Maps the weights, or with `no_mmap` reads them. `progress` is called with bytes of weights done and in all; `false`
    /// gives up with [`Status::Aborted`](crate::Status::Aborted).
    fn load(&mut self, no_mmap: bool, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<()>;
}

/// Reads the headers of the model at `path`: a folder of safetensors, a GGUF file, or a folder that holds one and no other
/// weights. `text_only`: tokenizer and template only, weights are not looked at.
///
/// # Errors
/// Those of [`Folder::headers`] and [`Gguf::headers`].
pub fn headers(path: &Path, text_only: bool) -> Result<Box<dyn Loadable>> {
    let has = |name: &str| path.join(name).symlink_metadata().is_ok();
    let own = has(folder::SINGLE) || has(index::INDEX) || text_only && has("tokenizer.json");
    let file = match path.is_file() {
        true => Some(path.to_path_buf()).filter(|path| gguf::is_gguf(path)),
        false if own => None,
        false => gguf::in_folder(path)?,
    };
    match file {
        Some(file) => Ok(Box::new(Gguf::headers(&file, text_only)?)),
        None => Ok(Box::new(Folder::headers(path, text_only)?)),
    }
}

/// As [`headers`], with the weights.
///
/// # Errors
/// Those of [`headers`] and [`Loadable::load`].
pub fn open(
    path: &Path,
    options: FolderOptions,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Box<dyn Loadable>> {
    let mut source = headers(path, options.text_only)?;
    source.load(options.no_mmap, progress)?;
    Ok(source)
}
