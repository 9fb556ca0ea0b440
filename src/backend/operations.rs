//! Operations from token ids to hidden states. Each reads what it needs of the step that was begun: tokens, positions,
//! page tables.

use super::cache::KvPages;
use super::memory::{Tensor, Weight};
use super::recurrent::{Conv, Recurrence};

/// One matrix product of a group with a shared input: `out[r, o] = sum_i x[r, i] * weight[o, i] + bias[o]`.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// Matrix `[out_features, in_features]`.
    pub weight: Weight,
    /// Vector `[out_features]`.
    pub bias: Option<Weight>,
    /// Output `[rows, out_features]`, contiguous.
    pub out: Tensor,
    /// Add the product to the contents of `out` instead of replacing them.
    pub accumulate: bool,
}

/// Heads inside the rows of a projection: head `h` of row `r` starts at `r * row_stride + h * head_stride`.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// First element of head 0 of row 0.
    pub tensor: Tensor,
    /// Elements between the starts of consecutive rows.
    pub row_stride: usize,
    /// Elements between the starts of consecutive heads.
    pub head_stride: usize,
    /// Heads per row.
    pub heads: usize,
    /// Elements per head.
    pub dim: usize,
}

impl Heads {
    /// Elements from the start of `tensor` to the end of the last head of row `rows - 1`. `rows` is at least 1.
    pub fn span(&self, rows: usize) -> usize {
        (rows - 1) * self.row_stride + (self.heads - 1) * self.head_stride + self.dim
    }

    /// Element range of one head, relative to the start of `tensor`.
    pub fn at(&self, row: usize, head: usize) -> std::ops::Range<usize> {
        let start = row * self.row_stride + head * self.head_stride;
        start..start + self.dim
    }
}

/// A product for each head with rows of one matrix `[heads * stride, width]`, of which a head `h` has those from `h * stride` on:
/// `out[r, h, o] = sum_i weight[h * stride + first + o, i] * x[r, h, i]` for `count` outputs, or transposed
/// `out[r, h, o] = sum_i weight[h * stride + first + i, o] * x[r, h, i]` of `count` inputs. What a head of `x` has beyond the
/// inputs follows the outputs as it is.
#[derive(Clone, Copy, Debug)]
pub struct HeadProducts {
    /// The matrix, as it is stored: never quantized on load.
    pub weight: Weight,
    /// The first row that is multiplied, of those of a head.
    pub first: usize,
    /// Rows of a head.
    pub stride: usize,
    /// Rows that are multiplied.
    pub count: usize,
    /// Inputs are multiplied with rows, not with columns.
    pub transposed: bool,
    /// Inputs.
    pub x: Heads,
    /// Outputs, in a tensor apart.
    pub out: Heads,
}

impl HeadProducts {
    /// Inputs and outputs of a head.
    pub fn features(&self) -> (usize, usize) {
        let width = self.weight.in_features;
        if self.transposed { (self.count, width) } else { (width, self.count) }
    }
}

/// How rows are normed: `(x - mean) / sqrt(mean((x - mean)^2) + eps) * gain + bias`, where the mean is 0 unless `centred`.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// Vector `[width]`; `None` = 1.
    pub gain: Option<Weight>,
    /// Vector `[width]`; `None` = 0.
    pub bias: Option<Weight>,
    /// Keeps the divisor from 0.
    pub eps: f32,
    /// Subtract the mean of the row first (LayerNorm instead of RMSNorm).
    pub centred: bool,
}

/// The function between the matrices of a feed-forward part. One that is gated multiplies its result with the other input.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    #[default]
    Silu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`.
    GeluTanh,
    /// `x / 2 * (1 + erf(x / sqrt(2)))`.
    Gelu,
    /// `max(x, 0)^2`.
    Relu2,
    /// Of gpt-oss, gated: with `g = min(gate, limit)` and `u = clamp(up, -limit, limit)`, `g * sigmoid(alpha * g) * (u + 1)`.
    /// Of one input: `g * sigmoid(alpha * g)`.
    Clamped {
        /// Factor inside the sigmoid.
        alpha: f32,
        /// Largest input.
        limit: f32,
    },
}

/// What a result is multiplied with the gate's value of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gating {
    /// `sigmoid(gate)`.
    Sigmoid,
    /// `gate * sigmoid(gate)`.
    Silu,
    /// The gate itself.
    Plain,
}

/// A factor on queries that grows with their position: `1 + beta * ln(1 + floor(position / period))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PositionScale {
    /// Weight of the logarithm.
    pub beta: f32,
    /// Positions for which the factor is the same.
    pub period: f32,
}

