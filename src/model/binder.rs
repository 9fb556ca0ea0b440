//! Which tensors a model has: walks an [`Architecture`] and takes each tensor by name, in one order, whether it is loaded
//! ([`super::loader`]), checked ([`super::checkpoint`]), sized ([`super::sizes`]) or listed.

use super::architecture::{
    Architecture, Attention, Before, Block, Gate, Head, HeadNorm, KvProjection, LatentAttention, Norm, NormKind,
    Operation,
};
use super::recipe::{Part, Recipe};
use super::weights::{
    AttentionWeights, BlockWeights, KvWeights, LatentWeights, NormWeights, OperationWeights, Projection, Weights,
};
use crate::backend::Weight;
use crate::dtype::{BlockFormat, DType};
use crate::encoding::Scheme;
use crate::error::Result;
use std::ops::Range;

mod feed_forward;
mod recurrent;

/// What the names of tensors with 4-bit floats end with, and of those with their scales.
pub(super) const BLOCKS: &str = "_blocks";
const SCALES: &str = "_scales";

/// What is made of a tensor when it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing.
    None,
    /// One is added to each element, in f32.
    PlusOne,
    /// Of one matrix `[in, out]` of a stack, the columns `first`, `first + step` and so on become rows.
    Columns {
        /// The first.
        first: usize,
        /// From one to the next.
        step: usize,
    },
    /// Of one matrix of a stack in 4-bit floats, the rows `first`, `first + step` and so on become blocks of
    /// [`BlockFormat::Mxfp4`]. Their scales are a tensor of its own: [`TensorPart::scales`].
    Mxfp4 {
        /// The first.
        first: usize,
        /// From one to the next.
        step: usize,
    },
}

/// Consecutive rows of a tensor of the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TensorPart {
    /// The tensor's name in the checkpoint.
    pub name: String,
    /// Its shape there.
    pub stored: Vec<usize>,
    /// The first row of the part; a row is of the last dimension, or an element where the part is of a vector. Of a stack that
    /// is changed, the matrix.
    pub first: usize,
    /// The shape of what is made: of a matrix or of a vector.
    pub shape: Vec<usize>,
    /// What is made of it.
    pub change: Change,
    /// It is multiplied with for each head, by rows and by columns.
    pub by_head: bool,
}

impl TensorPart {
    /// A whole tensor.
    pub fn whole(name: String, shape: &[usize]) -> TensorPart {
        TensorPart {
            name,
            stored: shape.to_vec(),
            first: 0,
            shape: shape.to_vec(),
            change: Change::None,
            by_head: false,
        }
    }

    /// Whether it is all of the tensor.
    pub fn is_whole(&self) -> bool {
        self.shape == self.stored
    }

    /// Outputs and inputs; a vector is a matrix of one row.
    pub fn matrix(&self) -> (usize, usize) {
        match *self.shape.as_slice() {
            [out_features, in_features] => (out_features, in_features),
            ref shape => (1, shape.iter().product()),
        }
    }

    /// How many rows, and the elements of one. All of a vector is a row, a part of it is so many rows of one element.
    fn rows(&self) -> (usize, usize) {
        match (self.change, self.shape.as_slice()) {
            (Change::Columns { .. } | Change::Mxfp4 { .. }, _) => (1, self.stored.iter().skip(1).product()),
            (_, &[rows, row]) => (rows, row),
            (_, &[len]) if !self.is_whole() => (len, 1),
            (_, shape) => (1, shape.iter().product()),
        }
    }

    /// The scales of 4-bit floats.
    pub fn scales(&self) -> Option<TensorPart> {
        let Change::Mxfp4 { .. } = self.change else { return None };
        let name = format!("{}{SCALES}", self.name.strip_suffix(BLOCKS).unwrap_or(&self.name));
        let stored = self.stored.iter().take(3).copied().collect();
        Some(TensorPart { name, stored, ..self.clone() })
    }

    /// The type of what is made of a tensor of this type.
    pub fn made(&self, dtype: DType) -> DType {
        match self.change {
            Change::None | Change::Columns { .. } => dtype,
            Change::PlusOne => DType::F32,
            Change::Mxfp4 { .. } => DType::Blocks(BlockFormat::Mxfp4),
        }
    }

