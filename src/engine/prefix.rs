//! Pinned prefixes: the caller's handle.
//!
//! A pin is computed by a sequence that the scheduler creates for it ([`crate::scheduler::Pin`]). It is not a request:
//! it has no events and counts neither as finished nor as cancelled. While it is being computed it counts against
//! the limits on requests. Its state crosses threads in a [`Cell`]; the engine thread's table is [`super::prefixes`]. Every
//! waiter gets an answer whatever happens to the engine (law 4): when the engine ends, the table fails all cells it still
//! holds.
//!
//! Saving and restoring do their file I/O on the caller's thread. The engine thread copies pages between two steps, at
//! most [`limits::PREFIX_PIECE_BYTES`] (and at least one page) per command, and the caller sends the next command only
//! after the reply to the last, so running streams continue in between. The pin keeps its pages allocated meanwhile. A
//! duty limit delays copies as it delays steps; a pause does not.

use super::host_thread::with_text;
use super::prefix_command::{Cell, Held, Piece, State, freed};
use super::prefix_file::{Reader, Writer, buffer};
use super::reply;
use super::{
    Answer, Command, Engine, Identity, Permit, PrefixCommand, Prompt, Shared, TextOptions, lock, refuse_blocking,
    refuse_in_callback, wait_for,
};
use crate::error::{Error, Result, copied};
use crate::limits;
use crate::os::{files, shortage};
use crate::text::EncodeLimits;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A pinned prefix: its whole pages stay in memory until it is freed or dropped.
pub struct Prefix {
    id: u64,
    cell: Arc<Cell>,
    shared: Arc<Shared>,
    identity: Arc<Identity>,
}

impl Prefix {
    /// Waits until the prefix is pinned and returns the number of pinned tokens: whole pages only, so 0 for less than
    /// one page. The number can shrink later, when a request cannot continue otherwise. `Ok(None)`: the timeout passed.
    /// With `None` it waits without limit, with zero it polls.
    ///
    /// # Errors
    /// The reason why it was not pinned: `Memory`, `QueueFull`, `Closed`, `Internal`. `Handle` when it was freed;
    /// `Reentrant`.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Option<usize>> {
        refuse_blocking(timeout, "wait")?;
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        let (_state, pinned) = wait_for(&self.cell.changed, lock(&self.cell.state), deadline, |state| match state {
            State::Ready(tokens) => Some(Ok(*tokens)),
            State::Failed(error) => Some(Err(error.clone())),
            State::Computing => None,
        });
        pinned.transpose()
    }

    /// Waits until the prefix is pinned and writes it to the file `path` atomically: afterwards the file is either the
    /// old one or the complete new one. The first save or restore of an engine reads all weights once, on the calling
    /// thread, to identify the model.
    ///
    /// # Errors
    /// As for [`Prefix::wait`]; `Io`, `Argument` when `path` names no file, `Memory` when the pin gave up pages
    /// meanwhile.
    pub fn save(&self, path: &Path) -> Result<()> {
        refuse_in_callback("save")?;
        shortage::forget();
        self.wait(None)?;
        // Before the file is created, because this may have to read all weights.
        let description = self.identity.description()?;
        let tokens = ask(&self.shared, |answer| PrefixCommand::Tokens(self.id, answer))?;
        shortage::check("the description of a prefix")?;
        let shown = path.to_string_lossy();
        files::replace(path, |file| {
            let mut writer = Writer::begin(file, &shown, description, &tokens)?;
            let pages = tokens.len() / self.identity.layout.page_tokens;
            self.pieces(0..pages, pages, |piece| {
                let bytes = ask(&self.shared, |answer| PrefixCommand::Read(piece, answer))?;
                writer.data(&bytes)?;
                Ok(bytes)
            })?;
            shortage::check("the file of a prefix")?;
            writer.end()
        })
    }

    /// Unpins the prefix, or stops computing it. Idempotent.
    pub fn free(&self) {
        self.cell.set(State::Failed(freed()));
        self.shared.mailbox.send_anyway(Command::Prefix(PrefixCommand::Free(self.id)));
    }

    /// Splits some of the `all` pages into pieces and calls `copy` with each in order; `copy` returns the buffer for reuse.
    fn pieces(
        &self,
        pages: std::ops::Range<usize>,
        all: usize,
        mut copy: impl FnMut(Piece) -> Result<Vec<u8>>,
    ) -> Result<()> {
        let (mut first_page, mut bytes) = (pages.start, Vec::new());
        while first_page < pages.end {
            let (mut end, mut wanted) = (first_page, 0usize);
            while end < pages.end && (end == first_page || wanted < limits::PREFIX_PIECE_BYTES) {
                wanted = wanted.saturating_add(self.identity.layout.page_bytes(end, all).unwrap_or(usize::MAX));
                end += 1;
            }
            if bytes.len() < wanted {
                bytes = buffer(wanted)?;
            }
            bytes.truncate(wanted);
            bytes = copy(Piece { id: self.id, first_page, pages: all, bytes, identity: self.identity.clone() })?;
            first_page = end;
        }
        Ok(())
    }

    /// Writes the pages from index `there` on from a file; the pin shares the ones before from the prefix cache.
    fn fill(&self, reader: &mut Reader, there: usize) -> Result<()> {
        let pages = reader.tokens.len() / self.identity.layout.page_tokens;
        self.pieces(0..there.min(pages), pages, |mut piece| {
            // The prefix cache has these pages with the same bits; they are read from the file for the checksum only.
            reader.data(&mut piece.bytes)?;
            Ok(piece.bytes)
        })?;
        self.pieces(there.min(pages)..pages, pages, |mut piece| {
            reader.data(&mut piece.bytes)?;
            ask(&self.shared, |answer| PrefixCommand::Write(piece, answer))
        })?;
        reader.end()?;
        ask(&self.shared, |answer| PrefixCommand::Adopted(self.id, answer))
    }
}