/// Rotary embedding of a contiguous part of every head.
#[derive(Clone, Copy, Debug)]
pub struct Rotary {
    /// `[rows, 2, dims / 2]`: cosines, then sines, of each row's angles; computed by [`Operations::rotary_angles`].
    pub angles: Tensor,
    /// First rotated element of a head.
    pub start: usize,
    /// Number of rotated elements per head.
    pub dims: usize,
    /// Pair adjacent elements (2i, 2i + 1) instead of (i, i + dims / 2).
    pub interleaved: bool,
}

/// Operations on queries, keys and values between their projections and attention; see [`Operations::place_heads`].
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    /// Queries; normalized and rotated in place.
    pub q: Heads,
    /// Keys; normalized and rotated in place, then stored in the pages.
    pub k: Heads,
    /// Values; stored in the pages.
    pub v: Heads,
    /// Gains of the RMS norms over each query head and each key head; `None` = no norm.
    pub norms: Option<[Weight; 2]>,
    /// Apply the norms after the rotation instead of before it.
    pub norm_last: bool,
    /// Epsilon of the norms.
    pub eps: f32,
    /// Rotation of queries and keys; `None` = they know no position.
    pub rotary: Option<Rotary>,
    /// There are keys and values; else queries alone are normed and rotated, and the pages are as they were.
    pub store: bool,
    /// The layer group's pages.
    pub pages: KvPages,
    /// Index of the layer within the group.
    pub layer: usize,
}

/// Attention of one layer.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Queries `[rows, heads, dim]`.
    pub q: Heads,
    /// Output `[rows, heads * v_dim]`.
    pub out: Tensor,
    /// The layer group's pages.
    pub pages: KvPages,
    /// Index of the layer within the group.
    pub layer: usize,
    /// Factor applied to the scores before the softmax.
    pub scale: f32,
    /// Sliding window: number of keys visible to a query, its own included; `None` = all up to its position.
    pub window: Option<u32>,
    /// Queries see later keys too: all of their sequence in this step, or as many after them as the window has before them.
    pub bidirectional: bool,
    /// A score `s` becomes `softcap * tanh(s / softcap)`.
    pub softcap: Option<f32>,
    /// Vector `[heads]`: the score of a key without a value that every query of a head sees.
    pub sinks: Option<Weight>,
}

/// The feed-forward matrices of one expert, each with its bias.
#[derive(Clone, Copy, Debug)]
pub struct Expert {
    /// `[intermediate, hidden]`; `None` = the activation is not gated.
    pub gate: Option<(Weight, Option<Weight>)>,
    /// `[intermediate, hidden]`.
    pub up: (Weight, Option<Weight>),
    /// `[hidden, intermediate]`.
    pub down: (Weight, Option<Weight>),
}

/// What a router's logits become before experts are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouterScore {
    /// Probabilities over all experts.
    #[default]
    Softmax,
    /// A sigmoid of each.
    Sigmoid,
}

/// Experts are chosen from the best groups only. The groups are consecutive experts, as many in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterGroups {
    /// Groups; they divide the experts.
    pub count: usize,
    /// Groups chosen per token.
    pub chosen: usize,
    /// A group is as good as the sum of so many of its best experts.
    pub best: usize,
}

/// How experts are chosen from the router's logits, and how their results are weighted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    /// Experts chosen per token.
    pub chosen: usize,
    /// The scores.
    pub score: RouterScore,
    /// Divide the scores of the chosen experts by their sum.
    pub renormalise: bool,
    /// Added to this sum.
    pub epsilon: f32,
    /// Factor on the weights.
    pub factor: f32,
    /// Choose from the best groups.
    pub groups: Option<RouterGroups>,
}

impl Routing {
    /// The `chosen` most probable experts, weighted by their probabilities.
    pub fn softmax(chosen: usize, renormalise: bool) -> Routing {
        Routing { chosen, score: RouterScore::Softmax, renormalise, epsilon: 0.0, factor: 1.0, groups: None }
    }
}

