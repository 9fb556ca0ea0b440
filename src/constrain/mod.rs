//! What an answer may be: constraints compiled from JSON schemas, regular expressions and grammars, as sets of tokens.
//!
//! A [`Grammar`] is compiled once for a vocabulary and serves any number of requests; it never changes. Each request has a
//! [`Matcher`] of its own, which knows the tokens of one answer, so that what one request did has no influence on another. Both are
//! traits: [`compile()`] makes the implementation that uses the parser of llguidance (`vendor/guidance`), tests have others.
//!
//! [`answer`] reads what a model has written as parts: content, reasoning, and calls of tools. [`compile_answer`] makes the grammars of whole
//! answers, in which calls are those of the tools that there are, and reasoning ends in time.
//!
//! Matchers run on threads of the library: they need stack, and may take long, see [`crate::engine`].

pub mod answer;
mod compile;
mod guided;
mod rules;
mod schema;
#[cfg(test)]
mod tests;
mod vocabulary;

pub use crate::sampling::mask_words;
pub use compile::{Kind, compile};
pub use rules::{AnswerGrammar, AnswerRules, Tool, ToolChoice, compile_answer};
pub use vocabulary::{TokenTrie, fingerprint};

use crate::error::Result;

/// A compiled constraint.
pub trait Grammar: Send + Sync {
    /// A matcher at the beginning of an answer.
    ///
    /// # Errors
    /// `Memory`, `Limit`.
    fn matcher(&self) -> Result<Box<dyn Matcher>>;
}

/// The state of one answer under a constraint.
pub trait Matcher: Send {
    /// Sets the bits of the tokens that may follow in `mask`, bit `id % 32` of word `id / 32`, and clears the others. True when the
    /// answer may end here. End tokens are not among those set: the caller adds them where the answer may end.
    ///
    /// # Errors
    /// `Unsupported` when the constraint turns out to be too complex.
    fn allowed(&mut self, mask: &mut [u32]) -> Result<bool>;

    /// Appends a token, which [`Matcher::allowed`] allowed.
    ///
    /// # Errors
    /// `Internal` when it was not allowed; as [`Matcher::allowed`].
    fn accept(&mut self, token: u32) -> Result<()>;

    /// A copy that goes on by itself; `None` where there can be none, so that answers under it have no drafts.
    fn fork(&self) -> Option<Box<dyn Matcher>> {
        None
    }
}

/// Whether a mask has a token.
pub fn is_set(mask: &[u32], token: u32) -> bool {
    mask.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
}

/// Takes a token out of a mask.
pub fn clear(mask: &mut [u32], token: u32) {
    if let Some(word) = mask.get_mut(token as usize / 32) {
        *word &= !(1 << (token % 32));
    }
}

/// Adds a token to a mask; one beyond its words is ignored.
pub fn set(mask: &mut [u32], token: u32) {
    if let Some(word) = mask.get_mut(token as usize / 32) {
        *word |= 1 << (token % 32);
    }
}
