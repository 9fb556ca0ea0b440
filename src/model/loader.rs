//! Brings the weights of a checkpoint to a device: has it checked that the checkpoint holds those of the model and no other,
//! takes every tensor by name, and quantizes what the recipe says.
//!
//! Quantized matrices are memory of their own, or come from a file where they were kept; all others are used where the source
//! has them. Called by the engine while it opens.

use super::architecture::Architecture;
use super::binder::{Change, TensorPart, Tensors, walk};
use super::changes;
use super::checkpoint;
use super::families::Family;
use super::float8::{Found, Scales};
use super::recipe::Recipe;
use super::sizes::{find, scales_of, sizes, tensor_bytes};
use super::weights::Weights;
use super::weights_cache::{KeptMatrices, Made};
use crate::backend::cpu::kernels::Elements;
use crate::backend::{Backend, Weight};
use crate::dtype::DType;
use crate::encoding::{Encoding, PANEL, Quantizer, Scheme};
use crate::error::{Error, Result, Status};
use crate::limits;
use crate::os::aligned::AlignedBytes;
use crate::os::thread::ThreadOptions;
use crate::source::{Bytes, ModelSource};
use std::sync::Arc;

/// Called with bytes done and in all, of tensors as they are stored; `false` aborts.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

/// How the weights are made from the tensors.
pub struct Making<'a> {
    /// Which are quantized.
    pub recipe: Recipe,
    /// Quantized matrices that were made before, all of them: with these none is made.
    pub kept: Option<&'a KeptMatrices>,
    /// Receives those that are made.
    pub made: Option<&'a mut Vec<Made>>,
    /// Threads that quantize; 0 = one per physical core.
    pub threads: usize,
    /// Where these run.
    pub thread_options: ThreadOptions,
}

impl From<Recipe> for Making<'_> {
    fn from(recipe: Recipe) -> Self {
        Making { recipe, kept: None, made: None, threads: 0, thread_options: ThreadOptions::default() }
    }
}

/// Binds every tensor of `source` to the architecture on `backend`. The log receives the warnings of [`checkpoint::check`].
///
/// # Errors
/// Those of [`checkpoint::check`]; `Memory`; `Aborted` by the progress function. What was made so far is the backend's, and goes with it.
pub fn bind(
    architecture: &Architecture,
    family: &Family,
    source: &dyn ModelSource,
    making: Making,
    backend: &mut dyn Backend,
    progress: Progress,
    log: &mut dyn FnMut(String),
) -> Result<Weights> {
    let Making { recipe, kept, made, threads, thread_options } = making;
    let report = Report { progress, done: 0, total: sizes(architecture, source, recipe)?.read() };
    checkpoint::check(architecture, family, source)?.into_iter().for_each(&mut *log);
    let quantizer = match kept {
        None if recipe.quantizes() => Some(Quantizer::new(threads, thread_options)?),
        _ => None,
    };
    let mut loader = Loader { source, backend, kept, made, quantizer, report, log };
    walk(architecture, recipe, &mut loader)
}

/// Takes tensors from a checkpoint to a device.
struct Loader<'a> {
    source: &'a dyn ModelSource,
    backend: &'a mut dyn Backend,
    kept: Option<&'a KeptMatrices>,
    made: Option<&'a mut Vec<Made>>,
    /// Makes quantized matrices; `None` where none is to be made.
    quantizer: Option<Quantizer>,
    report: Report<'a>,
    log: &'a mut dyn FnMut(String),
}

/// Counts bytes and asks whether to go on.
struct Report<'a> {
    progress: Progress<'a>,
    done: u64,
    total: u64,
}

impl Report<'_> {
    fn add(&mut self, bytes: usize) -> Result<()> {
        self.done = self.done.saturating_add(bytes as u64);
        if (self.progress)(self.done, self.total) {
            return Ok(());
        }
        Err(Error::new(Status::Aborted, "loading was aborted by the progress callback"))
    }

    /// Whether two tensors are of one type, shape and contents.
    fn same(&mut self, source: &dyn ModelSource, a: &str, b: &str) -> Result<bool> {
        let (Some((a, a_bytes)), Some((b, b_bytes))) = (source.tensor(a)?, source.tensor(b)?) else { return Ok(false) };
        // Of 8-bit floats the scales would have to be alike, too.
        if (a.dtype, &a.shape) != (b.dtype, &b.shape) || a.dtype == DType::F8E4m3 {
            return Ok(false);
        }
        let pieces = |bytes: &Bytes| bytes.as_slice().len().div_ceil(limits::QUANTIZED_PIECE_BYTES);
        for piece in 0..pieces(&a_bytes).max(pieces(&b_bytes)) {
            let range = |bytes: &Bytes| {
                let begin = piece.saturating_mul(limits::QUANTIZED_PIECE_BYTES);
                begin..bytes.len().min(begin.saturating_add(limits::QUANTIZED_PIECE_BYTES))
            };
            if a_bytes.as_slice().get(range(&a_bytes)) != b_bytes.as_slice().get(range(&b_bytes)) {
                return Ok(false);
            }
            self.add(0)?;
        }
        Ok(true)
    }
}

