//! Attention over pages in [`PageLayout::Lanes`](crate::backend::cpu::kv::PageLayout): what the vector tiers have in common. A
//! tier gives three kernels ([`Lanes`]); this file runs them over the blocks and decides what each query sees.
//!
//! Order for each query (law 1): in a block, the values of whole groups of 16 tokens first, then those of the tokens
//! before and after them. A token that a query does not see is not touched at all, so neither what a page held
//! before nor the values of later tokens can reach it, be they NaN.

#![allow(clippy::needless_range_loop, reason = "indices that are constant once unrolled keep sums in registers")]

use super::running::{self, Fold, Running};
use super::{AttentionArgs, BLOCK};
use crate::backend::cpu::kv::GROUP;
use crate::dtype::DType;
use std::marker::PhantomData;
use std::ops::Range;

/// Groups of a block.
pub const GROUPS: usize = BLOCK / GROUP;
/// Most queries a kernel is given at a time: five times four sums, four operands and five factors are 29 of 32 registers.
pub const TILE: usize = 5;

/// MaxBatchShape magnitude of a 16-bit query element or weight.
pub const I16_MAX: f32 = 32767.0;

/// Where the tokens of a block lie. Pointers of groups that no query sees are null.
pub struct Block {
    /// Keys of each group.
    pub keys: [*const u8; GROUPS],
    /// Values of each group.
    pub values: [*const u8; GROUPS],
    /// Factors of the keys, of 8-bit pages.
    pub key_scales: [*const f32; GROUPS],
    /// Factors of the values, of 8-bit pages.
    pub value_scales: [*const f32; GROUPS],
    /// Elements of a key.
    pub k_dim: usize,
    /// Elements of a value.
    pub v_dim: usize,
}

/// Scores and weights of a tile of queries.
#[repr(C, align(64))]
pub struct Tile {
    /// Scores, before the softmax.
    pub scores: [[f32; BLOCK]; TILE],
    /// Weights as the tier multiplies them with values; 0 where the query does not see.
    pub weights: [[u32; BLOCK]; TILE],
    /// Factor of the weights.
    pub factors: [f32; TILE],
}

/// The packed queries of a task.
pub struct Queries<'a> {
    /// `[queries, words]`.
    pub packed: &'a [u32],
    /// Words of a query.
    pub words: usize,
    /// Factor on the scores of each query.
    pub factors: &'a [f32],
}

/// The kernels of a tier for one element type. A product must not depend on the tile it is computed in.
pub trait Lanes {
    /// Words of a packed query.
    fn query_words(k_dim: usize) -> usize;

    /// Packs a query and returns the factor that its scores take to become those of the query.
    ///
    /// # Safety
    /// The tier's instructions exist.
    unsafe fn pack(q: &[f32], out: &mut [u32]) -> f32;

    /// Scores of `count` queries from `first` with the tokens of `groups`.
    ///
    /// # Safety
    /// The tier's instructions exist, and the groups hold tokens.
    unsafe fn scores(
        queries: &Queries,
        first: usize,
        count: usize,
        block: &Block,
        groups: Range<usize>,
        tile: &mut Tile,
    );

    /// Weights of query `index` of the tile for the tokens `seen`, which are in `groups`. Updates the largest score and
    /// the total; returns the factor on what was summed before.
    ///
    /// # Safety
    /// The tier's instructions exist, and the tokens are in groups that hold some.
    unsafe fn softmax(
        tile: &mut Tile,
        index: usize,
        block: &Block,
        seen: Range<usize>,
        max: &mut f32,
        total: &mut f32,
    ) -> f32;

    /// Adds the values of `tokens`, weighted, to the sums `[count, v_dim]` of the tile's queries from `first`.
    ///
    /// # Safety
    /// The tier's instructions exist, and the tokens are in groups that hold some.
    unsafe fn values(tile: &Tile, first: usize, count: usize, block: &Block, tokens: Range<usize>, sums: &mut [f32]);
}

/// What a row sees of a block, and how its values are summed.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    from: usize,
    to: usize,
}

impl Seen {
    /// What row `row` of the task sees of the block at `at`.
    #[inline(always)]
    fn by(args: &AttentionArgs, row: usize, at: usize) -> Seen {
        let r = args.visible_in(row, at);
        Seen { from: r.start, to: r.end }
    }

    /// Groups with a token that is seen.
    fn groups(self) -> Range<usize> {
        self.from / GROUP..self.to.div_ceil(GROUP)
    }

    /// Tokens of whole groups. The last group counts as whole only at the block's end, so that rows of one group agree.
    fn whole(self) -> Range<usize> {
        let first = self.from.div_ceil(GROUP) * GROUP;
        let end = if self.to == BLOCK { BLOCK } else { (self.to - 1) / GROUP * GROUP };
        first..end.max(first)
    }
}

/// Folds a block of keys into the states of all rows that see some of it.
///
/// # Safety
/// As [`Lanes`]; the pages have the layout.
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

/// The places of a block's tokens.
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

/// Rows of a run, whose groups and whole groups are the same.
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
        // SAFETY: the same contract; all groups named are seen by these rows.
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

/// One task over pages of lanes.
///
/// # Safety
/// As [`super::AttentionKernels::attend`]; the pages have the layout and the type of `L`.
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
    // SAFETY: a u32 has the size and alignment of an f32, and every bit pattern is one.
    let packed = unsafe { std::slice::from_raw_parts_mut(packed.as_mut_ptr().cast::<u32>(), packed.len()) };
    for i in 0..count {
        // SAFETY: the tier's instructions exist (contract).
        factors[i] = args.scale * unsafe { L::pack(args.query(i), &mut packed[i * words..(i + 1) * words]) };
    }
    let queries = Queries { packed, words, factors };
    let tile = Tile { scores: [[0.0; BLOCK]; TILE], weights: [[0; BLOCK]; TILE], factors: [1.0; TILE] };
    // SAFETY: same contract.
    unsafe { running::over_spans::<true, _>(args, states, Blocks::<L> { queries, tile, kernels: PhantomData }) };
}

/// The queries of a task on their way over the blocks.
struct Blocks<'a, L> {
    queries: Queries<'a>,
    tile: Tile,
    kernels: PhantomData<L>,
}

impl<L: Lanes> Fold for Blocks<'_, L> {
    #[inline(always)]
    unsafe fn fold(&mut self, args: &AttentionArgs, state: &mut Running, block: usize) {
        // SAFETY: same contract; the pages are what `attend` was told.
        unsafe { fold::<L>(args, &self.queries, &mut self.tile, state, block) };
    }
}

/// Packs a query as pairs of 16-bit integers; returns the factor that makes them the query again.
#[inline(always)]
pub fn pack_i16(q: &[f32], out: &mut [u32]) -> f32 {
    let max = q.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    // 0 where all are finite, else NaN, which the scores then are.
    let finite = q.iter().fold(0.0f32, |sum, v| sum + v * 0.0);
    let inverse = if max > 0.0 { I16_MAX / max } else { 0.0 };
    let round = |v: f32| (v * inverse).round_ties_even() as i16 as u16 as u32;
    out.iter_mut().zip(q.chunks_exact(2)).for_each(|(out, q)| *out = round(q[0]) | round(q[1]) << 16);
    max / I16_MAX + finite
}
