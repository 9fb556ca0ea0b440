//! Where a test's engines run: every tier of the CPU, or the GPU that the environment variable ASTRAI_TEST_DEVICE names
//! (`cuda` or `cuda:1`), which the tests of the CUDA backend set for themselves ([`use_gpu`]).

#![allow(dead_code, reason = "each test uses some of it")]

use astrai::engine::{CpuTier, Device, EngineOptions};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// A device, and of the CPU a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Cpu(CpuTier),
    Gpu(i32),
    /// [`super::plain_device`].
    Plain,
}

impl Target {
    /// Options of an engine there.
    pub fn options(self) -> EngineOptions {
        match self {
            Target::Cpu(cpu_tier) => EngineOptions { device: Device::Cpu, cpu_tier, ..EngineOptions::default() },
            Target::Gpu(device_index) => {
                EngineOptions { device: Device::Cuda, device_index, ..EngineOptions::default() }
            }
            Target::Plain => EngineOptions {
                device: Device::Cpu,
                probe_fn: Some(super::plain_device::probe_fn()),
                ..EngineOptions::default()
            },
        }
    }
}

static GPU: AtomicI32 = AtomicI32::new(-1);

/// All tests of this process run on a GPU: the one that ASTRAI_TEST_DEVICE names, or the first.
pub fn use_gpu() {
    GPU.store(named_gpu().unwrap_or(0), Ordering::SeqCst);
}

static PLAIN: AtomicBool = AtomicBool::new(false);

/// All tests of this process run on the tests' own device.
pub fn use_plain_device() {
    PLAIN.store(true, Ordering::SeqCst);
}

/// The GPU that ASTRAI_TEST_DEVICE names.
pub fn named_gpu() -> Option<i32> {
    let name = std::env::var("ASTRAI_TEST_DEVICE").ok()?;
    let index = name.strip_prefix("cuda").unwrap_or_else(|| panic!("ASTRAI_TEST_DEVICE is {name}, not cuda:N"));
    Some(index.strip_prefix(':').map_or(0, |n| n.parse().unwrap()))
}

fn gpu() -> Option<i32> {
    let set = GPU.load(Ordering::SeqCst);
    if set >= 0 { Some(set) } else { named_gpu() }
}

/// Everything to test: the GPU alone, or all tiers that this processor has.
pub fn all() -> Vec<Target> {
    if PLAIN.load(Ordering::SeqCst) {
        return vec![Target::Plain];
    }
    match gpu() {
        Some(index) => vec![Target::Gpu(index)],
        None => astrai::backend::cpu::tiers().into_iter().map(Target::Cpu).collect(),
    }
}

/// The fastest of them.
pub fn fastest() -> Target {
    match gpu() {
        _ if PLAIN.load(Ordering::SeqCst) => Target::Plain,
        Some(index) => Target::Gpu(index),
        None => Target::Cpu(CpuTier::Auto),
    }
}
