//! The options of the C interface that a GPU has, on their way to an engine.

use super::engines::assert_nothing_lives;
use crate::cuda_driver;
use crate::support::models::fixture;
use astrai::Status;
use astrai::ffi::engine::{astrai_engine_free, astrai_engine_info, astrai_engine_open};
use astrai::ffi::error::astrai_error_free;
use astrai::ffi::library::astrai_engine_options_init;
use astrai::ffi::types::*;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::ptr::null_mut;

/// The options as a C program begins with them.
fn defaults() -> astrai_engine_options {
    let mut options = MaybeUninit::<astrai_engine_options>::uninit();
    let size = size_of::<astrai_engine_options>();
    // SAFETY: as many writable bytes as are said.
    assert_eq!(unsafe { astrai_engine_options_init(options.as_mut_ptr(), size) }, Status::Ok as i32);
    // SAFETY: just written, all of it.
    unsafe { options.assume_init() }
}

/// Opens an engine, gives its info, and closes it.
fn open(options: &astrai_engine_options) -> Result<(i32, String), (i32, String)> {
    let dir = CString::new(fixture("llama").to_str().unwrap()).unwrap();
    let (mut engine, mut error) = (null_mut(), null_mut());
    // SAFETY: strings, structs and places for results that live during the call.
    let status = unsafe { astrai_engine_open(dir.as_ptr(), options, &raw mut engine, &raw mut error) };
    if status != Status::Ok as i32 {
        // SAFETY: a live error, which is freed after its message was copied.
        let message = unsafe { CStr::from_ptr((*error).message) }.to_str().unwrap().to_owned();
        // SAFETY: as above.
        unsafe { astrai_error_free(error) };
        return Err((status, message));
    }
    // SAFETY: all zero is valid for a struct of integers and pointers.
    let mut info: astrai_info = unsafe { std::mem::zeroed() };
    info.struct_size = size_of::<astrai_info>() as u32;
    // SAFETY: a live handle and a struct of the size it says.
    assert_eq!(unsafe { astrai_engine_info(engine, &raw mut info, null_mut()) }, Status::Ok as i32);
    // SAFETY: a string that lives as long as the engine.
    let name = unsafe { CStr::from_ptr(info.device_name) }.to_str().unwrap().to_owned();
    // SAFETY: a live handle, not used afterwards.
    unsafe { astrai_engine_free(engine) };
    Ok((info.device, name))
}

#[test]
fn the_options_of_a_gpu_reach_the_engine() {
    let Some(driver) = cuda_driver::begin() else { return };
    driver.set_device_count(2);
    let defaults = defaults();
    assert_eq!((defaults.device, defaults.device_index), (ASTRAI_DEVICE_AUTO, 0));
    assert_eq!((defaults.invariant, defaults.flags), (1, 0), "law 1 holds unless somebody says otherwise");
    let on = |device, device_index| astrai_engine_options { device, device_index, memory_budget: 64 << 20, ..defaults };
    for (options, device, named) in [
        (on(ASTRAI_DEVICE_AUTO, 0), ASTRAI_DEVICE_CUDA, "cuda:0"),
        (on(ASTRAI_DEVICE_CUDA, 0), ASTRAI_DEVICE_CUDA, "cuda:0"),
        (on(ASTRAI_DEVICE_CUDA, 1), ASTRAI_DEVICE_CUDA, "cuda:1"),
        (on(ASTRAI_DEVICE_AUTO, 1), ASTRAI_DEVICE_CUDA, "cuda:1"),
        (on(ASTRAI_DEVICE_CPU, 0), ASTRAI_DEVICE_CPU, ""),
    ] {
        let (got, name) = open(&options).unwrap();
        assert!(got == device && name.contains(named), "{got} {name}");
        assert_eq!(name.contains("Stand-in GPU"), device == ASTRAI_DEVICE_CUDA, "{name}");
    }
    for (options, status, says) in [
        (on(ASTRAI_DEVICE_CUDA, 2), Status::Argument, "device_index is 2"),
        (on(ASTRAI_DEVICE_CUDA, -1), Status::Argument, "device_index is -1"),
        (on(ASTRAI_DEVICE_CPU, 1), Status::Argument, "device_index is 1"),
        (on(3, 0), Status::Argument, "device"),
        (astrai_engine_options { invariant: 2, ..on(ASTRAI_DEVICE_CUDA, 0) }, Status::Argument, "invariant"),
        (astrai_engine_options { flags: 1 << 31, ..on(ASTRAI_DEVICE_CUDA, 0) }, Status::Argument, "flags"),
    ] {
        let (got, message) = open(&options).unwrap_err();
        assert!(got == status as i32 && message.contains(says), "{got} {message}");
    }
    let flags = ASTRAI_ENGINE_GPU_LOW_PRIORITY | ASTRAI_ENGINE_GPU_BLOCKING_WAIT;
    assert!(open(&astrai_engine_options { flags, invariant: 0, ..on(ASTRAI_DEVICE_CUDA, 0) }).is_ok());
    driver.set_device_count(0);
    let (status, message) = open(&on(ASTRAI_DEVICE_CUDA, 0)).unwrap_err();
    assert!(status == Status::Device as i32 && message.contains("no GPU"), "{status} {message}");
    assert_eq!(open(&on(ASTRAI_DEVICE_AUTO, 0)).unwrap().0, ASTRAI_DEVICE_CPU);
    assert_nothing_lives(&driver, "after the last");
}
