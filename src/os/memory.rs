//! How much physical memory this process may still take: what the KV budget is chosen by, and what a plan is held to.
//!
//! On Linux that is the least of `MemAvailable`, of what every control group above the process leaves, versions 1 and 2, so
//! that a container's limit counts and not the machine's, and of the process's own limits (`ulimit -v`, `ulimit -d`). On
//! Windows it is the least of physical memory, commit charge and address space; elsewhere an estimate.

use std::fmt;

/// What can be had, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Available {
    /// Bytes that can be had without swapping.
    pub bytes: u64,
    /// The tightest bound.
    pub bound: Bound,
}

/// Who bounds memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The machine.
    Machine,
    /// A control group, as of a container.
    ControlGroup,
    /// The process's limit of address space.
    AddressSpace,
    /// The process's limit of writable memory.
    Data,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bound::Machine => "this machine",
            Bound::ControlGroup => "the process's control group (a container's limit)",
            Bound::AddressSpace => "the process's limit of address space (ulimit -v)",
            Bound::Data => "the process's limit of data (ulimit -d)",
        })
    }
}

/// What can be had just now; `None` when the system does not say.
pub fn available() -> Option<Available> {
    #[cfg(target_os = "linux")]
    {
        linux::available(&linux::Roots::default())
    }
    #[cfg(not(target_os = "linux"))]
    {
        Some(Available { bytes: other::available_bytes()?, bound: Bound::Machine })
    }
}

/// Bytes of memory that can be had without swapping; `None` when the system does not say.
pub fn available_bytes() -> Option<u64> {
    available().map(|available| available.bytes)
}

#[cfg(any(target_os = "linux", test))]
mod linux;

#[cfg(all(unix, not(target_os = "linux")))]
mod other {
    /// What is free is not portable; half of what is built in is a fair guess.
    pub fn available_bytes() -> Option<u64> {
        // SAFETY: `sysconf` reads no memory of ours and is thread-safe.
        let (pages, page_bytes) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
        Some(u64::try_from(pages).ok()?.checked_mul(u64::try_from(page_bytes).ok()?)? / 2)
    }
}

#[cfg(windows)]
mod other {
    #[repr(C)]
    struct MemoryStatus {
        length: u32,
        load: u32,
        total_physical: u64,
        available_physical: u64,
        total_page_file: u64,
        available_page_file: u64,
        total_virtual: u64,
        available_virtual: u64,
        available_extended_virtual: u64,
    }

    #[link(name = "kernel32")]
    unsafe extern "system" {
        fn GlobalMemoryStatusEx(status: *mut MemoryStatus) -> i32;
    }

    pub fn available_bytes() -> Option<u64> {
        // SAFETY: integers, for which zero is a value.
        let mut status: MemoryStatus = unsafe { std::mem::zeroed() };
        status.length = u32::try_from(std::mem::size_of::<MemoryStatus>()).ok()?;
        // SAFETY: fills a struct of the length that it has.
        let filled = unsafe { GlobalMemoryStatusEx(&mut status) } != 0;
        let least = status.available_physical.min(status.available_page_file).min(status.available_virtual);
        filled.then_some(least)
    }
}

#[cfg(not(any(unix, windows)))]
mod other {
    pub fn available_bytes() -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_machine_has_memory() {
        if cfg!(any(unix, windows)) {
            let available = super::available().expect("this system says");
            assert!(available.bytes > 1 << 20, "{available:?}");
            assert!(available.bound.to_string().starts_with("th"));
        }
    }
}
