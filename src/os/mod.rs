//! What differs between operating systems: mappings, memory, files, threads. The rest of the library stays portable.

pub mod aligned;
pub mod clock;
pub mod files;
pub mod floats;
pub mod memory;
pub mod mmap;
pub mod pool;
pub mod shortage;
pub mod simd;
pub mod stack;
pub mod thread;
pub mod thread_exit;
#[cfg(target_arch = "x86_64")]
pub mod tiles;
