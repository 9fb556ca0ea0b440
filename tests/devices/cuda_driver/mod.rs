//! A stand-in for NVIDIA's driver, for tests of the code that drives a GPU: see driver.cpp. A test begins so:
//!
//! ```ignore
//! let Some(driver) = cuda_driver::begin() else { return };
//! ```
//!
//! which loads it before anything looks for `libcuda.so.1`, makes it healthy, and lets no other test of the process have it.
//! With ASTRAI_TEST_DEVICE, which names a real GPU, such a test is skipped. One that would say as much of any GPU begins with
//! [`any_gpu`] instead.

#![allow(dead_code, reason = "each test uses some of it")]

pub mod blaslt;
pub mod selftest;

use std::ffi::{CStr, CString, c_char, c_void};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, TryLockError};

pub use crate::build::available;
use crate::build::{self, Build};
use crate::support::own_process::{is_alone, run_alone};
#[cfg(feature = "cuda")]
use crate::support::programs;

/// Errors of the driver that tests name.
pub mod error {
    pub const INVALID_VALUE: i32 = 1;
    pub const OUT_OF_MEMORY: i32 = 2;
    pub const NOT_INITIALIZED: i32 = 3;
    pub const DEVICE_UNAVAILABLE: i32 = 46;
    pub const NO_DEVICE: i32 = 100;
    pub const INVALID_DEVICE: i32 = 101;
    pub const INVALID_IMAGE: i32 = 200;
    pub const INVALID_CONTEXT: i32 = 201;
    pub const ECC_UNCORRECTABLE: i32 = 214;
    pub const INVALID_HANDLE: i32 = 400;
    pub const ILLEGAL_STATE: i32 = 401;
    pub const NOT_FOUND: i32 = 500;
    pub const NOT_READY: i32 = 600;
    pub const ILLEGAL_ADDRESS: i32 = 700;
    pub const LAUNCH_FAILED: i32 = 719;
    pub const CAPTURE_UNSUPPORTED: i32 = 900;
    pub const CAPTURE_INVALIDATED: i32 = 901;
    pub const CAPTURE_UNJOINED: i32 = 904;
    pub const CAPTURE_ISOLATION: i32 = 905;
    pub const CAPTURE_IMPLICIT: i32 = 906;
    pub const CAPTURED_EVENT: i32 = 907;
    pub const CAPTURE_WRONG_THREAD: i32 = 908;
}

/// The mirror of `astrai_host_driver_counts` in control.h, where each number is explained.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub launches: u64,
    pub graph_launches: u64,
    pub graph_instantiations: u64,
    pub captures: u64,
    pub stream_synchronisations: u64,
    pub event_synchronisations: u64,
    pub context_synchronisations: u64,
    pub to_device_copies: u64,
    pub to_device_bytes: u64,
    pub to_host_copies: u64,
    pub to_host_bytes: u64,
    pub device_allocations: u64,
    pub pinned_allocations: u64,
    pub live_device_bytes: u64,
    pub live_device_allocations: u64,
    pub peak_device_bytes: u64,
    pub live_pinned_bytes: u64,
    pub live_streams: u64,
    pub live_events: u64,
    pub live_modules: u64,
    pub live_graphs: u64,
    pub live_contexts: u64,
    pub lost_with_contexts: u64,
}

/// The instruction sets that the build may use. Results are the same with and without.
fn instructions() -> &'static [&'static str] {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        return &["-mavx2", "-mfma"];
    }
    &[]
}

/// The library, built if nobody built it yet from the same sources with the same flags. Kept between runs.
fn library() -> PathBuf {
    let mut sources = build::kernels();
    sources.extend(build::files("tests/devices/cuda_driver", &["cpp"]));
    let compile: Vec<&str> = ["-O2"].iter().chain(instructions()).copied().collect();
    // -Bsymbolic: calls among its own functions stay inside, whatever else is loaded.
    let link = ["-Wl,-soname,libcuda.so.1", "-Wl,-Bsymbolic", "-pthread", "-ldl"];
    let mut key = xxhash_rust::xxh3::Xxh3::new();
    let headers =
        [build::files("kernels", &["cuh"]), build::files("tests/devices/cuda_driver", &["h", "hpp"])].concat();
    for file in sources.iter().chain(&headers) {
        let bytes = fs::read(file).unwrap();
        key.update(&(bytes.len() as u64).to_le_bytes());
        key.update(&bytes);
    }
    for flag in build::FLAGS.iter().chain(&compile).chain(&link) {
        key.update(flag.as_bytes());
    }
    key.update(&build::compiler().arg("--version").output().unwrap().stdout);
    key.update(b"with an alias");
    let all = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = all.join(format!("cuda-driver-{:016x}", key.digest()));
    let path = folder.join("libcuda.so.1");
    // One process builds, the others wait for it; whoever comes later finds all of it or nothing.
    let lock = File::create(all.join("cuda-driver.lock")).unwrap();
    lock.lock().unwrap();
    if !path.exists() {
        let unfinished = all.join(format!("cuda-driver-{}", std::process::id()));
        Build { sources: &sources, compile: &compile, link: &link, library: "libcuda.so.1" }.run(&unfinished);
        for entry in fs::read_dir(&unfinished).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.extension().is_some_and(|e| e == "o") {
                fs::remove_file(entry).unwrap();
            }
        }
        alias(&unfinished);
        fs::rename(&unfinished, &folder).unwrap();
    }
    path
}

