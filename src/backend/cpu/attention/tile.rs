//! Scores, softmax and weighted sums of a tile of queries with one block of keys, over the registers of a tier.
//!
//! 8-bit pages: queries are scaled and rounded to 16-bit integers, and so are the softmax weights (times the scales of
//! the values), relative to the largest of a block. The dot product of a query and a key, and the weighted sum of the
//! values of a block, are exact integers. bf16 pages: as the tier's [`Pairs`] says.
//!
//! How many queries and registers a kernel takes at a time does not affect the results: each accumulator belongs to one
//! query, and to one token or element, whose additions have one order.

#![allow(clippy::needless_range_loop, reason = "indices that are constant once unrolled keep sums in registers")]

use super::BLOCK;
use crate::backend::cpu::kv::GROUP;
use crate::backend::cpu::vector::{Register, Vector, exp, methods};
use std::marker::PhantomData;
use std::ops::Range;

/// Groups per block.
pub const GROUPS: usize = BLOCK / GROUP;
/// Most queries per kernel call: 5 x 4 accumulators, 4 operands and 5 broadcast factors use 29 of 32 registers.
pub const TILE: usize = 5;

/// Largest magnitude of a 16-bit query element or weight.
const I16_MAX: f32 = 32767.0;

/// Pointers to the keys and values of a block. Those of groups that no query sees are null.
pub struct Block {
    /// Keys of each group.
    pub keys: [*const u8; GROUPS],
    /// Values of each group.
    pub values: [*const u8; GROUPS],
    /// Scales of the keys; null unless the pages are 8-bit.
    pub key_scales: [*const f32; GROUPS],
    /// Scales of the values; null unless the pages are 8-bit.
    pub value_scales: [*const f32; GROUPS],
    /// Elements of a key.
    pub k_dim: usize,
    /// Elements of a value.
    pub v_dim: usize,
}

/// A query of a tile: its scores and softmax weights with one block of keys.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Query {
    /// Scores, before the softmax.
    pub scores: [f32; BLOCK],
    /// Softmax weights as [`Pairs::Factors`]; 0 for keys that the query does not see.
    pub weights: [u32; BLOCK],
    /// Factor that converts the weighted sums to values; 1 unless the weights are integers.
    pub factor: f32,
}

/// The exponentials of a block's scores: `BLOCK / LANES` registers, the rest unused.
pub type Exponentials<V> = [V; BLOCK / 8];

/// Operations of a tier on pairs of elements of one type, one pair for each lane.
///
/// # Safety
/// Of calls, for all methods: as [`crate::backend::cpu::vector::Vector`], with as many bytes behind a pointer as the
/// method names.
pub trait Pairs {
    /// Registers of f32.
    type V: Register;
    /// A register of pairs, widened for multiplication.
    type Stored: Copy;
    /// A pair of factors, broadcast to all lanes.
    type Factors: Copy;
    /// Sums of products.
    type Sum: Copy;
    /// Bytes of a register of pairs in a page.
    const BYTES: usize;
    /// 32-bit words of a pair of factors in a packed query or in weights.
    const WORDS: usize;

    /// Packs a query; returns the factor that turns scores computed from the packed query into those of the query.
    unsafe fn pack(q: &[f32], out: &mut [u32]) -> f32;
    /// Loads and widens `BYTES` bytes.
    unsafe fn load(from: *const u8) -> Self::Stored;
    /// Keeps only the first, or only the second, element of each pair; the other becomes zero.
    unsafe fn half(pairs: Self::Stored, second: bool) -> Self::Stored;
    /// Broadcasts `WORDS` words.
    unsafe fn factors(from: *const u32) -> Self::Factors;
    /// Sums of nothing.
    unsafe fn zero() -> Self::Sum;
    /// `sum + a.0 * b.0 + a.1 * b.1` in each lane.
    unsafe fn dot(sum: Self::Sum, a: Self::Stored, b: Self::Factors) -> Self::Sum;
    /// Converts sums to f32.
    unsafe fn float(sum: Self::Sum) -> Self::V;
    /// Stores the exponentials of a query as its weights, for the tokens `seen`, whose groups have values. Returns the
    /// sum of the weights in each lane.
    unsafe fn weigh(all: &mut Exponentials<Self::V>, query: &mut Query, block: &Block, seen: &Range<usize>) -> Self::V;
}

/// 8-bit pages on registers `V`.
pub struct Int8<V>(PhantomData<V>);

