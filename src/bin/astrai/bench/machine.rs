//! Facts about the machine that belong beside a measurement.

use astrai::backend::device::{Device, DeviceOptions, probe};
use serde_json::Value;

/// The processor's name, as the system tells it.
pub fn cpu_model() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |key: &str| {
        let line = info.lines().find(|line| line.split(':').next().is_some_and(|k| k.trim() == key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    value("model name").or_else(|| value("Model")).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// Logical processors this process may use.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// Most memory this process had resident, in bytes, mapped files included; `None` when the system does not say.
pub fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Facts about a GPU; null of the CPU, and when the driver does not tell them.
pub fn gpu(device: Device, index: i32) -> Value {
    let options = DeviceOptions { index: usize::try_from(index).unwrap_or(0), ..DeviceOptions::default() };
    probe(device, options).map_or(Value::Null, |probed| probed.facts())
}
