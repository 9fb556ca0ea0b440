//! The one forward pass, over the [`Backend`] trait, for every family.

use super::architecture::{Architecture, Attention, Ffn, HeadNorm, KvProjection, LayerGroup};
use super::weights::{FfnWeights, KvWeights, LayerWeights, Projection, Weights};
use crate::backend::{
    self, Activation, Backend, Experts, Heads, KvPages, KvShape, Linear, MaxBatchShape, Norm, Placement, Rotary, Tensor,
};
use crate::error::Result;
use crate::limits;

/// What the steps of a model are bounded by.
#[derive(Clone, Copy, Debug)]
pub struct StepLimits {
    /// Tokens of a step.
    pub tokens: usize,
    /// Sequences of a step.
    pub sequences: usize,
    /// Rows of logits computed at once.
    pub logits_rows: usize,
    /// Positions of a sequence.
    pub context: usize,
    /// Tokens of a page.
    pub page_tokens: usize,
    /// Page frames of each layer group.
    pub frames: usize,
}

/// Activations of one step, reserved for the largest one.
struct Workspace {
    x: Tensor,
    y: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    latent: Tensor,
    attended: Tensor,
    gate: Tensor,
    up: Tensor,
    /// For each rotary embedding.
    angles: Vec<Tensor>,
    picked: Tensor,
    logits: Tensor,
}

/// Elements of each part of the workspace for one row.
struct Widths {
    q: usize,
    kv: usize,
    latent: usize,
    inner: usize,
    router: usize,
}

impl Widths {
    fn of(a: &Architecture) -> Widths {
        let mut w = Widths { q: 0, kv: 0, latent: 1, inner: 0, router: 1 };
        for layer in &a.layers {
            let t = &layer.attention;
            w.q = w.q.max(t.heads * t.head_dim);
            w.kv = w.kv.max(t.kv_heads * t.head_dim * if t.kv == KvProjection::Direct { 1 } else { 2 });
            if let KvProjection::Latent { rank } = t.kv {
                w.latent = w.latent.max(rank);
            }
            match layer.ffn {
                Ffn::Dense { intermediate, .. } => w.inner = w.inner.max(intermediate),
                Ffn::Experts { count, shared_intermediate, .. } => {
                    w.inner = w.inner.max(shared_intermediate);
                    w.router = w.router.max(count);
                }
            }
        }
        // The gate of the attention's result borrows the feed-forward's place.
        w.inner = w.inner.max(w.q);
        w
    }

    fn row(&self, a: &Architecture) -> usize {
        let angles: usize = a.rotaries.iter().map(|r| r.dims()).sum();
        let attended = self.q.max(a.hidden);
        2 * a.hidden + self.q + 2 * self.kv + self.latent + attended + 2 * self.inner + self.router + angles
    }
}

/// A model ready to run on a backend.
pub struct Model {
    architecture: Architecture,
    weights: Weights,
    groups: Vec<(LayerGroup, KvPages)>,
    /// Group and index within it, for each layer.
    place: Vec<(usize, usize)>,
    workspace: Workspace,
    logits_rows_max: usize,
    router: Tensor,
    /// Rows of the step that was begun.
    rows: usize,
}

impl Model {
    /// Bytes of workspace [`Model::new`] will reserve, exactly.
    pub fn workspace_bytes(a: &Architecture, limits: &StepLimits) -> u64 {
        let StepLimits { tokens: step_tokens, logits_rows, .. } = *limits;
        let product = |rows: usize, width: usize| (rows as u64).saturating_mul(width as u64);
        let w = Widths::of(a);
        let elements = product(step_tokens, w.row(a)).saturating_add(product(logits_rows, a.hidden + a.vocab));
        elements.saturating_mul(4)
    }

