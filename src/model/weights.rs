//! Which tensors a model has: walks an [`Architecture`] and takes each tensor by name, in one order, whether it is loaded
//! ([`super::loader`]), sized or listed.

use super::architecture::{Architecture, Attention, Ffn, Head, HeadNorm, KvProjection};
use super::families::Family;
use super::leftovers::harmless;
use super::recipe::{Part, Recipe};
use crate::backend::{Expert, Weight};
use crate::dtype::DType;
use crate::encoding::{Encoding, Scheme};
use crate::error::{Error, Result};
use crate::source::{ModelSource, TensorInfo};

/// A matrix with its bias.
#[derive(Clone, Copy, Debug)]
pub struct Projection {
    /// `[out, in]`.
    pub weight: Weight,
    /// `[out]`.
    pub bias: Option<Weight>,
}

/// Keys and values of a layer.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "named as in the architecture")]
pub enum KvWeights {
    Direct { k: Projection, v: Projection },
    Latent { a: Projection, norm: Weight, b: Projection },
}

/// Feed-forward part of a layer.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "named as in the architecture")]
pub enum FfnWeights {
    Dense { gate: Projection, up: Projection, down: Projection },
    Experts { router: Weight, routed: Vec<Expert>, shared: Vec<Expert> },
}

/// One layer.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "named as in the architecture")]
pub struct LayerWeights {
    pub attention_norm: Weight,
    pub q: Projection,
    pub kv: KvWeights,
    pub out: Projection,
    pub head_norms: Option<(Weight, Weight)>,
    pub gate: Option<Projection>,
    pub ffn_norm: Weight,
    pub ffn: FfnWeights,
}

/// All weights of a model.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "named as in the architecture")]
pub struct Weights {
    pub embedding: Weight,
    pub layers: Vec<LayerWeights>,
    pub final_norm: Weight,
    pub lm_head: Weight,
}

/// Name and shape of every tensor of a model, in the order they are bound; of an output matrix that need not be there, too.
pub fn expected(architecture: &Architecture) -> Result<Vec<(String, Vec<usize>)>> {
    let mut list = Listing(Vec::new());
    walk(architecture, Recipe::Stored, &mut list)?;
    Ok(list.0)
}

/// Takes every tensor of a model as a recipe makes it.
pub(super) fn walk(architecture: &Architecture, recipe: Recipe, tensors: &mut dyn Tensors) -> Result<Weights> {
    Binder { tensors, recipe }.model(architecture)
}

/// Where the tensors come from.
pub(super) trait Tensors {
    /// The tensor `name`, which must have the shape; quantized if a scheme is given.
    fn take(&mut self, name: String, shape: &[usize], scheme: Option<Scheme>) -> Result<Weight>;
    /// Whether there is a tensor `name`.
    fn has(&self, name: &str) -> Result<bool>;
    /// Whether a model that says its output matrix is the embedding has another one all the same. `stored`: it would be used
    /// as it is stored. Where no contents are at hand, a second matrix counts as another.
    fn untied(&mut self, embedding: &str, lm_head: &str, stored: bool) -> Result<bool> {
        let _ = stored;
        Ok(embedding != lm_head && self.has(lm_head)?)
    }
}

/// Knows every tensor by name and shape.
struct Binder<'a> {
    tensors: &'a mut dyn Tensors,
    recipe: Recipe,
}

/// Takes nothing and writes down what was asked for.
struct Listing(Vec<(String, Vec<usize>)>);

impl Tensors for Listing {
    fn take(&mut self, name: String, shape: &[usize], _scheme: Option<Scheme>) -> Result<Weight> {
        self.0.push((name, shape.to_vec()));
        let (out_features, in_features) = matrix_shape(shape);
        Ok(Weight { id: 0, out_features, in_features })
    }

    fn has(&self, _name: &str) -> Result<bool> {
        Ok(true)
    }

    fn untied(&mut self, _embedding: &str, _lm_head: &str, _stored: bool) -> Result<bool> {
        Ok(false)
    }
}

/// Writes down the matrices that are quantized: name, scheme, outputs, inputs.
struct Quantized<'a> {
    source: &'a dyn ModelSource,
    matrices: Vec<(String, Scheme, usize, usize)>,
}

