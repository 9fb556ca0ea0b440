//! Attention over pages in [`PageLayout::Lanes`](crate::backend::cpu::kv::PageLayout): the part common to the vector
//! tiers. A tier provides the kernels ([`Lanes`]); this file runs them over the blocks of keys and determines which
//! keys each query sees.
//!
//! Order of accumulation for each query (law 1): within a block, first the values of whole groups of 16 tokens, then
//! those of the tokens before and after these groups. Values of a token that a query does not see never enter its sums,
//! not even multiplied by zero, so that NaNs in unused or later tokens of a page cannot affect the result.

#![allow(clippy::needless_range_loop, reason = "indices that are constant once unrolled keep sums in registers")]

use super::running::{self, Fold, Running};
use super::{AttentionArgs, BLOCK};
use crate::backend::cpu::kv::GROUP;
use crate::dtype::DType;
use std::marker::PhantomData;
use std::ops::Range;

/// Groups per block.
pub const GROUPS: usize = BLOCK / GROUP;
/// Most queries per kernel call: 5 x 4 accumulators, 4 operands and 5 broadcast factors use 29 of 32 registers.
pub const TILE: usize = 5;

/// Largest magnitude of a 16-bit query element or weight.
pub const I16_MAX: f32 = 32767.0;

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

/// Scores and softmax weights of a tile of queries with one block of keys.
#[repr(C, align(64))]
pub struct Tile {
    /// Scores, before the softmax.
    pub scores: [[f32; BLOCK]; TILE],
    /// Softmax weights in the tier's own format; 0 for keys that the query does not see.
    pub weights: [[u32; BLOCK]; TILE],
    /// Factor that converts the weighted sums of each query to values; 1 unless the weights are integers.
    pub factors: [f32; TILE],
}

/// The queries of a task, packed for the tier's dot products.
pub struct Queries<'a> {
    /// `[queries, words]`.
    pub packed: &'a [u32],
    /// 32-bit words per query.
    pub words: usize,
    /// Factor to apply to the scores of each query.
    pub factors: &'a [f32],
}

/// The kernels of a tier for one element type of the pages. Results must not depend on the tile that a query is in.
pub trait Lanes {
    /// 32-bit words of a packed query.
    fn query_words(k_dim: usize) -> usize;

    /// Packs a query; returns the factor that turns scores computed from the packed query into those of the query.
    ///
    /// # Safety
    /// The processor supports the tier's instructions.
    unsafe fn pack(q: &[f32], out: &mut [u32]) -> f32;

    /// Computes the scores of `count` queries, from `first` on, with the tokens of `groups`, into `tile.scores`.
    ///
    /// # Safety
    /// The processor supports the tier's instructions, and the pointers of these groups are not null.
    unsafe fn scores(
        queries: &Queries,
        first: usize,
        count: usize,
        block: &Block,
        groups: Range<usize>,
        tile: &mut Tile,
    );

    /// Turns the scores of query `index` of the tile into weights, for the tokens `seen`. Updates the running maximum
    /// and total; returns the factor by which earlier sums must be multiplied.
    ///
    /// # Safety
    /// The processor supports the tier's instructions, and the pointers of the groups of these tokens are not null.
    unsafe fn softmax(
        tile: &mut Tile,
        index: usize,
        block: &Block,
        seen: Range<usize>,
        max: &mut f32,
        total: &mut f32,
    ) -> f32;

    /// Adds the weighted values of `tokens` to the sums `[count, v_dim]` of the tile's queries, from `first` on.
    ///
    /// # Safety
    /// The processor supports the tier's instructions, and the pointers of the groups of these tokens are not null.
    unsafe fn values(tile: &Tile, first: usize, count: usize, block: &Block, tokens: Range<usize>, sums: &mut [f32]);
}

/// The tokens `from..to` of a block that a row sees, relative to the block's start.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    from: usize,
    to: usize,
}

impl Seen {
    /// The tokens that row `row` of the task sees of the block that starts at position `at`.
    #[inline(always)]
    fn by(args: &AttentionArgs, row: usize, at: usize) -> Seen {
        let r = args.visible_in(row, at);
        Seen { from: r.start, to: r.end }
    }

