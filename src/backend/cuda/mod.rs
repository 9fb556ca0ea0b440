//! An NVIDIA GPU as a [`super::Backend`], with our own kernels (`kernels/`), compiled ahead of time and embedded.
//!
//! NVIDIA's driver is looked up at run time, so one library serves machines with and without a GPU; a build without the
//! feature `cuda` has only a [`probe`] that returns `Unsupported`. All work of a step is submitted to one stream, in order, and
//! runs asynchronously to the host; an error is reported by the next call that waits.
//!
//! | file | what it has |
//! |---|---|
//! | `device` | the device before it is opened |
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
mod device;
#[cfg(feature = "cuda")]
mod driver;
#[cfg(feature = "cuda")]
mod experts;
#[cfg(any(test, feature = "cuda"))]
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

#[cfg(feature = "cuda")]
pub use device::{DeviceInfo, probe};
#[cfg(feature = "cuda")]
pub use state::CudaBackend;

/// Whether this build has the CUDA backend.
pub const BUILT: bool = cfg!(feature = "cuda");

/// Stub of a build without the feature `cuda`.
///
/// # Errors
/// `Unsupported`.
#[cfg(not(feature = "cuda"))]
pub fn probe(_options: super::device::DeviceOptions) -> crate::error::Result<Box<dyn super::device::ProbedDevice>> {
    Err(crate::error::Error::unsupported(
        "option device: the CUDA backend is not in this build of the library; build it with `--features cuda`, or choose \
         the device cpu or auto",
    )
    .about("device"))
}
