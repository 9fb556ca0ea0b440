//! A model folder as Hugging Face lays it out: JSON files beside one or several safetensors files.
//!
//! Opening has two halves: [`Folder::headers`] reads the small files and every safetensors header and checks them;
//! [`Folder::load`] maps the weights (or reads them, where asked). Afterwards only `tokenizer.json` is read, when it is
//! wanted.

use super::bytes::Bytes;
use super::index::{INDEX, open_indexed};
use super::safetensors::Budget;
use super::shard::Shard;
use super::text_files::{NamedTemplate, SpecialTokens, TextFiles};
use super::weight_files::WeightFiles;
use super::{EmbeddingModules, Loadable, ModelSource, TensorInfo, files, foreign};
use crate::error::{Error, Result, Status};
use crate::limits;
use serde_json::Value;
use std::path::{Path, PathBuf};

pub(super) const SINGLE: &str = "model.safetensors";

/// How to open a [`Folder`].
#[derive(Clone, Copy, Debug, Default)]
pub struct FolderOptions {
    /// Read weights into memory instead of mapping the files.
    pub no_mmap: bool,
    /// Tokenizer and template only: neither `config.json` nor weights need to be there, and weights are not looked at.
    pub text_only: bool,
}

/// An open model folder.
#[derive(Debug)]
pub struct Folder {
    subject: String,
    dir: PathBuf,
    config: Option<Value>,
    generation_config: Option<Value>,
    text: TextFiles,
    /// What was wrong with files that are advice, or that are used later.
    warnings: Vec<String>,
    weights: WeightFiles,
}

impl Folder {
    /// Opens the folder `dir`. `progress` is called with bytes of weights done and in all; `false` gives up with
    /// [`Status::Aborted`].
    pub fn open(dir: &Path, options: FolderOptions, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<Folder> {
        let mut folder = Folder::headers(dir, options.text_only)?;
        folder.load(options.no_mmap, progress)?;
        Ok(folder)
    }

    /// The first half of opening: everything but the weights themselves. Tensors have names, types and shapes, but no
    /// bytes yet: [`ModelSource::tensor`] finds none.
    pub fn headers(dir: &Path, text_only: bool) -> Result<Folder> {
        let subject = check_folder(dir)?;
        let config = files::read_object(&dir.join("config.json"), limits::CONFIG_BYTES_MAX)?;
        if config.is_none() && !text_only {
            let message = format!("{subject} has no config.json; {}", foreign::folder_hint(dir));
            return Err(Error::new(Status::Io, message).about(subject));
        }
        let mut warnings = Vec::new();
        let advice = files::read_object(&dir.join("generation_config.json"), limits::CONFIG_BYTES_MAX);
        let generation_config = advice.unwrap_or_else(|e| {
            warnings.push(format!("{e}; the file is not used"));
            None
        });
        let text = TextFiles::read(dir, &mut warnings);
        let weights = match text_only {
            true => WeightFiles::text_only(&subject),
            false => weights(dir, &subject, &mut |line| warnings.push(line))?,
        };
        Ok(Folder { subject, dir: dir.to_path_buf(), config, generation_config, text, warnings, weights })
    }
}

impl Loadable for Folder {
    fn load(&mut self, no_mmap: bool, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<()> {
        self.weights.load(no_mmap, progress)
    }
}

impl ModelSource for Folder {
    fn subject(&self) -> &str {
        &self.subject
    }

    fn config(&self) -> Result<&Value> {
        self.config.as_ref().ok_or_else(|| {
            Error::new(
                Status::Io,
                format!("{} has no config.json; text needs none, running a model does", self.subject),
            )
            .about(&self.subject)
        })
    }

    fn generation_config(&self) -> Result<Option<&Value>> {
        Ok(self.generation_config.as_ref())
    }

    fn tokenizer_json(&self) -> Result<Option<Bytes>> {
        Ok(files::read(&self.dir.join("tokenizer.json"), limits::TOKENIZER_BYTES_MAX)?.map(Bytes::from_vec))
    }

    fn special_tokens(&self) -> Result<SpecialTokens> {
        Ok(self.text.special_tokens.clone())
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn chat_template(&self) -> Result<Option<String>> {
        self.text.chat_template.clone()
    }

    fn chat_template_file(&self) -> &str {
        &self.text.chat_template_file
    }

    fn named_templates(&self) -> &[NamedTemplate] {
        &self.text.named_templates
    }

    fn response_template(&self) -> Option<&serde_json::Value> {
        self.text.response_template.as_ref()
    }

    fn embedding_modules(&self) -> Result<Option<EmbeddingModules>> {
        EmbeddingModules::read(&self.dir)
    }

    fn tensors(&self) -> Result<&[TensorInfo]> {
        self.weights.infos()
    }

    fn stamp(&self) -> Option<u64> {
        self.weights.stamp()
    }

    fn tensor(&self, name: &str) -> Result<Option<(TensorInfo, Bytes)>> {
        self.weights.tensor(name)
    }
}

/// The folder's path as text, once it is known to be a folder.
fn check_folder(dir: &Path) -> Result<String> {
    let shown = dir.to_string_lossy();
    let Some(subject) = dir.to_str() else {
        return Err(
            Error::new(Status::Utf8, format!("the model path {shown} is not UTF-8; rename the folder")).about(shown)
        );
    };
    match std::fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => Ok(subject.to_owned()),
        Ok(_) => Err(foreign::not_a_folder(dir, subject)),
        Err(e) => Err(foreign::no_folder(subject, &e)),
    }
}

/// The files with the weights.
fn weights(dir: &Path, subject: &str, warn: &mut dyn FnMut(String)) -> Result<WeightFiles> {
    if dir.join(SINGLE).symlink_metadata().is_ok() {
        return WeightFiles::new(subject, vec![Shard::open(&dir.join(SINGLE), &mut Budget::default())?]);
    }
    match open_indexed(dir, warn)? {
        Some(shards) => WeightFiles::new(subject, shards),
        None => {
            let message = format!("{subject} has neither {SINGLE} nor {INDEX}; {}", foreign::folder_hint(dir));
            Err(Error::new(Status::Io, message).about(subject))
        }
    }
}
