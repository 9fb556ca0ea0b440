//! The vocabulary part of a `tokenizer.json`, shared by the two encoders of a [`super::Tokenizer`].
//!
//! - One vocabulary, two encoders: whether the names of special tokens are recognised is a switch inside the crate's
//!   tokenizer, which cannot be turned for one call. The two encoders hold the vocabulary by `Arc`, so the second
//!   costs its added tokens and nothing else (a vocabulary of 151k tokens and its merges is tens of MB).
//! - [`Shared::fence`]: the switch only keeps the crate from looking for special names in the text. A vocabulary that
//!   holds the names too (sentencepiece's `</s>`, with the best score there is) would still give the token. So what
//!   the vocabulary makes of ordinary text is looked through, and a special token spelled by its own name is taken
//!   apart. The unknown token for an unknown word is no such case.
//! - BPE is built here and not by the crate's reader, which gives it a cache in the calling thread that is never
//!   emptied, not even when the tokenizer is dropped; and because the crate's builder panics on merges that make no
//!   token, and cuts a name inside a character for a bad `continuing_subword_prefix`.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::{Model, Token};

use crate::error::{Error, Result};

/// A vocabulary that several tokenizers hold.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) model: Arc<ModelWrapper>,
    /// Special ids that ordinary text may not spell, with the names the vocabulary gives them.
    pub(crate) fence: Arc<HashMap<u32, String>>,
}

impl Shared {
    pub(crate) fn new(model: ModelWrapper) -> Shared {
        Shared { model: Arc::new(model), fence: Arc::default() }
    }

    /// The same vocabulary for text in which special tokens have no names.
    pub(crate) fn fenced(&self, special: impl Iterator<Item = u32>) -> Shared {
        let names = special.filter_map(|id| Some((id, self.model.id_to_token(id)?)));
        Shared { model: Arc::clone(&self.model), fence: Arc::new(names.collect()) }
    }

    /// The second half of `tokenize`: takes apart every special token that the text spells at its offsets.
    fn keep_ordinary(&self, sequence: &str, tokens: Vec<Token>) -> tokenizers::Result<Vec<Token>> {
        let spelled = |token: &Token| {
            self.fence.get(&token.id).is_some_and(|n| sequence.get(token.offsets.0..token.offsets.1) == Some(n))
        };
        if !tokens.iter().any(spelled) {
            return Ok(tokens);
        }
        let mut ordinary = Vec::with_capacity(tokens.len() + 8);
        for token in tokens {
            if !spelled(&token) {
                ordinary.push(token);
                continue;
            }
            // Character by character, which spells no name; one of a single character has no other spelling, and
            // is left out.
            let name = sequence.get(token.offsets.0..token.offsets.1).unwrap_or_default();
            for (at, c) in name.char_indices() {
                let letter = &name[at..at + c.len_utf8()];
                for mut part in self.model.tokenize(letter)? {
                    if self.fence.get(&part.id).is_some_and(|n| n == letter) {
                        continue;
                    }
                    let from = token.offsets.0 + at;
                    part.offsets = (from + part.offsets.0, from + part.offsets.1);
                    ordinary.push(part);
                }
            }
        }
        Ok(ordinary)
    }
}

impl Model for Shared {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, sequence: &str) -> tokenizers::Result<Vec<Token>> {
        let tokens = self.model.tokenize(sequence)?;
        if self.fence.is_empty() { Ok(tokens) } else { self.keep_ordinary(sequence, tokens) }
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.model.token_to_id(token)
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.model.id_to_token(id)
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        self.model.get_vocab()
    }

    fn get_vocab_size(&self) -> usize {
        self.model.get_vocab_size()
    }

    fn save(&self, folder: &Path, prefix: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        self.model.save(folder, prefix)
    }

    fn get_trainer(&self) -> TrainerWrapper {
        self.model.get_trainer()
    }
}

/// The `model` of a tokenizer file as it stands there. What is long is read into its own type at once: as a tree of values,
/// 151k names and as many merges take longer than all the rest of a tokenizer.
#[derive(Default)]
pub(crate) struct ModelFile {
    vocab: Option<VocabFile>,
    merges: Option<Vec<(String, String)>>,
    rest: Map<String, Value>,
}

enum VocabFile {
    /// Ids by name: BPE, WordPiece, WordLevel.
    Ids(Vocab),
    /// Anything else: Unigram's list of names and scores.
    Other(Value),
}

impl<'de> Deserialize<'de> for ModelFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(ModelVisitor)
    }
}

struct ModelVisitor;

impl<'de> Visitor<'de> for ModelVisitor {
    type Value = ModelFile;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `type`, `vocab` and so on")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<ModelFile, A::Error> {
        let mut file = ModelFile::default();
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "vocab" => file.vocab = Some(map.next_value()?),
                "merges" => file.merges = map.next_value::<Option<Merges>>()?.map(|merges| merges.0),
                _ => drop(file.rest.insert(name, map.next_value()?)),
            }
        }
        Ok(file)
    }
}

impl<'de> Deserialize<'de> for VocabFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(VocabVisitor)
    }
}

