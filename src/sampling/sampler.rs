//! One token from one row of logits.

use super::allowed::AllowedTokens;
use super::math::{self, BLOCK, RowPasses};
use super::philox::uniform;
use super::request::{LogitAdjustment, NO_TOKEN, SamplingKind, SamplingRequest};
use super::select;
use crate::error::{Error, Result};
use crate::limits;

/// A sampled token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampled {
    /// Its id; [`NO_TOKEN`] when no token may be sampled, or none was asked for.
    pub token: u32,
    /// Its log probability by the raw logits, or that of the token that was given; NaN when none was asked for.
    pub logprob: f32,
}

/// Scratch memory for sampling rows of one vocabulary size, one row at a time. Holds no state between calls.
#[derive(Debug)]
pub struct Sampler {
    vocab: usize,
    /// Logits after penalties, bias and the vocabulary mask.
    adjusted: Vec<f32>,
    scratch: Scratch,
}

/// Scratch memory of a draw.
#[derive(Debug)]
struct Scratch {
    /// Unnormalised probabilities; that of the largest logit is 1.
    weights: Vec<f32>,
    /// The largest logit of each block of [`BLOCK`].
    maxima: Vec<f32>,
    /// Some of those, to find a threshold.
    ranked: Vec<f32>,
    /// Candidates of a truncation or a ranking.
    keys: Vec<u64>,
    /// Sum of weights by bucket of logits.
    buckets: Vec<f64>,
}

impl Sampler {
    /// A sampler for rows of `vocab` logits.
    ///
    /// # Errors
    /// `Memory`.
    pub fn new(vocab: usize) -> Result<Sampler> {
        let blocks = vocab.div_ceil(BLOCK);
        Ok(Sampler {
            vocab,
            adjusted: list(vocab, vocab)?,
            scratch: Scratch {
                weights: filled(vocab, vocab)?,
                maxima: filled(blocks, vocab)?,
                ranked: list(blocks, vocab)?,
                keys: list(vocab, vocab)?,
                buckets: filled(BUCKETS, vocab)?,
            },
        })
    }

    /// Bytes that `new` reserves.
    pub fn bytes(vocab: usize) -> u64 {
        let blocks = vocab.div_ceil(BLOCK);
        let row = (2 * size_of::<f32>() + size_of::<u64>()) as u64;
        vocab as u64 * row + (2 * blocks * size_of::<f32>() + BUCKETS * size_of::<f64>()) as u64
    }

    /// Samples the token of one row as the request says, or gives the log probability of a token.
    ///
    /// In this order: repetition penalty, presence and frequency penalty, bias, temperature, top-k, top-p, min-p, one
    /// draw. The request has been validated for this vocabulary, and `adjustments` are its own. A logit that is NaN or infinite
    /// counts as minus infinity and is never sampled, nor is an id outside `mask`, nor one less than e^-87 times as likely as the
    /// best.
    ///
    /// With `logprobs` = k > 0, the k most probable ids of the raw logits, best first, of equals the lowest, whether in the mask or
    /// not, are written to the first k of `top`, with their log probabilities.
    pub fn sample(
        &mut self,
        passes: &dyn RowPasses,
        logits: &[f32],
        mask: &AllowedTokens,
        request: &SamplingRequest,
        adjustments: &[LogitAdjustment],
        top: (&mut [u32], &mut [f32]),
    ) -> Sampled {
        debug_assert_eq!(logits.len(), self.vocab, "a row is one vocabulary");
        match request.kind {
            SamplingKind::Idle => return Sampled { token: NO_TOKEN, logprob: f32::NAN },
            SamplingKind::Given => {
                return Sampled { token: NO_TOKEN, logprob: self.logprob(passes, logits, request.given) };
            }
            SamplingKind::Sample => {}
        }
        let candidates = logits.get(..mask.end()).unwrap_or(logits);
        let plain = mask.holes().is_empty() && adjustments.is_empty();
        let row = if plain { candidates } else { adjust(&mut self.adjusted, candidates, mask, request, adjustments) };
        let max = find_maxima(passes, row, &mut self.scratch.maxima);
        let chosen = match max {
            f32::NEG_INFINITY => None,
            _ if request.temperature > 0.0 => draw(passes, row, max, request, &mut self.scratch),
            _ => first_of(row, max, &self.scratch.maxima),
        };
        let Some(token) = chosen else { return Sampled { token: NO_TOKEN, logprob: f32::NAN } };
        let logprob =
            if request.logprobs < 0 { f32::NAN } else { self.logprobs(passes, logits, token, request.logprobs, top) };
        Sampled { token, logprob }
    }

