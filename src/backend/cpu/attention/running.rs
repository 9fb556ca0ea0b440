//! Running (online) softmax: for each query the largest score so far, the sum of the weights `e^(score - largest)`, and
//! the sum of the values multiplied by these weights. Generic code; each tier compiles it with its own instructions.

use super::{AttentionArgs, BLOCK, SPAN};
use crate::backend::cpu::portable::exp;

/// Running softmax state of all queries of a task.
pub struct Running<'a> {
    /// Elements of a value.
    pub v_dim: usize,
    /// Largest score of each query; -inf while it has seen no key.
    pub max: &'a mut [f32],
    /// Sum of the weights of each query; 0 while it has seen no key.
    pub total: &'a mut [f32],
    /// `[queries, v_dim]`: weighted sums of values.
    pub sum: &'a mut [f32],
}

/// Floats per query in a partial result: largest score, sum of weights, weighted sum of values.
pub const fn part_floats(v_dim: usize) -> usize {
    2 + v_dim
}

impl<'a> Running<'a> {
    /// Floats that the state of `queries` queries occupies.
    pub fn floats(queries: usize, v_dim: usize) -> usize {
        // Multiples of a register, so that memory behind the state stays aligned.
        2 * queries.next_multiple_of(16) + (queries * v_dim).next_multiple_of(16)
    }

    /// A state in `memory`, which must have [`Running::floats`] floats. Not initialized; see [`Running::reset`].
    pub fn new(memory: &'a mut [f32], queries: usize, v_dim: usize) -> Running<'a> {
        let (sum, rest) = memory.split_at_mut((queries * v_dim).next_multiple_of(16));
        let (max, total) = rest.split_at_mut(queries.next_multiple_of(16));
        Running { v_dim, max: &mut max[..queries], total: &mut total[..queries], sum: &mut sum[..queries * v_dim] }
    }

    /// Sets the state to that before the first key.
    #[inline(always)]
    pub fn reset(&mut self) {
        self.max.fill(f32::NEG_INFINITY);
        self.total.fill(0.0);
        self.sum.fill(0.0);
    }

    /// Adds the partial result of query `i` over a later span.
    #[inline(always)]
    fn merge<const FMA: bool>(&mut self, i: usize, max: f32, total: f32, sum: &[f32]) {
        // The total of a query that has seen a key is at least 1, or NaN.
        if total == 0.0 {
            return;
        }
        let own = &mut self.sum[i * self.v_dim..(i + 1) * self.v_dim];
        if self.total[i] == 0.0 {
            (self.max[i], self.total[i]) = (max, total);
            own.copy_from_slice(sum);
            return;
        }
        let both = self.max[i].max(max);
        let (ours, theirs) = (exp::<FMA>(self.max[i] - both), exp::<FMA>(max - both));
        self.max[i] = both;
        self.total[i] = self.total[i] * ours + total * theirs;
        own.iter_mut().zip(sum).for_each(|(own, sum)| *own = *own * ours + sum * theirs);
    }

    /// Writes the final results: weighted sums divided by the sums of weights.
    ///
    /// # Safety
    /// As [`AttentionArgs::result`].
    #[inline(always)]
    unsafe fn finish<const FMA: bool>(&self, args: &AttentionArgs) {
        for i in 0..self.max.len() {
            // SAFETY: guaranteed by the caller.
            let out = unsafe { args.result(i) };
            let factor = match args.sink(i) {
                None => 1.0 / self.total[i],
                // The sink is one more key, whose value is 0. All are relative to the larger of it and the largest score.
                Some(sink) => {
                    let both = self.max[i].max(sink);
                    let ours = exp::<FMA>(self.max[i] - both);
                    ours / (self.total[i] * ours + exp::<FMA>(sink - both))
                }
            };
            out.iter_mut().zip(&self.sum[i * self.v_dim..]).for_each(|(o, s)| *o = s * factor);
        }
    }
}

/// Processing of one block of keys by a tier. A trait instead of a closure, to be compiled for the tier.
pub trait Fold {
    /// Folds the block that starts at position `block` into the states of the rows that see part of it.
    ///
    /// # Safety
    /// As [`super::AttentionKernels::attend`].
    unsafe fn fold(&mut self, args: &AttentionArgs, state: &mut Running, block: usize);
}

/// Folds all blocks of keys that any row of the task sees, span by span, and writes the partial or the final results.
/// `memory` has room for two states.
///
/// # Safety
/// As [`super::AttentionKernels::attend`].
#[inline(always)]
pub unsafe fn over_spans<const FMA: bool, F: Fold>(args: &AttentionArgs, memory: &mut [f32], mut tier: F) {
    let (queries, v_dim) = (args.queries(), args.pages.shape.v_dim);
    let (state, whole) = memory.split_at_mut(Running::floats(queries, v_dim));
    let (mut state, mut whole) = (Running::new(state, queries, v_dim), Running::new(whole, queries, v_dim));
    let seen = args.visible_to_any();
    let spans = match args.part {
        Some(part) => part.span..part.span + 1,
        None => seen.start / SPAN..seen.end.div_ceil(SPAN),
    };
    whole.reset();
    for span in spans {
        state.reset();
        let first = seen.start.max(span * SPAN) / BLOCK * BLOCK;
        for block in (first..seen.end.min((span + 1) * SPAN)).step_by(BLOCK) {
            // SAFETY: guaranteed by the caller.
            unsafe { tier.fold(args, &mut state, block) };
        }
        for i in 0..queries {
            let sum = &state.sum[i * v_dim..(i + 1) * v_dim];
            let Some(part) = args.part else {
                whole.merge::<FMA>(i, state.max[i], state.total[i], sum);
                continue;
            };
            // SAFETY: the part has room for all queries, and no other task accesses it.
            unsafe {
                let out = part.out.add(i * part_floats(v_dim));
                out.write(state.max[i]);
                out.add(1).write(state.total[i]);
                out.add(2).copy_from_nonoverlapping(sum.as_ptr(), v_dim);
            }
        }
    }
    if args.part.is_none() {
        // SAFETY: guaranteed by the caller.
        unsafe { whole.finish::<FMA>(args) };
    }
}

/// Implements [`super::AttentionKernels::combine`].
///
/// # Safety
/// As [`super::AttentionKernels::combine`].
#[inline(always)]
pub unsafe fn combine<const FMA: bool>(args: &AttentionArgs, parts: &[f32], scratch: &mut Vec<f32>) {
    let (queries, v_dim) = (args.queries(), args.pages.shape.v_dim);
    scratch.clear();
    scratch.resize(Running::floats(queries, v_dim), 0.0);
    let mut whole = Running::new(scratch, queries, v_dim);
    whole.reset();
    for span in parts.chunks_exact(queries * part_floats(v_dim)) {
        for (i, part) in span.chunks_exact(part_floats(v_dim)).enumerate() {
            whole.merge::<FMA>(i, part[0], part[1], &part[2..]);
        }
    }
    // SAFETY: guaranteed by the caller.
    unsafe { whole.finish::<FMA>(args) };
}
