//! Pinned prefixes: the caller's handle, and the engine thread's table of them.
//!
//! A pin is computed by a sequence that the scheduler creates for it ([`crate::scheduler::Pin`]). It is not a request:
//! it has no events and counts neither as finished nor as cancelled. While it is being computed it counts against
//! the limits on requests. Its state crosses threads in a [`Cell`]. Every waiter gets an answer whatever happens to the
//! engine (law 4): when the engine ends, the table fails all cells it still holds.
//!
//! Saving and restoring do their file I/O on the caller's thread. The engine thread copies pages between two steps, at
//! most [`limits::PREFIX_PIECE_BYTES`] (and at least one page) per command, and the caller sends the next command only
//! after the reply to the last, so running streams continue in between. The pin keeps its pages allocated meanwhile. A
//! duty limit delays copies as it delays steps; a pause does not.

use super::active::panicked;
use super::delivery::{closed, lock, wait_until};
use super::host_thread::with_text;
use super::identity::Identity;
use super::model_runner::ModelRunner;
use super::prefix_file::{Reader, Writer, buffer};
use super::{Answer, Engine, LogLevel, Prompt, Reply, Shared, TextOptions, refuse_blocking, refuse_in_callback};
use crate::cache::SequenceHandle;
use crate::error::{Error, Result, Status, copied};
use crate::limits;
use crate::os::{files, shortage};
use crate::text::EncodeLimits;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Commands to the engine thread about prefixes.
pub(super) enum Command {
    /// Pin these tokens; pages that are not in the prefix cache are computed.
    Pin(Held, Vec<u32>),
    /// Pin these tokens, whose missing pages the caller will write. Replies with the number of pages found in the
    /// prefix cache.
    Adopt(Held, Vec<u32>, Answer<usize>),
    /// Write the contents of some pages of an adopted pin.
    Write(Piece, Answer<Vec<u8>>),
    /// All pages of the adopted pin have been written.
    Adopted(u64, Answer),
    /// Reply with the pinned tokens.
    Tokens(u64, Answer<Vec<u32>>),
    /// Copy the contents of some pages into the piece's buffer.
    Read(Piece, Answer<Vec<u8>>),
    Free(u64),
}

impl Command {
    /// Whether the command copies pages, which counts as work under a duty limit.
    pub fn is_copy(&self) -> bool {
        matches!(self, Command::Write(..) | Command::Read(..))
    }
}

/// Consecutive pages of a pin, copied to or from the device; the reply returns the buffer.
pub(super) struct Piece {
    id: u64,
    first_page: usize,
    bytes: Vec<u8>,
    identity: Arc<Identity>,
}

enum State {
    Computing,
    /// The number of pinned tokens.
    Ready(usize),
    Failed(Error),
}

/// The state of one prefix, shared by the engine thread and the threads that wait for it.
struct Cell {
    state: Mutex<State>,
    changed: Condvar,
}

impl Cell {
    fn new() -> Arc<Cell> {
        Arc::new(Cell { state: Mutex::new(State::Computing), changed: Condvar::new() })
    }

    /// Sets the state and wakes the waiters; a no-op after `Failed`, which is final.
    fn set(&self, new: State) {
        let mut state = lock(&self.state);
        if !matches!(*state, State::Failed(_)) {
            *state = new;
            self.changed.notify_all();
        }
    }
}

/// One of the places of running and waiting requests (`Shared::pending`), given back on drop.
struct QueuePermit(Arc<Shared>);

impl Drop for QueuePermit {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A prefix as the engine thread holds it. Dropping it fails the threads that still wait.
pub(super) struct Held {
    id: u64,
    cell: Arc<Cell>,
    pin: Option<SequenceHandle>,
    /// Present while the prefix is being computed.
    permit: Option<QueuePermit>,
}

impl Held {
    fn fail(&mut self, error: Error) {
        self.permit = None;
        self.cell.set(State::Failed(error));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.fail(if std::thread::panicking() { panicked() } else { closed() });
    }
}

/// The engine thread's table of prefixes.
#[derive(Default)]
pub(super) struct Prefixes {
    held: Vec<Held>,
}

impl Prefixes {
    /// Executes one command. With a `refusal`, every command but `Free` fails with it.
    pub fn handle(&mut self, command: Command, runner: &mut ModelRunner, shared: &Shared, refusal: Option<Error>) {
        match (command, refusal) {
            (Command::Free(id), _) => self.free(id, runner),
            (Command::Pin(mut held, tokens), None) => match runner.scheduler.pin(tokens) {
                Ok(pin) => self.hold(held, pin),
                Err(error) => held.fail(error),
            },
            (Command::Adopt(mut held, tokens, answer), None) => {
                let adopted = runner.scheduler.adopt(tokens);
                answer.put(match adopted {
                    Ok((pin, there)) => {
                        self.hold(held, pin);
                        Ok(there)
                    }
                    Err(error) => {
                        held.fail(error.clone());
                        Err(error)
                    }
                });
            }
            (Command::Write(piece, answer), None) => answer.put(self.write(piece, runner)),
            (Command::Read(piece, answer), None) => answer.put(self.read(piece, runner)),
            (Command::Tokens(id, answer), None) => {
                let pinned = self.pin(id).and_then(|pin| runner.scheduler.pinned(pin));
                answer.put(pinned.ok_or_else(freed).and_then(|pin| copied("token ids", pin.tokens())));
            }
            (Command::Adopted(id, answer), None) => {
                self.pin(id).into_iter().for_each(|pin| runner.scheduler.adopted(pin));
                // Before the reply: its receiver may read the state at once.
                self.note(runner, shared);
                answer.put(Ok(()));
            }
            (Command::Pin(mut held, _), Some(error)) => held.fail(error),
            (Command::Adopt(mut held, _, answer), Some(error)) => {
                held.fail(error.clone());
                answer.put(Err(error));
            }
            (Command::Write(_, answer) | Command::Read(_, answer), Some(error)) => answer.put(Err(error)),
            (Command::Tokens(_, answer), Some(error)) => answer.put(Err(error)),
            (Command::Adopted(_, answer), Some(error)) => answer.put(Err(error)),
        }
    }

