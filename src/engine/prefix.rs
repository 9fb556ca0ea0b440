//! Pinned prefixes: the caller's handle, and the engine thread's table of them.
//!
//! A pin is computed by a sequence that the scheduler makes of it ([`crate::scheduler::Pin`]); it is no request: nobody gets
//! events, and it counts neither as finished nor as cancelled. While it is computed it takes a place in the waiting line
//! like one. Its state crosses threads in a [`Cell`]; whoever waits there gets an answer whatever happens to the engine
//! (law 4): the table fails the cells that it still holds when the engine ends.
//!
//! Saving and restoring do their file I/O on the caller's thread. The engine thread copies pages in pieces of
//! [`limits::PREFIX_PIECE_BYTES`] between two steps, one piece for each command, and a caller sends the next after the answer to
//! the last: running streams go on in between. The pin keeps the pages meanwhile. Under a duty limit copying is work like a
//! step's, and waits like one; a pause does not hold it.

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

/// What callers ask of the engine thread about prefixes.
pub(super) enum Command {
    /// Compute these tokens, or find them, and pin them.
    Pin(Held, Vec<u32>),
    /// Pin these tokens, whose pages will be written. Answers how many pages are there already.
    Adopt(Held, Vec<u32>, Answer<usize>),
    /// Fill pages of an adopted pin.
    Write(Piece, Answer<Vec<u8>>),
    /// All pages are filled.
    Adopted(u64, Answer),
    /// The tokens that are pinned.
    Tokens(u64, Answer<Vec<u32>>),
    /// Copy pages out.
    Read(Piece, Answer<Vec<u8>>),
    Free(u64),
}

impl Command {
    /// Whether it copies pages, which takes time: under a duty limit that is work.
    pub fn is_copy(&self) -> bool {
        matches!(self, Command::Write(..) | Command::Read(..))
    }
}

/// Adjacent pages of a pin on their way to or from the device; the answer gives the bytes back.
pub(super) struct Piece {
    id: u64,
    first_page: usize,
    bytes: Vec<u8>,
    identity: Arc<Identity>,
}

enum State {
    Computing,
    /// Tokens that are pinned.
    Ready(usize),
    Failed(Error),
}

/// The state of one prefix, shared by the engine thread and whoever waits.
struct Cell {
    state: Mutex<State>,
    changed: Condvar,
}

impl Cell {
    fn new() -> Arc<Cell> {
        Arc::new(Cell { state: Mutex::new(State::Computing), changed: Condvar::new() })
    }

    /// The first failure is final.
    fn set(&self, new: State) {
        let mut state = lock(&self.state);
        if !matches!(*state, State::Failed(_)) {
            *state = new;
            self.changed.notify_all();
        }
    }
}

/// A place in the waiting line, given back when it is dropped.
struct QueuePermit(Arc<Shared>);

impl Drop for QueuePermit {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A prefix as the engine thread holds it. Dropped, it fails whoever still waits.
pub(super) struct Held {
    id: u64,
    cell: Arc<Cell>,
    pin: Option<SequenceHandle>,
    /// While it is computed.
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
    /// Obeys one command, or refuses all but freeing.
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
                // Who gets the answer may ask for the state at once.
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

    /// Hands on what the scheduler did to pins. Costs nothing when it did nothing.
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

    /// The engine is closing: what is not pinned yet will not be.
    pub fn stop_computing(&mut self, runner: &mut ModelRunner) {
        let scheduler = &mut runner.scheduler;
        self.held.retain(|held| {
            let pin = held.pin.filter(|&pin| scheduler.pinned(pin).is_some_and(|p| !p.is_ready()));
            pin.into_iter().for_each(|pin| scheduler.unpin(pin));
            pin.is_none()
        });
    }

    /// After a panic: nothing is pinned any more.
    pub fn fail_all(&mut self, error: impl Fn() -> Error) {
        self.held.drain(..).for_each(|mut held| held.fail(error()));
    }

    /// Calls `copy` for each layer group's part of each page of a piece: group, frame, bytes.
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

/// A pinned prefix: its whole pages stay in memory until this is dropped or freed.
pub struct Prefix {
    id: u64,
    cell: Arc<Cell>,
    shared: Arc<Shared>,
    identity: Arc<Identity>,
}

impl Prefix {
    /// Waits until the prefix is pinned; how many tokens that are: whole pages, so 0 for less than one. It can become fewer
    /// when a request could go on in no other way. `Ok(None)`: the time ran out. `None` waits forever, zero polls.
    ///
    /// # Errors
    /// What kept it from being pinned: `Memory`, `QueueFull`, `Closed`, `Internal`. `Handle` when it was freed; `Reentrant`.
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

    /// Waits until the prefix is pinned and writes it to the file `path`, in one step: the old file, or all of the new one. The
    /// first save or restore of an engine reads all weights once, on this thread, to know whose prefix it is.
    ///
    /// # Errors
    /// As for [`Prefix::wait`]; `Io`, `Argument` when `path` names no file, `Memory` when the prefix had to give way meanwhile.
    pub fn save(&self, path: &Path) -> Result<()> {
        refuse_in_callback("save")?;
        shortage::forget();
        self.wait(None)?;
        // Before there is a file: it may have to read all weights.
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

    /// Unpins, or stops computing. Idempotent.
    pub fn free(&self) {
        self.cell.set(State::Failed(freed()));
        self.shared.send_anyway(super::Command::Prefix(Command::Free(self.id)));
    }

    /// Calls `copy` with each piece of some pages, in order; it gives the buffer back.
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

    /// Fills the pages after the first `there` from a file.
    fn fill(&self, reader: &mut Reader, there: usize) -> Result<()> {
        let pages = reader.tokens.len() / self.identity.layout.page_tokens;
        self.pieces(0..there.min(pages), |mut piece| {
            // The tree's own pages hold the same bits; the file's are read for their checksum.
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

/// Sends a command and waits for its answer.
fn ask<T>(shared: &Shared, command: impl FnOnce(Answer<T>) -> Command) -> Result<T> {
    let reply = Arc::new(Reply::default());
    shared.send(super::Command::Prefix(command(Answer(reply.clone()))))?;
    reply.wait()
}

impl Engine {
    /// What prefixes of this engine have in common, unless it has no weights or is closed.
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

    /// Begins to pin the whole pages at the beginning of a prompt: what is not computed yet is computed like a request of
    /// priority 0. A chat is rendered without opening the assistant's turn. Never waits for a step; [`Prefix::wait`] does.
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

    /// Pins a prefix that [`Prefix::save`] wrote, by the same model in the same configuration. Nothing changes on failure. The
    /// first save or restore of an engine reads all weights once, on this thread, to know whether they are those of the file.
    ///
    /// # Errors
    /// `Io`; `Format` for a damaged file; `Mismatch`, with both values, for one of another model, tier, device, type or page
    /// layout; `Context` and `Memory`, in tokens, when it does not fit; `Closed`, `Unsupported`, `Reentrant`.
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
