//! The device: tensor operations on ragged batches.
//!
//! The forward pass ([`crate::model`]) is written once over the [`Backend`] trait. A tensor is an opaque place on the
//! device; operations are submitted in order, and the host sees results only through [`Backend::read`]. All
//! activations are f32 rows. Shapes are given in elements; `rows` counts the tokens of the batch.
//!
//! **Law 1.** An implementor computes each row of every operation from that row alone: the kernel, its
//! instructions and the order of accumulation depend on the weight and the row's position, never on how many rows
//! there are, how they are split between threads, or where a prefill chunk began.
//!
//! Called by the engine thread only.

pub mod cpu;
pub mod cuda;
mod sampling;
mod step;

pub use sampling::{
    FROM_LAST_STEP, LogitAdjustment, NO_TOKEN, SamplingKind, SamplingOutput, SamplingRequest, SamplingRequests, Ticket,
    adjustments_max,
};
pub use step::{Ragged, Step, Tables};

use crate::dtype::DType;
use crate::encoding::{Encoding, Scheme};
use crate::error::Result;
use std::sync::Arc;

/// Bumped whenever a kernel or the forward pass gives other bits than before: keys and values saved by another version
/// are not continued.
pub const NUMERICS_VERSION: u32 = 2;

/// Host bytes that a weight is made from. They stay valid and unmoved while the `Arc` lives, so that a backend may
/// use them in place.
pub type HostBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A place on the device holding f32 elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// The allocation.
    pub buffer: u32,
    /// First element in it.
    pub offset: usize,
}

impl Tensor {
    /// The place `elements` further on.
    pub fn at(self, elements: usize) -> Tensor {
        Tensor { buffer: self.buffer, offset: self.offset + elements }
    }
}

/// Elements of scratch that `rows` input rows of `in_features` elements need in [`Backend::linear`] and [`Backend::gated`]: room for
/// them in any narrower form, whole blocks of rows, and for quantized ones 8 bytes for each group of at least 32.
pub fn scratch_elements(rows: usize, in_features: usize) -> usize {
    rows.next_multiple_of(16).saturating_mul(in_features.next_multiple_of(64))
}

/// A matrix `[out, in]` or, with `out` = 1, a vector, resident on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Index in the backend's table.
    pub id: u32,
    /// Output features: rows of the stored matrix.
    pub out_features: usize,
    /// Input features: columns of the stored matrix.
    pub in_features: usize,
}

/// A weight whose values nobody cares about beyond their spread about zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RandomWeight {
    /// The same on one device gives the same values; devices differ.
    pub seed: u64,
    /// Standard deviation.
    pub deviation: f32,
}

/// One product of a group that shares its input: `out[r, o] = sum_i x[r, i] * weight[o, i] + bias[o]`.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// Matrix `[out, in]`.
    pub weight: Weight,
    /// Vector `[out]`.
    pub bias: Option<Weight>,
    /// `[rows, out]`, rows `out` apart.
    pub out: Tensor,
    /// Add to what `out` holds instead of replacing it.
    pub accumulate: bool,
}

/// What [`Backend::linear_topk`] looks for.
#[derive(Debug)]
pub struct TopK<'a> {
    /// Results wanted of each row.
    pub count: usize,
    /// Outputs to look at.
    pub limit: usize,
    /// `[rows, count]`: where they go; cleared first.
    pub found: &'a mut Vec<(f32, u32)>,
}

/// The heads of a projection inside rows: head `h` of row `r` starts at `r * row_stride + h * head_stride`.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// First element of head 0 of row 0.
    pub tensor: Tensor,
    /// Elements from a row to the next.
    pub row_stride: usize,
    /// Elements from a head to the next.
    pub head_stride: usize,
    /// Heads of a row.
    pub heads: usize,
    /// Elements of a head.
    pub dim: usize,
}

