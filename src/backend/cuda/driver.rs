//! NVIDIA's driver, looked up at run time, and a device's context and stream.
//!
//! The driver's calls are unsafe because they take raw handles; here each handle is owned by a value that outlives its
//! uses ([`Device`] behind an `Arc`). cudarc panics if the library or one of its functions is missing, so the library
//! is looked up first and its version is checked to be one that has all functions used here.

use super::DeviceInfo;
use crate::error::{Error, Result, Status, Unit};
use crate::os::thread::current_id;
use cudarc::driver::sys::{self, CUresult};
use std::ffi::{CStr, c_int};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The oldest driver version that has all functions used here: CUDA 12.0.
const DRIVER_VERSION_MIN: u32 = 12_000;
/// The lowest compute capability with the instructions that the kernels use.
const CAPABILITY_MIN: (u32, u32) = (8, 0);

/// Converts a status of the driver to a result. `doing` completes "the GPU driver failed to ...".
pub fn check(answer: CUresult, doing: &str) -> Result<()> {
    if answer == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let (name, text) = describe(answer);
    Err(Error::new(
        Status::Device,
        format!("the GPU driver failed to {doing}: {text} ({name}); the engine's requests fail, the process goes on: close it and open it again"),
    )
    .about(name))
}

/// Name and description of a driver status.
fn describe(answer: CUresult) -> (String, String) {
    let text = |get: unsafe fn(CUresult, *mut *const std::ffi::c_char) -> CUresult| {
        let mut text = std::ptr::null();
        // SAFETY: writes one pointer, to a string of the driver's own that is never freed.
        let known = unsafe { get(answer, &raw mut text) } == CUresult::CUDA_SUCCESS && !text.is_null();
        // SAFETY: as above.
        known.then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    };
    let name = text(sys::cuGetErrorName).unwrap_or_else(|| format!("error {}", answer as u32));
    (name, text(sys::cuGetErrorString).unwrap_or_else(|| "an error it has no text for".into()))
}

/// Finds and initializes the driver; returns its CUDA version.
fn start() -> Result<u32> {
    let absent = |why: String| Error::new(Status::Device, why).about("device");
    // SAFETY: loads the library and closes it again; its initialisers are NVIDIA's.
    if !unsafe { sys::is_culib_present() } {
        return Err(absent(
            "NVIDIA's driver is not on this machine (no libcuda.so.1 or nvcuda.dll): install it, or choose the device cpu"
                .into(),
        ));
    }
    let mut version: c_int = 0;
    // SAFETY: the library is there, as just seen, and every version of it has this function; it writes one integer.
    check(unsafe { sys::cuDriverGetVersion(&raw mut version) }, "say its version")?;
    let version = u32::try_from(version).unwrap_or(0);
    if version < DRIVER_VERSION_MIN {
        let text = |v: u32| format!("{}.{}", v / 1000, v % 1000 / 10);
        let (have, need) = (text(version), text(DRIVER_VERSION_MIN));
        return Err(absent(format!(
            "NVIDIA's driver is too old: it supports CUDA {have}, and {need} is needed; update the driver, or choose the device cpu"
        ))
        .numbers(Unit::Count, DRIVER_VERSION_MIN.into(), version.into()));
    }
    // SAFETY: may be called any number of times.
    match unsafe { sys::cuInit(0) } {
        CUresult::CUDA_SUCCESS => Ok(version),
        CUresult::CUDA_ERROR_NO_DEVICE => {
            Err(absent("NVIDIA's driver finds no GPU on this machine; choose the device cpu".into()))
        }
        answer => {
            let (name, text) = describe(answer);
            Err(absent(format!(
                "NVIDIA's driver cannot be started: {text} ({name}); choose the device cpu, or repair it"
            )))
        }
    }
}

/// A device with its primary context and one stream.
pub struct Device {
    device: sys::CUdevice,
    context: sys::CUcontext,
    /// Null only while the device is being opened.
    pub stream: sys::CUstream,
    pub info: DeviceInfo,
    /// The event on which blocking waits sleep; null if waits spin.
    finished: sys::CUevent,
    /// Id of the thread on which [`Device::attach`] made the context current permanently; 0 = none.
    attached: AtomicUsize,
}

// SAFETY: the driver's handles may be used from any thread on which their context is current; `enter` ensures that.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

/// While it lives, the device's context is current on this thread; then the previous one is again, since the host may
/// use CUDA itself. The flag says whether a context was pushed.
pub struct Entered(bool);

impl Drop for Entered {
    fn drop(&mut self) {
        if self.0 {
            let mut context = std::ptr::null_mut();
            // SAFETY: takes back what `enter` pushed on this thread.
            unsafe { sys::cuCtxPopCurrent_v2(&raw mut context) };
        }
    }
}

