//! Launches of single kernels on a device, for tests only: memory, launches by name, and additional kernels.
//!
//! Not a stable interface. The caller is responsible for the memory that a kernel accesses through its parameters. A
//! name, size or offset that does not exist is an error or a panic, never an invalid access.

use super::DeviceInfo;
use super::driver::Device;
use super::kernels::{Function, Kernels, Module, Shape, launch};
use super::memory::Buffer;
use crate::error::{Error, Result};
use std::ffi::c_void;
use std::sync::Arc;

/// Magic number of a fat binary (`FATBIN_MAGIC` of CUDA's `fatbinary_section.h`), little endian.
const FAT_BINARY: [u8; 4] = 0xBA55_ED50u32.to_le_bytes();

/// A device with the library's kernels loaded.
pub struct Bench {
    kernels: Kernels,
    /// Kernels of additional images.
    others: Vec<(Module, Vec<Function>)>,
    device: Arc<Device>,
}

// SAFETY: the driver's handles may be used from any thread on which their context is current; every call ensures that.
unsafe impl Sync for Bench {}

impl Bench {
    /// Opens a device and loads the embedded kernels.
    ///
    /// # Errors
    /// As for [`super::open`].
    pub fn open(index: usize) -> Result<Bench> {
        let device = Device::open(index, false, false)?;
        Ok(Bench { kernels: Kernels::load(&device)?, others: Vec::new(), device })
    }

    /// The properties of the device.
    pub fn info(&self) -> &DeviceInfo {
        &self.device.info
    }

    /// The names of the embedded kernels.
    pub fn names() -> Vec<&'static str> {
        Kernels::names().into_iter().flat_map(|(_, names)| names).collect()
    }

    /// Loads kernels from a fat binary; they may use only the default amount of dynamic shared memory.
    ///
    /// # Errors
    /// `Format` if it is not a fat binary; `Device`, with the name, if it lacks a kernel.
    pub fn add(&mut self, image: &[u8], names: &[&'static str]) -> Result<()> {
        if !image.starts_with(&FAT_BINARY) {
            return Err(Error::format("the image is no fat binary"));
        }
        let _entered = self.device.enter()?;
        let module = Module::load(&self.device, "a test", image)?;
        let functions = names.iter().map(|name| module.function(name, 0)).collect::<Result<_>>()?;
        self.others.push((module, functions));
        Ok(())
    }

    /// Allocates memory with every byte set to `fill`.
    ///
    /// # Errors
    /// `Memory`, `Device`.
    pub fn alloc(&self, bytes: usize, fill: u8) -> Result<Memory> {
        let memory = Memory(Buffer::new(&self.device, bytes, "a test")?);
        memory.0.fill(fill)?;
        Ok(memory)
    }

    /// Runs a kernel and waits for its end.
    ///
    /// # Errors
    /// `Argument` for a kernel that does not exist or cannot use that much shared memory; `Device`.
    ///
    /// # Safety
    /// As for [`launch`]: the address of one value of the right type for each parameter; memory that those point to is
    /// large enough.
    pub unsafe fn launch(
        &self,
        kernel: &str,
        grid: [usize; 3],
        block: usize,
        shared: usize,
        params: &[*const c_void],
    ) -> Result<()> {
        let other = || self.others.iter().flat_map(|(_, all)| all).find(|function| function.name == kernel).copied();
        let function = self.kernels.named(kernel).or_else(other);
        let function = function.ok_or_else(|| Error::argument(format!("there is no kernel {kernel}")))?;
        if !function.fits(shared) {
            let have = self.device.info.block_shared_bytes;
            return Err(Error::argument(format!("{kernel} cannot have {shared} bytes of shared memory, of {have}")));
        }
        let mut params: Vec<*mut c_void> = params.iter().map(|param| param.cast_mut()).collect();
        // SAFETY: the caller's promise.
        unsafe { launch(&self.device, self.device.stream, function, Shape { grid, block, shared }, &mut params) }?;
        self.device.wait()
    }
}

/// Device memory.
pub struct Memory(Buffer);

impl Memory {
    /// Its device address.
    pub fn address(&self) -> u64 {
        self.0.address
    }

    /// Overwrites the bytes from `at` on; the range must be inside.
    ///
    /// # Errors
    /// `Device`.
    pub fn write(&self, at: usize, bytes: &[u8]) -> Result<()> {
        self.0.write(at, bytes)
    }

    /// Reads the bytes from `at` on; the range must be inside.
    ///
    /// # Errors
    /// `Device`.
    pub fn read(&self, at: usize, bytes: &mut [u8]) -> Result<()> {
        self.0.read(at, bytes)
    }
}
