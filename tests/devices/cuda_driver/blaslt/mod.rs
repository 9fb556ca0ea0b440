//! A stand-in for NVIDIA's cuBLASLt: see blaslt.cpp. It needs the stand-in for the driver, and once loaded it is there for the
//! whole process: what an engine does without it is for another process to see.

use super::load as load_driver;
use crate::build::{self, Build};
use std::ffi::{CString, c_void};
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

/// The first name by which the library is looked for: whatever is installed, ours is found.
const NAME: &str = "libcublasLt.so";

fn load_library() -> usize {
    load_driver();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/devices/cuda_driver/blaslt/blaslt.cpp");
    // Small enough to be built by every process that wants it.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("blaslt-{}", std::process::id()));
    let soname = format!("-Wl,-soname,{NAME}");
    let build = Build { sources: &[source], compile: &["-O1"], link: &[&soname], library: NAME };
    let handle = build::load(&build.run(&folder), libc::RTLD_GLOBAL);
    let _ = fs::remove_dir_all(&folder);
    handle.expose_provenance()
}

/// The loaded stand-in.
#[derive(Clone, Copy)]
pub struct BlasLt(usize);

/// Loads it for the process, once.
pub fn load() -> BlasLt {
    static HANDLE: OnceLock<usize> = OnceLock::new();
    BlasLt(*HANDLE.get_or_init(load_library))
}

impl BlasLt {
    fn symbol(self, name: &str) -> *mut c_void {
        let name = CString::new(format!("astrai_host_blaslt_{name}")).unwrap();
        // SAFETY: a live library and a string that ends in zero.
        let address = unsafe { libc::dlsym(std::ptr::with_exposed_provenance_mut(self.0), name.as_ptr()) };
        assert!(!address.is_null(), "the stand-in has no {name:?}");
        address
    }

    fn number(self, name: &str) -> u64 {
        // SAFETY: a function without parameters, as in blaslt.cpp.
        let f: extern "C" fn() -> u64 = unsafe { std::mem::transmute(self.symbol(name)) };
        f()
    }

    /// Objects that exist.
    pub fn live(self) -> u64 {
        self.number("live")
    }

    /// Products submitted since the start of the process.
    pub fn products(self) -> u64 {
        self.number("products")
    }

    /// Algorithms asked for since the start of the process.
    pub fn searches(self) -> u64 {
        self.number("searches")
    }

    /// The n-th product from now gives that status; 0: none.
    pub fn fail(self, n: u64, status: i32) {
        // SAFETY: as in blaslt.cpp.
        let f: extern "C" fn(u64, i32) = unsafe { std::mem::transmute(self.symbol("fail")) };
        f(n, status);
    }

    /// There are algorithms for up to so many rows only.
    pub fn set_largest(self, rows: u64) {
        // SAFETY: as in blaslt.cpp.
        let f: extern "C" fn(u64) = unsafe { std::mem::transmute(self.symbol("set_largest")) };
        f(rows);
    }
}
