//! Backend interface: the tensor operations of one step over a ragged batch.
//!
//! The forward pass ([`crate::model`]) is written once over the [`Backend`] trait. A tensor is an opaque location in
//! device memory; operations run in the order they are submitted, and the host sees results only through
//! [`Backend::read`]. Activations are rows of f32. Shapes are in elements; `rows` is the number of tokens in the batch.
//!
//! **Law 1 (batch invariance).** Each output row of an operation depends on its own input row alone: the kernel, its
//! instructions and the order of accumulation depend on the weight and on the row's position, never on the number of
//! rows, on how they are split between threads, or on where a prefill chunk starts.
//!
//! Called on the engine thread only.

pub mod cpu;
#[cfg_attr(not(feature = "cuda"), path = "cuda/absent.rs")]
pub mod cuda;
pub mod device;
mod step;

pub use step::{FROM_LAST_STEP, Ragged, Step, Tables, Ticket};

use crate::dtype::DType;
use crate::encoding::{Encoding, Scheme};
use crate::error::Result;
use crate::sampling::{AllowedTokens, SamplingOutput, SamplingRequests};
use std::sync::Arc;

/// Increased whenever a kernel or the forward pass changes in a way that changes result bits. Saved keys and values
/// with another version are not reused.
pub const NUMERICS_VERSION: u32 = 2;

/// Host bytes of a weight. They stay valid and unmoved while the `Arc` lives, so a backend may use them in place.
pub type HostBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A location in device memory that holds f32 elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Index of the allocation.
    pub buffer: u32,
    /// Offset of the first element in the allocation, in elements.
    pub offset: usize,
}

impl Tensor {
    /// The location `elements` elements further on in the same allocation.
    pub fn at(self, elements: usize) -> Tensor {
        Tensor { buffer: self.buffer, offset: self.offset + elements }
    }
}

/// Elements of scratch that [`Backend::linear`] and [`Backend::gated`] need for `rows` input rows of `in_features`
/// elements: room for the rows converted to a narrower type, padded to whole blocks of rows, and for quantized rows 8
/// more bytes for each group (of at least 32 elements).
pub fn scratch_elements(rows: usize, in_features: usize) -> usize {
    rows.next_multiple_of(16).saturating_mul(in_features.next_multiple_of(64))
}

/// A matrix `[out_features, in_features]` in device memory, or a vector when `out_features` is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Index in the backend's list of weights.
    pub id: u32,
    /// Output features: rows of the stored matrix.
    pub out_features: usize,
    /// Input features: columns of the stored matrix.
    pub in_features: usize,
}

/// Parameters of a random weight with mean zero, for benchmarks that need no real model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RandomWeight {
    /// One seed gives the same values on every run on one device; they may differ between devices.
    pub seed: u64,
    /// Standard deviation.
    pub deviation: f32,
}

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

/// Rotary embedding of a contiguous part of every head.
#[derive(Clone, Copy, Debug)]
pub struct Rotary {
    /// `[rows, 2, dims / 2]`: cosines, then sines, of each row's angles; computed by [`Backend::rotary_angles`].
    pub angles: Tensor,
    /// First rotated element of a head.
    pub start: usize,
    /// Number of rotated elements per head.
    pub dims: usize,
    /// Pair adjacent elements (2i, 2i + 1) instead of (i, i + dims / 2).
    pub interleaved: bool,
}

/// Shape of the KV pages of one layer group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Layers in the group.
    pub layers: usize,
    /// Page frames in the pool.
    pub frames: usize,
    /// Tokens per page.
    pub page_tokens: usize,
    /// KV heads per layer.
    pub kv_heads: usize,
    /// Elements of a key.
    pub k_dim: usize,
    /// Elements of a value.
    pub v_dim: usize,
    /// Element type of keys and values; with `i8`, each key and each value vector has an f32 scale.
    pub dtype: DType,
}

impl KvShape {
    /// Bytes of one token of one KV head: key, value and their scales. Does not overflow, since the sizes were checked
    /// against limits.
    pub fn token_bytes(&self) -> usize {
        (self.k_dim + self.v_dim) * self.dtype.size() + if self.dtype == DType::I8 { 8 } else { 0 }
    }

