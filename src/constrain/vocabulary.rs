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
    /// Names and ids of the special tokens, the longest first.
    specials: Vec<(String, u32)>,
    /// Tokens that stand for the same bytes as one in the tree, which has only one of them: that one, and the other.
    doubles: Vec<(u32, u32)>,
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
        let estimate = bytes.saturating_mul(limits::TOKEN_TRIE_MEMORY_FACTOR);
        let estimate = estimate.saturating_add(usize::try_from(Self::kept_bytes(vocab)).unwrap_or(usize::MAX));
        let made = shortage::backed(what, estimate, || {
            let marked = |word: &Vec<u8>| word.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER);
            let name = |word: &Vec<u8>| String::from_utf8(word.get(1..)?.to_vec()).ok().filter(|name| !name.is_empty());
            let names = (0u32..).zip(&words).filter(|(_, word)| marked(word));
            let mut specials: Vec<(String, u32)> = names.filter_map(|(id, word)| Some((name(word)?, id))).collect();
            specials.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
            let trie = TokTrie::from(&TokRxInfo::new(vocab as u32, INVALID_TOKEN), &words);
            let other = |id: u32, word: &[u8]| {
                trie.token_id_at_bytes(word).filter(|found| *found != id).map(|found| (found, id))
            };
            let named = (0u32..).zip(&words).filter(|(_, word)| !word.is_empty());
            let doubles: Vec<(u32, u32)> = named.filter_map(|(id, word)| other(id, word)).collect();
            let env: TokEnv = Arc::new(Env(trie));
            let slices = SlicedBiasComputer::new(&env, &SlicedBiasComputer::general_slices());
            slices.map(|slices| (env, Arc::new(slices), specials, doubles))
        })?;
        let (env, slices, specials, doubles) =
            made.map_err(|e| Error::internal(format!("{what} cannot be made: {e}")))?;
        Ok(TokenTrie { env, slices, specials, doubles, fingerprint: hash.digest() })
    }

    /// What the tree of so many tokens keeps of memory at most, in bytes, if they are as long as those of natural languages.
    pub fn kept_bytes(vocab: usize) -> u64 {
        (limits::TOKEN_TRIE_BYTES + vocab * limits::TOKEN_TRIE_BYTES_PER_TOKEN) as u64
    }

    /// As [`fingerprint`].
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Names and ids of the special tokens, the longest first.
    pub(super) fn specials(&self) -> &[(String, u32)] {
        &self.specials
    }

    /// Tokens that stand for the same bytes as one in the tree: that one, and the other.
    pub(super) fn doubles(&self) -> &[(u32, u32)] {
        &self.doubles
    }

    pub(super) fn trie(&self) -> &TokTrie {
        self.env.tok_trie()
    }
}
