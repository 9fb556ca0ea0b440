//! Devices before they are opened: which there are, what a model takes on each, and how one is opened.
//!
//! This is the only way in which the rooms above ask for a device. A new one is a value of [`Device`], an arm of
//! [`probe`], and an implementation of [`ProbedDevice`] beside its [`Backend`].

use super::cpu::{Compute, CpuDevice, Tier};
use super::{Backend, KvShape, MaxBatchShape, cuda};
use crate::encoding::Encoding;
use crate::error::{Error, Result, Unit};
use crate::os::thread::ThreadOptions;
use serde_json::Value;
use std::sync::Arc;

/// Where the model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The first GPU (or that of `device_index`) if the build has a backend for it and its memory holds the model, else
    /// the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

impl Device {
    /// All values, in the order of their numbers in the C header.
    pub const ALL: [Device; 3] = [Device::Auto, Device::Cpu, Device::Cuda];

    /// What [`Device::parse`] takes, for the help of a command-line option.
    pub const SYNTAX: &str = "auto (a GPU that holds the model, else the CPU), cpu, cuda, or cuda:N for the N-th GPU";

    /// Its name on the command line and in files.
    pub const fn name(self) -> &'static str {
        match self {
            Device::Auto => "auto",
            Device::Cpu => "cpu",
            Device::Cuda => "cuda",
        }
    }

    /// Whether it is a GPU.
    pub const fn is_gpu(self) -> bool {
        matches!(self, Device::Cuda)
    }

    /// The devices that may run a model for which this one is asked, best first. The last one is not optional.
    pub const fn candidates(self) -> &'static [Device] {
        match self {
            Device::Auto => &[Device::Cuda, Device::Cpu],
            Device::Cpu => &[Device::Cpu],
            Device::Cuda => &[Device::Cuda],
        }
    }

    /// A device by its name, and its index, which a GPU's name may have after a colon.
    ///
    /// # Errors
    /// `Argument`.
    pub fn parse(text: &str) -> Result<(Device, i32)> {
        let (name, index) = text.split_once(':').map_or((text, "0"), |(name, index)| (name, index));
        let device = Device::ALL.into_iter().find(|device| device.name() == name);
        match (device, index.parse()) {
            (Some(device), Ok(index @ 0..)) if device.is_gpu() || name == text => Ok((device, index)),
            _ => Err(Error::argument("expected auto, cpu, cuda or cuda:N")),
        }
    }

    /// Checks that this build has a backend for the device, and that a device of this kind can have the index.
    ///
    /// # Errors
    /// `Unsupported`, `Argument`.
    pub fn check(self, index: i32) -> Result<()> {
        if self.is_gpu() && !cuda::BUILT {
            return probe(self, DeviceOptions::default()).map(|_| ());
        }
        let wrong = |message: String| Err(Error::argument(message).about("device_index").numbers(Unit::Count, 0, 0));
        match (self, index) {
            (_, ..=-1) => wrong(format!("option device_index is {index}; devices are counted from 0")),
            (Device::Cpu, 1..) => wrong(format!("option device_index is {index}; the CPU is device 0")),
            _ => Ok(()),
        }
    }
}

/// How a device is used.
#[derive(Clone, Copy, Debug)]
pub struct DeviceOptions {
    /// The number type in which matrix products are computed.
    pub compute: Compute,
    /// Of a GPU: its index, as the driver counts.
    pub index: usize,
    /// Of a GPU: law 1 (batch invariance), a row's result never depends on the other rows. If false, a library of the
    /// vendor's may compute large products.
    pub invariant: bool,
    /// Of a GPU: use a low-priority stream, so that other work on it, such as a game's rendering, goes first.
    pub low_priority: bool,
    /// Of a GPU: the host thread sleeps while it waits for the device, instead of spinning.
    pub blocking_wait: bool,
    /// Of the CPU: the instruction set of its kernels.
    pub tier: Tier,
    /// Of the CPU: threads that compute; 0 = one per physical core.
    pub threads: usize,
    /// Of the CPU: priority and affinity of those threads.
    pub placing: ThreadOptions,
}

impl Default for DeviceOptions {
    fn default() -> DeviceOptions {
        DeviceOptions {
            compute: Compute::default(),
            index: 0,
            invariant: true,
            low_priority: false,
            blocking_wait: false,
            tier: Tier::Auto,
            threads: 0,
            placing: ThreadOptions::default(),
        }
    }
}

