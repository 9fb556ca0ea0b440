//! A model in one GGUF file, or in several that it was split into.
//!
//! The metadata becomes what a folder has in its JSON files ([`config`], [`tokenizer`]), and tensors get the names they have in
//! a checkpoint ([`names`]), so that nothing behind [`ModelSource`] knows where they come from. Blocks of quantized weights stay as
//! they are, where the file is mapped.
//!
//! As with a folder, opening has two halves: [`Gguf::headers`] reads the headers, [`Loadable::load`] maps the weights.

mod architectures;
mod config;
mod embedding;
mod header;
mod hybrids;
mod latent;
mod metadata;
mod names;
mod pre_tokenizers;
mod rows;
mod split;
mod tensor_type;
mod tokenizer;

pub use split::in_folder;

use super::bytes::Bytes;
use super::embedding::EmbeddingModules;
use super::safetensors::{Budget, Stored};
use super::shard::Shard;
use super::text_files::{NamedTemplate, SpecialTokens};
use super::weight_files::WeightFiles;
use super::{Loadable, ModelSource, TensorInfo, files};
use crate::error::{Error, Result, Status, Unit, reserved};
use crate::limits;
use architectures::Architecture;
use config::RotaryFactors;
use embedding::Embedding;
use header::{Fault, Header};
use latent::Joined;
use metadata::Metadata;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use tokenizer::Vocabulary;

/// Bytes of a file that are read first; most headers without a vocabulary are shorter.
const HEADER_BYTES_FIRST: u64 = 1 << 20;
/// A key of the metadata that has the chat template; others follow it with a name.
const TEMPLATE: &str = "tokenizer.chat_template";

/// A model in GGUF files whose headers were read.
#[derive(Debug)]
pub struct Gguf {
    subject: String,
    /// The file with the metadata.
    first: PathBuf,
    config: Option<Value>,
    generation_config: Value,
    special_tokens: SpecialTokens,
    chat_template: Option<String>,
    named_templates: Vec<NamedTemplate>,
    /// See [`ModelSource::adjacent_rotary_pairs`].
    adjacent_pairs: bool,
    /// A `tokenizer.json` beside the file has its tokens and is used.
    sibling_agrees: bool,
    warnings: Vec<String>,
    weights: WeightFiles,
    embedding: Embedding,
    /// Matrices that are made of several tensors.
    joined: Vec<Joined>,
    /// With them what [`ModelSource::tensors`] lists; empty where there are none.
    infos: Vec<TensorInfo>,
}

/// A file whose header was read.
struct Opened {
    file: File,
    path: PathBuf,
    shown: String,
    file_bytes: u64,
    header: Header,
    /// The bytes of the header.
    bytes: Vec<u8>,
}

impl Opened {
    fn metadata(&self) -> Metadata<'_> {
        Metadata { header: &self.header, bytes: &self.bytes, file: &self.shown }
    }
}

/// Whether a file begins as GGUF files do.
pub fn is_gguf(path: &Path) -> bool {
    let mut begin = [0; 4];
    let file = files::open(path).ok().flatten();
    file.is_some_and(|(mut file, _)| file.read_exact(&mut begin).is_ok() && &begin == header::MAGIC)
}

impl Gguf {
    /// The first half of opening: everything but the weights themselves. `path` is a file, of several any.
    ///
    /// # Errors
    /// `Io`, `Format`, `Unsupported`, `Memory`.
    pub fn headers(path: &Path, text_only: bool) -> Result<Gguf> {
        let paths = split::all(path)?;
        let mut budget = Budget::default();
        let mut opened = Vec::new();
        for path in &paths {
            opened.push(open(path, &mut budget)?);
        }
        let first = opened.first().ok_or_else(|| Error::internal("a model of no files"))?;
        split::check(first.metadata(), opened.len())?;
        let metadata = first.metadata();
        let vocabulary = Vocabulary::read(metadata)?;
        let mut gguf = Gguf {
            subject: first.shown.clone(),
            first: first.path.clone(),
            config: None,
            generation_config: generation_config(metadata)?,
            special_tokens: SpecialTokens::default(),
            chat_template: metadata.text(TEMPLATE)?.map(str::to_owned),
            named_templates: named_templates(metadata)?,
            adjacent_pairs: false,
            sibling_agrees: false,
            warnings: Vec::new(),
            weights: WeightFiles::text_only(&first.shown),
            embedding: Embedding::default(),
            joined: Vec::new(),
            infos: Vec::new(),
        };
        for (key, name) in tokenizer::NAMED {
            let text = vocabulary.as_ref().map(|vocabulary| vocabulary.named(key)).transpose()?.flatten();
            gguf.special_tokens.named.extend(text.map(|text| (name.to_owned(), text.to_owned())));
        }
        gguf.sibling_agrees = vocabulary.as_ref().is_some_and(|vocabulary| gguf.uses_sibling(vocabulary));
        drop(vocabulary);
        if !text_only {
            let architecture = architectures::find(&metadata)?;
            let tensors: Vec<&TensorInfo> =
                opened.iter().flat_map(|file| &file.header.tensors).map(|stored| &stored.info).collect();
            let config = architecture.config(metadata, &tensors, rotary_factors(&opened)?)?;
            gguf.adjacent_pairs = architecture.adjacent_pairs;
            gguf.embedding = Embedding::read(metadata, architecture.name, &opened)?;
            gguf.weights = weights(&gguf.subject, opened, architecture, &config)?;
            if architecture.latent {
                gguf.join(&config)?;
            }
            gguf.config = Some(config);
        }
        Ok(gguf)
    }

