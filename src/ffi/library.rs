//! What needs no engine: versions, names, and the `_init` functions.

use super::guard::guard;
use super::input;
use super::types::{ASTRAI_ABI_VERSION, astrai_engine_options, astrai_request_options};
use crate::error::Status;
use std::ffi::{CStr, c_char};
use std::ptr;

/// [A] The ABI version of the library in use. Compare it with ASTRAI_ABI_VERSION before anything else.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_abi_version() -> u32 {
    guard("astrai_abi_version", ptr::null_mut(), || Ok(ASTRAI_ABI_VERSION))
}

/// [A] The version of the library, for people: "0.1.0". Static.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_version() -> *const c_char {
    guard("astrai_version", ptr::null_mut(), || Ok(VERSION))
}

/// [A] The name of a status as in this header, "ASTRAI_ERR_CONTEXT"; "ASTRAI_UNKNOWN" for others. Static.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_status_name(status: i32) -> *const c_char {
    guard("astrai_status_name", ptr::null_mut(), || Ok(name(status)))
}

/// [A] Sets every option to automatic. size is the caller's sizeof(astrai_engine_options).
/// ERR_ARGUMENT: options is NULL. ERR_STRUCT_SIZE: size is none that this struct ever had.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_engine_options_init(options: *mut astrai_engine_options, size: usize) -> i32 {
    guard("astrai_engine_options_init", ptr::null_mut(), || {
        // SAFETY: NULL or `size` writable bytes, by the contract.
        unsafe { input::init_struct(options, size) }
    })
}

/// [A] Sets every option to the model's default. size is the caller's sizeof(astrai_request_options).
/// ERR_ARGUMENT: options is NULL. ERR_STRUCT_SIZE: size is none that this struct ever had.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_request_options_init(options: *mut astrai_request_options, size: usize) -> i32 {
    guard("astrai_request_options_init", ptr::null_mut(), || {
        // SAFETY: NULL or `size` writable bytes, by the contract.
        unsafe { input::init_struct(options, size) }
    })
}

/// The crate's version with the NUL that C needs.
const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => c"unknown",
};

fn name(status: i32) -> &'static CStr {
    Status::ALL.iter().find(|known| **known as i32 == status).map_or(c"ASTRAI_UNKNOWN", |known| known.c_name())
}