    /// How many of a row's largest logits inside the mask are all that [`Sampler::sample`] would look at; `None` when it needs
    /// the whole row.
    pub fn enough(mask: &AllowedTokens, request: &SamplingRequest) -> Option<usize> {
        let count = match request.kind {
            SamplingKind::Idle => return Some(0),
            SamplingKind::Given => return None,
            SamplingKind::Sample if request.temperature > 0.0 => request.top_k as usize,
            SamplingKind::Sample => 1,
        };
        let plain = mask.holes().is_empty() && request.adjustments == 0;
        let few = (1..=limits::BEST_LOGITS_MAX).contains(&count) && count < mask.end();
        (plain && few && request.logprobs < 0).then_some(count)
    }

    /// As [`Sampler::sample`], from the [`Sampler::enough`] largest finite logits inside the mask: (logit, id), best first, of
    /// equals the lower id; fewer where fewer are finite. The token, or [`NO_TOKEN`].
    pub fn sample_best(&mut self, best: &[(f32, u32)], request: &SamplingRequest) -> u32 {
        let Some(&(max, first)) = best.first() else { return NO_TOKEN };
        if request.temperature == 0.0 {
            return first;
        }
        let logit = |id: u32| best.iter().find(|b| b.1 == id).map_or(f32::NEG_INFINITY, |b| b.0);
        let weight = |id: u32| math::weight(logit(id), max, request.temperature);
        let keys = &mut self.scratch.keys;
        keys.clear();
        keys.extend(best.iter().map(|&(x, id)| select::key(x, id)));
        draw_from_largest(keys, request, random(request), weight).unwrap_or(NO_TOKEN)
    }

    /// Log probability of `token` by log-softmax of the raw logits; minus infinity where its logit is not finite or
    /// missing.
    pub fn logprob(&mut self, passes: &dyn RowPasses, logits: &[f32], token: u32) -> f32 {
        let max = find_maxima(passes, logits, &mut self.scratch.maxima);
        logprob(logits, token, max, passes.sum_exp(logits, max, 1.0).ln())
    }

    /// Address and capacity of each buffer.
    #[cfg(test)]
    pub(super) fn buffers(&self) -> [(usize, usize); 3] {
        let (a, w, k) = (&self.adjusted, &self.scratch.weights, &self.scratch.keys);
        [(a.as_ptr().addr(), a.capacity()), (w.as_ptr().addr(), w.capacity()), (k.as_ptr().addr(), k.capacity())]
    }

    /// Writes the `count` best and returns the log probability of `token`.
    fn logprobs(
        &mut self,
        passes: &dyn RowPasses,
        logits: &[f32],
        token: u32,
        count: i32,
        (top_tokens, top_logprobs): (&mut [u32], &mut [f32]),
    ) -> f32 {
        let Scratch { maxima, ranked, keys, .. } = &mut self.scratch;
        let max = find_maxima(passes, logits, maxima);
        let log_sum = passes.sum_exp(logits, max, 1.0).ln();
        let count = count as usize;
        if count > 0 {
            let least = least_of_largest(maxima, count, ranked);
            if least == f32::NEG_INFINITY {
                let all = (0u32..).zip(logits).map(|(id, &x)| select::key(math::finite_or_least(x), id));
                select::largest(all, count, keys);
            } else {
                select::largest(at_least(logits, maxima, least), count, keys);
            }
            select::sort_front(keys, count);
            for ((key, id_out), out) in keys.iter().zip(top_tokens).zip(top_logprobs) {
                *id_out = select::id(*key);
                *out = logprob(logits, *id_out, max, log_sum);
            }
        }
        logprob(logits, token, max, log_sum)
    }
}

fn list<T>(count: usize, vocab: usize) -> Result<Vec<T>> {
    let mut list = Vec::new();
    list.try_reserve_exact(count).map_err(|_| Error::memory("the sampler", Sampler::bytes(vocab)))?;
    Ok(list)
}

fn filled<T: Clone + Default>(count: usize, vocab: usize) -> Result<Vec<T>> {
    let mut list = list(count, vocab)?;
    list.resize(count, T::default());
    Ok(list)
}

/// The random number of the request's token, in [0, 1).
fn random(request: &SamplingRequest) -> f64 {
    uniform(request.seed, 0, request.position, 0)
}

/// `x[token] - max - log_sum`, rounded once.
#[allow(clippy::cast_possible_truncation, reason = "log probabilities are reported in single precision")]
fn logprob(logits: &[f32], token: u32, max: f32, log_sum: f64) -> f32 {
    let x = logits.get(token as usize).map_or(f32::NEG_INFINITY, |&x| math::finite_or_least(x));
    if x == f32::NEG_INFINITY { x } else { (f64::from(x) - f64::from(max) - log_sum) as f32 }
}