/// A tensor's type, the bytes of a part of it, and the scales that are beside it.
struct Stored {
    dtype: DType,
    bytes: Bytes,
    scales: Option<Scales>,
}

/// A [`Bytes`] as the backend wants it.
struct Hold(Bytes);

impl AsRef<[u8]> for Hold {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

impl Tensors for Loader<'_> {
    fn has(&self, tensor: &str) -> Result<bool> {
        Ok(find(self.source, tensor)?.is_some())
    }

    /// As transformers: an output matrix that differs from the embedding is used, an equal one is not held twice.
    fn untied(&mut self, embedding: &str, lm_head: &str, stored: bool) -> Result<bool> {
        if embedding == lm_head || !self.has(lm_head)? {
            return Ok(false);
        }
        let (source, log) = (self.source, &mut *self.log);
        if stored && source.random(lm_head).is_none() && self.report.same(source, embedding, lm_head)? {
            log(format!("{lm_head} is equal to {embedding}, and not held twice"));
            // It was counted as one that is read.
            let bytes = find(source, lm_head)?.map_or(0, tensor_bytes);
            self.report.add(usize::try_from(bytes).unwrap_or(usize::MAX))?;
            return Ok(false);
        }
        log(format!("config.json says `tie_word_embeddings`, but there is {lm_head}: it is the output matrix"));
        Ok(true)
    }

    fn number(&mut self, part: TensorPart) -> Result<f32> {
        if self.source.random(&part.name).is_some() {
            return Ok(1.0);
        }
        let Stored { dtype, bytes, .. } = self.stored(&part)?;
        let elements = Elements::new(bytes.as_slice(), dtype).filter(|elements| elements.len() == 1);
        let wrong = || Error::format(format!("tensor {} of {dtype} is no number", part.name)).about(&*part.name);
        elements.map(|elements| elements.get(0)).ok_or_else(wrong)
    }

    fn take(&mut self, part: TensorPart, scheme: Option<Scheme>) -> Result<Weight> {
        if let Some(weight) = self.random(&part, scheme)? {
            return Ok(weight);
        }
        let Stored { dtype, bytes, scales } = self.stored(&part)?;
        let (out_features, in_features) = part.matrix();
        let read = usize::try_from(part.byte_count(dtype)).unwrap_or(usize::MAX);
        if let (Some(kept), Some(scheme)) = (self.kept, scheme) {
            let key = part.key();
            let missing = || Error::internal(format!("tensor {key} is not among the kept matrices")).about(&*key);
            let panels = Arc::new(Hold(kept.get(&key).ok_or_else(missing)?.clone()));
            self.report.add(read)?;
            return self.backend.weight(panels, Encoding::Quantized(scheme), out_features, in_features);
        }
        let (bytes, dtype) = match scales {
            Some(scales) => self.scaled(&part, bytes, &scales)?,
            None => (self.changed(&part, bytes, dtype)?, part.made(dtype)),
        };
        if let Some(scheme) = scheme {
            return self.quantized(&part.key(), &bytes, dtype, [out_features, in_features], scheme);
        }
        let (bytes, encoding) = (Arc::new(Hold(bytes)), Encoding::Stored(dtype));
        let weight = match part.by_head {
            true => self.backend.head_weight(bytes, encoding, out_features, in_features)?,
            false => self.backend.weight(bytes, encoding, out_features, in_features)?,
        };
        self.report.add(read)?;
        Ok(weight)
    }
}

