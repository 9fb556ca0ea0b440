//! The bytes of all tokens, in a tree that a parser walks to find those that may follow.

use crate::error::{Error, Result, filled};
use crate::limits;
use crate::os::shortage;
use crate::text::Tokenizer;
use astrai_guidance::earley::SlicedBiasComputer;
use astrai_guidance::toktrie::{INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

/// The tokens of a model as a tree of their bytes. Made once for an engine; its constraints share it.
pub struct TokenTrie {
    pub(super) env: TokEnv,
    /// Parts of the tree for which whole sets of tokens are known beforehand.
    pub(super) slices: Arc<SlicedBiasComputer>,
    bytes: u64,
    fingerprint: u64,
}

/// What a token stands for. Special ones begin with a marker that no text has, so that text is never mistaken for them.
fn word_of(tokenizer: &Tokenizer, id: u32) -> Result<Vec<u8>> {
    if tokenizer.is_special(id) {
        let name = tokenizer.token(id).unwrap_or_default();
        return Ok([&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat());
    }
    tokenizer.token_bytes(id)
}

fn note(hash: &mut Xxh3, word: &[u8]) {
    hash.update(&(word.len() as u64).to_le_bytes());
    hash.update(word);
}

/// A number that tells vocabularies apart: of all tokens below `vocab`, what they stand for.
///
/// # Errors
/// As [`TokenTrie::new`].
pub fn fingerprint(tokenizer: &Tokenizer, vocab: usize) -> Result<u64> {
    let mut hash = Xxh3::new();
    for id in 0..vocab as u32 {
        note(&mut hash, &word_of(tokenizer, id)?);
    }
    Ok(hash.digest())
}

/// What the parser asks of a tokenizer: nothing but the tree. Answers are tokenized by the model.
struct Env(TokTrie);

impl TokenizerEnv for Env {
    fn tok_trie(&self) -> &TokTrie {
        &self.0
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.0.greedy_tokenize(bytes)
    }

    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}

impl TokenTrie {
    /// The tree of a tokenizer's tokens below `vocab`, the vocabulary size of the model. It takes a second for 250,000 tokens.
    ///
    /// # Errors
    /// `Unsupported` for a tokenizer whose tokens have no bytes of their own; `Memory`.
    pub fn new(tokenizer: &Tokenizer, vocab: usize) -> Result<TokenTrie> {
        let what = "the tree of a vocabulary";
        let mut words: Vec<Vec<u8>> = filled(what, vocab, Vec::new())?;
        let (mut bytes, mut hash) = (0, Xxh3::new());
        for (id, word) in (0u32..).zip(&mut words) {
            *word = word_of(tokenizer, id)?;
            bytes += word.len();
            note(&mut hash, word);
        }
        let estimate = bytes.saturating_add(words.len()).saturating_mul(limits::TOKEN_TRIE_MEMORY_FACTOR);
        let made = shortage::backed(what, estimate, || {
            let trie = TokTrie::from(&TokRxInfo::new(vocab as u32, INVALID_TOKEN), &words);
            let env: TokEnv = Arc::new(Env(trie));
            SlicedBiasComputer::new(&env, &SlicedBiasComputer::general_slices()).map(|slices| (env, Arc::new(slices)))
        })?;
        let (env, slices) = made.map_err(|e| Error::internal(format!("{what} cannot be made: {e}")))?;
        Ok(TokenTrie { env, slices, bytes: estimate as u64, fingerprint: hash.digest() })
    }

    /// About what it takes of memory, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// As [`fingerprint`].
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    pub(super) fn trie(&self) -> &TokTrie {
        self.env.tok_trie()
    }
}
