//! The mailbox of the engine thread: a list of commands, which the engine thread takes by exchanging it for its own
//! empty list, and the pause and duty limit that the host has set.

use super::duty::Duty;
use super::{Command, closed, lock, wait_for, wait_until};
use crate::error::{Error, Result, reserved};
use crate::limits;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Instant;

/// Pause and duty limit that the host has set, and whether the engine thread has paused.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// The host has requested a pause.
    pub pause: bool,
    /// The engine thread has seen `pause`: no step is running and none begins.
    pub at_rest: bool,
    /// The duty limit; `None` = no limit.
    pub duty: Option<Duty>,
}

/// What the mailbox holds.
#[derive(Default)]
pub(super) struct Mail {
    /// Commands that the engine thread has not yet taken.
    pub commands: VecDeque<Command>,
    /// Pause and duty limit.
    pub control: Control,
    /// Something that is no command has changed for the engine thread; cleared when it has seen that.
    pub nudged: bool,
    /// The engine is closing: [`Mailbox::send`] fails.
    closed: bool,
    /// The engine thread has ended: no command is taken any more.
    gone: bool,
    /// Number of threads that wait until the engine thread has taken the list.
    blocked: usize,
    /// Test hook: the list cannot grow.
    #[cfg(test)]
    no_memory: bool,
}

impl Mail {
    /// Grows the list if necessary; false when it is full and cannot grow.
    fn make_room(&mut self) -> bool {
        #[cfg(test)]
        if self.no_memory {
            return self.commands.len() < self.commands.capacity();
        }
        self.commands.try_reserve(1).is_ok()
    }
}

/// The mailbox; shared by all threads.
pub(super) struct Mailbox {
    mail: Mutex<Mail>,
    /// Signalled when commands have been sent, or pause or duty limit have changed.
    arrived: Condvar,
    /// Signalled when the engine thread has taken the commands or has ended, if senders wait for that.
    taken: Condvar,
    /// Signalled when the engine thread has paused or has ended, and when a pause ends.
    rested: Condvar,
}

/// A list with room for [`limits::COMMANDS_RESERVED`] commands.
///
/// # Errors
/// `Memory`.
pub(super) fn command_list() -> Result<VecDeque<Command>> {
    Ok(reserved(COMMANDS, limits::COMMANDS_RESERVED)?.into())
}

/// What a list of commands is called in an error message.
const COMMANDS: &str = "what the engine is asked";

/// The callers' side.
impl Mailbox {
    /// An empty mailbox with room for [`limits::COMMANDS_RESERVED`] commands; see [`Mailbox::send_anyway`].
    ///
    /// # Errors
    /// `Memory`.
    pub fn new(duty: Option<Duty>) -> Result<Mailbox> {
        let control = Control { duty, ..Control::default() };
        let mail = Mutex::new(Mail { commands: command_list()?, control, ..Mail::default() });
        Ok(Mailbox { mail, arrived: Condvar::new(), taken: Condvar::new(), rested: Condvar::new() })
    }

    /// Locks the mailbox of an open engine.
    ///
    /// # Errors
    /// `Closed` when the engine is closing.
    pub fn open(&self) -> Result<MutexGuard<'_, Mail>> {
        let mail = lock(&self.mail);
        if mail.closed { Err(closed()) } else { Ok(mail) }
    }

    /// Sends a command.
    ///
    /// # Errors
    /// `Closed` when the engine is closing; `Memory` when the list cannot grow.
    pub fn send(&self, command: Command) -> Result<()> {
        let mut mail = self.open()?;
        let bytes = (mail.commands.len() as u64 + 1) * size_of::<Command>() as u64;
        if !mail.make_room() {
            return Err(Error::memory(COMMANDS, bytes));
        }
        mail.commands.push_back(command);
        drop(mail);
        self.arrived.notify_one();
        Ok(())
    }

    /// Sends a command that a closing engine still handles; does nothing when the engine thread has ended. When the
    /// list cannot grow, waits until the engine thread has taken the commands. Then there is room without allocating:
    /// the engine thread exchanges the list for its own, and both were made with room for [`limits::COMMANDS_RESERVED`]
    /// commands and never shrink. That room also suffices for the only command of an engine whose thread never started,
    /// its close.
    pub fn send_anyway(&self, command: Command) {
        let mut mail = lock(&self.mail);
        while !mail.gone && !mail.make_room() {
            mail.blocked += 1;
            (mail, _) = wait_until(&self.taken, mail, None);
            mail.blocked -= 1;
        }
        if mail.gone {
            return;
        }
        mail.commands.push_back(command);
        drop(mail);
        self.arrived.notify_one();
    }

    /// Wakes the engine thread to look again at what other threads do for it.
    pub fn nudge(&self) {
        lock(&self.mail).nudged = true;
        self.arrived.notify_one();
    }

    /// Sends `Close`; from now on [`Mailbox::send`] fails.
    ///
    /// # Errors
    /// `Closed` for a second call.
    pub fn close(&self, cancel_at: Instant) -> Result<()> {
        self.open()?.closed = true;
        self.send_anyway(Command::Close(cancel_at));
        Ok(())
    }

    /// Changes pause or duty limit and wakes the engine thread.
    ///
    /// # Errors
    /// `Closed`.
    pub fn control(&self, change: impl FnOnce(&mut Control)) -> Result<()> {
        change(&mut self.open()?.control);
        self.arrived.notify_one();
        Ok(())
    }

    /// Requests a pause and waits until the engine thread confirms it; false when the deadline passes first, or when
    /// another thread ends the pause.
    ///
    /// # Errors
    /// `Closed` when the engine thread has ended.
    pub fn pause(&self, deadline: Option<Instant>) -> Result<bool> {
        let mut mail = lock(&self.mail);
        mail.control.pause = true;
        self.arrived.notify_one();
        let (_mail, paused) = wait_for(&self.rested, mail, deadline, |mail| {
            let over = mail.control.at_rest || !mail.control.pause;
            if mail.gone { Some(Err(closed())) } else { over.then_some(Ok(mail.control.at_rest)) }
        });
        paused.unwrap_or(Ok(false))
    }

    /// Ends a pause.
    ///
    /// # Errors
    /// `Closed`.
    pub fn resume(&self) -> Result<()> {
        self.control(|control| (control.pause, control.at_rest) = (false, false))?;
        self.rested.notify_all();
        Ok(())
    }
}

