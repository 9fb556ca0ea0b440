//! Attention over pages of any layout and type, in f32: each block of keys and values is widened to f32 once for all
//! queries of the task.

use super::{LANES, Stored, as_f16, exp, fma, reduce, softcap_any};
use crate::backend::cpu::attention::running::{self, Fold, Running};
use crate::backend::cpu::attention::{AttentionArgs, BLOCK};
use crate::backend::cpu::kernels::{Elements, bf16_to_f32};
use std::ops::Range;

/// Keys whose scores are computed together.
const KEYS: usize = 4;

#[inline(always)]
fn widen_into(from: Elements, to: &mut [f32]) {
    match from {
        Elements::F32(e) => to.copy_from_slice(&e[..to.len()]),
        Elements::Bf16(e) => to.iter_mut().zip(e).for_each(|(t, &e)| *t = bf16_to_f32(e)),
        Elements::F16(e) => to.iter_mut().zip(as_f16(e)).for_each(|(t, e)| *t = e.widen()),
    }
}

/// Reads the keys (or values) `range` of the block that starts at position `block` as f32 rows of `dim` elements.
#[inline(always)]
fn read_block(args: &AttentionArgs, values: bool, block: usize, range: Range<usize>, dim: usize, out: &mut [f32]) {
    let tokens = args.pages.shape.page_tokens;
    let mut at = range.start;
    while at < range.end {
        let position = block + at;
        let run = (tokens - position % tokens).min(range.end - at);
        let page = args.pages.head(args.table[position / tokens], args.kv_head);
        let out = &mut out[at * dim..(at + run) * dim];
        match page.rows(values, position % tokens, run) {
            Some(elements) => widen_into(elements, out),
            None => {
                out.chunks_exact_mut(dim).enumerate().for_each(|(i, o)| page.read(values, position % tokens + i, o))
            }
        }
        at += run;
    }
}

/// Dot products of a query with `N` contiguous keys; element `i` is added to lane `i % 8`.
#[inline(always)]
fn dots<const FMA: bool, const N: usize>(q: &[f32], keys: &[f32]) -> [f32; N] {
    let dim = q.len();
    let mut rows = [q; N];
    for n in 0..N {
        rows[n] = &keys[n * dim..(n + 1) * dim];
    }
    let mut sums = [[0.0f32; LANES]; N];
    let whole = dim / LANES * LANES;
    let mut i = 0;
    while i < whole {
        let q = &q[i..i + LANES];
        for n in 0..N {
            let k = &rows[n][i..i + LANES];
            for l in 0..LANES {
                sums[n][l] = fma::<FMA>(q[l], k[l], sums[n][l]);
            }
        }
        i += LANES;
    }
    for (l, i) in (whole..dim).enumerate() {
        for n in 0..N {
            sums[n][l] = fma::<FMA>(q[i], rows[n][i], sums[n][l]);
        }
    }
    let mut out = [0.0; N];
    for n in 0..N {
        out[n] = reduce(&sums[n]);
    }
    out
}

/// `sum += weights * values` over `N` rows of values, `stride` elements apart, in ascending order.
#[inline(always)]
fn add_rows<const FMA: bool, const N: usize>(sum: &mut [f32], weights: &[f32], values: &[f32], stride: usize) {
    let dim = sum.len();
    let mut rows = [values; N];
    for n in 0..N {
        rows[n] = &values[n * stride..n * stride + dim];
    }
    for d in 0..dim {
        let mut s = sum[d];
        for n in 0..N {
            s = fma::<FMA>(weights[n], rows[n][d], s);
        }
        sum[d] = s;
    }
}

/// Folds the keys `range` of a block into the state of query `i`. Values are `stride` elements apart.
#[inline(always)]
fn fold_query<const FMA: bool>(
    state: &mut Running,
    i: usize,
    q: &[f32],
    (keys, values, stride): (&[f32], &[f32], usize),
    range: Range<usize>,
    (scale, softcap): (f32, Option<f32>),
) {
    let (k_dim, v_dim) = (q.len(), state.v_dim);
    let mut scores = [0.0; BLOCK];
    let scores = &mut scores[..range.len()];
    let mut max = state.max[i];
    let mut at = 0;
    while at < scores.len() {
        let k = &keys[(range.start + at) * k_dim..range.end * k_dim];
        if scores.len() - at >= KEYS {
            let dots = dots::<FMA, KEYS>(q, k);
            for n in 0..KEYS {
                scores[at + n] = dots[n] * scale;
            }
            at += KEYS;
        } else {
            scores[at] = dots::<FMA, 1>(q, k)[0] * scale;
            at += 1;
        }
    }
    if let Some(cap) = softcap {
        softcap_any::<FMA>(scores, cap);
    }
    scores.iter().for_each(|s| max = max.max(*s));
    // At the first block the old maximum is -inf and there is nothing to rescale.
    let shrink = if state.max[i] == f32::NEG_INFINITY { 0.0 } else { exp::<FMA>(state.max[i] - max) };
    state.max[i] = max;
    state.total[i] *= shrink;
    let sum = &mut state.sum[i * v_dim..(i + 1) * v_dim];
    sum.iter_mut().for_each(|v| *v *= shrink);
    scores.iter_mut().for_each(|s| *s = exp::<FMA>(*s - max));
    scores.iter().for_each(|s| state.total[i] += s);
    let mut at = 0;
    while at < scores.len() {
        let v = &values[(range.start + at) * stride..range.end * stride];
        if scores.len() - at >= KEYS {
            add_rows::<FMA, KEYS>(sum, &scores[at..at + KEYS], v, stride);
            at += KEYS;
        } else {
            add_rows::<FMA, 1>(sum, &scores[at..=at], v, stride);
            at += 1;
        }
    }
}

/// # Safety
/// As [`crate::backend::cpu::attention::AttentionKernels::attend`].
#[inline(always)]
pub unsafe fn attention_any<const FMA: bool>(args: &AttentionArgs, scratch: &mut Vec<f32>) {
    let (k_dim, v_dim) = (args.pages.shape.k_dim, args.pages.shape.v_dim);
    let states = 2 * Running::floats(args.queries(), v_dim);
    scratch.clear();
    scratch.resize(states + BLOCK * (k_dim + v_dim), 0.0);
    let (states, rest) = scratch.split_at_mut(states);
    let (keys, values) = rest.split_at_mut(BLOCK * k_dim);
    // SAFETY: same contract.
    unsafe { running::over_spans::<FMA, _>(args, states, Widened::<FMA> { keys, values }) };
}

/// The current block of keys and values, as f32 rows.
struct Widened<'a, const FMA: bool> {
    keys: &'a mut [f32],
    values: &'a mut [f32],
}

impl<const FMA: bool> Fold for Widened<'_, FMA> {
    #[inline(always)]
    unsafe fn fold(&mut self, args: &AttentionArgs, state: &mut Running, block: usize) {
        let (seen, shape) = (args.visible_to_any(), &args.pages.shape);
        let range = seen.start.max(block) - block..seen.end.min(block + BLOCK) - block;
        read_block(args, false, block, range.clone(), shape.k_dim, self.keys);
        let (values, stride) = match shape.latent() {
            true => (&*self.keys, shape.k_dim),
            false => {
                read_block(args, true, block, range, shape.v_dim, self.values);
                (&*self.values, shape.v_dim)
            }
        };
        for i in 0..args.queries() {
            let range = args.visible_in(i / args.q_heads.len(), block);
            if !range.is_empty() {
                let block = (&*self.keys, values, stride);
                fold_query::<FMA>(state, i, args.query(i), block, range, (args.scale, args.softcap));
            }
        }
    }
}
