//! Running softmax: for each query the largest score so far, the sum of the weights `e^(score - largest)`, and the sum
//! of the values times these. Written once for all tiers; each compiles it with its own instructions.

use super::{AttentionArgs, BLOCK, SPAN};
use crate::backend::cpu::portable::exp;

/// The state of the queries of a task.
pub struct Running<'a> {
    /// Elements of a value.
    pub v_dim: usize,
    /// MaxBatchShape score of each query; -inf when it saw nothing.
    pub max: &'a mut [f32],
    /// Sum of the weights; 0 when it saw nothing.
    pub total: &'a mut [f32],
    /// `[queries, v_dim]`.
    pub sum: &'a mut [f32],
}

/// Floats of one query in a part: largest score, total, sum.
pub const fn part_floats(v_dim: usize) -> usize {
    2 + v_dim
}

impl<'a> Running<'a> {
    /// Floats of a state.
    pub fn floats(queries: usize, v_dim: usize) -> usize {
        // Whole registers, so that what follows stays aligned.
        2 * queries.next_multiple_of(16) + (queries * v_dim).next_multiple_of(16)
    }

    /// A state in `memory`, which has the right length.
    pub fn new(memory: &'a mut [f32], queries: usize, v_dim: usize) -> Running<'a> {
        let (sum, rest) = memory.split_at_mut((queries * v_dim).next_multiple_of(16));
        let (max, total) = rest.split_at_mut(queries.next_multiple_of(16));
        Running { v_dim, max: &mut max[..queries], total: &mut total[..queries], sum: &mut sum[..queries * v_dim] }
    }

    /// Nothing seen.
    #[inline(always)]
    pub fn reset(&mut self) {
        self.max.fill(f32::NEG_INFINITY);
        self.total.fill(0.0);
        self.sum.fill(0.0);
    }

    /// Adds what query `i` saw of a later span.
    #[inline(always)]
    fn merge<const FMA: bool>(&mut self, i: usize, max: f32, total: f32, sum: &[f32]) {
        // A query that saw a key has at least the weight 1, or NaN.
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

    /// Writes the results.
    ///
    /// # Safety
    /// As [`AttentionArgs::result`].
    #[inline(always)]
    unsafe fn finish(&self, args: &AttentionArgs) {
        for i in 0..self.max.len() {
            // SAFETY: the caller's promise.
            let out = unsafe { args.result(i) };
            let factor = 1.0 / self.total[i];
            out.iter_mut().zip(&self.sum[i * self.v_dim..]).for_each(|(o, s)| *o = s * factor);
        }
    }
}

/// What a tier does with a block of keys. A trait and no closure, so that it is compiled with the tier's instructions.
pub trait Fold {
    /// Folds the block at position `block` into the states of the rows that see some of it.
    ///
    /// # Safety
    /// As [`super::AttentionKernels::attend`].
    unsafe fn fold(&mut self, args: &AttentionArgs, state: &mut Running, block: usize);
}

/// Folds every block of keys that a row of the task sees, span by span, and writes the part or the results. `memory` is
/// for two states.
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
            // SAFETY: the caller's promise.
            unsafe { tier.fold(args, &mut state, block) };
        }
        for i in 0..queries {
            let sum = &state.sum[i * v_dim..(i + 1) * v_dim];
            let Some(part) = args.part else {
                whole.merge::<FMA>(i, state.max[i], state.total[i], sum);
                continue;
            };
            // SAFETY: the part has room for all queries and is this task's alone.
            unsafe {
                let out = part.out.add(i * part_floats(v_dim));
                out.write(state.max[i]);
                out.add(1).write(state.total[i]);
                out.add(2).copy_from_nonoverlapping(sum.as_ptr(), v_dim);
            }
        }
    }
    if args.part.is_none() {
        // SAFETY: the caller's promise.
        unsafe { whole.finish(args) };
    }
}

/// See [`super::AttentionKernels::combine`].
///
/// # Safety
/// As there.
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
    // SAFETY: the caller's promise.
    unsafe { whole.finish(args) };
}
