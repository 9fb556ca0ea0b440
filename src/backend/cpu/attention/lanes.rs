//! Attention over pages in [`PageLayout::Lanes`](crate::backend::cpu::kv::PageLayout): runs the kernels of
//! [`super::tile`] over the blocks of keys and determines which keys each query sees.
//!
//! Order of accumulation for each query (law 1): within a block, first the values of whole groups of 16 tokens, then
//! those of the tokens before and after these groups. Values of a token that a query does not see never enter its sums,
//! not even multiplied by zero, so that NaNs in unused or later tokens of a page cannot affect the result.

use super::running::{self, Fold, Running};
use super::tile::{self, Block, GROUPS, Pairs, Query, TILE};
use super::{AttentionArgs, BLOCK};
use crate::backend::cpu::kv::GROUP;
use crate::backend::cpu::portable::softcap_any;
use crate::dtype::DType;
use std::marker::PhantomData;
use std::ops::Range;

/// Groups with at least one token of those `seen`, which are relative to the block's start.
fn groups(seen: &Range<usize>) -> Range<usize> {
    seen.start / GROUP..seen.end.div_ceil(GROUP)
}

/// Tokens of whole groups of those `seen`. The last group counts as whole only at the end of the block, so that all rows
/// that end in one group have the same whole groups.
fn whole(seen: &Range<usize>) -> Range<usize> {
    let first = seen.start.div_ceil(GROUP) * GROUP;
    let end = if seen.end == BLOCK { BLOCK } else { (seen.end - 1) / GROUP * GROUP };
    first..end.max(first)
}

/// Runs one task over pages of [`PageLayout::Lanes`](crate::backend::cpu::kv::PageLayout).
///
/// # Safety
/// As [`super::AttentionKernels::attend`]; the pages have this layout and the element type of `P`.
#[inline(always)]
pub unsafe fn attend<P: Pairs>(args: &AttentionArgs, scratch: &mut Vec<f32>) {
    let shape = &args.pages.shape;
    let (count, words) = (args.queries(), shape.k_dim / 2 * P::WORDS);
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
        factors[i] = args.scale * unsafe { P::pack(args.query(i), &mut packed[i * words..(i + 1) * words]) };
    }
    let tile = [Query { scores: [0.0; BLOCK], weights: [0; BLOCK], factor: 1.0 }; TILE];
    let blocks = Blocks::<P> { packed, words, factors, tile, kernels: PhantomData };
    // SAFETY: same contract.
    unsafe { running::over_spans::<true, _>(args, states, blocks) };
}

/// The queries of a task, packed for the kernels of `P`, and memory for a tile of them.
struct Blocks<'a, P> {
    /// `[queries, words]`.
    packed: &'a [u32],
    /// 32-bit words per query.
    words: usize,
    /// Factor to apply to the scores of each query.
    factors: &'a [f32],
    tile: [Query; TILE],
    kernels: PhantomData<P>,
}

impl<P: Pairs> Fold for Blocks<'_, P> {
    #[inline(always)]
    unsafe fn fold(&mut self, args: &AttentionArgs, state: &mut Running, at: usize) {
        let seen_by = |row: usize| args.visible_in(row, at);
        let rows = args.rows.len();
        let sees = |row: usize| !seen_by(row).is_empty();
        let Some(first) = (0..rows).find(|&row| sees(row)) else { return };
        let last = (first..rows).rev().find(|&row| sees(row)).unwrap_or(first);
        let block = locate(args, at, groups(&seen_by(first)).start..groups(&seen_by(last)).end);
        let shape = |row: usize| (groups(&seen_by(row)), whole(&seen_by(row)));
        let mut row = first;
        while row <= last {
            let begun = shape(row);
            let mut end = row + 1;
            while end <= last && shape(end) == begun {
                end += 1;
            }
            // SAFETY: the same contract; the rows of a run see the same groups.
            unsafe { self.fold_run(args, state, &block, row..end, at) };
            row = end;
        }
    }
}

impl<P: Pairs> Blocks<'_, P> {
    /// Folds a block into the states of a run of rows that see the same groups and the same whole groups.
    ///
    /// # Safety
    /// As [`Fold::fold`].
    #[inline(always)]
    unsafe fn fold_run(
        &mut self,
        args: &AttentionArgs,
        state: &mut Running,
        block: &Block,
        rows: Range<usize>,
        at: usize,
    ) {
        let seen_by = |row: usize| args.visible_in(row, at);
        let heads = args.q_heads.len();
        let (first, end, v_dim) = (rows.start * heads, rows.end * heads, state.v_dim);
        let (groups, whole) = (groups(&seen_by(rows.start)), whole(&seen_by(rows.start)));
        // Tiles of about equal size.
        let step = (end - first).div_ceil((end - first).div_ceil(TILE));
        for start in (first..end).step_by(step) {
            let count = step.min(end - start);
            let tile = &mut self.tile[..count];
            let sums = &mut state.sum[start * v_dim..(start + count) * v_dim];
            // SAFETY: the same contract; all groups used are seen by these rows.
            unsafe {
                tile::scores::<P>(&self.packed[start * self.words..], block, groups.clone(), tile);
                for (i, query) in tile.iter_mut().enumerate() {
                    let s = seen_by((start + i) / heads);
                    let factor = self.factors[start + i];
                    let scores = &mut query.scores[groups.start * GROUP..groups.end * GROUP];
                    scores.iter_mut().for_each(|v| *v *= factor);
                    if let Some(cap) = args.softcap {
                        softcap_any::<true>(scores, cap);
                    }
                    let (max, total) = (&mut state.max[start + i], &mut state.total[start + i]);
                    let shrink = tile::softmax::<P>(query, block, s.clone(), max, total);
                    if shrink != 1.0 {
                        sums[i * v_dim..(i + 1) * v_dim].iter_mut().for_each(|v| *v *= shrink);
                    }
                }
                if !whole.is_empty() {
                    tile::values::<P>(tile, block, whole.clone(), sums);
                }
                let mut i = 0;
                while i < count {
                    let row = (start + i) / heads;
                    let same = count.min((row + 1) * heads - start) - i;
                    let s = seen_by(row);
                    let (before, after) = match whole.is_empty() {
                        true => (s.clone(), s.end..s.end),
                        false => (s.start..whole.start, whole.end..s.end),
                    };
                    for part in [before, after] {
                        if !part.is_empty() {
                            tile::values::<P>(&tile[i..i + same], block, part, &mut sums[i * v_dim..]);
                        }
                    }
                    i += same;
                }
            }
        }
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
