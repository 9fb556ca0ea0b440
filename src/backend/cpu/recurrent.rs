//! Operations on states; see [`crate::backend::Conv`] and [`crate::backend::Recurrence`]. A task has some heads or channels of one
//! sequence and takes its tokens one after the other.

use super::kernels::Elements;
use super::*;
use crate::backend::{Conv, NO_STATE, Recurrence, StatePart};

/// Channels that a task of a convolution takes at a time.
pub const CHANNELS: usize = 64;
/// Tokens of which a convolution holds the inputs at a time.
pub const PIECE: usize = 32;
/// Elements of a value whose part of a state a recurrence holds at a time: with keys of 128 elements 16 KiB.
pub const TILE: usize = 32;

/// Floats of scratch that these operations need for a convolution of so many tokens and keys of so many elements.
pub(super) fn scratch_floats(kernel: usize, k_dim: usize, rows: usize) -> usize {
    let conv = (2 * kernel + PIECE) * CHANNELS;
    conv.max(if k_dim == 0 { 0 } else { k_dim * TILE + 2 * rows })
}

/// Rows of floats, of which a task has some elements each.
#[derive(Clone, Copy)]
pub struct Strided {
    /// The first element of the first row.
    pub start: *mut f32,
    /// Elements from one row to the next.
    pub stride: usize,
}

impl Strided {
    /// The first `len` elements of a row.
    ///
    /// # Safety
    /// They exist, and nobody writes them while the slice lives.
    #[inline(always)]
    pub unsafe fn row<'a>(self, row: usize, len: usize) -> &'a [f32] {
        // SAFETY: guaranteed by the caller.
        unsafe { std::slice::from_raw_parts(self.start.add(row * self.stride), len) }
    }

    /// The same for writing.
    ///
    /// # Safety
    /// They exist, and nobody else accesses them while the slice lives.
    #[inline(always)]
    pub unsafe fn row_mut<'a>(self, row: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: guaranteed by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.stride), len) }
    }
}

/// Some channels of one sequence.
pub struct ConvArgs<'a> {
    /// Rows of inputs and results.
    pub tokens: usize,
    /// Channels; at most [`CHANNELS`].
    pub channels: usize,
    /// Tokens that an output sees.
    pub kernel: usize,
    /// Inputs.
    pub x: Strided,
    /// Factors on inputs.
    pub before: Option<Strided>,
    /// Factors on results.
    pub after: Option<Strided>,
    /// Results; may be the inputs.
    pub out: Strided,
    /// `[channels, kernel]`.
    pub weight: Elements<'a>,
    /// `[channels]`.
    pub bias: Option<Elements<'a>>,
    /// The results pass a SiLU.
    pub silu: bool,
    /// The last inputs before the first row, oldest first; `None` = zeros.
    pub last: Option<Strided>,
    /// Where the last ones of all are written.
    pub next: Strided,
}

/// A head of one sequence.
pub struct RecurrenceArgs {
    /// Rows of inputs and results.
    pub tokens: usize,
    /// Elements of a query and a key.
    pub k_dim: usize,
    /// Elements of a value and a result.
    pub v_dim: usize,
    /// Queries.
    pub q: Strided,
    /// Keys.
    pub k: Strided,
    /// Values.
    pub v: Strided,
    /// Results.
    pub out: Strided,
    /// Factor on queries.
    pub q_scale: f32,
    /// Factor on keys.
    pub k_scale: f32,
    /// Steps, one element a row.
    pub steps: Strided,
    /// Added to the steps.
    pub step_bias: f32,
    /// Least and largest step.
    pub step_range: [f32; 2],
    /// What a step of 1 adds to the logarithm of the state.
    pub decay: f32,
    /// Parts by which values move; `None` = they are added times the step.
    pub parts: Option<Strided>,
    /// Factor on the value that is added to the result.
    pub skip: f32,
    /// The state before the first row; `None` = zeros.
    pub last: Option<Strided>,
    /// Where the state after the last is written.
    pub next: Strided,
}

impl RecurrenceArgs {
    /// The factor on the state at a token, and that on what is added.
    ///
    /// # Safety
    /// The rows exist, and nobody writes them.
    pub unsafe fn rates(&self, token: usize) -> [f32; 2] {
        // SAFETY: guaranteed by the caller.
        let of = |rows: Strided| unsafe { rows.row(token, 1) }[0];
        let x = of(self.steps) + self.step_bias;
        // Beyond it the logarithm adds less than f32 has.
        let step = if x > 20.0 { x } else { x.exp().ln_1p() };
        // Keeps what is no number, as `max` and `min` do not.
        let step = step.clamp(self.step_range[0], self.step_range[1]);
        let rate = self.parts.map_or(step, |parts| 1.0 / (1.0 + (-of(parts)).exp()));
        [(self.decay * step).exp(), rate]
    }
}

