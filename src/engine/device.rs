//! Which device an engine runs on.
//!
//! The CPU is always there. A GPU is looked at when the options name it or leave the choice to us; then it is taken if its
//! kernels have the model's shapes and its memory holds what the options ask for, and a log line says why if not.

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

/// Where a model is to run.
#[derive(Clone, Debug)]
pub(super) enum DeviceChoice {
    Cpu,
    Cuda(CudaOptions, DeviceInfo, #[allow(dead_code, reason = "held until the device is opened")] DeviceHold),
}

/// Precision of activations.
pub(super) fn compute(o: &EngineOptions) -> Compute {
    if o.compute == Type::F32 { Compute::F32 } else { Compute::Bf16 }
}

/// Refuses a device that this build cannot have, and an index that names none.
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

/// What the options say of a GPU.
fn cuda_options(o: &EngineOptions) -> CudaOptions {
    CudaOptions {
        index: usize::try_from(o.device_index).unwrap_or(0),
        compute: compute(o),
        invariant: !o.relax_invariance,
        low_priority: o.gpu_low_priority,
        blocking_wait: o.gpu_blocking_wait,
    }
}

/// Chooses the device, and sizes what the model takes there.
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
            // Heads of unusual sizes have pages of f32, unless others are asked for.
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

/// Says why the CPU was chosen. That a build has no other device is nothing to tell everybody.
pub(super) fn refused(error: &Error, log: &mut dyn FnMut(LogLevel, String)) {
    let level = if cuda::BUILT { LogLevel::Info } else { LogLevel::Debug };
    log(level, format!("device auto is the CPU: {}", error.message));
}
