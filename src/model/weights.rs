//! Finding a model's tensors: walks an [`Architecture`], takes each tensor by name, checks its shape, and in the end
//! demands that nothing in the checkpoint was left over.

use super::architecture::{Architecture, Attention, Ffn, Head, HeadNorm, KvProjection};
use super::families::Family;
use crate::backend::{Backend, Expert, Weight};
use crate::dtype::DType;
use crate::encoding::Encoding;
use crate::error::{Error, Result, Status};
use crate::source::{Bytes, ModelSource, TensorInfo};
use std::collections::HashSet;
use std::sync::Arc;

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

/// Called with bytes done and in all; `false` aborts.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

/// Binds every tensor of `source` to the architecture on `backend`. The log receives one line for each ignored tensor.
pub fn bind(
    architecture: &Architecture,
    family: &Family,
    source: &dyn ModelSource,
    backend: &mut dyn Backend,
    progress: Progress,
    log: &mut dyn FnMut(String),
) -> Result<Weights> {
    let total = source.tensors()?.iter().map(tensor_bytes).fold(0, u64::saturating_add);
    let mut loader = Loader { source, backend, used: HashSet::new(), progress, done: 0, total };
    let weights = Binder { tensors: &mut loader }.model(architecture)?;
    leftovers(architecture, family, source, &loader.used, log)?;
    Ok(weights)
}

/// Name and shape of every tensor [`bind`] would take, in its order; of an output matrix that need not be there, too.
pub fn expected(architecture: &Architecture) -> Result<Vec<(String, Vec<usize>)>> {
    let mut list = Listing(Vec::new());
    Binder { tensors: &mut list }.model(architecture)?;
    Ok(list.0)
}

/// Where the binder gets its tensors.
trait Tensors {
    /// The tensor `name`, which must have the shape.
    fn take(&mut self, name: String, shape: &[usize]) -> Result<Weight>;
    /// Whether there is a tensor `name`.
    fn has(&self, name: &str) -> Result<bool>;
}

/// Knows every tensor by name and shape.
struct Binder<'a> {
    tensors: &'a mut dyn Tensors,
}

/// Takes tensors from a checkpoint to a device.
struct Loader<'a> {
    source: &'a dyn ModelSource,
    backend: &'a mut dyn Backend,
    used: HashSet<String>,
    progress: Progress<'a>,
    done: u64,
    total: u64,
}

/// Takes nothing and writes down what was asked for.
struct Listing(Vec<(String, Vec<usize>)>);

impl Tensors for Listing {
    fn take(&mut self, name: String, shape: &[usize]) -> Result<Weight> {
        self.0.push((name, shape.to_vec()));
        let (outs, ins) = matrix_shape(shape);
        Ok(Weight { id: 0, outs, ins })
    }

    fn has(&self, _name: &str) -> Result<bool> {
        Ok(true)
    }
}

/// A vector is a matrix of one row.
fn matrix_shape(shape: &[usize]) -> (usize, usize) {
    if let [outs, ins] = *shape { (outs, ins) } else { (1, shape.iter().product()) }
}

/// A [`Bytes`] as the backend wants it.
struct Hold(Bytes);

impl AsRef<[u8]> for Hold {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

impl Binder<'_> {
    fn model(&mut self, a: &Architecture) -> Result<Weights> {
        let names = a.names;
        let embedding = self.matrix(names.embedding, a.vocab, a.hidden)?;
        let layers = (0..a.layers.len()).map(|l| self.layer(a, l)).collect::<Result<_>>()?;
        let final_norm = self.vector(names.final_norm, a.hidden)?;
        let own = match a.head {
            Head::Tied => false,
            Head::Own => true,
            Head::OwnIfPresent => self.tensors.has(&format!("{}.weight", names.lm_head))?,
        };
        let lm_head = if own { self.matrix(names.lm_head, a.vocab, a.hidden)? } else { embedding };
        Ok(Weights { embedding, layers, final_norm, lm_head })
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
            ffn: self.ffn(a, &spec.ffn, &at)?,
        })
    }

    fn kv(&mut self, a: &Architecture, t: &Attention, at: &dyn Fn(&str) -> String, width: usize) -> Result<KvWeights> {
        let names = a.names;
        Ok(match t.kv {
            KvProjection::Direct => KvWeights::Direct {
                k: self.projection(&at(names.k), width, a.hidden, t.qkv_bias)?,
                v: self.projection(&at(names.v), width, a.hidden, t.qkv_bias)?,
            },
            KvProjection::Latent { rank } => KvWeights::Latent {
                a: self.projection(&at(names.kv_a), rank, a.hidden, false)?,
                norm: self.vector(&at(names.kv_norm), rank)?,
                b: self.projection(&at(names.kv_b), 2 * width, rank, false)?,
            },
        })
    }

    fn ffn(&mut self, a: &Architecture, ffn: &Ffn, at: &dyn Fn(&str) -> String) -> Result<FfnWeights> {
        let names = a.names;
        match *ffn {
            Ffn::Dense { intermediate, bias } => Ok(FfnWeights::Dense {
                gate: self.projection(&at(names.gate), intermediate, a.hidden, bias)?,
                up: self.projection(&at(names.up), intermediate, a.hidden, bias)?,
                down: self.projection(&at(names.down), a.hidden, intermediate, bias)?,
            }),
            Ffn::Experts { count, intermediate, shared, shared_intermediate, .. } => {
                let router = self.matrix(&at(names.router), count, a.hidden)?;
                let trio = [names.expert_gate, names.expert_up, names.expert_down];
                let routed =
                    (0..count).map(|e| self.expert(trio, at, e, intermediate, a.hidden)).collect::<Result<_>>()?;
                let trio = [names.shared_gate, names.shared_up, names.shared_down];
                let shared = (0..shared)
                    .map(|e| self.expert(trio, at, e, shared_intermediate, a.hidden))
                    .collect::<Result<_>>()?;
                Ok(FfnWeights::Experts { router, routed, shared })
            }
        }
    }

    fn expert(
        &mut self,
        [gate, up, down]: [&str; 3],
        at: &dyn Fn(&str) -> String,
        index: usize,
        inner: usize,
        hidden: usize,
    ) -> Result<Expert> {
        let at = |name: &str| at(name).replace("{e}", &index.to_string());
        Ok(Expert {
            gate: self.matrix(&at(gate), inner, hidden)?,
            up: self.matrix(&at(up), inner, hidden)?,
            down: self.matrix(&at(down), hidden, inner)?,
        })
    }

    fn matrix(&mut self, name: &str, outs: usize, ins: usize) -> Result<Weight> {
        self.tensors.take(format!("{name}.weight"), &[outs, ins])
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Weight> {
        self.tensors.take(format!("{name}.weight"), &[len])
    }

    fn projection(&mut self, name: &str, outs: usize, ins: usize, bias: bool) -> Result<Projection> {
        let weight = self.matrix(name, outs, ins)?;
        let bias = if bias { Some(self.tensors.take(format!("{name}.bias"), &[outs])?) } else { None };
        Ok(Projection { weight, bias })
    }
}