    /// Groups with at least one token that is seen.
    fn groups(self) -> Range<usize> {
        self.from / GROUP..self.to.div_ceil(GROUP)
    }

    /// Tokens of whole groups. The last group counts as whole only at the end of the block, so that all rows that end
    /// in one group have the same whole groups.
    fn whole(self) -> Range<usize> {
        let first = self.from.div_ceil(GROUP) * GROUP;
        let end = if self.to == BLOCK { BLOCK } else { (self.to - 1) / GROUP * GROUP };
        first..end.max(first)
    }
}

/// Folds the block that starts at position `at` into the running states of all rows that see part of it.
///
/// # Safety
/// As [`Lanes`]; the pages have [`PageLayout::Lanes`](crate::backend::cpu::kv::PageLayout).
#[inline(always)]
unsafe fn fold<L: Lanes>(args: &AttentionArgs, queries: &Queries, tile: &mut Tile, state: &mut Running, at: usize) {
    let seen_by = |row: usize| Seen::by(args, row, at);
    let rows = args.rows.len();
    let sees = |row: usize| !args.visible_in(row, at).is_empty();
    let Some(first) = (0..rows).find(|&row| sees(row)) else { return };
    let last = (first..rows).rev().find(|&row| sees(row)).unwrap_or(first);
    let block = locate(args, at, seen_by(first).groups().start..seen_by(last).groups().end);
    let mut row = first;
    while row <= last {
        let shape = (seen_by(row).groups(), seen_by(row).whole());
        let mut end = row + 1;
        while end <= last && (seen_by(end).groups(), seen_by(end).whole()) == shape {
            end += 1;
        }
        // SAFETY: the same contract; the rows of a run see the same groups.
        unsafe { fold_run::<L>(args, queries, tile, state, &block, row..end, at) };
        row = end;
    }
}

/// Finds the keys and values of the `groups` of the block that starts at position `at`.
#[inline(always)]
fn locate(args: &AttentionArgs, at: usize, groups: Range<usize>) -> Block {
    let shape = &args.pages.shape;
    let mut block = Block {
        keys: [std::ptr::null(); GROUPS],
        values: [std::ptr::null(); GROUPS],
        key_scales: [std::ptr::null(); GROUPS],
        value_scales: [std::ptr::null(); GROUPS],
        k_dim: shape.k_dim,
        v_dim: shape.v_dim,
    };
    for g in groups {
        let position = at + g * GROUP;
        let page = args.pages.head(args.table[position / shape.page_tokens], args.kv_head);
        let group = position % shape.page_tokens / GROUP;
        (block.keys[g], block.values[g]) = (page.key_group(group), page.value_group(group));
        if shape.dtype == DType::I8 {
            (block.key_scales[g], block.value_scales[g]) =
                (page.scale_group(false, group), page.scale_group(true, group));
        }
    }
    block
}

/// Folds a block into the states of a run of rows that see the same groups and the same whole groups.
///
/// # Safety
/// As [`fold`].
#[inline(always)]
unsafe fn fold_run<L: Lanes>(
    args: &AttentionArgs,
    queries: &Queries,
    tile: &mut Tile,
    state: &mut Running,
    block: &Block,
    rows: Range<usize>,
    at: usize,
) {
    let seen_by = |row: usize| Seen::by(args, row, at);
    let heads = args.q_heads.len();
    let (first, end, v_dim) = (rows.start * heads, rows.end * heads, state.v_dim);
    let (groups, whole) = (seen_by(rows.start).groups(), seen_by(rows.start).whole());
    // Tiles of about equal size.
    let step = (end - first).div_ceil((end - first).div_ceil(TILE));
    for start in (first..end).step_by(step) {
        let count = step.min(end - start);
        let sums = &mut state.sum[start * v_dim..(start + count) * v_dim];
        // SAFETY: the same contract; all groups used are seen by these rows.
        unsafe {
            L::scores(queries, start, count, block, groups.clone(), tile);
            for i in 0..count {
                let s = seen_by((start + i) / heads);
                let scores = &mut tile.scores[i][groups.start * GROUP..groups.end * GROUP];
                let factor = queries.factors[start + i];
                scores.iter_mut().for_each(|v| *v *= factor);
                let (max, total) = (&mut state.max[start + i], &mut state.total[start + i]);
                let shrink = L::softmax(tile, i, block, s.from..s.to, max, total);
                if shrink != 1.0 {
                    sums[i * v_dim..(i + 1) * v_dim].iter_mut().for_each(|v| *v *= shrink);
                }
            }
            if !whole.is_empty() {
                L::values(tile, 0, count, block, whole.clone(), sums);
            }
            let mut i = 0;
            while i < count {
                let row = (start + i) / heads;
                let same = count.min((row + 1) * heads - start) - i;
                let s = seen_by(row);
                let (before, after) = match whole.is_empty() {
                    true => (s.from..s.to, s.to..s.to),
                    false => (s.from..whole.start, whole.end..s.to),
                };
                let sums = &mut sums[i * v_dim..(i + same) * v_dim];
                for part in [before, after] {
                    if !part.is_empty() {
                        L::values(tile, i, same, block, part, sums);
                    }
                }
                i += same;
            }
        }
    }
}

