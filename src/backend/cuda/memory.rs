//! Device memory and pinned host memory.

use super::driver::{Device, Owned, check, event, memory_of};
use crate::error::Result;
use cudarc::driver::sys;
use std::ffi::c_void;
use std::sync::Arc;

/// An allocation on the device.
pub struct Buffer {
    memory: Owned<u64>,
    pub address: u64,
    pub bytes: usize,
}

impl Buffer {
    /// Allocates `bytes` zeroed bytes; at least one, so that every buffer has an address. `what` names the purpose in
    /// errors.
    pub fn zeroed(device: &Arc<Device>, bytes: usize, what: &str) -> Result<Buffer> {
        let buffer = Buffer::new(device, bytes, what)?;
        buffer.fill(0)?;
        Ok(buffer)
    }

    /// Sets every byte, in stream order.
    pub fn fill(&self, byte: u8) -> Result<()> {
        let device = &self.memory.device;
        let _entered = device.enter()?;
        // SAFETY: the allocation is of that size; the stream is the device's.
        let answer = unsafe { sys::cuMemsetD8Async(self.address, byte, self.bytes, device.stream) };
        check(answer, "fill memory")
    }

    /// As [`Buffer::zeroed`], but uninitialized.
    pub fn new(device: &Arc<Device>, bytes: usize, what: &str) -> Result<Buffer> {
        let _entered = device.enter()?;
        let bytes = bytes.max(1);
        let mut address = 0;
        // SAFETY: a context is current; writes one address.
        check(unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes) }, "allocate memory").map_err(|error| {
            let free = device.free_bytes().map_or(0, |(free, _)| free);
            memory_of(what, bytes as u64, free, error)
        })?;
        // SAFETY: just allocated; the driver waits for work that uses it before it frees it.
        let memory = unsafe { Owned::new(device, address, sys::cuMemFree_v2, false) };
        Ok(Buffer { memory, address, bytes })
    }

    /// Copies to the device, in stream order, and waits for the copy.
    pub fn write(&self, at: usize, bytes: &[u8]) -> Result<()> {
        assert!(at + bytes.len() <= self.bytes, "a copy of {} bytes to {at} of {}", bytes.len(), self.bytes);
        let device = &self.memory.device;
        let _entered = device.enter()?;
        // SAFETY: inside the allocation, as just checked. The driver has read pageable memory when it returns; for
        // pinned memory `wait` ensures that the copy has finished.
        let answer = unsafe {
            sys::cuMemcpyHtoDAsync_v2(self.address + at as u64, bytes.as_ptr().cast(), bytes.len(), device.stream)
        };
        check(answer, "copy to the device")?;
        device.wait()
    }

    /// Copies from the device, in stream order, and waits for the copy.
    pub fn read(&self, at: usize, bytes: &mut [u8]) -> Result<()> {
        assert!(at + bytes.len() <= self.bytes, "a copy of {} bytes from {at} of {}", bytes.len(), self.bytes);
        let device = &self.memory.device;
        let _entered = device.enter()?;
        // SAFETY: inside the allocation; `bytes` is borrowed until the copy was waited for, unless the device fails.
        let answer = unsafe {
            sys::cuMemcpyDtoHAsync_v2(bytes.as_mut_ptr().cast(), self.address + at as u64, bytes.len(), device.stream)
        };
        check(answer, "copy from the device")?;
        device.wait()
    }
}

/// Pinned (page-locked) host memory, for asynchronous copies to and from the device.
pub struct Pinned {
    memory: Owned<*mut c_void>,
    bytes: usize,
}

impl Pinned {
    /// Allocates `bytes` zeroed bytes. `what` names the purpose in errors.
    pub fn zeroed(device: &Arc<Device>, bytes: usize, what: &str) -> Result<Pinned> {
        let _entered = device.enter()?;
        let bytes = bytes.max(1);
        let mut start: *mut c_void = std::ptr::null_mut();
        // SAFETY: a context is current; writes one pointer.
        check(unsafe { sys::cuMemHostAlloc(&raw mut start, bytes, 0) }, "allocate pinned memory").map_err(|error| {
            let mut error = memory_of(what, bytes as u64, 0, error);
            if error.subject == "memory" {
                error.message = format!(
                    "cannot pin {bytes} bytes of host memory for {what}; raise the limit of locked memory, or lower step_tokens"
                );
            }
            error
        })?;
        // SAFETY: just allocated, of that size.
        unsafe { start.cast::<u8>().write_bytes(0, bytes) };
        // SAFETY: as above; a copy in flight has finished before it goes.
        let memory = unsafe { Owned::new(device, start, sys::cuMemFreeHost, true) };
        Ok(Pinned { memory, bytes })
    }

    /// All bytes. The caller must ensure that the device is not writing them.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: allocated and initialised; borrowed from the owner.
        unsafe { std::slice::from_raw_parts(self.memory.handle.cast(), self.bytes) }
    }

    /// All bytes, for writing. The caller must ensure that the device is neither reading nor writing them.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as `bytes`, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.memory.handle.cast(), self.bytes) }
    }

    /// The memory as 32-bit words, for writing; otherwise as [`Pinned::bytes_mut`].
    pub fn words_mut(&mut self) -> &mut [u32] {
        // SAFETY: pages of memory are aligned for words, and every bit pattern is one.
        unsafe { std::slice::from_raw_parts_mut(self.memory.handle.cast(), self.bytes / 4) }
    }

    /// The memory as 32-bit words; otherwise as [`Pinned::bytes`].
    pub fn words(&self) -> &[u32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.memory.handle.cast(), self.bytes / 4) }
    }
}

/// A CUDA event: a point in the stream that the host can wait for.
pub struct Event {
    event: Owned<sys::CUevent>,
    /// It was recorded and has not been waited for since.
    pending: bool,
}

impl Event {
    /// An event; with `blocking`, waiting for it sleeps instead of spinning.
    pub fn new(device: &Arc<Device>, blocking: bool) -> Result<Event> {
        let _entered = device.enter()?;
        // SAFETY: an event just made.
        let event = unsafe { Owned::new(device, event(blocking)?, sys::cuEventDestroy_v2, false) };
        Ok(Event { event, pending: false })
    }

    /// Records the event after all work submitted so far.
    pub fn record(&mut self) -> Result<()> {
        let device = &self.event.device;
        let _entered = device.enter()?;
        // SAFETY: both handles live.
        check(unsafe { sys::cuEventRecord(self.event.handle, device.stream) }, "record an event")?;
        self.pending = true;
        Ok(())
    }

    /// Waits for the last recording; returns at once if that was already waited for.
    pub fn wait(&mut self) -> Result<()> {
        if !self.pending {
            return Ok(());
        }
        let _entered = self.event.device.enter()?;
        // SAFETY: as above.
        check(unsafe { sys::cuEventSynchronize(self.event.handle) }, "finish the work it was given")?;
        self.pending = false;
        Ok(())
    }
}
