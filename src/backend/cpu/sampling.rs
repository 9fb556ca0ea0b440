//! Sampling on the CPU: the rows of a step are shared out among the threads of the pool, each row sampled by one thread with sums
//! in one fixed order, so that a token does not depend on how many rows or threads there are.
//!
//! Where all that a step's rows need are a few of the largest logits (greedy, small top-k), those are found by the tasks that
//! compute the logits ([`super::best`]).

use super::best::TopK;
use super::kernels::Kernels;
use super::reserve::grow;
use super::{CpuBackend, Shared, Tier, choose};
use crate::backend::{Linear, MaxBatchShape, Operations, Tensor};
use crate::error::{Result, copied};
use crate::limits;
use crate::sampling::math::RowPasses;
use crate::sampling::{
    AllowedTokens, NO_TOKEN, Sampled, Sampler, SamplingKind, SamplingOutput, SamplingRequest, SamplingRequests,
};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What sampling keeps between calls.
pub(super) struct SamplingState {
    mask: AllowedTokens,
    output: SamplingOutput,
    /// Scratch memory, one for each row that may be sampled at a time.
    samplers: Vec<Slot>,
    /// `[rows, count]`: the largest logits, best first.
    found: Vec<(f32, u32)>,
}

/// Scratch of one task.
struct Slot(UnsafeCell<Sampler>);

// SAFETY: element `i` is used by task `i` alone (`CpuBackend::sample_rows`).
unsafe impl Sync for Slot {}

