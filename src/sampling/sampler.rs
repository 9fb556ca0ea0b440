//! One token from one row of logits.

use super::allowed::AllowedTokens;
use super::counts::TokenCounts;
use super::math;
use super::params::SamplingParams;
use super::philox::uniform;
use super::select;
use crate::error::{Error, Result};
use crate::limits;

/// A sampled token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampled {
    /// Its id.
    pub token: u32,
    /// Its log probability by the raw logits; NaN when the parameters ask for no logprobs.
    pub logprob: f32,
}

/// Scratch memory for rows of one vocabulary size; one serves all sequences of an engine. Holds no state between calls.
#[derive(Debug)]
pub struct Sampler {
    vocab: usize,
    /// Logits after penalties, bias and the mask of unnamed ids.
    adjusted: Vec<f32>,
    scratch: Scratch,
}

/// Scratch memory of a draw.
#[derive(Debug)]
struct Scratch {
    /// Unnormalised probabilities, of the best 1.
    weights: Vec<f32>,
    /// Candidates of a truncation or a ranking.
    keys: Vec<u64>,
    /// Weight by bucket of logits.
    buckets: Vec<f64>,
}

impl Sampler {
    /// A sampler for rows of `vocab` logits.
    pub fn new(vocab: usize) -> Result<Sampler> {
        let refused = |_| Error::memory("the sampler", Sampler::bytes(vocab));
        let (mut adjusted, mut weights, mut keys, mut buckets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        adjusted.try_reserve_exact(vocab).map_err(refused)?;
        weights.try_reserve_exact(vocab).map_err(refused)?;
        keys.try_reserve_exact(vocab).map_err(refused)?;
        buckets.try_reserve_exact(BUCKETS).map_err(refused)?;
        weights.resize(vocab, 0.0);
        buckets.resize(BUCKETS, 0.0);
        Ok(Sampler { vocab, adjusted, scratch: Scratch { weights, keys, buckets } })
    }

    /// Bytes that `new` reserves.
    pub fn bytes(vocab: usize) -> u64 {
        vocab as u64 * (2 * size_of::<f32>() + size_of::<u64>()) as u64 + (BUCKETS * size_of::<f64>()) as u64
    }

    /// Samples the token at absolute `position` of its sequence.
    ///
    /// In this order: repetition penalty, presence and frequency penalty, bias, temperature, top-k, top-p, min-p, one
    /// draw. `params` have been validated for this vocabulary. A logit that is NaN or infinite counts as minus
    /// infinity and is never sampled, nor is an id that `allowed` lacks, nor one less than e^-87 times as likely as
    /// the best.
    ///
    /// With `logprobs: Some(k)`, appends the k most probable ids of the raw logits, best first, of equals the lowest,
    /// whether allowed or not, to `top_tokens` and their log probabilities to `top_logprobs`.
    ///
    /// # Errors
    /// `Format` when no allowed logit is finite: damaged weights or an overflow. `Argument` when bias or penalties forbid
    /// every token. Nothing is appended then.
    #[allow(clippy::too_many_arguments, reason = "one call site; a struct would only rename them")]
    pub fn sample(
        &mut self,
        logits: &[f32],
        allowed: &AllowedTokens,
        params: &SamplingParams,
        counts: &TokenCounts,
        position: u64,
        top_tokens: &mut Vec<u32>,
        top_logprobs: &mut Vec<f32>,
    ) -> Result<Sampled> {
        if logits.len() != self.vocab {
            let message = format!("the sampler was given {} logits for a vocabulary of {}", logits.len(), self.vocab);
            return Err(Error::internal(message));
        }
        let candidates = logits.get(..allowed.end()).unwrap_or(logits);
        let plain = allowed.holes().is_empty() && params.bias.is_empty() && !params.uses_counts();
        let row = if plain { candidates } else { adjust(&mut self.adjusted, candidates, allowed, params, counts) };
        let chosen =
            if params.temperature > 0.0 { draw(row, params, position, &mut self.scratch) } else { math::argmax(row) };
        let token = chosen.ok_or_else(|| nothing_left(candidates, position))?;
        let logprob = match params.logprobs {
            None => f32::NAN,
            Some(k) => self.logprobs(logits, token, k as usize, top_tokens, top_logprobs)?,
        };
        Ok(Sampled { token, logprob })
    }

    /// How many of a row's largest logits, of allowed ids, are all that [`Sampler::sample`] would look at; `None` when it needs
    /// the whole row.
    pub fn enough(&self, allowed: &AllowedTokens, params: &SamplingParams) -> Option<usize> {
        let plain = allowed.holes().is_empty() && params.bias.is_empty() && !params.uses_counts();
        let count = if params.temperature > 0.0 { params.top_k as usize } else { 1 };
        let few = (1..=limits::BEST_LOGITS_MAX).contains(&count) && count < allowed.end().min(self.vocab);
        (plain && few && params.logprobs.is_none()).then_some(count)
    }

    /// As [`Sampler::sample`], from the [`Sampler::enough`] largest finite logits of allowed ids: (logit, id), best first, of
    /// equals the lower id; fewer where fewer are finite.
    pub fn sample_best(&mut self, best: &[(f32, u32)], params: &SamplingParams, position: u64) -> Result<Sampled> {
        let Some(&(max, first)) = best.first() else { return Err(nothing_left(&[], position)) };
        let token = if params.temperature > 0.0 {
            let logit = |id: u32| best.iter().find(|b| b.1 == id).map_or(f32::NEG_INFINITY, |b| b.0);
            let weight = |id: u32| math::weight(logit(id), max, params.temperature);
            let keys = &mut self.scratch.keys;
            keys.clear();
            keys.extend(best.iter().map(|&(x, id)| select::key(x, id)));
            draw_from_largest(keys, params, uniform(params.seed, 0, position, 0), weight)
        } else {
            Some(first)
        };
        Ok(Sampled { token: token.ok_or_else(|| nothing_left(&[], position))?, logprob: f32::NAN })
    }

    /// Log probability of `token` by log-softmax of the raw logits; minus infinity where its logit is not finite or
    /// missing.
    pub fn logprob(&mut self, logits: &[f32], token: u32) -> f32 {
        let max = math::max(logits);
        logprob(logits, token, max, math::sum_exp(logits, max, 1.0).ln())
    }

    /// Address and capacity of each buffer.
    #[cfg(test)]
    pub(super) fn buffers(&self) -> [(usize, usize); 3] {
        let (a, w, k) = (&self.adjusted, &self.scratch.weights, &self.scratch.keys);
        [(a.as_ptr().addr(), a.capacity()), (w.as_ptr().addr(), w.capacity()), (k.as_ptr().addr(), k.capacity())]
    }

    /// Appends the k best and returns the log probability of `token`.
    fn logprobs(
        &mut self,
        logits: &[f32],
        token: u32,
        k: usize,
        top_tokens: &mut Vec<u32>,
        top_logprobs: &mut Vec<f32>,
    ) -> Result<f32> {
        let max = math::max(logits);
        let log_sum = math::sum_exp(logits, max, 1.0).ln();
        if k > 0 {
            let refused = |_| Error::memory("top log probabilities", k as u64 * 8);
            top_tokens.try_reserve(k).map_err(refused)?;
            top_logprobs.try_reserve(k).map_err(refused)?;
            let keys = (0u32..).zip(logits).map(|(id, &x)| select::key(math::finite_or_least(x), id));
            let best = &mut self.scratch.keys;
            select::largest(keys, k, best);
            select::sort_front(best, k);
            for &key in &*best {
                let id = select::id(key);
                top_tokens.push(id);
                top_logprobs.push(logprob(logits, id, max, log_sum));
            }
        }
        Ok(logprob(logits, token, max, log_sum))
    }
}

/// `x[token] - max - log_sum`, rounded once.
#[allow(clippy::cast_possible_truncation, reason = "log probabilities are reported in single precision")]
fn logprob(logits: &[f32], token: u32, max: f32, log_sum: f64) -> f32 {
    let x = logits.get(token as usize).map_or(f32::NEG_INFINITY, |&x| math::finite_or_least(x));
    if x == f32::NEG_INFINITY { x } else { (f64::from(x) - f64::from(max) - log_sum) as f32 }
}

/// Copies the row, then changes the few logits that penalties, bias and holes name. Each of the penalties' changes
/// depends on its own token only, so the order of the counts does not matter.
fn adjust<'a>(
    scratch: &'a mut Vec<f32>,
    row: &[f32],
    allowed: &AllowedTokens,
    params: &SamplingParams,
    counts: &TokenCounts,
) -> &'a [f32] {
    scratch.clear();
    scratch.extend_from_slice(row);
    if params.uses_counts() {
        for (token, count) in counts.iter() {
            let Some(x) = scratch.get_mut(token as usize).filter(|x| x.is_finite()) else { continue };
            let penalty = params.repetition_penalty;
            let mut y = if *x > 0.0 { *x / penalty } else { *x * penalty };
            if count.output > 0 {
                y -= params.frequency_penalty * count.output as f32 + params.presence_penalty;
            }
            *x = y.min(f32::MAX);
        }
    }
    for &(token, bias) in &params.bias {
        if let Some(x) = scratch.get_mut(token as usize).filter(|x| x.is_finite()) {
            *x = (*x + bias).min(f32::MAX);
        }
    }
    for &hole in allowed.holes() {
        if let Some(x) = scratch.get_mut(hole as usize) {
            *x = f32::NEG_INFINITY;
        }
    }
    scratch
}

