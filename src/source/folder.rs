//! A model folder as Hugging Face lays it out: JSON files beside one or several safetensors files.
//!
//! Opening has two halves: [`Folder::headers`] reads the small files and every safetensors header and checks them;
//! [`Folder::load`] maps the weights (or reads them, where asked). Afterwards only `tokenizer.json` is read, when it is
//! wanted.

use super::bytes::Bytes;
use super::files::{self, kind, quoted};
use super::shard::{Report, Shard, align};
use super::text_files::{self, SpecialTokens};
use super::{ModelSource, TensorInfo};
use crate::error::{Error, Result, Status, Unit};
use crate::limits;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

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
    special_tokens: SpecialTokens,
    chat_template: Option<String>,
    tool_template: Option<String>,
    weights: Option<Weights>,
}

/// All tensors, sorted by name; once loaded, `bytes[i]` belongs to `infos[i]`.
#[derive(Debug, Default)]
struct Weights {
    infos: Vec<TensorInfo>,
    bytes: Vec<Bytes>,
    /// The files, until they are loaded.
    shards: Vec<Shard>,
    stamp: Option<u64>,
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
            let message =
                format!("{subject} has no config.json; it is not a model folder, or its download is incomplete");
            return Err(Error::new(Status::Io, message).about(subject));
        }
        let generation_config = files::read_object(&dir.join("generation_config.json"), limits::CONFIG_BYTES_MAX)?;
        let (special_tokens, chat_template, tool_template) = read_text_files(dir)?;
        let weights = match text_only {
            true => None,
            false => Some(Weights::headers(dir, &subject)?),
        };
        let dir = dir.to_path_buf();
        Ok(Folder { subject, dir, config, generation_config, special_tokens, chat_template, tool_template, weights })
    }

    /// The second half of opening: maps the weights, or with `no_mmap` reads them. `progress` as for [`Folder::open`].
    pub fn load(&mut self, no_mmap: bool, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<()> {
        match &mut self.weights {
            Some(weights) => weights.load(&self.subject, no_mmap, progress),
            None => Ok(()),
        }
    }

    fn weights(&self) -> Result<&Weights> {
        self.weights.as_ref().ok_or_else(|| {
            let message = format!("{} was opened for text only; open it with weights to run the model", self.subject);
            Error::argument(message).about(&self.subject)
        })
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
        Ok(self.special_tokens.clone())
    }

    fn chat_template(&self) -> Result<Option<String>> {
        Ok(self.chat_template.clone())
    }

    fn tool_template(&self) -> Result<Option<String>> {
        Ok(self.tool_template.clone())
    }

    fn tensors(&self) -> Result<&[TensorInfo]> {
        Ok(&self.weights()?.infos)
    }

    fn stamp(&self) -> Option<u64> {
        self.weights.as_ref()?.stamp
    }

    fn tensor(&self, name: &str) -> Result<Option<(TensorInfo, Bytes)>> {
        let weights = self.weights()?;
        let Ok(at) = weights.infos.binary_search_by(|info| info.name.as_str().cmp(name)) else { return Ok(None) };
        let (Some(info), Some(bytes)) = (weights.infos.get(at), weights.bytes.get(at)) else { return Ok(None) };
        Ok(Some((info.clone(), align(bytes, info, &self.subject)?)))
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
        Ok(_) => {
            let message = format!("{subject} is not a folder; name the folder that holds config.json and the weights");
            Err(Error::new(Status::Io, message).about(subject))
        }
        Err(e) => Err(Error::io(format!("cannot open the model folder {subject}"), subject, &e)),
    }
}

/// Special tokens, default template and tool template. `chat_template.jinja` is the newest spelling and wins; the
/// processor's `chat_template.json` is the oldest and comes last.
fn read_text_files(dir: &Path) -> Result<(SpecialTokens, Option<String>, Option<String>)> {
    let mut tokens = SpecialTokens::default();
    let mut objects = Vec::new();
    for name in ["tokenizer_config.json", "special_tokens_map.json", "chat_template.json"] {
        let path = dir.join(name);
        if let Some(object) = files::read_object(&path, limits::CONFIG_BYTES_MAX)? {
            objects.push((path.to_string_lossy().into_owned(), object));
        }
    }
    for (file, object) in &objects {
        tokens.add(object, file)?;
    }
    if let Some(text) = files::read_text(&dir.join("chat_template.jinja"), limits::CONFIG_BYTES_MAX)? {
        return Ok((tokens, Some(text), None));
    }
    for (file, object) in &objects {
        if let Some(text) = text_files::template(object, "default", file)? {
            return Ok((tokens, Some(text), text_files::template(object, "tool_use", file)?));
        }
    }
    Ok((tokens, None, None))
}

impl Weights {
    fn headers(dir: &Path, subject: &str) -> Result<Weights> {
        let shards = if dir.join(SINGLE).symlink_metadata().is_ok() {
            vec![Shard::open(&dir.join(SINGLE))?]
        } else if let Some(index) = files::read_object(&dir.join(INDEX), limits::INDEX_BYTES_MAX)? {
            open_indexed(dir, &index)?
        } else {
            return Err(no_weights(dir, subject));
        };
        check_duplicates(&shards)?;
        let stored = shards.iter().flat_map(|shard| &shard.tensors);
        let mut infos: Vec<TensorInfo> = stored.map(|stored| stored.info.clone()).collect();
        infos.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let stamps: Option<Vec<u64>> = shards.iter().map(Shard::stamp).collect();
        let stamp = stamps.map(|stamps| xxh3_64(format!("{stamps:x?}").as_bytes()));
        Ok(Weights { infos, bytes: Vec::new(), shards, stamp })
    }

