//! The one forward pass, over the [`Backend`] trait, for every family.

mod attention;
mod feed_forward;
mod latent;
mod recurrent;
mod workspace;

use super::architecture::{Architecture, Before, Block, LayerGroup, Norm, Operation};
use super::weights::{BlockWeights, NormWeights, OperationWeights, Projection, Weights};
use crate::backend::{self, Backend, KvPages, KvShape, Linear, MaxBatchShape, Tensor};
use crate::error::Result;
use workspace::{Workspace, apart};

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
    /// Page frames of each layer group that keeps all pages.
    pub frames: usize,
}

/// A model ready to run on a backend.
pub struct Model {
    architecture: Architecture,
    weights: Weights,
    groups: Vec<(LayerGroup, KvPages)>,
    /// Group and index within it of each block that keeps something.
    places: Vec<Vec<(usize, usize)>>,
    workspace: Workspace,
    logits_rows_max: usize,
    /// Rows of the step that was begun.
    rows: usize,
}

/// Where an operation reads, and where its result goes.
#[derive(Clone, Copy)]
struct Route {
    from: Tensor,
    to: Tensor,
    /// The result is added to what is there.
    accumulate: bool,
}

impl Model {
    /// Bytes of workspace [`Model::new`] will reserve, exactly.
    pub fn workspace_bytes(a: &Architecture, limits: &StepLimits) -> u64 {
        Workspace::bytes(a, limits)
    }

    /// The largest step that a model with this workspace asks a backend for.
    pub fn max_batch_shape(a: &Architecture, limits: &StepLimits) -> MaxBatchShape {
        workspace::max_batch_shape(a, limits)
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
        backend.reserve(&Model::max_batch_shape(a, limits))?;
        let workspace = Workspace::new(a, limits, backend)?;
        let (groups, places) = a.places();
        let groups = groups
            .into_iter()
            .zip(shapes)
            .map(|(group, shape)| Ok((group, backend.kv_pages(*shape)?)))
            .collect::<Result<_>>()?;
        let logits_rows_max = limits.logits_rows;
        Ok(Model { architecture, weights, groups, places, workspace, logits_rows_max, rows: 0 })
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
        backend.embed(self.weights.embedding, a.embedding_scale, ws.x);
        if let (Some(inputs), Some(weights), Some(to)) = (&a.per_layer, &self.weights.per_layer, ws.per_layer) {
            self.per_layer_inputs(backend, inputs, weights, to);
        }
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
        let (ws, hidden) = (&self.workspace, self.architecture.hidden);
        let blocks = self.architecture.layers[index].iter().zip(&self.weights.layers[index]);
        let mut blocks = blocks.zip(&self.places[index]).peekable();
        while let Some(((block, weights), &place)) = blocks.next() {
            if let (Some(((Block { before: Before::Beside(norm), .. }, next), _)), Some(beside)) =
                (blocks.peek(), ws.beside)
            {
                backend.norm(ws.x, &normed(norm, next.before), hidden, self.rows, beside);
            }
            self.block(backend, block, weights, place);
        }
    }

    /// `x += factor * after(operation(before(x)))`.
    fn block(&self, backend: &mut dyn Backend, block: &Block, w: &BlockWeights, place: (usize, usize)) {
        let (ws, rows, hidden) = (&self.workspace, self.rows, self.architecture.hidden);
        if let Before::Norm(norm) = &block.before {
            backend.norm(ws.x, &normed(norm, w.before), hidden, rows, ws.y);
        }
        let from = match block.before {
            Before::Stream => ws.x,
            Before::Beside(_) => ws.beside.unwrap_or(ws.y),
            Before::Norm(_) | Before::Same => ws.y,
        };
        let own = ws.z.filter(|_| apart(block));
        let route = Route { from, to: own.unwrap_or(ws.x), accumulate: own.is_none() };
        match (&block.operation, &w.operation) {
            (Operation::Attention(spec), OperationWeights::Attention(w)) => {
                self.attention(backend, spec, w, route, place);
            }
            (Operation::Latent(spec), OperationWeights::Latent(w)) => self.latent(backend, spec, w, route, place),
            (Operation::ShortConv(spec), OperationWeights::ShortConv(w)) => {
                self.short_conv(backend, spec, w, route, place);
            }
            (Operation::Recurrence(spec), OperationWeights::Recurrence(w)) => {
                self.recurrence(backend, spec, w, route, place);
            }
            (Operation::Dense(spec), OperationWeights::Dense(w)) => self.dense(backend, spec, w, route),
            (Operation::Experts(spec), OperationWeights::Experts(w)) => self.experts(backend, spec, w, route),
            (Operation::DenseAndExperts(spec), OperationWeights::DenseAndExperts(w)) => {
                self.dense_and_experts(backend, spec, w, route);
            }
            (Operation::PerLayerInput(spec), OperationWeights::PerLayerInput { gate, projection }) => {
                self.per_layer_input(backend, spec, [*gate, *projection], route);
            }
            _ => unreachable!("weights are bound by this very architecture"),
        }
        if let Some(z) = own {
            if let Some(norm) = &block.after {
                backend.norm(z, &normed(norm, w.after), hidden, rows, z);
            }
            backend.add_scaled(ws.x, z, block.factor, rows * hidden);
        }
        if w.scalar != 1.0 {
            backend.scale(ws.x, w.scalar, rows * hidden);
        }
    }

    /// Samples `rows` of the step's logits positions, from `first` on, as [`backend::Step::sampling`] says.
    pub fn sample(&mut self, backend: &mut dyn Backend, first: usize, rows: usize) {
        let head = self.head(backend, first, rows);
        backend.sample(self.workspace.picked, rows, head, self.architecture.logits_softcap);
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
        if let Some(cap) = self.architecture.logits_softcap {
            backend.softcap(head.out, cap, rows * self.vocab());
        }
        head.out
    }

    /// Reads the hidden states `[rows, hidden]` of adjacent rows of the step from `first` on, after the final norm. Waits for the
    /// device. To be called after [`Model::sample`], if that is.
    ///
    /// # Errors
    /// As of [`backend::Memory::read`].
    pub fn read_hidden(&self, backend: &mut dyn Backend, first: usize, rows: usize, out: &mut [f32]) -> Result<()> {
        let (a, ws) = (&self.architecture, &self.workspace);
        // What the last layer read is not needed any more.
        backend.norm(ws.x.at(first * a.hidden), &normed(&a.final_norm, self.weights.final_norm), a.hidden, rows, ws.y);
        backend.read(ws.y, out)
    }

    /// Brings the hidden states of some positions into `picked`; the product that makes logits of them.
    fn head(&mut self, backend: &mut dyn Backend, first: usize, rows: usize) -> Linear {
        assert!(rows <= self.logits_rows_max, "{rows} rows of logits, at most {}", self.logits_rows_max);
        let (a, ws) = (&self.architecture, &self.workspace);
        backend.gather(ws.x, first, rows, a.hidden, ws.picked);
        backend.norm(ws.picked, &normed(&a.final_norm, self.weights.final_norm), a.hidden, rows, ws.picked);
        if a.logits_scale != 1.0 {
            backend.scale(ws.picked, a.logits_scale, rows * a.hidden);
        }
        to(self.weights.lm_head, ws.logits)
    }
}

fn normed(norm: &Norm, weights: NormWeights) -> backend::Norm {
    backend::Norm { gain: weights.gain, bias: weights.bias, eps: norm.eps, centred: norm.kind.centred() }
}

fn to(projection: Projection, out: Tensor) -> Linear {
    Linear { weight: projection.weight, bias: projection.bias, out, accumulate: false }
}