impl Heads {
    /// Elements from the tensor's first to the end of the last head of the last of `rows`, of which there is one at least.
    pub fn span(&self, rows: usize) -> usize {
        (rows - 1) * self.row_stride + (self.heads - 1) * self.head_stride + self.dim
    }

    /// The elements of a head.
    pub fn at(&self, row: usize, head: usize) -> std::ops::Range<usize> {
        let start = row * self.row_stride + head * self.head_stride;
        start..start + self.dim
    }
}

/// A rotary embedding of part of every head.
#[derive(Clone, Copy, Debug)]
pub struct Rotary {
    /// `[rows, 2, dims / 2]`: cosines, then sines, of the rows' positions; made by [`Backend::rotary_angles`].
    pub angles: Tensor,
    /// First rotated element of a head.
    pub start: usize,
    /// Rotated elements.
    pub dims: usize,
    /// Pairs are adjacent elements (2i, 2i + 1) instead of halves (i, i + dims / 2).
    pub interleaved: bool,
}

/// Shape of one layer group's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Layers in the group.
    pub layers: usize,
    /// Page frames.
    pub frames: usize,
    /// Tokens of a page.
    pub page_tokens: usize,
    /// KV heads of a layer.
    pub kv_heads: usize,
    /// Elements of a key.
    pub k_dim: usize,
    /// Elements of a value.
    pub v_dim: usize,
    /// Element type of both; with `i8`, each key and each value has an f32 factor.
    pub dtype: DType,
}

impl KvShape {
    /// Bytes of one token of one head: key, value and their factors. Sizes were checked against limits.
    pub fn token_bytes(&self) -> usize {
        (self.k_dim + self.v_dim) * self.dtype.size() + if self.dtype == DType::I8 { 8 } else { 0 }
    }

    /// Bytes of one page frame, all layers; `None` when that overflows.
    pub fn frame_bytes(&self) -> Option<usize> {
        self.token_bytes().checked_mul(self.kv_heads)?.checked_mul(self.page_tokens)?.checked_mul(self.layers)
    }
}

/// The pages of one layer group on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvPages(pub u32);

/// What happens to queries, keys and values between their projections and attention.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    /// Queries, normed and rotated in place.
    pub q: Heads,
    /// Keys, normed and rotated in place, and stored.
    pub k: Heads,
    /// Values, stored.
    pub v: Heads,
    /// Gains of the head norms of queries and keys.
    pub norms: Option<[Weight; 2]>,
    /// The norms come after the rotation instead of before it.
    pub norm_last: bool,
    /// Of the norms.
    pub eps: f32,
    /// Rotation of both.
    pub rotary: Rotary,
    /// The layer group's pages.
    pub pages: KvPages,
    /// Layer within the group.
    pub layer: usize,
}

/// Attention of one layer.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Queries `[rows, heads, dim]`.
    pub q: Heads,
    /// `[rows, heads * v_dim]`.
    pub out: Tensor,
    /// The layer group's pages.
    pub pages: KvPages,
    /// Layer within the group.
    pub layer: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// Keys visible to a query, itself included; `None` = all before it.
    pub window: Option<u32>,
}

/// The feed-forward matrices of one expert.
#[derive(Clone, Copy, Debug)]
pub struct Expert {
    /// `[intermediate, hidden]`.
    pub gate: Weight,
    /// `[intermediate, hidden]`.
    pub up: Weight,
    /// `[hidden, intermediate]`.
    pub down: Weight,
}

/// How a router's logits choose experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    /// Experts chosen for a token.
    pub chosen: usize,
    /// Divide the chosen probabilities by their sum.
    pub renormalise: bool,
}

