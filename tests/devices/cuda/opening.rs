//! What a machine may lack: each is a clear error for who asked for a GPU, and the CPU with a log line for who left the choice
//! to the library. An open that fails leaves nothing behind.

use super::engines::{CPU, GPU, Lines, assert_nothing_lives, generate, live, options, refusal};
use crate::cuda_driver::{self, Counts, Driver, error};
use crate::support::models::fixture;
use crate::support::random::{Random, rounds, seed};
use crate::support::target::Target;
use astrai::Status;
use astrai::engine::*;
use std::process::Command;

const AUTO: &str = "device auto is the CPU: ";

/// What a machine lacks, and what has to be said of it.
struct Lack {
    make: fn(&Driver),
    index: i32,
    status: Status,
    says: &'static [&'static str],
    /// `needed` and `available`.
    numbers: Option<(u64, u64)>,
}

fn lack(make: fn(&Driver), status: Status, says: &'static [&'static str]) -> Lack {
    Lack { make, index: 0, status, says, numbers: None }
}

fn lacks() -> Vec<Lack> {
    vec![
        Lack {
            numbers: Some((12_000, 11_040)),
            ..lack(|d| d.set_version(11_040), Status::Device, &["CUDA 11.4", "12.0 is needed", "update the driver"])
        },
        lack(|d| d.set_device_count(0), Status::Device, &["no GPU", "device cpu"]),
        Lack {
            index: 3,
            numbers: Some((4, 1)),
            ..lack(|_| {}, Status::Argument, &["device_index is 3", "1 CUDA device,"])
        },
        Lack {
            index: 2,
            numbers: Some((3, 2)),
            ..lack(|d| d.set_device_count(2), Status::Argument, &["device_index is 2", "2 CUDA devices"])
        },
        Lack {
            numbers: Some((80, 75)),
            ..lack(
                |d| {
                    d.set_capability(7, 5);
                    d.set_device_name("An old card");
                },
                Status::Device,
                &["An old card", "compute capability 7.5", "8.0"],
            )
        },
        lack(|d| d.fail_call(Some("cuInit"), 1, 803), Status::Device, &["SYSTEM_DRIVER_MISMATCH", "repair"]),
        lack(
            |d| d.fail_call(Some("cuDevicePrimaryCtxRetain"), 1, error::OUT_OF_MEMORY),
            Status::Memory,
            &["context", "other programs"],
        ),
        lack(
            |d| d.fail_call(Some("cuModuleLoadData"), 1, error::INVALID_IMAGE),
            Status::Device,
            &[
                "CUDA 13.0",
                "capability 9.0",
                "compiled by CUDA ",
                "sm_",
                "CUDA_ERROR_INVALID_IMAGE",
                "update the driver",
            ],
        ),
        lack(
            |d| d.fail_call(Some("cuModuleLoadData"), 2, 222),
            Status::Device,
            &["CUDA 13.0", "capability 9.0", "compiled by CUDA ", "UNSUPPORTED_PTX_VERSION", "update the driver"],
        ),
        lack(
            |d| d.fail_call(Some("cuModuleLoadData"), 3, 209),
            Status::Device,
            &["capability 9.0", "sm_", "NO_BINARY_FOR_GPU"],
        ),
        lack(
            |d| d.set_total_memory(100_000),
            Status::Memory,
            &["of the GPU's memory are free", "weights", "workspace", "lower context_length"],
        ),
    ]
}

#[test]
fn what_is_lacking_is_told_to_who_asks_and_the_cpu_taken_for_others() {
    let Some(driver) = cuda_driver::begin() else { return };
    let dir = fixture("llama");
    let want = generate(&Engine::open(&dir, options(CPU)).unwrap(), &[1, 2, 3], 4);
    for Lack { make, index, status, says, numbers } in lacks() {
        driver.reset();
        make(&driver);
        // Without a budget, the device's own memory counts.
        let on = |target: Target| EngineOptions { memory_budget: 0, ..options(target) };
        let told = refusal(&dir, on(Target::Gpu(index)));
        assert_eq!(told.status, status, "{told}");
        assert!(says.iter().all(|part| told.message.contains(part)), "{told:?} does not say {says:?}");
        if let Some(numbers) = numbers {
            assert_eq!((told.needed, told.available), numbers, "{told:?}");
        }
        if status == Status::Memory && says.contains(&"workspace") {
            // A quarter is left to the driver.
            assert!(told.needed > told.available && told.available == 75_000, "{told:?}");
        }
        driver.reset();
        make(&driver);
        let lines = Lines::default();
        let auto = EngineOptions { device: Device::Auto, device_index: index, ..on(CPU) };
        let engine = Engine::open(&dir, lines.of(auto)).unwrap();
        assert_eq!(engine.info().device, Device::Cpu);
        assert_eq!(generate(&engine, &[1, 2, 3], 4), want);
        drop(engine);
        let why = lines.with(AUTO);
        assert!(why.len() == 1 && says.iter().all(|part| why[0].contains(part)), "{why:?} does not say {says:?}");
        assert_nothing_lives(&driver, &told.message);
    }
    driver.reset();
    let lines = Lines::default();
    let auto = EngineOptions { device: Device::Auto, ..options(CPU) };
    let engine = Engine::open(&dir, lines.of(auto)).unwrap();
    assert_eq!(engine.info().device, Device::Cuda, "with nothing lacking");
    assert!(engine.info().device_name.contains("Stand-in GPU"));
    drop(engine);
    assert_eq!(lines.with(AUTO), [""; 0]);
}

