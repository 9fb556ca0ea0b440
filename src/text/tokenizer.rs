//! Text to token ids and back, from a `tokenizer.json`.
//!
//! One [`Tokenizer`] serves all requests and all threads. It holds two encoders over one shared vocabulary
//! (`model.rs` says how and why): one that turns the names of special tokens into those tokens, for templates, and
//! one that never does, for what users wrote. Truncation and padding that a file asks for are left out: a prompt is
//! encoded as it is, or refused for its length by the engine.
//!
//! Files are checked where the `tokenizers` crate trusts them; what it still panics on becomes an error, not a panic
//! of the caller.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};
use tokenizers::decoders::DecoderWrapper;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{AddedToken, Model as _, TokenizerBuilder, TokenizerImpl};

use super::decoder::Chain;
use super::model::{self, ModelFile, Shared};
use super::pre_tokenizer::{Changes, Words, untrimmed};
use crate::error::{Error, Result, Status, Unit};
use crate::limits::{PROMPT_BYTES_MAX, TOKENIZER_BYTES_MAX, VOCAB_MAX};

type Encoder = TokenizerImpl<Shared, Changes, Words, PostProcessorWrapper, DecoderWrapper>;

/// Encodes and decodes; shared by `Arc`, every call takes `&self`.
pub struct Tokenizer {
    /// Names of special tokens become the tokens.
    special: Encoder,
    /// Names of special tokens are ordinary text.
    plain: Encoder,
    chain: Chain,
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
            Error::format(what).about(subject)
        })?;
        let read = catch_unwind(AssertUnwindSafe(|| Tokenizer::from_file(file)));
        read.unwrap_or_else(|_| Err(Error::format("the tokenizers crate cannot read it"))).map_err(|mut e| {
            e.message = format!("{subject} is not a usable tokenizer: {}", e.message);
            e.about(subject)
        })
    }

    fn from_file(File { model, rest: mut file }: File) -> Result<Tokenizer> {
        match file.get("version") {
            None | Some(Value::Null) => {}
            Some(Value::String(version)) if version == "1.0" => {}
            Some(other) => return Err(Error::format(format!("its version is {other}; this library reads \"1.0\""))),
        }
        let model = model.ok_or_else(|| Error::format("it has no `model`"))?;
        let model = Shared::new(model::read(model)?);
        let added: Vec<AddedToken> = part(&mut file, "added_tokens")?.unwrap_or_default();
        let normalizer = part(&mut file, "normalizer")?.map(Changes::new);
        let pre_tokenizer = part(&mut file, "pre_tokenizer")?.map(Words::new).transpose()?;
        let post_processor = part(&mut file, "post_processor")?.map(untrimmed);
        let chain = Chain::new(part(&mut file, "decoder")?)?;
        let encoder = |model: Shared| -> Result<Encoder> {
            TokenizerBuilder::new()
                .with_model(model)
                .with_normalizer(normalizer.clone())
                .with_pre_tokenizer(pre_tokenizer.clone())
                .with_post_processor(post_processor.clone())
                .build()
                .map_err(|e| Error::format(e.to_string()))
        };

        let mut special = encoder(model.clone())?;
        // Ids are given in the order of the file, as the crate's own reader does: a name of the vocabulary keeps its
        // id, any other gets the next free one, whatever the file says.
        special.add_tokens(added).map_err(|e| Error::format(format!("`added_tokens` cannot be read: {e}")))?;
        let mut vocabulary = special.get_added_vocabulary().clone();
        let special_ids: Vec<u32> = vocabulary
            .get_added_tokens_decoder()
            .iter()
            .filter(|(_, token)| token.special)
            .map(|(&id, _)| id)
            .collect();
        let mut plain = encoder(model.fenced(special_ids.iter().copied()))?;
        vocabulary.set_encode_special_tokens(true);
        plain.with_added_vocabulary(vocabulary);

        let flags = flags(&special, &special_ids)?;
        let tokenizer = Tokenizer { special, plain, chain, flags };
        // A post-processor that names tokens or sequences that are not there shows it on the first prompt.
        tokenizer.encode("", true, true)?;
        Ok(tokenizer)
    }

    /// The tokens of `text`. With `add_special_tokens` the file's post-processor adds its own (a beginning of
    /// sequence, usually). With `parse_special` the names of special tokens in the text become those tokens; without,
    /// they stay ordinary text, and no text makes a special token.
    ///
    /// # Errors
    /// [`Status::Argument`] for a text longer than [`PROMPT_BYTES_MAX`]; [`Status::Unsupported`] for one that holds
    /// characters the vocabulary has no token for, not even an unknown one.
    pub fn encode(&self, text: &str, add_special_tokens: bool, parse_special: bool) -> Result<Vec<u32>> {
        if text.len() > PROMPT_BYTES_MAX {
            let (needed, available) = (text.len() as u64, PROMPT_BYTES_MAX as u64);
            let message = format!("the text has {needed} bytes; at most {available} are encoded, shorten it");
            return Err(Error::argument(message).numbers(Unit::Bytes, needed, available));
        }
        let encoder = if parse_special { &self.special } else { &self.plain };
        // One text at a time: the crate starts threads for a batch.
        match catch_unwind(AssertUnwindSafe(|| encoder.encode_fast(text, add_special_tokens))) {
            Ok(Ok(encoding)) => Ok(encoding.get_ids().to_vec()),
            Ok(Err(e)) => Err(Error::unsupported(format!("the tokenizer has no tokens for this text: {e}"))),
            Err(_) => Err(Error::new(
                Status::Format,
                "the tokenizer failed on this text; its tokenizer.json is not consistent",
            )),
        }
    }

    /// The text of `ids`. Unnamed ids have none; special tokens only with `keep_special`.
    pub fn decode(&self, ids: &[u32], keep_special: bool) -> Result<String> {
        let mut memory = self.chain.memory();
        let mut text = String::new();
        for &id in ids {
            if let Some(name) = self.decoded_name(id, keep_special) {
                self.chain.push(&mut memory, name, &mut text)?;
            }
        }
        self.chain.finish(&mut memory, &mut text)?;
        Ok(text)
    }

    /// What the decoder gets for a token: nothing for an unnamed one or a special one that is not wanted.
    pub(super) fn decoded_name(&self, id: u32, keep_special: bool) -> Option<String> {
        if !self.is_named(id) || (self.is_special(id) && !keep_special) {
            return None;
        }
        let added = self.special.get_added_vocabulary().simple_id_to_token(id);
        added.or_else(|| self.special.get_model().id_to_token(id))
    }

    pub(super) fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The id of a token by its name in the file.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.special.token_to_id(token)
    }

    /// The name of a token in the file; `None`: an unnamed id.
    pub fn token(&self, id: u32) -> Option<String> {
        let added = self.special.get_added_vocabulary().get_added_tokens_decoder().get(&id);
        added.map(|token| token.content.clone()).or_else(|| self.special.get_model().id_to_token(id))
    }

    /// True when the id has a name. Models pad their vocabulary beyond the tokenizer's; such ids mean nothing.
    pub fn is_named(&self, id: u32) -> bool {
        self.flag(id, NAMED)
    }

    /// True when the file calls the token special.
    pub fn is_special(&self, id: u32) -> bool {
        self.flag(id, SPECIAL)
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
struct File {
    model: Option<ModelFile>,
    rest: Map<String, Value>,
}

impl<'de> Deserialize<'de> for File {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(FileVisitor)
    }
}

