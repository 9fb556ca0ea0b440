//! A model folder as Hugging Face lays it out: JSON files beside one or several safetensors files.
//!
//! Opening has two halves: [`Folder::headers`] reads the small files and every safetensors header and checks them;
//! [`Folder::load`] maps the weights (or reads them, where asked). Afterwards only `tokenizer.json` is read, when it is
//! wanted.

use super::bytes::Bytes;
use super::files::{self, kind, quoted};
use super::safetensors::{self, PREFIX_BYTES, Stored};
use super::text_files::{self, SpecialTokens};
use super::{ModelSource, TensorInfo};
use crate::error::{Error, Result, Status, Unit};
use crate::limits;
use crate::os::aligned::AlignedBytes;
use crate::os::mmap::Mapping;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Bytes read between two progress reports.
const READ_BYTES: usize = 8 << 20;

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

    fn tensor(&self, name: &str) -> Result<Option<(TensorInfo, Bytes)>> {
        let weights = self.weights()?;
        let Ok(at) = weights.infos.binary_search_by(|info| info.name.as_str().cmp(name)) else { return Ok(None) };
        let (Some(info), Some(bytes)) = (weights.infos.get(at), weights.bytes.get(at)) else { return Ok(None) };
        Ok(Some((info.clone(), align(bytes, info, &self.subject)?)))
    }
}

/// The bytes themselves where they are aligned to their element, else an aligned copy: the format promises no
/// alignment, and kernels read elements.
fn align(bytes: &Bytes, info: &TensorInfo, subject: &str) -> Result<Bytes> {
    if bytes.as_slice().as_ptr().addr().is_multiple_of(info.dtype.size()) {
        return Ok(bytes.clone());
    }
    let mut copy = allocate(bytes.len(), &info.name, subject)?;
    copy.as_mut_slice().copy_from_slice(bytes.as_slice());
    Ok(Bytes::from_aligned(copy))
}

fn allocate(len: usize, tensor: &str, subject: &str) -> Result<AlignedBytes> {
    AlignedBytes::zeroed(len).ok_or_else(|| {
        let message = format!(
            "cannot allocate {len} bytes for tensor {}; map the files instead of reading them, or free memory",
            quoted(tensor)
        );
        Error::new(Status::Memory, message).about(subject).numbers(Unit::Bytes, len as u64, 0)
    })
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

/// A safetensors file whose header has been read and checked. It is not kept open: a checkpoint may have more files
/// than the host may have descriptors.
#[derive(Debug)]
struct Shard {
    path: PathBuf,
    shown: String,
    file_bytes: u64,
    data_begin: u64,
    tensors: Vec<Stored>,
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
        Ok(Weights { infos, bytes: Vec::new(), shards })
    }

    fn load(&mut self, subject: &str, no_mmap: bool, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<()> {
        let shards = std::mem::take(&mut self.shards);
        let total = shards.iter().fold(0, |sum: u64, shard| sum.saturating_add(shard.file_bytes));
        let mut report = Report { done: 0, total, progress, subject };
        report.add(0)?;
        let mut all = Vec::new();
        for shard in shards {
            if no_mmap { shard.read(&mut all, &mut report)? } else { shard.map(&mut all, &mut report)? }
        }
        all.sort_unstable_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        (self.infos, self.bytes) = all.into_iter().unzip();
        Ok(())
    }
}

/// Counts bytes and asks whether to go on.
struct Report<'a> {
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64) -> bool,
    subject: &'a str,
}

impl Report<'_> {
    fn add(&mut self, bytes: u64) -> Result<()> {
        self.done = self.done.saturating_add(bytes).min(self.total);
        if (self.progress)(self.done, self.total) {
            return Ok(());
        }
        let message = format!("loading {} was aborted by the progress callback", self.subject);
        Err(Error::new(Status::Aborted, message).about(self.subject).numbers(Unit::Bytes, self.total, self.done))
    }
}