/// Temperature, truncation, draw. `None` when no logit is finite.
fn draw(row: &[f32], params: &SamplingParams, position: u64, scratch: &mut Scratch) -> Option<u32> {
    let Scratch { weights, keys, buckets } = scratch;
    let max = math::max(row);
    if max == f32::NEG_INFINITY {
        return None;
    }
    let u = uniform(params.seed, 0, position, 0);
    let top_k = if params.top_k as usize >= row.len() { 0 } else { params.top_k as usize };
    if top_k == 0 && params.top_p >= 1.0 {
        return draw_from_all(row, max, params, u, weights.get_mut(..row.len())?);
    }
    if top_k == 0 {
        let weights = weights.get_mut(..row.len())?;
        let total = math::weights(row, max, params.temperature, weights);
        let least = nucleus(row, weights, f64::from(params.top_p) * total, buckets, keys);
        let all = (0u32..).zip(row).zip(&*weights).filter(|(_, w)| **w > 0.0);
        keys.clear();
        keys.extend(all.map(|((id, &x), _)| select::key(x, id)).filter(|&key| key >= least));
        return draw_from_kept(keys, params, u, |id| weights.get(id as usize).copied().unwrap_or(0.0));
    }
    let weight = |id: u32| row.get(id as usize).map_or(0.0, |&x| math::weight(x, max, params.temperature));
    let finite = (0u32..).zip(row).filter(|(_, x)| x.is_finite());
    select::largest(finite.map(|(id, &x)| select::key(x, id)), top_k, keys);
    draw_from_largest(keys, params, u, weight)
}