struct FileVisitor;

impl<'de> Visitor<'de> for FileVisitor {
    type Value = File;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `model`, `decoder` and so on")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<File, A::Error> {
        let mut file = File { model: None, rest: Map::new() };
        while let Some(name) = map.next_key::<String>()? {
            if name == "model" {
                file.model = map.next_value()?;
            } else {
                file.rest.insert(name, map.next_value()?);
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

/// The table behind `is_named` and `is_special`.
fn flags(encoder: &Encoder, special_ids: &[u32]) -> Result<Vec<u8>> {
    let ids: Vec<u32> = encoder.get_vocab(true).into_values().collect();
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
mod tests {
    use super::super::fixtures;
    use super::*;

    fn open(json: &str) -> Tokenizer {
        Tokenizer::from_json(json.as_bytes(), "tokenizer.json").unwrap()
    }

    fn refused(json: &str) -> Error {
        let error = Tokenizer::from_json(json.as_bytes(), "some/tokenizer.json").expect_err(json);
        assert_eq!(error.status, Status::Format, "{error}");
        assert_eq!(error.subject, "some/tokenizer.json");
        assert!(error.message.starts_with("some/tokenizer.json "), "{error}");
        error
    }

    #[test]
    fn encodes_and_decodes_as_the_crate() {
        for (kind, json) in fixtures::all() {
            let ours = open(&json);
            let theirs = tokenizers::Tokenizer::from_bytes(&json).unwrap();
            for text in ["the tea", "", " the  the", "t\nh", "<|end|>the<s>the</s>", "é語🦀", "<think>the</think>"]
            {
                for add in [false, true] {
                    let Ok(expected) = theirs.encode_fast(text, add) else { continue };
                    assert_eq!(ours.encode(text, add, true).unwrap(), expected.get_ids(), "{kind}: {text:?}");
                }
            }
        }
    }

    #[test]
    fn ordinary_text_makes_no_special_token() {
        for (kind, json) in fixtures::all() {
            let tokenizer = open(&json);
            for name in ["<|end|>", "<s>", "</s>"] {
                let text = format!("the {name} the{name}{name}");
                let plain = tokenizer.encode(&text, false, false).unwrap();
                let unknown = tokenizer.id("<unk>");
                assert!(plain.iter().all(|&id| !tokenizer.is_special(id) || Some(id) == unknown), "{kind}: {plain:?}");
                if fixtures::byte_kinds().iter().any(|(of, _)| *of == kind) {
                    assert_eq!(tokenizer.decode(&plain, true).unwrap().trim_start(), text, "{kind}");
                }
                if let Some(id) = tokenizer.id(name) {
                    let parsed = tokenizer.encode(&text, false, true).unwrap();
                    assert_eq!(parsed.iter().filter(|&&other| other == id).count(), 3, "{kind}");
                }
            }
        }
    }

    #[test]
    fn a_special_name_in_a_unigram_vocabulary_is_taken_apart() {
        let tokenizer = open(&fixtures::unigram());
        let end = tokenizer.id("</s>").unwrap();
        assert!(tokenizer.encode("the</s>", false, true).unwrap().contains(&end));
        let plain = tokenizer.encode("the</s>", false, false).unwrap();
        assert!(!plain.contains(&end), "{plain:?}");
        assert_eq!(tokenizer.decode(&plain, false).unwrap(), "the</s>");
        // The crate's own switch is not enough: this is what the fence is for.
        let mut theirs = tokenizers::Tokenizer::from_bytes(fixtures::unigram()).unwrap();
        theirs.set_encode_special_tokens(true);
        assert!(theirs.encode_fast("the</s>", false).unwrap().get_ids().contains(&end));
    }

    #[test]
    fn the_post_processor_adds_its_tokens_in_both_ways() {
        let tokenizer = open(&fixtures::byte_level());
        let bos = tokenizer.id("<|bos|>").unwrap();
        for parse in [false, true] {
            assert_eq!(tokenizer.encode("t", true, parse).unwrap(), [bos, tokenizer.id("t").unwrap()]);
            assert_eq!(tokenizer.encode("t", false, parse).unwrap(), [tokenizer.id("t").unwrap()]);
        }
    }

    #[test]
    fn names_and_flags_of_ids() {
        let tokenizer = open(&fixtures::byte_level());
        let end = tokenizer.id("<|end|>").unwrap();
        let think = tokenizer.id("<think>").unwrap();
        assert_eq!(tokenizer.token(end).as_deref(), Some("<|end|>"));
        assert!(tokenizer.is_special(end) && !tokenizer.is_special(think));
        assert!(tokenizer.is_named(end) && tokenizer.is_named(think));
        let beyond = u32::try_from(tokenizer.vocab_size()).unwrap();
        for id in [beyond, u32::MAX, fixtures::HOLE] {
            assert!(!tokenizer.is_named(id) && !tokenizer.is_special(id), "{id}");
            assert_eq!(tokenizer.token(id), None, "{id}");
        }
        assert!(tokenizer.is_named(beyond - 1));
        assert_eq!(tokenizer.id("no such token"), None);
    }

    #[test]
    fn truncation_padding_and_dropout_of_the_file_do_nothing() {
        let plain = open(&fixtures::byte_level());
        let mut file: Value = serde_json::from_str(&fixtures::byte_level()).unwrap();
        file["truncation"] = serde_json::json!(
            {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
        file["padding"] = serde_json::json!({"strategy": {"Fixed": 64}, "direction": "Right",
            "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "!"});
        file["model"]["dropout"] = serde_json::json!(1.0);
        let altered = open(&file.to_string());
        let text = "the tea of the the";
        assert_eq!(altered.encode(text, true, true).unwrap(), plain.encode(text, true, true).unwrap());
    }

    #[test]
    fn old_merges_are_read() {
        let mut file: Value = serde_json::from_str(&fixtures::byte_level()).unwrap();
        let lines: Vec<Value> = file["model"]["merges"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| format!("{} {}", m[0].as_str().unwrap(), m[1].as_str().unwrap()).into())
            .collect();
        file["model"]["merges"] = [vec![Value::from("#version: 0.2")], lines].concat().into();
        file["model"].as_object_mut().unwrap().remove("type");
        let (old, new) = (open(&file.to_string()), open(&fixtures::byte_level()));
        assert_eq!(old.encode(" the tea", false, true).unwrap(), new.encode(" the tea", false, true).unwrap());
    }

    #[test]
    fn what_is_no_tokenizer_is_refused_by_name() {
        assert!(refused("").message.contains("not JSON"));
        assert!(refused("{\"model\": ").message.contains("not JSON"));
        refused(&"[".repeat(100_000));
        assert!(refused("[1, 2]").message.contains("expected an object"));
        assert!(refused("{}").message.contains("no `model`"));
        assert!(refused("{\"version\": \"2.0\", \"model\": {}}").message.contains("2.0"));
        refused("{\"model\": null}");
        refused("{\"model\": {\"type\": \"Magic\"}}");
        assert!(refused(r#"{"model": {"type": "BPE", "vocab": {}, "merges": []}}"#).message.contains("empty"));
        refused(r#"{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}"#);
        let huge = refused(r#"{"model": {"type": "BPE", "vocab": {"a": 4294967295}, "merges": []}}"#);
        assert_eq!((huge.unit, huge.needed), (Unit::Tokens, 1 << 32));
    }

    #[test]
    fn contradictions_are_refused() {
        let model =
            |more: &str| format!(r#"{{"model": {{"type": "BPE", "vocab": {{"a": 0, "b": 1, "é": 2}}, {more}}}}}"#);
        assert!(refused(&model(r#""merges": [["a", "b"]]"#)).message.contains("\"ab\""));
        assert!(refused(&model(r#""merges": [["a", "x"]]"#)).message.contains("\"x\""));
        refused(&model(r#""merges": ["a b c"]"#));
        refused(&model(r#""merges": [["a", "é"]], "continuing_subword_prefix": "x""#));
        refused(r#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": [{"id": 1}]}"#);
        refused(r#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "decoder": {"type": "None"}}"#);
        let fuse = r#"{"type": "ByteFallback"},"#.repeat(100);
        let decoder = format!(r#"{{"type": "Sequence", "decoders": [{}]}}"#, fuse.trim_end_matches(','));
        let long =
            format!(r#"{{"model": {{"type": "BPE", "vocab": {{"a": 0}}, "merges": []}}, "decoder": {decoder}}}"#);
        assert!(refused(&long).message.contains("more than 64 steps"));
    }

    #[test]
    fn a_text_beyond_the_limit_carries_both_lengths() {
        let tokenizer = open(&fixtures::byte_level());
        let error = tokenizer.encode(&"a".repeat(PROMPT_BYTES_MAX + 1), false, false).unwrap_err();
        assert_eq!((error.status, error.unit), (Status::Argument, Unit::Bytes));
        assert_eq!((error.needed, error.available), (PROMPT_BYTES_MAX as u64 + 1, PROMPT_BYTES_MAX as u64));
    }
}
