//! The `tokenizer.json` that the metadata of a GGUF file describes.
//!
//! Two kinds of vocabulary: **byte-level** (`gpt2`), with merges in order and a named pre-tokenizer
//! ([`super::pre_tokenizers`]); and **SentencePiece by score** (`llama`), which joins the two neighbours whose union is the token
//! with the best score. That is what merges in the order of those scores do, so they are made of them.

use super::metadata::Metadata;
use super::pre_tokenizers;
use crate::error::{Error, Result, reserved};
use crate::source::files::quoted;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};

/// Types of tokens, by the numbers the format gives them.
const UNKNOWN: f64 = 2.0;
const CONTROL: f64 = 3.0;
const USER_DEFINED: f64 = 4.0;
/// Fills a vocabulary up to the height of the embedding.
const UNUSED: f64 = 5.0;
/// A byte that no other token has.
const BYTE: f64 = 6.0;
/// How SentencePiece writes a space.
const SPACE: &str = "\u{2581}";

/// A token that the metadata names by its id, and what chat templates and `tokenizer_config.json` call it.
pub const NAMED: [(&str, &str); 6] = [
    ("tokenizer.ggml.bos_token_id", "bos_token"),
    ("tokenizer.ggml.eos_token_id", "eos_token"),
    ("tokenizer.ggml.unknown_token_id", "unk_token"),
    ("tokenizer.ggml.seperator_token_id", "sep_token"),
    ("tokenizer.ggml.padding_token_id", "pad_token"),
    ("tokenizer.ggml.mask_token_id", "mask_token"),
];

/// Ids of the tokens that end an answer: of the sequence, of the turn, of the message.
pub const ENDS: [&str; 3] =
    ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// The vocabulary of a file.
pub struct Vocabulary<'a> {
    metadata: Metadata<'a>,
    /// Names by id.
    tokens: Vec<&'a str>,
    /// Types by id; empty where the file has none.
    types: Vec<f64>,
}

/// A `tokenizer.json`. Written piece by piece: as a tree, a large vocabulary would take a hundred megabytes.
#[derive(Serialize)]
pub struct TokenizerJson<'a> {
    version: &'static str,
    added_tokens: Value,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: Bpe<'a>,
}

