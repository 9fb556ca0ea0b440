//! The tokens of one text while they are made: counted, and with a look at whether anybody still wants them.

use super::expression::Effort;
use crate::error::{Error, Result, Status, Unit};
#[cfg(doc)]
use crate::limits::SEARCH_EFFORT_FACTOR;
use crate::limits::{COUNTED_BYTES_MAX, SEARCH_EFFORT_FREE, TEXT_PIECE_BYTES};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What an encoding may cost, and who may end it.
pub struct EncodeLimits<'a> {
    /// More tokens than these are [`Status::Context`], but for prompts with up to [`COUNTED_BYTES_MAX`] of text: those are
    /// encoded to their end, so that the caller can say by how much they are too long. `usize::MAX`: as many as there are.
    pub tokens: usize,
    /// Of these, tokens that the prompt has at least beside this text.
    pub other_tokens: usize,
    /// Bytes of text that the prompt has beside this text.
    pub other_bytes: usize,
    /// Bytes that expressions have read or tried for the prompt, as [`SEARCH_EFFORT_FACTOR`] counts them.
    pub searched: usize,
    /// Asked after every piece of text, of about [`TEXT_PIECE_BYTES`]; what it fails with ends the encoding.
    pub go_on: &'a mut dyn FnMut() -> Result<()>,
    /// Set by others when nobody wants the prompt any more: ends the chat template, which has no pieces.
    pub stop: Option<Arc<AtomicBool>>,
}

impl<'a> EncodeLimits<'a> {
    /// Limits of a whole prompt.
    pub fn new(tokens: usize, go_on: &'a mut dyn FnMut() -> Result<()>) -> EncodeLimits<'a> {
        EncodeLimits { tokens, other_tokens: 0, other_bytes: 0, searched: 0, go_on, stop: None }
    }

    /// Refuses a prompt of so many bytes of text and at least so many tokens that cannot fit and is not counted to its end.
    ///
    /// # Errors
    /// [`Status::Context`].
    pub fn check(&self, bytes: usize, at_least: usize) -> Result<()> {
        let bytes = self.other_bytes.saturating_add(bytes);
        match self.other_tokens.saturating_add(at_least) {
            tokens if tokens > self.tokens && bytes > COUNTED_BYTES_MAX => Err(too_long(bytes, tokens, self.tokens)),
            _ => Ok(()),
        }
    }
}

/// Token ids that become more.
pub(crate) struct Output<'a, 'b> {
    pub ids: Vec<u32>,
    limits: &'a mut EncodeLimits<'b>,
    /// Tokens that the text itself may have.
    room: usize,
    /// Tokens of the prompt that are not of this text.
    fixed: usize,
    /// Bytes of all of the text.
    text_bytes: usize,
    /// Most bytes of text that one token can be; none when there is no such number.
    bytes_per_token: Option<usize>,
    /// Bytes encoded since the last look.
    unseen: usize,
}

impl<'a, 'b> Output<'a, 'b> {
    /// `added`: tokens that the post-processor will add.
    ///
    /// # Errors
    /// [`Status::Context`] when the text cannot fit, however it is encoded.
    pub(crate) fn new(
        limits: &'a mut EncodeLimits<'b>,
        added: usize,
        text_bytes: usize,
        bytes_per_token: Option<usize>,
    ) -> Result<Output<'a, 'b>> {
        let fixed = limits.other_tokens.saturating_add(added);
        let room = limits.tokens.saturating_sub(fixed);
        let out = Output { ids: Vec::new(), limits, room, fixed, text_bytes, bytes_per_token, unseen: 0 };
        match out.at_least() {
            Some(tokens) if tokens > out.room && !out.is_counted() => Err(out.too_long(tokens)),
            _ => Ok(out),
        }
    }

    /// Bytes of text of the whole prompt.
    fn prompt_bytes(&self) -> usize {
        self.text_bytes.saturating_add(self.limits.other_bytes)
    }

    /// Whether the prompt is encoded to its end, however many tokens it has.
    fn is_counted(&self) -> bool {
        self.prompt_bytes() <= COUNTED_BYTES_MAX
    }

    /// The fewest tokens of a text of this length.
    fn at_least(&self) -> Option<usize> {
        self.bytes_per_token.map(|most| self.text_bytes.div_ceil(most.max(1)))
    }

    fn too_long(&self, text_tokens: usize) -> Error {
        too_long(self.prompt_bytes(), text_tokens.saturating_add(self.fixed), self.limits.tokens)
    }

    /// One more token.
    pub(crate) fn push(&mut self, id: u32) -> Result<()> {
        if self.ids.len() == self.ids.capacity() {
            let more = self.ids.len().max(1024);
            self.ids.try_reserve(more).map_err(|_| Error::memory("the tokens of a prompt", (more * 8) as u64))?;
        }
        self.ids.push(id);
        if self.ids.len() > self.room && !self.is_counted() {
            return Err(self.too_long(self.ids.len().max(self.at_least().unwrap_or(0))));
        }
        Ok(())
    }

    /// So many bytes of text are done.
    pub(crate) fn worked(&mut self, bytes: usize) -> Result<()> {
        self.unseen = self.unseen.saturating_add(bytes);
        if self.unseen < TEXT_PIECE_BYTES { Ok(()) } else { self.check() }
    }

    /// Expressions have read or tried so many bytes.
    ///
    /// # Errors
    /// [`Status::Unsupported`] when that is too much for the prompt; what the look at whether it is wanted fails with.
    pub(crate) fn searched(&mut self, read: usize) -> Result<()> {
        let mut effort = Effort::new(self.prompt_bytes(), SEARCH_EFFORT_FREE);
        effort.add(self.limits.searched)?;
        effort.add(read)?;
        self.limits.searched = self.limits.searched.saturating_add(read);
        self.worked(read)
    }

    /// Ends the encoding if nobody wants it any more.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.unseen = 0;
        (self.limits.go_on)()
    }
}

/// The error of a prompt that was not counted to its end: of so many bytes of text and tokens at least.
pub(super) fn too_long(bytes: usize, tokens: usize, most: usize) -> Error {
    let needed = tokens.max(most.saturating_add(1));
    let message = format!(
        "the prompt has {bytes} bytes of text and at least {needed} tokens, perhaps more; the context holds {most}"
    );
    Error::new(Status::Context, message).about("prompt").numbers(Unit::Tokens, needed as u64, most as u64)
}
