//! The choice of the device that an engine runs on.
//!
//! The CPU is always available. A GPU is probed when the options name it or leave the choice to the library. With
//! [`Device::Auto`] it is used if its kernels support the model's shapes and its memory holds what the options ask for;
//! if not, a log line says why.

use super::api::{Device, EngineOptions, LogLevel, Type};
use super::plan::Sizing;
use crate::backend::cpu::Compute;
use crate::backend::cuda::{self, CudaOptions, DeviceHold, DeviceInfo};
use crate::dtype::DType;
use crate::error::{Error, Result, Unit};
use crate::limits;
use crate::model::Recipe;
use crate::model::architecture::Architecture;
use crate::model::weights;
use crate::os::memory;
use crate::source::ModelSource;

/// The chosen device.
#[derive(Clone, Debug)]
pub(super) enum DeviceChoice {
    Cpu,
    /// Options and facts of the GPU, and the handle that keeps its context alive until it is opened.
    Cuda(CudaOptions, DeviceInfo, #[allow(dead_code, reason = "held until the device is opened")] DeviceHold),
}

/// Precision of activations.
pub(super) fn compute(o: &EngineOptions) -> Compute {
    if o.compute == Type::F32 { Compute::F32 } else { Compute::Bf16 }
}

/// Checks that this build supports the requested device, and that the device index is valid for it.
pub(super) fn check(o: &EngineOptions) -> Result<()> {
    if o.device == Device::Cuda && !cuda::BUILT {
        return cuda::probe(0).map(|_| ());
    }
    let wrong = |message: String| Err(Error::argument(message).about("device_index").numbers(Unit::Count, 0, 0));
    match (o.device, o.device_index) {
        (_, ..=-1) => wrong(format!("option device_index is {}; devices are counted from 0", o.device_index)),
        (Device::Cpu, 1..) => wrong(format!("option device_index is {}; the CPU is device 0", o.device_index)),
        _ => Ok(()),
    }
}

/// The CUDA backend's options.
fn cuda_options(o: &EngineOptions) -> CudaOptions {
    CudaOptions {
        index: usize::try_from(o.device_index).unwrap_or(0),
        compute: compute(o),
        invariant: !o.relax_invariance,
        low_priority: o.gpu_low_priority,
        blocking_wait: o.gpu_blocking_wait,
    }
}

/// Chooses the device and computes the model's sizes on it.
///
/// # Errors
/// Those of the requested GPU, or of [`Sizing::of`]. With [`Device::Auto`] a GPU that cannot be used is no error.
pub(super) fn choose(
    o: &EngineOptions,
    architecture: &Architecture,
    source: &dyn ModelSource,
    recipe: Recipe,
    log: &mut dyn FnMut(LogLevel, String),
) -> Result<Sizing> {
    let gpu = || {
        let options = cuda_options(o);
        let (facts, found) = cuda::probe(options.index)?;
        let bytes = |encoding, out_features, in_features| {
            cuda::weight_bytes(encoding, out_features, in_features, options.compute)
        };
        let weights = weights::device_sizes(architecture, source, recipe, &bytes)?;
        let (asked, most) = (o.step_tokens as usize, limits::STEP_TOKENS_GPU_MAX);
        if asked > most {
            let message = format!("option step_tokens is {asked}, the limit on a GPU is {most}");
            let error = Error::argument(message).about("step_tokens");
            return Err(error.numbers(Unit::Count, asked as u64, most as u64));
        }
        let (mut kv, free) = (Sizing::kv(o), facts.free_bytes - limits::GPU_FREE_BYTES.min(facts.free_bytes / 4));
        let check = |kv| architecture.groups().iter().try_for_each(|group| cuda::kv_check(&group.shape(0, 1, kv)));
        if let Err(error) = check(kv) {
            // KV pages use f32 for head sizes that the kernels do not support in `kv`, unless the options name a type.
            if o.kv != Type::Auto {
                return Err(error);
            }
            kv = DType::F32;
        }
        Sizing::of(o, architecture, weights, Some(free), kv, DeviceChoice::Cuda(options, facts, found))
    };
    if o.device == Device::Cuda {
        return gpu();
    }
    if o.device == Device::Auto {
        match gpu().and_then(|sizing| sizing.require().map(|()| sizing)) {
            Ok(sizing) => return Ok(sizing),
            Err(error) => refused(&error, log),
        }
    }
    let weights = weights::sizes(architecture, source, recipe)?;
    let available = memory::available();
    let sizing = Sizing::of(o, architecture, weights, available.map(|a| a.bytes), Sizing::kv(o), DeviceChoice::Cpu)?;
    Ok(sizing.bounded_by(available.map(|a| a.bound)))
}

/// Logs why [`Device::Auto`] chose the CPU; at debug level in a build without a GPU backend.
pub(super) fn refused(error: &Error, log: &mut dyn FnMut(LogLevel, String)) {
    let level = if cuda::BUILT { LogLevel::Info } else { LogLevel::Debug };
    log(level, format!("device auto is the CPU: {}", error.message));
}
