//! How the engine thread is asked: a list of commands, which it exchanges for its own when it looks.

use super::control::Control;
use super::delivery::{closed, lock, wait_until};
use super::{Command, Shared};
use crate::error::{Error, Result};
use crate::limits;
use std::collections::VecDeque;

/// What was asked of the engine thread and not yet taken by it.
#[derive(Default)]
pub(super) struct Mailbox {
    pub commands: VecDeque<Command>,
    /// Pause and duty limit.
    pub control: Control,
    /// No more submits: the engine is closing.
    pub closed: bool,
    /// The engine thread has ended; nobody reads this any more.
    pub gone: bool,
    /// How many wait until the engine thread has taken the list.
    blocked: usize,
    /// A test: there is no memory for a longer list.
    #[cfg(test)]
    no_memory: bool,
}

impl Mailbox {
    /// Empty, with room for some commands: see [`Shared::send_anyway`].
    pub fn new(control: Control) -> Result<Mailbox> {
        Ok(Mailbox { commands: command_list()?, control, ..Mailbox::default() })
    }

    /// Whether one more command can be put in, with memory for a longer list if that is needed.
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

/// What the lists of commands are in an error.
const COMMANDS: &str = "what the engine is asked";

impl Shared {
    /// Sends a command; an error when the engine takes none any more.
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

    /// Sends a command that an engine in the middle of closing still obeys. Without memory for a longer list it waits until the
    /// engine thread has taken the commands. That needs no memory: the engine thread exchanges the list for its own, and both
    /// were made with room for [`limits::COMMANDS_RESERVED`] commands and never give any of it back. So there is room then,
    /// also for the one command of an engine whose thread never started, its close.
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

    /// The engine thread has taken commands, or takes none any more: who waits for that goes on.
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
            // The engine thread takes it and leaves its own.
            engine.check().unwrap();
        }
    }

    /// More commands than there is room for, from several threads: all of them come through, and none of the threads needs memory.
    #[test]
    fn without_memory_a_command_waits_until_others_were_taken() {
        let engine = open(false);
        lock(&engine.shared.mailbox).no_memory = true;
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let shared = &engine.shared;
                scope.spawn(move || {
                    for i in 0..2 * limits::COMMANDS_RESERVED as u64 {
                        // No request has such an id.
                        shared.send_anyway(Command::Cancel(1 << 40 | thread << 20 | i, FinishReason::Cancel));
                    }
                });
            }
        });
        engine.close(Duration::ZERO).unwrap();
    }

    /// Nobody takes what is sent, so there has to be room for the close.
    #[test]
    fn an_engine_for_text_closes_without_memory() {
        let engine = open(true);
        lock(&engine.shared.mailbox).no_memory = true;
        engine.close(Duration::ZERO).unwrap();
    }

    /// Who waits for room when the engine thread ends does not wait for ever.
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