/// The rows that a step has of one sequence, and the states it reads and writes.
#[derive(Clone, Copy)]
pub(super) struct Run {
    first: usize,
    rows: usize,
    last: u32,
    next: u32,
}

/// States of a layer, from some element on.
struct States {
    start: Shared<f32>,
    /// Elements from a frame to the next.
    frame: usize,
}

impl States {
    /// `element` of the state in a frame, whose rows are `stride` apart.
    ///
    /// # Safety
    /// The frame and the element exist.
    unsafe fn at(&self, frame: u32, element: usize, stride: usize) -> Strided {
        // SAFETY: guaranteed by the caller.
        Strided { start: unsafe { self.start.start().add(frame as usize * self.frame + element) }, stride }
    }
}

impl CpuBackend {
    /// The `elements` of each state that `part` begins with; panics if there are not as many.
    fn states(&mut self, part: StatePart, elements: usize) -> States {
        let group = &mut self.groups[part.pages.0 as usize];
        let shape = group.shape;
        assert!(
            part.first + elements <= shape.k_dim && part.layer < shape.layers,
            "a state has {} elements",
            shape.k_dim
        );
        let floats = group.buffer.floats_mut();
        let start = floats.as_mut_ptr().wrapping_add(part.layer * shape.k_dim + part.first);
        States { start: Shared(start), frame: shape.layers * shape.k_dim }
    }

    /// The sequences of a step, for a group of states.
    fn runs(&self, ragged: Ragged, frames: usize, runs: &mut Vec<Run>) {
        runs.clear();
        for (row, &sequence) in ragged.sequences.iter().enumerate() {
            if row > 0 && ragged.sequences[row - 1] == sequence {
                runs.iter_mut().last().into_iter().for_each(|run| run.rows += 1);
                continue;
            }
            let at = ragged.table_starts[sequence as usize] as usize;
            let (last, next) = (ragged.tables[at], ragged.tables[at + 1]);
            assert!((next as usize) < frames && (last == NO_STATE || (last as usize) < frames && last != next));
            runs.push(Run { first: row, rows: 1, last, next });
        }
    }

    /// Calls `task` with each of `parts` parts of each sequence, in parallel. `work` is the cost of a row of a part.
    fn each_run(
        &mut self,
        part: StatePart,
        parts: usize,
        work: usize,
        task: &(dyn Fn(&Run, usize, &mut Vec<f32>) + Sync),
    ) {
        let mut runs = std::mem::take(&mut self.runs);
        self.with_step(|backend, step| {
            let group = part.pages.0 as usize;
            backend.runs(step.ragged(group), backend.groups[group].shape.frames, &mut runs);
            let rows = step.positions.len() / runs.len().max(1);
            backend.ranges(runs.len() * parts, 1, work * rows.max(1), &|range, scratch| {
                range.for_each(|item| task(&runs[item / parts], item % parts, scratch));
            });
        });
        self.runs = runs;
    }

    /// The rows of heads, of which tasks read or write parts.
    fn heads_shared(&mut self, heads: Heads) -> Shared<f32> {
        let rows = self.step.positions.len();
        self.shared(heads.tensor, heads.span(rows))
    }