/// The rest of a draw after top-k: top-p, min-p, one draw.
fn draw_from_largest(keys: &mut Vec<u64>, params: &SamplingParams, u: f64, weight: impl Fn(u32) -> f32) -> Option<u32> {
    if params.top_p < 1.0 {
        let all = keys.len();
        select::sort_front(keys, all);
        let total: f64 = keys.iter().map(|&key| f64::from(weight(select::id(key)))).sum();
        let kept = reach(keys, 0.0, f64::from(params.top_p) * total, &weight);
        keys.truncate(kept);
    }
    keys.sort_unstable_by_key(|&key| select::id(key));
    draw_from_kept(keys, params, u, weight)
}

/// Applies min-p to the kept keys, which are ordered by id so that the draw depends on what was kept and not on how it
/// was found, and draws.
fn draw_from_kept(keys: &mut Vec<u64>, params: &SamplingParams, u: f64, weight: impl Fn(u32) -> f32) -> Option<u32> {
    // The best has weight 1, so that the fraction of it is the weight itself.
    keys.retain(|&key| weight(select::id(key)) >= params.min_p);
    let kept = || keys.iter().map(|&key| select::id(key)).map(|id| (id, weight(id)));
    let total: f64 = kept().map(|(_, weight)| f64::from(weight)).sum();
    walk(kept(), u * total)
}