    fn load(&mut self, subject: &str, no_mmap: bool, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<()> {
        let shards = std::mem::take(&mut self.shards);
        let total = shards.iter().fold(0, |sum: u64, shard| sum.saturating_add(shard.file_bytes));
        let mut report = Report { done: 0, total, progress, subject };
        report.add(0)?;
        let mut all = Vec::new();
        for shard in shards {
            shard.load(no_mmap, &mut all, &mut report)?;
        }
        all.sort_unstable_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        (self.infos, self.bytes) = all.into_iter().unzip();
        Ok(())
    }
}

/// Opens the files an index names and checks that they hold what it says.
fn open_indexed(dir: &Path, index: &Value) -> Result<Vec<Shard>> {
    let index_path = dir.join(INDEX).to_string_lossy().into_owned();
    let bad = |what: String| Error::format(format!("{index_path}: {what}")).about(index_path.as_str());
    let map = match index.get("weight_map") {
        Some(Value::Object(map)) => map,
        Some(other) => return Err(bad(format!("weight_map is {}; an object is expected", kind(other)))),
        None => return Err(bad("has no weight_map; it names each tensor's file".into())),
    };
    let mut files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, file) in map {
        let Some(file) = file.as_str() else {
            return Err(bad(format!("the file of tensor {} is {}; a string is expected", quoted(tensor), kind(file))));
        };
        files.entry(file).or_default().push(tensor);
    }
    if files.is_empty() {
        return Err(bad("weight_map is empty; it names each tensor's file".into()));
    }
    if files.len() > limits::SHARDS_MAX {
        let message = bad(format!("names {} files, more than {}", files.len(), limits::SHARDS_MAX));
        return Err(message.numbers(Unit::Count, files.len() as u64, limits::SHARDS_MAX as u64));
    }
    let mut shards = Vec::with_capacity(files.len());
    for (name, tensors) in files {
        check_shard_name(name).map_err(|what| bad(format!("names the file {}, {what}", quoted(name))))?;
        let path = dir.join(name);
        if path.symlink_metadata().is_err() {
            let message =
                format!("{index_path} names the file {}, which is not there; download the model again", quoted(name));
            return Err(Error::new(Status::Io, message).about(path.to_string_lossy()));
        }
        let shard = Shard::open(&path)?;
        let mut held: Vec<&str> = shard.tensors.iter().map(|stored| stored.info.name.as_str()).collect();
        held.sort_unstable();
        if let Some(missing) = tensors.iter().find(|tensor| held.binary_search(tensor).is_err()) {
            return Err(bad(format!("says tensor {} is in {}, which does not hold it", quoted(missing), quoted(name))));
        }
        shards.push(shard);
    }
    Ok(shards)
}

/// A file name from an index stays within the folder: plain names only, on every system. (Links are followed: the
/// folder's owner made them.)
fn check_shard_name(name: &str) -> std::result::Result<(), &'static str> {
    if name.contains(['\\', ':', '\0']) {
        return Err("whose name has a character that is not allowed here");
    }
    let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    if name.is_empty() || name.starts_with('/') || !plain {
        return Err("which is not a file name within the folder");
    }
    if !name.ends_with(".safetensors") {
        return Err("which is not a safetensors file");
    }
    Ok(())
}

/// Refuses too many tensors, and a name that several files hold.
fn check_duplicates(shards: &[Shard]) -> Result<()> {
    let mut names: Vec<(&str, &str)> = Vec::new();
    for shard in shards {
        names.extend(shard.tensors.iter().map(|stored| (stored.info.name.as_str(), shard.shown.as_str())));
        if names.len() > limits::TENSORS_MAX {
            let message = format!("{}: the checkpoint has more than {} tensors", shard.shown, limits::TENSORS_MAX);
            return Err(Error::format(message).about(shard.shown.as_str()));
        }
    }
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        None => Ok(()),
        Some(pair) => {
            let ((name, first), (_, second)) = (pair[0], pair[1]);
            let message = format!("tensor {} is in both {first} and {second}; each may stand once", quoted(name));
            Err(Error::format(message).about(second))
        }
    }
}

/// The error for a folder without weights, with a hint at what it has instead.
fn no_weights(dir: &Path, subject: &str) -> Error {
    let other = std::fs::read_dir(dir).ok().and_then(|entries| {
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names
            .filter(|name| [".safetensors", ".bin", ".gguf", ".pth", ".pt"].iter().any(|end| name.ends_with(end)))
            .min()
    });
    let hint = match other {
        Some(name) => format!("it holds {}; convert or rename the weights", quoted(&name)),
        None => "its download is incomplete".to_owned(),
    };
    Error::new(Status::Io, format!("{subject} has neither {SINGLE} nor {INDEX}; {hint}")).about(subject)
}
