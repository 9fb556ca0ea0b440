//! Attention of the AVX2 tier: f32 arithmetic for bf16 pages, 16-bit integer dot products for 8-bit pages.
//!
//! 8-bit pages: queries are scaled and rounded to 16-bit integers, and so are the softmax weights (times the scales of
//! the values), relative to the largest of a block. The dot product of a query and a key, and the weighted sum of the
//! values of a block, are exact integers.

#![allow(clippy::needless_range_loop, reason = "indices that are constant once unrolled keep sums in registers")]

use crate::backend::cpu::attention::lanes::{self, Block, GROUPS, I16_MAX, Lanes, Queries, TILE, Tile};
use crate::backend::cpu::attention::{AttentionArgs, AttentionKernels, BLOCK, running};
use crate::backend::cpu::kv::{GROUP, PageLayout, StoreBlock};
use crate::backend::cpu::portable;
use crate::dtype::DType;
use std::arch::x86_64::*;
use std::ops::Range;

/// The attention functions of the tier.
pub const ATTENTION: AttentionKernels =
    AttentionKernels { layout: PageLayout::lanes_where_possible, attend, attend_f32: attend, store_group, combine };

/// f32 lanes per register.
const LANES: usize = 8;
/// Registers that hold the scores of a block.
const VECTORS: usize = BLOCK / LANES;

/// # Safety
/// See [`AttentionKernels::attend`].
#[target_feature(enable = "avx2,fma")]
pub unsafe fn attend(args: &AttentionArgs, scratch: &mut Vec<f32>) {
    // SAFETY: same contract; this tier's pages of lanes are bf16 or 8-bit only.
    unsafe {
        match (args.pages.layout, args.pages.shape.dtype) {
            (PageLayout::Lanes, DType::Bf16) => lanes::attend::<Bf16>(args, scratch),
            (PageLayout::Lanes, _) => lanes::attend::<Int8>(args, scratch),
            _ => portable::attention_any::<true>(args, scratch),
        }
    }
}

/// # Safety
/// See [`AttentionKernels::combine`].
#[target_feature(enable = "avx2,fma")]
pub unsafe fn combine(args: &AttentionArgs, parts: &[f32], scratch: &mut Vec<f32>) {
    // SAFETY: same contract.
    unsafe { running::combine::<true>(args, parts, scratch) }
}

/// # Safety
/// See [`StoreGroup`](crate::backend::cpu::kv::StoreGroup).
#[target_feature(enable = "avx2,fma")]
unsafe fn store_group(block: &StoreBlock, values: bool, token: usize, from: &[f32], stride: usize) {
    // SAFETY: same contract.
    unsafe { block.store_group(values, token, from, stride) }
}

/// Operations on pairs of stored elements, one pair for each of 8 lanes.
///
/// # Safety
/// For all functions: the processor supports the tier's instructions, and memory behind a pointer may be read.
trait Pairs {
    /// Bytes of 16 stored elements.
    const BYTES: usize;
    /// 16 elements widened for multiplication.
    type Stored: Copy;
    /// A pair of factors, broadcast to all lanes.
    type Factors: Copy;

    /// All elements zero.
    unsafe fn zero() -> Self::Stored;
    /// Loads and widens 16 elements.
    unsafe fn load(from: *const u8) -> Self::Stored;
    /// Keeps only the first, or only the second, element of each pair; the other becomes zero.
    unsafe fn half(stored: Self::Stored, second: bool) -> Self::Stored;
    /// Broadcasts pair `index` of a packed query or of weights.
    unsafe fn factors(packed: *const u32, index: usize) -> Self::Factors;
    /// `sum + a.0 * b.0 + a.1 * b.1` in each lane.
    unsafe fn dot(sum: __m256, a: Self::Stored, b: Self::Factors) -> __m256;
    /// Converts a sum to f32. Integer sums are kept as bits in the f32 register.
    unsafe fn float(sum: __m256) -> __m256;
}

/// bf16 pages.
struct Bf16;