/// The routed experts of one layer: `x += sum_j p_j * down_j(silu(gate_j(y)) * up_j(y))` over the chosen experts, added
/// in ascending order of the expert's index.
#[derive(Clone, Copy, Debug)]
pub struct Experts<'a> {
    /// The experts.
    pub experts: &'a [Expert],
    /// Router logits `[rows, experts]`.
    pub logits: Tensor,
    /// Choice.
    pub routing: Routing,
    /// Input `[rows, hidden]`.
    pub x: Tensor,
    /// `[rows, hidden]`, added to.
    pub out: Tensor,
    /// Scratch: `rows * (hidden + 2 * intermediate)` elements.
    pub scratch: Tensor,
    /// Scratch of the products: [`scratch_elements`] of the wider of hidden and intermediate.
    pub products: Tensor,
}

/// The largest step a backend will be asked for, as far as it needs memory beside the tensors it is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaxBatchShape {
    /// Rows of a step.
    pub rows: usize,
    /// Sequences of a step.
    pub sequences: usize,
    /// Rows of logits computed at once.
    pub logits_rows: usize,
    /// Positions of a sequence.
    pub positions: usize,
    /// Layer groups.
    pub groups: usize,
    /// Tokens of a page.
    pub page_tokens: usize,
    /// Inputs of a product.
    pub in_features: usize,
    /// Results of one [`Backend::linear_topk`]: rows times those wanted of each.
    pub best: usize,
    /// Query heads of a layer.
    pub heads: usize,
    /// Query heads that share a KV head.
    pub heads_per_kv: usize,
    /// Elements of a key.
    pub k_dim: usize,
    /// Elements of a value.
    pub v_dim: usize,
    /// Routed experts of a layer.
    pub experts: usize,
    /// Experts chosen for a token.
    pub chosen: usize,
    /// Inner width of a routed expert.
    pub expert_inner: usize,
    /// Inputs of a routed expert.
    pub hidden: usize,
    /// Logits of a row.
    pub vocab: usize,
}

/// Bytes a backend has been asked to hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Weights, where they lie: in mapped files or in memory of their own.
    pub weights: u64,
    /// KV pages.
    pub kv: u64,
    /// Tensors of [`Backend::alloc`].
    pub tensors: u64,
    /// Memory of [`Backend::reserve`].
    pub scratch: u64,
}

/// Tensor operations of a device. See the module's law.
pub trait Backend: Send {
    /// Name of the device, for people.
    fn name(&self) -> String;

    /// What it holds.
    fn reserved(&self) -> Reserved;

    /// From now on the calling thread is the one that calls. Until then, and without it, any one thread at a time may.
    fn attach(&mut self) {}

    /// No work comes for a while: whatever waits actively for more goes to sleep, at no cost to the result.
    fn rest(&mut self);

    /// Reserves `elements` zeroed f32 for `what`.
    fn alloc(&mut self, elements: usize, what: &str) -> Result<Tensor>;

    /// Reserves what steps up to the largest need beside tensors, so that none of them allocates: with memory out, opening an
    /// engine fails and no running one does.
    fn reserve(&mut self, max_shape: &MaxBatchShape) -> Result<()>;

    /// Makes a weight of `[out_features, in_features]` elements from `bytes`. Quantized ones may be used in products only.
    fn weight(
        &mut self,
        bytes: HostBytes,
        encoding: Encoding,
        out_features: usize,
        in_features: usize,
    ) -> Result<Weight>;

    /// A weight of random numbers made where it lies, for measurements: none of its bytes is ever on the host. `None`: this one
    /// has to be brought by [`Backend::weight`] like any other.
    fn random_weight(
        &mut self,
        random: RandomWeight,
        encoding: Encoding,
        out_features: usize,
        in_features: usize,
    ) -> Result<Option<Weight>> {
        let _ = (random, encoding, out_features, in_features);
        Ok(None)
    }

    /// Quantizes the matrix `[out_features, in_features]` stored row by row in `bytes` into `panels`: what [`Backend::weight`] takes, and what
    /// may be kept in a file, the same on every machine. A large matrix may come in pieces of whole panels.
    fn quantize(
        &mut self,
        bytes: &[u8],
        dtype: DType,
        out_features: usize,
        in_features: usize,
        scheme: Scheme,
        panels: &mut [u8],
    ) -> Result<()>;

