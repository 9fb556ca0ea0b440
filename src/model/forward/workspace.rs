//! The activations of a step: what each operation of a model needs of them, reserved for the largest step.

use super::StepLimits;
use crate::backend::{Backend, MaxBatchShape, Tensor};
use crate::error::Result;
use crate::limits;
use crate::model::architecture::{
    Architecture, Before, Block, DenseAndExperts, KvProjection, Operation, RecurrenceInputs,
};

/// Activations of one step, reserved for the largest one.
pub(super) struct Workspace {
    /// The residual stream.
    pub x: Tensor,
    /// What an operation reads.
    pub y: Tensor,
    /// The result of an operation that is not added to the stream at once.
    pub z: Option<Tensor>,
    /// What the block after the next one reads.
    pub beside: Option<Tensor>,
    pub q: Tensor,
    pub k: Tensor,
    pub v: Tensor,
    pub latent: Tensor,
    /// Queries of latent attention, as wide as its keys.
    pub absorbed: Tensor,
    pub attended: Tensor,
    pub gate: Tensor,
    pub up: Tensor,
    pub router: Tensor,
    /// What the tokens have for each layer.
    pub per_layer: Option<Tensor>,
    /// For each rotary embedding.
    pub angles: Vec<Tensor>,
    pub picked: Tensor,
    pub logits: Tensor,
}

/// Whether the result of a block is made in a place of its own: it is normed or scaled before it is added, or the operation
/// still reads the stream while it writes.
pub(super) fn apart(block: &Block) -> bool {
    block.after.is_some() || block.factor != 1.0 || matches!(block.before, Before::Stream)
}

/// Elements of each part of the workspace for one row.
struct Widths {
    q: usize,
    kv: usize,
    latent: usize,
    absorbed: usize,
    attended: usize,
    gate: usize,
    inner: usize,
    router: usize,
    apart: usize,
    beside: usize,
    per_layer: usize,
    /// Inputs of the output projection of latent attention, and of its products with heads.
    projected: usize,
}

impl Widths {
    fn of(a: &Architecture) -> Widths {
        let mut w = Widths {
            q: 0,
            kv: 1,
            latent: 1,
            absorbed: 1,
            attended: a.hidden,
            gate: 0,
            inner: 0,
            router: 1,
            apart: 0,
            beside: 0,
            per_layer: 0,
            projected: 0,
        };
        for (_, block) in a.blocks() {
            if apart(block) {
                w.apart = a.hidden;
            }
            if matches!(block.before, Before::Beside(_)) {
                w.beside = a.hidden;
            }
            match &block.operation {
                Operation::Attention(t) => {
                    let q = t.heads * t.head_dim;
                    w.q = w.q.max(t.heads * t.query_stride());
                    let kv = t.kv_heads * t.head_dim;
                    w.kv = w.kv.max(match t.kv {
                        KvProjection::Direct => kv,
                        KvProjection::KeyIsValue => kv,
                        KvProjection::WithQuery | KvProjection::Shared { .. } => 0,
                        KvProjection::Latent { .. } => 2 * kv,
                    });
                    w.attended = w.attended.max(q);
                    // The gate of the attention's result borrows the feed-forward's place.
                    w.gate = w.gate.max(q);
                    if let KvProjection::Latent { rank } = t.kv {
                        w.latent = w.latent.max(rank);
                    }
                }
                Operation::Latent(t) => {
                    let (own, result) = (t.heads * (t.nope + t.rope), t.heads * t.v_dim);
                    w.q = w.q.max(own).max(result);
                    w.kv = w.kv.max(t.rank + t.rope);
                    w.absorbed = w.absorbed.max(t.heads * (t.rank + t.rope));
                    w.attended = w.attended.max(t.heads * t.rank);
                    w.latent = w.latent.max(t.q_rank.unwrap_or(1));
                    w.projected = w.projected.max(result).max(t.rank);
                }
                Operation::ShortConv(t) => {
                    w.q = w.q.max(t.channels);
                    w.kv = w.kv.max(t.channels);
                    w.attended = w.attended.max(t.channels);
                    w.projected = w.projected.max(t.channels);
                }
                Operation::Recurrence(t) => {
                    let (k_width, v_width) = t.widths();
                    w.q = w.q.max(k_width);
                    w.kv = w.kv.max(k_width).max(v_width);
                    w.attended = w.attended.max(v_width);
                    // Gates, or all that is grouped by key heads.
                    w.inner = w.inner.max(match t.inputs {
                        RecurrenceInputs::ByKeyHead => 2 * (k_width + v_width),
                        _ => v_width,
                    });
                    w.latent = w.latent.max(t.v_heads);
                    w.router = w.router.max(2 * t.v_heads);
                }
                Operation::Dense(dense) => w.inner = w.inner.max(dense.intermediate),
                Operation::DenseAndExperts(both) => {
                    w.inner = w.inner.max(both.dense.1.intermediate);
                    w.router = w.router.max(both.experts.1.count);
                }
                Operation::PerLayerInput(_) => {}
                Operation::Experts(experts) => {
                    w.inner = w.inner.max(experts.shared.map_or(0, |shared| shared.each.intermediate));
                    w.router = w.router.max(experts.count);
                    if let Some(inside) = experts.inside {
                        w.latent = w.latent.max(inside.width);
                        w.absorbed = w.absorbed.max(inside.width);
                        w.projected = w.projected.max(inside.width);
                    }
                }
            }
        }
        if let Some(inputs) = &a.per_layer {
            w.per_layer = a.layers.len() * inputs.width;
            w.inner = w.inner.max(w.per_layer);
        }
        w.inner = w.inner.max(w.gate);
        w
    }