impl<V: Register> Pairs for Int8<V> {
    type V = V;
    type Stored = V::Int;
    type Factors = V::Int;
    type Sum = V::Int;
    const BYTES: usize = V::LANES * 2;
    const WORDS: usize = 1;

    methods! {
        fn load(from: *const u8) -> V::Int { V::load_i8(from) }
        fn half(pairs: V::Int, second: bool) -> V::Int {
            V::and(pairs, V::int(if second { 0xffff_0000_u32 as i32 } else { 0xffff }))
        }
        fn factors(from: *const u32) -> V::Int { V::int(*from as i32) }
        fn zero() -> V::Int { V::int(0) }
        fn dot(sum: V::Int, a: V::Int, b: V::Int) -> V::Int { V::dot_i16(sum, a, b) }
        fn float(sum: V::Int) -> V { V::float(sum) }
    }

    #[inline(always)]
    unsafe fn pack(q: &[f32], out: &mut [u32]) -> f32 {
        let max = q.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        // 0 if all elements are finite, otherwise NaN, which then makes all scores NaN.
        let finite = q.iter().fold(0.0f32, |sum, v| sum + v * 0.0);
        let inverse = if max > 0.0 { I16_MAX / max } else { 0.0 };
        let round = |v: f32| (v * inverse).round_ties_even() as i16 as u16 as u32;
        out.iter_mut().zip(q.chunks_exact(2)).for_each(|(out, q)| *out = round(q[0]) | round(q[1]) << 16);
        max / I16_MAX + finite
    }

    #[inline(always)]
    unsafe fn weigh(all: &mut Exponentials<V>, query: &mut Query, block: &Block, seen: &Range<usize>) -> V {
        // SAFETY: as the trait requires; the scales of a register start inside those of its group, which are not null
        // for a group with tokens that are seen, and the weights of a group are 8 words.
        unsafe {
            let (mut sum, mut largest) = (V::zero(), V::zero());
            // A maximum drops NaNs, so they are recorded separately.
            let mut nan = V::inside(&(0..0), 0);
            for i in 0..BLOCK / V::LANES {
                sum = V::add(sum, all[i]);
                let scales = block.value_scales[i * V::LANES / GROUP];
                if !scales.is_null() {
                    let scaled = V::mul(all[i], V::load(scales.add(i * V::LANES % GROUP)));
                    // Masked again: scales of tokens that were never stored may be NaN.
                    all[i] = V::select(V::inside(seen, i * V::LANES), scaled, V::zero());
                }
                largest = V::max(largest, all[i]);
                nan = V::or_nan(nan, all[i]);
            }
            let largest = V::largest(largest);
            let inverse = V::splat(if largest > 0.0 { I16_MAX / largest } else { 0.0 });
            query.factor = if V::any(nan) { f32::NAN } else { largest / I16_MAX };
            for i in 0..BLOCK / V::LANES {
                all[i] = V::mul(all[i], inverse);
            }
            for (g, weights) in query.weights[..BLOCK / 2].chunks_exact_mut(GROUP / 2).enumerate() {
                V::store_i16(&all[g * GROUP / V::LANES..(g + 1) * GROUP / V::LANES], weights.as_mut_ptr());
            }
            sum
        }
    }
}

/// Calls `$f::<$p, M, $n>` with `M` = `$count`, which is 1 to [`TILE`].
macro_rules! for_count {
    ($count:expr, $f:ident::<$p:ty $(, $n:literal)?> $args:tt) => {
        match $count {
            1 => for_count!(@ $f::<$p, 1 $(, $n)?> $args),
            2 => for_count!(@ $f::<$p, 2 $(, $n)?> $args),
            3 => for_count!(@ $f::<$p, 3 $(, $n)?> $args),
            4 => for_count!(@ $f::<$p, 4 $(, $n)?> $args),
            _ => for_count!(@ $f::<$p, 5 $(, $n)?> $args),
        }
    };
    (@ $f:ident::<$p:ty, $m:literal $(, $n:literal)?> ($($arg:expr),*)) => { $f::<$p, $m $(, $n)?>($($arg),*) };
}

/// Runs of the `count` queries of a tile, of about equal size, that one kernel call takes: (first, count).
#[inline(always)]
fn runs<V: Register>(count: usize) -> impl Iterator<Item = (usize, usize)> {
    // Each query of a call has a sum for every token of a group, at least.
    let most = TILE.min(V::SUMS * V::LANES / GROUP);
    let mut next = 0;
    std::iter::from_fn(move || {
        let left = count - next;
        let run = (left > 0).then(|| (next, left.div_ceil(left.div_ceil(most))))?;
        next += run.1;
        Some(run)
    })
}

