//! Attention of the AVX-512 tier: bf16 dot products for bf16 pages, 16-bit integer ones for 8-bit pages.
//!
//! bf16 pages: queries and softmax weights are rounded to bf16, accumulators are f32, and the sum of weights is that of
//! the rounded ones.
//! 8-bit pages: queries are scaled and rounded to 16-bit integers, and so are the softmax weights (times the scales of
//! the values), relative to the largest of a block. The dot product of a query and a key, and the weighted sum of the
//! values of a block, are exact integers.

#![allow(clippy::needless_range_loop, reason = "indices that are constant once unrolled keep sums in registers")]

use crate::backend::cpu::attention::lanes::{self, Block, GROUPS, I16_MAX, Lanes, Queries, TILE, Tile};
use crate::backend::cpu::attention::{AttentionArgs, AttentionKernels};
use crate::backend::cpu::avx2;
use crate::backend::cpu::kv::{GROUP, PageLayout};
use crate::dtype::DType;
use std::arch::x86_64::*;
use std::ops::Range;

/// The attention functions of the tier.
pub const ATTENTION: AttentionKernels = AttentionKernels { attend, ..avx2::ATTENTION };

/// # Safety
/// See [`AttentionKernels::attend`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
unsafe fn attend(args: &AttentionArgs, scratch: &mut Vec<f32>) {
    // SAFETY: same contract; this tier's pages of lanes are bf16 or 8-bit only.
    unsafe {
        match (args.pages.layout, args.pages.shape.dtype) {
            (PageLayout::Lanes, DType::Bf16) => lanes::attend::<Bf16>(args, scratch),
            (PageLayout::Lanes, _) => lanes::attend::<Int8>(args, scratch),
            _ => (avx2::ATTENTION.attend)(args, scratch),
        }
    }
}

/// Operations on pairs of stored elements, one pair for each of 16 lanes.
trait Pairs {
    /// Bytes of 32 stored elements.
    const BYTES: usize;

    /// Loads 32 elements, widened to 16 bits.
    ///
    /// # Safety
    /// `BYTES` bytes from `from` on may be read; the processor supports the tier's instructions.
    unsafe fn load(from: *const u8) -> __m512i;

    /// `sum + a.0 * b.0 + a.1 * b.1` in each lane.
    ///
    /// # Safety
    /// The processor supports the tier's instructions.
    unsafe fn dot(sum: __m512, a: __m512i, b: __m512i) -> __m512;

    /// Converts a sum to f32. Integer sums are kept as bits in the f32 register.
    ///
    /// # Safety
    /// The processor supports the tier's instructions.
    unsafe fn float(sum: __m512) -> __m512;
}

/// bf16 pages.
struct Bf16;