/// The passes over a row of logits as a tier compiles them.
pub struct TierPasses(&'static Kernels);

impl TierPasses {
    /// Those of a tier.
    ///
    /// # Errors
    /// `Unsupported` where the processor does not have the tier.
    pub fn of(tier: Tier) -> Result<TierPasses> {
        choose(tier).map(TierPasses)
    }
}

impl RowPasses for TierPasses {
    fn block_maxima(&self, row: &[f32], maxima: &mut [f32]) {
        // SAFETY: the tier was checked when the backend was made; so below.
        unsafe { (self.0.sampling.block_maxima)(row, maxima) }
    }

    fn weights(&self, row: &[f32], max: f32, temperature: f32, out: &mut [f32]) -> f64 {
        // SAFETY: as above.
        unsafe { (self.0.sampling.weights)(row, max, temperature, out) }
    }

    fn sum_exp(&self, row: &[f32], max: f32, temperature: f32) -> f64 {
        // SAFETY: as above.
        unsafe { (self.0.sampling.sum_exp)(row, max, temperature) }
    }

    fn sum_at_least(&self, row: &[f32], weights: &[f32], least: f32) -> f64 {
        // SAFETY: as above.
        unsafe { (self.0.sampling.sum_at_least)(row, weights, least) }
    }
}

impl Default for SamplingState {
    fn default() -> SamplingState {
        SamplingState {
            mask: AllowedTokens::all(usize::MAX),
            output: SamplingOutput::default(),
            samplers: Vec::new(),
            found: Vec::new(),
        }
    }
}

impl SamplingState {
    /// Rows that are sampled at a time, at most.
    fn slots(threads: usize, max_shape: &MaxBatchShape) -> usize {
        threads.min(max_shape.logits_rows).min(max_shape.sequences.max(1))
    }

    /// Bytes that [`SamplingState::reserve`] reserves.
    pub fn bytes(threads: usize, max_shape: &MaxBatchShape) -> u64 {
        let samplers =
            (SamplingState::slots(threads, max_shape) as u64).saturating_mul(Sampler::bytes(max_shape.vocab));
        let found = (max_shape.best as u64).saturating_mul(size_of::<(f32, u32)>() as u64);
        samplers.saturating_add(found).saturating_add(SamplingOutput::bytes(max_shape.logits_rows))
    }

    /// Reserves what the largest step needs.
    pub fn reserve(&mut self, threads: usize, max_shape: &MaxBatchShape) -> Result<()> {
        let (rows, vocab) = (max_shape.logits_rows, max_shape.vocab);
        self.samplers.clear();
        grow("the samplers", &mut self.samplers, SamplingState::slots(threads, max_shape))?;
        for _ in 0..SamplingState::slots(threads, max_shape) {
            self.samplers.push(Slot(UnsafeCell::new(Sampler::new(vocab)?)));
        }
        self.output = SamplingOutput::new(rows)?;
        grow("the largest logits", &mut self.found, max_shape.best)
    }

    pub fn set_mask(&mut self, mask: &AllowedTokens) -> Result<()> {
        let holes = copied("the ids that may not be sampled", mask.holes())?;
        self.mask = AllowedTokens::new(mask.end(), holes);
        Ok(())
    }

    pub fn copy_to(&self, to: &mut SamplingOutput) {
        to.copy_from(&self.output);
    }
}

impl CpuBackend {
    /// See [`crate::backend::Sampling::sample`].
    pub(super) fn sample_rows(
        &mut self,
        x: Tensor,
        rows: usize,
        head: Linear,
        softcap: Option<f32>,
        requests: &SamplingRequests,
    ) {
        let mut sampling = std::mem::take(&mut self.sampling);
        let SamplingState { mask, output, samplers, found } = &mut sampling;
        assert!(rows == requests.rows.len(), "{rows} rows of logits for {} requests", requests.rows.len());
        if samplers.is_empty() {
            // A backend without a reservation works all the same.
            let sampler = Sampler::new(head.weight.out_features).unwrap_or_else(|error| panic!("{error}"));
            samplers.push(Slot(UnsafeCell::new(sampler)));
        }
        let vocab = head.weight.out_features;
        // A cap may make equal logits of different ones, which are then ordered by id: so all are capped first.
        let enough = |request: &SamplingRequest| {
            if softcap.is_some() { None } else { Sampler::enough(mask, request) }
        };
        let count = requests.rows.iter().filter_map(enough).max().unwrap_or(0);
        if count > 0 {
            self.topk_products(x, rows, head, TopK { count, limit: mask.end().min(vocab), found });
        } else {
            self.products(x, rows, &[head]);
        }
        let whole = requests.rows.iter().filter(|request| enough(request).is_none()).count();
        if let Some(cap) = softcap {
            self.softcap(head.out, cap, rows * vocab);
        }
        output.resize(rows, requests.rows.iter().any(|request| request.logprobs > 0));
        let passes = TierPasses(self.kernels);
        let logits = self.shared(head.out, rows * vocab);
        let out = Outputs {
            tokens: Shared(output.tokens.as_mut_ptr()),
            logprobs: Shared(output.logprobs.as_mut_ptr()),
            top: (!output.top_tokens.is_empty())
                .then_some((Shared(output.top_tokens.as_mut_ptr()), Shared(output.top_logprobs.as_mut_ptr()))),
        };
        let (next, slots, found) = (AtomicUsize::new(0), &*samplers, &*found);
        let mask = &*mask;
        self.pool.run(slots.len().min(whole.max(1)), &|slot, _| {
            // SAFETY: each task has a slot of its own.
            let sampler = unsafe { &mut *slots[slot].0.get() };
            loop {
                let row = next.fetch_add(1, Ordering::Relaxed);
                let Some(request) = requests.rows.get(row) else { return };
                // SAFETY: each row is taken by one task, and the outputs have an entry for each.
                let (token, logprob, top) = unsafe { out.of(row) };
                if let Some(enough) = enough(request) {
                    let best = found.get(row * count..row * count + enough).unwrap_or_default();
                    let finite = best.iter().take_while(|b| b.0.is_finite()).count();
                    let idle = request.kind == SamplingKind::Idle;
                    *token = if idle { NO_TOKEN } else { sampler.sample_best(&best[..finite], request) };
                    *logprob = f32::NAN;
                    continue;
                }
                let first = request.first_adjustment as usize;
                let adjustments = &requests.adjustments[first..first + request.adjustments as usize];
                // SAFETY: inside the tensor, which no task writes.
                let logits = unsafe { logits.read(row * vocab..(row + 1) * vocab) };
                let own = (adjustments, requests.mask(request, vocab));
                let sampled: Sampled = sampler.sample(&passes, logits, mask, request, own, top);
                (*token, *logprob) = (sampled.token, sampled.logprob);
            }
        });
        self.sampling = sampling;
    }
}

/// Where the tasks write.
#[derive(Clone, Copy)]
struct Outputs {
    tokens: Shared<u32>,
    logprobs: Shared<f32>,
    top: Option<(Shared<u32>, Shared<f32>)>,
}

/// The most probable tokens of a row and their log probabilities; empty when no row asked for any.
type Top<'a> = (&'a mut [u32], &'a mut [f32]);

impl Outputs {
    /// The entries of a row.
    ///
    /// # Safety
    /// The lists have this row, and no other task has its entries.
    unsafe fn of<'a>(self, row: usize) -> (&'a mut u32, &'a mut f32, Top<'a>) {
        let range = row * limits::TOP_LOGPROBS_MAX..(row + 1) * limits::TOP_LOGPROBS_MAX;
        // SAFETY: the caller's promise.
        unsafe {
            let top: Top = match self.top {
                Some((tokens, logprobs)) => (tokens.slice(range.clone()), logprobs.slice(range)),
                None => Default::default(),
            };
            (&mut self.tokens.slice(row..row + 1)[0], &mut self.logprobs.slice(row..row + 1)[0], top)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::tiers;
    use crate::sampling::math::{BLOCK, Portable};

    #[test]
    fn every_tier_has_the_bits_of_the_portable_passes() {
        for len in [1, 15, 16, 127, 128, 129, 3072, 20_003] {
            let mut row: Vec<f32> = (0..len).map(|i| (i as f32 * 0.37).sin() * 9.0 - i as f32 * 1e-3).collect();
            for (at, bad) in [(3, f32::NAN), (70, f32::INFINITY), (130, f32::NEG_INFINITY)] {
                row.iter_mut().skip(at).take(1).for_each(|x| *x = bad);
            }
            let all = |passes: &dyn RowPasses| {
                let (mut maxima, mut weights) = (vec![0.0; row.len().div_ceil(BLOCK)], vec![0.0; row.len()]);
                passes.block_maxima(&row, &mut maxima);
                let max = maxima.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sums = [
                    passes.weights(&row, max, 0.7, &mut weights),
                    passes.sum_exp(&row, max, 1.0),
                    passes.sum_at_least(&row, &weights, max - 2.0),
                ];
                let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                (bits(&maxima), bits(&weights), sums.map(f64::to_bits))
            };
            let portable = all(&Portable);
            for tier in tiers() {
                assert!(all(&TierPasses::of(tier).unwrap()) == portable, "{tier:?}, {len} logits");
            }
        }
    }
}