    /// Bytes of one page frame, over all layers of the group; `None` on overflow.
    pub fn frame_bytes(&self) -> Option<usize> {
        self.token_bytes().checked_mul(self.kv_heads)?.checked_mul(self.page_tokens)?.checked_mul(self.layers)
    }
}

/// Handle of the KV pages of one layer group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvPages(pub u32);

/// Operations on queries, keys and values between their projections and attention; see [`Backend::place_heads`].
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
    /// Rotation of queries and keys.
    pub rotary: Rotary,
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

/// How experts are chosen from the router's logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    /// Experts chosen per token.
    pub chosen: usize,
    /// Divide the probabilities of the chosen experts by their sum.
    pub renormalise: bool,
}

/// The routed experts of one layer: `out[r] += sum_j p_j * down_j(silu(gate_j(x[r])) * up_j(x[r]))` over the experts
/// `j` chosen for row `r`, with router probabilities `p_j`, added in ascending order of `j`.
#[derive(Clone, Copy, Debug)]
pub struct Experts<'a> {
    /// All experts, by index.
    pub experts: &'a [Expert],
    /// Router logits `[rows, experts]`.
    pub logits: Tensor,
    /// How experts are chosen.
    pub routing: Routing,
    /// Input `[rows, hidden]`.
    pub x: Tensor,
    /// Output `[rows, hidden]`; the result is added to it.
    pub out: Tensor,
    /// Scratch: `rows * (hidden + 2 * intermediate)` elements.
    pub scratch: Tensor,
    /// Scratch of the matrix products: [`scratch_elements`] of `rows` and the larger of hidden and intermediate.
    pub products: Tensor,
}

/// Upper bounds of a step's shape, from which a backend sizes the memory it needs beside the tensors it is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaxBatchShape {
    /// Rows per step.
    pub rows: usize,
    /// Sequences per step.
    pub sequences: usize,
    /// Rows of logits computed in one call.
    pub logits_rows: usize,
    /// Positions per sequence (context length).
    pub positions: usize,
    /// Layer groups.
    pub groups: usize,
    /// Tokens per page.
    pub page_tokens: usize,
    /// Input features of a matrix product.
    pub in_features: usize,
    /// Results of one search for the largest logits: rows times results of each.
    pub best: usize,
    /// Query heads per layer.
    pub heads: usize,
    /// Query heads that share one KV head.
    pub heads_per_kv: usize,
    /// Elements of a key.
    pub k_dim: usize,
    /// Elements of a value.
    pub v_dim: usize,
    /// Routed experts per layer.
    pub experts: usize,
    /// Experts chosen per token.
    pub chosen: usize,
    /// Intermediate size of a routed expert.
    pub expert_inner: usize,
    /// Hidden size of the model, the input size of a routed expert.
    pub hidden: usize,
    /// Logits per row.
    pub vocab: usize,
}

/// Bytes reserved by a backend, by purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Weights, whether used in place in mapped files or held in memory of the backend.
    pub weights: u64,
    /// KV pages.
    pub kv: u64,
    /// Tensors allocated by [`Backend::alloc`].
    pub tensors: u64,
    /// Memory reserved by [`Backend::reserve`].
    pub scratch: u64,
}

/// Tensor operations of a device. Implementations must keep law 1 of the [module](self).
pub trait Backend: Send {
    /// Human-readable name of the device.
    fn name(&self) -> String;

    /// Bytes reserved so far.
    fn reserved(&self) -> Reserved;

    /// Binds the backend to the calling thread: from now on only this thread calls it. Before, and if this is never
    /// called, calls may come from any thread, one at a time.
    fn attach(&mut self) {}

    /// Announces that no work will follow for a while: threads that spin while waiting for work go to sleep. Results do
    /// not change.
    fn rest(&mut self);

    /// Allocates `elements` f32 elements, zeroed. `what` names them in an error message.
    fn alloc(&mut self, elements: usize, what: &str) -> Result<Tensor>;