impl Pairs for Bf16 {
    const BYTES: usize = 64;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
    unsafe fn load(from: *const u8) -> __m512i {
        // SAFETY: guaranteed by the caller.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
    unsafe fn dot(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
        // SAFETY: both types are 64 bytes in which every bit pattern is valid.
        unsafe {
            _mm512_dpbf16_ps(
                sum,
                std::mem::transmute::<__m512i, __m512bh>(a),
                std::mem::transmute::<__m512i, __m512bh>(b),
            )
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
    unsafe fn float(sum: __m512) -> __m512 {
        sum
    }
}

/// 8-bit pages.
struct Int8;

impl Pairs for Int8 {
    const BYTES: usize = 32;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
    unsafe fn load(from: *const u8) -> __m512i {
        // SAFETY: guaranteed by the caller.
        unsafe { _mm512_cvtepi8_epi16(_mm256_loadu_si256(from.cast())) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
    unsafe fn dot(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
        _mm512_castsi512_ps(_mm512_dpwssd_epi32(_mm512_castps_si512(sum), a, b))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
    unsafe fn float(sum: __m512) -> __m512 {
        _mm512_cvtepi32_ps(_mm512_castps_si512(sum))
    }
}

/// Computes the scores of `M` queries with the tokens of `G` groups, from `group` on.
///
/// # Safety
/// As [`Lanes::scores`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
unsafe fn scores<P: Pairs, const M: usize, const G: usize>(
    queries: &Queries,
    first: usize,
    block: &Block,
    group: usize,
    tile: &mut Tile,
) {
    let words = queries.words;
    let q = queries.packed[first * words..(first + M) * words].as_ptr();
    // SAFETY: the slice above checked that there are `M` queries; each group has k_dim / 2 = words registers of keys.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); G]; M];
        for i in 0..words {
            let mut keys = [_mm512_setzero_si512(); G];
            for g in 0..G {
                keys[g] = P::load(block.keys[group + g].add(i * P::BYTES));
            }
            for m in 0..M {
                let q = _mm512_set1_epi32(*q.add(m * words + i) as i32);
                for g in 0..G {
                    sums[m][g] = P::dot(sums[m][g], keys[g], q);
                }
            }
        }
        for g in 0..G {
            let scales = match block.key_scales[group + g] {
                p if p.is_null() => _mm512_set1_ps(1.0),
                p => _mm512_loadu_ps(p),
            };
            for m in 0..M {
                let score = _mm512_mul_ps(P::float(sums[m][g]), scales);
                _mm512_storeu_ps(tile.scores[m][(group + g) * GROUP..].as_mut_ptr(), score);
            }
        }
    }
}

/// Adds the weighted values of `tokens` to elements `at..at + 16 * D` of the sums of `M` queries.
///
/// # Safety
/// As [`Lanes::values`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
unsafe fn values<P: Pairs, const M: usize, const D: usize>(
    tile: &Tile,
    first: usize,
    block: &Block,
    tokens: Range<usize>,
    sums: &mut [f32],
    at: usize,
) {
    let v_dim = block.v_dim;
    assert!(sums.len() >= (M - 1) * v_dim + at + 16 * D && tokens.end <= GROUPS * GROUP && first + M <= TILE);
    let weights = tile.weights[first..].as_ptr().cast::<u32>();
    // SAFETY: the sums and weights were just checked; a group has 8 pairs of v_dim elements each.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); D]; M];
        // A macro instead of a closure, so that the accumulators stay in registers.
        macro_rules! step {
            ($pair:expr, $mask:expr) => {
                let from = block.values[$pair / 8].add(($pair % 8 * v_dim + at) / 16 * P::BYTES);
                let mut v = [_mm512_setzero_si512(); D];
                for d in 0..D {
                    v[d] = P::load(from.add(d * P::BYTES));
                    if let Some(mask) = $mask {
                        v[d] = _mm512_and_si512(v[d], _mm512_set1_epi32(mask));
                    }
                }
                for m in 0..M {
                    let w = _mm512_set1_epi32(*weights.add(m * GROUPS * GROUP + $pair) as i32);
                    for d in 0..D {
                        acc[m][d] = P::dot(acc[m][d], v[d], w);
                    }
                }
            };
        }
        // Where only one token of a pair is in the range, the values of the other are set to zero.
        let (from, to) = (tokens.start.div_ceil(2), tokens.end / 2);
        if tokens.start % 2 == 1 {
            step!(tokens.start / 2, Some(0xffff_0000_u32 as i32));
        }
        for pair in from..to {
            step!(pair, None::<i32>);
        }
        if tokens.end % 2 == 1 {
            step!(tokens.end / 2, Some(0xffff));
        }
        for m in 0..M {
            let factor = _mm512_set1_ps(tile.factors[first + m]);
            for d in 0..D {
                let place = sums.as_mut_ptr().add(m * v_dim + at + 16 * d);
                let sum = _mm512_fmadd_ps(P::float(acc[m][d]), factor, _mm512_loadu_ps(place));
                _mm512_storeu_ps(place, sum);
            }
        }
    }
}

/// `e^x` for x <= 0, with a relative error below 2e-7; 0 for -inf, NaN stays NaN.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
fn exp(x: __m512) -> __m512 {
    // The maximum returns its second operand if either is NaN.
    let x = _mm512_max_ps(_mm512_set1_ps(-104.0), x);
    let n = _mm512_roundscale_ps::<0>(_mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E)));
    let r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0.693_359_4), x);
    let r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.121_944_4e-4), r);
    let mut p = _mm512_set1_ps(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.500_000_06] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    }
    let p = _mm512_fmadd_ps(_mm512_mul_ps(p, r), r, _mm512_add_ps(r, _mm512_set1_ps(1.0)));
    _mm512_scalef_ps(p, n)
}

