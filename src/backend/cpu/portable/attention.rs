//! Attention over pages of any layout, in f32: one page after the other, from position 0 of the visible range, folded into
//! a running softmax.

use super::{Stored, as_f16, dot, exp, fma};
use crate::backend::cpu::kernels::{AttentionArgs, Elements, bf16_to_f32};
use std::ops::Range;

#[inline(always)]
fn widen_into(from: Elements, to: &mut [f32]) {
    match from {
        Elements::F32(e) => to.copy_from_slice(&e[..to.len()]),
        Elements::Bf16(e) => to.iter_mut().zip(e).for_each(|(t, &e)| *t = bf16_to_f32(e)),
        Elements::F16(e) => to.iter_mut().zip(as_f16(e)).for_each(|(t, e)| *t = e.widen()),
    }
}

/// The running softmax of one query row and head.
struct Running<'a> {
    max: &'a mut f32,
    total: &'a mut f32,
    sum: &'a mut [f32],
}

/// Folds the keys `range` of one page into a running softmax.
#[inline(always)]
fn fold_page<const FMA: bool>(
    state: Running,
    q: &[f32],
    keys: &[f32],
    values: &[f32],
    range: Range<usize>,
    scale: f32,
    scores: &mut [f32],
) {
    let (k_dim, v_dim) = (q.len(), state.sum.len());
    let scores = &mut scores[..range.len()];
    let mut max = *state.max;
    for (s, j) in scores.iter_mut().zip(range.clone()) {
        *s = dot::<FMA>(q, &keys[j * k_dim..(j + 1) * k_dim]) * scale;
        max = max.max(*s);
    }
    // At the first page the old maximum is -inf and there is nothing to rescale.
    let shrink = if *state.max == f32::NEG_INFINITY { 0.0 } else { exp::<FMA>(*state.max - max) };
    *state.max = max;
    *state.total *= shrink;
    state.sum.iter_mut().for_each(|v| *v *= shrink);
    for s in scores.iter_mut() {
        *s = exp::<FMA>(*s - max);
    }
    for (s, j) in scores.iter().zip(range) {
        *state.total += s;
        for (sum, v) in state.sum.iter_mut().zip(&values[j * v_dim..(j + 1) * v_dim]) {
            *sum = fma::<FMA>(*s, *v, *sum);
        }
    }
}

/// # Safety
/// As [`Kernels::attention`].
#[inline(always)]
pub unsafe fn attention_any<const FMA: bool>(args: &AttentionArgs, scratch: &mut Vec<f32>) {
    let shape = args.pages.shape;
    let (tokens, k_dim, v_dim) = (shape.page_tokens, shape.k_dim, shape.v_dim);
    let queries = args.rows.len() * args.q_heads.len();
    let sizes = [tokens * k_dim, tokens * v_dim, tokens, queries, queries, queries * v_dim];
    scratch.clear();
    scratch.resize(sizes.iter().sum(), 0.0);
    let (keys, rest) = scratch.split_at_mut(sizes[0]);
    let (values, rest) = rest.split_at_mut(sizes[1]);
    let (scores, rest) = rest.split_at_mut(sizes[2]);
    let (max, rest) = rest.split_at_mut(sizes[3]);
    let (total, sum) = rest.split_at_mut(sizes[4]);
    max.fill(f32::NEG_INFINITY);

    let last_position = args.first_position + args.rows.len() - 1;
    let first_page = args.visible(args.first_position).start / tokens;
    for page in first_page..=last_position / tokens {
        let frame = args.table[page];
        widen_into(args.pages.keys(frame, args.kv_head), keys);
        widen_into(args.pages.values(frame, args.kv_head), values);
        for (i, row) in args.rows.clone().enumerate() {
            let visible = args.visible(args.first_position + i);
            let from = visible.start.max(page * tokens);
            let to = visible.end.min((page + 1) * tokens);
            if from >= to {
                continue;
            }
            for (h, head) in args.q_heads.clone().enumerate() {
                let at = i * args.q_heads.len() + h;
                let state =
                    Running { max: &mut max[at], total: &mut total[at], sum: &mut sum[at * v_dim..(at + 1) * v_dim] };
                let range = from - page * tokens..to - page * tokens;
                fold_page::<FMA>(state, args.query(row, head), keys, values, range, args.scale, scores);
            }
        }
    }
    for (i, row) in args.rows.clone().enumerate() {
        for (h, head) in args.q_heads.clone().enumerate() {
            let at = i * args.q_heads.len() + h;
            // SAFETY: the row and head are this task's (contract of `attention`).
            let out = unsafe { args.result(row, head) };
            let factor = 1.0 / total[at];
            out.iter_mut().zip(&sum[at * v_dim..]).for_each(|(o, s)| *o = s * factor);
        }
    }
}
