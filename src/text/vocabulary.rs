//! The vocabulary part of a `tokenizer.json`: words to tokens.
//!
//! - The fence: a vocabulary may hold the names of special tokens too (sentencepiece's `</s>`, with the best score there is),
//!   and would give the token for a text that spells the name. So what the vocabulary makes of content is looked through, and
//!   a special token spelled by its own name is taken apart. The unknown token for an unknown word is no such case.
//! - Words of any length ([`mod@super::long_word`] cuts the long ones).
//! - BPE is built here and not by the crate's reader, which gives it a cache in the calling thread that is never
//!   emptied, not even when the tokenizer is dropped; and because the crate's builder panics on merges that make no
//!   token, and cuts a name inside a character for a bad `continuing_subword_prefix`.

use std::collections::HashMap;
use std::fmt;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Deserialize, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use tokenizers::models::ModelWrapper;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::{Model as _, Token};

use super::alphabet;
use super::long_word::LongWords;
use super::output::Output;
use crate::error::{Error, Result, Status};
use crate::json::Tree;
use crate::limits::{CONFIG_TREE_BYTES_MAX, NAME_TREE_MEMORY_FACTOR, WORD_BYTES};
use crate::os::shortage;

/// A vocabulary.
pub(crate) struct Vocabulary {
    pub(crate) model: ModelWrapper,
    /// Special ids that content may not spell, with the names the vocabulary gives them.
    fence: HashMap<u32, String>,
    long: LongWords,
    names: NameStatistics,
}

/// What is found out about the names of a vocabulary, once.
struct NameStatistics {
    /// The longest name, in bytes and in characters.
    longest_bytes: usize,
    longest_characters: usize,
    unique_ids: bool,
    /// All ids, in order.
    ids: Vec<u32>,
}

impl Vocabulary {
    /// The vocabulary of a file.
    pub(crate) fn read(file: ModelFile) -> Result<Vocabulary> {
        let unknown = file.rest.get("unk_id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        Vocabulary::new(read(file)?, unknown)
    }

    fn new(model: ModelWrapper, unknown: Option<u32>) -> Result<Vocabulary> {
        let names = model.get_vocab();
        let mut ids: Vec<u32> = names.values().copied().collect();
        ids.sort_unstable();
        let names = NameStatistics {
            longest_bytes: names.keys().map(String::len).max().unwrap_or(0),
            longest_characters: names.keys().map(|name| name.chars().count()).max().unwrap_or(0),
            unique_ids: ids.windows(2).all(|pair| pair[0] != pair[1]),
            ids,
        };
        let long = LongWords::new(&model, names.longest_bytes, names.unique_ids, unknown)?;
        Ok(Vocabulary { model, fence: HashMap::new(), long, names })
    }

    /// All ids of the vocabulary.
    pub(crate) fn ids(&self) -> &[u32] {
        &self.names.ids
    }

    /// Bytes of the longest name.
    pub(crate) fn longest_name(&self) -> usize {
        self.names.longest_bytes
    }

    /// Keeps content from spelling these tokens.
    pub(crate) fn fence(&mut self, special: impl Iterator<Item = u32>) {
        self.fence = special.filter_map(|id| Some((id, self.model.id_to_token(id)?))).collect();
    }

    /// Appends the tokens of a word. `fenced`: something of it is content.
    ///
    /// # Errors
    /// [`Status::Unsupported`] for characters without a token, and for a word that cannot be cut.
    pub(crate) fn encode(&self, word: &str, fenced: bool, out: &mut Output) -> Result<()> {
        let fenced = fenced && !self.fence.is_empty();
        if word.len() > WORD_BYTES {
            return self
                .long
                .encode(&self.model, word, out, &mut |piece, tokens, out| self.emit(piece, tokens, fenced, out));
        }
        let tokens = self.model.tokenize(word).map_err(no_tokens)?;
        self.emit(word, tokens, fenced, out)?;
        out.worked(word.len())
    }

    fn emit(&self, word: &str, tokens: Vec<Token>, fenced: bool, out: &mut Output) -> Result<()> {
        let tokens = if fenced { self.keep_ordinary(word, tokens).map_err(no_tokens)? } else { tokens };
        tokens.iter().try_for_each(|token| out.push(token.id))
    }

    /// Takes apart every special token that the text spells at its offsets.
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

    /// The most bytes of a text that one token can stand for; none when there is no such number. `byte_level`: the words are
    /// in the byte-level alphabet.
    pub(crate) fn bytes_per_token(&self, byte_level: bool) -> Option<usize> {
        let has = |name: &str| self.model.token_to_id(name).is_some();
        let spells_bytes = (0..=255u8).all(|byte| has(&format!("<{byte:#04X}>")));
        // Content loses the characters of such a name.
        if self.fence.values().any(|name| name.chars().count() == 1) {
            return None;
        }
        let longest = if byte_level { self.names.longest_characters } else { self.names.longest_bytes };
        match &self.model {
            ModelWrapper::BPE(bpe) => {
                let complete = (byte_level && (0..=255u8).all(|byte| has(&alphabet::letter(byte).to_string())))
                    || (bpe.byte_fallback && spells_bytes);
                let unknown = bpe.unk_token.as_ref().filter(|name| has(name) && !bpe.fuse_unk);
                match (complete, unknown) {
                    (true, _) => Some(longest),
                    (false, Some(name)) => Some(longest.max(4) * if name.len() < 4 { 4 } else { 1 }),
                    (false, None) => None,
                }
            }
            ModelWrapper::Unigram(unigram) if unigram.byte_fallback() && spells_bytes => Some(longest),
            _ => None,
        }
    }
}

pub(super) fn no_tokens(error: tokenizers::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(own) => *own,
        Err(e) => Error::new(Status::Unsupported, format!("the tokenizer has no tokens for this text: {e}")),
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
    /// Names and scores in the order of their ids: Unigram.
    Scores(Vec<(String, f64)>),
}

/// What is short in a `model`.
const FIELDS: [&str; 9] = [
    "type",
    "unk_token",
    "unk_id",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "fuse_unk",
    "byte_fallback",
    "ignore_merges",
    "max_input_chars_per_word",
];

crate::json::visited!(ModelFile, ModelVisitor);

impl<'de> Visitor<'de> for ModelVisitor {
    type Value = ModelFile;