impl Loader<'_> {
    /// A tensor as it is stored.
    fn stored(&mut self, part: &TensorPart) -> Result<Stored> {
        let Some((info, bytes)) = self.source.tensor(&part.name)? else {
            return Err(Error::format(format!(
                "the checkpoint has no tensor {}, expected {:?}; it has {} tensors",
                part.name,
                part.stored,
                self.source.tensors()?.len()
            ))
            .about(&*part.name));
        };
        // The source is the one that was checked; its kernels read memory by these.
        let scales = match scales_of(self.source, &info, part)? {
            Found::Scales(scales) => Some(scales),
            Found::Other => {
                checkpoint::fits(&info, part)?;
                None
            }
            Found::Missing(name) => {
                return Err(Error::format(format!("the checkpoint has no tensor {name}")).about(name));
            }
        };
        let bytes = match part.is_whole() {
            true => bytes,
            false => part.bytes(info.dtype).and_then(|range| bytes.part(range)).ok_or_else(|| {
                Error::format(format!("tensor {} of {} cannot be taken apart", part.name, info.dtype))
                    .about(&*part.name)
            })?,
        };
        Ok(Stored { dtype: info.dtype, bytes, scales })
    }

    /// Rows of 8-bit floats, each with its scales, and their type.
    fn scaled(&mut self, part: &TensorPart, bytes: Bytes, scales: &Scales) -> Result<(Bytes, DType)> {
        let beside = match &scales.tensor {
            Some(tensor) => match self.source.tensor(&tensor.name)? {
                Some((info, bytes)) if info == *tensor => Some(bytes),
                _ => return Err(Error::format(format!("tensor {} has changed", tensor.name)).about(&*tensor.name)),
            },
            None => None,
        };
        let made = scales.rows(part, bytes.as_slice(), beside.as_ref().map_or(&[], |bytes| bytes.as_slice()))?;
        bytes.release();
        Ok((Bytes::from_aligned(made), scales.made()))
    }

    /// What is made of the bytes of a part before anything else.
    fn changed(&mut self, part: &TensorPart, bytes: Bytes, dtype: DType) -> Result<Bytes> {
        let ((out_features, in_features), size) = (part.matrix(), dtype.bytes(1).unwrap_or(0));
        let made = match part.change {
            Change::None => return Ok(bytes),
            Change::PlusOne => changes::plus_one(bytes.as_slice(), dtype)?,
            Change::Columns { first, step } => {
                let width = part.stored.last().copied().unwrap_or(0);
                let count = part.shape.first().copied().unwrap_or(0);
                changes::columns(bytes.as_slice(), size, width, (first, step, count))?
            }
            Change::Mxfp4 { first, step } => {
                let scales = match part.scales() {
                    Some(scales) => self.stored(&scales)?.bytes,
                    None => return Err(Error::internal("4-bit floats without scales")),
                };
                changes::mxfp4(bytes.as_slice(), scales.as_slice(), in_features, (first, step, out_features))?
            }
        };
        // The part beside it is made of the same pages of a file, which come back without being read.
        bytes.release();
        Ok(Bytes::from_aligned(made))
    }

    /// A weight that the device makes of random numbers, if the tensor is such a one, of that shape, and no file wants it.
    fn random(&mut self, part: &TensorPart, scheme: Option<Scheme>) -> Result<Option<Weight>> {
        let wanted = part.is_whole() && part.change == Change::None && self.kept.is_none() && self.made.is_none();
        let Some(random) = self.source.random(&part.name).filter(|_| wanted) else { return Ok(None) };
        let Some(info) = find(self.source, &part.name)?.filter(|info| info.shape == part.shape) else {
            return Ok(None);
        };
        let (out_features, in_features) = part.matrix();
        let (encoding, bytes) = (scheme.map_or(Encoding::Stored(info.dtype), Encoding::Quantized), tensor_bytes(info));
        let weight = self.backend.random_weight(random, encoding, out_features, in_features)?;
        if weight.is_some() {
            self.report.add(usize::try_from(bytes).unwrap_or(usize::MAX))?;
        }
        Ok(weight)
    }

    /// A quantized matrix that nobody kept.
    fn quantized(
        &mut self,
        tensor: &str,
        bytes: &Bytes,
        dtype: DType,
        [out_features, in_features]: [usize; 2],
        scheme: Scheme,
    ) -> Result<Weight> {
        let panels = Arc::new(self.quantize(bytes, dtype, [out_features, in_features], scheme)?);
        if let Some(made) = &mut self.made {
            made.push((tensor.to_owned(), Arc::clone(&panels)));
        }
        self.backend.weight(panels, Encoding::Quantized(scheme), out_features, in_features)
    }

    /// Makes a quantized matrix, in pieces, so that a large one can be watched and given up.
    fn quantize(
        &mut self,
        bytes: &Bytes,
        dtype: DType,
        [out_features, in_features]: [usize; 2],
        scheme: Scheme,
    ) -> Result<AlignedBytes> {
        let what = "quantized weights";
        let quantizer = self.quantizer.as_mut().ok_or_else(|| Error::internal("no matrix was to be quantized"))?;
        let len = scheme.bytes(out_features, in_features).ok_or_else(|| Error::memory(what, u64::MAX))?;
        let mut panels = AlignedBytes::zeroed(len).ok_or_else(|| Error::memory(what, len as u64))?;
        let row = dtype.bytes(in_features).unwrap_or(0).max(1);
        let step = (limits::QUANTIZED_PIECE_BYTES / row / PANEL).max(1);
        let pieces = panels.as_mut_slice().chunks_mut((step * scheme.panel_bytes(in_features)).max(1));
        for (from, to) in bytes.as_slice().chunks(step * PANEL * row).zip(pieces) {
            quantizer.quantize(from, dtype, [from.len() / row, in_features], scheme, to)?;
            self.report.add(from.len())?;
        }
        // They have been read for the last time, unless somebody wants their hash.
        bytes.release();
        Ok(panels)
    }
}