impl Tensors for Quantized<'_> {
    fn take(&mut self, name: String, shape: &[usize], scheme: Option<Scheme>) -> Result<Weight> {
        let (out_features, in_features) = matrix_shape(shape);
        self.matrices.extend(scheme.map(|scheme| (name, scheme, out_features, in_features)));
        Ok(Weight { id: 0, out_features, in_features })
    }

    fn has(&self, name: &str) -> Result<bool> {
        Ok(find(self.source, name)?.is_some())
    }
}

/// The matrices that a recipe quantizes, in the order they are bound: the name of the tensor each is made of, its scheme,
/// outputs and inputs. No name stands twice.
pub(super) fn quantized_matrices(
    architecture: &Architecture,
    source: &dyn ModelSource,
    recipe: Recipe,
) -> Result<Vec<(String, Scheme, usize, usize)>> {
    let mut quantized = Quantized { source, matrices: Vec::new() };
    walk(architecture, recipe, &mut quantized)?;
    Ok(quantized.matrices)
}

/// A vector is a matrix of one row.
pub(super) fn matrix_shape(shape: &[usize]) -> (usize, usize) {
    if let [out_features, in_features] = *shape { (out_features, in_features) } else { (1, shape.iter().product()) }
}

impl Binder<'_> {
    fn model(&mut self, a: &Architecture) -> Result<Weights> {
        let names = a.names;
        let table = self.embedding_name(a)?;
        let embedding = self.matrix(table, a.vocab, a.hidden, Part::Kept)?;
        let layers = (0..a.layers.len()).map(|l| self.layer(a, l)).collect::<Result<_>>()?;
        let final_norm = self.vector(names.final_norm, a.hidden)?;
        let scheme = self.recipe.scheme(Part::Head);
        let head_name = format!("{}.weight", names.lm_head);
        let own = match a.head {
            Head::Tied => self.tensors.untied(&format!("{table}.weight"), &head_name, scheme.is_none())?,
            Head::Own => true,
            Head::OwnIfPresent => self.tensors.has(&head_name)?,
        };
        let lm_head = match (own, scheme) {
            (true, _) => self.matrix(names.lm_head, a.vocab, a.hidden, Part::Head)?,
            // A copy of its own: tokens are looked up in the embedding as it is stored.
            (false, Some(_)) => self.matrix(table, a.vocab, a.hidden, Part::Head)?,
            (false, None) => embedding,
        };
        Ok(Weights { embedding, layers, final_norm, lm_head })
    }

    /// The tensor of the embedding. A tied model may have been saved with its output matrix only.
    fn embedding_name(&self, a: &Architecture) -> Result<&'static str> {
        let names = a.names;
        let absent = |name: &str| Ok(!self.tensors.has(&format!("{name}.weight"))?);
        match a.head == Head::Tied && absent(names.embedding)? && !absent(names.lm_head)? {
            true => Ok(names.lm_head),
            false => Ok(names.embedding),
        }
    }

    fn layer(&mut self, a: &Architecture, index: usize) -> Result<LayerWeights> {
        let (names, spec) = (a.names, &a.layers[index]);
        let at = |name: &str| name.replace("{l}", &index.to_string());
        let t = &spec.attention;
        let (q_width, kv_width) = (t.heads * t.head_dim, t.kv_heads * t.head_dim);
        let head_norms = match t.head_norm {
            HeadNorm::None => None,
            _ => Some((self.vector(&at(names.q_norm), t.head_dim)?, self.vector(&at(names.k_norm), t.head_dim)?)),
        };
        Ok(LayerWeights {
            attention_norm: self.vector(&at(names.attention_norm), a.hidden)?,
            q: self.projection(&at(names.q), q_width, a.hidden, t.qkv_bias)?,
            kv: self.kv(a, t, &at, kv_width)?,
            out: self.projection(&at(names.out), a.hidden, q_width, t.out_bias)?,
            head_norms,
            gate: match t.gated {
                true => Some(self.projection(&at(names.attention_gate), q_width, a.hidden, false)?),
                false => None,
            },
            ffn_norm: self.vector(&at(names.ffn_norm), a.hidden)?,
            ffn: self.ffn(a, Part::Down { layer: index, layers: a.layers.len() }, &spec.ffn, &at)?,
        })
    }

    fn kv(&mut self, a: &Architecture, t: &Attention, at: &dyn Fn(&str) -> String, width: usize) -> Result<KvWeights> {
        let names = a.names;
        Ok(match t.kv {
            KvProjection::Direct => KvWeights::Direct {
                k: self.projection_of(Part::Key, &at(names.k), width, a.hidden, t.qkv_bias)?,
                v: self.projection_of(Part::Value, &at(names.v), width, a.hidden, t.qkv_bias)?,
            },
            KvProjection::Latent { rank } => KvWeights::Latent {
                a: self.projection(&at(names.kv_a), rank, a.hidden, false)?,
                norm: self.vector(&at(names.kv_norm), rank)?,
                b: self.projection_of(Part::Value, &at(names.kv_b), 2 * width, rank, false)?,
            },
        })
    }

    fn ffn(&mut self, a: &Architecture, down: Part, ffn: &Ffn, at: &dyn Fn(&str) -> String) -> Result<FfnWeights> {
        let names = a.names;
        match *ffn {
            Ffn::Dense { intermediate, bias } => Ok(FfnWeights::Dense {
                gate: self.projection(&at(names.gate), intermediate, a.hidden, bias)?,
                up: self.projection(&at(names.up), intermediate, a.hidden, bias)?,
                down: self.projection_of(down, &at(names.down), a.hidden, intermediate, bias)?,
            }),
            Ffn::Experts { count, intermediate, shared, shared_intermediate, .. } => {
                let router = self.matrix(&at(names.router), count, a.hidden, Part::Kept)?;
                let trio = [names.expert_gate, names.expert_up, names.expert_down];
                let routed = (0..count)
                    .map(|e| self.expert(down, trio, at, e, intermediate, a.hidden))
                    .collect::<Result<_>>()?;
                let trio = [names.shared_gate, names.shared_up, names.shared_down];
                let shared = (0..shared)
                    .map(|e| self.expert(down, trio, at, e, shared_intermediate, a.hidden))
                    .collect::<Result<_>>()?;
                Ok(FfnWeights::Experts { router, routed, shared })
            }
        }
    }

    fn expert(
        &mut self,
        down_part: Part,
        [gate, up, down]: [&str; 3],
        at: &dyn Fn(&str) -> String,
        index: usize,
        inner: usize,
        hidden: usize,
    ) -> Result<Expert> {
        let at = |name: &str| at(name).replace("{e}", &index.to_string());
        Ok(Expert {
            gate: Some((self.matrix(&at(gate), inner, hidden, Part::Layer)?, None)),
            up: (self.matrix(&at(up), inner, hidden, Part::Layer)?, None),
            down: (self.matrix(&at(down), hidden, inner, down_part)?, None),
        })
    }

    fn matrix(&mut self, name: &str, out_features: usize, in_features: usize, part: Part) -> Result<Weight> {
        self.tensors.take(format!("{name}.weight"), &[out_features, in_features], self.recipe.scheme(part))
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Weight> {
        self.tensors.take(format!("{name}.weight"), &[len], None)
    }

    fn projection(&mut self, name: &str, out_features: usize, in_features: usize, bias: bool) -> Result<Projection> {
        self.projection_of(Part::Layer, name, out_features, in_features, bias)
    }

    fn projection_of(
        &mut self,
        part: Part,
        name: &str,
        out_features: usize,
        in_features: usize,
        bias: bool,
    ) -> Result<Projection> {
        let weight = self.matrix(name, out_features, in_features, part)?;
        let bias = if bias { Some(self.tensors.take(format!("{name}.bias"), &[out_features], None)?) } else { None };
        Ok(Projection { weight, bias })
    }
}