    /// Lists matrices that have to be put together in place of what they are made of.
    fn join(&mut self, config: &Value) -> Result<()> {
        let stored = self.weights.infos()?;
        let (joined, hidden) = latent::joined(stored, config, &self.subject)?;
        if hidden.is_empty() {
            return Ok(());
        }
        let mut infos = reserved("the list of tensors", stored.len())?;
        infos.extend(stored.iter().filter(|info| hidden.binary_search(&info.name).is_err()).cloned());
        infos.extend(joined.iter().map(|joined| joined.info.clone()));
        infos.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        (self.joined, self.infos) = (joined, infos);
        Ok(())
    }

    /// Whether a `tokenizer.json` beside the file is used: if it can be read and has the file's vocabulary. The file needs none.
    fn uses_sibling(&mut self, vocabulary: &Vocabulary) -> bool {
        let path = self.sibling();
        let why = match files::read(&path, limits::TOKENIZER_BYTES_MAX) {
            Ok(None) => return false,
            Ok(Some(bytes)) => match names_of(&bytes) {
                Some(names) if vocabulary.agrees(&names) => return true,
                Some(_) => "does not have the same tokens".to_owned(),
                None => "cannot be read as a tokenizer".to_owned(),
            },
            Err(error) => format!("cannot be read: {}", error.message),
        };
        let (shown, subject) = (path.to_string_lossy(), &self.subject);
        self.warnings.push(format!("{shown} {why}; the tokenizer of {subject} itself is used"));
        false
    }

    fn sibling(&self) -> PathBuf {
        self.first.with_file_name("tokenizer.json")
    }
}

impl Loadable for Gguf {
    fn load(&mut self, no_mmap: bool, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<()> {
        self.weights.load(no_mmap, progress)
    }
}

impl ModelSource for Gguf {
    fn subject(&self) -> &str {
        &self.subject
    }

    fn config(&self) -> Result<&Value> {
        self.config.as_ref().ok_or_else(|| {
            let message = format!("{} was opened for text only; open it with weights to run the model", self.subject);
            Error::argument(message).about(&self.subject)
        })
    }

    fn generation_config(&self) -> Result<Option<&Value>> {
        Ok(Some(&self.generation_config))
    }

    fn tokenizer_json(&self) -> Result<Option<Bytes>> {
        let opened = open(&self.first, &mut Budget::default())?;
        let Some(vocabulary) = Vocabulary::read(opened.metadata())? else { return Ok(None) };
        if self.sibling_agrees
            && let Ok(Some(sibling)) = files::read(&self.sibling(), limits::TOKENIZER_BYTES_MAX)
        {
            return Ok(Some(Bytes::from_vec(sibling)));
        }
        if let Some(own) = opened.metadata().text("tokenizer.huggingface.json")?
            && names_of(own.as_bytes()).is_some_and(|names| vocabulary.agrees(&names))
        {
            return Ok(Some(Bytes::from_vec(own.as_bytes().to_vec())));
        }
        let json = serde_json::to_vec(&vocabulary.json()?);
        let json =
            json.map_err(|e| Error::internal(format!("{}: its tokenizer cannot be written: {e}", self.subject)))?;
        Ok(Some(Bytes::from_vec(json)))
    }