    fn row(&self, a: &Architecture) -> usize {
        let angles: usize = a.rotaries.iter().map(|r| r.dims()).sum();
        let stream = 2 * a.hidden + self.apart + self.beside + self.per_layer;
        stream
            + self.q
            + 2 * self.kv
            + self.latent
            + self.absorbed
            + self.attended
            + 2 * self.inner
            + self.router
            + angles
    }
}

impl Workspace {
    /// Bytes that [`Workspace::new`] reserves, exactly.
    pub fn bytes(a: &Architecture, limits: &StepLimits) -> u64 {
        let StepLimits { tokens: step_tokens, logits_rows, .. } = *limits;
        let product = |rows: usize, width: usize| (rows as u64).saturating_mul(width as u64);
        let w = Widths::of(a);
        let elements = product(step_tokens, w.row(a)).saturating_add(product(logits_rows, a.hidden + a.vocab));
        elements.saturating_mul(4)
    }

    pub fn new(a: &Architecture, limits: &StepLimits, backend: &mut dyn Backend) -> Result<Workspace> {
        let StepLimits { tokens: step_tokens, logits_rows, .. } = *limits;
        let w = Widths::of(a);
        let mut alloc = |width: usize, what: &str| backend.alloc(step_tokens * width, what);
        Ok(Workspace {
            x: alloc(a.hidden, "activations")?,
            y: alloc(a.hidden, "activations")?,
            z: if w.apart > 0 { Some(alloc(w.apart, "activations")?) } else { None },
            beside: if w.beside > 0 { Some(alloc(w.beside, "activations")?) } else { None },
            q: alloc(w.q, "queries")?,
            k: alloc(w.kv, "keys")?,
            v: alloc(w.kv, "values")?,
            latent: alloc(w.latent, "latent keys and values")?,
            absorbed: alloc(w.absorbed, "absorbed queries")?,
            attended: alloc(w.attended, "attention")?,
            gate: alloc(w.inner, "feed-forward")?,
            up: alloc(w.inner, "feed-forward")?,
            router: alloc(w.router, "router logits")?,
            per_layer: if w.per_layer > 0 { Some(alloc(w.per_layer, "inputs of layers")?) } else { None },
            angles: a.rotaries.iter().map(|r| alloc(r.dims(), "rotary angles")).collect::<Result<_>>()?,
            picked: backend.alloc(logits_rows * a.hidden, "output rows")?,
            logits: backend.alloc(logits_rows * a.vocab, "logits")?,
        })
    }
}

/// The largest step that a model asks a backend for.
pub(super) fn max_batch_shape(a: &Architecture, limits: &StepLimits) -> MaxBatchShape {
    let w = Widths::of(a);
    let mut max_shape = MaxBatchShape {
        rows: limits.tokens,
        sequences: limits.sequences,
        logits_rows: limits.logits_rows,
        positions: limits.context,
        groups: a.groups().len(),
        page_tokens: limits.page_tokens,
        frequencies: a.rotaries.iter().map(|rotary| rotary.inv_freq.len()).sum(),
        table_pages: if a.groups().iter().any(|group| group.window.is_some()) { usize::MAX } else { limits.frames },
        in_features: a.hidden.max(w.inner).max(w.latent).max(w.projected),
        best: limits.logits_rows * limits::BEST_LOGITS_MAX,
        hidden: a.hidden,
        vocab: a.vocab,
        ..MaxBatchShape::default()
    };
    for (_, block) in a.blocks() {
        match &block.operation {
            Operation::Attention(t) => {
                max_shape.heads = max_shape.heads.max(t.heads);
                max_shape.heads_per_kv = max_shape.heads_per_kv.max(t.heads / t.kv_heads.max(1));
                max_shape.k_dim = max_shape.k_dim.max(t.head_dim);
                max_shape.v_dim = max_shape.v_dim.max(t.head_dim);
            }
            Operation::Latent(t) => {
                max_shape.heads = max_shape.heads.max(t.heads);
                max_shape.heads_per_kv = max_shape.heads_per_kv.max(t.heads);
                max_shape.k_dim = max_shape.k_dim.max(t.rank + t.rope);
                max_shape.v_dim = max_shape.v_dim.max(t.rank);
            }
            Operation::Experts(experts)
            | Operation::DenseAndExperts(DenseAndExperts { experts: (_, experts, _), .. }) => {
                let inner = experts.each.intermediate;
                max_shape.in_features = max_shape.in_features.max(a.hidden + 2 * inner);
                max_shape.expert_inner = max_shape.expert_inner.max(inner);
                max_shape.experts = max_shape.experts.max(experts.count);
                max_shape.chosen = max_shape.chosen.max(experts.routing.chosen);
            }
            Operation::ShortConv(t) => max_shape.conv_kernel = max_shape.conv_kernel.max(t.kernel),
            Operation::Recurrence(t) => {
                max_shape.conv_kernel = max_shape.conv_kernel.max(t.kernel);
                max_shape.state_dim = max_shape.state_dim.max(t.k_dim);
            }
            Operation::Dense(_) | Operation::PerLayerInput(_) => {}
        }
    }
    max_shape
}