/// What the weights of a model take, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightBytes {
    /// Tensors that are used as they are stored.
    pub kept: u64,
    /// Quantized matrices, or all weights in a device's own form: memory of their own.
    pub quantized: u64,
    /// What those are made from, as stored.
    pub made_from: u64,
    /// All tensors of the source.
    pub source: u64,
}

impl WeightBytes {
    /// Bytes that are read to make the weights: what progress is told of.
    pub fn read(&self) -> u64 {
        self.kept.saturating_add(self.made_from)
    }

    /// Bytes of the weights in use.
    pub fn used(&self) -> u64 {
        self.kept.saturating_add(self.quantized)
    }
}

/// Bytes of a weight on a device, by encoding, outputs and inputs.
pub type DeviceBytes<'a> = &'a dyn Fn(Encoding, usize, usize) -> u64;

/// Adds up what would be taken. What is missing or has another shape is for the loader to find.
struct Scale<'a> {
    source: &'a dyn ModelSource,
    device: Option<DeviceBytes<'a>>,
    sizes: WeightBytes,
}

impl Tensors for Scale<'_> {
    fn take(&mut self, name: String, shape: &[usize], scheme: Option<Scheme>) -> Result<Weight> {
        let (out_features, in_features) = matrix_shape(shape);
        let info = find(self.source, &name)?;
        let too_large = || Error::format(format!("tensor {name} of shape {shape:?} is too large to quantize"));
        let panels = scheme.map(|scheme| scheme.bytes(out_features, in_features).ok_or_else(too_large)).transpose()?;
        let own = match (self.device, info) {
            (None, _) => panels.map(|bytes| bytes as u64),
            (Some(_), None) => Some(0),
            (Some(bytes), Some(info)) => {
                let encoding = scheme.map_or(Encoding::Stored(info.dtype), Encoding::Quantized);
                Some(bytes(encoding, out_features, in_features))
            }
        };
        let (stored, sizes) = (info.map_or(0, tensor_bytes), &mut self.sizes);
        match own {
            None => sizes.kept = sizes.kept.saturating_add(stored),
            Some(own) => {
                sizes.quantized = sizes.quantized.saturating_add(own);
                sizes.made_from = sizes.made_from.saturating_add(stored);
            }
        }
        Ok(Weight { id: 0, out_features, in_features })
    }

    fn has(&self, name: &str) -> Result<bool> {
        Ok(find(self.source, name)?.is_some())
    }
}