    /// The largest step that a model with this workspace asks a backend for.
    pub fn max_batch_shape(a: &Architecture, limits: &StepLimits) -> MaxBatchShape {
        let w = Widths::of(a);
        let mut max_shape = MaxBatchShape {
            rows: limits.tokens,
            sequences: limits.sequences,
            logits_rows: limits.logits_rows,
            positions: limits.context,
            groups: a.groups().len(),
            page_tokens: limits.page_tokens,
            frames: limits.frames,
            in_features: a.hidden.max(w.inner).max(w.latent),
            best: limits.logits_rows * limits::BEST_LOGITS_MAX,
            hidden: a.hidden,
            vocab: a.vocab,
            ..MaxBatchShape::default()
        };
        for layer in &a.layers {
            let t = &layer.attention;
            max_shape.heads = max_shape.heads.max(t.heads);
            max_shape.heads_per_kv = max_shape.heads_per_kv.max(t.heads / t.kv_heads.max(1));
            max_shape.k_dim = max_shape.k_dim.max(t.head_dim);
            max_shape.v_dim = max_shape.v_dim.max(t.head_dim);
            if let Ffn::Experts { count, routing, intermediate, .. } = layer.ffn {
                max_shape.in_features = max_shape.in_features.max(a.hidden + 2 * intermediate);
                max_shape.expert_inner = max_shape.expert_inner.max(intermediate);
                max_shape.experts = max_shape.experts.max(count);
                max_shape.chosen = max_shape.chosen.max(routing.chosen);
            }
        }
        max_shape
    }

    /// Reserves pages and workspace. `shapes` gives the pages of each layer group.
    pub fn new(
        architecture: Architecture,
        weights: Weights,
        shapes: &[KvShape],
        limits: &StepLimits,
        backend: &mut dyn Backend,
    ) -> Result<Model> {
        let a = &architecture;
        let w = Widths::of(a);
        let StepLimits { tokens: step_tokens, logits_rows, .. } = *limits;
        backend.reserve(&Model::max_batch_shape(a, limits))?;
        let mut alloc = |width: usize, what: &str| backend.alloc(step_tokens * width, what);
        let workspace = Workspace {
            x: alloc(a.hidden, "activations")?,
            y: alloc(a.hidden, "activations")?,
            q: alloc(w.q, "queries")?,
            k: alloc(w.kv, "keys")?,
            v: alloc(w.kv, "values")?,
            latent: alloc(w.latent, "latent keys and values")?,
            attended: alloc(w.q.max(a.hidden), "attention")?,
            gate: alloc(w.inner, "feed-forward")?,
            up: alloc(w.inner, "feed-forward")?,
            angles: a.rotaries.iter().map(|r| alloc(r.dims(), "rotary angles")).collect::<Result<_>>()?,
            picked: backend.alloc(logits_rows * a.hidden, "output rows")?,
            logits: backend.alloc(logits_rows * a.vocab, "logits")?,
        };
        let router = backend.alloc(step_tokens * w.router, "router logits")?;
        let groups = a.groups();
        let mut place = vec![(0, 0); a.layers.len()];
        for (g, group) in groups.iter().enumerate() {
            group.layers.iter().enumerate().for_each(|(i, &l)| place[l] = (g, i));
        }
        let groups = groups
            .into_iter()
            .zip(shapes)
            .map(|(group, shape)| Ok((group, backend.kv_pages(*shape)?)))
            .collect::<Result<_>>()?;
        Ok(Model { architecture, weights, groups, place, workspace, logits_rows_max: logits_rows, router, rows: 0 })
    }

    /// The architecture.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Layer groups, each with a page table per sequence.
    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// The pages of a layer group.
    pub fn pages(&self, group: usize) -> Option<KvPages> {
        self.groups.get(group).map(|(_, pages)| *pages)
    }

    /// Most rows of one [`Model::logits`] call.
    pub fn logits_rows_max(&self) -> usize {
        self.logits_rows_max
    }

    /// Begins the step that [`backend::Steps::step`] was filled with: embeds all rows. [`Model::layer`] then takes them through
    /// the layers, one call for each, in order, so that the caller may rest between two of them. A step may be given up before
    /// its last layer: run again, it writes the same keys and values to the same places.
    pub fn begin(&mut self, backend: &mut dyn Backend) {
        backend.begin();
        self.rows = backend.step().tokens.len();
        let (a, ws) = (&self.architecture, &self.workspace);
        backend.embed(self.weights.embedding, 1.0, ws.x);
        for (rotary, &angles) in a.rotaries.iter().zip(&ws.angles) {
            backend.rotary_angles(&rotary.inv_freq, rotary.scale, angles);
        }
    }

