//! The kernels on a device: the library's own code, launched through the driver. For tests that run with ASTRAI_TEST_DEVICE.

use super::host::Shape;
use astrai::backend::cuda::testing::Bench;
pub use astrai::backend::cuda::testing::Memory;
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::io::Write;
use std::sync::{Mutex, OnceLock};

/// The kernels of selftest.cu that run on a device; those with faults do not.
const SELFTEST: [&str; 7] =
    ["test_block_sum", "test_shuffles", "test_mma", "test_transposed", "test_copies", "test_atomics", "test_bytes"];

/// Which device ASTRAI_TEST_DEVICE names, `cuda` or `cuda:1`.
pub fn index() -> Option<usize> {
    let name = std::env::var("ASTRAI_TEST_DEVICE").ok()?;
    let index = name.strip_prefix("cuda").unwrap_or_else(|| panic!("ASTRAI_TEST_DEVICE is {name}, not cuda:N"));
    Some(index.strip_prefix(':').map_or(0, |n| n.parse().unwrap()))
}

/// The device with all kernels, for the whole process; or why there is none.
fn bench() -> &'static Result<Bench, String> {
    static BENCH: OnceLock<Result<Bench, String>> = OnceLock::new();
    BENCH.get_or_init(|| {
        let mut bench = Bench::open(index().expect("asked for")).map_err(|error| error.to_string())?;
        if let Some(path) = std::env::var_os("ASTRAI_TEST_FATBIN") {
            let image = std::fs::read(&path).unwrap_or_else(|e| panic!("ASTRAI_TEST_FATBIN: {e}"));
            bench.add(&image, &SELFTEST).unwrap();
        }
        Ok(bench)
    })
}

fn opened() -> &'static Bench {
    bench().as_ref().expect("the test began with `available`")
}

/// Whether the device is there. Where not, the test is skipped, or fails if ASTRAI_REQUIRE names gpu.
pub fn available() -> bool {
    let Err(why) = bench() else { return true };
    assert!(!crate::support::programs::required("gpu"), "ASTRAI_REQUIRE names gpu: {why}");
    println!("SKIP: {why}");
    false
}

/// Whether the kernels of the self-test are on it.
pub fn selftest() -> bool {
    let there = std::env::var_os("ASTRAI_TEST_FATBIN").is_some();
    if !there {
        println!("SKIP: ASTRAI_TEST_FATBIN names no fat binary of selftest.cu");
    }
    there
}

pub fn alloc(bytes: usize) -> Memory {
    // The bits of NaN, as everything that is not written yet.
    opened().alloc(bytes, 0xFF).unwrap()
}

pub fn try_launch(kernel: &str, shape: Shape, params: &[*const c_void]) -> Result<(), String> {
    // SAFETY: as for the host build: the tests give one address for each parameter, of its type.
    let done = unsafe { opened().launch(kernel, shape.grid, shape.block, shape.shared, params) };
    if done.is_ok() && !shape.grid.contains(&0) {
        note(kernel);
    }
    done.map_err(|error| error.to_string())
}

/// Writes the names of the kernels that were launched to the file that ASTRAI_TEST_LAUNCHED names, each once.
fn note(kernel: &str) {
    static NOTED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let Some(path) = std::env::var_os("ASTRAI_TEST_LAUNCHED") else { return };
    if NOTED.lock().unwrap().insert(kernel.to_owned()) {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{kernel}").unwrap();
    }
}

/// What stands behind launches by name: the list is the library's, and misuse is an error.
#[test]
fn kernels_are_found_by_name() {
    println!("KERNELS {}", Bench::names().join(" "));
    if index().is_none() || !super::begin() {
        return;
    }
    let (nothing, shape) = (0u64, |shared| Shape { grid: [0, 1, 1], block: 256, shared });
    let params = [super::host::param(&nothing)];
    for name in Bench::names() {
        assert_eq!(try_launch(name, shape(0), &params), Ok(()), "{name}: an empty grid does nothing");
        let limit = opened().info().block_shared_bytes as usize;
        assert!(try_launch(name, shape(limit + 1), &params).is_err());
    }
    assert!(try_launch("nobody", shape(0), &params).unwrap_err().contains("nobody"));
    let memory = opened().alloc(16, 0x5A).unwrap();
    memory.write(4, &[1, 2]).unwrap();
    let mut back = [0; 8];
    memory.read(2, &mut back).unwrap();
    assert_eq!(back, [0x5A, 0x5A, 1, 2, 0x5A, 0x5A, 0x5A, 0x5A]);
}