impl Pairs for Bf16 {
    const BYTES: usize = 32;
    type Stored = (__m256, __m256);
    type Factors = (__m256, __m256);

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn zero() -> Self::Stored {
        (_mm256_setzero_ps(), _mm256_setzero_ps())
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn load(from: *const u8) -> Self::Stored {
        // SAFETY: guaranteed by the caller.
        let both = unsafe { _mm256_loadu_si256(from.cast()) };
        let second = _mm256_and_si256(both, _mm256_set1_epi32(0xffff_0000_u32 as i32));
        (_mm256_castsi256_ps(_mm256_slli_epi32::<16>(both)), _mm256_castsi256_ps(second))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn half(stored: Self::Stored, second: bool) -> Self::Stored {
        let zero = _mm256_setzero_ps();
        if second { (zero, stored.1) } else { (stored.0, zero) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn factors(packed: *const u32, index: usize) -> Self::Factors {
        // SAFETY: guaranteed by the caller; a pair is two floats.
        unsafe {
            let at = packed.cast::<f32>().add(2 * index);
            (_mm256_broadcast_ss(&*at), _mm256_broadcast_ss(&*at.add(1)))
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn dot(sum: __m256, a: Self::Stored, b: Self::Factors) -> __m256 {
        _mm256_fmadd_ps(a.1, b.1, _mm256_fmadd_ps(a.0, b.0, sum))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn float(sum: __m256) -> __m256 {
        sum
    }
}

/// 8-bit pages.
struct Int8;

impl Pairs for Int8 {
    const BYTES: usize = 16;
    type Stored = __m256i;
    type Factors = __m256i;

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn zero() -> Self::Stored {
        _mm256_setzero_si256()
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn load(from: *const u8) -> Self::Stored {
        // SAFETY: guaranteed by the caller.
        unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(from.cast())) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn half(stored: Self::Stored, second: bool) -> Self::Stored {
        let mask = if second { 0xffff_0000_u32 as i32 } else { 0xffff };
        _mm256_and_si256(stored, _mm256_set1_epi32(mask))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn factors(packed: *const u32, index: usize) -> Self::Factors {
        // SAFETY: guaranteed by the caller.
        unsafe { _mm256_set1_epi32(*packed.add(index) as i32) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn dot(sum: __m256, a: Self::Stored, b: Self::Factors) -> __m256 {
        _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(sum), _mm256_madd_epi16(a, b)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn float(sum: __m256) -> __m256 {
        _mm256_cvtepi32_ps(_mm256_castps_si256(sum))
    }
}

/// Computes the scores of `M` queries, from `offset` in the tile on, with the tokens of `G` groups, from `group` on.
///
/// # Safety
/// As [`Lanes::scores`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn scores<P: Pairs, const M: usize, const G: usize>(
    queries: &Queries,
    (first, offset): (usize, usize),
    block: &Block,
    group: usize,
    tile: &mut Tile,
) {
    let words = queries.words;
    let q = queries.packed[(first + offset) * words..(first + offset + M) * words].as_ptr();
    // SAFETY: the slice above checked that there are `M` queries; each group has k_dim / 2 pairs of 16 tokens.
    unsafe {
        let mut sums = [[[_mm256_setzero_ps(); 2]; G]; M];
        for i in 0..block.k_dim / 2 {
            let mut keys = [[P::zero(); 2]; G];
            for (g, keys) in keys.iter_mut().enumerate() {
                let at = block.keys[group + g].add(2 * i * P::BYTES);
                *keys = [P::load(at), P::load(at.add(P::BYTES))];
            }
            for m in 0..M {
                let q = P::factors(q.add(m * words), i);
                for g in 0..G {
                    sums[m][g][0] = P::dot(sums[m][g][0], keys[g][0], q);
                    sums[m][g][1] = P::dot(sums[m][g][1], keys[g][1], q);
                }
            }
        }
        for g in 0..G {
            for half in 0..2 {
                let scales = match block.key_scales[group + g] {
                    p if p.is_null() => _mm256_set1_ps(1.0),
                    p => _mm256_loadu_ps(p.add(half * LANES)),
                };
                for m in 0..M {
                    let score = _mm256_mul_ps(P::float(sums[m][g][half]), scales);
                    let at = (group + g) * GROUP + half * LANES;
                    _mm256_storeu_ps(tile.scores[offset + m][at..at + LANES].as_mut_ptr(), score);
                }
            }
        }
    }
}

/// Adds the weighted values of `tokens` to elements `at..at + 8 * D` of the sums of `M` queries, from `offset` on.
///
/// # Safety
/// As [`Lanes::values`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn values<P: Pairs, const M: usize, const D: usize>(
    tile: &Tile,
    (first, offset): (usize, usize),
    block: &Block,
    tokens: Range<usize>,
    sums: &mut [f32],
    at: usize,
) {
    let v_dim = block.v_dim;
    let first = first + offset;
    assert!((offset + M - 1) * v_dim + at + LANES * D <= sums.len() && tokens.end <= BLOCK && first + M <= TILE);
    let weights = tile.weights[first..].as_ptr().cast::<u32>();
    // SAFETY: the sums and weights were just checked; a group has 8 pairs of v_dim elements each.
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); D]; M];
        // Where only one token of a pair is in the range, the values of the other are set to zero.
        for pair in tokens.start / 2..tokens.end.div_ceil(2) {
            let from = block.values[pair / (GROUP / 2)].add((pair % (GROUP / 2) * v_dim + at) / LANES * P::BYTES);
            let mut v = [P::zero(); D];
            for (d, v) in v.iter_mut().enumerate() {
                *v = P::load(from.add(d * P::BYTES));
            }
            if 2 * pair < tokens.start || 2 * pair + 1 >= tokens.end {
                v.iter_mut().for_each(|v| *v = P::half(*v, 2 * pair < tokens.start));
            }
            for m in 0..M {
                let w = P::factors(weights.add(m * BLOCK), pair);
                for d in 0..D {
                    acc[m][d] = P::dot(acc[m][d], v[d], w);
                }
            }
        }
        for m in 0..M {
            let factor = _mm256_set1_ps(tile.factors[first + m]);
            for d in 0..D {
                let place = sums.as_mut_ptr().add((offset + m) * v_dim + at + LANES * d);
                _mm256_storeu_ps(place, _mm256_fmadd_ps(P::float(acc[m][d]), factor, _mm256_loadu_ps(place)));
            }
        }
    }
}

/// # Safety
/// As [`Lanes::scores`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn all_scores<P: Pairs>(
    queries: &Queries,
    first: usize,
    count: usize,
    block: &Block,
    groups: Range<usize>,
    tile: &mut Tile,
) {
    let mut offset = 0;
    while offset < count {
        // At most four queries: their accumulators and the keys of one group fill the registers.
        let step = (count - offset).div_ceil((count - offset).div_ceil(4));
        let mut group = groups.start;
        // SAFETY: same contract.
        unsafe {
            while group < groups.end {
                let (at, two) = ((first, offset), groups.end - group >= 2);
                match (step, two) {
                    (1, true) => scores::<P, 1, 2>(queries, at, block, group, tile),
                    (2, true) => scores::<P, 2, 2>(queries, at, block, group, tile),
                    (1, false) => scores::<P, 1, 1>(queries, at, block, group, tile),
                    (2, false) => scores::<P, 2, 1>(queries, at, block, group, tile),
                    (3, _) => scores::<P, 3, 1>(queries, at, block, group, tile),
                    _ => scores::<P, 4, 1>(queries, at, block, group, tile),
                }
                group += if step <= 2 && two { 2 } else { 1 };
            }
        }
        offset += step;
    }
}

/// # Safety
/// As [`Lanes::values`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn all_values<P: Pairs>(
    tile: &Tile,
    first: usize,
    count: usize,
    block: &Block,
    tokens: Range<usize>,
    sums: &mut [f32],
) {
    let mut offset = 0;
    while offset < count {
        let step = (count - offset).div_ceil((count - offset).div_ceil(4));
        let mut at = 0;
        while at < block.v_dim {
            let (place, tokens, left) = ((first, offset), tokens.clone(), (block.v_dim - at) / LANES);
            // SAFETY: same contract; v_dim is a multiple of 16, i.e. of two registers.
            at += LANES
                * unsafe {
                    match step {
                        1 if left >= 8 => (values::<P, 1, 8>(tile, place, block, tokens, sums, at), 8).1,
                        1 => (values::<P, 1, 2>(tile, place, block, tokens, sums, at), 2).1,
                        2 if left >= 4 => (values::<P, 2, 4>(tile, place, block, tokens, sums, at), 4).1,
                        2 => (values::<P, 2, 2>(tile, place, block, tokens, sums, at), 2).1,
                        3 => (values::<P, 3, 2>(tile, place, block, tokens, sums, at), 2).1,
                        _ => (values::<P, 4, 2>(tile, place, block, tokens, sums, at), 2).1,
                    }
                };
        }
        offset += step;
    }
}

/// `e^x` for x <= 0, with a relative error below 2e-7 above -87; smaller x give about 1e-38, NaN stays NaN.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn exp(x: __m256) -> __m256 {
    // Adding this constant leaves the nearest integer in the low mantissa bits.
    let round = _mm256_set1_ps(12_582_912.0);
    // The maximum returns its second operand if either is NaN.
    let x = _mm256_max_ps(_mm256_set1_ps(-87.3), x);
    let n = _mm256_fmadd_ps(x, _mm256_set1_ps(std::f32::consts::LOG2_E), round);
    let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(n));
    let power = _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(0x3f80_0000)));
    let n = _mm256_sub_ps(n, round);
    let r = _mm256_fmadd_ps(n, _mm256_set1_ps(-0.693_359_4), x);
    let r = _mm256_fmadd_ps(n, _mm256_set1_ps(2.121_944_4e-4), r);
    let mut p = _mm256_set1_ps(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.500_000_06] {
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(c));
    }
    let p = _mm256_fmadd_ps(_mm256_mul_ps(p, r), r, _mm256_add_ps(r, _mm256_set1_ps(1.0)));
    _mm256_mul_ps(p, power)
}