    /// The vocabulary: logits of a row.
    pub fn vocab(&self) -> usize {
        self.architecture.vocab
    }

    /// Layers of the model.
    pub fn layers(&self) -> usize {
        self.weights.layers.len()
    }

    /// Runs all rows of the step through layer `index`. After the last one their keys and values are in the pages of all
    /// layers, and [`Model::logits`] may ask for any row until the next step.
    pub fn layer(&mut self, backend: &mut dyn Backend, index: usize) {
        let (a, ws, rows) = (&self.architecture, &self.workspace, self.rows);
        let (spec, weights) = (&a.layers[index], &self.weights.layers[index]);
        backend.norm(ws.x, &rms(weights.attention_norm, a.eps), a.hidden, rows, ws.y);
        self.attention(backend, &spec.attention, weights, index);
        backend.norm(ws.x, &rms(weights.ffn_norm, a.eps), a.hidden, rows, ws.y);
        self.ffn(backend, &spec.ffn, &weights.ffn);
    }

    /// Samples `rows` of the step's logits positions, from `first` on, as [`backend::Step::sampling`] says.
    pub fn sample(&mut self, backend: &mut dyn Backend, first: usize, rows: usize) {
        let head = self.head(backend, first, rows);
        backend.sample(self.workspace.picked, rows, head, None);
    }

    /// Reads the logits of the `row`-th position that the last [`Model::sample`] was of, one of
    /// [`crate::sampling::SamplingKind::Host`]. Waits for the device.
    ///
    /// # Errors
    /// As of [`backend::Memory::read`].
    pub fn read_logits(&self, backend: &mut dyn Backend, row: usize, out: &mut [f32]) -> Result<()> {
        let vocab = self.vocab();
        backend.read(self.workspace.logits.at(row * vocab), out)
    }

    /// The logits `[rows, vocab]` of `rows` of the step's logits positions, from `first` on, on the device.
    pub fn logits(&mut self, backend: &mut dyn Backend, first: usize, rows: usize) -> Tensor {
        let head = self.head(backend, first, rows);
        backend.linear(self.workspace.picked, rows, &[head]);
        head.out
    }

    /// Brings the hidden states of some positions into `picked`; the product that makes logits of them.
    fn head(&mut self, backend: &mut dyn Backend, first: usize, rows: usize) -> Linear {
        assert!(rows <= self.logits_rows_max, "{rows} rows of logits, at most {}", self.logits_rows_max);
        let (a, ws) = (&self.architecture, &self.workspace);
        backend.gather(ws.x, first, rows, a.hidden, ws.picked);
        backend.norm(ws.picked, &rms(self.weights.final_norm, a.eps), a.hidden, rows, ws.picked);
        plain(self.weights.lm_head, ws.logits)
    }

