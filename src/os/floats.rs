//! The floating-point environment of a thread: how results are rounded, whether denormal numbers count as zero, which
//! exceptions trap.
//!
//! Law 1: what the library computes never depends on what a host has set. Threads of the library begin with the
//! default environment ([`reset`]); on a host's thread every call that computes holds a [`LibraryFloats`], and every
//! callback made inside it a [`HostFloats`], so that the host's own code finds what the host had set. Both cost one read
//! of a control register while the host has set nothing.
//!
//! Floats of x86-64 are computed by SSE alone, so the control word of the x87 unit is left as it is.

use super::thread;
use std::cell::Cell;

thread_local! {
    /// What the host had set, while this thread is inside a call of the library; else [`NONE`]. A plain number: it has
    /// no destructor, so it does not keep the library mapped.
    static HOST: Cell<u64> = const { Cell::new(NONE) };
}

/// No control register has this value.
const NONE: u64 = u64::MAX;

/// Sets rounding, denormals and exception masks of this thread to the language's defaults.
pub fn reset() {
    if control::mode(control::read()) != control::DEFAULT {
        control::write(control::DEFAULT);
    }
}

/// Runs `body` in the default environment, whatever the calling thread has set.
pub fn with_default<R>(body: impl FnOnce() -> R) -> R {
    let _library = LibraryFloats::enter();
    body()
}

/// The default environment, until it is dropped; then the thread has its own again. May be nested.
pub struct LibraryFloats {
    outermost: bool,
}

impl LibraryFloats {
    /// Enters the library on the calling thread.
    #[inline]
    pub fn enter() -> LibraryFloats {
        let outermost = HOST.get() == NONE;
        if outermost {
            HOST.set(control::read());
            reset();
        }
        LibraryFloats { outermost }
    }
}

impl Drop for LibraryFloats {
    #[inline]
    fn drop(&mut self) {
        if self.outermost {
            give_back(HOST.replace(NONE));
        }
    }
}

/// The host's own environment on a thread that is inside the library, until it is dropped. May be nested. A thread of the
/// library has the default one again afterwards, whatever the host's code did.
pub struct HostFloats {
    /// What the thread had before.
    before: u64,
    inside_library: bool,
}

impl HostFloats {
    /// Enters the host's code on the calling thread.
    #[inline]
    pub fn enter() -> HostFloats {
        let before = control::read();
        let host = HOST.replace(NONE);
        if host != NONE {
            give_back(host);
        }
        HostFloats { before, inside_library: host != NONE }
    }
}

impl Drop for HostFloats {
    #[inline]
    fn drop(&mut self) {
        let now = control::read();
        if self.inside_library {
            // What the host set meanwhile is what it will find.
            HOST.set(now);
        }
        let library_goes_on = self.inside_library || thread::is_ours();
        if library_goes_on && control::mode(now) != control::mode(self.before) {
            control::write(self.before);
        }
    }
}

/// Sets what the host had set. The flags of exceptions that happened are its own again only when the mode differs:
/// otherwise nothing is written, as after any function that computes.
fn give_back(host: u64) {
    if control::mode(host) != control::mode(control::read()) {
        control::write(host);
    }
}

#[cfg(target_arch = "x86_64")]
mod control {
    /// MXCSR: all exceptions masked, rounding to nearest, denormals kept.
    pub const DEFAULT: u64 = 0x1f80;

    /// Without the flags of exceptions that happened.
    pub fn mode(bits: u64) -> u64 {
        bits & !0x3f
    }

    #[inline]
    pub fn read() -> u64 {
        let mut bits: u32 = 0;
        // SAFETY: stores MXCSR to a valid u32.
        unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &mut bits, options(nostack)) };
        bits.into()
    }

    #[inline]
    pub fn write(bits: u64) {
        let bits = bits as u32;
        // SAFETY: loads MXCSR with the default, or with what `read` gave.
        unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &bits, options(nostack, readonly)) };
    }
}

#[cfg(target_arch = "aarch64")]
mod control {
    /// FPCR: no traps, rounding to nearest, denormals kept.
    pub const DEFAULT: u64 = 0;

    pub fn mode(bits: u64) -> u64 {
        bits
    }

    #[inline]
    pub fn read() -> u64 {
        let bits: u64;
        // SAFETY: reads FPCR.
        unsafe { std::arch::asm!("mrs {}, fpcr", out(reg) bits, options(nostack, nomem)) };
        bits
    }

    #[inline]
    pub fn write(bits: u64) {
        // SAFETY: writes to FPCR the default, or what `read` gave.
        unsafe { std::arch::asm!("msr fpcr, {}", in(reg) bits, options(nostack, nomem)) };
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod control {
    pub const DEFAULT: u64 = 0;

    pub fn mode(bits: u64) -> u64 {
        bits
    }

    pub fn read() -> u64 {
        DEFAULT
    }

    pub fn write(_bits: u64) {}
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    /// Rounding up, denormals as zero, and a flag that says something was inexact.
    const UPWARD: u64 = 0x1f80 | 0b10 << 13 | 1 << 15 | 1 << 6 | 0x20;
    const DOWNWARD: u64 = 0x1f80 | 0b01 << 13;

    fn mode() -> u64 {
        control::mode(control::read())
    }

    #[test]
    fn the_library_computes_in_the_default_and_callbacks_in_the_hosts() {
        control::write(UPWARD);
        {
            let _call = LibraryFloats::enter();
            assert_eq!(mode(), control::DEFAULT);
            let tiny = std::hint::black_box(f32::MIN_POSITIVE);
            assert!(tiny / 2.0 != 0.0);
            {
                let _nested = LibraryFloats::enter();
            }
            assert_eq!(mode(), control::DEFAULT);
            {
                let _callback = HostFloats::enter();
                assert_eq!(mode(), control::mode(UPWARD));
                {
                    let _inner = HostFloats::enter();
                    assert_eq!(mode(), control::mode(UPWARD));
                    // A callback that calls the library.
                    let _call = LibraryFloats::enter();
                    assert_eq!(mode(), control::DEFAULT);
                }
                assert_eq!(mode(), control::mode(UPWARD));
                control::write(DOWNWARD);
            }
            assert_eq!(mode(), control::DEFAULT);
        }
        assert_eq!(mode(), DOWNWARD, "what a callback set stays set");
        let panicked = std::panic::catch_unwind(|| with_default(|| panic!("inside")));
        assert!(panicked.is_err());
        assert_eq!(mode(), DOWNWARD);
        reset();
    }

    #[test]
    fn a_callback_on_a_thread_of_the_library_leaves_no_mode_behind() {
        let mode_after = || {
            {
                let _callback = HostFloats::enter();
                control::write(UPWARD);
            }
            mode()
        };
        assert_eq!(thread::aside("test", mode_after).unwrap(), control::DEFAULT);
        assert_eq!(mode_after(), control::mode(UPWARD), "on a thread of its own the host does as it likes");
        reset();
    }
}
