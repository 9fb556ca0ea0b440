//! What the engine thread is asked about prefixes, and the state of a prefix that its caller and the engine thread share.

use super::{Answer, Identity, Permit, closed, lock, panicked};
use crate::cache::SequenceHandle;
use crate::error::{Error, Status};
use std::sync::{Arc, Condvar, Mutex};

/// Commands to the engine thread about prefixes.
pub(super) enum PrefixCommand {
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

impl PrefixCommand {
    /// Whether the command copies pages, which counts as work under a duty limit.
    pub fn is_copy(&self) -> bool {
        matches!(self, PrefixCommand::Write(..) | PrefixCommand::Read(..))
    }
}

/// Consecutive pages of a pin, copied to or from the device; the reply returns the buffer.
pub(super) struct Piece {
    pub id: u64,
    pub first_page: usize,
    /// Pages of the whole pin.
    pub pages: usize,
    pub bytes: Vec<u8>,
    pub identity: Arc<Identity>,
}

/// How far a prefix is.
pub(super) enum State {
    Computing,
    /// The number of pinned tokens.
    Ready(usize),
    Failed(Error),
}

/// The state of one prefix, shared by the engine thread and the threads that wait for it.
pub(super) struct Cell {
    pub state: Mutex<State>,
    pub changed: Condvar,
}

impl Cell {
    pub fn new() -> Arc<Cell> {
        Arc::new(Cell { state: Mutex::new(State::Computing), changed: Condvar::new() })
    }

    /// Sets the state and wakes the waiters; a no-op after `Failed`, which is final.
    pub fn set(&self, new: State) {
        let mut state = lock(&self.state);
        if !matches!(*state, State::Failed(_)) {
            *state = new;
            self.changed.notify_all();
        }
    }
}

/// A prefix as the engine thread holds it. Dropping it fails the threads that still wait.
pub(super) struct Held {
    pub id: u64,
    pub cell: Arc<Cell>,
    pub pin: Option<SequenceHandle>,
    /// Present while the prefix is being computed.
    pub permit: Option<Permit>,
}

impl Held {
    pub fn fail(&mut self, error: Error) {
        self.permit = None;
        self.cell.set(State::Failed(error));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.fail(if std::thread::panicking() { panicked() } else { closed() });
    }
}

/// The error of calls on a prefix that was freed.
pub(super) fn freed() -> Error {
    Error::new(Status::Handle, "the prefix was freed").about("prefix")
}