/// The lanes of group `g` whose tokens are in `seen`.
fn mask(seen: &Range<usize>, g: usize) -> __mmask16 {
    let from = seen.start.saturating_sub(g * GROUP).min(GROUP);
    let to = seen.end.saturating_sub(g * GROUP).min(GROUP);
    ((1u32 << to) - (1u32 << from).min(1 << to)) as __mmask16
}

/// The part of [`Lanes::softmax`] common to both types: `e^(score - max)` of each group, 0 for tokens not in `seen`,
/// and the factor by which earlier sums must be multiplied. Updates the running maximum.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
fn exponentials(scores: &[f32; GROUPS * GROUP], seen: &Range<usize>, max: &mut f32) -> ([__m512; GROUPS], f32) {
    let mut s = [_mm512_set1_ps(f32::NEG_INFINITY); GROUPS];
    for (g, s) in s.iter_mut().enumerate() {
        // SAFETY: the 16 floats of group g.
        *s = unsafe { _mm512_mask_loadu_ps(*s, mask(seen, g), scores[g * GROUP..].as_ptr()) };
    }
    let largest = _mm512_max_ps(_mm512_max_ps(s[0], s[1]), _mm512_max_ps(s[2], s[3]));
    let new = max.max(_mm512_reduce_max_ps(largest));
    let shrink = if *max == f32::NEG_INFINITY { 0.0 } else { _mm512_cvtss_f32(exp(_mm512_set1_ps(*max - new))) };
    *max = new;
    for (g, s) in s.iter_mut().enumerate() {
        *s = _mm512_maskz_mov_ps(mask(seen, g), exp(_mm512_sub_ps(*s, _mm512_set1_ps(new))));
    }
    (s, shrink)
}

/// Calls `$f::<$p, M, $n>` with `M` = `$count`, which is 1 to [`TILE`].
macro_rules! for_count {
    ($count:expr, $f:ident::<$p:ty, $n:literal>($($arg:expr),*)) => {
        match $count {
            1 => $f::<$p, 1, $n>($($arg),*),
            2 => $f::<$p, 2, $n>($($arg),*),
            3 => $f::<$p, 3, $n>($($arg),*),
            4 => $f::<$p, 4, $n>($($arg),*),
            _ => $f::<$p, 5, $n>($($arg),*),
        }
    };
}

/// # Safety
/// As [`Lanes::scores`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
unsafe fn all_scores<P: Pairs>(
    queries: &Queries,
    first: usize,
    count: usize,
    block: &Block,
    groups: Range<usize>,
    tile: &mut Tile,
) {
    // SAFETY: same contract.
    unsafe {
        if groups.len() == GROUPS {
            for_count!(count, scores::<P, 4>(queries, first, block, 0, tile));
            return;
        }
        for group in groups {
            for_count!(count, scores::<P, 1>(queries, first, block, group, tile));
        }
    }
}

/// # Safety
/// As [`Lanes::values`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
unsafe fn all_values<P: Pairs>(
    tile: &Tile,
    first: usize,
    count: usize,
    block: &Block,
    tokens: Range<usize>,
    sums: &mut [f32],
) {
    let mut at = 0;
    // SAFETY: same contract; v_dim is a multiple of 16.
    unsafe {
        while at < block.v_dim {
            let left = (block.v_dim - at) / 16;
            let tokens = tokens.clone();
            if left >= 8 && count == 1 {
                values::<P, 1, 8>(tile, first, block, tokens, sums, at);
                at += 128;
            } else if left >= 8 && count == 2 {
                values::<P, 2, 8>(tile, first, block, tokens, sums, at);
                at += 128;
            } else if left >= 4 {
                for_count!(count, values::<P, 4>(tile, first, block, tokens, sums, at));
                at += 64;
            } else {
                for_count!(count, values::<P, 1>(tile, first, block, tokens, sums, at));
                at += 16;
            }
        }
    }
}