    /// See [`Operations::conv`].
    pub(super) fn convolve(&mut self, conv: &Conv) {
        if self.step.positions.is_empty() {
            return;
        }
        let (heads, dim, kernel) = (conv.x.heads, conv.x.dim, conv.kernel);
        let total = heads * dim;
        assert!(
            total * kernel == conv.weight.in_features && kernel > 0,
            "{kernel} weights for each of {total} channels"
        );
        for other in [conv.before, conv.after, Some(conv.out)].into_iter().flatten() {
            assert!(other.heads == heads && other.dim == dim, "inputs, factors and results have one shape");
        }
        let states = self.states(conv.state, (kernel - 1) * total);
        let weight = self.weights[conv.weight.id as usize].clone();
        let bias = conv.bias.map(|bias| self.weights[bias.id as usize].clone());
        let x = (self.heads_shared(conv.x), conv.x);
        let before = conv.before.map(|heads| (self.heads_shared(heads), heads));
        let after = conv.after.map(|heads| (self.heads_shared(heads), heads));
        let out = (self.heads_shared(conv.out), conv.out);
        let (kernels, silu, blocks) = (self.kernels, conv.silu, dim.div_ceil(CHANNELS));
        self.each_run(conv.state, heads * blocks, kernel * CHANNELS.min(dim) * 2, &|run, part, scratch| {
            let (head, first) = (part / blocks, part % blocks * CHANNELS);
            let channels = CHANNELS.min(dim - first);
            let channel = head * dim + first;
            let at = |(data, heads): (Shared<f32>, Heads)| {
                let first = heads.at(run.first, head).start + first;
                // SAFETY: inside the heads' span, which `heads_shared` checked.
                Strided { start: unsafe { data.start().add(first) }, stride: heads.row_stride }
            };
            let args = ConvArgs {
                tokens: run.rows,
                channels,
                kernel,
                x: at(x),
                before: before.map(at),
                after: after.map(at),
                out: at(out),
                weight: weight.elements().slice(channel * kernel..(channel + channels) * kernel),
                bias: bias.as_ref().map(|bias| bias.elements().slice(channel..channel + channels)),
                silu,
                // SAFETY: `runs` checked the frames and `states` the elements.
                last: (run.last != NO_STATE).then(|| unsafe { states.at(run.last, channel, total) }),
                // SAFETY: as above.
                next: unsafe { states.at(run.next, channel, total) },
            };
            // SAFETY: all rows exist; this task alone has these channels of this sequence, and writes a frame that no other
            // sequence has; `new` checked the tier.
            unsafe { (kernels.conv)(&args, scratch) };
        });
    }

    /// See [`Operations::recurrence`].
    pub(super) fn recur(&mut self, r: &Recurrence) {
        if self.step.positions.is_empty() {
            return;
        }
        let (heads, v_dim, k_dim) = (r.v.heads, r.v.dim, r.k.dim);
        assert!(
            r.q.heads == r.k.heads && r.q.dim == k_dim && heads.is_multiple_of(r.k.heads),
            "heads of keys divide those of values"
        );
        assert!(r.out.heads == heads && r.out.dim == v_dim && r.steps.heads * r.steps.dim == heads);
        assert!(r.parts.is_none_or(|parts| parts.heads * parts.dim == heads));
        let each = k_dim * v_dim;
        let states = self.states(r.state, heads * each);
        let vector = |backend: &CpuBackend, weight: Weight| backend.weights[weight.id as usize].clone();
        let (bias, decay) = (vector(self, r.step_bias), vector(self, r.decay));
        let skip = r.skip.map(|skip| vector(self, skip));
        let [q, k, v, out, steps] = [r.q, r.k, r.v, r.out, r.steps].map(|heads| (self.heads_shared(heads), heads));
        let parts = r.parts.map(|heads| (self.heads_shared(heads), heads));
        let kernels = self.kernels;
        self.each_run(r.state, heads, 3 * each, &|run, head, scratch| {
            let at = |(data, heads): (Shared<f32>, Heads), head: usize| {
                let first = heads.at(run.first, head).start;
                // SAFETY: inside the heads' span, which `heads_shared` checked.
                Strided { start: unsafe { data.start().add(first) }, stride: heads.row_stride }
            };
            let element = |(data, heads): (Shared<f32>, Heads)| {
                // SAFETY: as above.
                Strided { start: unsafe { data.start().add(heads.element(run.first, head)) }, stride: heads.row_stride }
            };
            let decay = decay.elements().get(head);
            let args = RecurrenceArgs {
                tokens: run.rows,
                k_dim,
                v_dim,
                q: at(q, r.key_head(head)),
                k: at(k, r.key_head(head)),
                v: at(v, head),
                out: at(out, head),
                q_scale: r.q_scale,
                k_scale: r.k_scale,
                steps: element(steps),
                step_bias: bias.elements().get(head),
                step_range: r.step_range,
                decay: if r.decay_is_log { -decay.exp() } else { decay },
                parts: parts.map(element),
                skip: skip.as_ref().map_or(0.0, |skip| skip.elements().get(head)),
                // SAFETY: `runs` checked the frames and `states` the elements.
                last: (run.last != NO_STATE).then(|| unsafe { states.at(run.last, head * each, v_dim) }),
                // SAFETY: as above.
                next: unsafe { states.at(run.next, head * each, v_dim) },
            };
            // SAFETY: all rows exist, and results are apart from inputs; this task alone has this head of this sequence, and writes
            // a frame that no other sequence has; `new` checked the tier.
            unsafe { (kernels.recurrence)(&args, scratch) };
        });
    }
}
