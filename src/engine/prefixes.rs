//! The engine thread's table of pinned prefixes, and its copies of their pages.

use super::prefix_command::{Held, Piece, State, freed};
use super::{LogLevel, ModelRunner, PrefixCommand, Shared};
use crate::backend::{Backend, KvPages};
use crate::cache::{NO_FRAME, SequenceHandle};
use crate::error::{Error, Result, Status, copied};
use std::collections::VecDeque;

/// The engine thread's table of prefixes.
#[derive(Default)]
pub(super) struct Prefixes {
    held: Vec<Held>,
    /// Commands that copy pages, run between two steps when the duty limit allows.
    pub copies: VecDeque<PrefixCommand>,
}

impl Prefixes {
    /// Executes one command. With a `refusal`, every command but `Free` fails with it.
    pub fn handle(
        &mut self,
        command: PrefixCommand,
        runner: &mut ModelRunner,
        shared: &Shared,
        refusal: Option<Error>,
    ) {
        let allowed = refusal.map_or(Ok(()), Err);
        match command {
            PrefixCommand::Free(id) => self.free(id, runner),
            PrefixCommand::Pin(mut held, tokens) => match allowed.and_then(|()| runner.scheduler.pin(tokens)) {
                Ok(pin) => self.hold(held, pin),
                Err(error) => held.fail(error),
            },
            PrefixCommand::Adopt(mut held, tokens, answer) => {
                answer.put(match allowed.and_then(|()| runner.scheduler.adopt(tokens)) {
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
            PrefixCommand::Write(piece, answer) => answer.put(allowed.and_then(|()| {
                self.copy(piece, runner, |backend, pages, frame, bytes| backend.write_page(pages, frame, bytes))
            })),
            PrefixCommand::Read(piece, answer) => answer.put(allowed.and_then(|()| {
                self.copy(piece, runner, |backend, pages, frame, bytes| backend.read_page(pages, frame, bytes))
            })),
            PrefixCommand::Tokens(id, answer) => answer.put(allowed.and_then(|()| {
                let pinned = self.pin(id).and_then(|pin| runner.scheduler.pinned(pin));
                pinned.ok_or_else(freed).and_then(|pin| copied("token ids", pin.tokens()))
            })),
            PrefixCommand::Adopted(id, answer) => {
                if allowed.is_ok() {
                    self.pin(id).into_iter().for_each(|pin| runner.scheduler.adopted(pin));
                    // Before the reply: its receiver may read the state at once.
                    self.note(runner, shared);
                }
                answer.put(allowed);
            }
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

    /// Copies each frame of each page of a piece with `copy`, in the order of its bytes; returns the buffer.
    fn copy(
        &self,
        mut piece: Piece,
        runner: &mut ModelRunner,
        copy: impl Fn(&mut dyn Backend, KvPages, u32, &mut [u8]) -> Result<()>,
    ) -> Result<Vec<u8>> {
        let pin = self.pin(piece.id).ok_or_else(freed)?;
        let layout = &piece.identity.layout;
        let (mut rest, all) = (piece.bytes.as_mut_slice(), piece.pages);
        for page in piece.first_page..all {
            if rest.is_empty() {
                break;
            }
            for (group, frame_bytes) in layout.kept(page, all) {
                let short = || Error::internal("a piece ends within a page");
                let (part, more) = std::mem::take(&mut rest).split_at_mut_checked(frame_bytes).ok_or_else(short)?;
                rest = more;
                let pinned = runner.scheduler.pinned(pin).ok_or_else(freed)?;
                let frame = pinned.frames(group).get(page).copied().filter(|&f| f != NO_FRAME).ok_or_else(gave_way)?;
                let pages = runner.model.pages(group).ok_or_else(|| Error::internal("no such layer group"))?;
                copy(&mut *runner.backend, pages, frame, part)?;
            }
        }
        Ok(piece.bytes)
    }
}

fn gave_way() -> Error {
    let message = "the prefix gave pages up meanwhile, because a request had no other way to go on; try again, pin less or raise memory_budget";
    Error::new(Status::Memory, message).about("memory_budget")
}
