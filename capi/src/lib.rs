//! The C libraries, `libastrai.so` and `libastrai.a`. What they export is the room `ffi` of the Rust library; here is only what
//! belongs to a library that lives in a C program, and must not reach a Rust program that links the Rust library:
//!
//! - [`allocator`], [`reserve`]: memory that runs out is an error and not the end of the process.
//! - [`panics`]: a panic is reported as an error and does not print.

mod allocator;
mod panics;
mod reserve;

#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;