/// The draw without top-k and top-p: no candidates to collect.
fn draw_from_all(row: &[f32], max: f32, params: &SamplingParams, u: f64, weights: &mut [f32]) -> Option<u32> {
    let mut total = math::weights(row, max, params.temperature, weights);
    if params.min_p > 0.0 {
        total = 0.0;
        for weight in &mut *weights {
            *weight = if *weight >= params.min_p { *weight } else { 0.0 };
            total += f64::from(*weight);
        }
    }
    walk((0u32..).zip(weights.iter().copied()), u * total)
}

/// Buckets of [`nucleus`]: the sign, the exponent and five more bits of a logit.
const BUCKETS: usize = 1 << 14;

fn bucket(key: u64) -> usize {
    // The shift leaves 14 bits.
    (key >> 50) as usize
}

/// The least key of the smallest set of largest keys whose weights reach `target`. Nothing is sorted but the bucket in
/// which the sum crosses: weights are first summed by bucket of their logit, and buckets order like logits.
fn nucleus(row: &[f32], weights: &[f32], target: f64, buckets: &mut [f64], keys: &mut Vec<u64>) -> u64 {
    let all =
        || (0u32..).zip(row).zip(weights).filter(|(_, w)| **w > 0.0).map(|((id, &x), &w)| (select::key(x, id), w));
    buckets.fill(0.0);
    for (key, weight) in all() {
        if let Some(mass) = buckets.get_mut(bucket(key)) {
            *mass += f64::from(weight);
        }
    }
    let mut above = 0.0;
    let mut crossing = None;
    for (at, &mass) in buckets.iter().enumerate().rev().filter(|(_, mass)| **mass > 0.0) {
        if above + mass >= target {
            crossing = Some(at);
            break;
        }
        above += mass;
    }
    // Where rounding keeps the sum from its target, everything is kept.
    let Some(crossing) = crossing else { return 0 };
    keys.clear();
    keys.extend(all().map(|(key, _)| key).filter(|&key| bucket(key) == crossing));
    let weight = |id: u32| weights.get(id as usize).copied().unwrap_or(0.0);
    let kept = reach(keys, above, target, weight);
    kept.checked_sub(1).and_then(|last| keys.get(last)).copied().unwrap_or(0)
}

/// How many of the largest keys it takes until `sum` plus their weights reaches `target`; all, when they do not. Sorts
/// the keys, largest first, only as far as it must.
fn reach(keys: &mut [u64], mut sum: f64, target: f64, weight: impl Fn(u32) -> f32) -> usize {
    let (mut sorted, mut step) = (0, 64);
    while let Some(rest) = keys.get_mut(sorted..).filter(|rest| !rest.is_empty()) {
        let front = select::sort_front(rest, step);
        for (i, &key) in rest.iter().take(front).enumerate() {
            sum += f64::from(weight(select::id(key)));
            if sum >= target {
                return sorted + i + 1;
            }
        }
        sorted += front;
        step *= 8;
    }
    sorted
}

/// The first id whose running sum of weights exceeds `target`; where rounding leaves none, the last with any weight.
fn walk(weights: impl Iterator<Item = (u32, f32)>, target: f64) -> Option<u32> {
    let (mut sum, mut last) = (0.0, None);
    for (id, weight) in weights {
        if weight > 0.0 {
            sum += f64::from(weight);
            last = Some(id);
            if sum > target {
                break;
            }
        }
    }
    last
}

/// Why no token could be chosen.
fn nothing_left(candidates: &[f32], position: u64) -> Error {
    if candidates.iter().any(|x| x.is_finite()) {
        return Error::argument("bias or penalties forbid every token; leave at least one").about("bias");
    }
    Error::format(format!(
        "the model computed no finite logit at position {position}: its weights are damaged or numbers overflowed; \
         try again with compute = f32"
    ))
}
