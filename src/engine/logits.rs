//! Logits for sampling on the host. Greedy sampling and a small top-k need only the few largest logits of a row, which
//! the device finds while it computes them ([`linear_topk`](crate::backend::Backend::linear_topk)). Other requests,
//! such as those with log probabilities, penalties or biases, need all of them.

use super::core::Core;
use super::model_runner::{LogitsPosition, ModelRunner};
use crate::backend::TopK;
use crate::error::{Error, Result};
use crate::limits;

impl Core {
    /// Sets `logits.enough` for each position of `piece`: how many of the largest logits sampling needs.
    pub(super) fn find_enough(&mut self, piece: &[LogitsPosition]) {
        let runner = &mut self.runner;
        runner.logits.enough.clear();
        for at in piece {
            let enough = self.active.get(at.sequence).and_then(|active| {
                let samples = active.request.prompt.get(at.position + 1).is_none() && active.request.max_tokens > 0;
                samples.then(|| runner.sampler.enough(&runner.allowed, &active.request.params)).flatten()
            });
            runner.logits.enough.push(enough);
        }
    }
}

impl ModelRunner {
    /// Computes the logits of `piece`, which starts at the `first` of the step's logits positions. The host gets the
    /// largest logits of each row, and all logits of the rows that need them.
    ///
    /// # Errors
    /// `Device` when the device failed.
    pub(super) fn compute_logits(&mut self, first: usize, piece: &[LogitsPosition]) -> Result<()> {
        let HostLogits { vocab, all, enough, best, count } = &mut self.logits;
        *count = enough.iter().flatten().copied().max().unwrap_or(0);
        let search = TopK { count: *count, limit: self.allowed.end(), found: best };
        let best = (*count > 0).then_some(search);
        let logits = self.model.logits(&mut *self.backend, &self.step, first, piece.len(), best)?;
        for (row, _) in enough.iter().enumerate().filter(|(_, enough)| enough.is_none()) {
            self.backend.read(logits.at(row * *vocab), &mut all[row * *vocab..(row + 1) * *vocab])?;
        }
        Ok(())
    }
}

/// Host copies of logits, for one piece of a step's logits positions.
pub(super) struct HostLogits {
    vocab: usize,
    /// `[rows, vocab]`; filled for rows that need all logits.
    all: Vec<f32>,
    /// For each row, how many of the largest logits sampling needs; `None` = all logits.
    enough: Vec<Option<usize>>,
    /// `[rows, count]`: (logit, token id), largest first.
    best: Vec<(f32, u32)>,
    /// The largest number in `enough`; 0 when every row needs all logits.
    count: usize,
}

impl HostLogits {
    /// Buffers for at most `rows` rows; using them allocates nothing.
    ///
    /// # Errors
    /// `Memory`.
    pub fn new(rows: usize, vocab: usize) -> Result<HostLogits> {
        let refused = |_| Error::memory("logits", HostLogits::bytes(rows, vocab));
        let (mut all, mut enough, mut best) = (Vec::new(), Vec::new(), Vec::new());
        all.try_reserve_exact(rows * vocab).map_err(refused)?;
        enough.try_reserve_exact(rows).map_err(refused)?;
        best.try_reserve_exact(rows * limits::BEST_LOGITS_MAX).map_err(refused)?;
        all.resize(rows * vocab, 0.0);
        Ok(HostLogits { vocab, all, enough, best, count: 0 })
    }

    /// Bytes that `new` reserves.
    pub fn bytes(rows: usize, vocab: usize) -> u64 {
        let row =
            vocab * size_of::<f32>() + size_of::<Option<usize>>() + limits::BEST_LOGITS_MAX * size_of::<(f32, u32)>();
        rows as u64 * row as u64
    }

    /// All logits of a row that needs them all.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.all[index * self.vocab..(index + 1) * self.vocab]
    }

    /// The largest logits of a row, as many as sampling needs, without those that are not finite; `None` when the row
    /// needs all.
    pub fn best(&self, index: usize) -> Option<&[(f32, u32)]> {
        let enough = (*self.enough.get(index)?)?;
        let best = &self.best[index * self.count..index * self.count + enough];
        let finite = best.iter().take_while(|b| b.0.is_finite()).count();
        Some(&best[..finite])
    }
}