/// Where NVIDIA's own library is installed, `libcuda.so` would find that: an empty library of this name, which has the
/// stand-in's symbols through its dependency, is loaded as well.
fn alias(folder: &Path) {
    let mut link = build::compiler();
    link.args(["-shared", "-nostdlib", "-Wl,-soname,libcuda.so", "-Wl,--no-as-needed", "-o"]).arg(folder.join(ALIAS));
    link.arg(folder.join("libcuda.so.1"));
    assert!(link.status().unwrap().success(), "{link:?}");
}

/// Not `libcuda.so`: only its soname is that.
const ALIAS: &str = "alias.so";

/// What LD_PRELOAD takes, so that another program has the stand-in for its driver.
pub fn preload() -> String {
    let path = library();
    format!("{}:{}", path.display(), path.with_file_name(ALIAS).display())
}

/// Loads the stand-in for the whole process, once.
pub fn load() -> Driver {
    static HANDLE: OnceLock<usize> = OnceLock::new();
    let handle = HANDLE.get_or_init(|| {
        let path = library();
        let handle = build::load(&path, libc::RTLD_GLOBAL);
        build::load(&path.with_file_name(ALIAS), libc::RTLD_GLOBAL);
        handle.expose_provenance()
    });
    Driver { handle: std::ptr::with_exposed_provenance_mut(*handle) }
}

/// Loads the stand-in and makes it healthy, for one test at a time: what a test does to it is the whole process's. While another
/// test has it, the calling one runs in a process of its own, with a stand-in of its own: then it has passed there, and is given
/// None. None, too, where the stand-in cannot be built: the test is skipped.
pub fn begin() -> Option<Exclusive> {
    if std::env::var_os("ASTRAI_TEST_DEVICE").is_some() {
        println!("SKIP: what this test does to the driver only the stand-in bears");
        return None;
    }
    if !available() {
        return None;
    }
    let guard = match ONE.try_lock() {
        Ok(guard) => guard,
        Err(TryLockError::Poisoned(failed)) => failed.into_inner(),
        Err(TryLockError::WouldBlock) => {
            // A test's thread has the test's name.
            let thread = std::thread::current();
            let name = thread.name().expect("a test's thread has a name");
            assert!(!is_alone(name), "{name} begins twice");
            run_alone(name);
            return None;
        }
    };
    let driver = load();
    driver.reset();
    Some(Exclusive { driver, _guard: guard })
}

static ONE: Mutex<()> = Mutex::new(());

/// A GPU for a test of engines, while no other test has one.
pub enum Gpu {
    /// Operations take long there.
    StandIn(Exclusive),
    Real(MutexGuard<'static, ()>),
}

impl Gpu {
    pub fn is_real(&self) -> bool {
        matches!(self, Gpu::Real(_))
    }
}

/// Begins a test on the GPU that ASTRAI_TEST_DEVICE names, or on the stand-in. None where it is not there: the test is
/// skipped, or fails if ASTRAI_REQUIRE names gpu.
#[cfg(feature = "cuda")]
pub fn any_gpu() -> Option<Gpu> {
    let Ok(name) = std::env::var("ASTRAI_TEST_DEVICE") else { return begin().map(Gpu::StandIn) };
    let index = name.strip_prefix("cuda:").map_or(0, |n| n.parse().unwrap());
    // Kept open until the process ends: the context is then made once, and not by each of thousands of engines.
    static KEPT: OnceLock<astrai::Result<astrai::backend::cuda::testing::Bench>> = OnceLock::new();
    match KEPT.get_or_init(|| astrai::backend::cuda::testing::Bench::open(index)) {
        Ok(_) => Some(Gpu::Real(ONE.lock().unwrap_or_else(|failed| failed.into_inner()))),
        Err(error) => {
            assert!(!programs::required("gpu"), "ASTRAI_REQUIRE names gpu: {error}");
            println!("SKIP: {error}");
            None
        }
    }
}

/// The stand-in, while no other test has it. Made healthy again when dropped.
pub struct Exclusive {
    driver: Driver,
    _guard: MutexGuard<'static, ()>,
}

impl std::ops::Deref for Exclusive {
    type Target = Driver;