/// The engine thread's side.
impl Mailbox {
    /// Locks the mailbox.
    pub fn lock(&self) -> MutexGuard<'_, Mail> {
        lock(&self.mail)
    }

    /// Waits for commands or a change of [`Control`]; false when the deadline has passed.
    pub fn wait<'a>(&self, mail: MutexGuard<'a, Mail>, deadline: Option<Instant>) -> (MutexGuard<'a, Mail>, bool) {
        wait_until(&self.arrived, mail, deadline)
    }

    /// Confirms a requested pause to its callers.
    pub fn confirm_pause(&self, mail: &mut Mail) {
        if mail.control.pause && !std::mem::replace(&mut mail.control.at_rest, true) {
            self.rested.notify_all();
        }
    }

    /// Moves commands to `inbox`, also when memory is out: those that it cannot grow for stay until the next call.
    pub fn take(&self, mail: &mut Mail, inbox: &mut VecDeque<Command>) {
        if inbox.is_empty() {
            std::mem::swap(inbox, &mut mail.commands);
        } else {
            let all = mail.commands.len();
            let room = inbox.try_reserve(all).map_or(inbox.capacity() - inbox.len(), |()| all);
            inbox.extend(mail.commands.drain(..room.min(all)));
        }
        self.note_taken(mail);
    }

    /// The engine thread ends: no command is taken any more. Returns those that were sent.
    pub fn end(&self) -> VecDeque<Command> {
        let mut mail = lock(&self.mail);
        (mail.closed, mail.gone) = (true, true);
        self.note_taken(&mail);
        self.rested.notify_all();
        std::mem::take(&mut mail.commands)
    }

    /// Wakes the senders that wait for room.
    fn note_taken(&self, mail: &Mail) {
        if mail.blocked > 0 {
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
            assert!(engine.shared.mailbox.lock().commands.capacity() >= limits::COMMANDS_RESERVED);
            // The engine thread exchanges this list for its own.
            engine.check().unwrap();
        }
    }

    /// Several threads send more commands than there is room for: all are taken, and no thread allocates.
    #[test]
    fn without_memory_a_command_waits_until_others_were_taken() {
        let engine = open(false);
        engine.shared.mailbox.lock().no_memory = true;
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let shared = &engine.shared;
                scope.spawn(move || {
                    for i in 0..2 * limits::COMMANDS_RESERVED as u64 {
                        // No request has this id.
                        shared.mailbox.send_anyway(Command::Cancel(1 << 40 | thread << 20 | i, FinishReason::Cancel));
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
        engine.shared.mailbox.lock().no_memory = true;
        engine.close(Duration::ZERO).unwrap();
    }

    /// A sender that waits for room returns when the engine thread ends.
    #[test]
    fn who_waits_for_room_leaves_with_the_engine_thread() {
        let engine = open(true);
        let shared = &engine.shared;
        let mut mail = shared.mailbox.lock();
        mail.no_memory = true;
        while mail.make_room() {
            mail.commands.push_back(Command::CancelAll);
        }
        drop(mail);
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| shared.mailbox.send_anyway(Command::CancelAll));
            while shared.mailbox.lock().blocked == 0 {
                std::thread::yield_now();
            }
            let mut mail = shared.mailbox.lock();
            mail.gone = true;
            shared.mailbox.note_taken(&mail);
            drop(mail);
            sender.join().unwrap();
        });
    }
}