    /// Reserves the memory that steps up to `max_shape` need beside tensors, so that no step allocates: out of memory
    /// is then an error of opening an engine, never of a running one.
    fn reserve(&mut self, max_shape: &MaxBatchShape) -> Result<()>;

    /// Creates a weight of `[out_features, in_features]` elements from `bytes`. A quantized weight may only be used in
    /// matrix products.
    fn weight(
        &mut self,
        bytes: HostBytes,
        encoding: Encoding,
        out_features: usize,
        in_features: usize,
    ) -> Result<Weight>;

    /// Creates a weight of random values directly in device memory, for benchmarks. `None` when the backend cannot do
    /// so for this weight; the caller then passes host bytes to [`Backend::weight`].
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

    /// Quantizes the matrix `[out_features, in_features]`, stored row by row in `bytes`, into `panels`, the form that
    /// [`Backend::weight`] takes. The result is the same on every machine and may be cached in a file. A large matrix
    /// may be quantized in pieces of whole panels.
    fn quantize(
        &mut self,
        bytes: &[u8],
        dtype: DType,
        out_features: usize,
        in_features: usize,
        scheme: Scheme,
        panels: &mut [u8],
    ) -> Result<()>;

    /// Allocates the KV pages of a layer group.
    fn kv_pages(&mut self, shape: KvShape) -> Result<KvPages>;

    /// Writes every byte of the KV pages, so that an operating system that overcommits memory fails now instead of
    /// later. `may` is called before each piece with its size in bytes; an error from it ends the loop and is returned.
    /// Does nothing on devices whose allocations are backed by memory at once.
    fn touch_kv(&mut self, may: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        let _ = may;
        Ok(())
    }

    /// Copies one page frame, over all layers of the group, to the host after all work submitted so far. `out.len()`
    /// must be the size of a frame. The format is private to the backend: the bytes are only valid for
    /// [`Backend::write_page`] on the same kind of device, tier and shape.
    fn read_page(&mut self, pages: KvPages, frame: u32, out: &mut [u8]) -> Result<()>;

    /// Overwrites one page frame with bytes from [`Backend::read_page`].
    fn write_page(&mut self, pages: KvPages, frame: u32, bytes: &[u8]) -> Result<()>;

    /// Begins a step. The tokens, positions, `logits_indices` and ragged rows passed to operations until the next call
    /// are those of `step`.
    fn begin(&mut self, step: &Step) {
        let _ = step;
    }

    /// Steps that may be in flight at once: with 1, a step is computed by the calls that submit it, and its samples are there when
    /// they return; with more, the next step may take its tokens from the last one ([`FROM_LAST_STEP`]).
    fn steps_in_flight(&self) -> usize;

    /// Sets which tokens may be sampled: the ids inside `mask`. Called before the first [`Backend::sample`].
    ///
    /// # Errors
    /// `Memory`, `Device`.
    fn set_vocabulary_mask(&mut self, mask: &AllowedTokens) -> Result<()>;

    /// Number of rows to which a decode step of `rows` rows (one per sequence) should be padded, so that more steps can
    /// share a recording. The results of padding rows are discarded; their only page is the extra frame after the last,
    /// which such a device allocates.
    fn padded(&self, rows: usize) -> usize {
        rows
    }

    /// Sets what [`Backend::sample`] and a replayed step sample: one request for each row of logits.
    fn set_sampling(&mut self, requests: &SamplingRequests);

    /// Called before the operations of a step in which each sequence has one row and every row needs logits. Returns
    /// true when the whole step has been submitted from a recording of an earlier, similar step. Otherwise the caller
    /// submits the operations, up to [`Backend::sample`], and then calls [`Backend::recorded`].
    fn replay(&mut self) -> bool {
        false
    }

    /// Called after those operations. Returns false when they were only recorded but could not be submitted: the caller
    /// must submit them once more, without [`Backend::replay`].
    fn recorded(&mut self) -> bool {
        true
    }

    /// Computes the logits of `rows` rows of `x` by the product `head`, and samples them as the requests say. `scratch` has
    /// [`scratch_elements`]. The logits are not defined afterwards.
    fn sample(&mut self, x: Tensor, rows: usize, head: Linear, scratch: Tensor);