/// What steps on a device look like, and where it keeps a model.
#[derive(Clone, Copy, Debug)]
pub struct DeviceProfile {
    /// The device has memory of its own, to which weights are copied in its own form. If false, the model lies in the host's memory, and weights are used where they are.
    pub own_memory: bool,
    /// Tokens of a step by default.
    pub step_tokens_default: usize,
    /// Most tokens of a step.
    pub step_tokens_max: usize,
    /// Most rows of logits computed at once.
    pub logits_rows_max: usize,
    /// Page frames of each layer group beside those of the scheduler, for padding rows.
    pub spare_frames: u64,
    /// It has [bidirectional](super::Attention::bidirectional) attention.
    pub bidirectional: bool,
}

/// Memory that is free on a device.
#[derive(Clone, Debug)]
pub struct FreeMemory {
    /// Bytes that a model may take.
    pub bytes: u64,
    /// The same in words, with what limits it, as the beginning of a message.
    pub words: String,
}

/// A device that is there, before it is opened.
pub trait ProbedDevice {
    /// Which device it is; never [`Device::Auto`].
    fn device(&self) -> Device;

    /// What its steps look like.
    fn profile(&self) -> DeviceProfile;

    /// The memory that is free on it at the moment; `None` when unknown.
    fn free(&self) -> Option<FreeMemory>;

    /// Bytes of a weight in the device's own memory.
    fn weight_bytes(&self, _encoding: Encoding, _out_features: usize, _in_features: usize) -> u64 {
        0
    }

    /// Bytes that steps up to `max_shape` take beside tensors.
    fn scratch_bytes(&self, max_shape: &MaxBatchShape) -> u64;

    /// Checks that there are kernels for KV pages of this shape.
    ///
    /// # Errors
    /// `Unsupported`.
    fn check_kv(&self, _shape: &KvShape) -> Result<()> {
        Ok(())
    }

    /// Properties of a GPU that belong beside a measurement; null for the CPU.
    fn facts(&self) -> Value {
        Value::Null
    }

    /// Opens the device for a model whose weights take `weight_bytes` there. `note` gets messages about what is not as
    /// wished.
    ///
    /// # Errors
    /// As of [`probe`]; `Memory`.
    fn open(&self, weight_bytes: u64, note: &mut dyn FnMut(String)) -> Result<OpenDevice>;
}

/// A device that was opened.
pub struct OpenDevice {
    /// Its operations.
    pub backend: Box<dyn Backend>,
    /// The tier of the CPU's kernels; [`Tier::Auto`] of a GPU.
    pub cpu_tier: Tier,
    /// Host threads that compute.
    pub threads: u32,
    /// The architecture and the options on which the bits of results depend: part of a saved prefix's identity.
    pub arch: String,
}

/// [`probe`], or what takes its place.
pub type ProbeFn = Arc<dyn Fn(Device, DeviceOptions) -> Result<Box<dyn ProbedDevice>> + Send + Sync>;

/// Whether this build has a backend for GPUs.
pub const GPU_BUILT: bool = cuda::BUILT;

/// Looks for a device; for [`Device::Auto`] that is the CPU.
///
/// # Errors
/// For a GPU `Unsupported` in a build without a backend for it; `Device` if the driver or the GPU is missing or too old;
/// `Argument` for an index that does not exist, with the number of devices.
pub fn probe(device: Device, options: DeviceOptions) -> Result<Box<dyn ProbedDevice>> {
    match device {
        Device::Auto | Device::Cpu => Ok(Box::new(CpuDevice(options))),
        Device::Cuda => cuda::probe(options),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_named_with_its_index() {
        assert_eq!(Device::parse("auto"), Ok((Device::Auto, 0)));
        assert_eq!(Device::parse("cpu"), Ok((Device::Cpu, 0)));
        assert_eq!(Device::parse("cuda"), Ok((Device::Cuda, 0)));
        assert_eq!(Device::parse("cuda:3"), Ok((Device::Cuda, 3)));
        for bad in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CUDA", "cpu:0", "auto:1"] {
            assert!(Device::parse(bad).is_err(), "{bad}");
        }
    }
}