/// All bits set in the lanes of register `i` of a block whose tokens are in `seen`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn mask(seen: &Range<usize>, i: usize) -> __m256 {
    let lane = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32((i * LANES) as i32));
    let from = _mm256_cmpgt_epi32(_mm256_set1_epi32(seen.start as i32), lane);
    let to = _mm256_cmpgt_epi32(_mm256_set1_epi32(seen.end as i32), lane);
    _mm256_castsi256_ps(_mm256_andnot_si256(from, to))
}

/// The largest lane.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn largest(v: __m256) -> f32 {
    let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
}

/// The sum of the lanes, added as a fixed tree.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn total(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
}

/// The part of [`Lanes::softmax`] common to both types: `e^(score - max)`, 0 for tokens not in `seen`, and the factor
/// by which earlier sums must be multiplied. Updates the running maximum and the sum of weights.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn exponentials(scores: &[f32; BLOCK], seen: &Range<usize>, max: &mut f32, sum: &mut f32) -> ([__m256; VECTORS], f32) {
    let mut s = [_mm256_set1_ps(f32::NEG_INFINITY); VECTORS];
    let mut top = s[0];
    for (i, s) in s.iter_mut().enumerate() {
        // SAFETY: the 8 floats of register i.
        let loaded = unsafe { _mm256_loadu_ps(scores[i * LANES..(i + 1) * LANES].as_ptr()) };
        *s = _mm256_blendv_ps(*s, loaded, mask(seen, i));
        top = _mm256_max_ps(top, *s);
    }
    let new = max.max(largest(top));
    let shrink = if *max == f32::NEG_INFINITY { 0.0 } else { _mm256_cvtss_f32(exp(_mm256_set1_ps(*max - new))) };
    *max = new;
    let mut all = _mm256_setzero_ps();
    for (i, s) in s.iter_mut().enumerate() {
        *s = _mm256_and_ps(exp(_mm256_sub_ps(*s, _mm256_set1_ps(new))), mask(seen, i));
        all = _mm256_add_ps(all, *s);
    }
    *sum = *sum * shrink + total(all);
    (s, shrink)
}