    /// Reserves the pages of a layer group.
    fn kv_pages(&mut self, shape: KvShape) -> Result<KvPages>;

    /// Writes every byte of the pages, so that a system that promises more memory than it has shows that now. `may` is asked
    /// before each piece whether so many bytes may be written, and ends it with its error. A device that has what it
    /// reserved does nothing.
    fn touch_kv(&mut self, may: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        let _ = may;
        Ok(())
    }

    /// Copies one page frame, all its layers, to the host after the work submitted so far. `out` has exactly the frame's
    /// bytes. What they mean is the backend's own affair: they are good for [`Backend::write_page`] on a device, tier and
    /// shape of the same kind.
    fn read_page(&mut self, pages: KvPages, frame: u32, out: &mut [u8]) -> Result<()>;

    /// Replaces one page frame by bytes that [`Backend::read_page`] gave.
    fn write_page(&mut self, pages: KvPages, frame: u32, bytes: &[u8]) -> Result<()>;

    /// A step begins. Tokens, positions, wanted and ragged rows of the operations up to the next one are those of `step`.
    fn begin(&mut self, step: &Step) {
        let _ = step;
    }

    /// Whether rows are sampled on the device, by [`Backend::sample`], and steps need not be waited for one by one: the next
    /// may take its tokens from the last ([`FROM_LAST_STEP`]).
    fn samples(&self) -> bool {
        false
    }

    /// Which tokens may be sampled: those below `limit` but for the `holes`. Before the first [`Backend::sample`].
    ///
    /// # Errors
    /// `Memory`, `Device`.
    fn set_vocabulary_mask(&mut self, limit: usize, holes: &[u32]) -> Result<()> {
        let _ = (limit, holes);
        Ok(())
    }

    /// Rows to which a step of `rows` single rows is best filled up with such as nobody wants: whose only page is the frame
    /// after the last, which such a device has.
    fn padded(&self, rows: usize) -> usize {
        rows
    }

    /// Says what is asked of the wanted rows of the step that began.
    fn set_sampling(&mut self, requests: &SamplingRequests) {
        let _ = requests;
    }

    /// Before the operations of a step of single rows, all of them wanted: whether they have been submitted already, as those
    /// of an earlier one like it. If not, they follow, up to [`Backend::sample`] and [`Backend::recorded`].
    fn replay(&mut self) -> bool {
        false
    }

    /// After those operations. False: they have not been submitted, and have to be once more, without [`Backend::replay`].
    fn recorded(&mut self) -> bool {
        true
    }

    /// Samples the rows of `logits` as the step's requests say.
    fn sample(&mut self, logits: Tensor, rows: usize, vocab: usize) {
        let _ = (logits, rows, vocab);
    }

    /// Submits the copy of what was sampled to the host. At most two tickets are out.
    fn copy_out(&mut self) -> Ticket {
        Ticket(0)
    }

    /// Waits for what a ticket stands for. `to` has room for its rows.
    ///
    /// # Errors
    /// As of [`Backend::read`].
    fn wait_sampled(&mut self, ticket: Ticket, to: &mut SamplingOutput) -> Result<()> {
        let _ = (ticket, to);
        Ok(())
    }

    /// `out[r] = table[tokens[r]]`; `out` is `[rows, table.in_features]`. Tokens are below `table.out_features`.
    fn embed(&mut self, table: Weight, tokens: &[u32], out: Tensor);

    /// Cosines and sines of `positions[r] * inv_freq[i]`, times `scale`, into `out[r, 2, inv_freq.len()]`.
    fn rotary_angles(&mut self, positions: &[u32], inv_freq: &[f32], scale: f32, out: Tensor);

    /// `out[r, i] = x[r, i] / sqrt(mean(x[r]^2) + eps) * gain[i]`; both `[rows, gain.in_features]`; may be in place.
    fn rms_norm(&mut self, x: Tensor, gain: Weight, eps: f32, rows: usize, out: Tensor);