impl Device {
    /// Retains the device's primary context, which others in the process may share, and creates a stream. With
    /// `blocking`, waits sleep instead of spinning.
    pub fn open(index: usize, low_priority: bool, blocking: bool) -> Result<Arc<Device>> {
        let driver_version = start()?;
        let mut count: c_int = 0;
        // SAFETY: the driver has been started; writes one integer.
        check(unsafe { sys::cuDeviceGetCount(&raw mut count) }, "count its devices")?;
        let count = usize::try_from(count).unwrap_or(0);
        if index >= count {
            return Err(Error::argument(format!(
                "option device_index is {index}, but this machine has {count} CUDA device{}, counted from 0",
                if count == 1 { "" } else { "s" }
            ))
            .about("device_index")
            .numbers(Unit::Count, index as u64 + 1, count as u64));
        }
        let mut device: sys::CUdevice = 0;
        // SAFETY: the index exists; writes one handle.
        check(unsafe { sys::cuDeviceGet(&raw mut device, index as c_int) }, "find the device")?;
        let mut info = look(device, driver_version)?;
        if info.capability < CAPABILITY_MIN {
            let ((major, minor), (a, b)) = (info.capability, CAPABILITY_MIN);
            return Err(Error::new(
                Status::Device,
                format!(
                    "{} has compute capability {major}.{minor}, and {a}.{b} or later is needed (GeForce RTX 30, A100); choose \
                     another device",
                    info.name
                ),
            )
            .about("device")
            .numbers(Unit::Count, (a * 10 + b).into(), (major * 10 + minor).into()));
        }
        let mut context = std::ptr::null_mut();
        // SAFETY: a device's handle; writes one handle, which is released in `drop`.
        check(unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut context, device) }, "make a context")
            .map_err(|error| match error.subject.as_str() {
                OUT_OF_MEMORY => Error::new(
                    Status::Memory,
                    format!(
                        "{} has no memory left for a context; free what other programs hold there, or choose the device cpu",
                        info.name
                    ),
                )
                .about("memory"),
                _ => error,
            })?;
        let mut opened = Device {
            device,
            context,
            stream: std::ptr::null_mut(),
            info: info.clone(),
            finished: std::ptr::null_mut(),
            attached: AtomicUsize::new(0),
        };
        {
            let _entered = opened.enter()?;
            info.free_bytes = free_bytes()?.0;
            opened.info = info;
            opened.stream = stream(low_priority)?;
            if blocking {
                opened.finished = event(true)?;
            }
        }
        Ok(Arc::new(opened))
    }

    /// Makes the context current on this thread, unless it already is.
    ///
    /// On a lost device every call may return an error, whether or not it had an effect. The thread may belong to the
    /// host, whose context stack must stay unchanged: so nothing is pushed if the current context cannot even be
    /// queried, and after a failed push it is checked whether the context was pushed.
    pub fn enter(&self) -> Result<Entered> {
        if self.attached.load(Ordering::Relaxed) == current_id() || current()? == self.context {
            return Ok(Entered(false));
        }
        // SAFETY: the context is retained while `self` lives.
        check(unsafe { sys::cuCtxPushCurrent_v2(self.context) }, "enter its context").inspect_err(|_| {
            // If the failed push took effect, pop the context: it was not current before.
            drop(Entered(current().is_ok_and(|current| current == self.context)));
        })?;
        Ok(Entered(true))
    }

    /// Makes the context current on this thread, which belongs to the library, until the device is dropped.
    pub fn attach(&self) -> Result<()> {
        // SAFETY: as in `enter`.
        let attached = check(unsafe { sys::cuCtxSetCurrent(self.context) }, "enter its context");
        // Also after an error: even on a lost device the drop must unset the context on this thread.
        self.attached.store(current_id(), Ordering::Relaxed);
        attached
    }

    /// Free bytes and total bytes of the device's memory.
    pub fn free_bytes(&self) -> Result<(u64, u64)> {
        let _entered = self.enter()?;
        free_bytes()
    }

    /// Waits until all submitted work has finished.
    pub fn wait(&self) -> Result<()> {
        let _entered = self.enter()?;
        if !self.finished.is_null() {
            // SAFETY: event and stream live as long as `self`.
            check(unsafe { sys::cuEventRecord(self.finished, self.stream) }, "record an event")?;
            // SAFETY: as above.
            return check(unsafe { sys::cuEventSynchronize(self.finished) }, "finish the work it was given");
        }
        // SAFETY: the stream lives as long as `self`.
        check(unsafe { sys::cuStreamSynchronize(self.stream) }, "finish the work it was given")
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // If the context cannot be entered any more, its release below frees these, too.
        if let (Ok(_entered), false) = (self.enter(), self.stream.is_null()) {
            // SAFETY: the stream has no other user; submitted work is finished first.
            unsafe {
                sys::cuStreamSynchronize(self.stream);
                sys::cuStreamDestroy_v2(self.stream);
            }
            if !self.finished.is_null() {
                // SAFETY: the event has no other user.
                unsafe { sys::cuEventDestroy_v2(self.finished) };
            }
        }
        if self.attached.load(Ordering::Relaxed) == current_id() {
            // SAFETY: this thread is the library's own; it has no context of a host to go back to.
            unsafe { sys::cuCtxSetCurrent(std::ptr::null_mut()) };
        }
        // SAFETY: retained in `open`, once.
        unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// What the driver made in a device's context, destroyed there on drop.
pub struct Owned<T: Copy> {
    pub device: Arc<Device>,
    pub handle: T,
    destroy: unsafe fn(T) -> CUresult,
    /// Submitted work is finished before.
    finish: bool,
}

// SAFETY: as for `Device`.
unsafe impl<T: Copy> Send for Owned<T> {}

impl<T: Copy> Owned<T> {
    /// Takes over a handle. With `finish`, work submitted to the device's stream is finished before it is destroyed.
    ///
    /// # Safety
    /// `destroy` is the driver's function for this kind of handle, and nobody else calls it with this one.
    pub unsafe fn new(device: &Arc<Device>, handle: T, destroy: unsafe fn(T) -> CUresult, finish: bool) -> Owned<T> {
        Owned { device: device.clone(), handle, destroy, finish }
    }
}

impl<T: Copy> Drop for Owned<T> {
    fn drop(&mut self) {
        if let Ok(_entered) = self.device.enter() {
            if self.finish {
                // SAFETY: the device's own stream.
                unsafe { sys::cuStreamSynchronize(self.device.stream) };
            }
            // SAFETY: the promise made to `new`; the context is current.
            unsafe { (self.destroy)(self.handle) };
        }
    }
}

/// Queries the properties of a device; `free_bytes` is left at 0.
fn look(device: sys::CUdevice, driver_version: u32) -> Result<DeviceInfo> {
    use sys::CUdevice_attribute as Attribute;
    let attribute = |which: Attribute| {
        let mut value: c_int = 0;
        // SAFETY: a device's handle; writes one integer.
        check(unsafe { sys::cuDeviceGetAttribute(&raw mut value, which, device) }, "describe the device")?;
        Ok(u32::try_from(value).unwrap_or(0))
    };
    let mut name = [0u8; 256];
    // SAFETY: writes at most that many bytes, the last of them a zero.
    check(unsafe { sys::cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as c_int, device) }, "name the device")?;
    let mut memory_bytes = 0usize;
    // SAFETY: writes one size.
    check(unsafe { sys::cuDeviceTotalMem_v2(&raw mut memory_bytes, device) }, "describe the device")?;
    let name = CStr::from_bytes_until_nul(&name).map_or("a GPU".into(), |n| n.to_string_lossy().into_owned());
    Ok(DeviceInfo {
        name,
        capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        memory_bytes: memory_bytes as u64,
        free_bytes: 0,
        processors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1),
        block_shared_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        driver_version,
    })
}

