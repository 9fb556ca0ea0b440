//! The nucleus of top-p: the smallest set of largest logits whose weights reach a share of all, found without sorting the row.
//! Called by the sampler, a row at a time; the buckets are its scratch memory.

use super::math::RowPasses;
use super::select;

/// Buckets of [`nucleus`]: the sign, the exponent and five more bits of a logit.
pub(super) const BUCKETS: usize = 1 << 14;
/// Bits of a key that its bucket leaves.
const BUCKET_SHIFT: u32 = 50;

fn bucket(key: u64) -> usize {
    (key >> BUCKET_SHIFT) as usize
}

/// The least logit of the bucket of `x`.
fn bucket_start(x: f32) -> f32 {
    select::value(select::key(x, u32::MAX) >> BUCKET_SHIFT << BUCKET_SHIFT)
}

/// Distances from the largest logit, in units of the temperature, within which the nucleus is looked for: first in the whole row,
/// where a peaked one has it; then by what a part of the row tells.
const NUCLEUS_DEPTH_PEAKED: usize = 4;
const NUCLEUS_DEPTH_MAX: usize = 24;
/// Of so many logits, one part in [`SAMPLED_PARTS`] is such a part.
const SAMPLED: usize = 1024;
const SAMPLED_PARTS: usize = 16;

/// A logit above which the weights reach `target`, and where a bucket begins: not the highest such, but near it. Minus infinity when
/// there is none.
pub(super) fn floor_of(
    passes: &dyn RowPasses,
    row: &[f32],
    weights: &[f32],
    (max, temperature): (f32, f32),
    target: f64,
) -> f32 {
    // Sums in two orders differ by far less.
    let enough = target * (1.0 + 1e-9);
    let floor = |depth: usize| bucket_start(max - depth as f32 * temperature);
    let reaches = |depth| floor(depth).is_finite() && passes.sum_at_least(row, weights, floor(depth)) >= enough;
    if reaches(NUCLEUS_DEPTH_PEAKED) {
        return floor(NUCLEUS_DEPTH_PEAKED);
    }
    if row.len() < 2 * SAMPLED * SAMPLED_PARTS {
        // A short row is looked at whole.
        return f32::NEG_INFINITY;
    }
    // Not the first part: the lowest ids of a vocabulary are its most frequent tokens.
    let parts = || row.chunks(SAMPLED).zip(weights.chunks(SAMPLED)).skip(SAMPLED_PARTS / 2).step_by(SAMPLED_PARTS);
    let share = parts().map(|(row, _)| row.len()).sum::<usize>() as f64 / row.len() as f64;
    let in_parts = |depth| parts().map(|(row, weights)| passes.sum_at_least(row, weights, floor(depth))).sum::<f64>();
    let (mut too_near, mut deep_enough) = (NUCLEUS_DEPTH_PEAKED, NUCLEUS_DEPTH_MAX);
    while deep_enough - too_near > 1 {
        let depth = usize::midpoint(too_near, deep_enough);
        *(if in_parts(depth) >= enough * share { &mut deep_enough } else { &mut too_near }) = depth;
    }
    let depths = [0, 1, 3, 7, 15].map(|more| deep_enough + more).into_iter();
    depths
        .take_while(|depth| *depth <= NUCLEUS_DEPTH_MAX)
        .find(|&depth| reaches(depth))
        .map_or(f32::NEG_INFINITY, floor)
}

/// The least key of the smallest set of largest keys whose weights reach `target`; `None` when all of `keys` together do not. They
/// hold all of each bucket that they hold any of, and no lower bucket without the higher ones; they are left as they are. Nothing is sorted but the bucket in which the sum crosses: weights
/// are first summed by bucket of their logit, and buckets order like logits.
pub(super) fn nucleus(
    weight: impl Fn(u32) -> f32,
    target: f64,
    buckets: &mut [f64],
    keys: &mut Vec<u64>,
) -> Option<u64> {
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
    let crossing = crossing?;
    // Those of the bucket behind all others, for which there is room.
    let all = keys.len();
    for at in 0..all {
        let key = keys[at];
        if bucket(key) == crossing && weight(select::id(key)) > 0.0 {
            keys.push(key);
        }
    }
    let candidates = keys.get_mut(all..).unwrap_or_default();
    let kept = reach(candidates, above, target, weight);
    let least = kept.checked_sub(1).and_then(|last| candidates.get(last)).copied().unwrap_or(0);
    keys.truncate(all);
    Some(least)
}

/// How many of the largest keys it takes until `sum` plus their weights reaches `target`; all, when they do not. Sorts
/// the keys, largest first, only as far as it must.
pub(super) fn reach(keys: &mut [u64], mut sum: f64, target: f64, weight: impl Fn(u32) -> f32) -> usize {
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