    /// Products that share the input `x[rows, in_features]`; at most four. `scratch` has [`scratch_elements`].
    fn linear(&mut self, x: Tensor, rows: usize, group: &[Linear], scratch: Tensor);

    /// One product as in [`Backend::linear`], and the `count` largest finite results of each row among its first `limit` outputs:
    /// `best` gets `count` of (result, output) for each row, best first, of equals the lower output, and where fewer are
    /// finite (minus infinity, `u32::MAX`).
    ///
    /// # Errors
    /// As of [`Backend::read`].
    fn linear_topk(&mut self, x: Tensor, rows: usize, product: Linear, scratch: Tensor, best: TopK) -> Result<()>;

    /// Two products of one shape that share the input, then `gate.out = silu(gate.out) * up.out`, which may be used as the input
    /// of products only; `up.out` is left undefined.
    fn gated(&mut self, x: Tensor, rows: usize, gate: Linear, up: Linear, scratch: Tensor) {
        self.linear(x, rows, &[gate, up], scratch);
        self.silu_mul(gate.out, up.out, rows * gate.weight.out_features);
    }

    /// [`Backend::rms_norm`] of every head, in place.
    fn head_norm(&mut self, heads: Heads, gain: Weight, eps: f32, rows: usize);

    /// Rotates every head in place.
    fn rotate(&mut self, heads: Heads, rotary: Rotary, rows: usize);

    /// Stores keys and values of the rows into their pages.
    fn store_kv(&mut self, pages: KvPages, layer: usize, k: Heads, v: Heads, ragged: Ragged);

    /// [`Backend::head_norm`], [`Backend::rotate`] and [`Backend::store_kv`] as `placement` says.
    fn place_heads(&mut self, placement: &Placement, ragged: Ragged) {
        let Placement { q, k, v, rotary, eps, .. } = *placement;
        let rows = ragged.positions.len();
        for (i, heads) in [q, k].into_iter().enumerate() {
            let gain = placement.norms.map(|gains| gains[i]);
            if let (Some(gain), false) = (gain, placement.norm_last) {
                self.head_norm(heads, gain, eps, rows);
            }
            self.rotate(heads, rotary, rows);
            if let (Some(gain), true) = (gain, placement.norm_last) {
                self.head_norm(heads, gain, eps, rows);
            }
        }
        self.store_kv(placement.pages, placement.layer, k, v, ragged);
    }

    /// Causal attention of every row over the pages of its sequence, its own token included; query heads share KV
    /// heads in equal groups.
    fn attention(&mut self, attention: Attention, ragged: Ragged);

    /// `gate[i] = silu(gate[i]) * up[i]` over `elements`.
    fn silu_mul(&mut self, gate: Tensor, up: Tensor, elements: usize);

    /// `x[i] *= sigmoid(gate[i])` over `elements`.
    fn sigmoid_mul(&mut self, x: Tensor, gate: Tensor, elements: usize);

    /// `x[i] += factor * y[i]` over `elements`.
    fn add_scaled(&mut self, x: Tensor, y: Tensor, factor: f32, elements: usize);

    /// Routed experts of a layer, added to `out`.
    fn experts(&mut self, experts: Experts, rows: usize);

    /// `out[i] = x[rows[i]]`, rows of `width` elements. The rows are those from the `first` on that the step wants.
    fn gather(&mut self, x: Tensor, first: usize, rows: &[u32], width: usize, out: Tensor);

    /// Waits for the work submitted so far and copies `out.len()` elements to the host.
    ///
    /// # Errors
    /// `Device` when the device failed, now or in an operation since the last call that could say so.
    fn read(&mut self, x: Tensor, out: &mut [f32]) -> Result<()>;

    /// Waits for the work submitted so far.
    ///
    /// # Errors
    /// As of [`Backend::read`].
    fn wait(&mut self) -> Result<()> {
        Ok(())
    }
}