/// Copies the row, then changes the few logits that penalties, bias and holes name.
fn adjust<'a>(
    adjusted: &'a mut Vec<f32>,
    row: &[f32],
    mask: &AllowedTokens,
    request: &SamplingRequest,
    adjustments: &[LogitAdjustment],
) -> &'a [f32] {
    adjusted.clear();
    adjusted.extend_from_slice(row);
    for entry in adjustments {
        let Some(x) = adjusted.get_mut(entry.token as usize).filter(|x| x.is_finite()) else { continue };
        if entry.in_prompt != 0 || entry.outputs > 0 {
            let penalty = request.repetition_penalty;
            let mut y = if *x > 0.0 { *x / penalty } else { *x * penalty };
            if entry.outputs > 0 {
                y -= request.frequency_penalty * entry.outputs as f32 + request.presence_penalty;
            }
            *x = y.min(f32::MAX);
        }
        if entry.bias != 0.0 {
            *x = (*x + entry.bias).min(f32::MAX);
        }
    }
    for &hole in mask.holes() {
        if let Some(x) = adjusted.get_mut(hole as usize) {
            *x = f32::NEG_INFINITY;
        }
    }
    adjusted
}

/// Leaves the largest finite logit of each block of the row in `maxima`, and returns that of all.
fn find_maxima(passes: &dyn RowPasses, row: &[f32], maxima: &mut Vec<f32>) -> f32 {
    maxima.resize(row.len().div_ceil(BLOCK), 0.0);
    passes.block_maxima(row, maxima);
    math::max(maxima)
}

/// The lowest id whose logit is the row's maximum.
fn first_of(row: &[f32], max: f32, maxima: &[f32]) -> Option<u32> {
    let start = maxima.iter().position(|&m| m == max)? * BLOCK;
    let offset = row.get(start..)?.iter().position(|&x| x == max)?;
    u32::try_from(start + offset).ok()
}

/// A logit that at least `count` of the row reach, found by its blocks' maxima; minus infinity when those are too few.
fn least_of_largest(maxima: &[f32], count: usize, ranked: &mut Vec<f32>) -> f32 {
    if count > maxima.len() {
        return f32::NEG_INFINITY;
    }
    ranked.clear();
    ranked.extend_from_slice(maxima);
    *ranked.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a)).1
}

/// Keys of the finite logits that are at least `least`, by id; blocks without any are skipped.
fn at_least<'a>(row: &'a [f32], maxima: &'a [f32], least: f32) -> impl Iterator<Item = u64> + Clone + 'a {
    let blocks = row.chunks(BLOCK).zip(maxima).enumerate().filter(move |(_, (_, max))| **max >= least);
    blocks.flat_map(move |(block, (values, _))| {
        let ids = (block * BLOCK) as u32..;
        ids.zip(values).filter(move |(_, x)| **x >= least && x.is_finite()).map(|(id, &x)| select::key(x, id))
    })
}

/// Temperature, truncation, draw, of a row with a finite logit.
fn draw(
    passes: &dyn RowPasses,
    row: &[f32],
    max: f32,
    request: &SamplingRequest,
    scratch: &mut Scratch,
) -> Option<u32> {
    let Scratch { weights, maxima, ranked, keys, buckets } = scratch;
    let (u, temperature) = (random(request), request.temperature);
    let weight = |id: u32| row.get(id as usize).map_or(0.0, |&x| math::weight(x, max, temperature));
    let top_k = if request.top_k as usize >= row.len() { 0 } else { request.top_k as usize };
    if top_k > 0 {
        let least = least_of_largest(maxima, top_k, ranked);
        select::largest(at_least(row, maxima, least), top_k, keys);
        return draw_from_largest(keys, request, u, weight);
    }
    if request.top_p >= 1.0 && request.min_p > 0.0 {
        // A little further down than the exact bound, which rounding could miss.
        let least = max + temperature * (request.min_p.ln() - 0.01);
        keys.clear();
        keys.extend(at_least(row, maxima, if least.is_nan() { f32::NEG_INFINITY } else { least }));
        return draw_from_kept(keys, request, u, weight);
    }
    let weights = weights.get_mut(..row.len())?;
    let total = passes.weights(row, max, temperature, weights);
    if request.top_p >= 1.0 {
        return walk((0u32..).zip(weights.iter().copied()), u * total);
    }
    let weight = |id: u32| weights.get(id as usize).copied().unwrap_or(0.0);
    let target = f64::from(request.top_p) * total;
    let floor = floor_of(passes, row, weights, max, temperature, target);
    let least = nucleus(row, maxima, weights, floor, target, buckets, keys);
    keys.clear();
    let kept = at_least(row, maxima, select::value(least));
    keys.extend(kept.filter(|&key| key >= least && weight(select::id(key)) > 0.0));
    draw_from_kept(keys, request, u, weight)
}

