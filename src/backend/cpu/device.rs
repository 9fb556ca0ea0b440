//! The CPU before it is opened.

use super::{CpuBackend, scratch_bytes, threads_of};
use crate::backend::MaxBatchShape;
use crate::backend::device::{Device, DeviceOptions, DeviceProfile, FreeMemory, OpenDevice, ProbedDevice};
use crate::error::Result;
use crate::limits;
use crate::os::memory;
use crate::sampling::{SamplingOutput, SamplingRequests};

/// The CPU as a [`ProbedDevice`].
pub struct CpuDevice(pub DeviceOptions);

impl ProbedDevice for CpuDevice {
    fn device(&self) -> Device {
        Device::Cpu
    }

    fn profile(&self) -> DeviceProfile {
        DeviceProfile {
            own_memory: false,
            step_tokens_default: limits::STEP_TOKENS_DEFAULT,
            step_tokens_max: limits::STEP_TOKENS_MAX,
            logits_rows_max: limits::LOGITS_ROWS_MAX,
            spare_frames: 0,
            bidirectional: true,
        }
    }

    fn free(&self) -> Option<FreeMemory> {
        let memory::Available { bytes, bound } = memory::available()?;
        Some(FreeMemory { bytes, words: format!("{bound} leaves {bytes} bytes of memory") })
    }

    /// With the lists of sampling requests and samples, which are in the same memory.
    fn scratch_bytes(&self, l: &MaxBatchShape) -> u64 {
        let lists = SamplingRequests::bytes(l.logits_rows, l.vocab) + SamplingOutput::bytes(l.logits_rows);
        scratch_bytes(self.0.tier, threads_of(self.0.threads), l).saturating_add(lists)
    }

    fn open(&self, _weight_bytes: u64, _note: &mut dyn FnMut(String)) -> Result<OpenDevice> {
        let DeviceOptions { tier, compute, threads, placing, .. } = self.0;
        let backend = CpuBackend::new(tier, compute, threads, placing)?;
        let (cpu_tier, threads) = (backend.tier(), backend.threads() as u32);
        let arch = format!("{cpu_tier:?}").to_lowercase();
        Ok(OpenDevice { backend: Box::new(backend), cpu_tier, threads, arch })
    }
}
