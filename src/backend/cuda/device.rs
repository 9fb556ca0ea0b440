//! A GPU before it is opened.

use super::attention::kv_check;
use super::driver::Device as DriverDevice;
use super::forms;
use super::state::{CudaBackend, scratch_bytes};
use crate::backend::cpu::Tier;
use crate::backend::device::{Device, DeviceOptions, DeviceProfile, FreeMemory, OpenDevice, ProbedDevice};
use crate::backend::{KvShape, MaxBatchShape};
use crate::encoding::Encoding;
use crate::error::Result;
use crate::limits;
use serde_json::{Value, json};
use std::sync::Arc;

/// Properties of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceInfo {
    /// The device's name.
    pub name: String,
    /// Compute capability, such as (9, 0).
    pub capability: (u32, u32),
    /// Total memory in bytes.
    pub memory_bytes: u64,
    /// Free memory in bytes when the device was opened.
    pub free_bytes: u64,
    /// Number of multiprocessors.
    pub processors: u32,
    /// Maximum shared memory per block, in bytes.
    pub block_shared_bytes: u32,
    /// The driver's CUDA version: 1000 * major + 10 * minor.
    pub driver_version: u32,
}

/// A GPU as a [`ProbedDevice`]. Keeps the device's context alive, so that opening it later is fast.
struct CudaDevice {
    options: DeviceOptions,
    device: Arc<DriverDevice>,
}

/// Looks for the GPU of the options.
///
/// # Errors
/// `Device` if the driver or the GPU is missing or too old; `Argument` for an index that does not exist, with the number
/// of devices.
pub fn probe(options: DeviceOptions) -> Result<Box<dyn ProbedDevice>> {
    let device = DriverDevice::open(options.index, false, false)?;
    Ok(Box::new(CudaDevice { options, device }))
}

impl ProbedDevice for CudaDevice {
    fn device(&self) -> Device {
        Device::Cuda
    }

    fn profile(&self) -> DeviceProfile {
        DeviceProfile {
            own_memory: true,
            step_tokens_default: limits::STEP_TOKENS_GPU_DEFAULT,
            step_tokens_max: limits::STEP_TOKENS_GPU_MAX,
            logits_rows_max: limits::LOGITS_ROWS_GPU_MAX,
            spare_frames: 1,
            bidirectional: true,
        }
    }

    fn free(&self) -> Option<FreeMemory> {
        let free = self.device.info.free_bytes;
        let bytes = free - limits::GPU_FREE_BYTES.min(free / 4);
        let words = format!("{bytes} bytes of the GPU's memory are free, with some left to its driver");
        Some(FreeMemory { bytes, words })
    }

    fn weight_bytes(&self, encoding: Encoding, out_features: usize, in_features: usize) -> u64 {
        forms::weight_bytes(encoding, out_features, in_features, self.options.compute)
    }

    fn scratch_bytes(&self, max_shape: &MaxBatchShape) -> u64 {
        scratch_bytes(&self.options, max_shape)
    }

    fn check_kv(&self, shape: &KvShape) -> Result<()> {
        kv_check(shape)
    }

    fn facts(&self) -> Value {
        let DeviceInfo { name, capability: (major, minor), memory_bytes, processors, driver_version, .. } =
            &self.device.info;
        json!({
            "name": name,
            "capability": format!("{major}.{minor}"),
            "memory_bytes": memory_bytes,
            "processors": processors,
            "driver_cuda": format!("{}.{}", driver_version / 1000, driver_version % 1000 / 10),
        })
    }

    fn open(&self, weight_bytes: u64, note: &mut dyn FnMut(String)) -> Result<OpenDevice> {
        let (major, minor) = self.device.info.capability;
        let arch = format!("sm_{major}{minor}{}", if self.options.invariant { "" } else { " relaxed" });
        let backend = Box::new(CudaBackend::new(self.options, weight_bytes, note)?);
        Ok(OpenDevice { backend, cpu_tier: Tier::Auto, threads: 1, arch })
    }
}
