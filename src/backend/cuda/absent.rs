//! What a build without the feature `cuda` has of [`super::cuda`].

#[cfg(test)]
mod forms;

use super::device::{DeviceOptions, ProbedDevice};
use crate::error::{Error, Result};

/// Whether this build has the CUDA backend.
pub const BUILT: bool = false;

/// Finds no device.
///
/// # Errors
/// `Unsupported`.
pub fn probe(_options: DeviceOptions) -> Result<Box<dyn ProbedDevice>> {
    Err(Error::unsupported(
        "option device: the CUDA backend is not in this build of the library; build it with `--features cuda`, or choose \
         the device cpu or auto",
    )
    .about("device"))
}