/// Computes the scores of the tile's queries, packed in `q`, with the tokens of `groups`.
///
/// # Safety
/// As [`Pairs`]; the keys of the groups, and their scales if they have any, are those of a page.
#[inline(always)]
pub unsafe fn scores<P: Pairs>(q: &[u32], block: &Block, groups: Range<usize>, tile: &mut [Query]) {
    let registers = GROUP / P::V::LANES;
    for (first, count) in runs::<P::V>(tile.len()) {
        let (q, tile) = (&q[first * block.k_dim / 2 * P::WORDS..], &mut tile[first..first + count]);
        let mut at = groups.start * registers;
        while at < groups.end * registers {
            // SAFETY: same contract.
            unsafe {
                if 4 * count <= P::V::SUMS && at + 4 <= groups.end * registers {
                    for_count!(count, scores_of::<P, 4>(q, block, at, tile));
                    at += 4;
                } else if registers == 2 {
                    for_count!(count, scores_of::<P, 2>(q, block, at, tile));
                    at += 2;
                } else {
                    for_count!(count, scores_of::<P, 1>(q, block, at, tile));
                    at += 1;
                }
            }
        }
    }
}

/// Computes the scores of `M` queries with the tokens of `N` registers of the block, from register `at` on.
///
/// # Safety
/// As [`scores`].
#[inline(always)]
unsafe fn scores_of<P: Pairs, const M: usize, const N: usize>(q: &[u32], block: &Block, at: usize, tile: &mut [Query]) {
    let (words, lanes) = (block.k_dim / 2 * P::WORDS, P::V::LANES);
    let (q, tile) = (q[..M * words].as_ptr(), &mut tile[..M]);
    // SAFETY: the slice above has `M` queries of k_dim / 2 pairs, and so have the keys of a group for each token.
    unsafe {
        let mut from = [std::ptr::null(); N];
        for n in 0..N {
            from[n] = block.keys[(at + n) * lanes / GROUP].add((at + n) * lanes % GROUP / lanes * P::BYTES);
        }
        let mut sums = [[P::zero(); N]; M];
        for i in 0..block.k_dim / 2 {
            let step = i * (GROUP / lanes * P::BYTES);
            let mut keys = [P::load(from[0].add(step)); N];
            for n in 1..N {
                keys[n] = P::load(from[n].add(step));
            }
            for m in 0..M {
                let q = P::factors(q.add(m * words + i * P::WORDS));
                for n in 0..N {
                    sums[m][n] = P::dot(sums[m][n], keys[n], q);
                }
            }
        }
        for n in 0..N {
            let token = (at + n) * lanes;
            let scales = match block.key_scales[token / GROUP] {
                p if p.is_null() => P::V::splat(1.0),
                p => P::V::load(p.add(token % GROUP)),
            };
            for m in 0..M {
                let score = P::V::mul(P::float(sums[m][n]), scales);
                P::V::store(score, tile[m].scores[token..token + lanes].as_mut_ptr());
            }
        }
    }
}

/// Turns the scores of a query into weights, for the tokens `seen`. Updates the running maximum and total; returns the
/// factor by which earlier sums must be multiplied.
///
/// # Safety
/// As [`scores`], of the values of the groups of these tokens.
#[inline(always)]
pub unsafe fn softmax<P: Pairs>(
    query: &mut Query,
    block: &Block,
    seen: Range<usize>,
    max: &mut f32,
    total: &mut f32,
) -> f32 {
    let lanes = P::V::LANES;
    // SAFETY: same contract; the slices have a register each.
    unsafe {
        let mut all = [P::V::splat(f32::NEG_INFINITY); BLOCK / 8];
        let mut largest = all[0];
        for i in 0..BLOCK / lanes {
            let scores = P::V::load(query.scores[i * lanes..(i + 1) * lanes].as_ptr());
            all[i] = P::V::select(P::V::inside(&seen, i * lanes), scores, all[i]);
            largest = P::V::max(largest, all[i]);
        }
        let new = max.max(P::V::largest(largest));
        let shrink = if *max == f32::NEG_INFINITY { 0.0 } else { P::V::first(exp(P::V::splat(*max - new))) };
        *max = new;
        for i in 0..BLOCK / lanes {
            let weights = exp(P::V::sub(all[i], P::V::splat(new)));
            all[i] = P::V::select(P::V::inside(&seen, i * lanes), weights, P::V::zero());
        }
        *total = *total * shrink + P::V::sum(P::weigh(&mut all, query, block, &seen));
        shrink
    }
}