    fn hold(&mut self, mut held: Held, pin: SequenceHandle) {
        held.pin = Some(pin);
        self.held.push(held);
    }

    fn pin(&self, id: u64) -> Option<SequenceHandle> {
        self.held.iter().find(|h| h.id == id)?.pin
    }

    fn free(&mut self, id: u64, runner: &mut ModelRunner) {
        if let Some(at) = self.held.iter().position(|h| h.id == id) {
            let held = self.held.swap_remove(at);
            held.pin.into_iter().for_each(|pin| runner.scheduler.unpin(pin));
        }
    }

    /// Publishes what the scheduler changed about pins: prefixes that became ready, and a warning for tokens given up.
    /// Cheap when nothing changed.
    pub fn note(&mut self, runner: &mut ModelRunner, shared: &Shared) {
        let news = runner.scheduler.pin_news();
        if !news.changed {
            return;
        }
        for held in &mut self.held {
            let pin = held.pin.and_then(|pin| runner.scheduler.pinned(pin));
            if let Some(pin) = pin.filter(|p| p.is_ready()) {
                held.permit = None;
                held.cell.set(State::Ready(pin.tokens().len()));
            }
        }
        if news.given_up > 0 {
            shared.log(LogLevel::Warn, || {
                format!(
                    "pinned prefixes gave up {} tokens, because a request had no other way to go on; raise memory_budget or pin less",
                    news.given_up
                )
            });
        }
    }

    /// The engine is closing: unpins prefixes that are still being computed and fails their waiters.
    pub fn stop_computing(&mut self, runner: &mut ModelRunner) {
        let scheduler = &mut runner.scheduler;
        self.held.retain(|held| {
            let pin = held.pin.filter(|&pin| scheduler.pinned(pin).is_some_and(|p| !p.is_ready()));
            pin.into_iter().for_each(|pin| scheduler.unpin(pin));
            pin.is_none()
        });
    }

    /// Fails all prefixes, after a panic.
    pub fn fail_all(&mut self, error: impl Fn() -> Error) {
        self.held.drain(..).for_each(|mut held| held.fail(error()));
    }

