//! Text to token ids and back, from a `tokenizer.json`.
//!
//! One [`Tokenizer`] serves all requests and all threads. Encoding is a chain of rooms that hand on one part of the text at a
//! time: added tokens ([`mod@super::added`]), normalizer, added tokens whose names are normalized, pre-tokenizer, vocabulary
//! ([`mod@super::vocabulary`]), post-processor. The tokens are the `tokenizers` crate's, which reads the file and does the steps
//! themselves; the chain is ours, because the crate makes lists of everything, a hundred times the text, cannot be stopped, and
//! cannot be told which parts of a text are content. Truncation and padding that a file asks for are left out: a prompt is
//! encoded as it is, or refused for its length.
//!
//! Special tokens in content ([`MarkedText`]): their names are ordinary text there, and no content makes one. That is for tokens
//! that the file calls special; others that it adds (`"special": false`, as `<think>` in some files) are words that models read
//! and write in plain text, and stay tokens wherever they stand.
//!
//! Files are checked where the `tokenizers` crate trusts them; what it still panics on becomes an error, not a panic
//! of the caller.

use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::de::{DeserializeOwned, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};
use tokenizers::{AddedToken, AddedVocabulary, Model as _};

use super::MarkedText;
use super::added::{Name, Names, Part, within};
use super::decoder::Chain;
use super::name_table::NameTable;
use super::normalizer::{Changes, Normalized};
use super::output::{EncodeLimits, Output};
use super::post_processor::{self, Pattern};
use super::pre_tokenizer::{Told, Words};
use super::vocabulary::{ModelFile, Vocabulary};
use crate::error::{Error, Result, Status, Unit};
use crate::json::{Tree, with_numbers};
use crate::limits::{
    BYTE_LEVEL_STEPS_MAX, CONFIG_TREE_BYTES_MAX, ENCODE_MEMORY_BYTES, ENCODE_MEMORY_FACTOR, ENCODE_PIECE_BYTES,
    PROMPT_BYTES_MAX, TOKENIZER_BYTES_MAX, VOCAB_MAX,
};
use crate::os::shortage;

/// Encodes and decodes; shared by `Arc`, every call takes `&self`.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    added: AddedVocabulary,
    /// Added tokens that are looked for in the text as it is.
    names: Names,
    /// Those that are looked for in the normalized text.
    normalized_names: Names,
    changes: Option<Changes>,
    words: Words,
    /// What is around a text without special tokens, and with them.
    around: [Pattern; 2],
    /// See [`Tokenizer::bytes_per_token`].
    bytes_per_token: Option<usize>,
    chain: Chain,
    by_id: NameTable,
    /// By id: [`NAMED`] and [`SPECIAL`].
    flags: Vec<u8>,
}

