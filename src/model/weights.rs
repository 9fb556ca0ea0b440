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
    KeyIsValue { k: Projection },
    Shared,
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

/// A part of a convolution's channels.
#[derive(Clone, Copy, Debug)]
pub struct ConvWeights {
    /// `[channels * kernel]`.
    pub weight: Weight,
    /// `[channels]`.
    pub bias: Option<Weight>,
}

/// A short convolution.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "named as in the architecture")]
pub struct ShortConvWeights {
    pub b: Projection,
    pub c: Projection,
    pub x: Projection,
    pub conv: ConvWeights,
    pub out: Projection,
}

/// The input projections of a recurrence.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "named as in the architecture")]
#[allow(clippy::large_enum_variant, reason = "a few hundred bytes for a layer")]
pub enum RecurrenceProjections {
    /// `part` is there for the delta rule.
    Apart {
        q: Projection,
        k: Projection,
        v: Projection,
        gate: Projection,
        step: Projection,
        part: Option<Projection>,
    },
    ByKeyHead {
        heads: Projection,
        steps: Projection,
    },
}

/// A recurrence.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "named as in the architecture")]
pub struct RecurrenceWeights {
    pub inputs: RecurrenceProjections,
    /// Of queries, keys and values.
    pub conv: [ConvWeights; 3],
    pub step_bias: Weight,
    pub decay: Weight,
    pub skip: Option<Weight>,
    /// Gains of the norm: none, one for all parts, or one for each.
    pub norm: Vec<Weight>,
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
    pub scale: Option<Weight>,
    pub routed: Vec<Expert>,
    pub shared: Vec<DenseWeights>,
    pub shared_gate: Option<Projection>,
    /// The projections around the routed experts.
    pub inside: Option<[Projection; 2]>,
}

/// A network and experts side by side.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "named as in the architecture")]
pub struct DenseAndExpertsWeights {
    pub dense: (NormWeights, DenseWeights, NormWeights),
    pub experts: (NormWeights, ExpertsWeights, NormWeights),
    pub router_gain: Weight,
}

/// What a block computes with.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "named as in the architecture")]
pub enum OperationWeights {
    Attention(AttentionWeights),
    Latent(LatentWeights),
    ShortConv(ShortConvWeights),
    Recurrence(Box<RecurrenceWeights>),
    Dense(DenseWeights),
    Experts(ExpertsWeights),
    DenseAndExperts(Box<DenseAndExpertsWeights>),
    PerLayerInput { gate: Projection, projection: Projection },
}

/// One block.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "named as in the architecture")]
pub struct BlockWeights {
    pub before: NormWeights,
    pub operation: OperationWeights,
    pub after: NormWeights,
    /// Factor on the stream then.
    pub scalar: f32,
}

/// What tokens have for each layer.
#[derive(Clone, Copy, Debug)]
pub struct PerLayerWeights {
    /// `[vocab, layers * width]`.
    pub embedding: Weight,
    /// `[layers * width, hidden]`.
    pub projection: Projection,
    /// `[width]`.
    pub gain: Weight,
}

/// All weights of a model.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "named as in the architecture")]
pub struct Weights {
    pub embedding: Weight,
    pub per_layer: Option<PerLayerWeights>,
    pub layers: Vec<Vec<BlockWeights>>,
    pub final_norm: NormWeights,
    pub lm_head: Projection,
}
