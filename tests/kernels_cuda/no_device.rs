//! In place of device.rs in a build without the feature `cuda`.

use super::host::Shape;
use std::ffi::c_void;

pub enum Memory {}

impl Memory {
    pub fn address(&self) -> u64 {
        match *self {}
    }

    pub fn write(&self, _at: usize, _bytes: &[u8]) -> Result<(), String> {
        match *self {}
    }

    pub fn read(&self, _at: usize, _bytes: &mut [u8]) -> Result<(), String> {
        match *self {}
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
    unreachable!("there is no device")
}

pub fn try_launch(_kernel: &str, _shape: Shape, _params: &[*const c_void]) -> Result<(), String> {
    unreachable!("there is no device")
}