/// The rest of a draw after top-k: top-p, min-p, one draw.
fn draw_from_largest(
    keys: &mut Vec<u64>,
    request: &SamplingRequest,
    u: f64,
    weight: impl Fn(u32) -> f32,
) -> Option<u32> {
    if request.top_p < 1.0 {
        let all = keys.len();
        select::sort_front(keys, all);
        let total: f64 = keys.iter().map(|&key| f64::from(weight(select::id(key)))).sum();
        let kept = reach(keys, 0.0, f64::from(request.top_p) * total, &weight);
        keys.truncate(kept);
    }
    keys.sort_unstable_by_key(|&key| select::id(key));
    draw_from_kept(keys, request, u, weight)
}

/// Applies min-p to the kept keys, which are ordered by id so that the draw depends on what was kept and not on how it
/// was found, and draws.
fn draw_from_kept(keys: &mut Vec<u64>, request: &SamplingRequest, u: f64, weight: impl Fn(u32) -> f32) -> Option<u32> {
    // The best has weight 1, so that the fraction of it is the weight itself.
    keys.retain(|&key| weight(select::id(key)) >= request.min_p);
    let kept = || keys.iter().map(|&key| select::id(key)).map(|id| (id, weight(id)));
    let total: f64 = kept().map(|(_, weight)| f64::from(weight)).sum();
    walk(kept(), u * total)
}

/// Buckets of [`nucleus`]: the sign, the exponent and five more bits of a logit.
const BUCKETS: usize = 1 << 14;
/// Bits of a key that its bucket leaves.
const BUCKET_SHIFT: u32 = 50;

fn bucket(key: u64) -> usize {
    (key >> BUCKET_SHIFT) as usize
}

/// The least logit of the bucket of `x`.
fn bucket_start(x: f32) -> f32 {
    select::value(select::key(x, u32::MAX) >> BUCKET_SHIFT << BUCKET_SHIFT)
}

/// Distances from the largest logit, in units of the temperature, within which the nucleus is looked for.
const NUCLEUS_DEPTHS: [f32; 5] = [3.0, 6.0, 9.0, 12.0, 20.0];

/// A logit above which the weights surely reach `target`, and where a bucket begins; minus infinity when there is none.
fn floor_of(passes: &dyn RowPasses, row: &[f32], weights: &[f32], max: f32, temperature: f32, target: f64) -> f32 {
    // Sums in two orders differ by far less.
    let enough = target * (1.0 + 1e-9);
    let floors = NUCLEUS_DEPTHS.iter().map(|depth| bucket_start(max - depth * temperature));
    floors
        .filter(|floor| floor.is_finite())
        .find(|&floor| passes.sum_at_least(row, weights, floor) >= enough)
        .unwrap_or(f32::NEG_INFINITY)
}

/// The least key of the smallest set of largest keys whose weights reach `target`; only logits from `floor` on, where a bucket
/// begins, are looked at. Nothing is sorted but the bucket in which the sum crosses: weights are first summed by bucket of their
/// logit, and buckets order like logits.
fn nucleus(
    row: &[f32],
    maxima: &[f32],
    weights: &[f32],
    floor: f32,
    target: f64,
    buckets: &mut [f64],
    keys: &mut Vec<u64>,
) -> u64 {
    let weight = |id: u32| weights.get(id as usize).copied().unwrap_or(0.0);
    keys.clear();
    keys.extend(at_least(row, maxima, floor).filter(|&key| weight(select::id(key)) > 0.0));
    buckets.fill(0.0);
    for &key in &*keys {
        if let Some(mass) = buckets.get_mut(bucket(key)) {
            *mass += f64::from(weight(select::id(key)));
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
    keys.retain(|&key| bucket(key) == crossing);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn argmax(row: &[f32]) -> Option<u32> {
        let mut maxima = Vec::new();
        let max = find_maxima(&math::Portable, row, &mut maxima);
        if max == f32::NEG_INFINITY { None } else { first_of(row, max, &maxima) }
    }

    #[test]
    fn argmax_takes_the_first_of_equals_and_skips_the_rest() {
        assert_eq!(argmax(&[]), None);
        assert_eq!(argmax(&[f32::NAN, f32::NEG_INFINITY, f32::INFINITY]), None);
        assert_eq!(argmax(&[f32::NAN, -3.0, f32::INFINITY]), Some(1));
        assert_eq!(argmax(&[-0.0, 0.0]), Some(0));
        for len in [1, 15, 16, 17, 1023, 1024, 1025, 5000] {
            let mut row = vec![-1.0; len];
            assert_eq!(argmax(&row), Some(0));
            row[len - 1] = 2.0;
            assert_eq!(argmax(&row), Some(len as u32 - 1));
            row[len / 2] = 2.0;
            assert_eq!(argmax(&row), Some(len as u32 / 2));
        }
    }
}