/// The routed experts of one layer: `out[r] += sum_j p_j * down_j(activation(gate_j(x[r])) * up_j(x[r]))` over the experts
/// `j` chosen for row `r`, with router weights `p_j`, added in ascending order of `j`. An expert that is not gated computes
/// `down_j(activation(up_j(x[r])))`.
#[derive(Clone, Copy, Debug)]
pub struct Experts<'a> {
    /// All experts, by index. All or none are gated.
    pub experts: &'a [Expert],
    /// Router logits `[rows, experts]`.
    pub logits: Tensor,
    /// How experts are chosen.
    pub routing: Routing,
    /// Vector `[experts]`: added to the scores for the choice, not to the weights.
    pub choice_bias: Option<Weight>,
    /// Vector `[experts]`: factor on the weight of each expert.
    pub expert_scale: Option<Weight>,
    /// Between the matrices.
    pub activation: Activation,
    /// Input `[rows, hidden]`.
    pub x: Tensor,
    /// Output `[rows, hidden]`; the result is added to it.
    pub out: Tensor,
}

/// The tensor operations of a device.
pub trait Operations {
    /// `out[r] = table[tokens[r]] * scale` for all rows of the step. `out` is `[rows, table.in_features]`; tokens are below
    /// `table.out_features`.
    fn embed(&mut self, table: Weight, scale: f32, out: Tensor);

    /// Cosines and sines of `positions[r] * inv_freq[i]`, times `scale`, into `out[r, 2, inv_freq.len()]`, for all rows
    /// of the step.
    fn rotary_angles(&mut self, inv_freq: &[f32], scale: f32, out: Tensor);

    /// `out[r] = norm(x[r])`; both `[rows, width]`. `out` may be `x`.
    fn norm(&mut self, x: Tensor, norm: &Norm, width: usize, rows: usize, out: Tensor);

    /// `x[r, h] = norm(x[r, h])` for each head of `rows` rows, in place; the norm's vectors have `x.dim` elements.
    fn norm_heads(&mut self, x: Heads, norm: &Norm, rows: usize);

    /// Up to four matrix products that share the input `x` `[rows, in_features]`.
    fn linear(&mut self, x: Tensor, rows: usize, group: &[Linear]);

    /// A product for each head of `rows` rows; see [`HeadProducts`].
    fn head_products(&mut self, products: &HeadProducts, rows: usize);

    /// Two products of the same shape with a shared input, then `gate.out = activation(gate.out) * up.out`. Afterwards
    /// `gate.out` may only be used as the input of matrix products, and the contents of `up.out` are undefined.
    fn gated(&mut self, x: Tensor, rows: usize, gate: Linear, up: Linear, activation: Activation);

    /// `x[i] = activation(x[i])` over `elements`.
    fn activate(&mut self, x: Tensor, activation: Activation, elements: usize);

    /// For all rows of the step: norms and rotates queries and keys as `placement` says, and stores keys and values in
    /// their pages.
    fn place_heads(&mut self, placement: &Placement);

    /// Attention of every row of the step over the pages of its sequence, its own token included (its key and
    /// value are already stored). The query heads are divided evenly among the KV heads. It is causal, unless it is
    /// [bidirectional](Attention::bidirectional): then a step has all rows of a sequence.
    fn attention(&mut self, attention: Attention);

    /// `x[r] *= 1 + beta * ln(1 + floor(position / period))` for all rows of the step, of `width` elements.
    fn scale_by_position(&mut self, x: Tensor, width: usize, scale: PositionScale);

    /// `x[r, h, i] *= gating(gate[r, h, i])`; `x` is `[rows, gate.heads, dim]`. A gate of one element serves the whole head.
    fn gate_mul(&mut self, x: Tensor, dim: usize, gate: Heads, gating: Gating, rows: usize);

    /// A convolution over the tokens of each sequence of the step; see [`Conv`].
    fn conv(&mut self, conv: &Conv);

    /// A recurrence over the tokens of each sequence of the step; see [`Recurrence`].
    fn recurrence(&mut self, recurrence: &Recurrence);

    /// `x[i] = 0` over `elements`.
    fn clear(&mut self, x: Tensor, elements: usize);

    /// `x[i] *= factor` over `elements`.
    fn scale(&mut self, x: Tensor, factor: f32, elements: usize);

    /// `x[i] = cap * tanh(x[i] / cap)` over `elements`.
    fn softcap(&mut self, x: Tensor, cap: f32, elements: usize);

    /// `x[i] += factor * y[i]` over `elements`.
    fn add_scaled(&mut self, x: Tensor, y: Tensor, factor: f32, elements: usize);

    /// Routed experts of one layer; see [`Experts`].
    fn experts(&mut self, experts: Experts, rows: usize);

    /// `out[i] = x[logits_indices[first + i]]` for `rows` entries of the step's list; rows of `width` elements.
    fn gather(&mut self, x: Tensor, first: usize, rows: usize, width: usize, out: Tensor);
}
