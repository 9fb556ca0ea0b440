//! The text of a request while its tokens come in.
//!
//! Invariant: all that [`TextStream::push`] and [`TextStream::finish`] append is what [`Tokenizer::decode`] makes of
//! the same ids, and every piece is whole UTF-8. The state is that of the decoder's stages: an unfinished character
//! (three bytes at most) and a few counters; a genuine U+FFFD passes like any other character.

use std::sync::Arc;

use super::decoder::Memory;
use super::tokenizer::Tokenizer;
use crate::error::Result;

/// Incremental detokenizer of one request.
#[derive(Debug)]
pub struct TextStream {
    tokenizer: Arc<Tokenizer>,
    keep_special: bool,
    memory: Vec<Memory>,
}

impl TextStream {
    /// A stream before its first token. Special tokens give text only with `keep_special`.
    pub fn new(tokenizer: Arc<Tokenizer>, keep_special: bool) -> TextStream {
        let memory = tokenizer.chain().memory();
        TextStream { tokenizer, keep_special, memory }
    }

    /// Takes the next token and appends the text that became certain, possibly none.
    pub fn push(&mut self, id: u32, out: &mut String) -> Result<()> {
        match self.tokenizer.decoded_name(id, self.keep_special) {
            Some(name) => self.tokenizer.chain().push(&mut self.memory, name, out),
            None => Ok(()),
        }
    }

    /// No more tokens: appends what was held back, and is ready for another answer.
    pub fn finish(&mut self, out: &mut String) -> Result<()> {
        self.tokenizer.chain().finish(&mut self.memory, out)
    }
}

#[cfg(test)]
pub(super) mod tests { pub struct Random(pub u64); impl Random { pub fn below(&mut self, n: usize) -> usize { n } } }