impl Drop for Prefix {
    fn drop(&mut self) {
        self.free();
    }
}

/// Sends a command and waits for the reply.
fn ask<T>(shared: &Shared, command: impl FnOnce(Answer<T>) -> PrefixCommand) -> Result<T> {
    reply::ask(|answer| shared.mailbox.send(Command::Prefix(command(answer))))
}

impl Engine {
    /// The identity of this engine's prefixes; an error if it is closed or was opened without weights.
    fn prefix_identity(&self) -> Result<&Arc<Identity>> {
        self.open_or_closed()?;
        if let Some(abilities) = &self.abilities {
            abilities.check_prefix()?;
        }
        let message = "the engine was opened for text only; open it with weights to keep prefixes";
        self.identity.as_ref().ok_or_else(|| Error::unsupported(message))
    }

    fn new_prefix(&self, identity: &Arc<Identity>, permit: Option<Permit>) -> (Prefix, Held) {
        let identity = identity.clone();
        let (id, cell) = (self.shared.ids.fetch_add(1, Ordering::Relaxed), Cell::new());
        let held = Held { id, cell: cell.clone(), pin: None, permit };
        (Prefix { id, cell, shared: self.shared.clone(), identity }, held)
    }

    /// Starts pinning the whole pages at the beginning of a prompt. Pages that are not in the prefix cache are computed
    /// like a request of priority 0. A chat is rendered without the generation prompt. Does not wait for a step;
    /// [`Prefix::wait`] does.
    ///
    /// # Errors
    /// As for [`Engine::submit`].
    pub fn pin_prefix(&self, prompt: &Prompt) -> Result<Prefix> {
        let identity = self.prefix_identity()?;
        shortage::forget();
        let options = TextOptions { no_generation_prompt: true, ..TextOptions::default() };
        let (context, mut go_on) = (self.info.context_length as usize, || self.open_or_closed());
        let tokens = with_text(|| self.text.prepare(prompt, options, &mut EncodeLimits::new(context, &mut go_on)))?;
        let tokens = tokens.tokens;
        self.text.warn_of_two_begins(&tokens, &self.shared);
        let permit = Permit::take(&self.shared.pending, self.pending_max())?;
        let (prefix, held) = self.new_prefix(identity, Some(permit));
        shortage::check("a prefix")?;
        self.shared.mailbox.send(Command::Prefix(PrefixCommand::Pin(held, tokens)))?;
        Ok(prefix)
    }

    /// Pins a prefix that [`Prefix::save`] wrote, with the same model in the same configuration. On failure nothing
    /// changes. The first save or restore of an engine reads all weights once, on the calling thread, to compare them
    /// with the file's.
    ///
    /// # Errors
    /// `Io`; `Format` for a damaged file; `Mismatch`, with both values, for a file of another model, tier, device, data
    /// type or page layout; `Context` and `Memory`, in tokens, when it does not fit; `Closed`, `Unsupported`,
    /// `Reentrant`.
    pub fn restore_prefix(&self, path: &Path) -> Result<Prefix> {
        refuse_in_callback("restore")?;
        let identity = self.prefix_identity()?;
        shortage::forget();
        let mut reader = Reader::open(path, identity)?;
        let (prefix, held) = self.new_prefix(identity, None);
        let tokens = copied("token ids", &reader.tokens)?;
        shortage::check("a prefix")?;
        let there = ask(&self.shared, |answer| PrefixCommand::Adopt(held, tokens, answer))?;
        prefix.fill(&mut reader, there)?;
        Ok(prefix)
    }
}
