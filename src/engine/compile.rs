//! The constraint thread, and compiling constraints, which runs on threads of its own so that it holds up no request.

use super::guide::Job;
use super::{Constraint, Engine, Shared, lock};
use crate::constrain::{self, Kind, TokenTrie};
use crate::error::{Error, Result};
use crate::limits;
use crate::os::{shortage, thread};

/// The constraint thread's body.
fn run(shared: &Shared) {
    while let Some(job) = shared.guides.next() {
        match job {
            Job::Compute(guide) => {
                guide.compute();
                shared.mailbox.nudge();
            }
            Job::Drop(guide) => drop(guide),
        }
    }
}

impl Engine {
    /// Compiles a constraint, which serves any number of requests of this engine. May take a second the first time, when the
    /// vocabulary is made ready, and then milliseconds.
    ///
    /// # Errors
    /// As [`constrain::compile()`]; `Unsupported` without a tokenizer or weights; `Closed`.
    pub fn compile_constraint(&self, kind: Kind, text: &str) -> Result<Constraint> {
        if self.text_only {
            return Err(Error::unsupported("the engine was opened for text only; open it with weights to generate"));
        }
        self.open_or_closed()?;
        let tokenizer = self.text.tokenizer()?.clone();
        let vocab = self.info.vocab_size as usize;
        let guides = &self.shared.guides;
        thread::aside_with("constraint", limits::CONSTRAINT_STACK_BYTES, || {
            shortage::forget();
            let trie = guides.trie(|| TokenTrie::new(&tokenizer, vocab))?;
            let made = constrain::compile(&trie, kind, text).and_then(|grammar| Constraint::new(grammar, vocab));
            let made = made.map(|made| Constraint { tokens: Some(trie.fingerprint()), ..made });
            shortage::check("a constraint").and(made)
        })
        .flatten()
    }

    /// The fingerprint of the vocabulary, found by the first call.
    pub(super) fn tokens_fingerprint(&self) -> Result<u64> {
        match &self.text.tokenizer {
            None => Ok(0),
            Some(tokenizer) => {
                self.shared.guides.fingerprint(|| constrain::fingerprint(tokenizer, self.info.vocab_size as usize))
            }
        }
    }

    /// What a constrained request needs of the engine: the constraint thread, and room in its line.
    pub(super) fn ready_guides(&self) -> Result<()> {
        self.shared.guides.reserve(self.pending_max())?;
        let mut threads = lock(&self.threads);
        // As for the text thread: a thread added here is joined by the close.
        self.open_or_closed()?;
        if self.shared.guides.is_to_start() {
            let shared = self.shared.clone();
            let stack = limits::CONSTRAINT_STACK_BYTES;
            threads.push(thread::spawn_with("guide", self.placing, stack, move || run(&shared))?);
            self.shared.guides.note_start();
        }
        Ok(())
    }
}
