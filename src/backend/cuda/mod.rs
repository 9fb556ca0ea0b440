//! An NVIDIA GPU as a [`super::Backend`]: kernels of our own (`kernels/`), compiled ahead of time and embedded.
//!
//! NVIDIA's driver is looked for at run time, so one library serves machines with and without a GPU; a build without the
//! feature `cuda` has the same functions here, which say so. Everything of a step is submitted to one stream, in order, and
//! runs while the host goes on; what fails there is told by the next call that waits.
//!
//! | file | what it has |
//! |---|---|
//! | `driver` | the driver found and its answers as errors, a device's context and stream |
//! | `memory` | device memory and pinned host memory that free themselves |
//! | `kernels` | the embedded code, every kernel by name, how one is launched |
//! | `forms` | how weights lie on the device, and what they take there |
//! | `inputs` | a step's integers on their way to the device |
//! | `state` | what the backend holds; inputs of products in the form that kernels read |
//! | `ops`, `products`, `attention`, `experts`, `sampling` | the operations |
//! | `blaslt` | NVIDIA's own products, where law 1 has been given up for them |
//! | `graphs` | steps that were recorded, to be submitted again as a whole |
//! | `testing` | kernels one by one, for their tests |

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

/// How a GPU is used.
#[derive(Clone, Copy, Debug)]
pub struct CudaOptions {
    /// Which of the driver's devices.
    pub index: usize,
    /// Numbers that products are made of.
    pub compute: Compute,
    /// Law 1: a row's result never depends on the others. Without it cuBLASLt may take the large products.
    pub invariant: bool,
    /// Work gives way to other work on the device, such as a game's rendering.
    pub low_priority: bool,
    /// The host's thread sleeps while it waits, instead of watching.
    pub blocking_wait: bool,
}

/// What is known of a device before a model is brought to it.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceInfo {
    /// Its name.
    pub name: String,
    /// Compute capability, such as (9, 0).
    pub capability: (u32, u32),
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Of these, free now.
    pub free_bytes: u64,
    /// Multiprocessors.
    pub processors: u32,
    /// Shared memory that a block of threads may have, in bytes.
    pub block_shared_bytes: u32,
    /// CUDA version of the driver: 1000 for each major, 10 for each minor.
    pub driver_version: u32,
}

/// Keeps the context of a device that was looked at: while it lives, the device is opened at once.
#[derive(Clone)]
pub struct DeviceHold(#[allow(dead_code, reason = "held, not used")] Option<Arc<dyn Send + Sync>>);

impl fmt::Debug for DeviceHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceHold")
    }
}

/// Looks at a device.
///
/// # Errors
/// `Unsupported` of a build without the feature; `Device` without a driver, with one that is too old, without a GPU or with
/// one that is too old; `Argument` for an index that does not exist, with how many there are.
#[cfg(feature = "cuda")]
pub fn probe(index: usize) -> Result<(DeviceInfo, DeviceHold)> {
    driver::Device::open(index, false, false).map(|device| (device.info.clone(), DeviceHold(Some(device))))
}

/// Looks at a device: not in this build.
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

    /// Opens a device: not in this build.
    ///
    /// # Errors
    /// `Unsupported`.
    pub fn open(_options: CudaOptions, _weight_bytes: u64, _note: &mut dyn FnMut(String)) -> Result<Box<dyn Backend>> {
        Err(absent())
    }

    /// Whether pages of a shape can be: not in this build.
    ///
    /// # Errors
    /// `Unsupported`.
    pub fn kv_check(_shape: &KvShape) -> Result<()> {
        Err(absent())
    }

    /// Memory beside tensors: none in this build.
    pub fn scratch_bytes(_options: &CudaOptions, _largest: &MaxBatchShape) -> u64 {
        0
    }
}

#[cfg(not(feature = "cuda"))]
use stub::absent;

/// Rows that a step of `rows` single ones is filled up to; see [`crate::backend::Backend::padded`].
pub fn padded(rows: usize) -> usize {
    match rows {
        _ if !BUILT => rows,
        0..=8 => rows.next_power_of_two(),
        9..=64 => rows.next_multiple_of(8),
        65..=256 => rows.next_multiple_of(32),
        _ => rows.next_multiple_of(64),
    }
}

/// Opens a device for a model whose weights take `weight_bytes` there, as [`weight_bytes()`] adds up. What the options ask for
/// and is done without is told to `note`.
///
/// # Errors
/// As of [`probe`]; `Memory`; `Device` when its code cannot be loaded.
#[cfg(feature = "cuda")]
pub fn open(options: CudaOptions, weight_bytes: u64, note: &mut dyn FnMut(String)) -> Result<Box<dyn Backend>> {
    Ok(Box::new(CudaBackend::new(options, weight_bytes, note)?))
}