const CHILD: &str = "ASTRAI_TEST_NO_DRIVER";

/// The part of the next test that runs in a process of its own; on its own it does nothing.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    // SAFETY: a string that ends in zero.
    if !unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) }.is_null() {
        println!("child: SKIP: this machine has NVIDIA's driver");
        return;
    }
    let dir = fixture("llama");
    let told = refusal(&dir, options(GPU));
    assert_eq!((told.status, told.subject.as_str()), (Status::Device, "device"));
    assert!(told.message.contains("libcuda.so.1") && told.message.contains("install it"), "{told}");
    assert_eq!(Engine::plan(&dir, &options(GPU)).unwrap_err(), told);
    let lines = Lines::default();
    let engine = Engine::open(&dir, lines.of(EngineOptions { device: Device::Auto, ..options(CPU) })).unwrap();
    assert_eq!(engine.info().device, Device::Cpu);
    assert_eq!(generate(&engine, &[1, 2, 3], 4).tokens.len(), 4);
    drop(engine);
    assert_eq!(lines.with("libcuda.so.1").len(), 1, "{:?}", lines.with(""));
    println!("child: well");
}

#[test]
fn without_a_driver_the_error_names_it_and_auto_is_the_cpu() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "cuda::opening::child", "--nocapture"]).env(CHILD, "1").env_remove("LD_LIBRARY_PATH");
    let output = command.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    let said = printed.lines().find_map(|line| line.split_once("child: ")).expect("the child says something").1;
    println!("{said}");
    assert!(said == "well" || said.starts_with("SKIP"), "{printed}");
}

/// Memory that is short at any one of the allocations of opening: one error that says so, with numbers, and all is given back.
#[test]
fn each_allocation_of_opening_may_fail() {
    let Some(driver) = cuda_driver::begin() else { return };
    let dir = fixture("qwen3_moe");
    let want = generate(&Engine::open(&dir, options(GPU)).unwrap(), &[1, 2, 3], 4);
    let mut failed = 0;
    let engine = loop {
        driver.fail_allocation(failed + 1);
        match Engine::open(&dir, options(GPU)) {
            Ok(engine) => break engine,
            Err(error) => {
                let what = format!("allocation {}: {error:?}", failed + 1);
                assert_eq!((error.status, error.subject.as_str()), (Status::Memory, "memory"), "{what}");
                let said = ["cannot allocate", "cannot pin"].iter().any(|part| error.message.contains(part));
                assert!(said && error.message.contains(&error.needed.to_string()) && error.needed > 0, "{what}");
                assert_nothing_lives(&driver, &what);
            }
        }
        failed += 1;
    };
    println!("{failed} allocations");
    assert!(failed > 30, "only {failed} allocations");
    driver.reset();
    assert_eq!(generate(&engine, &[1, 2, 3], 4), want, "the next open works");
}

/// Functions that an open calls and that can fail.
const CALLED: [&str; 19] = [
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceTotalMem_v2",
    "cuDeviceGetAttribute",
    "cuCtxPushCurrent_v2",
    "cuCtxGetStreamPriorityRange",
    "cuMemGetInfo_v2",
    "cuStreamCreateWithPriority",
    "cuModuleLoadData",
    "cuModuleGetFunction",
    "cuFuncSetAttribute",
    "cuMemsetD8Async",
    "cuMemcpyHtoDAsync_v2",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuStreamSynchronize",
];

/// A driver that fails at any call of opening: an error of the device and nothing left, or an engine that works.
#[test]
fn each_call_of_opening_may_fail() {
    let Some(driver) = cuda_driver::begin() else { return };
    let (dir, mut random) = (fixture("astrai_gqa"), Random(seed()));
    let want = generate(&Engine::open(&dir, options(GPU)).unwrap(), &[1, 2, 3], 2);
    for function in CALLED {
        // The first calls, and some of the others.
        let (mut n, mut refused) = (1, 0);
        loop {
            driver.reset();
            driver.fail_call(Some(function), n, 999);
            let what = format!("{function}, call {n}");
            let opened = Engine::open(&dir, options(GPU));
            let happened = driver.message().contains("because the test said so");
            driver.fail_call(None, 0, 0);
            match opened {
                Err(error) => {
                    assert!(happened, "{what}: {error}");
                    assert_eq!(error.status, Status::Device, "{what}: {error}");
                    assert!(error.message.contains("CUDA_ERROR_UNKNOWN"), "{what}: {error}");
                    refused += 1;
                }
                // What fails while something is given back is nothing to tell.
                Ok(engine) => assert_eq!(generate(&engine, &[1, 2, 3], 2), want, "{what}"),
            }
            if function == "cuCtxPushCurrent_v2" {
                // A context that cannot be entered takes along what it has.
                assert_eq!(Counts { lost_with_contexts: 0, ..live(&driver) }, Counts::default(), "{what}");
            } else {
                assert_nothing_lives(&driver, &what);
            }
            if !happened {
                break;
            }
            n += if n < 2 { 1 } else { 1 + random.below(if rounds() > 1 { 10 } else { 60 }) as u64 };
        }
        assert!(refused > 0, "{function} never failed");
    }
}