/// Creates a stream that does not synchronize with the default stream. By default streams have the lowest priority, so
/// a low-priority one uses that, and otherwise ours gets the highest.
pub fn stream(low_priority: bool) -> Result<sys::CUstream> {
    let (mut least, mut greatest): (c_int, c_int) = (0, 0);
    // SAFETY: a context is current; writes two integers.
    check(unsafe { sys::cuCtxGetStreamPriorityRange(&raw mut least, &raw mut greatest) }, "describe the device")?;
    let mut stream = std::ptr::null_mut();
    let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
    // Numerically, the range descends from `least` to `greatest`.
    let priority = if low_priority { least } else { greatest };
    // SAFETY: as above; writes one handle, which `Device` destroys.
    check(unsafe { sys::cuStreamCreateWithPriority(&raw mut stream, flags, priority) }, "make a stream")?;
    Ok(stream)
}

/// An event without timing; with `blocking`, waiting for it sleeps.
pub fn event(blocking: bool) -> Result<sys::CUevent> {
    let mut event = std::ptr::null_mut();
    let blocking = if blocking { sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC as u32 } else { 0 };
    let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32 | blocking;
    // SAFETY: a context is current, or the driver says so; writes one handle, which the caller destroys.
    check(unsafe { sys::cuEventCreate(&raw mut event, flags) }, "make an event")?;
    Ok(event)
}

/// The context that is current on this thread; null if there is none.
fn current() -> Result<sys::CUcontext> {
    let mut context = std::ptr::null_mut();
    // SAFETY: writes one handle.
    check(unsafe { sys::cuCtxGetCurrent(&raw mut context) }, "say which context is current")?;
    Ok(context)
}

fn free_bytes() -> Result<(u64, u64)> {
    let (mut free, mut total) = (0usize, 0usize);
    // SAFETY: a context is current; writes two sizes.
    check(unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) }, "say how much memory is free")?;
    Ok((free as u64, total as u64))
}

/// The subject of a driver error that reports lack of memory.
const OUT_OF_MEMORY: &str = "CUDA_ERROR_OUT_OF_MEMORY";

/// The error of a failed allocation: `Memory` with both numbers if memory ran out, otherwise `error` itself.
pub fn memory_of(what: &str, bytes: u64, available: u64, error: Error) -> Error {
    if error.subject != OUT_OF_MEMORY {
        return error;
    }
    Error::new(
        Status::Memory,
        format!(
            "cannot allocate {bytes} bytes of the GPU's memory for {what}, of which {available} are free; lower the memory \
             budget, context length or slots, or free memory that other programs hold there"
        ),
    )
    .about("memory")
    .numbers(Unit::Bytes, bytes, available)
}