struct VocabVisitor;

impl<'de> Visitor<'de> for VocabVisitor {
    type Value = VocabFile;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a vocabulary")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<VocabFile, A::Error> {
        Vocab::deserialize(MapAccessDeserializer::new(map)).map(VocabFile::Ids)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> std::result::Result<VocabFile, A::Error> {
        Value::deserialize(SeqAccessDeserializer::new(seq)).map(VocabFile::Other)
    }
}

/// Pairs of names; as "a b" in files before 2024, where a line may be a comment.
struct Merges(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_seq(MergesVisitor)
    }
}

struct MergesVisitor;

impl<'de> Visitor<'de> for MergesVisitor {
    type Value = Merges;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of merges")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Merges, A::Error> {
        let mut merges = Vec::new();
        while let Some(merge) = seq.next_element()? {
            match merge {
                Merge::Pair(pair) => merges.push(pair),
                Merge::Line(line) if line.starts_with("#version") => {}
                Merge::Line(line) => merges.push(split_merge(&line).map_err(de::Error::custom)?),
            }
        }
        Ok(Merges(merges))
    }
}

enum Merge {
    Pair((String, String)),
    Line(String),
}

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(MergeVisitor)
    }
}

struct MergeVisitor;

impl<'de> Visitor<'de> for MergeVisitor {
    type Value = Merge;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a pair of names, or both in one string")
    }

    fn visit_str<E: de::Error>(self, line: &str) -> std::result::Result<Merge, E> {
        Ok(Merge::Line(line.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> std::result::Result<Merge, A::Error> {
        <(String, String)>::deserialize(SeqAccessDeserializer::new(seq)).map(Merge::Pair)
    }
}

/// The model of a file.
pub(crate) fn read(file: ModelFile) -> Result<ModelWrapper> {
    let kind = file.rest.get("type").and_then(Value::as_str);
    if kind == Some("BPE") || (kind.is_none() && file.merges.is_some()) {
        return Ok(ModelWrapper::BPE(read_bpe(file)?));
    }
    let unreadable = |e: serde_json::Error| Error::format(format!("`model` cannot be read: {e}"));
    let ModelFile { vocab, mut rest, .. } = file;
    let vocab = match vocab {
        Some(VocabFile::Ids(vocab)) => Some(serde_json::to_value(vocab).map_err(unreadable)?),
        Some(VocabFile::Other(vocab)) => Some(vocab),
        None => None,
    };
    if let Some(vocab) = vocab {
        rest.insert("vocab".into(), vocab);
    }
    serde_json::from_value(Value::Object(rest)).map_err(unreadable)
}

/// What a BPE file says beside its vocabulary and merges. `dropout` makes encoding random, for training; a served prompt has
/// one encoding.
#[derive(serde::Deserialize)]
struct BpeOptions {
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
}

fn read_bpe(file: ModelFile) -> Result<BPE> {
    let bad = |what: String| Error::format(format!("the BPE `model` cannot be read: {what}"));
    let (vocab, merges) = match (file.vocab, file.merges) {
        (Some(VocabFile::Ids(vocab)), Some(merges)) => (vocab, merges),
        (Some(VocabFile::Other(_)), _) => return Err(bad("`vocab` is a list, expected ids by name".into())),
        (None, _) => return Err(bad("missing field `vocab`".into())),
        (_, None) => return Err(bad("missing field `merges`".into())),
    };
    let file: BpeOptions = serde_json::from_value(Value::Object(file.rest)).map_err(|e| bad(e.to_string()))?;
    let prefix = file.continuing_subword_prefix.as_deref().unwrap_or_default();
    let mut joined = String::new();
    for (left, right) in &merges {
        let known = vocab.contains_key(left) && vocab.contains_key(right);
        joined.clear();
        joined.push_str(left);
        joined.push_str(right.strip_prefix(prefix).unwrap_or_default());
        if !known || !right.starts_with(prefix) || !vocab.contains_key(&joined) {
            return Err(Error::format(format!(
                "the merge {left:?} + {right:?} needs both and {joined:?} in the vocabulary; one is missing"
            )));
        }
    }
    let mut builder = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .cache_capacity(0)
        .fuse_unk(file.fuse_unk.unwrap_or(false))
        .byte_fallback(file.byte_fallback.unwrap_or(false))
        .ignore_merges(file.ignore_merges.unwrap_or(false));
    if let Some(token) = file.unk_token {
        builder = builder.unk_token(token);
    }
    if let Some(prefix) = file.continuing_subword_prefix {
        builder = builder.continuing_subword_prefix(prefix);
    }
    if let Some(suffix) = file.end_of_word_suffix {
        builder = builder.end_of_word_suffix(suffix);
    }
    builder.build().map_err(|e| Error::format(format!("the BPE `model` cannot be built: {e}")))
}

fn split_merge(line: &str) -> Result<(String, String)> {
    match line.split_once(' ') {
        Some((left, right)) if !right.contains(' ') => Ok((left.to_owned(), right.to_owned())),
        _ => Err(Error::format(format!("the merge {line:?} is not two names with a space between"))),
    }
}