    fn special_tokens(&self) -> Result<SpecialTokens> {
        Ok(self.special_tokens.clone())
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn chat_template(&self) -> Result<Option<String>> {
        Ok(self.chat_template.clone())
    }

    fn named_templates(&self) -> &[NamedTemplate] {
        &self.named_templates
    }

    fn embedding_modules(&self) -> Result<Option<EmbeddingModules>> {
        self.embedding.modules(&self.subject)
    }

    fn tensors(&self) -> Result<&[TensorInfo]> {
        if self.infos.is_empty() { self.weights.infos() } else { Ok(&self.infos) }
    }

    fn stamp(&self) -> Option<u64> {
        self.weights.stamp()
    }

    fn tensor(&self, name: &str) -> Result<Option<(TensorInfo, Bytes)>> {
        let Some(joined) = self.joined.iter().find(|joined| joined.info.name == name) else {
            return self.weights.tensor(name);
        };
        let parts = self.weights.tensor(&joined.keys.name)?.zip(self.weights.tensor(&joined.values.name)?);
        let Some(((_, keys), (_, values))) = parts else { return Ok(None) };
        let made = joined.make(keys.as_slice(), values.as_slice())?;
        keys.release();
        values.release();
        Ok(Some((joined.info.clone(), Bytes::from_aligned(made))))
    }

    fn is_made(&self, name: &str) -> bool {
        self.joined.iter().any(|joined| joined.info.name == name)
    }

    fn adjacent_rotary_pairs(&self) -> bool {
        self.adjacent_pairs
    }

    fn whole_gains(&self) -> bool {
        true
    }
}

/// Opens a file and reads its header, within what those of a model may take.
fn open(path: &Path, budget: &mut Budget) -> Result<Opened> {
    let shown = path.to_string_lossy().into_owned();
    let Some((mut file, file_bytes)) = files::open(path)? else {
        let message = format!("{shown} is not there; download the model again");
        return Err(Error::new(Status::Io, message).about(shown));
    };
    let mut bytes = Vec::new();
    let mut wanted = HEADER_BYTES_FIRST;
    loop {
        let len = wanted.min(file_bytes);
        let more = usize::try_from(len).unwrap_or(usize::MAX).saturating_sub(bytes.len());
        bytes.try_reserve_exact(more).map_err(|_| Error::memory("a GGUF header", len).about(shown.as_str()))?;
        let read = file.by_ref().take(more as u64).read_to_end(&mut bytes);
        read.map_err(|e| Error::io(format!("cannot read {shown}"), shown.as_str(), &e))?;
        match header::parse(&bytes, file_bytes, &shown, budget.tensors) {
            Ok(header) => {
                budget.tensors -= header.tensors.len().min(budget.tensors);
                budget.take_header(header.data_begin, &shown)?;
                bytes.truncate(usize::try_from(header.data_begin).unwrap_or(usize::MAX));
                bytes.shrink_to_fit();
                return Ok(Opened { file, path: path.to_path_buf(), shown, file_bytes, header, bytes });
            }
            Err(Fault::Wrong(error)) => return Err(error),
            Err(Fault::Longer) if len < file_bytes && wanted < limits::GGUF_HEADER_BYTES_MAX => {
                wanted = wanted.saturating_mul(4)
            }
            Err(Fault::Longer) => {
                let (needed, most) = (file_bytes, limits::GGUF_HEADER_BYTES_MAX);
                let message = match len < file_bytes {
                    true => format!("{shown}: its header is longer than the {most} bytes that are read"),
                    false => {
                        format!("{shown}: its header goes on after its end; the file is cut off, download it again")
                    }
                };
                return Err(Error::format(message).about(shown).numbers(Unit::Bytes, needed, most));
            }
        }
    }
}

/// The divisors of rotary frequencies that the files have as tensors.
fn rotary_factors(opened: &[Opened]) -> Result<RotaryFactors> {
    let [all, long, short] = RotaryFactors::NAMES.map(|name| factors(opened, name));
    Ok(RotaryFactors { all: all?, long: long?, short: short? })
}

/// The contents of a tensor of a few f32 above 0, if it is there.
fn factors(opened: &[Opened], name: &str) -> Result<Option<Vec<f32>>> {
    for of in opened {
        let Some(stored) = of.header.tensors.iter().find(|stored| stored.info.name == name) else { continue };
        let fault =
            |what: String| Error::format(format!("{}: tensor {name} {what}", of.shown)).about(of.shown.as_str());
        let (dtype, shape) = (stored.info.dtype, &stored.info.shape);
        match shape.as_slice() {
            &[count] if dtype == crate::dtype::DType::F32 && count <= limits::HEAD_DIM_MAX => {}
            _ => return Err(fault(format!("is {dtype} of shape {shape:?}, expected a few f32"))),
        }
        let mut bytes = vec![0; usize::try_from(stored.end - stored.begin).unwrap_or(0)];
        let mut file = &of.file;
        let read = file.seek(SeekFrom::Start(of.header.data_begin.saturating_add(stored.begin)));
        let read = read.and_then(|_| file.read_exact(&mut bytes));
        read.map_err(|e| Error::io(format!("cannot read {}", of.shown), of.shown.as_str(), &e))?;
        let factors: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        if factors.iter().any(|factor| !factor.is_normal() || *factor < 0.0) {
            return Err(fault("holds what is no number above 0".to_owned()));
        }
        return Ok(Some(factors));
    }
    Ok(None)
}

/// The weights of all files, under the names they have in a checkpoint.
fn weights(subject: &str, opened: Vec<Opened>, architecture: &Architecture, config: &Value) -> Result<WeightFiles> {
    let mut shards = Vec::new();
    for Opened { file, path, shown, file_bytes, header, .. } in opened {
        // They are read otherwise.
        let apart = |name: &str| RotaryFactors::NAMES.contains(&name) || embedding::DENSE.contains(&name);
        let tensors = header.tensors.into_iter().filter(|stored| !apart(&stored.info.name)).collect();
        let tensors: Vec<Stored> = architecture.tensors(tensors, config, &shown)?;
        shards.push(Shard::of(&file, path, file_bytes, header.data_begin, tensors));
    }
    WeightFiles::new(subject, shards)
}

/// What `generation_config.json` would say: the tokens that end an answer, and recommended sampling.
fn generation_config(metadata: Metadata) -> Result<Value> {
    let mut config = Map::new();
    let mut ends = Vec::new();
    for key in tokenizer::ENDS {
        ends.extend(metadata.whole(key)?);
    }
    config.insert("eos_token_id".into(), ends.into());
    if let Some(bos) = metadata.whole("tokenizer.ggml.bos_token_id")? {
        config.insert("bos_token_id".into(), bos.into());
    }
    for (key, to) in [
        ("general.sampling.temp", "temperature"),
        ("general.sampling.top_k", "top_k"),
        ("general.sampling.top_p", "top_p"),
        ("general.sampling.min_p", "min_p"),
        ("general.sampling.penalty_repeat", "repetition_penalty"),
    ] {
        let Some(number) = metadata.number(key)? else { continue };
        let whole = number.fract() == 0.0 && (0.0..1e9).contains(&number);
        config.insert(to.into(), if whole { (number as u64).into() } else { json!(number as f32) });
        config.insert("do_sample".into(), true.into());
    }
    Ok(Value::Object(config))
}

/// Templates under other names than the usual one.
fn named_templates(metadata: Metadata) -> Result<Vec<NamedTemplate>> {
    let begin = format!("{TEMPLATE}.");
    let mut all = Vec::new();
    for (key, _) in &metadata.header.metadata {
        if let (Some(name), Some(text)) = (key.strip_prefix(&begin), metadata.text(key).unwrap_or(None)) {
            if all.len() == limits::NAMED_TEMPLATES_MAX {
                break;
            }
            let (name, file) = (name.to_owned(), metadata.file.to_owned());
            all.push(NamedTemplate { name, file, text: Ok(text.to_owned()) });
        }
    }
    Ok(all)
}

/// Names and ids of a `tokenizer.json`; `None` when it cannot be read.
fn names_of(json: &[u8]) -> Option<HashMap<String, u32>> {
    #[derive(Deserialize)]
    struct File {
        model: Model,
        #[serde(default)]
        added_tokens: Vec<Added>,
    }
    #[derive(Deserialize)]
    struct Model {
        vocab: HashMap<String, u32>,
    }
    #[derive(Deserialize)]
    struct Added {
        id: u32,
        content: String,
    }
    let File { model: Model { vocab: mut names }, added_tokens } = serde_json::from_slice(json).ok()?;
    names.extend(added_tokens.into_iter().map(|token| (token.content, token.id)));
    Some(names)
}
