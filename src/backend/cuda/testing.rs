//! Kernels one by one on a device, for their tests alone: memory, launches by name, and more code from outside.
//!
//! Nothing here is kept compatible. What a kernel reads and writes through its parameters is the caller's affair; a name, a
//! size or an offset that is not there is an error or a panic, never an access.

use super::DeviceInfo;
use super::driver::Device;
use super::kernels::{Function, Kernels, Module, Shape, launch};
use super::memory::Buffer;
use crate::error::{Error, Result};
use std::ffi::c_void;
use std::sync::Arc;

/// Magic number that a fat binary begins with (`FATBIN_MAGIC` of CUDA's `fatbinary_section.h` headers), little endian.
const FAT_BINARY: [u8; 4] = 0xBA55_ED50u32.to_le_bytes();

/// A device with the library's kernels on it.
pub struct Bench {
    kernels: Kernels,
    /// Kernels of images that a test brought.
    others: Vec<(Module, Vec<Function>)>,
    device: Arc<Device>,
}

// SAFETY: handles of the driver may be used from any thread whose current context is theirs, which every call sees to.
unsafe impl Sync for Bench {}

impl Bench {
    /// Opens a device and loads the embedded kernels.
    ///
    /// # Errors
    /// As of [`super::open`].
    pub fn open(index: usize) -> Result<Bench> {
        let device = Device::open(index, false, false)?;
        Ok(Bench { kernels: Kernels::load(&device)?, others: Vec::new(), device })
    }

    /// What is known of the device.
    pub fn info(&self) -> &DeviceInfo {
        &self.device.info
    }

    /// The names of the embedded kernels.
    pub fn names() -> Vec<&'static str> {
        Kernels::names().into_iter().flat_map(|(_, names)| names).collect()
    }

    /// Loads kernels from a fat binary; their dynamic shared memory is at most what every kernel may have.
    ///
    /// # Errors
    /// `Format` for what is no fat binary; `Device`, with the name that is not in it.
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

    /// Memory with every byte set to `fill`.
    ///
    /// # Errors
    /// `Memory`, `Device`.
    pub fn alloc(&self, bytes: usize, fill: u8) -> Result<Memory> {
        let memory = Memory(Buffer::new(&self.device, bytes, "a test")?);
        memory.0.fill(fill)?;
        Ok(memory)
    }

    /// Runs a kernel to its end.
    ///
    /// # Errors
    /// `Argument` for a kernel that is not there or cannot have so much shared memory; `Device`.
    ///
    /// # Safety
    /// As of [`launch`]: one address of a value for each parameter, of its type; what they point to is large enough.
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
        unsafe { launch(&self.device, function, Shape { grid, block, shared }, &mut params) }?;
        self.device.wait()
    }
}

/// Memory of the device.
pub struct Memory(Buffer);

impl Memory {
    /// Its address there.
    pub fn address(&self) -> u64 {
        self.0.address
    }

    /// Replaces the bytes from `at` on, which must be inside.
    ///
    /// # Errors
    /// `Device`.
    pub fn write(&self, at: usize, bytes: &[u8]) -> Result<()> {
        self.0.write(at, bytes)
    }

    /// Copies the bytes from `at` on, which must be inside.
    ///
    /// # Errors
    /// `Device`.
    pub fn read(&self, at: usize, bytes: &mut [u8]) -> Result<()> {
        self.0.read(at, bytes)
    }
}
