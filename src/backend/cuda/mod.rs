//! An NVIDIA GPU as a [`super::Backend`], with our own kernels (`kernels/`), compiled ahead of time and embedded.
//!
//! NVIDIA's driver is looked up at run time, so one library serves machines with and without a GPU; a build without the
//! feature `cuda` has stubs that return `Unsupported`. All work of a step is submitted to one stream, in order, and
//! runs asynchronously to the host; an error is reported by the next call that waits.
//!
//! | file | what it has |
//! |---|---|
//! | `driver` | the driver lookup and its errors, a device's context and stream |
//! | `memory` | owned device memory and pinned host memory, events |
//! | `kernels` | the embedded code, the kernels by name, their launch |
//! | `forms` | the layout and size of weights on the device |
//! | `inputs` | the upload of a step's integers |
//! | `state` | the backend's state; the bf16 copies of products' inputs |
//! | `ops`, `products`, `attention`, `experts`, `sampling` | the operations |
//! | `blaslt` | products by NVIDIA's cuBLASLt, if the options give up law 1 |
//! | `steps` | the beginning of a step: padding, upload, replay |
//! | `graphs` | steps recorded as CUDA graphs |
//! | `testing` | launches of single kernels, for tests |

#[cfg(feature = "cuda")]
mod attention;
#[cfg(feature = "cuda")]
mod blaslt;
#[cfg(feature = "cuda")]
mod driver;
#[cfg(feature = "cuda")]
mod experts;
mod forms;
#[cfg(feature = "cuda")]
mod graphs;
#[cfg(feature = "cuda")]
mod inputs;
#[cfg(feature = "cuda")]
mod kernels;
#[cfg(feature = "cuda")]
mod memory;
#[cfg(feature = "cuda")]
mod ops;
#[cfg(feature = "cuda")]
mod products;
#[cfg(feature = "cuda")]
mod sampling;
#[cfg(feature = "cuda")]
mod state;
#[cfg(feature = "cuda")]
mod steps;
#[cfg(feature = "cuda")]
#[doc(hidden)]
pub mod testing;
#[cfg(feature = "cuda")]
mod upload;

pub use forms::weight_bytes;
#[cfg(feature = "cuda")]
pub use state::{CudaBackend, kv_check, scratch_bytes};

#[cfg(feature = "cuda")]
use crate::backend::Backend;
use crate::backend::cpu::Compute;
use crate::error::Result;
use std::fmt;
use std::sync::Arc;

/// Options for the use of a GPU.
#[derive(Clone, Copy, Debug)]
pub struct CudaOptions {
    /// The device's index, as the driver counts.
    pub index: usize,
    /// The number type in which matrix products are computed.
    pub compute: Compute,
    /// Law 1 (batch invariance): a row's result never depends on the other rows. If false, cuBLASLt may compute large
    /// products.
    pub invariant: bool,
    /// Use a low-priority stream, so that other work on the device, such as a game's rendering, goes first.
    pub low_priority: bool,
    /// The host thread sleeps while it waits for the device, instead of spinning.
    pub blocking_wait: bool,
}

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

/// Keeps the context of a probed device alive, so that opening the device later is fast.
#[derive(Clone)]
pub struct DeviceHold(#[allow(dead_code, reason = "held, not used")] Option<Arc<dyn Send + Sync>>);

impl fmt::Debug for DeviceHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceHold")
    }
}

/// Queries the properties of a device.
///
/// # Errors
/// `Unsupported` in a build without the feature; `Device` if the driver or the GPU is missing or too old; `Argument`
/// for an index that does not exist, with the number of devices.
#[cfg(feature = "cuda")]
pub fn probe(index: usize) -> Result<(DeviceInfo, DeviceHold)> {
    driver::Device::open(index, false, false).map(|device| (device.info.clone(), DeviceHold(Some(device))))
}

/// Stub of a build without the feature `cuda`.
///
/// # Errors
/// `Unsupported`.
#[cfg(not(feature = "cuda"))]
pub fn probe(_index: usize) -> Result<(DeviceInfo, DeviceHold)> {
    Err(absent())
}

/// Whether this build has the CUDA backend.
pub const BUILT: bool = cfg!(feature = "cuda");

#[cfg(not(feature = "cuda"))]
pub use stub::*;

#[cfg(not(feature = "cuda"))]
mod stub {
    use super::CudaOptions;
    use crate::backend::{Backend, KvShape, MaxBatchShape};
    use crate::error::Result;

    pub(super) fn absent() -> crate::error::Error {
        crate::error::Error::unsupported(
            "option device: the CUDA backend is not in this build of the library; build it with `--features cuda`, or choose \
             the device cpu or auto",
        )
        .about("device")
    }

    /// Stub of a build without the feature `cuda`.
    ///
    /// # Errors
    /// `Unsupported`.
    pub fn open(_options: CudaOptions, _weight_bytes: u64, _note: &mut dyn FnMut(String)) -> Result<Box<dyn Backend>> {
        Err(absent())
    }

    /// Stub of a build without the feature `cuda`.
    ///
    /// # Errors
    /// `Unsupported`.
    pub fn kv_check(_shape: &KvShape) -> Result<()> {
        Err(absent())
    }

    /// Stub of a build without the feature `cuda`.
    pub fn scratch_bytes(_options: &CudaOptions, _largest: &MaxBatchShape) -> u64 {
        0
    }
}

#[cfg(not(feature = "cuda"))]
use stub::absent;

/// Opens a device for a model whose weights take `weight_bytes` there, the sum of [`weight_bytes()`]. If cuBLASLt is
/// wanted but unavailable, `note` gets a message.
///
/// # Errors
/// As for [`probe`]; `Memory`; `Device` when the kernels cannot be loaded.
#[cfg(feature = "cuda")]
pub fn open(options: CudaOptions, weight_bytes: u64, note: &mut dyn FnMut(String)) -> Result<Box<dyn Backend>> {
    Ok(Box::new(CudaBackend::new(options, weight_bytes, note)?))
}