impl Tensors for Loader<'_> {
    fn has(&self, tensor: &str) -> Result<bool> {
        Ok(self.source.tensors()?.iter().any(|t| t.name == tensor))
    }

    fn take(&mut self, tensor: String, shape: &[usize]) -> Result<Weight> {
        let Some((info, bytes)) = self.source.tensor(&tensor)? else {
            return Err(Error::format(format!(
                "the checkpoint has no tensor {tensor}, expected {shape:?}; it has {} tensors",
                self.source.tensors()?.len()
            ))
            .about(tensor));
        };
        if info.shape != shape {
            return Err(Error::format(format!(
                "tensor {tensor} has shape {:?}, but config.json makes it {shape:?}",
                info.shape
            ))
            .about(tensor));
        }
        if !matches!(info.dtype, DType::F32 | DType::Bf16 | DType::F16) {
            return Err(Error::unsupported(format!("tensor {tensor} is {}, expected f32, bf16 or f16", info.dtype))
                .about(tensor));
        }
        self.done += bytes.len() as u64;
        let (outs, ins) = matrix_shape(shape);
        let weight = self.backend.weight(Arc::new(Hold(bytes)), Encoding::Stored(info.dtype), outs, ins)?;
        self.used.insert(tensor);
        if !(self.progress)(self.done, self.total) {
            return Err(Error::new(Status::Aborted, "loading was aborted by the progress callback"));
        }
        Ok(weight)
    }
}

/// Bytes of the tensors that [`bind`] will take: all but those the family ignores.
pub fn bytes(architecture: &Architecture, family: &Family, source: &dyn ModelSource) -> Result<u64> {
    let taken = source.tensors()?.iter().filter(|info| ignored(architecture, family, &info.name).is_none());
    Ok(taken.map(tensor_bytes).fold(0, u64::saturating_add))
}

/// The element type in which most bytes of those tensors are stored; of two alike, the one that comes first.
pub fn stored_as(architecture: &Architecture, family: &Family, source: &dyn ModelSource) -> Result<Option<DType>> {
    let mut sums: Vec<(DType, u64)> = Vec::new();
    for info in source.tensors()?.iter().filter(|info| ignored(architecture, family, &info.name).is_none()) {
        let bytes = tensor_bytes(info);
        match sums.iter_mut().find(|(dtype, _)| *dtype == info.dtype) {
            Some((_, sum)) => *sum = sum.saturating_add(bytes),
            None => sums.push((info.dtype, bytes)),
        }
    }
    Ok(sums.into_iter().reduce(|most, next| if next.1 > most.1 { next } else { most }).map(|(dtype, _)| dtype))
}

fn tensor_bytes(info: &TensorInfo) -> u64 {
    let elements: u64 = info.shape.iter().map(|&d| d as u64).product();
    elements.saturating_mul(info.dtype.size() as u64)
}

/// Why a tensor that nobody took may be left.
fn ignored(architecture: &Architecture, family: &Family, tensor: &str) -> Option<&'static str> {
    let stem = tensor.strip_suffix(".weight").unwrap_or(tensor);
    let known = family.ignored.iter().find(|i| tensor.ends_with(i.suffix)).map(|i| i.reason);
    let tied = architecture.head == Head::Tied && stem == architecture.names.lm_head;
    known.or(tied.then_some("the output matrix is tied to the embedding"))
}

/// Every tensor nobody took must be one the family ignores, with a reason.
fn leftovers(
    architecture: &Architecture,
    family: &Family,
    source: &dyn ModelSource,
    used: &HashSet<String>,
    log: &mut dyn FnMut(String),
) -> Result<()> {
    let mut unknown = Vec::new();
    for info in source.tensors()?.iter().filter(|t| !used.contains(&t.name)) {
        match ignored(architecture, family, &info.name) {
            Some(reason) => log(format!("tensor {} is not read: {reason}", info.name)),
            None => unknown.push(&info.name),
        }
    }
    let Some(first) = unknown.first() else { return Ok(()) };
    let list: Vec<&str> = unknown.iter().take(5).map(|n| n.as_str()).collect();
    Err(Error::format(format!(
        "{} tensors of the checkpoint are not part of a {} model as config.json describes it: {}{}",
        unknown.len(),
        architecture.model_type,
        list.join(", "),
        if unknown.len() > list.len() { ", ..." } else { "" }
    ))
    .about(first.as_str()))
}