/// What the weights take as the recipe makes them, from the headers of the files.
pub fn sizes(architecture: &Architecture, source: &dyn ModelSource, recipe: Recipe) -> Result<WeightBytes> {
    sizes_on(None, architecture, source, recipe)
}

/// As [`sizes`]. On a `device` that holds weights in forms of its own, all of it is memory of its own, made from all that is
/// read.
pub fn sizes_on(
    device: Option<DeviceBytes>,
    architecture: &Architecture,
    source: &dyn ModelSource,
    recipe: Recipe,
) -> Result<WeightBytes> {
    let all = source.tensors()?.iter().map(tensor_bytes).fold(0, u64::saturating_add);
    let mut scale = Scale { source, device, sizes: WeightBytes { source: all, ..WeightBytes::default() } };
    walk(architecture, recipe, &mut scale)?;
    Ok(scale.sizes)
}

/// How most matrices of the layers lie in memory: quantized, or in the element type in which most bytes of the tensors are
/// stored; of two alike, the one that comes first.
pub fn encoding(
    architecture: &Architecture,
    family: &Family,
    source: &dyn ModelSource,
    recipe: Recipe,
) -> Result<Option<Encoding>> {
    if let Some(scheme) = recipe.scheme(Part::Layer) {
        return Ok(Some(Encoding::Quantized(scheme)));
    }
    let mut sums: Vec<(DType, u64)> = Vec::new();
    for info in source.tensors()?.iter().filter(|info| harmless(architecture, family, info).is_none()) {
        let bytes = tensor_bytes(info);
        match sums.iter_mut().find(|(dtype, _)| *dtype == info.dtype) {
            Some((_, sum)) => *sum = sum.saturating_add(bytes),
            None => sums.push((info.dtype, bytes)),
        }
    }
    let most = sums.into_iter().reduce(|most, next| if next.1 > most.1 { next } else { most });
    Ok(most.map(|(dtype, _)| Encoding::Stored(dtype)))
}

/// The entry of a tensor in the source's list, which is sorted by name.
pub(super) fn find<'a>(source: &'a dyn ModelSource, name: &str) -> Result<Option<&'a TensorInfo>> {
    let all = source.tensors()?;
    Ok(all.binary_search_by(|info| info.name.as_str().cmp(name)).ok().and_then(|at| all.get(at)))
}

pub(super) fn tensor_bytes(info: &TensorInfo) -> u64 {
    let row = info.shape.last().copied().unwrap_or(1);
    let rows: u64 = info.shape.iter().rev().skip(1).map(|&d| d as u64).product();
    rows.saturating_mul(info.dtype.bytes(row).unwrap_or(usize::MAX) as u64)
}