    /// Submits the copy of the samples to the host. At most [`Backend::steps_in_flight`] tickets are outstanding.
    fn copy_out(&mut self) -> Ticket;

    /// Waits for the samples of a ticket and writes them to `to`, which has room for the rows.
    ///
    /// # Errors
    /// As of [`Backend::read`].
    fn wait_sampled(&mut self, ticket: Ticket, to: &mut SamplingOutput) -> Result<()>;

    /// `out[r] = table[tokens[r]]`. `out` is `[rows, table.in_features]`; tokens are below `table.out_features`.
    fn embed(&mut self, table: Weight, tokens: &[u32], out: Tensor);

    /// Cosines and sines of `positions[r] * inv_freq[i]`, times `scale`, into `out[r, 2, inv_freq.len()]`.
    fn rotary_angles(&mut self, positions: &[u32], inv_freq: &[f32], scale: f32, out: Tensor);

    /// `out[r, i] = x[r, i] / sqrt(mean(x[r]^2) + eps) * gain[i]`; both `[rows, gain.in_features]`. `out` may be `x`.
    fn rms_norm(&mut self, x: Tensor, gain: Weight, eps: f32, rows: usize, out: Tensor);

    /// Up to four matrix products that share the input `x` `[rows, in_features]`. `scratch` has [`scratch_elements`].
    fn linear(&mut self, x: Tensor, rows: usize, group: &[Linear], scratch: Tensor);

    /// Two products of the same shape with a shared input, then `gate.out = silu(gate.out) * up.out`. Afterwards
    /// `gate.out` may only be used as the input of matrix products, and the contents of `up.out` are undefined.
    fn gated(&mut self, x: Tensor, rows: usize, gate: Linear, up: Linear, scratch: Tensor) {
        self.linear(x, rows, &[gate, up], scratch);
        self.silu_mul(gate.out, up.out, rows * gate.weight.out_features);
    }

    /// [`Backend::rms_norm`] over each head, in place.
    fn head_norm(&mut self, heads: Heads, gain: Weight, eps: f32, rows: usize);

    /// Applies the rotary embedding to every head, in place.
    fn rotate(&mut self, heads: Heads, rotary: Rotary, rows: usize);

    /// Stores the keys and values of all rows in their pages.
    fn store_kv(&mut self, pages: KvPages, layer: usize, k: Heads, v: Heads, ragged: Ragged);

    /// [`Backend::head_norm`], [`Backend::rotate`] and [`Backend::store_kv`] in the order that `placement` gives.
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

    /// Causal attention of every row over the pages of its sequence, its own token included (its key and value are
    /// already stored). The query heads are divided evenly among the KV heads.
    fn attention(&mut self, attention: Attention, ragged: Ragged);

    /// `gate[i] = silu(gate[i]) * up[i]` over `elements`.
    fn silu_mul(&mut self, gate: Tensor, up: Tensor, elements: usize);

    /// `x[i] *= sigmoid(gate[i])` over `elements`.
    fn sigmoid_mul(&mut self, x: Tensor, gate: Tensor, elements: usize);

    /// `x[i] += factor * y[i]` over `elements`.
    fn add_scaled(&mut self, x: Tensor, y: Tensor, factor: f32, elements: usize);

    /// Routed experts of one layer; see [`Experts`].
    fn experts(&mut self, experts: Experts, rows: usize);

    /// `out[i] = x[rows[i]]`, rows of `width` elements. `rows` is part of the step's `logits_indices`, from `first` on.
    fn gather(&mut self, x: Tensor, first: usize, rows: &[u32], width: usize, out: Tensor);

    /// Waits for all work submitted so far and copies `out.len()` elements of `x` to the host.
    ///
    /// # Errors
    /// `Device` when this or an earlier operation failed on the device.
    fn read(&mut self, x: Tensor, out: &mut [f32]) -> Result<()>;

    /// Waits for all work submitted so far.
    ///
    /// # Errors
    /// As [`Backend::read`].
    fn wait(&mut self) -> Result<()> {
        Ok(())
    }
}
