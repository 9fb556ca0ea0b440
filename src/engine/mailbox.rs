//! The mailbox of the engine thread: a list of commands, which the engine thread takes by exchanging it for its own
//! empty list.

use super::control::Control;
use super::delivery::{closed, lock, wait_until};
use super::{Command, Shared};
use crate::error::{Error, Result};
use crate::limits;
use std::collections::VecDeque;

/// Commands and control state for the engine thread; guarded by the lock in [`Shared`].
#[derive(Default)]
pub(super) struct Mailbox {
    /// Commands that the engine thread has not yet taken.
    pub commands: VecDeque<Command>,
    /// Pause and duty limit.
    pub control: Control,
    /// The engine is closing: [`Shared::send`] fails.
    pub closed: bool,
    /// The engine thread has ended: no command is taken any more.
    pub gone: bool,
    /// Number of threads that wait until the engine thread has taken the list.
    blocked: usize,
    /// Test hook: the list cannot grow.
    #[cfg(test)]
    no_memory: bool,
}

impl Mailbox {
    /// An empty mailbox with room for [`limits::COMMANDS_RESERVED`] commands; see [`Shared::send_anyway`].
    ///
    /// # Errors
    /// `Memory`.
    pub fn new(control: Control) -> Result<Mailbox> {
        Ok(Mailbox { commands: command_list()?, control, ..Mailbox::default() })
    }

    /// Grows the list if necessary; false when it is full and cannot grow.
    fn make_room(&mut self) -> bool {
        #[cfg(test)]
        if self.no_memory {
            return self.commands.len() < self.commands.capacity();
        }
        self.commands.try_reserve(1).is_ok()
    }
}

/// A list with room for [`limits::COMMANDS_RESERVED`] commands.
///
/// # Errors
/// `Memory`.
pub(super) fn command_list() -> Result<VecDeque<Command>> {
    let bytes = limits::COMMANDS_RESERVED * size_of::<Command>();
    let mut list = VecDeque::new();
    list.try_reserve_exact(limits::COMMANDS_RESERVED).map_err(|_| Error::memory(COMMANDS, bytes as u64))?;
    Ok(list)
}

/// What a list of commands is called in an error message.
const COMMANDS: &str = "what the engine is asked";

impl Shared {
    /// Sends a command.
    ///
    /// # Errors
    /// `Closed` when the engine is closing; `Memory` when the list cannot grow.
    pub(super) fn send(&self, command: Command) -> Result<()> {
        let mut mailbox = lock(&self.mailbox);
        if mailbox.closed {
            return Err(closed());
        }
        let bytes = (mailbox.commands.len() as u64 + 1) * size_of::<Command>() as u64;
        if !mailbox.make_room() {
            return Err(Error::memory(COMMANDS, bytes));
        }
        mailbox.commands.push_back(command);
        drop(mailbox);
        self.mail.notify_one();
        Ok(())
    }

    /// Sends a command that a closing engine still handles; does nothing when the engine thread has ended. When the
    /// list cannot grow, waits until the engine thread has taken the commands. Then there is room without allocating:
    /// the engine thread exchanges the list for its own, and both were made with room for [`limits::COMMANDS_RESERVED`]
    /// commands and never shrink. That room also suffices for the only command of an engine whose thread never started,
    /// its close.
    pub(super) fn send_anyway(&self, command: Command) {
        let mut mailbox = lock(&self.mailbox);
        while !mailbox.gone && !mailbox.make_room() {
            mailbox.blocked += 1;
            (mailbox, _) = wait_until(&self.taken, mailbox, None);
            mailbox.blocked -= 1;
        }
        if mailbox.gone {
            return;
        }
        mailbox.commands.push_back(command);
        drop(mailbox);
        self.mail.notify_one();
    }

    /// Wakes the senders that wait for room. Called when the engine thread has taken commands or has ended.
    pub(super) fn note_taken(&self, mailbox: &Mailbox) {
        if mailbox.blocked > 0 {
            self.taken.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, EngineOptions, FinishReason};
    use std::path::Path;
    use std::time::Duration;

    fn open(text_only: bool) -> Engine {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/storyteller");
        Engine::open(&dir, EngineOptions { threads: 1, text_only, ..EngineOptions::default() }).unwrap()
    }

    #[test]
    fn both_lists_have_room_from_the_beginning_and_keep_it() {
        let engine = open(false);
        for _ in 0..3 {
            assert!(lock(&engine.shared.mailbox).commands.capacity() >= limits::COMMANDS_RESERVED);
            // The engine thread exchanges this list for its own.
            engine.check().unwrap();
        }
    }

    /// Several threads send more commands than there is room for: all are taken, and no thread allocates.
    #[test]
    fn without_memory_a_command_waits_until_others_were_taken() {
        let engine = open(false);
        lock(&engine.shared.mailbox).no_memory = true;
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let shared = &engine.shared;
                scope.spawn(move || {
                    for i in 0..2 * limits::COMMANDS_RESERVED as u64 {
                        // No request has this id.
                        shared.send_anyway(Command::Cancel(1 << 40 | thread << 20 | i, FinishReason::Cancel));
                    }
                });
            }
        });
        engine.close(Duration::ZERO).unwrap();
    }

    /// There is no engine thread that takes commands, so there has to be room for the close.
    #[test]
    fn an_engine_for_text_closes_without_memory() {
        let engine = open(true);
        lock(&engine.shared.mailbox).no_memory = true;
        engine.close(Duration::ZERO).unwrap();
    }

    /// A sender that waits for room returns when the engine thread ends.
    #[test]
    fn who_waits_for_room_leaves_with_the_engine_thread() {
        let engine = open(true);
        let shared = &engine.shared;
        let mut mailbox = lock(&shared.mailbox);
        mailbox.no_memory = true;
        while mailbox.make_room() {
            mailbox.commands.push_back(Command::CancelAll);
        }
        drop(mailbox);
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| shared.send_anyway(Command::CancelAll));
            while lock(&shared.mailbox).blocked == 0 {
                std::thread::yield_now();
            }
            let mut mailbox = lock(&shared.mailbox);
            mailbox.gone = true;
            shared.note_taken(&mailbox);
            drop(mailbox);
            sender.join().unwrap();
        });
    }
}