    crate::json::expects!("an object with `type`, `vocab` and so on");

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<ModelFile, A::Error> {
        let mut file = ModelFile::default();
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "vocab" => file.vocab = Some(map.next_value()?),
                "merges" => file.merges = map.next_value::<Option<Merges>>()?.map(|merges| merges.0),
                field if FIELDS.contains(&field) => {
                    let Tree::<CONFIG_TREE_BYTES_MAX>(value) = map.next_value()?;
                    file.rest.insert(name, value);
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(file)
    }
}

crate::json::visited!(VocabFile, VocabVisitor);

impl<'de> Visitor<'de> for VocabVisitor {
    type Value = VocabFile;

    crate::json::expects!("a vocabulary");

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<VocabFile, A::Error> {
        Vocab::deserialize(MapAccessDeserializer::new(map)).map(VocabFile::Ids)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> std::result::Result<VocabFile, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(seq)).map(VocabFile::Scores)
    }
}

/// Pairs of names; as "a b" in files before 2024, where a line may be a comment.
struct Merges(Vec<(String, String)>);

crate::json::visited!(Merges, MergesVisitor);

impl<'de> Visitor<'de> for MergesVisitor {
    type Value = Merges;

    crate::json::expects!("a list of merges");

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

crate::json::visited!(Merge, MergeVisitor);

impl<'de> Visitor<'de> for MergeVisitor {
    type Value = Merge;

    crate::json::expects!("a pair of names, or both in one string");

    fn visit_str<E: de::Error>(self, line: &str) -> std::result::Result<Merge, E> {
        Ok(Merge::Line(line.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> std::result::Result<Merge, A::Error> {
        <(String, String)>::deserialize(SeqAccessDeserializer::new(seq)).map(Merge::Pair)
    }
}

/// The model of a file.
fn read(file: ModelFile) -> Result<ModelWrapper> {
    let kind = file.rest.get("type").and_then(Value::as_str);
    if kind == Some("BPE") || (kind.is_none() && file.merges.is_some()) {
        return Ok(ModelWrapper::BPE(read_bpe(file)?));
    }
    let unreadable = |e: &dyn fmt::Display| Error::format(format!("`model` cannot be read: {e}"));
    let ModelFile { vocab, mut rest, .. } = file;
    // The crate's reader for what is short, and then the vocabulary: as a tree of values it would take many times its size.
    let empty = match vocab {
        Some(VocabFile::Ids(_)) => Value::Object(Map::new()),
        Some(VocabFile::Scores(_)) => Value::Array(Vec::new()),
        None => return Err(unreadable(&"missing field `vocab`")),
    };
    let unknown = rest.get("unk_id").and_then(Value::as_u64).and_then(|id| usize::try_from(id).ok());
    // It is checked against the vocabulary, which is not there yet.
    if unknown.is_some() {
        rest.insert("unk_id".into(), Value::Null);
    }
    rest.insert("vocab".into(), empty);
    let model: ModelWrapper = serde_json::from_value(Value::Object(rest)).map_err(|e| unreadable(&e))?;
    Ok(match (model, vocab) {
        (ModelWrapper::Unigram(model), Some(VocabFile::Scores(vocab))) => {
            // The crate makes a tree of the names, with a table for each byte that is in no other name.
            let bytes = vocab.iter().map(|(name, _)| name.len()).fold(0, usize::saturating_add);
            let estimate = bytes.saturating_mul(NAME_TREE_MEMORY_FACTOR);
            let made = || Unigram::from(vocab, unknown, model.byte_fallback()).map_err(|e| unreadable(&e));
            shortage::backed("the names of tokens", estimate, made)??.into()
        }
        (ModelWrapper::WordLevel(model), Some(VocabFile::Ids(vocab))) => {
            WordLevel::builder().vocab(vocab).unk_token(model.unk_token).build().map_err(|e| unreadable(&e))?.into()
        }
        (ModelWrapper::WordPiece(model), Some(VocabFile::Ids(vocab))) => WordPiece::builder()
            .vocab(vocab)
            .unk_token(model.unk_token)
            .continuing_subword_prefix(model.continuing_subword_prefix)
            .max_input_chars_per_word(model.max_input_chars_per_word)
            .build()
            .map_err(|e| unreadable(&e))?
            .into(),
        _ => return Err(unreadable(&"its `vocab` is of another kind than its `type`")),
    })
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
        (Some(VocabFile::Scores(_)), _) => return Err(bad("`vocab` is a list, expected ids by name".into())),
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
