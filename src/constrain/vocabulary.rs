//! The bytes of all tokens, in a tree that a parser walks to find those that may follow.

use crate::error::{Error, Result, filled};
use crate::limits;
use crate::os::shortage;
use crate::text::Tokenizer;
use astrai_guidance::earley::SlicedBiasComputer;
use astrai_guidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use std::sync::Arc;

/// The tokens of a model as a tree of their bytes. Made once for an engine; its constraints share it.
pub struct TokenTrie {
    pub(super) env: TokEnv,
    /// Parts of the tree for which whole sets of tokens are known beforehand.
    pub(super) slices: Arc<SlicedBiasComputer>,
    bytes: u64,
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
        let mut bytes = 0;
        for (id, word) in (0u32..).zip(&mut words) {
            if tokenizer.is_special(id) {
                // A marker that no text has, so that text is never mistaken for the token.
                *word = tokenizer
                    .token(id)
                    .map_or(Vec::new(), |name| [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat());
            } else if tokenizer.is_named(id) {
                *word = tokenizer.token_bytes(id)?;
            }
            bytes += word.len();
        }
        let estimate = bytes.saturating_add(words.len()).saturating_mul(limits::TOKEN_TRIE_MEMORY_FACTOR);
        let made = shortage::backed(what, estimate, || {
            let trie = TokTrie::from(&TokRxInfo::new(vocab as u32, 0), &words);
            let env: TokEnv = Arc::new(Env(trie));
            SlicedBiasComputer::new(&env, &SlicedBiasComputer::general_slices()).map(|slices| (env, Arc::new(slices)))
        })?;
        let (env, slices) = made.map_err(|e| Error::internal(format!("{what} cannot be made: {e}")))?;
        Ok(TokenTrie { env, slices, bytes: estimate as u64 })
    }

    /// About what it takes of memory, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn trie(&self) -> &TokTrie {
        self.env.tok_trie()
    }
}