const NAMED: u8 = 1;
const SPECIAL: u8 = 2;

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads the content of a `tokenizer.json`; `subject` names it in errors.
    ///
    /// # Errors
    /// [`Status::Format`] when it is not JSON, not a tokenizer, or contradicts itself.
    pub fn from_json(json: &[u8], subject: &str) -> Result<Tokenizer> {
        let bytes = u64::try_from(json.len()).unwrap_or(u64::MAX);
        if bytes > TOKENIZER_BYTES_MAX {
            let message = format!("{subject} has {bytes} bytes; a tokenizer may have {TOKENIZER_BYTES_MAX}");
            return Err(Error::format(message).about(subject).numbers(Unit::Bytes, bytes, TOKENIZER_BYTES_MAX));
        }
        let file: File = serde_json::from_slice(json).map_err(|e| {
            let what = match e.is_data() {
                true => format!("{subject} is not a usable tokenizer: {e}"),
                false => format!("{subject} is not JSON ({e}); is it a complete tokenizer.json?"),
            };
            with_numbers(Error::format(what).about(subject), &e)
        })?;
        let read = catch_unwind(AssertUnwindSafe(|| Tokenizer::from_file(file)));
        read.unwrap_or_else(|_| Err(Error::format("the tokenizers crate cannot read it"))).map_err(|mut e| {
            e.message = format!("{subject} is not a usable tokenizer: {}", e.message);
            e.about(subject)
        })
    }

    fn from_file(File { model, added_tokens: tokens, rest: mut file }: File) -> Result<Tokenizer> {
        match file.get("version") {
            None | Some(Value::Null) => {}
            Some(Value::String(version)) if version == "1.0" => {}
            Some(other) => return Err(Error::format(format!("its version is {other}; this library reads \"1.0\""))),
        }
        let mut vocabulary = Vocabulary::read(model.ok_or_else(|| Error::format("it has no `model`"))?)?;
        let changes = part(&mut file, "normalizer")?.map(Changes::new).transpose()?;
        let words = part(&mut file, "pre_tokenizer")?.map(Words::new).transpose()?.unwrap_or_else(Words::whole);
        let byte_levels = words.byte_levels() + changes.as_ref().map_or(0, Changes::byte_levels);
        if byte_levels > BYTE_LEVEL_STEPS_MAX {
            let message =
                format!("it has {byte_levels} `ByteLevel` steps; at most {BYTE_LEVEL_STEPS_MAX} are supported");
            return Err(Error::format(message).numbers(Unit::Count, byte_levels as u64, BYTE_LEVEL_STEPS_MAX as u64));
        }
        let post_processor = file.get("post_processor").cloned().unwrap_or(Value::Null);
        let steps = post_processor::steps(part(&mut file, "post_processor")?, &post_processor)?;
        let around = match steps.is_empty() {
            true => [Pattern::plain(), Pattern::plain()],
            false => [Pattern::new(&steps, false)?, Pattern::new(&steps, true)?],
        };

        let mut added = AddedVocabulary::new();
        // Ids are given in the order of the file, as the crate's own reader does: a name of the vocabulary keeps its
        // id, any other gets the next free one, whatever the file says.
        added
            .add_tokens(tokens, &vocabulary.model, changes.as_ref())
            .map_err(|e| Error::format(format!("`added_tokens` cannot be read: {e}")))?;
        let by_id = added.get_added_tokens_decoder();
        let special_ids: Vec<u32> = by_id.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        vocabulary.fence(special_ids.iter().copied());
        let flags = flags(&vocabulary, &added, &special_ids)?;
        let name = |id| added.simple_id_to_token(id).or_else(|| vocabulary.model.id_to_token(id));
        let by_id = NameTable::new(flags.len(), name)?;
        let added_longest = added.get_vocab().keys().map(String::len).max().unwrap_or(0);
        let chain = Chain::new(part(&mut file, "decoder")?, vocabulary.longest_name().max(added_longest))?;
        let mut tokenizer = Tokenizer {
            names: names(&added, false)?,
            normalized_names: names(&added, true)?,
            vocabulary,
            added,
            changes,
            words,
            around,
            bytes_per_token: None,
            chain,
            by_id,
            flags,
        };
        tokenizer.bytes_per_token = tokenizer.find_bytes_per_token(byte_levels);
        Ok(tokenizer)
    }

    /// The tokens of `text`, however many. With `add_special_tokens` the file's post-processor adds its own (a beginning of
    /// sequence, usually). With `parse_special` the names of special tokens in the text become those tokens; without,
    /// they stay ordinary text, and no text makes a special token.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_marked`].
    pub fn encode(&self, text: &str, add_special_tokens: bool, parse_special: bool) -> Result<Vec<u32>> {
        let all = 0..text.len();
        let content = if parse_special || text.is_empty() { Vec::new() } else { vec![all] };
        self.encode_content(text, &content, add_special_tokens, &mut EncodeLimits::new(usize::MAX, &mut || Ok(())))
    }

    /// The tokens of `text`. Names of special tokens become those tokens where they touch no content; content makes none.
    /// With `add_special_tokens` as [`Tokenizer::encode`].
    ///
    /// # Errors
    /// [`Status::Argument`] for a text longer than [`PROMPT_BYTES_MAX`]; [`Status::Context`] for more tokens than `limits`
    /// allows, with the fewest that there can be; what `limits.go_on` fails with; [`Status::Unsupported`] for characters that
    /// the vocabulary has no token for, not even an unknown one, and for what cannot be encoded in pieces;
    /// [`Status::Format`] for what only a hostile file does.
    pub fn encode_marked(
        &self,
        text: &MarkedText,
        add_special_tokens: bool,
        limits: &mut EncodeLimits,
    ) -> Result<Vec<u32>> {
        self.encode_content(&text.text, &text.content, add_special_tokens, limits)
    }

    /// [`Tokenizer::encode_marked`] for borrowed text.
    ///
    /// # Errors
    /// As there.
    pub fn encode_content(
        &self,
        text: &str,
        content: &[Range<usize>],
        add_special_tokens: bool,
        limits: &mut EncodeLimits,
    ) -> Result<Vec<u32>> {
        if text.len() > PROMPT_BYTES_MAX {
            let (needed, available) = (text.len() as u64, PROMPT_BYTES_MAX as u64);
            let message = format!("the text has {needed} bytes; at most {available} are encoded, shorten it");
            return Err(Error::argument(message).numbers(Unit::Bytes, needed, available));
        }
        let around = &self.around[usize::from(add_special_tokens)];
        let (fixed, copies) = around.counts();
        let bytes_per_token = if copies == 0 { None } else { self.bytes_per_token };
        // What cannot fit is refused before anything is tried.
        Output::new(limits, fixed, text.len(), bytes_per_token)?;
        let encode = || {
            let mut out = Output::new(limits, fixed, text.len(), bytes_per_token)?;
            self.names.split(text, content, &mut out, |part, out| match part {
                Part::Token(id) => out.push(id),
                Part::Text(range) => self.encode_section(text, range, content, out),
            })?;
            Ok(out.ids)
        };
        let estimate = self.encode_memory_bytes(text.len());
        let encoded = shortage::backed("the tokens of a text", estimate, || catch_unwind(AssertUnwindSafe(encode)))?;
        let ids = encoded.unwrap_or_else(|_| {
            let message = "the tokenizer failed on this text; its tokenizer.json is not consistent";
            Err(Error::new(Status::Format, message))
        })?;
        around.around(ids)
    }

    /// Memory that encoding a text of so many bytes is estimated to take, in bytes: that of its pieces. What grows with the text,
    /// its tokens and its normalized form, is asked for as it grows, and a long word or piece on its own.
    pub fn encode_memory_bytes(&self, text_bytes: usize) -> usize {
        let piece = text_bytes.min(ENCODE_PIECE_BYTES).saturating_mul(ENCODE_MEMORY_FACTOR);
        let searches = self.words.search_bytes() + self.changes.as_ref().map_or(0, Changes::search_bytes);
        piece.saturating_add(ENCODE_MEMORY_BYTES).saturating_add(searches)
    }

    /// The tokens of a part of the text between added tokens.
    fn encode_section(
        &self,
        text: &str,
        range: Range<usize>,
        content: &[Range<usize>],
        out: &mut Output,
    ) -> Result<()> {
        let content = within(content, &range)?;
        let section = &text[range.clone()];
        let normalized = match &self.changes {
            Some(changes) => {
                let with_content = !content.is_empty() && self.normalized_names.iter().any(|name| name.special);
                Some(changes.normalize_text(section, &content, with_content, out)?)
            }
            None => None,
        };
        let fenced = !content.is_empty();
        let (section, content, from_start) = match &normalized {
            Some(Normalized { text, from_start, content }) => (text.as_str(), content, *from_start),
            None => (section, &content, true),
        };
        self.normalized_names.split(section, content, out, |part, out| match part {
            Part::Token(id) => out.push(id),
            Part::Text(part) => {
                let from_start = from_start && range.start == 0 && part.start == 0;
                self.words.each(&section[part], from_start, &mut |told| match told {
                    Told::Match(word) => self.vocabulary.encode(word, fenced, out),
                    Told::Read(read) => out.searched(read),
                })
            }
        })
    }

    /// The most bytes of a text that one token can stand for, if there is such a number: a text of more than that many
    /// times the context's tokens cannot fit. There is none where text may vanish: dropped by the normalizer or between words,
    /// or any number of characters in one unknown token.
    pub fn bytes_per_token(&self) -> Option<usize> {
        self.bytes_per_token
    }

    fn find_bytes_per_token(&self, byte_levels: usize) -> Option<usize> {
        let shrinks = self.changes.as_ref().map_or(Some(1), Changes::shrinks)?;
        if !self.words.keeps_everything() || byte_levels > 1 {
            return None;
        }
        let mut longest = self.vocabulary.bytes_per_token(byte_levels == 1)?;
        for name in self.names.iter().chain(self.normalized_names.iter()) {
            if name.lstrip || name.rstrip {
                return None;
            }
            longest = longest.max(name.text.len());
        }
        longest.checked_mul(shrinks)
    }

    /// The text of `ids`. Unnamed ids have none; special tokens only with `keep_special`.
    ///
    /// # Errors
    /// [`Status::Memory`]; [`Status::Format`] for what only a hostile file does.
    pub fn decode(&self, ids: &[u32], keep_special: bool) -> Result<String> {
        // What the steps keep is bounded; the text is as long as the caller likes.
        shortage::backed("the text of tokens", self.chain.estimate(ids.len()), || {
            let mut memory = self.chain.memory();
            let (mut text, mut piece) = (String::new(), String::new());
            let mut add = |piece: &mut String| {
                let bytes = text.len().saturating_add(piece.len());
                text.try_reserve(piece.len()).map_err(|_| Error::memory("the text of tokens", bytes as u64))?;
                text.push_str(piece);
                piece.clear();
                Ok::<_, Error>(())
            };
            for &id in ids {
                if let Some(name) = self.decoded_name(id, keep_special) {
                    self.chain.push(&mut memory, name, &mut piece)?;
                    add(&mut piece)?;
                }
            }
            self.chain.finish(&mut memory, &mut piece)?;
            add(&mut piece)?;
            Ok(text)
        })?
    }

    /// What the decoder gets for a token: nothing for an unnamed one or a special one that is not wanted.
    pub(super) fn decoded_name(&self, id: u32, keep_special: bool) -> Option<&str> {
        if !self.is_named(id) || (self.is_special(id) && !keep_special) {
            return None;
        }
        self.by_id.get(id)
    }

    /// The bytes that a token stands for inside a text; none for a token without a name.
    ///
    /// # Errors
    /// `Unsupported` when the decoder makes text of all tokens together only.
    pub fn token_bytes(&self, id: u32) -> Result<Vec<u8>> {
        self.decoded_name(id, true).map_or(Ok(Vec::new()), |name| self.chain.bytes_of(name))
    }

    pub(super) fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The id of a token by its name in the file.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.added.token_to_id(token, &self.vocabulary.model)
    }

    /// The name of a token in the file; `None`: an unnamed id.
    pub fn token(&self, id: u32) -> Option<String> {
        let added = self.added.get_added_tokens_decoder().get(&id);
        added.map(|token| token.content.clone()).or_else(|| self.vocabulary.model.id_to_token(id))
    }

    /// True when the id has a name. Models pad their vocabulary beyond the tokenizer's; such ids mean nothing.
    pub fn is_named(&self, id: u32) -> bool {
        self.flag(id, NAMED)
    }

    /// True when the file calls the token special.
    pub fn is_special(&self, id: u32) -> bool {
        self.flag(id, SPECIAL)
    }

    /// Ids and names of the tokens that the file calls special, by id.
    pub fn special_tokens(&self) -> impl Iterator<Item = (u32, &str)> {
        let special = |flags: &u8| flags & SPECIAL != 0;
        let ids = self.flags.iter().enumerate().filter(move |(_, flags)| special(flags));
        ids.filter_map(|(id, _)| u32::try_from(id).ok()).filter_map(|id| Some((id, self.by_id.get(id)?)))
    }

    fn flag(&self, id: u32, flag: u8) -> bool {
        usize::try_from(id).ok().and_then(|at| self.flags.get(at)).is_some_and(|flags| flags & flag != 0)
    }

    /// Highest id + 1.
    pub fn vocab_size(&self) -> usize {
        self.flags.len()
    }
}

