//! How a step's rows are chosen. Continuous batching is what the engine is for; the other two exist so that the gain can be
//! measured (`astrai bench --policy`).

use super::{Batch, Row, Scheduler};

/// Who may be in a step together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Any rows at any positions; a slot is filled again as soon as its sequence has ended.
    #[default]
    Continuous,
    /// A batch is admitted together and stays together: sequences that have ended are computed along as padding until the
    /// longest has ended, as `generate` on a padded tensor does.
    Static,
    /// Slots are filled again at once, but a forward pass takes only decode rows of one position, or prefill rows of one
    /// beginning and length.
    Grouped,
}

impl Scheduler {
    /// [`Policy::Static`]: a row for every sequence that has ended, computing its newest position and its logits once
    /// more, for nobody.
    pub(super) fn add_padding(&mut self, batch: &mut Batch) {
        for &handle in &self.running {
            let Some(sequence) = self.sequences.get(handle) else { continue };
            if sequence.finished && sequence.computed > 0 && batch.tokens < self.capacity.step_tokens {
                let first = sequence.computed - 1;
                batch.rows.push(Row { sequence: handle, first, count: 1, logits_from: first });
                batch.tokens += 1;
            }
        }
    }

    /// [`Policy::Grouped`]: whether the next pass takes prefill rows.
    pub(super) fn prefill_first(&self) -> bool {
        let mut running = self.running.iter().filter_map(|&h| self.sequences.get(h));
        running.any(|s| s.pending() > 1 && !s.paused && !s.finished)
    }

    /// [`Policy::Grouped`]: the position of the decode rows whose turn it is: the one that has waited longest.
    pub(super) fn decode_group(&self) -> Option<usize> {
        let running = self.running.iter().filter_map(|&h| self.sequences.get(h));
        running.filter(|s| s.is_ready_to_decode()).min_by_key(|s| (s.scheduled, s.rank)).map(|s| s.computed)
    }
}
