//! The prompts of deferred requests, in the order of their submits, for the text thread ([`super::defer`]).

use super::answer_grammars::Rules;
use super::{Prompt, PromptPart, RequestOptions, lock, wait_until};
use crate::error::{Error, Result};
use crate::limits::LONG_PROMPT_BYTES;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// The queue of prompts to prepare, at most one per deferred request; `max_running` and `max_waiting` bound those.
#[derive(Default)]
pub(super) struct TextQueue {
    pub jobs: Mutex<Jobs>,
    changed: Condvar,
    /// Set by [`TextQueue::stop`]; ends templates that run on a caller's thread.
    ended: Arc<AtomicBool>,
    #[cfg(test)]
    pub test: tests::Hooks,
}

#[derive(Default)]
pub(super) struct Jobs {
    pub waiting: VecDeque<Job>,
    /// Prompts being prepared: at most a long one and the short one prepared between two of its pieces. Request id, and
    /// the flag that stops the preparation.
    pub current: Vec<(u64, Arc<AtomicBool>)>,
    pub started: bool,
    stopped: bool,
}

/// A prompt as the model gets it.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    pub tokens: Vec<u32>,
    /// What the chat template made of its messages; empty for a raw prompt.
    pub text: String,
}

/// A prompt to prepare.
pub(super) struct Job {
    pub id: u64,
    pub prompt: Prompt,
    /// The prompt as tokens already, where only the rules of its answer are to be made ready.
    pub encoded: Option<Encoded>,
    /// What the answer may be.
    pub rules: Option<Rules>,
    /// Of its request, without settings.
    pub options: RequestOptions,
    /// More than [`LONG_PROMPT_BYTES`] of text: short prompts are prepared between its pieces.
    pub long: bool,
    /// Set when the request has ended: the preparation stops.
    pub ended: Arc<AtomicBool>,
}

impl Job {
    pub fn new(id: u64, prompt: &Prompt, options: RequestOptions) -> Result<Job> {
        let long = text_bytes(prompt) > LONG_PROMPT_BYTES;
        Ok(Job { id, options, long, prompt: prompt.try_clone()?, encoded: None, rules: None, ended: Arc::default() })
    }

    /// The rules of the answer to a prompt that is encoded.
    pub fn of_rules(id: u64, encoded: Encoded, rules: Rules) -> Job {
        let (prompt, options) = (Prompt::default(), RequestOptions::default());
        Job { id, prompt, encoded: Some(encoded), rules: Some(rules), options, long: false, ended: Arc::default() }
    }
}

/// The total length of all strings of a prompt, in bytes.
fn text_bytes(prompt: &Prompt) -> usize {
    let parts = prompt.parts.iter().map(|part| match part {
        PromptPart::Text { text, .. } => text.len(),
        PromptPart::Tokens(_) => 0,
    });
    let values = prompt.messages.iter().chain(&prompt.tools).chain(prompt.variables.values());
    parts.chain(values.map(string_bytes)).sum()
}

/// The total length of all strings in a JSON value, in bytes. The recursion is bounded by the JSON parser's depth
/// limit.
fn string_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(string_bytes).sum(),
        Value::Object(map) => map.values().map(string_bytes).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

impl Jobs {
    /// Records that the preparation of this prompt has begun.
    fn begin(&mut self, job: &Job) {
        self.current.push((job.id, Arc::clone(&job.ended)));
    }
}

impl TextQueue {
    /// Drops the queued prompts of the requests that `which` selects, and stops their preparation if it has begun.
    pub fn forget(&self, which: impl Fn(u64) -> bool) {
        let mut jobs = lock(&self.jobs);
        jobs.waiting.retain(|job| !which(job.id));
        jobs.current.retain(|(id, ended)| {
            let gone = which(*id);
            if gone {
                ended.store(true, Ordering::Relaxed);
            }
            !gone
        });
    }

    /// The flag that [`TextQueue::stop`] sets.
    pub fn ended(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.ended)
    }

    /// Queues a prompt whose request `send` sends to the engine thread. The command is sent first: the engine thread drops
    /// tokens of a request it does not know. Both happen under the lock: if the request ends at once,
    /// [`TextQueue::forget`] must find the job in the queue.
    ///
    /// # Errors
    /// `Memory`; those of `send`.
    pub fn push(&self, job: Job, send: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut jobs = lock(&self.jobs);
        let bytes = (jobs.waiting.len() as u64 + 1) * size_of::<Job>() as u64;
        jobs.waiting.try_reserve(1).map_err(|_| Error::memory("the line of prompts", bytes))?;
        send()?;
        if !jobs.stopped {
            jobs.waiting.push_back(job);
            drop(jobs);
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Called when the engine thread ends: empties the queue, stops the current preparations and ends the text
    /// thread.
    pub fn stop(&self) {
        self.ended.store(true, Ordering::Relaxed);
        let mut jobs = lock(&self.jobs);
        jobs.stopped = true;
        jobs.waiting.clear();
        for (_, ended) in jobs.current.drain(..) {
            ended.store(true, Ordering::Relaxed);
        }
        drop(jobs);
        self.changed.notify_all();
    }

    /// Takes the next prompt from the queue; blocks while it is empty. None when the thread is to end.
    pub fn next(&self) -> Option<Job> {
        let mut jobs = lock(&self.jobs);
        loop {
            if jobs.stopped {
                return None;
            }
            if let Some(job) = jobs.waiting.pop_front() {
                jobs.begin(&job);
                return Some(job);
            }
            (jobs, _) = wait_until(&self.changed, jobs, None);
        }
    }

    /// Takes the next short prompt from the queue, if there is one.
    pub fn next_short(&self) -> Option<Job> {
        let mut jobs = lock(&self.jobs);
        let at = jobs.waiting.iter().position(|job| !job.long)?;
        let job = jobs.waiting.remove(at)?;
        jobs.begin(&job);
        Some(job)
    }

    /// Records that a prompt was prepared; false when its request has ended and the result is to be dropped.
    pub fn done(&self, id: u64) -> bool {
        let mut jobs = lock(&self.jobs);
        let before = jobs.current.len();
        jobs.current.retain(|(other, _)| *other != id);
        jobs.current.len() < before
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// Controls that tests have over the text thread.
    #[derive(Default)]
    pub struct Hooks {
        /// While a test holds this, no prompt is prepared.
        pub hold: Mutex<()>,
        /// The preparation of the next prompt panics.
        pub panic_next: AtomicBool,
        /// While a test holds this, the preparation of a long prompt blocks between two pieces.
        pub hold_pieces: Mutex<()>,
        /// Number of pieces of long prompts encoded so far.
        pub pieces: AtomicUsize,
    }

    impl Hooks {
        pub fn before_a_prompt(&self) {
            drop(lock(&self.hold));
            if self.panic_next.swap(false, Ordering::SeqCst) {
                panic!("a test asked the text thread to panic");
            }
        }

        pub fn between_pieces(&self, long: bool) {
            if long {
                self.pieces.fetch_add(1, Ordering::SeqCst);
                drop(lock(&self.hold_pieces));
            }
        }
    }
}
