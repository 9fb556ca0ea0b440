//! What the weights of a model take, and which of its matrices are quantized, from the headers of the files.

use super::architecture::Architecture;
use super::binder::{Change, TensorPart, Tensors, walk};
use super::families::Family;
use super::float8::{self, Found};
use super::leftovers::harmless;
use super::recipe::{Part, Recipe};
use crate::backend::Weight;
use crate::dtype::{BlockFormat, DType};
use crate::encoding::{Encoding, Scheme};
use crate::error::{Error, Result};
use crate::source::{ModelSource, TensorInfo};

/// Writes down the matrices that are quantized: name, scheme, outputs, inputs.
struct Quantized<'a> {
    source: &'a dyn ModelSource,
    matrices: Vec<(String, Scheme, usize, usize)>,
}

impl Tensors for Quantized<'_> {
    fn take(&mut self, part: TensorPart, scheme: Option<Scheme>) -> Result<Weight> {
        let (out_features, in_features) = part.matrix();
        self.matrices.extend(scheme.map(|scheme| (part.key(), scheme, out_features, in_features)));
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

/// What the weights of a model take, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightBytes {
    /// Tensors that are used as they are stored.
    pub kept: u64,
    /// Quantized matrices, tensors that a source makes, the dense layers of embeddings, or all weights in a device's own form:
    /// memory of their own.
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
    fn take(&mut self, part: TensorPart, scheme: Option<Scheme>) -> Result<Weight> {
        let (out_features, in_features) = part.matrix();
        let info = find(self.source, &part.name)?;
        // What is wrong with it is for the check to say.
        let scaled = match info.map(|info| scales_of(self.source, info, &part)) {
            Some(Ok(Found::Scales(scales))) => Some(scales.made()),
            _ => None,
        };
        let too_large =
            || Error::format(format!("tensor {} of shape {:?} is too large to quantize", part.name, part.shape));
        let panels = scheme.map(|scheme| scheme.bytes(out_features, in_features).ok_or_else(too_large)).transpose()?;
        let changed = part.change != Change::None || scaled.is_some();
        let made = |info: &TensorInfo| scaled.unwrap_or_else(|| part.made(info.dtype));
        let own = match (self.device, info) {
            // Memory of the process's own.
            (None, Some(info)) if (changed || self.source.is_made(&part.name)) && scheme.is_none() => {
                Some(part.bytes_of(made(info)))
            }
            (None, _) => panels.map(|bytes| bytes as u64),
            (Some(_), None) => Some(0),
            (Some(bytes), Some(info)) => {
                // Devices may hold these as elements; then they are as wide as any.
                let made = if part.by_head { DType::F32 } else { made(info) };
                Some(bytes(scheme.map_or(Encoding::Stored(made), Encoding::Quantized), out_features, in_features))
            }
        };
        let (stored, sizes) = (info.map_or(0, |info| part.byte_count(info.dtype)), &mut self.sizes);
        match own {
            None => sizes.kept = sizes.kept.saturating_add(stored),
            Some(own) => {
                sizes.quantized = sizes.quantized.saturating_add(own);
                sizes.made_from = sizes.made_from.saturating_add(stored);
            }
        }
        Ok(Weight { id: 0, out_features, in_features })
    }

    fn number(&mut self, _part: TensorPart) -> Result<f32> {
        Ok(1.0)
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
        // Codes and scales of 4-bit floats: no other weights are bytes.
        let made = if info.dtype == DType::U8 { DType::Blocks(BlockFormat::Mxfp4) } else { info.dtype };
        match sums.iter_mut().find(|(dtype, _)| *dtype == made) {
            Some((_, sum)) => *sum = sum.saturating_add(bytes),
            None => sums.push((made, bytes)),
        }
    }
    let most = sums.into_iter().reduce(|most, next| if next.1 > most.1 { next } else { most });
    Ok(most.map(|(dtype, _)| Encoding::Stored(dtype)))
}

/// The scales of a tensor in 8-bit floats.
pub(super) fn scales_of(source: &dyn ModelSource, info: &TensorInfo, part: &TensorPart) -> Result<Found> {
    match info.dtype {
        DType::F8E4m3 => float8::scales(source.tensors()?, source.config()?, info, part),
        _ => Ok(Found::Other),
    }
}

/// The entry of a tensor in the source's list, which is sorted by name.
pub(super) fn find<'a>(source: &'a dyn ModelSource, name: &str) -> Result<Option<&'a TensorInfo>> {
    Ok(TensorInfo::find(source.tensors()?, name))
}

pub(super) fn tensor_bytes(info: &TensorInfo) -> u64 {
    let row = info.shape.last().copied().unwrap_or(1);
    let rows: u64 = info.shape.iter().rev().skip(1).map(|&d| d as u64).product();
    rows.saturating_mul(info.dtype.bytes(row).unwrap_or(usize::MAX) as u64)
}
