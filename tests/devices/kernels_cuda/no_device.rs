//! In place of `device.rs` in a build without the feature `cuda`: there is no device, and nobody gets this far.

use super::host::Shape;
use std::ffi::c_void;

const NOBODY: &str = "there is no device";

pub struct Memory;

impl Memory {
    pub fn address(&self) -> u64 {
        0
    }

    pub fn write(&self, _at: usize, _bytes: &[u8]) -> Result<(), &'static str> {
        Err(NOBODY)
    }

    pub fn read(&self, _at: usize, _bytes: &mut [u8]) -> Result<(), &'static str> {
        Err(NOBODY)
    }
}

pub fn index() -> Option<usize> {
    let named = std::env::var_os("ASTRAI_TEST_DEVICE").is_some();
    assert!(!named, "ASTRAI_TEST_DEVICE is set, and these tests were built without the feature cuda");
    None
}

pub fn available() -> bool {
    false
}

pub fn selftest() -> bool {
    false
}

pub fn alloc(_bytes: usize) -> Memory {
    Memory
}

pub fn try_launch(_kernel: &str, _shape: Shape, _params: &[*const c_void]) -> Result<(), String> {
    Err(NOBODY.into())
}
