//! Compiled constraints, as callers have them.

use crate::constrain::{self, Grammar};
use crate::error::{Result, filled};
use std::sync::Arc;

/// A compiled constraint, for any number of requests of the engine that compiled it.
#[derive(Clone)]
pub struct Constraint {
    pub(super) grammar: Arc<dyn Grammar>,
    /// What may begin an answer, and whether it may be empty.
    pub(super) first: Arc<Answerable>,
    /// The size of the vocabulary that it was made for, and its fingerprint; `None` for a grammar of the host's own.
    pub(super) vocab: usize,
    pub(super) tokens: Option<u64>,
    /// Whether it is on all that the model writes.
    pub(super) whole: bool,
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Constraint").field("vocab", &self.vocab).finish_non_exhaustive()
    }
}

impl Constraint {
    /// A constraint by a grammar of the host's own, over `vocab` tokens. Runs its first matcher on the calling thread.
    ///
    /// # Errors
    /// `Unsupported` when nothing meets it; those of the grammar; `Memory`.
    pub fn new(grammar: Arc<dyn Grammar>, vocab: usize) -> Result<Constraint> {
        let mut mask = filled("the mask of a constraint", constrain::mask_words(vocab), 0)?;
        let complete = grammar.matcher()?.allowed(&mut mask)?;
        Ok(Constraint { grammar, first: Arc::new(Answerable { mask, complete }), vocab, tokens: None, whole: false })
    }

    /// The constraint on all that the model writes: its reasoning, its calls and the markers around them, too. Without it an answer to
    /// messages, whose format is known, has it on the content.
    pub fn on_whole_answer(self) -> Constraint {
        Constraint { whole: true, ..self }
    }
}

/// What may follow, and whether the answer may end.
pub(super) struct Answerable {
    pub mask: Vec<u32>,
    pub complete: bool,
}

impl Answerable {
    /// End tokens may follow where the answer may end, and nowhere else.
    pub fn add(&mut self, ends: &[u32]) {
        for &end in ends {
            if self.complete {
                constrain::set(&mut self.mask, end);
            } else {
                constrain::clear(&mut self.mask, end);
            }
        }
    }
}
