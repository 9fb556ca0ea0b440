//! Builds the kernels for the host, once in a process, and launches them; or, with ASTRAI_TEST_DEVICE, launches those of the
//! library on a device.

use std::cell::Cell;
use std::ffi::{CString, c_void};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::device;
use crate::build::{self, Build};

/// Environment variable of the process that runs the build with the AddressSanitizer.
pub const SANITIZED: &str = "ASTRAI_KERNELS_SANITIZED";

/// The mirror of `host::Geometry` in kernels/fibers.cuh.
#[repr(C)]
struct Geometry {
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    seed: u64,
    message: *mut u8,
    message_bytes: u32,
}

/// Compiles all sources and links them.
fn build() -> PathBuf {
    let sanitized = std::env::var_os(SANITIZED).is_some();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kernels-{}", std::process::id()));
    let compile: &[&str] = if sanitized { &["-O1", "-fsanitize=address", "-fno-omit-frame-pointer"] } else { &["-O1"] };
    let link: &[&str] = if sanitized { &["-fsanitize=address"] } else { &[] };
    Build { sources: &build::kernels(), compile, link, library: "libkernels.so" }.run(&folder)
}

/// The library's handle; loaded once and kept, its files removed.
fn library() -> *mut c_void {
    static LIBRARY: OnceLock<usize> = OnceLock::new();
    let handle = LIBRARY.get_or_init(|| {
        let path = build();
        let handle = build::load(&path, libc::RTLD_LOCAL);
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        handle.addr()
    });
    std::ptr::with_exposed_provenance_mut(*handle)
}

/// The seed of this run: ASTRAI_TEST_SEED, or another one each time. Printed by the tests' `begin`.
pub fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| {
        let given = std::env::var("ASTRAI_TEST_SEED").ok().and_then(|s| s.parse().ok());
        let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
        given.unwrap_or_else(|| now().into())
    })
}

thread_local! {
    /// Launches of this thread, which is this test's.
    static LAUNCHES: Cell<u64> = const { Cell::new(0) };
}

/// A launch's shape.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub grid: [usize; 3],
    pub block: usize,
    pub shared: usize,
}

pub fn shape(grid: [usize; 3], block: usize, shared: usize) -> Shape {
    Shape { grid, block, shared }
}

/// Runs a kernel with the addresses of its parameters; every third launch in plain order, the others shuffled. An empty grid
/// does nothing.
pub fn try_launch(kernel: &str, shape: Shape, params: &[*const c_void]) -> Result<(), String> {
    if device::index().is_some() {
        return device::try_launch(kernel, shape, params);
    }
    let count = LAUNCHES.get();
    LAUNCHES.set(count + 1);
    let seed = if count.is_multiple_of(3) { 0 } else { seed().wrapping_add(count) | 1 };
    let name = CString::new(format!("launch_{kernel}")).unwrap();
    // SAFETY: a live library and a string that ends in zero.
    let address = unsafe { libc::dlsym(library(), name.as_ptr()) };
    assert!(!address.is_null(), "no kernel {kernel}");
    // SAFETY: ENTRY defines every launch_* with this signature.
    let run: unsafe extern "C" fn(*mut Geometry, *const *const c_void) -> i32 = unsafe { std::mem::transmute(address) };
    let mut message = [0u8; 1024];
    let mut geometry = Geometry {
        grid: shape.grid.map(|n| n as u32),
        block: [shape.block as u32, 1, 1],
        shared_bytes: shape.shared as u32,
        seed,
        message: message.as_mut_ptr(),
        message_bytes: message.len() as u32,
    };
    // SAFETY: the geometry outlives the call; the caller gives one address for each parameter, of its type.
    if unsafe { run(&raw mut geometry, params.as_ptr()) } == 0 {
        return Ok(());
    }
    let len = message.iter().position(|&b| b == 0).unwrap_or(message.len());
    Err(format!("{} (seed {seed})", String::from_utf8_lossy(&message[..len])))
}

/// [`try_launch`] that must go well.
pub fn launch(kernel: &str, shape: Shape, params: &[*const c_void]) {
    if let Err(message) = try_launch(kernel, shape, params) {
        panic!("{message}");
    }
}

/// The address of a parameter.
pub fn param<T>(value: &T) -> *const c_void {
    std::ptr::from_ref(value).cast()
}

/// Memory of the device: aligned as it is there, of exactly the size asked for, so that the sanitizer sees its end.
pub struct Memory {
    start: *mut u8,
    bytes: usize,
    /// Where tests run on a device, what has the memory.
    device: Option<device::Memory>,
}

const ALIGNMENT: usize = 256;

/// Plain values as bytes.
fn bytes_of<T: Copy>(values: &[T]) -> &[u8] {
    // SAFETY: initialised, and only looked at.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

impl Memory {
    /// With the bits of NaN, as everything that is not written yet.
    pub fn new(bytes: usize) -> Memory {
        if device::index().is_some() {
            let memory = device::alloc(bytes);
            let start = std::ptr::without_provenance_mut(memory.address() as usize);
            return Memory { start, bytes, device: Some(memory) };
        }
        let layout = std::alloc::Layout::from_size_align(bytes.max(1), ALIGNMENT).unwrap();
        // SAFETY: the size is not zero.
        let start = unsafe { std::alloc::alloc(layout) };
        assert!(!start.is_null());
        // SAFETY: just allocated.
        unsafe { start.write_bytes(0xFF, bytes) };
        Memory { start, bytes, device: None }
    }

    pub fn of<T: Copy>(values: &[T]) -> Memory {
        let memory = Memory::new(size_of_val(values));
        match &memory.device {
            Some(device) => device.write(0, bytes_of(values)).unwrap(),
            // SAFETY: of that size; plain values.
            None => unsafe { memory.start.copy_from(values.as_ptr().cast(), memory.bytes) },
        }
        memory
    }

    /// The device's address: what a kernel gets.
    pub fn at<T>(&self) -> *mut T {
        self.start.cast()
    }

    /// That address as a parameter of a launch.
    pub fn param(&self) -> *const c_void {
        param(&self.start)
    }

    pub fn read<T: Copy>(&self) -> Vec<T> {
        let count = self.bytes / size_of::<T>();
        let Some(device) = &self.device else {
            // SAFETY: initialised bytes, aligned for any plain type.
            return unsafe { std::slice::from_raw_parts(self.start.cast(), count) }.to_vec();
        };
        let mut bytes = vec![0u8; count * size_of::<T>()];
        device.read(0, &mut bytes).unwrap();
        // SAFETY: any bytes are a plain value, of that size.
        bytes.chunks_exact(size_of::<T>()).map(|one| unsafe { one.as_ptr().cast::<T>().read_unaligned() }).collect()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.device.is_none() {
            let layout = std::alloc::Layout::from_size_align(self.bytes.max(1), ALIGNMENT).unwrap();
            // SAFETY: allocated with this layout.
            unsafe { std::alloc::dealloc(self.start, layout) };
        }
    }
}