/// Runs one task over pages of [`PageLayout::Lanes`](crate::backend::cpu::kv::PageLayout).
///
/// # Safety
/// As [`super::AttentionKernels::attend`]; the pages have this layout and the element type of `L`.
#[inline(always)]
pub unsafe fn attend<L: Lanes>(args: &AttentionArgs, scratch: &mut Vec<f32>) {
    let shape = &args.pages.shape;
    let (count, words) = (args.queries(), L::query_words(shape.k_dim));
    let states = 2 * Running::floats(count, shape.v_dim);
    scratch.clear();
    scratch.resize(states + count * (words + 1) + 16, 0.0);
    let aligned = scratch.as_ptr().align_offset(64);
    let (states, rest) = scratch[aligned..].split_at_mut(states);
    let (packed, factors) = rest.split_at_mut(count * words);
    // SAFETY: a u32 has the size and alignment of an f32, and every bit pattern is valid.
    let packed = unsafe { std::slice::from_raw_parts_mut(packed.as_mut_ptr().cast::<u32>(), packed.len()) };
    for i in 0..count {
        // SAFETY: the processor supports the tier's instructions (contract).
        factors[i] = args.scale * unsafe { L::pack(args.query(i), &mut packed[i * words..(i + 1) * words]) };
    }
    let queries = Queries { packed, words, factors };
    let tile = Tile { scores: [[0.0; BLOCK]; TILE], weights: [[0; BLOCK]; TILE], factors: [1.0; TILE] };
    // SAFETY: same contract.
    unsafe { running::over_spans::<true, _>(args, states, Blocks::<L> { queries, tile, kernels: PhantomData }) };
}

/// [`Fold`] by the kernels of `L`, with the packed queries of the task.
struct Blocks<'a, L> {
    queries: Queries<'a>,
    tile: Tile,
    kernels: PhantomData<L>,
}

impl<L: Lanes> Fold for Blocks<'_, L> {
    #[inline(always)]
    unsafe fn fold(&mut self, args: &AttentionArgs, state: &mut Running, block: usize) {
        // SAFETY: same contract; the pages are those that `attend` requires.
        unsafe { fold::<L>(args, &self.queries, &mut self.tile, state, block) };
    }
}

/// Packs a query as pairs of 16-bit integers; returns the factor that converts these integers back.
#[inline(always)]
pub fn pack_i16(q: &[f32], out: &mut [u32]) -> f32 {
    let max = q.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    // 0 if all elements are finite, otherwise NaN, which then makes all scores NaN.
    let finite = q.iter().fold(0.0f32, |sum, v| sum + v * 0.0);
    let inverse = if max > 0.0 { I16_MAX / max } else { 0.0 };
    let round = |v: f32| (v * inverse).round_ties_even() as i16 as u16 as u32;
    out.iter_mut().zip(q.chunks_exact(2)).for_each(|(out, q)| *out = round(q[0]) | round(q[1]) << 16);
    max / I16_MAX + finite
}