    /// Calls `copy` with group, frame and bytes, for each layer group of each page of a piece.
    fn each_frame(
        &self,
        piece: &mut Piece,
        runner: &mut ModelRunner,
        mut copy: impl FnMut(&mut ModelRunner, usize, u32, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let pin = self.pin(piece.id).ok_or_else(freed)?;
        let page_bytes =
            piece.identity.layout.page_bytes().filter(|&b| b > 0).ok_or_else(|| Error::internal("empty pages"))?;
        for (page, bytes) in (piece.first_page..).zip(piece.bytes.chunks_exact_mut(page_bytes)) {
            let mut rest = bytes;
            for (group, &frame_bytes) in piece.identity.layout.frame_bytes.iter().enumerate() {
                let (part, more) = rest.split_at_mut(frame_bytes);
                rest = more;
                let pinned = runner.scheduler.pinned(pin).ok_or_else(freed)?;
                let frame = *pinned.frames(group).get(page).ok_or_else(gave_way)?;
                copy(runner, group, frame, part)?;
            }
        }
        Ok(())
    }

    fn write(&self, mut piece: Piece, runner: &mut ModelRunner) -> Result<Vec<u8>> {
        self.each_frame(&mut piece, runner, |m, group, frame, bytes| {
            let pages = m.model.pages(group).ok_or_else(|| Error::internal("no such layer group"))?;
            m.backend.write_page(pages, frame, bytes)
        })?;
        Ok(piece.bytes)
    }

    fn read(&self, mut piece: Piece, runner: &mut ModelRunner) -> Result<Vec<u8>> {
        self.each_frame(&mut piece, runner, |m, group, frame, bytes| {
            let pages = m.model.pages(group).ok_or_else(|| Error::internal("no such layer group"))?;
            m.backend.read_page(pages, frame, bytes)
        })?;
        Ok(piece.bytes)
    }
}

fn freed() -> Error {
    Error::new(Status::Handle, "the prefix was freed").about("prefix")
}

fn gave_way() -> Error {
    let message = "the prefix gave pages up meanwhile, because a request had no other way to go on; try again, pin less or raise memory_budget";
    Error::new(Status::Memory, message).about("memory_budget")
}

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
        let mut state = lock(&self.cell.state);
        loop {
            match &*state {
                State::Ready(tokens) => return Ok(Some(*tokens)),
                State::Failed(error) => return Err(error.clone()),
                State::Computing => {}
            }
            let (again, in_time) = wait_until(&self.cell.changed, state, deadline);
            state = again;
            if !in_time {
                return Ok(None);
            }
        }
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
        let tokens = ask(&self.shared, |answer| Command::Tokens(self.id, answer))?;
        shortage::check("the description of a prefix")?;
        let shown = path.to_string_lossy();
        files::replace(path, |file| {
            let mut writer = Writer::begin(file, &shown, description, &tokens)?;
            let pages = tokens.len() / self.identity.layout.page_tokens;
            self.pieces(0..pages, |piece| {
                let bytes = ask(&self.shared, |answer| Command::Read(piece, answer))?;
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
        self.shared.send_anyway(super::Command::Prefix(Command::Free(self.id)));
    }

    /// Splits `pages` into pieces and calls `copy` with each in order; `copy` returns the buffer for reuse.
    fn pieces(&self, pages: std::ops::Range<usize>, mut copy: impl FnMut(Piece) -> Result<Vec<u8>>) -> Result<()> {
        let page_bytes = self.identity.layout.page_bytes().unwrap_or(0).max(1);
        let most = (limits::PREFIX_PIECE_BYTES / page_bytes).max(1);
        let mut bytes = Vec::new();
        for first_page in pages.clone().step_by(most) {
            let wanted = most.min(pages.end - first_page) * page_bytes;
            if bytes.len() < wanted {
                bytes = buffer(wanted)?;
            }
            bytes.truncate(wanted);
            bytes = copy(Piece { id: self.id, first_page, bytes, identity: self.identity.clone() })?;
        }
        Ok(())
    }

    /// Writes the pages from index `there` on from a file; the pin shares the ones before from the prefix cache.
    fn fill(&self, reader: &mut Reader, there: usize) -> Result<()> {
        let pages = reader.tokens.len() / self.identity.layout.page_tokens;
        self.pieces(0..there.min(pages), |mut piece| {
            // The prefix cache has these pages with the same bits; they are read from the file for the checksum only.
            reader.data(&mut piece.bytes)?;
            Ok(piece.bytes)
        })?;
        self.pieces(there.min(pages)..pages, |mut piece| {
            reader.data(&mut piece.bytes)?;
            ask(&self.shared, |answer| Command::Write(piece, answer))
        })?;
        reader.end()?;
        ask(&self.shared, |answer| Command::Adopted(self.id, answer))
    }
}

impl Drop for Prefix {
    fn drop(&mut self) {
        self.free();
    }
}

/// Sends a command and waits for the reply.
fn ask<T>(shared: &Shared, command: impl FnOnce(Answer<T>) -> Command) -> Result<T> {
    let reply = Arc::new(Reply::default());
    shared.send(super::Command::Prefix(command(Answer(reply.clone()))))?;
    reply.wait()
}

impl Engine {
    /// The identity of this engine's prefixes; an error if it is closed or was opened without weights.
    fn prefix_identity(&self) -> Result<&Arc<Identity>> {
        self.open_or_closed()?;
        let message = "the engine was opened for text only; open it with weights to keep prefixes";
        self.identity.as_ref().ok_or_else(|| Error::unsupported(message))
    }

    fn new_prefix(&self, identity: &Arc<Identity>, permit: Option<QueuePermit>) -> (Prefix, Held) {
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
        self.shared.warn_of_two_begins(&self.text, &tokens);
        self.reserve_place()?;
        let (prefix, held) = self.new_prefix(identity, Some(QueuePermit(self.shared.clone())));
        shortage::check("a prefix")?;
        self.shared.send(super::Command::Prefix(Command::Pin(held, tokens)))?;
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
        let there = ask(&self.shared, |answer| Command::Adopt(held, tokens, answer))?;
        prefix.fill(&mut reader, there)?;
        Ok(prefix)
    }
}