    /// Bytes of what is made of it, in this type.
    pub fn bytes_of(&self, made: DType) -> u64 {
        let (out_features, in_features) = self.matrix();
        let row = made.bytes(in_features).map_or(u64::MAX, |bytes| bytes as u64);
        row.saturating_mul(out_features as u64)
    }

    /// What no other part of a model has.
    pub fn key(&self) -> String {
        match self.change {
            Change::Columns { first, step } | Change::Mxfp4 { first, step } => {
                format!("{}[{}][{first}..{step}]", self.name, self.first)
            }
            _ if self.is_whole() => self.name.clone(),
            _ => format!("{}[{}..{}]", self.name, self.first, self.first + self.rows().0),
        }
    }

    /// Its bytes among those of the tensor; `None` for what cannot be addressed, or a type whose blocks it would cut.
    pub fn bytes(&self, dtype: DType) -> Option<Range<usize>> {
        let (rows, row) = self.rows();
        let row = dtype.bytes(row)?;
        let first = self.first.checked_mul(row)?;
        Some(first..first.checked_add(rows.checked_mul(row)?)?)
    }

    /// How many bytes of the checkpoint it is made of.
    pub fn byte_count(&self, dtype: DType) -> u64 {
        match self.change {
            Change::None | Change::PlusOne => self.bytes(dtype).map_or(u64::MAX, |range| range.len() as u64),
            // As many as are made.
            Change::Columns { .. } | Change::Mxfp4 { .. } => self.bytes_of(self.made(dtype)),
        }
    }
}

/// Where the tensors come from.
pub(super) trait Tensors {
    /// A part of a tensor, which must have the shape; quantized if a scheme is given.
    fn take(&mut self, part: TensorPart, scheme: Option<Scheme>) -> Result<Weight>;
    /// A tensor of one number, which becomes a part of no weight.
    fn number(&mut self, part: TensorPart) -> Result<f32> {
        self.take(part, None).map(|_| 1.0)
    }
    /// Whether there is a tensor `name`.
    fn has(&self, name: &str) -> Result<bool>;
    /// Whether a model that says its output matrix is the embedding has another one all the same. `stored`: it would be used
    /// as it is stored. Where no contents are at hand, a second matrix counts as another.
    fn untied(&mut self, embedding: &str, lm_head: &str, stored: bool) -> Result<bool> {
        let _ = stored;
        Ok(embedding != lm_head && self.has(lm_head)?)
    }
}

/// Takes every tensor of a model as a recipe makes it.
pub(super) fn walk(architecture: &Architecture, recipe: Recipe, tensors: &mut dyn Tensors) -> Result<Weights> {
    Binder { tensors, recipe, a: architecture }.model()
}

/// Name and shape of every tensor of a model, in the order they are bound; of an output matrix that need not be there, too.
pub fn expected(architecture: &Architecture) -> Result<Vec<(String, Vec<usize>)>> {
    let mut list = Listing(Vec::new());
    walk(architecture, Recipe::Stored, &mut list)?;
    Ok(list.0)
}

/// Takes nothing and writes down what was asked for.
struct Listing(Vec<(String, Vec<usize>)>);

impl Tensors for Listing {
    fn take(&mut self, part: TensorPart, _scheme: Option<Scheme>) -> Result<Weight> {
        let (out_features, in_features) = part.matrix();
        // The parts of a tensor follow each other, but for those of a stack.
        let scales = part.scales();
        if part.is_whole() || !self.0.iter().rev().any(|(name, _)| *name == part.name) {
            self.0.push((part.name, part.stored));
            self.0.extend(scales.map(|scales| (scales.name, scales.stored)));
        }
        Ok(Weight { id: 0, out_features, in_features })
    }

    fn has(&self, _name: &str) -> Result<bool> {
        Ok(true)
    }

    fn untied(&mut self, _embedding: &str, _lm_head: &str, _stored: bool) -> Result<bool> {
        Ok(false)
    }
}

/// Knows every tensor by name and shape.
struct Binder<'a> {
    tensors: &'a mut dyn Tensors,
    recipe: Recipe,
    a: &'a Architecture,
}

/// Writes the whole name of a tensor of a layer.
type At<'a> = &'a dyn Fn(&str) -> String;