/// Its model.
#[derive(Serialize)]
struct Bpe<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    unk_token: Option<&'a str>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    #[serde(serialize_with = "as_map")]
    vocab: Vec<(&'a str, usize)>,
    merges: Vec<[&'a str; 2]>,
}

fn as_map<S: Serializer>(vocab: &[(&str, usize)], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_map(vocab.iter().map(|(name, id)| (name, id)))
}

impl<'a> Vocabulary<'a> {
    /// Reads names and types; `None` when the file has no vocabulary.
    ///
    /// # Errors
    /// `Format` when one is not what it should be; `Memory`.
    pub fn read(metadata: Metadata<'a>) -> Result<Option<Vocabulary<'a>>> {
        let Some(tokens) = metadata.texts("tokenizer.ggml.tokens")? else { return Ok(None) };
        let types = metadata.numbers("tokenizer.ggml.token_type")?.unwrap_or_default();
        if !types.is_empty() && types.len() != tokens.len() {
            let expected = format!("an array of {} types, one for each token,", tokens.len());
            return Err(metadata.wrong("tokenizer.ggml.token_type", &expected));
        }
        Ok(Some(Vocabulary { metadata, tokens, types }))
    }

    /// The name of the token whose id a key holds.
    pub fn named(&self, key: &str) -> Result<Option<&'a str>> {
        let id = self.metadata.whole(key)?.and_then(|id| usize::try_from(id).ok());
        Ok(id.and_then(|id| self.tokens.get(id).copied()))
    }

    /// The `tokenizer.json`.
    ///
    /// # Errors
    /// `Unsupported` for a kind of vocabulary or pre-tokenizer that is not known, by name; `Format`; `Memory`.
    pub fn json(&self) -> Result<TokenizerJson<'a>> {
        const KEY: &str = "tokenizer.ggml.model";
        match self.metadata.text(KEY)?.ok_or_else(|| self.metadata.wrong(KEY, "a kind of vocabulary"))? {
            "gpt2" => self.byte_level(),
            "llama" => self.pieces(self.merges_by_score()?),
            // The pieces of the same with the merges of the original, and no scores.
            "gemma4" => self.pieces(self.merges()?),
            other => {
                let what = format!("the vocabulary is of kind {}; there are gpt2, llama and gemma4", quoted(other));
                Err(self.unsupported(&what))
            }
        }
    }

    /// Whether a `tokenizer.json` has this vocabulary: every token that is in use has the same id there.
    pub fn agrees(&self, names: &HashMap<String, u32>) -> bool {
        let of = |id: usize, kind: f64| self.types.get(id) == Some(&kind);
        let unused = |id: usize| of(id, UNUSED);
        let has = |id: usize, name: &str| names.get(name).is_some_and(|&known| known as usize == id);
        let same = |(id, &name): (usize, &&str)| {
            // Conversion writes the spaces of these as such.
            has(id, name) || of(id, USER_DEFINED) && has(id, &name.replace(' ', SPACE))
        };
        self.tokens.iter().enumerate().filter(|&(id, _)| !unused(id)).all(same)
    }

    fn unsupported(&self, what: &str) -> Error {
        let file = self.metadata.file;
        let message = format!("{file}: {what}; a tokenizer.json beside the file is used where it has the same tokens");
        Error::unsupported(message).about(file)
    }

    fn byte_level(&self) -> Result<TokenizerJson<'a>> {
        let metadata = &self.metadata;
        let name = metadata.text("tokenizer.ggml.pre")?.unwrap_or("default");
        let Some(pre) = pre_tokenizers::find(name) else {
            let known: Vec<&str> = pre_tokenizers::names().collect();
            let what = format!("the pre-tokenizer {} is not known; known are {}", quoted(name), known.join(", "));
            return Err(self.unsupported(&what));
        };
        let merges = self.merges()?;
        Ok(TokenizerJson {
            version: "1.0",
            added_tokens: self.added(),
            normalizer: if pre.compose { json!({ "type": "NFC" }) } else { Value::Null },
            pre_tokenizer: pre.json(),
            post_processor: self.around(pre.begins)?,
            decoder: json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true }),
            model: Bpe {
                kind: "BPE",
                unk_token: None,
                fuse_unk: false,
                byte_fallback: false,
                ignore_merges: pre.ignore_merges,
                vocab: self.vocab()?,
                merges,
            },
        })
    }

    /// The merges of the file, best first.
    fn merges(&self) -> Result<Vec<[&'a str; 2]>> {
        const MERGES: &str = "tokenizer.ggml.merges";
        let wrong = || self.metadata.wrong(MERGES, "an array of pairs");
        let pairs = self.metadata.texts(MERGES)?.ok_or_else(wrong)?;
        let mut merges = reserved("the merges of a vocabulary", pairs.len())?;
        for pair in pairs {
            merges.push(pair.split_once(' ').map(<[&str; 2]>::from).ok_or_else(wrong)?);
        }
        Ok(merges)
    }

    /// A vocabulary of SentencePiece: spaces are characters of pieces, and what no piece has is spelt in bytes.
    fn pieces(&self, merges: Vec<[&'a str; 2]>) -> Result<TokenizerJson<'a>> {
        let unknown = self.named("tokenizer.ggml.unknown_token_id")?;
        let prefix = self.metadata.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let spaces = json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE });
        let mut decoders = vec![
            json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if prefix {
            decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        Ok(TokenizerJson {
            version: "1.0",
            added_tokens: self.added(),
            normalizer: match prefix {
                true => json!({ "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": SPACE }, spaces] }),
                false => spaces,
            },
            pre_tokenizer: Value::Null,
            post_processor: self.around(true)?,
            decoder: json!({ "type": "Sequence", "decoders": decoders }),
            model: Bpe {
                kind: "BPE",
                unk_token: unknown.or_else(|| self.of_type(UNKNOWN).next().map(|(_, name)| name)),
                fuse_unk: true,
                byte_fallback: true,
                ignore_merges: false,
                vocab: self.vocab()?,
                merges,
            },
        })
    }

    /// Every way to join two tokens into a third, the best third first.
    fn merges_by_score(&self) -> Result<Vec<[&'a str; 2]>> {
        const SCORES: &str = "tokenizer.ggml.scores";
        let scores = self.metadata.numbers(SCORES)?.filter(|scores| scores.len() == self.tokens.len());
        let scores = scores.ok_or_else(|| self.metadata.wrong(SCORES, "a score for each token"))?;
        let ids: HashMap<&str, usize> = self.tokens.iter().enumerate().map(|(id, &name)| (name, id)).collect();
        let mut merges: Vec<(usize, usize, usize)> = reserved("the merges of a vocabulary", self.tokens.len())?;
        for (id, &name) in self.tokens.iter().enumerate() {
            // Control tokens come from their names alone, never from text, and those of bytes from what no token has.
            if self.types.get(id).is_some_and(|&kind| matches!(kind, CONTROL | UNKNOWN | BYTE)) {
                continue;
            }
            for (at, _) in name.char_indices().skip(1) {
                let (left, right) = name.split_at(at);
                if let (Some(&left), Some(&right)) = (ids.get(left), ids.get(right)) {
                    merges.push((id, left, right));
                }
            }
        }
        let score = |id: usize| scores.get(id).copied().unwrap_or(f64::NEG_INFINITY);
        merges.sort_by(|a, b| score(b.0).total_cmp(&score(a.0)).then(a.cmp(b)));
        let name = |id: usize| self.tokens.get(id).copied().unwrap_or_default();
        Ok(merges.into_iter().map(|(_, left, right)| [name(left), name(right)]).collect())
    }

    /// Names with ids. Of two equal names the first counts.
    fn vocab(&self) -> Result<Vec<(&'a str, usize)>> {
        let mut seen = HashSet::with_capacity(self.tokens.len());
        let mut vocab = reserved("a vocabulary", self.tokens.len())?;
        vocab.extend(self.tokens.iter().copied().zip(0..).filter(|(name, _)| seen.insert(*name)));
        Ok(vocab)
    }

    /// Tokens of a type, with their ids.
    fn of_type(&self, kind: f64) -> impl Iterator<Item = (usize, &'a str)> {
        let typed = self.tokens.iter().zip(&self.types).enumerate();
        typed.filter(move |(_, (_, found))| **found == kind).map(|(id, (&name, _))| (id, name))
    }

    /// Tokens that are found by their names before anything else is done with a text.
    fn added(&self) -> Value {
        let special = [CONTROL, UNKNOWN].into_iter().flat_map(|kind| self.of_type(kind).map(|token| (token, true)));
        let all = special.chain(self.of_type(USER_DEFINED).map(|token| (token, false)));
        let mut all: Vec<((usize, &str), bool)> = all.filter(|((_, name), _)| !name.is_empty()).collect();
        all.sort_unstable();
        let token = |((id, name), special): ((usize, &str), bool)| {
            json!({ "id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": special })
        };
        all.into_iter().map(token).collect()
    }

    /// The post-processor: what is added before and after a text. `begins`: a beginning, where the metadata does not say.
    fn around(&self, begins: bool) -> Result<Value> {
        let wanted = |key: &str, default: bool| Ok::<bool, Error>(self.metadata.flag(key)?.unwrap_or(default));
        let mut single = vec![json!({ "Sequence": { "id": "A", "type_id": 0 } })];
        let mut pair = vec![single[0].clone(), json!({ "Sequence": { "id": "B", "type_id": 1 } })];
        let mut special = Map::new();
        for (key, id_key, default, front) in [
            ("tokenizer.ggml.add_bos_token", "tokenizer.ggml.bos_token_id", begins, true),
            ("tokenizer.ggml.add_eos_token", "tokenizer.ggml.eos_token_id", false, false),
        ] {
            let id = self.metadata.whole(id_key)?;
            let (Some(name), Some(id), true) = (self.named(id_key)?, id, wanted(key, default)?) else { continue };
            let piece = json!({ "SpecialToken": { "id": name, "type_id": 0 } });
            for pieces in [&mut single, &mut pair] {
                pieces.insert(if front { 0 } else { pieces.len() }, piece.clone());
            }
            special.insert(name.to_owned(), json!({ "id": name, "ids": [id], "tokens": [name] }));
        }
        if special.is_empty() {
            return Ok(Value::Null);
        }
        Ok(json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special }))
    }
}
