//! The weights of a model on a device, shaped as its [`super::architecture`] is: a block of weights for each block.

use crate::backend::{Expert, Weight};

/// A matrix with its bias.
#[derive(Clone, Copy, Debug)]
pub struct Projection {
    /// `[out, in]`.
    pub weight: Weight,
    /// `[out]`.
    pub bias: Option<Weight>,
}

/// The vectors of a norm.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "named as in the backend")]
pub struct NormWeights {
    pub gain: Option<Weight>,
    pub bias: Option<Weight>,
}

/// Keys and values of a layer.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "named as in the architecture")]
pub enum KvWeights {
    Direct { k: Projection, v: Projection },
    WithQuery,
    Latent { a: Projection, norm: Weight, b: Projection },
}

/// Attention of a layer.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "named as in the architecture")]
pub struct AttentionWeights {
    pub q: Projection,
    pub kv: KvWeights,
    pub out: Projection,
    /// Of queries and keys: none, one for all heads, or one for each.
    pub head_norms: [Vec<NormWeights>; 2],
    pub gate: Option<Projection>,
    pub sinks: Option<Weight>,
}

/// Latent attention of a layer.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "named as in the architecture")]
pub struct LatentWeights {
    /// The first projection of queries and the norm after it, where there are two.
    pub q_a: Option<(Projection, Weight)>,
    /// The last one.
    pub q: Projection,
    pub kv_a: Projection,
    pub kv_norm: Weight,
    pub kv_b: Weight,
    pub out: Projection,
}

/// A feed-forward network.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "named as in the architecture")]
pub struct DenseWeights {
    pub gate: Option<Projection>,
    pub up: Projection,
    pub down: Projection,
}

/// Experts of a layer.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "named as in the architecture")]
pub struct ExpertsWeights {
    pub router: Projection,
    pub choice_bias: Option<Weight>,
    pub routed: Vec<Expert>,
    pub shared: Vec<DenseWeights>,
    pub shared_gate: Option<Projection>,
}

/// What a block computes with.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "named as in the architecture")]
pub enum OperationWeights {
    Attention(AttentionWeights),
    Latent(LatentWeights),
    Dense(DenseWeights),
    Experts(ExpertsWeights),
}

/// One block.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "named as in the architecture")]
pub struct BlockWeights {
    pub before: NormWeights,
    pub operation: OperationWeights,
    pub after: NormWeights,
}

/// All weights of a model.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "named as in the architecture")]
pub struct Weights {
    pub embedding: Weight,
    pub layers: Vec<Vec<BlockWeights>>,
    pub final_norm: NormWeights,
    pub lm_head: Projection,
}