/// Adds the weighted values of `tokens` to the sums `[queries, v_dim]` of the tile's queries.
///
/// # Safety
/// As [`softmax`].
#[inline(always)]
pub unsafe fn values<P: Pairs>(tile: &[Query], block: &Block, tokens: Range<usize>, sums: &mut [f32]) {
    for (first, count) in runs::<P::V>(tile.len()) {
        let (tile, sums) = (&tile[first..first + count], &mut sums[first * block.v_dim..]);
        // SAFETY: same contract.
        unsafe { for_count!(count, values_of::<P>(tile, block, &tokens, sums)) };
    }
}

/// [`values`] for `M` queries.
///
/// # Safety
/// As [`values`].
#[inline(always)]
unsafe fn values_of<P: Pairs, const M: usize>(tile: &[Query], block: &Block, tokens: &Range<usize>, sums: &mut [f32]) {
    let lanes = P::V::LANES;
    let mut at = 0;
    while at < block.v_dim {
        let left = (block.v_dim - at) / lanes;
        // SAFETY: same contract; v_dim is a multiple of 16.
        at += lanes
            * unsafe {
                if left >= 8 && 8 * M <= P::V::SUMS {
                    elements::<P, M, 8>(tile, block, tokens, sums, at)
                } else if left >= 4 && 4 * M <= P::V::SUMS {
                    elements::<P, M, 4>(tile, block, tokens, sums, at)
                } else if lanes == 8 {
                    elements::<P, M, 2>(tile, block, tokens, sums, at)
                } else {
                    elements::<P, M, 1>(tile, block, tokens, sums, at)
                }
            };
    }
}

/// [`values_of`] for the elements of `D` registers, from element `at` on; returns `D`.
///
/// # Safety
/// As [`values`].
#[inline(always)]
unsafe fn elements<P: Pairs, const M: usize, const D: usize>(
    tile: &[Query],
    block: &Block,
    tokens: &Range<usize>,
    sums: &mut [f32],
    at: usize,
) -> usize {
    let (v_dim, lanes) = (block.v_dim, P::V::LANES);
    assert!((M - 1) * v_dim + at + lanes * D <= sums.len() && tokens.end <= BLOCK && tile.len() >= M);
    // SAFETY: the sums and weights were just checked; a group has 8 pairs of v_dim elements each.
    unsafe {
        let mut acc = [[P::zero(); D]; M];
        // Where only one token of a pair is in the range, the values of the other are set to zero.
        if !tokens.start.is_multiple_of(2) {
            add_pair::<P, M, D>(&mut acc, tile, block, tokens.start / 2, at, Some(true));
        }
        for pair in tokens.start.div_ceil(2)..tokens.end / 2 {
            add_pair::<P, M, D>(&mut acc, tile, block, pair, at, None);
        }
        if !tokens.end.is_multiple_of(2) {
            add_pair::<P, M, D>(&mut acc, tile, block, tokens.end / 2, at, Some(false));
        }
        for m in 0..M {
            let factor = P::V::splat(tile[m].factor);
            for d in 0..D {
                let place = sums.as_mut_ptr().add(m * v_dim + at + lanes * d);
                P::V::store(P::V::fma(P::float(acc[m][d]), factor, P::V::load(place)), place);
            }
        }
    }
    D
}

/// Adds the weighted values of a pair of tokens, or only of the second (`Some(true)`) or the first (`Some(false)`).
///
/// # Safety
/// As [`values`].
#[inline(always)]
unsafe fn add_pair<P: Pairs, const M: usize, const D: usize>(
    acc: &mut [[P::Sum; D]; M],
    tile: &[Query],
    block: &Block,
    pair: usize,
    at: usize,
    half: Option<bool>,
) {
    // SAFETY: same contract; a query has `BLOCK` words of weights.
    unsafe {
        let from = block.values[pair / (GROUP / 2)];
        let from = from.add((pair % (GROUP / 2) * block.v_dim + at) / P::V::LANES * P::BYTES);
        let mut values = [P::load(from); D];
        for d in 0..D {
            values[d] = P::load(from.add(d * P::BYTES));
            if let Some(second) = half {
                values[d] = P::half(values[d], second);
            }
        }
        for m in 0..M {
            let weight = P::factors(tile[m].weights.as_ptr().add(pair * P::WORDS));
            for d in 0..D {
                acc[m][d] = P::dot(acc[m][d], values[d], weight);
            }
        }
    }
}