impl Lanes for Bf16 {
    fn query_words(k_dim: usize) -> usize {
        k_dim / 2
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
    unsafe fn pack(q: &[f32], out: &mut [u32]) -> f32 {
        for (q, out) in q.chunks(32).zip(out.chunks_mut(16)) {
            let mask = |n: usize| ((1u64 << n.min(16)) - 1) as __mmask16;
            // SAFETY: masked to the elements that exist.
            unsafe {
                let low = _mm512_maskz_loadu_ps(mask(q.len()), q.as_ptr());
                let high = _mm512_maskz_loadu_ps(mask(q.len().saturating_sub(16)), q.as_ptr().wrapping_add(16));
                let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
                _mm512_mask_storeu_epi32(out.as_mut_ptr().cast(), mask(out.len()), both);
            }
        }
        1.0
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
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
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
    unsafe fn softmax(
        tile: &mut Tile,
        index: usize,
        _block: &Block,
        seen: Range<usize>,
        max: &mut f32,
        total: &mut f32,
    ) -> f32 {
        let (weights, shrink) = exponentials(&tile.scores[index], &seen, max);
        let mut sum = _mm512_setzero_ps();
        for (g, w) in weights.into_iter().enumerate() {
            // SAFETY: both types are 32 bytes in which every bit pattern is valid; the 8 words of group g.
            unsafe {
                let rounded: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(w));
                _mm256_storeu_si256(tile.weights[index][g * 8..g * 8 + 8].as_mut_ptr().cast(), rounded);
                let widened = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(rounded));
                sum = _mm512_add_ps(sum, _mm512_castsi512_ps(widened));
            }
        }
        *total = *total * shrink + _mm512_reduce_add_ps(sum);
        shrink
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
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
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
    unsafe fn pack(q: &[f32], out: &mut [u32]) -> f32 {
        lanes::pack_i16(q, out)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
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
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
    unsafe fn softmax(
        tile: &mut Tile,
        index: usize,
        block: &Block,
        seen: Range<usize>,
        max: &mut f32,
        total: &mut f32,
    ) -> f32 {
        let (mut weights, shrink) = exponentials(&tile.scores[index], &seen, max);
        let mut sum = _mm512_setzero_ps();
        let mut largest = _mm512_setzero_ps();
        // A maximum drops NaNs, so they are recorded separately.
        let mut not_numbers = 0;
        for (g, w) in weights.iter_mut().enumerate() {
            sum = _mm512_add_ps(sum, *w);
            let seen = mask(&seen, g);
            if seen != 0 {
                // SAFETY: the group holds tokens.
                *w = unsafe { _mm512_maskz_mul_ps(seen, *w, _mm512_loadu_ps(block.value_scales[g])) };
            }
            largest = _mm512_max_ps(largest, *w);
            not_numbers |= _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(*w, *w);
        }
        *total = *total * shrink + _mm512_reduce_add_ps(sum);
        let largest = _mm512_reduce_max_ps(largest);
        let inverse = _mm512_set1_ps(if largest > 0.0 { I16_MAX / largest } else { 0.0 });
        tile.factors[index] = if not_numbers == 0 { largest / I16_MAX } else { f32::NAN };
        for (g, w) in weights.into_iter().enumerate() {
            let rounded = _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(w, inverse)));
            // SAFETY: the 8 words of group g.
            unsafe { _mm256_storeu_si256(tile.weights[index][g * 8..g * 8 + 8].as_mut_ptr().cast(), rounded) };
        }
        shrink
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
    unsafe fn values(tile: &Tile, first: usize, count: usize, block: &Block, tokens: Range<usize>, sums: &mut [f32]) {
        // SAFETY: same contract.
        unsafe { all_values::<Int8>(tile, first, count, block, tokens, sums) }
    }
}