/// A tokenizer file.
#[derive(Default)]
struct File {
    model: Option<ModelFile>,
    added_tokens: Vec<AddedToken>,
    /// The other parts, those of [`PARTS`].
    rest: Map<String, Value>,
}

/// Parts of a file that are read as they stand.
const PARTS: [&str; 5] = ["version", "normalizer", "pre_tokenizer", "post_processor", "decoder"];

crate::json::visited!(File, FileVisitor);

impl<'de> Visitor<'de> for FileVisitor {
    type Value = File;

    crate::json::expects!("an object with `model`, `decoder` and so on");

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<File, A::Error> {
        let mut file = File::default();
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "model" => file.model = map.next_value()?,
                "added_tokens" => {
                    let unreadable = |e| A::Error::custom(format_args!("`added_tokens` cannot be read: {e}"));
                    file.added_tokens = map.next_value::<Option<_>>().map_err(unreadable)?.unwrap_or_default();
                }
                part if PARTS.contains(&part) => {
                    let Tree::<CONFIG_TREE_BYTES_MAX>(value) = map.next_value()?;
                    file.rest.insert(name, value);
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(file)
    }
}

/// One optional part of the file.
fn part<T: DeserializeOwned>(file: &mut Map<String, Value>, name: &str) -> Result<Option<T>> {
    let value = file.remove(name).unwrap_or(Value::Null);
    serde_json::from_value(value).map_err(|e| Error::format(format!("`{name}` cannot be read: {e}")))
}

/// The added tokens that are looked for in the text as it is, or in the normalized text.
fn names(added: &AddedVocabulary, normalized: bool) -> Result<Names> {
    let tokens = added.get_added_tokens_decoder().iter().filter(|(_, token)| token.normalized == normalized);
    let names = tokens.map(|(&id, token)| Name {
        id,
        // As it looks after the normalizer, where that is asked for.
        text: added.simple_id_to_token(id).unwrap_or_else(|| token.content.clone()),
        special: token.special,
        single_word: token.single_word,
        lstrip: token.lstrip,
        rstrip: token.rstrip,
    });
    Names::new(names.filter(|name| !name.text.is_empty()).collect())
}

/// The table behind `is_named` and `is_special`.
fn flags(vocabulary: &Vocabulary, added: &AddedVocabulary, special_ids: &[u32]) -> Result<Vec<u8>> {
    let named = vocabulary.ids().iter().chain(added.get_added_tokens_decoder().keys());
    let ids: Vec<u32> = named.copied().collect();
    let Some(&highest) = ids.iter().max() else {
        return Err(Error::format("its vocabulary is empty"));
    };
    let size = usize::try_from(highest).unwrap_or(usize::MAX).saturating_add(1);
    if size > VOCAB_MAX {
        let message = format!("its highest token id is {highest}; at most {VOCAB_MAX} tokens are supported");
        return Err(Error::format(message).numbers(Unit::Tokens, size as u64, VOCAB_MAX as u64));
    }
    let mut flags = vec![0; size];
    let marks = ids.iter().map(|&id| (id, NAMED)).chain(special_ids.iter().map(|&id| (id, NAMED | SPECIAL)));
    for (id, mark) in marks {
        if let Some(flags) = usize::try_from(id).ok().and_then(|at| flags.get_mut(at)) {
            *flags |= mark;
        }
    }
    Ok(flags)
}

#[cfg(test)]
mod tests;
