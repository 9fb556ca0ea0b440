//! Scheduler, model and backend of an engine, and how a batch plan becomes the step that the model reads.

use super::stats::Counters;
use crate::backend::{Backend, FROM_LAST_STEP, Tables};
use crate::cache::SequenceHandle;
use crate::error::{Error, Result};
use crate::model::{Model, Step};
use crate::sampling::{SamplingOutput, SamplingRequest, SamplingRequests};
use crate::scheduler::{BatchPlan, PlanFn, Scheduler, UNKNOWN};
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
    pub plan: BatchPlan,
    pub step: Step,
    /// Tokens per KV page.
    pub page_tokens: usize,
    /// Positions whose logits the current step computes, in the order of `step.logits_indices`.
    pub logits_positions: Vec<LogitsPosition>,
    /// Sampling requests of the step being submitted.
    pub sampling: SamplingRequests,
    /// Samples of the step being finished.
    pub sampled: SamplingOutput,
    /// Page frame after those of the scheduler: the only page of padding rows.
    pub spare_frame: u32,
}

/// A position of a sequence whose logits are computed: they predict the token at `position + 1`.
#[derive(Clone, Copy)]
pub(super) struct LogitsPosition {
    pub sequence: SequenceHandle,
    pub position: usize,
}

impl ModelRunner {
    /// Plans the next step into `plan` and writes the model's input into `step`. Adds the time of cleanup and refill to
    /// `counters`, unless a `planner` plans the step, and returns when they were done: planning of decode and prefill
    /// counts with the time of their rows.
    ///
    /// # Errors
    /// `Memory` when a page list cannot grow. It grows only when sequences that share pages list more pages than exist.
    pub fn schedule(&mut self, planner: &mut Option<PlanFn>, counters: &mut Counters) -> Result<Instant> {
        let begin = Instant::now();
        let mut refilled = begin;
        if let Some(planner) = planner {
            planner(&mut self.scheduler, &mut self.plan);
        } else {
            self.scheduler.begin(&mut self.plan);
            self.scheduler.cleanup();
            let cleaned = Instant::now();
            self.scheduler.refill();
            refilled = Instant::now();
            self.scheduler.decode(&mut self.plan);
            self.scheduler.prefill(&mut self.plan);
            counters.planned(cleaned - begin, refilled - cleaned);
        }
        let step = &mut self.step;
        step.clear();
        self.logits_positions.clear();
        for (index, row) in self.plan.rows.iter().enumerate() {
            let Some(sequence) = self.scheduler.get(row.sequence) else { continue };
            let (start, end) = (step.tokens.len(), row.first + row.count);
            let sampled = FROM_LAST_STEP | sequence.unknown_row;
            let tokens = sequence.tokens[row.first..end].iter();
            step.tokens.extend(tokens.map(|&token| if token == UNKNOWN { sampled } else { token }));
            for i in row.logits_from - row.first..row.count {
                step.logits_indices.push((start + i) as u32);
                self.logits_positions.push(LogitsPosition { sequence: row.sequence, position: row.first + i });
            }
            step.positions.extend(row.first as u32..end as u32);
            step.sequences.extend(std::iter::repeat_n(index as u32, row.count));
            for (tables, table) in step.tables.iter_mut().zip(&sequence.tables) {
                tables.starts.push(tables.pages.len() as u32);
                let table = &table[..end.div_ceil(self.page_tokens)];
                let refused = |_| Error::memory("the page tables of a step", table.len() as u64 * 4);
                tables.pages.try_reserve(table.len()).map_err(refused)?;
                tables.pages.extend_from_slice(table);
            }
        }
        Ok(refilled)
    }

    /// Begins the step on the device, with the sampling requests of all its positions when `whole`. True when its operations may be
    /// those of a recorded step: rows of one token each, all of them sampled. Such a step is padded.
    pub fn begin(&mut self, whole: bool) -> bool {
        let single = self.plan.rows.iter().all(|row| row.count == 1);
        let recordable = whole && single && self.logits_positions.len() == self.plan.rows.len();
        if recordable {
            self.pad_batch();
        }
        self.backend.begin(&self.step);
        if whole {
            self.backend.set_sampling(&self.sampling);
        }
        recordable
    }

    /// Pads the step with idle rows up to a batch size for which steps are recorded. Their output is discarded; their
    /// only page is `spare_frame`.
    fn pad_batch(&mut self) {
        let (step, rows) = (&mut self.step, self.plan.rows.len());
        let padded = self.backend.padded(rows);
        // Without room in the page lists there is no padding: sequences that share pages may list more than were
        // reserved.
        let room = |tables: &mut Tables| tables.pages.try_reserve(padded - rows).is_ok();
        if padded > self.model.logits_rows_max() || !step.tables.iter_mut().all(room) {
            return;
        }
        for row in rows..padded {
            step.tokens.push(0);
            step.positions.push(0);
            step.sequences.push(row as u32);
            step.logits_indices.push(row as u32);
            for tables in &mut step.tables {
                tables.starts.push(tables.pages.len() as u32);
                tables.pages.push(self.spare_frame);
            }
            self.sampling.rows.push(SamplingRequest::default());
        }
    }

    /// When `whole`, submits logits and sampling of all the step's positions.
    pub fn sample_all(&mut self, whole: bool) {
        if whole && !self.step.logits_indices.is_empty() {
            self.model.sample(&mut *self.backend, &self.step, 0, self.step.logits_indices.len());
        }
    }

    /// Submits logits and sampling of `count` of the step's positions, from `first` on, as `sampling` says.
    pub fn sample(&mut self, first: usize, count: usize) {
        self.backend.set_sampling(&self.sampling);
        self.model.sample(&mut *self.backend, &self.step, first, count);
    }
}