impl Shard {
    fn open(path: &Path) -> Result<Shard> {
        let shown = path.to_string_lossy().into_owned();
        let Some((mut file, file_bytes)) = files::open(path)? else {
            let message = format!("{shown} is not there; download the model again");
            return Err(Error::new(Status::Io, message).about(shown));
        };
        if file_bytes < PREFIX_BYTES {
            return Err(safetensors::too_short(file_bytes, &shown));
        }
        let failed = |e: std::io::Error| Error::io(format!("cannot read {shown}"), shown.as_str(), &e);
        let mut prefix = [0; 8];
        file.read_exact(&mut prefix).map_err(failed)?;
        let header_bytes = safetensors::header_bytes(prefix, file_bytes, &shown)?;
        let refused = || Error::memory("a safetensors header", header_bytes).about(shown.as_str());
        let len = usize::try_from(header_bytes).map_err(|_| refused())?;
        let mut header = Vec::new();
        header.try_reserve_exact(len).map_err(|_| refused())?;
        header.resize(len, 0);
        file.read_exact(&mut header).map_err(failed)?;
        let data_begin = PREFIX_BYTES + header_bytes;
        let tensors = safetensors::parse_header(&header, file_bytes - data_begin, &shown)?;
        Ok(Shard { path: path.to_path_buf(), shown, file_bytes, data_begin, tensors })
    }

    /// Opens the file again, for its data; it must have the length it had.
    fn reopen(&self) -> Result<File> {
        match files::open(&self.path)? {
            Some((file, bytes)) if bytes == self.file_bytes => Ok(file),
            _ => {
                let message = format!("{} changed while it was being opened; try again", self.shown);
                Err(Error::new(Status::Io, message).about(self.shown.as_str()))
            }
        }
    }

    fn map(self, all: &mut Vec<(TensorInfo, Bytes)>, report: &mut Report<'_>) -> Result<()> {
        let too_large = || Error::memory(format!("mapping {}", self.shown), self.file_bytes).about(self.shown.as_str());
        let len = usize::try_from(self.file_bytes).map_err(|_| too_large())?;
        let mapping = Mapping::new(&self.reopen()?, len).map_err(|e| {
            Error::io(format!("cannot map {}; try opening without mapping", self.shown), self.shown.as_str(), &e)
        })?;
        let mapping = Arc::new(mapping);
        for Stored { info, begin, end } in self.tensors {
            // Begin and end were checked against the file's length.
            let position = |offset: u64| usize::try_from(self.data_begin + offset).ok();
            let range = position(begin).zip(position(end)).map(|(begin, end)| begin..end);
            let bytes = range.and_then(|range| Bytes::mapped(&mapping, range));
            let bytes = bytes.ok_or_else(|| Error::internal(format!("{}: a tensor outside the file", self.shown)))?;
            all.push((info, bytes));
        }
        report.add(self.file_bytes)
    }

    fn read(self, all: &mut Vec<(TensorInfo, Bytes)>, report: &mut Report<'_>) -> Result<()> {
        let failed = |e: std::io::Error| Error::io(format!("cannot read {}", self.shown), self.shown.as_str(), &e);
        let mut file = self.reopen()?;
        file.seek(SeekFrom::Start(self.data_begin)).map_err(failed)?;
        report.add(self.data_begin)?;
        // Tensors follow one another without gaps, in this order.
        for Stored { info, begin, end } in self.tensors {
            let len = usize::try_from(end - begin)
                .map_err(|_| Error::memory(quoted(&info.name), end - begin).about(self.shown.as_str()))?;
            let mut buffer = allocate(len, &info.name, &self.shown)?;
            for chunk in buffer.as_mut_slice().chunks_mut(READ_BYTES) {
                file.read_exact(chunk).map_err(failed)?;
                report.add(chunk.len() as u64)?;
            }
            all.push((info, Bytes::from_aligned(buffer)));
        }
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
