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

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokenizers::decoders::DecoderWrapper;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{AddedToken, Model as _, TokenizerBuilder, TokenizerImpl};

use super::decoder::Chain;
use super::model::{self, Shared};
use crate::error::{Error, Result, Status, Unit};
use crate::limits::{PROMPT_BYTES_MAX, TOKENIZER_BYTES_MAX, VOCAB_MAX};

type Encoder = TokenizerImpl<Shared, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

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
        let value: Value = serde_json::from_slice(json).map_err(|e| {
            Error::format(format!("{subject} is not JSON ({e}); is it a complete tokenizer.json?")).about(subject)
        })?;
        let read = catch_unwind(AssertUnwindSafe(|| Tokenizer::from_value(value)));
        read.unwrap_or_else(|_| Err(Error::format("the tokenizers crate cannot read it"))).map_err(|mut e| {
            e.message = format!("{subject} is not a usable tokenizer: {}", e.message);
            e.about(subject)
        })
    }

    fn from_value(value: Value) -> Result<Tokenizer> {
        let Value::Object(mut file) = value else {
            return Err(Error::format("expected an object with `model`, `decoder` and so on"));
        };
        match file.get("version") {
            None | Some(Value::Null) => {}
            Some(Value::String(version)) if version == "1.0" => {}
            Some(other) => return Err(Error::format(format!("its version is {other}; this library reads \"1.0\""))),
        }
        let model = file.remove("model").ok_or_else(|| Error::format("it has no `model`"))?;
        let model = Shared::new(model::read(model)?);
        let added: Vec<AddedToken> = part(&mut file, "added_tokens")?.unwrap_or_default();
        let normalizer: Option<NormalizerWrapper> = part(&mut file, "normalizer")?;
        let pre_tokenizer: Option<PreTokenizerWrapper> = part(&mut file, "pre_tokenizer")?;
        let post_processor: Option<PostProcessorWrapper> = part(&mut file, "post_processor")?;
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
        let special_ids: Vec<u32> =
            vocabulary.get_added_tokens_decoder().iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
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
            Err(_) => {
                Err(Error::new(Status::Format, "the tokenizer failed on this text; its tokenizer.json is not consistent"))
            }
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
