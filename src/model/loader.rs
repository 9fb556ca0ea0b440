//! Brings the weights of a checkpoint to a device: takes every tensor by name, checks type and shape, quantizes what the
//! recipe says, and in the end demands that nothing in the checkpoint was left over.
//!
//! Quantized matrices are memory of their own, or come from a file where they were kept; all others are used where the source
//! has them. Called by the engine while it opens.

use super::architecture::Architecture;
use super::families::Family;
use super::recipe::Recipe;
use super::weights::{Tensors, Weights, find, ignored, matrix_shape, sizes, tensor_bytes, walk};
use super::weights_cache::{KeptMatrices, Made};
use crate::backend::{Backend, HostBytes, Weight};
use crate::dtype::DType;
use crate::encoding::{Encoding, PANEL, Scheme};
use crate::error::{Error, Result, Status};
use crate::limits;
use crate::os::aligned::AlignedBytes;
use crate::source::{Bytes, ModelSource};
use std::collections::HashSet;
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
}

impl From<Recipe> for Making<'_> {
    fn from(recipe: Recipe) -> Self {
        Making { recipe, kept: None, made: None }
    }
}

/// Binds every tensor of `source` to the architecture on `backend`. The log receives one line for each ignored tensor.
///
/// # Errors
/// `Format` and `Unsupported` for a tensor that is missing, left over, or not as `config.json` makes it; `Memory`; `Aborted`
/// by the progress function. What was made so far is the backend's, and goes with it.
pub fn bind(
    architecture: &Architecture,
    family: &Family,
    source: &dyn ModelSource,
    making: Making,
    backend: &mut dyn Backend,
    progress: Progress,
    log: &mut dyn FnMut(String),
) -> Result<Weights> {
    let Making { recipe, kept, made } = making;
    let report = Report { progress, done: 0, total: sizes(architecture, source, recipe)?.read() };
    let mut loader = Loader { source, backend, kept, made, used: HashSet::new(), report };
    let weights = walk(architecture, recipe, &mut loader)?;
    leftovers(architecture, family, source, &loader.used, log)?;
    Ok(weights)
}

/// Takes tensors from a checkpoint to a device.
struct Loader<'a> {
    source: &'a dyn ModelSource,
    backend: &'a mut dyn Backend,
    kept: Option<&'a KeptMatrices>,
    made: Option<&'a mut Vec<Made>>,
    used: HashSet<String>,
    report: Report<'a>,
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

    fn take(&mut self, tensor: String, shape: &[usize], scheme: Option<Scheme>) -> Result<Weight> {
        if let Some(weight) = self.random(&tensor, shape, scheme)? {
            self.used.insert(tensor);
            return Ok(weight);
        }
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
        let (outs, ins) = matrix_shape(shape);
        let weight = match scheme {
            Some(scheme) => self.quantized(&tensor, &bytes, info.dtype, [outs, ins], scheme)?,
            None => {
                let len = bytes.len();
                let weight = self.backend.weight(Arc::new(Hold(bytes)), Encoding::Stored(info.dtype), outs, ins)?;
                self.report.add(len)?;
                weight
            }
        };
        self.used.insert(tensor);
        Ok(weight)
    }
}

impl Loader<'_> {
    /// A weight that the device makes of random numbers, if the tensor is such a one, of that shape, and no file wants it.
    fn random(&mut self, tensor: &str, shape: &[usize], scheme: Option<Scheme>) -> Result<Option<Weight>> {
        let Some(random) = self.source.random(tensor).filter(|_| self.kept.is_none() && self.made.is_none()) else {
            return Ok(None);
        };
        let Some(info) = find(self.source, tensor)?.filter(|info| info.shape == shape) else { return Ok(None) };
        let (outs, ins) = matrix_shape(shape);
        let (encoding, bytes) = (scheme.map_or(Encoding::Stored(info.dtype), Encoding::Quantized), tensor_bytes(info));
        let weight = self.backend.random_weight(random, encoding, outs, ins)?;
        if weight.is_some() {
            self.report.add(usize::try_from(bytes).unwrap_or(usize::MAX))?;
        }
        Ok(weight)
    }

    /// A quantized matrix: the one that was kept, or a new one.
    fn quantized(
        &mut self,
        tensor: &str,
        bytes: &Bytes,
        dtype: DType,
        [outs, ins]: [usize; 2],
        scheme: Scheme,
    ) -> Result<Weight> {
        let panels: HostBytes = match self.kept {
            Some(kept) => {
                let missing =
                    || Error::internal(format!("tensor {tensor} is not among the kept matrices")).about(tensor);
                let panels = kept.get(tensor).ok_or_else(missing)?.clone();
                self.report.add(bytes.len())?;
                Arc::new(Hold(panels))
            }
            None => {
                let panels = Arc::new(self.quantize(bytes, dtype, [outs, ins], scheme)?);
                if let Some(made) = &mut self.made {
                    made.push((tensor.to_owned(), Arc::clone(&panels)));
                }
                panels
            }
        };
        self.backend.weight(panels, Encoding::Quantized(scheme), outs, ins)
    }

    /// Makes a quantized matrix, in pieces, so that a large one can be watched and given up.
    fn quantize(
        &mut self,
        bytes: &Bytes,
        dtype: DType,
        [outs, ins]: [usize; 2],
        scheme: Scheme,
    ) -> Result<AlignedBytes> {
        let what = "quantized weights";
        let len = scheme.bytes(outs, ins).ok_or_else(|| Error::memory(what, u64::MAX))?;
        let mut panels = AlignedBytes::zeroed(len).ok_or_else(|| Error::memory(what, len as u64))?;
        let row = (ins * dtype.size()).max(1);
        let step = (limits::QUANTIZED_PIECE_BYTES / row / PANEL).max(1);
        let pieces = panels.as_mut_slice().chunks_mut((step * scheme.panel_bytes(ins)).max(1));
        for (from, to) in bytes.as_slice().chunks(step * PANEL * row).zip(pieces) {
            self.backend.quantize(from, dtype, from.len() / row, ins, scheme, to)?;
            self.report.add(from.len())?;
        }
        // They have been read for the last time, unless somebody wants their hash.
        bytes.release();
        Ok(panels)
    }
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
