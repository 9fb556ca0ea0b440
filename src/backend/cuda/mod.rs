//! An NVIDIA GPU as a [`super::Backend`], with our own kernels (`kernels/`), compiled ahead of time and embedded.
//!
//! NVIDIA's driver is looked up at run time, so one library serves machines with and without a GPU; a build without the
//! feature `cuda` has `absent.rs` in its place. All work of a step is submitted to one stream, in order, and
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

mod attention;
mod blaslt;
mod device;
mod driver;
mod experts;
mod forms;
mod graphs;
mod heads;
mod inputs;
mod kernels;
mod memory;
mod ops;
mod products;
mod recurrent;
mod sampling;
mod state;
mod steps;
#[doc(hidden)]
pub mod testing;
mod upload;

pub use device::{DeviceInfo, probe};
pub use state::CudaBackend;

/// Whether this build has the CUDA backend.
pub const BUILT: bool = true;