impl Lanes for Bf16 {
    fn query_words(k_dim: usize) -> usize {
        k_dim
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn pack(q: &[f32], out: &mut [u32]) -> f32 {
        out.iter_mut().zip(q).for_each(|(out, q)| *out = q.to_bits());
        1.0
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn scores(
        queries: &Queries,
        first: usize,
        count: usize,
        block: &Block,
        groups: Range<usize>,
        tile: &mut Tile,
    ) {
        // SAFETY: same contract.
        unsafe { all_scores::<Bf16>(queries, first, count, block, groups, tile) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn softmax(
        tile: &mut Tile,
        index: usize,
        _block: &Block,
        seen: Range<usize>,
        max: &mut f32,
        total: &mut f32,
    ) -> f32 {
        let (weights, shrink) = exponentials(&tile.scores[index], &seen, max, total);
        for (i, w) in weights.into_iter().enumerate() {
            // SAFETY: the 8 words of register i.
            unsafe { _mm256_storeu_ps(tile.weights[index][i * LANES..(i + 1) * LANES].as_mut_ptr().cast(), w) };
        }
        shrink
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn values(tile: &Tile, first: usize, count: usize, block: &Block, tokens: Range<usize>, sums: &mut [f32]) {
        // SAFETY: same contract.
        unsafe { all_values::<Bf16>(tile, first, count, block, tokens, sums) }
    }
}

impl Lanes for Int8 {
    fn query_words(k_dim: usize) -> usize {
        k_dim / 2
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn pack(q: &[f32], out: &mut [u32]) -> f32 {
        lanes::pack_i16(q, out)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn scores(
        queries: &Queries,
        first: usize,
        count: usize,
        block: &Block,
        groups: Range<usize>,
        tile: &mut Tile,
    ) {
        // SAFETY: same contract.
        unsafe { all_scores::<Int8>(queries, first, count, block, groups, tile) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn softmax(
        tile: &mut Tile,
        index: usize,
        block: &Block,
        seen: Range<usize>,
        max: &mut f32,
        total: &mut f32,
    ) -> f32 {
        let (mut weights, shrink) = exponentials(&tile.scores[index], &seen, max, total);
        let mut top = _mm256_setzero_ps();
        // A maximum drops NaNs, so they are recorded separately.
        let mut not_numbers = _mm256_setzero_ps();
        for (i, w) in weights.iter_mut().enumerate() {
            let scales = block.value_scales[i * LANES / GROUP];
            if !scales.is_null() {
                // SAFETY: the group holds tokens; the scales of its second half start 8 floats further on.
                let scales = unsafe { _mm256_loadu_ps(scales.add(i * LANES % GROUP)) };
                // Masked again: scales of tokens that were never stored may be NaN.
                *w = _mm256_and_ps(_mm256_mul_ps(*w, scales), mask(&seen, i));
            }
            top = _mm256_max_ps(top, *w);
            not_numbers = _mm256_or_ps(not_numbers, _mm256_cmp_ps::<_CMP_UNORD_Q>(*w, *w));
        }
        let top = largest(top);
        let inverse = _mm256_set1_ps(if top > 0.0 { I16_MAX / top } else { 0.0 });
        tile.factors[index] = if _mm256_movemask_ps(not_numbers) == 0 { top / I16_MAX } else { f32::NAN };
        for i in 0..GROUPS {
            let low = _mm256_cvtps_epi32(_mm256_mul_ps(weights[2 * i], inverse));
            let high = _mm256_cvtps_epi32(_mm256_mul_ps(weights[2 * i + 1], inverse));
            // The pack instruction works within 128-bit halves; the permutation restores the order of quarters.
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high));
            // SAFETY: the 8 words of group i.
            unsafe { _mm256_storeu_si256(tile.weights[index][i * 8..(i + 1) * 8].as_mut_ptr().cast(), packed) };
        }
        shrink
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn values(tile: &Tile, first: usize, count: usize, block: &Block, tokens: Range<usize>, sums: &mut [f32]) {
        // SAFETY: same contract.
        unsafe { all_values::<Int8>(tile, first, count, block, tokens, sums) }
    }
}
