//! Making a conversation fit the context.

use super::host_thread::with_text;
use super::{Engine, Prompt, TextKit, TextOptions};
use crate::error::{Error, Result, Status};
use crate::limits::FIT_LOW_PERCENT;
use crate::text::EncodeLimits;
use serde_json::Value;

impl Engine {
    /// Drops the oldest whole turns of a chat until it leaves room for `reserve` tokens of an answer, or the last turn is left; returns how many messages that
    /// were. A turn is a user's message and what follows it up to the next one, calls and their results included; the last turn stays,
    /// and so do messages of the system, wherever they are. When it drops, it drops down to [`FIT_LOW_PERCENT`] percent of the room, so
    /// that the turns after it find most of their beginning in the prefix cache, and not every turn of a full context is computed anew.
    ///
    /// # Errors
    /// `Context` when the last turn alone is longer than the context, with the prompt as it was; `Argument` for a prompt without messages; those of
    /// [`Engine::tokenize`].
    pub fn fit_prompt(&self, prompt: &mut Prompt, reserve: u32) -> Result<usize> {
        self.open_or_closed()?;
        if prompt.messages.is_empty() {
            return Err(Error::argument("only a prompt of messages has turns that can be dropped").about("prompt"));
        }
        let (context, reserve) = (self.info.context_length as usize, reserve as usize);
        let mut go_on = || self.open_or_closed();
        let dropped = with_text(|| Fitting { text: &self.text, prompt, go_on: &mut go_on }.turns(context, reserve))?;
        let turns = turns(&prompt.messages);
        let goes = |index: usize| turns.get(index).is_some_and(|turn| turn.is_some_and(|turn| turn < dropped));
        let flagged = prompt.message_flags.len().min(prompt.messages.len());
        let before = prompt.messages.len();
        // Answers stay with their messages.
        prompt.answers.retain(|(index, _)| !goes(*index));
        prompt.answers.iter_mut().for_each(|(index, _)| *index -= (0..*index).filter(|&before| goes(before)).count());
        for index in (0..before).rev().filter(|&index| goes(index)) {
            prompt.messages.remove(index);
            if index < flagged {
                prompt.message_flags.remove(index);
            }
        }
        Ok(before - prompt.messages.len())
    }
}

/// The turn of each message, from 0 on; `None` for the system's. What comes before the first user's message belongs to its turn.
fn turns(messages: &[Value]) -> Vec<Option<usize>> {
    let (mut turn, mut asked) = (0, false);
    let turn_of = |message: &Value| {
        let role = message.get("role").and_then(Value::as_str).unwrap_or_default();
        if matches!(role, "system" | "developer") {
            return None;
        }
        if role == "user" {
            turn += usize::from(asked);
            asked = true;
        }
        Some(turn)
    };
    messages.iter().map(turn_of).collect()
}

/// A chat that is to be made shorter.
struct Fitting<'a> {
    text: &'a TextKit,
    prompt: &'a Prompt,
    go_on: &'a mut dyn FnMut() -> Result<()>,
}

impl Fitting<'_> {
    /// How many turns have to go for `reserve` tokens of an answer.
    fn turns(&mut self, context: usize, reserve: usize) -> Result<usize> {
        let turns = turns(&self.prompt.messages);
        let last = turns.iter().flatten().copied().max().unwrap_or(0);
        let room = context.saturating_sub(reserve).max(1);
        if self.fits(&turns, 0, room)?.is_none() {
            return Ok(0);
        }
        // A last turn that leaves less than was wanted may still have an answer.
        for limit in [room * FIT_LOW_PERCENT / 100, room, context] {
            if self.fits(&turns, last, limit)?.is_none() {
                return self.fewest(&turns, last, limit);
            }
        }
        self.fits(&turns, last, context)?.map_or(Ok(last), Err)
    }

    /// The fewest turns without which the chat has at most so many tokens; `enough` of them are. With more of them gone, what is
    /// left only becomes shorter.
    fn fewest(&mut self, turns: &[Option<usize>], mut enough: usize, limit: usize) -> Result<usize> {
        let mut too_few = 0;
        while too_few + 1 < enough {
            let middle = too_few.midpoint(enough);
            match self.fits(turns, middle, limit)? {
                None => enough = middle,
                Some(_) => too_few = middle,
            }
        }
        Ok(enough)
    }

    /// Whether the chat without its first turns has at most so many tokens; else the error that says how many.
    fn fits(&mut self, turns: &[Option<usize>], dropped: usize, limit: usize) -> Result<Option<Error>> {
        let mut shorter = self.prompt.try_clone()?;
        let stays = |index: usize| turns.get(index).is_none_or(|turn| turn.is_none_or(|turn| turn >= dropped));
        let mut index = 0..;
        shorter.messages.retain(|_| index.next().is_some_and(stays));
        let mut index = 0..;
        shorter.message_flags.retain(|_| index.next().is_some_and(stays));
        match self.text.prepare(&shorter, TextOptions::default(), &mut EncodeLimits::new(limit, self.go_on)) {
            Ok(_) => Ok(None),
            Err(error) if error.status == Status::Context => Ok(Some(error)),
            Err(error) => Err(error),
        }
    }
}
