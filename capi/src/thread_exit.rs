//! Where the shared library has the destructors of thread-locals noted on glibc, which ends the process when it has no memory
//! for a note. std calls `__cxa_thread_atexit_impl`; `build.rs` has the linker take [`register`] for it, in the shared library
//! alone: in a program that links the archive that name belongs to all of it.

use library::os::thread_exit::{self, Destructor};
use std::ffi::{c_int, c_void};

// The name for the linker. Hidden, so that neither library exports it.
std::arch::global_asm!(
    ".pushsection .text.astrai_thread_exit,\"ax\",%progbits",
    ".hidden astrai_thread_exit",
    ".globl astrai_thread_exit",
    ".type astrai_thread_exit,%function",
    "astrai_thread_exit:",
    #[cfg(target_arch = "x86_64")]
    "jmp {register}",
    #[cfg(target_arch = "aarch64")]
    "b {register}",
    ".size astrai_thread_exit, . - astrai_thread_exit",
    ".popsection",
    register = sym register,
);

/// As `__cxa_thread_atexit_impl`: `destructor(object)` when the calling thread ends. On the library's threads, where alone a
/// dependency makes such thread-locals, it needs no memory. `library` is the address that says which library must stay loaded
/// until then; one that has threads does.
///
/// # Safety
/// As there.
unsafe extern "C" fn register(destructor: Destructor, object: *mut c_void, library: *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    if unsafe { thread_exit::note(destructor, object) } {
        return 0;
    }
    // SAFETY: looks a name up.
    let glibc = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__cxa_thread_atexit_impl".as_ptr()) };
    if glibc.is_null() {
        return -1;
    }
    type Register = unsafe extern "C" fn(Destructor, *mut c_void, *mut c_void) -> c_int;
    // SAFETY: the function that glibc has under this name since 2.18, with the caller's own arguments.
    unsafe { std::mem::transmute::<*mut c_void, Register>(glibc)(destructor, object, library) }
}
