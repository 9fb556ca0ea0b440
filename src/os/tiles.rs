//! Permission to use the tile registers of x86-64 processors. Linux gives it to a whole process, once it asks: signal frames
//! grow by 8 KB while a thread uses tiles, and stacks for signals that are too small for that are refused from then on. It
//! cannot be given back.

use std::io;

#[cfg(target_os = "linux")]
mod linux {
    use std::io;

    /// Requests of `arch_prctl`, from the kernel's interface: what it knows, and to be allowed one.
    const ARCH_GET_XCOMP_SUPP: libc::c_long = 0x1021;
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    /// The tile registers.
    const TILE_DATA: u64 = 18;

    pub fn known() -> bool {
        let mut known = 0u64;
        // SAFETY: this request writes one u64.
        let status = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_GET_XCOMP_SUPP, &raw mut known) };
        status == 0 && known >> TILE_DATA & 1 == 1
    }

    pub fn permit() -> io::Result<()> {
        // SAFETY: this request takes numbers alone.
        match unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Whether the system can give the permission. Asks for nothing.
pub fn known() -> bool {
    #[cfg(target_os = "linux")]
    return linux::known();
    #[cfg(not(target_os = "linux"))]
    false
}

/// Asks for the permission; asking again does nothing. It is refused where a thread has a stack for signals that is too small.
pub fn permit() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    return linux::permit();
    #[cfg(not(target_os = "linux"))]
    Err(io::ErrorKind::Unsupported.into())
}
