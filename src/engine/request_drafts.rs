//! The part of a request in speculation.

use crate::scheduler::Sequence;
use crate::speculation::{Acceptance, Drafter};

/// A model whose drafts are not worth their time drafts one token in so many steps, to see whether they are now.
const PROBE_STEPS: u32 = 16;

/// The part of a request in speculation.
pub(super) struct RequestDrafts {
    /// `None` where texts are not drafted from.
    pub drafter: Option<Drafter>,
    /// Of a request that the draft model follows.
    pub model: Option<OfModel>,
    /// The host drafts.
    pub by_host: bool,
    /// Most drafts of a step.
    pub most: usize,
    /// Whether the next token is guessed rather than not, and a draft of it is worth its row: where steps overlap, it pays to know the
    /// newest token before the next one.
    pub promising: bool,
    /// Those that a constraint lets follow; reused.
    pub masked: Vec<u32>,
}

/// What is known of the draft model's drafts for a request.
#[derive(Clone, Copy, Default)]
pub(super) struct OfModel {
    pub acceptance: Acceptance,
    /// Drafts of the sequence that were computed and accepted when it was looked at last, and whether those since are the model's.
    seen: (u64, u64),
    pub asked: bool,
    /// Steps without its drafts.
    without: u32,
}

impl OfModel {
    /// The sequence has had its last drafts.
    pub fn look(&mut self, sequence: &Sequence) {
        let now = (sequence.drafted, sequence.accepted);
        if std::mem::take(&mut self.asked) {
            self.acceptance.observe((now.0 - self.seen.0) as usize, (now.1 - self.seen.1) as usize);
        }
        self.seen = now;
    }

    /// How many drafts are wanted, at most.
    pub fn drafts(&mut self, least: f32, most: usize) -> usize {
        match self.acceptance.drafts(least, most) {
            0 => {
                self.without += 1;
                usize::from(self.without.is_multiple_of(PROBE_STEPS)).min(most)
            }
            drafts => drafts,
        }
    }
}
