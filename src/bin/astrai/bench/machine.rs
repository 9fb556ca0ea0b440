//! Facts about the machine that belong beside a measurement.

use serde_json::{Value, json};

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

/// Facts about a GPU; null when the driver does not tell them.
pub fn gpu(index: i32) -> Value {
    let Ok((facts, _)) = astrai::backend::cuda::probe(usize::try_from(index).unwrap_or(0)) else { return Value::Null };
    let (major, minor) = facts.capability;
    json!({
        "name": facts.name,
        "capability": format!("{major}.{minor}"),
        "memory_bytes": facts.memory_bytes,
        "processors": facts.processors,
        "driver_cuda": format!("{}.{}", facts.driver_version / 1000, facts.driver_version % 1000 / 10),
    })
}
