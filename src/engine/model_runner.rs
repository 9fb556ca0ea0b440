//! The parts that compute, and how a plan becomes a step that the model reads.

use super::core::PhaseTimes;
use super::logits::HostLogits;
use crate::backend::{Backend, FROM_LAST_STEP, SamplingOutput, SamplingRequests};
use crate::cache::SequenceHandle;
use crate::error::{Error, Result};
use crate::model::{Model, Step};
use crate::sampling::{AllowedTokens, Sampler};
use crate::scheduler::{BatchPlan, Scheduler, UNKNOWN};
use crate::source::ModelSource;
use std::sync::Arc;
use std::time::Instant;

/// The parts that compute.
pub(super) struct ModelRunner {
    pub scheduler: Scheduler,
    pub model: Model,
    pub backend: Box<dyn Backend>,
    /// Kept for the hash of its weights ([`super::identity`]), and let go with the rest.
    #[allow(dead_code, reason = "the identity reads it through a weak pointer")]
    pub source: Option<Arc<dyn ModelSource>>,
    pub sampler: Sampler,
    pub allowed: AllowedTokens,
    pub plan: BatchPlan,
    pub step: Step,
    pub page_tokens: usize,
    /// Logits of some rows, read from the device.
    pub logits: HostLogits,
    pub top_tokens: Vec<u32>,
    pub top_logprobs: Vec<f32>,
    /// Of one step, kept for its memory.
    pub logits_positions: Vec<LogitsPosition>,
    /// Of a device that samples: what a step's rows are asked for, and what came of it.
    pub sampling: SamplingRequests,
    pub sampled: SamplingOutput,
    /// The frame after the last, for rows that nobody wants.
    pub spare_frame: u32,
}

/// A position whose logits are wanted.
#[derive(Clone, Copy)]
pub(super) struct LogitsPosition {
    pub sequence: SequenceHandle,
    pub position: usize,
}

impl ModelRunner {
    /// Plans the step and writes it down as the model reads it. What decode and prefill take is counted with their rows.
    /// Returns when those two phases began.
    ///
    /// # Errors
    /// `Memory`: sequences that share pages name them more often than there are pages, which was reserved for.
    pub fn schedule(&mut self, spent: &mut PhaseTimes) -> Result<Instant> {
        let begin = Instant::now();
        self.scheduler.begin(&mut self.plan);
        self.scheduler.cleanup();
        let cleaned = Instant::now();
        self.scheduler.refill();
        let refilled = Instant::now();
        self.scheduler.decode(&mut self.plan);
        self.scheduler.prefill(&mut self.plan);
        spent.cleanup += cleaned - begin;
        spent.refill += refilled - cleaned;
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
}
