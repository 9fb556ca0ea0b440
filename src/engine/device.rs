//! The second stage of opening: a device for the model, and what the model takes there.
//!
//! The CPU is always available. A GPU is probed when the options name it or leave the choice to the library. With
//! [`Device::Auto`] it is used if its kernels support the model's shapes and its memory holds what the options ask for;
//! if not, a log line says why.

use super::api::{Device, EngineOptions, Log, LogLevel, Type};
use super::describe::Described;
use crate::backend::cpu::Compute;
use crate::backend::device::{self, DeviceOptions, FreeMemory, ProbedDevice};
use crate::dtype::DType;
use crate::error::{Error, Result, Unit};
use crate::model::sizes::{self, WeightBytes};
use crate::source::ModelSource;

/// A device that can run a model; whether its memory holds it, [`super::memory_plan`] says.
pub(super) struct DeviceChoice {
    pub device: Box<dyn ProbedDevice>,
    /// The memory that was free on it.
    pub free: Option<FreeMemory>,
    /// What the weights take.
    pub weights: WeightBytes,
    /// Element type of KV pages.
    pub kv: DType,
}

impl DeviceChoice {
    /// Probes the device.
    ///
    /// # Errors
    /// Those of the probe; `Unsupported` when it has no kernels for the model's shapes; `Argument` for a step that is
    /// too long for it; `Format` when the model is too large to quantize.
    pub fn of(
        kind: Device,
        described: &Described,
        source: &dyn ModelSource,
        options: &EngineOptions,
    ) -> Result<DeviceChoice> {
        let Described { architecture, recipe, abilities, .. } = described;
        let device = match &options.probe_fn {
            Some(probe) => probe(kind, device_options(options))?,
            None => device::probe(kind, device_options(options))?,
        };
        let profile = device.profile();
        if architecture.bidirectional() && !profile.bidirectional {
            let what = format!("{} has attention to later tokens (use_bidirectional_attention)", source.subject());
            let message = format!("{what}, for which this device has no kernels; choose the device cpu");
            return Err(Error::unsupported(message).about("device"));
        }
        let bytes = |encoding, outputs, inputs| device.weight_bytes(encoding, outputs, inputs);
        let own = profile.own_memory.then_some(&bytes as sizes::DeviceBytes);
        let mut weights = sizes::sizes_on(own, architecture, source, *recipe)?;
        if !profile.own_memory {
            weights.quantized = weights.quantized.saturating_add(abilities.bytes());
        }
        let (asked, most) = (options.step_tokens as usize, profile.step_tokens_max);
        if asked > most {
            let message = format!("option step_tokens is {asked}, the limit on a GPU is {most}");
            let error = Error::argument(message).about("step_tokens");
            return Err(error.numbers(Unit::Count, asked as u64, most as u64));
        }
        let mut kv = match (options.kv, options.compute) {
            (Type::F32, _) | (Type::Auto, Type::F32) => DType::F32,
            (Type::Q8, _) => DType::I8,
            _ => DType::Bf16,
        };
        let groups = architecture.groups();
        if let Err(error) = groups.iter().try_for_each(|group| device.check_kv(&group.shape(0, 1, kv))) {
            // KV pages use f32 for head sizes that the kernels do not support in `kv`, unless the options name a type.
            if options.kv != Type::Auto {
                return Err(error);
            }
            kv = DType::F32;
        }
        Ok(DeviceChoice { free: device.free(), device, weights, kv })
    }
}

/// How the options say that a device is used.
fn device_options(o: &EngineOptions) -> DeviceOptions {
    DeviceOptions {
        compute: if o.compute == Type::F32 { Compute::F32 } else { Compute::Bf16 },
        index: usize::try_from(o.device_index).unwrap_or(0),
        invariant: o.invariant,
        low_priority: o.gpu_low_priority,
        blocking_wait: o.gpu_blocking_wait,
        tier: o.cpu_tier,
        threads: o.threads as usize,
        placing: o.placing(),
    }
}

/// Why a model could not be opened on a device.
pub(super) enum Failure {
    /// The device cannot be used for it; another one may do.
    OfDevice(Error),
    /// No device would do.
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Other(error)
    }
}

/// Calls `attempt` with the device that the options name, and whether it is the last one to try. [`Device::Auto`] is the
/// best one first; if that cannot be used, a log line says why, and the next one is tried.
pub(super) fn on_first<T>(
    asked: Device,
    log: Log,
    mut attempt: impl FnMut(Device, bool, Log) -> std::result::Result<T, Failure>,
) -> Result<T> {
    let mut candidates = asked.candidates().iter().peekable();
    while let Some(&device) = candidates.next() {
        let last = candidates.peek().is_none();
        match attempt(device, last, log) {
            Ok(done) => return Ok(done),
            Err(Failure::OfDevice(error)) if !last => {
                // A build without a backend for GPUs has no news for anybody.
                let level = if device::GPU_BUILT { LogLevel::Info } else { LogLevel::Debug };
                log(level, format!("device auto is the CPU: {}", error.message));
            }
            Err(Failure::OfDevice(error) | Failure::Other(error)) => return Err(error),
        }
    }
    Err(Error::internal("there is always a device to try"))
}
