//! One token from one row of logits.

use super::allowed::AllowedTokens;
use super::math::{self, BLOCK, RowPasses};
use super::nucleus::{BUCKETS, floor_of, nucleus, reach};
use super::philox::uniform;
use super::request::{LogitAdjustment, NO_FINITE_LOGIT, NO_TOKEN, SamplingKind, SamplingRequest};
use super::select;
use crate::error::{Error, Result};
use crate::limits;

/// A sampled token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampled {
    /// Its id; [`NO_TOKEN`] or [`NO_FINITE_LOGIT`] when no token may be sampled, [`NO_TOKEN`] when none was asked for.
    pub token: u32,
    /// Its log probability by the raw logits, or that of the token that was given; NaN when none was asked for,
    /// or no token may be sampled.
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
    /// Candidates of a truncation or a ranking, at most twice as many as ids.
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
                keys: list(2 * vocab, vocab)?,
                buckets: filled(BUCKETS, vocab)?,
            },
        })
    }

    /// Bytes that `new` reserves.
    pub fn bytes(vocab: usize) -> u64 {
        let blocks = vocab.div_ceil(BLOCK);
        let row = (2 * size_of::<f32>() + 2 * size_of::<u64>()) as u64;
        vocab as u64 * row + (2 * blocks * size_of::<f32>() + BUCKETS * size_of::<f64>()) as u64
    }

    /// Samples the token of one row as the request says, or gives the log probability of a token.
    ///
    /// In this order: repetition penalty, presence and frequency penalty, bias, temperature, top-k, top-p, min-p, XTC,
    /// one draw. The request has been validated for this vocabulary, and `adjustments` and `own_mask`, over the whole vocabulary, are its
    /// own. A logit that is NaN or infinite counts as minus infinity and is never sampled, nor is an id outside one of the masks, nor
    /// one less than e^-87 times as likely as the best.
    ///
    /// With `logprobs` = k > 0, the k most probable ids of the raw logits, best first, of equals the lowest, whether in the mask or
    /// not, are written to the first k of `top`, which has room for them, with their log probabilities.
    pub fn sample(
        &mut self,
        passes: &dyn RowPasses,
        logits: &[f32],
        mask: &AllowedTokens,
        request: &SamplingRequest,
        (adjustments, own_mask): (&[LogitAdjustment], Option<&[u32]>),
        top: (&mut [u32], &mut [f32]),
    ) -> Sampled {
        assert_eq!(logits.len(), self.vocab, "a row is one vocabulary");
        match request.kind {
            SamplingKind::Idle | SamplingKind::Host => return Sampled { token: NO_TOKEN, logprob: f32::NAN },
            SamplingKind::Given => {
                return Sampled { token: NO_TOKEN, logprob: self.logprob(passes, logits, request.given) };
            }
            SamplingKind::Sample => {}
        }
        let candidates = logits.get(..mask.end()).unwrap_or(logits);
        let plain = mask.holes().is_empty() && adjustments.is_empty() && own_mask.is_none();
        let row = if plain {
            candidates
        } else {
            adjust(&mut self.adjusted, candidates, mask, request, adjustments);
            forbid(&mut self.adjusted, own_mask);
            &self.adjusted
        };
        let max = find_maxima(passes, row, &mut self.scratch.maxima);
        let chosen = match max {
            f32::NEG_INFINITY => None,
            _ if request.temperature > 0.0 => draw(passes, row, max, request, &mut self.scratch),
            _ => first_of(row, max, &self.scratch.maxima),
        };
        let Some(token) = chosen else {
            let finite = candidates.iter().any(|x| x.is_finite());
            return Sampled { token: if finite { NO_TOKEN } else { NO_FINITE_LOGIT }, logprob: f32::NAN };
        };
        let logprob =
            if request.logprobs < 0 { f32::NAN } else { self.logprobs(passes, logits, token, request.logprobs, top) };
        Sampled { token, logprob }
    }

    /// How many of a row's largest logits inside the mask are all that [`Sampler::sample`] would look at; `None` when it needs
    /// the whole row.
    pub fn enough(mask: &AllowedTokens, request: &SamplingRequest) -> Option<usize> {
        let count = match request.kind {
            SamplingKind::Idle => return Some(0),
            SamplingKind::Given | SamplingKind::Host => return None,
            SamplingKind::Sample if request.temperature > 0.0 => request.top_k as usize,
            SamplingKind::Sample => 1,
        };
        let plain = mask.holes().is_empty() && request.adjustments == 0 && request.mask == 0;
        let few = (1..=limits::BEST_LOGITS_MAX).contains(&count) && count < mask.end();
        (plain && few && request.logprobs < 0).then_some(count)
    }

    /// As [`Sampler::sample`], from the [`Sampler::enough`] largest finite logits inside the mask: (logit, id), best first, of
    /// equals the lower id; fewer where fewer are finite. The token, or [`NO_FINITE_LOGIT`].
    pub fn sample_best(&mut self, best: &[(f32, u32)], request: &SamplingRequest) -> u32 {
        let Some(&(max, first)) = best.first() else { return NO_FINITE_LOGIT };
        if request.temperature == 0.0 {
            return first;
        }
        let logit = |id: u32| best.iter().find(|b| b.1 == id).map_or(f32::NEG_INFINITY, |b| b.0);
        let weight = |id: u32| math::weight(logit(id), max, request.temperature);
        let keys = &mut self.scratch.keys;
        keys.clear();
        keys.extend(best.iter().map(|&(x, id)| select::key(x, id)));
        draw_from_largest(keys, request, random(request), weight).unwrap_or(NO_FINITE_LOGIT)
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
                collect(logits, maxima, least, keys);
                select::keep_largest(keys, count);
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
fn adjust(
    adjusted: &mut Vec<f32>,
    row: &[f32],
    mask: &AllowedTokens,
    request: &SamplingRequest,
    adjustments: &[LogitAdjustment],
) {
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
}

/// Makes the logits minus infinity whose bits are not set.
fn forbid(adjusted: &mut [f32], mask: Option<&[u32]>) {
    let Some(mask) = mask else { return };
    for (logits, &word) in adjusted.chunks_mut(32).zip(mask) {
        match word {
            0 => logits.fill(f32::NEG_INFINITY),
            u32::MAX => {}
            _ => {
                for (bit, x) in logits.iter_mut().enumerate() {
                    if word >> bit & 1 == 0 {
                        *x = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
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

/// Replaces `keys` by those of the finite logits that are at least `least`, by id; blocks without any are skipped.
fn collect(row: &[f32], maxima: &[f32], least: f32, keys: &mut Vec<u64>) {
    const WORD: usize = size_of::<u64>();
    keys.clear();
    for ((block, values), _) in row.chunks(BLOCK).enumerate().zip(maxima).filter(|(_, max)| **max >= least) {
        // A byte for each, then eight at a time: most have none.
        let mut flags = [0u8; BLOCK];
        for (flag, &x) in flags.iter_mut().zip(values) {
            *flag = u8::from(x >= least && x.is_finite());
        }
        for (at, word) in flags.as_chunks::<WORD>().0.iter().enumerate() {
            let mut left = u64::from_le_bytes(*word);
            while left != 0 {
                let offset = at * WORD + left.trailing_zeros() as usize / 8;
                keys.extend(values.get(offset).map(|&x| select::key(x, (block * BLOCK + offset) as u32)));
                left &= left - 1;
            }
        }
    }
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
        collect(row, maxima, least, keys);
        select::keep_largest(keys, top_k);
        return draw_from_largest(keys, request, u, weight);
    }
    if request.top_p >= 1.0 && request.min_p > 0.0 {
        // A little further down than the exact bound, which rounding could miss.
        let least = max + temperature * (request.min_p.ln() - 0.01);
        collect(row, maxima, if least.is_nan() { f32::NEG_INFINITY } else { least }, keys);
        return draw_from_kept(keys, request, u, weight);
    }
    let weights = weights.get_mut(..row.len())?;
    let total = passes.weights(row, max, temperature, weights);
    if request.top_p >= 1.0 {
        if request.xtc_threshold > 0.0 {
            // No more than one in the threshold can be as probable as that.
            let cut = f64::from(request.xtc_threshold) * total;
            keys.clear();
            let heavy = (0u32..).zip(&*weights).zip(row).filter(|((_, weight), _)| f64::from(**weight) >= cut);
            keys.extend(heavy.map(|((id, _), &x)| select::key(x, id)));
            if let Some(least) = keys.iter().min().copied().filter(|_| keys.len() > 1) {
                for &key in keys.iter().filter(|key| **key != least) {
                    weights.get_mut(select::id(key) as usize).into_iter().for_each(|weight| *weight = 0.0);
                }
                let left = weights.iter().map(|&weight| f64::from(weight)).sum::<f64>();
                return walk_all(weights, u * left);
            }
        }
        return walk_all(weights, u * total);
    }
    let weight = |id: u32| weights.get(id as usize).copied().unwrap_or(0.0);
    let target = f64::from(request.top_p) * total;
    collect(row, maxima, floor_of(passes, row, weights, (max, temperature), target), keys);
    // Where rounding keeps the sum from its target, everything is kept.
    let least = nucleus(weight, target, buckets, keys).unwrap_or(0);
    keep(keys, |key| key >= least && weight(select::id(key)) > 0.0);
    draw_from_kept(keys, request, u, weight)
}

/// Keeps some of the keys, without a branch that cannot be predicted.
fn keep(keys: &mut Vec<u64>, which: impl Fn(u64) -> bool) {
    let mut kept = 0;
    for at in 0..keys.len() {
        let key = keys[at];
        keys[kept] = key;
        kept += usize::from(which(key));
    }
    keys.truncate(kept);
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
    if request.min_p > 0.0 {
        keep(keys, |key| weight(select::id(key)) >= request.min_p);
    }
    if request.xtc_threshold > 0.0 {
        leave_out_top_choices(keys, request.xtc_threshold, &weight);
    }
    let kept = || keys.iter().map(|&key| select::id(key)).map(|id| (id, weight(id)));
    let total: f64 = kept().map(|(_, weight)| f64::from(weight)).sum();
    walk(kept(), u * total)
}

/// XTC: removes of the keys whose share of all weights is at least `threshold` all but the least, if there are several.
fn leave_out_top_choices(keys: &mut Vec<u64>, threshold: f32, weight: impl Fn(u32) -> f32) {
    let weight = |key: u64| f64::from(weight(select::id(key)));
    let cut = f64::from(threshold) * keys.iter().map(|&key| weight(key)).sum::<f64>();
    let heavy = |key: u64| weight(key) >= cut;
    if let Some(least) = keys.iter().copied().filter(|&key| heavy(key)).min() {
        keep(keys, |key| key <= least || !heavy(key));
    }
}

/// As [`walk`], of the weights of all ids.
fn walk_all(weights: &[f32], target: f64) -> Option<u32> {
    let (mut sum, mut block) = (0.0, 0);
    // A block is added without looking: sums do not fall.
    for values in weights.chunks(BLOCK) {
        let before = sum;
        for &weight in values {
            sum += f64::from(weight);
        }
        if sum > target {
            sum = before;
            let mut ids = (block * BLOCK) as u32..;
            let crossing = ids.by_ref().zip(values).find(|(_, weight)| {
                sum += f64::from(**weight);
                sum > target
            });
            return crossing.map(|(id, _)| id);
        }
        block += 1;
    }
    weights.iter().rposition(|weight| *weight > 0.0).and_then(|id| u32::try_from(id).ok())
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

    /// The nucleus without a bound: all logits are looked at.
    fn draw_from_nucleus(row: &[f32], max: f32, request: &SamplingRequest) -> Option<u32> {
        let (mut weights, mut buckets, mut keys) = (vec![0.0; row.len()], vec![0.0; BUCKETS], Vec::new());
        let total = math::weights(row, max, request.temperature, &mut weights);
        let weight = |id: u32| weights[id as usize];
        let finite = (0u32..).zip(row).filter(|(_, x)| x.is_finite());
        keys.extend(finite.map(|(id, &x)| select::key(x, id)));
        let least = nucleus(weight, f64::from(request.top_p) * total, &mut buckets, &mut keys).unwrap_or(0);
        keys.retain(|&key| key >= least && weight(select::id(key)) > 0.0);
        draw_from_kept(&mut keys, request, random(request), weight)
    }

    /// A row of `vocab` logits that spread like a language model's, flat ones, ones with ties and ones with a few far above all.
    fn row(vocab: usize, seed: u64) -> Vec<f32> {
        let unit = |i: usize, k: u32| uniform(seed, k, i as u64, 3) as f32;
        let spread = [0.01, 1.0, 2.5, 30.0][seed as usize % 4];
        let normal = |i| (0..6).map(|k| unit(i, k)).sum::<f32>() - 3.0;
        let mut row: Vec<f32> = (0..vocab).map(|i| normal(i) * spread).collect();
        match seed % 3 {
            0 => row.iter_mut().for_each(|x| *x = x.round()),
            1 => row.iter_mut().step_by(977).for_each(|x| *x += 20.0),
            _ => (0..vocab).step_by(50).for_each(|i| row[i] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][i % 3]),
        }
        row
    }

    #[test]
    fn skipping_what_cannot_matter_changes_nothing() {
        const VOCAB: usize = 40_003;
        let mut sampler = Sampler::new(VOCAB).expect("memory");
        let mask = AllowedTokens::all(VOCAB);
        for seed in 0..120 {
            let row = row(VOCAB, seed);
            let request = SamplingRequest {
                seed,
                position: 5,
                temperature: [0.3, 1.0, 2.0, 1e-30, 1e30][seed as usize % 5],
                top_p: 1.0,
                repetition_penalty: 1.0,
                logprobs: -1,
                kind: SamplingKind::Sample,
                ..SamplingRequest::default()
            };
            let mut sample = |passes: &dyn RowPasses, request: &SamplingRequest| {
                sampler.sample(passes, &row, &mask, request, Default::default(), Default::default()).token
            };
            let max = math::max(&row);
            for top_p in [0.01, 0.5, 0.9, 0.999, 0.999_999_94] {
                let request = SamplingRequest { top_p, ..request };
                let all = draw_from_nucleus(&row, max, &request);
                assert_eq!(Some(sample(&math::Portable, &request)), all, "seed {seed} {request:?}");
            }
            let weight = |id: u32| math::weight(row[id as usize], max, request.temperature);
            let finite = || (0u32..).zip(&row).filter(|(_, x)| x.is_finite()).map(|(id, &x)| select::key(x, id));
            for top_k in [1, 40, 157, 158, 5000] {
                let request = SamplingRequest { top_k, top_p: [1.0, 0.8][seed as usize % 2], ..request };
                let mut keys = Vec::new();
                select::largest(finite(), top_k as usize, &mut keys);
                let all = draw_from_largest(&mut keys, &request, random(&request), weight);
                assert_eq!(Some(sample(&math::Portable, &request)), all, "seed {seed} {request:?}");
            }
            for min_p in [1e-30, 0.001, 0.05, 0.5, 1.0] {
                let request = SamplingRequest { min_p, ..request };
                let kept = || (0..VOCAB as u32).map(|id| (id, weight(id))).filter(|(_, w)| *w >= min_p);
                let total: f64 = kept().map(|(_, weight)| f64::from(weight)).sum();
                let all = walk(kept(), random(&request) * total);
                assert_eq!(Some(sample(&math::Portable, &request)), all, "seed {seed} {request:?}");
            }
        }
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
