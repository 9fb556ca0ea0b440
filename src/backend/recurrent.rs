//! Operations that read the state of each sequence of a step and write the next one. What is read stays as it is, so that a
//! step that was given up is run again, and others may begin where the state was.
//!
//! Law 1: tokens are taken one after the other, in the same way however many a step has of a sequence, and the state between
//! two steps is the one between two tokens.

use super::cache::KvPages;
use super::memory::Weight;
use super::operations::Heads;

/// Consecutive elements of the state of a layer.
#[derive(Clone, Copy, Debug)]
pub struct StatePart {
    /// The layer group's frames.
    pub pages: KvPages,
    /// Index of the layer within the group.
    pub layer: usize,
    /// The first element.
    pub first: usize,
}

/// A convolution of each channel over the last tokens of its sequence, where before the first there are zeros:
/// `out[t, c] = after[t, c] * f(bias[c] + sum_j weight[c, j] * u[t - kernel + 1 + j, c])` with `u = before * x`. Its state is the
/// last `kernel - 1` of `u`, oldest first. Channel `c` is element `c % dim` of head `c / dim`.
#[derive(Clone, Copy, Debug)]
pub struct Conv {
    /// Inputs.
    pub x: Heads,
    /// Factor on the inputs, of the same shape.
    pub before: Option<Heads>,
    /// Factor on the results, of the same shape.
    pub after: Option<Heads>,
    /// Results, of the same shape; may be `x`.
    pub out: Heads,
    /// Vector `[channels * kernel]`: the factors of a channel are adjacent.
    pub weight: Weight,
    /// Tokens that an output sees, its own included.
    pub kernel: usize,
    /// Vector `[channels]`.
    pub bias: Option<Weight>,
    /// `f(x) = x * sigmoid(x)` instead of `x`.
    pub silu: bool,
    /// `[kernel - 1, channels]`.
    pub state: StatePart,
}

/// A recurrence of each head over the tokens of its sequence. The state of a head is a matrix `S` `[k_dim, v_dim]`, zero before the
/// first token. With `step = clamp(ln(1 + e^(steps + step_bias)))` and `S' = e^(decay * step) * S`:
///
/// - where there are parts (the gated delta rule), `u = sigmoid(part) * (v - k_scale * k S')`;
/// - else (a state space), `u = step * v`;
///
/// the next state is `S = S' + k_scale * k u`, and the result `out = q_scale * q S + skip * v`.
#[derive(Clone, Copy, Debug)]
pub struct Recurrence {
    /// Queries; each head serves as many heads of values as the others.
    pub q: Heads,
    /// Head `h` of values has the key head `h % k.heads`, instead of one for consecutive heads.
    pub tiled: bool,
    /// Keys, as many heads.
    pub k: Heads,
    /// Values.
    pub v: Heads,
    /// Results, of the same shape.
    pub out: Heads,
    /// Factor on queries.
    pub q_scale: f32,
    /// Factor on keys.
    pub k_scale: f32,
    /// One element for each head of values: element `h % dim` of head `h / dim`.
    pub steps: Heads,
    /// Vector `[heads of values]`.
    pub step_bias: Weight,
    /// Least and largest step.
    pub step_range: [f32; 2],
    /// Vector `[heads of values]`.
    pub decay: Weight,
    /// It is stored as the logarithm of its opposite.
    pub decay_is_log: bool,
    /// As `steps`.
    pub parts: Option<Heads>,
    /// Vector `[heads of values]`.
    pub skip: Option<Weight>,
    /// `[heads of values, k_dim, v_dim]`.
    pub state: StatePart,
}

impl Recurrence {
    /// The head of keys and queries of a head of values.
    pub fn key_head(&self, head: usize) -> usize {
        if self.tiled { head % self.k.heads } else { head / (self.v.heads / self.k.heads) }
    }
}

impl Heads {
    /// Where a row has its `index`-th element, counted over all heads, relative to the start of `tensor`.
    pub fn element(&self, row: usize, index: usize) -> usize {
        row * self.row_stride + index / self.dim * self.head_stride + index % self.dim
    }
}