    /// `x += out_proj(attention(y))`.
    fn attention(&self, backend: &mut dyn Backend, t: &Attention, w: &LayerWeights, layer: usize) {
        let (ws, rows) = (&self.workspace, self.rows);
        let heads = |tensor, heads: usize, head_stride, row_stride| Heads {
            tensor,
            row_stride,
            head_stride,
            heads,
            dim: t.head_dim,
        };
        let q = heads(ws.q, t.heads, t.head_dim, t.heads * t.head_dim);
        let (k, v) = match w.kv {
            KvWeights::Direct { k, v } => {
                backend.linear(ws.y, rows, &[to(w.q, ws.q), to(k, ws.k), to(v, ws.v)]);
                let width = t.kv_heads * t.head_dim;
                (heads(ws.k, t.kv_heads, t.head_dim, width), heads(ws.v, t.kv_heads, t.head_dim, width))
            }
            KvWeights::Latent { a, norm, b } => {
                backend.linear(ws.y, rows, &[to(w.q, ws.q), to(a, ws.latent)]);
                backend.norm(ws.latent, &rms(norm, self.architecture.eps), norm.in_features, rows, ws.latent);
                backend.linear(ws.latent, rows, &[to(b, ws.k)]);
                let (both, width) = (2 * t.head_dim, 2 * t.head_dim * t.kv_heads);
                (heads(ws.k, t.kv_heads, both, width), heads(ws.k.at(t.head_dim), t.kv_heads, both, width))
            }
        };
        let (group, index) = self.place[layer];
        let pages = self.groups[group].1;
        let spec = &self.architecture.rotaries[t.rotary];
        let rotary = Rotary {
            angles: ws.angles[t.rotary],
            start: t.rotary_start,
            dims: spec.dims(),
            interleaved: t.rotary_interleaved,
        };
        let placement = Placement {
            q,
            k,
            v,
            norms: w.head_norms.map(|(q, k)| [q, k]),
            norm_last: t.head_norm == HeadNorm::AfterRotary,
            eps: self.architecture.eps,
            rotary: Some(rotary),
            pages,
            layer: index,
        };
        backend.place_heads(&placement);
        let attention = backend::Attention {
            q,
            out: ws.attended,
            pages,
            layer: index,
            scale: t.scale,
            window: t.window,
            softcap: None,
            sinks: None,
        };
        backend.attention(attention);
        if let Some(gate) = w.gate {
            backend.linear(ws.y, rows, &[to(gate, ws.gate)]);
            let gates = heads(ws.gate, t.heads, t.head_dim, t.heads * t.head_dim);
            backend.sigmoid_mul(ws.attended, t.head_dim, gates, rows);
        }
        backend.linear(ws.attended, rows, &[Linear { accumulate: true, ..to(w.out, ws.x) }]);
    }

    /// `x += ffn(y)`.
    fn ffn(&self, backend: &mut dyn Backend, ffn: &Ffn, weights: &FfnWeights) {
        let (ws, rows) = (&self.workspace, self.rows);
        match (weights, ffn) {
            (FfnWeights::Dense { gate, up, down }, _) => {
                backend.gated(ws.y, rows, to(*gate, ws.gate), to(*up, ws.up), Activation::Silu);
                backend.linear(ws.gate, rows, &[Linear { accumulate: true, ..to(*down, ws.x) }]);
            }
            (FfnWeights::Experts { router, routed, shared }, Ffn::Experts { routing, .. }) => {
                let factor = 1.0 / shared.len().max(1) as f32;
                for expert in shared {
                    let (gate, up) = (expert.gate.map_or(expert.up.0, |g| g.0), expert.up.0);
                    backend.gated(ws.y, rows, plain(gate, ws.gate), plain(up, ws.up), Activation::Silu);
                    backend.linear(ws.gate, rows, &[plain(expert.down.0, ws.attended)]);
                    backend.add_scaled(ws.x, ws.attended, factor, rows * expert.down.0.out_features);
                }
                let logits = self.router;
                backend.linear(ws.y, rows, &[plain(*router, logits)]);
                let experts = Experts {
                    experts: routed,
                    logits,
                    routing: *routing,
                    choice_bias: None,
                    expert_scale: None,
                    activation: Activation::Silu,
                    x: ws.y,
                    out: ws.x,
                };
                backend.experts(experts, rows);
            }
            (FfnWeights::Experts { .. }, Ffn::Dense { .. }) => {
                unreachable!("weights are bound by this very architecture")
            }
        }
    }
}

fn rms(gain: crate::backend::Weight, eps: f32) -> Norm {
    Norm { gain: Some(gain), bias: None, eps, centred: false }
}

fn to(projection: Projection, out: Tensor) -> Linear {
    Linear { weight: projection.weight, bias: projection.bias, out, accumulate: false }
}

fn plain(weight: crate::backend::Weight, out: Tensor) -> Linear {
    Linear { weight, bias: None, out, accumulate: false }
}
