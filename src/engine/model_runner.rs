//! Scheduler, model and backend of an engine, and how a batch becomes the step that the model reads.

use super::stats::Counters;
use crate::backend::{Backend, FROM_LAST_STEP};
use crate::cache::{Keep, NO_FRAME, SequenceHandle};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::sampling::{AllowedTokens, SamplingKind, SamplingOutput};
use crate::scheduler::{Batch, ScheduleFn, Scheduler, UNKNOWN};
use crate::source::ModelSource;
use std::sync::Arc;
use std::time::Instant;

/// Scheduler, model and backend, with buffers that are reused for each step. Owned by the engine thread.
pub(super) struct ModelRunner {
    pub scheduler: Scheduler,
    pub model: Model,
    pub backend: Box<dyn Backend>,
    /// Keeps the source alive, whose weights [`super::identity`] hashes when needed; `None` when it was dropped after
    /// loading.
    #[allow(dead_code, reason = "the identity reads it through a weak pointer")]
    pub source: Option<Arc<dyn ModelSource>>,
    pub batch: Batch,
    /// Tokens per KV page.
    pub page_tokens: usize,
    /// Positions whose logits the current step computes, in the order of the step's `logits_indices`.
    pub logits_positions: Vec<LogitsPosition>,
    /// Samples of the step being finished.
    pub sampled: SamplingOutput,
    /// Hidden states of some rows of the step, for embeddings; with room for the most that are read at once.
    pub states: Vec<f32>,
    /// The tokens that may be sampled.
    pub allowed: Arc<AllowedTokens>,
}

/// A position of a sequence whose logits are computed: they predict the token at `position + 1`.
#[derive(Clone, Copy)]
pub(super) struct LogitsPosition {
    pub sequence: SequenceHandle,
    pub position: usize,
    /// Of the sequence's drafts, those up to this position; 0 for a token of its own.
    pub draft: usize,
    /// All drafts of the row.
    pub drafts: usize,
}

impl ModelRunner {
    /// Schedules the next step into `batch` and writes its input to the backend's [`Step`](crate::backend::Step). Adds the
    /// time of cleanup and refill to `counters`, unless `schedule` takes the scheduler's place, and returns when they were
    /// done: scheduling of decode and prefill counts with the time of their rows.
    ///
    /// # Errors
    /// `Memory` when a page list cannot grow. It grows only when sequences that share pages list more pages than exist.
    pub fn schedule(&mut self, schedule: &mut Option<ScheduleFn>, counters: &mut Counters) -> Result<Instant> {
        let begin = Instant::now();
        let mut refilled = begin;
        if let Some(schedule) = schedule {
            schedule(&mut self.scheduler, &mut self.batch);
        } else {
            self.scheduler.begin(&mut self.batch);
            self.scheduler.cleanup();
            let cleaned = Instant::now();
            self.scheduler.refill();
            refilled = Instant::now();
            self.scheduler.decode(&mut self.batch);
            self.scheduler.prefill(&mut self.batch);
            counters.planned(cleaned - begin, refilled - cleaned);
        }
        let step = self.backend.step();
        step.clear();
        self.logits_positions.clear();
        for (index, row) in self.batch.rows.iter().enumerate() {
            let Some(sequence) = self.scheduler.get(row.sequence) else { continue };
            let (start, end) = (step.tokens.len(), row.first + row.count);
            let sampled = FROM_LAST_STEP | sequence.unknown_row;
            let own = end - row.drafts;
            let tokens = sequence.tokens[row.first..own].iter().chain(&sequence.drafts[..row.drafts]);
            step.tokens.extend(tokens.map(|&token| if token == UNKNOWN { sampled } else { token }));
            for position in row.logits_from..end {
                step.logits_indices.push((start + position - row.first) as u32);
                let (sequence, drafts, draft) = (row.sequence, row.drafts, (position + 1).saturating_sub(own));
                self.logits_positions.push(LogitsPosition { sequence, position, draft, drafts });
            }
            step.positions.extend(row.first as u32..end as u32);
            step.sequences.extend(std::iter::repeat_n(index as u32, row.count));
            for (group, (tables, table)) in step.tables.iter_mut().zip(&sequence.tables).enumerate() {
                tables.starts.push(tables.pages.len() as u32);
                let keep = self.scheduler.capacity().groups[group].keep;
                if keep == Keep::State {
                    tables.pages.extend(sequence.states[group].step());
                    continue;
                }
                let table = &table[..end.div_ceil(self.page_tokens)];
                let refused = |_| Error::memory("the page tables of a step", table.len() as u64 * 4);
                tables.pages.try_reserve(table.len()).map_err(refused)?;
                match keep {
                    Keep::All => tables.pages.extend_from_slice(table),
                    // A page that was let go is beyond the window of every row; whatever is named here is not read.
                    _ => tables.pages.extend(table.iter().map(|&page| if page == NO_FRAME { 0 } else { page })),
                }
            }
        }
        Ok(refilled)
    }

    /// The `position`-th of the step's positions, and what the `request`-th of its sampling requests asks of it.
    pub fn asked(&mut self, position: usize, request: usize) -> (LogitsPosition, SamplingKind) {
        (self.logits_positions[position], self.backend.step().sampling.rows[request].kind)
    }

    /// Submits logits and sampling of all the step's positions.
    pub fn sample_all(&mut self) {
        // Of those that the device added, too.
        let rows = self.backend.step().logits_indices.len();
        if rows > 0 {
            self.model.sample(&mut *self.backend, 0, rows);
        }
    }

    /// Submits logits and sampling of `count` of the step's positions, from `first` on.
    pub fn sample(&mut self, first: usize, count: usize) {
        self.model.sample(&mut *self.backend, first, count);
    }
}