    fn deref(&self) -> &Driver {
        &self.driver
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        self.driver.reset();
    }
}

/// The loaded stand-in; the functions of control.h, where they are explained.
#[derive(Clone, Copy)]
pub struct Driver {
    handle: *mut c_void,
}

// SAFETY: the library stays loaded, and its functions may be called from any thread.
unsafe impl Send for Driver {}
// SAFETY: as above.
unsafe impl Sync for Driver {}

impl Driver {
    /// The address of one of its functions, a driver function or a control function.
    pub fn symbol(&self, name: &str) -> *mut c_void {
        let name = CString::new(name).unwrap();
        // SAFETY: a live library and a string that ends in zero.
        let address = unsafe { libc::dlsym(self.handle, name.as_ptr()) };
        assert!(!address.is_null(), "the stand-in has no {name:?}");
        address
    }

    /// A control function with one or two numbers.
    fn call<A>(&self, name: &str, call: impl FnOnce(A)) {
        const { assert!(size_of::<A>() == size_of::<*mut c_void>(), "a function pointer") };
        let address = self.symbol(&format!("astrai_host_driver_{name}"));
        // SAFETY: A is the function's type in control.h.
        call(unsafe { std::mem::transmute_copy::<*mut c_void, A>(&address) });
    }

    pub fn reset(&self) {
        self.call("reset", |f: extern "C" fn()| f());
    }

    /// 1000 × major + 10 × minor.
    pub fn set_version(&self, version: i32) {
        self.call("set_version", |f: extern "C" fn(i32)| f(version));
    }

    pub fn set_device_count(&self, count: i32) {
        self.call("set_device_count", |f: extern "C" fn(i32)| f(count));
    }

    pub fn set_device_name(&self, name: &str) {
        let name = CString::new(name).unwrap();
        self.call("set_device_name", |f: extern "C" fn(*const c_char)| f(name.as_ptr()));
    }

    pub fn set_capability(&self, major: i32, minor: i32) {
        self.call("set_capability", |f: extern "C" fn(i32, i32)| f(major, minor));
    }

    pub fn set_attribute(&self, attribute: i32, value: i32) {
        self.call("set_attribute", |f: extern "C" fn(i32, i32)| f(attribute, value));
    }

    pub fn set_total_memory(&self, bytes: u64) {
        self.call("set_total_memory", |f: extern "C" fn(u64)| f(bytes));
    }

    pub fn set_eager(&self, eager: bool) {
        self.call("set_eager", |f: extern "C" fn(i32)| f(i32::from(eager)));
    }

    /// Kernels do not run; see `control.h`.
    pub fn set_idle(&self, idle: bool) {
        self.call("set_idle", |f: extern "C" fn(i32)| f(i32::from(idle)));
    }

    pub fn set_seed(&self, seed: u64) {
        self.call("set_seed", |f: extern "C" fn(u64)| f(seed));
    }

    pub fn fail_allocation(&self, n: u64) {
        self.call("fail_allocation", |f: extern "C" fn(u64)| f(n));
    }

    /// `function`: its name, or None for any.
    pub fn fail_call(&self, function: Option<&str>, n: u64, error: i32) {
        let name = function.map(|name| CString::new(name).unwrap());
        let name = name.as_deref().map_or(std::ptr::null(), CStr::as_ptr);
        self.call("fail_call", |f: extern "C" fn(*const c_char, u64, i32)| f(name, n, error));
    }

    pub fn lose_device(&self, launches: u64, error: i32) {
        self.call("lose_device", |f: extern "C" fn(u64, i32)| f(launches, error));
    }

    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        self.call("get_counts", |f: extern "C" fn(*mut Counts)| f(&raw mut counts));
        counts
    }

    fn text(&self, name: &str) -> String {
        let mut text = Vec::new();
        self.call(name, |f: extern "C" fn(*mut u8, usize) -> usize| {
            text.resize(f(std::ptr::null_mut(), 0) + 1, 0);
            let bytes = f(text.as_mut_ptr(), text.len()).min(text.len() - 1);
            text.truncate(bytes);
        });
        String::from_utf8(text).unwrap()
    }

    pub fn message(&self) -> String {
        self.text("message")
    }

    pub fn log(&self, on: bool) {
        self.call("log", |f: extern "C" fn(i32)| f(i32::from(on)));
    }

    /// One launch each.
    pub fn logged(&self) -> Vec<String> {
        self.text("get_log").lines().map(str::to_owned).collect()
    }

    /// The names of the launched kernels.
    pub fn logged_kernels(&self) -> Vec<String> {
        self.logged().iter().map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect()
    }

    pub fn is_device_memory(&self, address: u64, bytes: u64) -> bool {
        let mut is = 0;
        self.call("is_device_memory", |f: extern "C" fn(u64, u64) -> i32| is = f(address, bytes));
        is != 0
    }
}
