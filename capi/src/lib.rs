//! The C libraries, `libastrai.so` and `libastrai.a`. What they export is the room `ffi` of the Rust library; here is only what
//! belongs to a library that lives in a C program, and must not reach a Rust program that links the Rust library:
//!
//! - [`allocator`], [`reserve`], [`backup`]: memory that runs out is an error and not the end of the process.
//! - [`panics`]: a panic is reported as an error and does not print.
//! - [`load`]: what has to be done when the library is loaded.
//! - [`thread_exit`]: glibc cannot end the process over a note about a thread-local.

mod allocator;
mod backup;
mod load;
mod panics;
mod reserve;
#[cfg(all(target_os = "linux", target_env = "gnu", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod thread_exit;

#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;
