//! Memory of a device: tensors, weights, and the reservation for the largest step.

use crate::encoding::Encoding;
use crate::error::Result;
use std::sync::Arc;

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
    /// Rotary frequencies of all rotations.
    pub frequencies: usize,
    /// Pages that the tables of a step list in a layer group: its frames, unless sequences share pages, or with a window, whose
    /// tables go on from the first page on.
    pub table_pages: usize,
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
    /// Tokens that an output of a convolution sees; 0 = no operation keeps a state.
    pub conv_kernel: usize,
    /// Elements of a key of a recurrence.
    pub state_dim: usize,
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
    /// Tensors allocated by [`Memory::alloc`].
    pub tensors: u64,
    /// Memory reserved by [`Memory::reserve`].
    pub scratch: u64,
}

impl Reserved {
    /// All of it.
    pub fn total(&self) -> u64 {
        [self.weights, self.kv, self.tensors, self.scratch].into_iter().fold(0, u64::saturating_add)
    }
}

/// The memory of a device.
pub trait Memory {
    /// Human-readable name of the device.
    fn name(&self) -> String;

    /// Bytes reserved so far.
    fn reserved(&self) -> Reserved;

    /// Binds the device to the calling thread: from now on only this thread calls it. Before, and if this is never
    /// called, calls may come from any thread, one at a time.
    fn attach(&mut self) {}

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

    /// As [`Memory::weight`], for [`super::Operations::head_products`], which takes columns as well as rows: never quantized, but it may
    /// be in blocks. A device may hold it as elements, whatever the encoding is.
    fn head_weight(
        &mut self,
        bytes: HostBytes,
        encoding: Encoding,
        out_features: usize,
        in_features: usize,
    ) -> Result<Weight> {
        self.weight(bytes, encoding, out_features, in_features)
    }

    /// Creates a weight of random values directly in device memory, for benchmarks. `None` when the backend cannot do
    /// so for this weight; the caller then passes host bytes to [`Memory::weight`].
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

    /// Waits for all work submitted so far and copies `out.len()` elements of `x` to the host.
    ///
    /// # Errors
    /// `Device` when this or an earlier operation failed on the device.
    fn read(&mut self, x: Tensor, out: &mut [f32]) -> Result<()>;

    /// Waits for all work submitted so far.
    ///
    /// # Errors
    /// As [`Memory::read`].
    fn wait(&mut self) -> Result<()> {
        Ok(())
    }

    /// Announces that no work will follow for a while: threads that spin while waiting for work go to sleep. Results do
    /// not change.
    fn rest(&mut self) {}
}