/// A matrix of a group: its name, its rows, what it is for.
type Member = (&'static str, usize, Part);

impl Binder<'_> {
    fn model(&mut self) -> Result<Weights> {
        let a = self.a;
        let table = self.embedding_name()?;
        let embedding = self.matrix(&table, a.vocab, a.hidden, Part::Kept)?;
        let per_layer = match &a.per_layer {
            Some(inputs) => Some(self.per_layer(inputs)?),
            None => None,
        };
        let layers = (0..a.layers.len()).map(|l| self.layer(l)).collect::<Result<_>>()?;
        let final_norm = self.norm(&a.final_norm, a.hidden, &|name| a.prefix.apply(name))?;
        let (scheme, head) = (self.recipe.scheme(Part::Head), a.prefix.apply(a.names.lm_head));
        let head_name = format!("{head}.weight");
        let own = match a.head {
            Head::Tied => self.tensors.untied(&format!("{table}.weight"), &head_name, scheme.is_none())?,
            Head::Own => true,
            Head::OwnIfPresent => self.tensors.has(&head_name)?,
            Head::Absent => false,
        };
        let lm_head = match (own, scheme) {
            (true, _) => self.matrix(&head, a.vocab, a.hidden, Part::Head)?,
            // A copy of its own: tokens are looked up in the embedding as it is stored.
            (false, Some(_)) if a.head != Head::Absent => self.matrix(&table, a.vocab, a.hidden, Part::Head)?,
            (false, _) => embedding,
        };
        let bias = match a.head_bias && a.head != Head::Absent {
            true => Some(self.tensors.take(TensorPart::whole(format!("{head}.bias"), &[a.vocab]), None)?),
            false => None,
        };
        Ok(Weights { embedding, per_layer, layers, final_norm, lm_head: Projection { weight: lm_head, bias } })
    }

    /// The tensor of the embedding. A tied model may have been saved with its output matrix only.
    fn embedding_name(&self) -> Result<String> {
        let [embedding, lm_head] = [self.a.names.embedding, self.a.names.lm_head].map(|name| self.a.prefix.apply(name));
        let absent = |name: &str| Ok(!self.tensors.has(&format!("{name}.weight"))?);
        match self.a.head == Head::Tied && absent(&embedding)? && !absent(&lm_head)? {
            true => Ok(lm_head),
            false => Ok(embedding),
        }
    }

    fn layer(&mut self, index: usize) -> Result<Vec<BlockWeights>> {
        let a = self.a;
        let layer = a.prefix.apply(&a.names.layer.replace("{l}", &index.to_string()));
        let at = |name: &str| format!("{layer}{name}");
        a.layers[index].iter().map(|block| self.block(block, index, &at)).collect()
    }

    fn block(&mut self, block: &Block, layer: usize, at: At) -> Result<BlockWeights> {
        let before = match &block.before {
            Before::Norm(norm) | Before::Beside(norm) => self.norm(norm, self.a.hidden, at)?,
            Before::Stream | Before::Same => NormWeights::default(),
        };
        let down = Part::Down { layer, layers: self.a.layers.len() };
        let operation = match &block.operation {
            Operation::Attention(attention) => OperationWeights::Attention(self.attention(attention, at)?),
            Operation::Latent(latent) => OperationWeights::Latent(self.latent(latent, at)?),
            Operation::ShortConv(conv) => OperationWeights::ShortConv(self.short_conv(conv, at)?),
            Operation::Recurrence(r) => OperationWeights::Recurrence(Box::new(self.recurrence(r, at)?)),
            Operation::Dense(dense) => OperationWeights::Dense(self.dense(dense, down, at)?),
            Operation::Experts(experts) => OperationWeights::Experts(self.experts(experts, down, at)?),
            Operation::DenseAndExperts(both) => OperationWeights::DenseAndExperts(Box::new(self.both(both, down, at)?)),
            Operation::PerLayerInput(input) => {
                let width = self.a.per_layer.map_or(0, |inputs| inputs.width);
                OperationWeights::PerLayerInput {
                    gate: self.projection((input.names[0], width, Part::Layer), self.a.hidden, false, at)?,
                    projection: self.projection((input.names[1], self.a.hidden, Part::Layer), width, false, at)?,
                }
            }
        };
        let after = match &block.after {
            Some(norm) => self.norm(norm, self.a.hidden, at)?,
            None => NormWeights::default(),
        };
        let scalar = match block.scalar {
            "" => 1.0,
            name => self.tensors.number(TensorPart::whole(at(name), &[1]))?,
        };
        Ok(BlockWeights { before, operation, after, scalar })
    }

    fn norm(&mut self, norm: &Norm, width: usize, at: At) -> Result<NormWeights> {
        if norm.name.is_empty() {
            return Ok(NormWeights::default());
        }
        let name = at(norm.name);
        let gain = Some(self.gain(&name, width, norm.kind)?);
        let bias = match norm.bias {
            true => Some(self.tensors.take(TensorPart::whole(format!("{name}.bias"), &[width]), None)?),
            false => None,
        };
        Ok(NormWeights { gain, bias })
    }

    fn gain(&mut self, name: &str, width: usize, kind: NormKind) -> Result<Weight> {
        let change = if kind.plus_one() { Change::PlusOne } else { Change::None };
        let part = TensorPart { change, ..TensorPart::whole(format!("{name}.weight"), &[width]) };
        self.tensors.take(part, None)
    }

    fn attention(&mut self, t: &Attention, at: At) -> Result<AttentionWeights> {
        let (names, hidden) = (t.names, self.a.hidden);
        let (q_width, kv_width) = (t.heads * t.head_dim, t.kv_heads * t.head_dim);
        let k_norms = match t.kv {
            KvProjection::Shared { .. } => Vec::new(),
            _ => self.head_norms(t, names.k_norm, t.kv_heads, at)?,
        };
        let head_norms = [self.head_norms(t, names.q_norm, t.heads, at)?, k_norms];
        let q_rows = t.query_stride() * t.heads;
        let (q, kv) = match t.kv {
            KvProjection::Direct => {
                let group =
                    [(names.q, q_rows, Part::Layer), (names.k, kv_width, Part::Key), (names.v, kv_width, Part::Value)];
                let [q, k, v] = self.group(group, hidden, t.qkv_bias, at)?;
                (q, KvWeights::Direct { k, v })
            }
            KvProjection::WithQuery => {
                let q = self.projection((names.q, q_rows, Part::Layer), hidden, t.qkv_bias, at)?;
                (q, KvWeights::WithQuery)
            }
            KvProjection::KeyIsValue => {
                let group = [(names.q, q_rows, Part::Layer), (names.k, kv_width, Part::Value)];
                let [q, k] = self.group(group, hidden, t.qkv_bias, at)?;
                (q, KvWeights::KeyIsValue { k })
            }
            KvProjection::Shared { .. } => {
                (self.projection((names.q, q_rows, Part::Layer), hidden, t.qkv_bias, at)?, KvWeights::Shared)
            }
            KvProjection::Latent { rank } => {
                let q = self.projection((names.q, q_rows, Part::Layer), hidden, t.qkv_bias, at)?;
                let kv = KvWeights::Latent {
                    a: self.projection((names.kv_a, rank, Part::Layer), hidden, false, at)?,
                    norm: self.gain(&at(names.kv_norm), rank, NormKind::Rms)?,
                    b: self.projection((names.kv_b, 2 * kv_width, Part::Value), rank, false, at)?,
                };
                (q, kv)
            }
        };
        let out = self.projection((names.out, hidden, Part::Layer), q_width, t.out_bias, at)?;
        let gate_rows = match t.gate {
            Gate::None | Gate::InQuery => None,
            Gate::Own => Some(q_width),
            Gate::PerHead => Some(t.heads),
        };
        let gate = match gate_rows {
            Some(rows) => Some(self.projection((names.gate, rows, Part::Layer), hidden, false, at)?),
            None => None,
        };
        let sinks = match t.sinks {
            true => Some(self.tensors.take(TensorPart::whole(at(names.sinks), &[t.heads]), None)?),
            false => None,
        };
        Ok(AttentionWeights { q, kv, out, head_norms, gate, sinks })
    }

    fn latent(&mut self, t: &LatentAttention, at: At) -> Result<LatentWeights> {
        let (names, hidden) = (t.names, self.a.hidden);
        let q_rows = t.heads * (t.nope + t.rope);
        let (q_a, q) = match t.q_rank {
            Some(rank) => {
                let a = self.projection((names.q_a, rank, Part::Layer), hidden, t.bias, at)?;
                let norm = self.gain(&at(names.q_norm), rank, NormKind::Rms)?;
                (Some((a, norm)), self.projection((names.q_b, q_rows, Part::Layer), rank, false, at)?)
            }
            None => (None, self.projection((names.q, q_rows, Part::Layer), hidden, false, at)?),
        };
        Ok(LatentWeights {
            q_a,
            q,
            kv_a: self.projection((names.kv_a, t.rank + t.rope, Part::Value), hidden, t.bias, at)?,
            kv_norm: self.gain(&at(names.kv_norm), t.rank, NormKind::Rms)?,
            // One of its products runs along the other axis, which panels of rows cannot serve.
            kv_b: self.by_head(&at(names.kv_b), t.heads * (t.nope + t.v_dim), t.rank)?,
            out: self.projection((names.out, hidden, Part::Layer), t.heads * t.v_dim, t.bias, at)?,
        })
    }

    /// The norms of query or key heads, in their order.
    fn head_norms(&mut self, t: &Attention, name: &'static str, heads: usize, at: At) -> Result<Vec<NormWeights>> {
        let norm = Norm { name, kind: t.head_norm_kind, bias: t.head_norm_bias, eps: t.eps };
        match t.head_norm {
            HeadNorm::None => Ok(Vec::new()),
            HeadNorm::Whole => Ok(vec![self.norm(&norm, heads * t.head_dim, at)?]),
            HeadNorm::BeforeRotary | HeadNorm::AfterRotary => Ok(vec![self.norm(&norm, t.head_dim, at)?]),
            HeadNorm::Each => {
                let own = |h: usize| move |name: &str| at(&name.replace("{h}", &h.to_string()));
                (0..heads).map(|h| self.norm(&norm, t.head_dim, &own(h))).collect()
            }
        }
    }

    /// Matrices that share their input. Those of the same name are rows of one tensor, in order.
    fn group<const N: usize>(
        &mut self,
        members: [Member; N],
        in_features: usize,
        bias: bool,
        at: At,
    ) -> Result<[Projection; N]> {
        let mut made = Vec::with_capacity(N);
        for (index, &(name, rows, part)) in members.iter().enumerate() {
            let same = |members: &[Member]| members.iter().filter(|m| m.0 == name).map(|m| m.1).sum::<usize>();
            let (first, total) = (same(&members[..index]), same(&members));
            made.push(self.rows(name, first..first + rows, total, in_features, part, bias, at)?);
        }
        Ok(std::array::from_fn(|i| made[i]))
    }

    fn projection(&mut self, member: Member, in_features: usize, bias: bool, at: At) -> Result<Projection> {
        Ok(self.group([member], in_features, bias, at)?[0])
    }

    /// Some of the `total` rows of a matrix, and of its bias.
    #[allow(clippy::too_many_arguments, reason = "each says another thing of one matrix")]
    fn rows(
        &mut self,
        name: &str,
        rows: Range<usize>,
        total: usize,
        in_features: usize,
        part: Part,
        bias: bool,
        at: At,
    ) -> Result<Projection> {
        let name = at(name);
        let of = |name: String, stored: Vec<usize>, shape: Vec<usize>| TensorPart {
            name,
            stored,
            first: rows.start,
            shape,
            change: Change::None,
            by_head: false,
        };
        let matrix = of(format!("{name}.weight"), vec![total, in_features], vec![rows.len(), in_features]);
        let weight = self.tensors.take(matrix, self.recipe.scheme(part))?;
        let bias = match bias {
            true => Some(self.tensors.take(of(format!("{name}.bias"), vec![total], vec![rows.len()]), None)?),
            false => None,
        };
        Ok(Projection { weight, bias })
    }

    fn by_head(&mut self, name: &str, out_features: usize, in_features: usize) -> Result<Weight> {
        let whole = TensorPart::whole(format!("{name}.weight"), &[out_features, in_features]);
        self.tensors.take(TensorPart { by_head: true, ..whole }, None)
    }

    fn matrix(&mut self, name: &str, out_features: usize, in_features: usize, part: Part) -> Result<Weight> {
        let part_of = TensorPart::whole(format!("{name}.weight"), &[out_features, in_features]);
        self.tensors.take(part_of, self.recipe.scheme(part))
    }
}
