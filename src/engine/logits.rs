//! From logits on the device to what sampling needs of them on the host: of most requests the few largest, found while they
//! were computed; of those with log probabilities, penalties or bias all.

use super::core::Core;
use super::model_runner::{LogitsPosition, ModelRunner};
use crate::backend::TopK;
use crate::error::{Error, Result};
use crate::limits;

impl Core {
    /// Notes for each position whose logits are wanted how many of them are enough.
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
    /// Computes the logits of some of the step's wanted positions, from the `first` on. Rows that need all of theirs are copied
    /// to the host.
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

/// What the host knows of the logits of some positions.
pub(super) struct HostLogits {
    vocab: usize,
    /// `[rows, vocab]`, for those that need all.
    all: Vec<f32>,
    /// How many of the largest are enough, for each row; `None` = all are needed.
    enough: Vec<Option<usize>>,
    /// `[rows, count]`: (logit, id), best first.
    best: Vec<(f32, u32)>,
    count: usize,
}

impl HostLogits {
    /// For at most `rows` rows, with every reservation made.
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

    /// All logits of a row.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.all[index * self.vocab..(index + 1) * self.vocab]
    }

    /// The largest logits of a row, as many as are enough and finite; `None` when the row needs all.
    pub fn best(&self, index: usize) -> Option<&[(f32, u32)]> {
        let enough = (*self.enough.get(index)?)?;
        let best = &self.best[index * self.count..index * self.count + enough];
        let finite = best.iter().take_while(|b| b.0.is_finite()).count();
        Some(&best[..finite])
    }
}
