//! The stand-in for NVIDIA's driver: that it runs kernels, and that it is as unkind as it promises. What every test of the
//! code that drives a GPU relies on.

pub mod api;
mod faults;
mod graphs;
mod memory;
mod streams;

use std::ffi::CStr;
use std::ptr::null_mut;

use crate::cuda_driver::{self, error};
use api::{Api, Session};

/// Whoever looks for the driver's library by its names gets the stand-in.
#[test]
fn the_library_is_found_by_its_names() {
    let Some(driver) = cuda_driver::begin() else { return };
    for name in [c"libcuda.so.1", c"libcuda.so"] {
        // SAFETY: a string that ends in zero; the library is loaded already.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null(), "{name:?}");
        // SAFETY: a live library.
        let found = unsafe { libc::dlsym(handle, c"cuInit".as_ptr()) };
        assert_eq!(found, driver.symbol("cuInit"), "{name:?}");
    }
}

#[test]
fn devices_are_what_the_test_says() {
    let Some(driver) = cuda_driver::begin() else { return };
    let api = Api::new(&driver);
    driver.set_device_count(0);
    assert_eq!(api.init(0), Err(error::NO_DEVICE));
    driver.set_device_count(2);
    driver.set_version(12040);
    driver.set_device_name("A card");
    driver.set_capability(8, 9);
    driver.set_total_memory(12345);
    driver.set_attribute(16, 99);
    assert_eq!(api.init(1), Err(error::INVALID_VALUE));
    assert_eq!(api.init(0), Ok(()));
    assert_eq!(api.made(0, |out| api.version(out)), Ok(12040));
    assert_eq!(api.made(0, |out| api.device_count(out)), Ok(2));
    assert_eq!(api.made(0, |out| api.device(out, 1)), Ok(1));
    assert_eq!(api.made(0, |out| api.device(out, 2)), Err(error::INVALID_DEVICE));
    let attribute = |number| api.made(0, |out| api.attribute(out, number, 0)).unwrap();
    // Capability, multiprocessors, shared memory as it is and on request, memory pools, one that does not exist.
    assert_eq!([75, 76, 16, 8, 97, 115, 9999].map(attribute), [8, 9, 99, 48 << 10, 99 << 10, 0, 0]);
    assert_eq!(api.made(0, |out| api.total_memory(out, 1)), Ok(12345));
    let mut name = [1 as std::ffi::c_char; 5];
    api.device_name(name.as_mut_ptr(), 5, 0).unwrap();
    // SAFETY: the function ends it in zero.
    assert_eq!(unsafe { CStr::from_ptr(name.as_ptr()) }, c"A ca");
    let name = api.made(std::ptr::null(), |out| api.error_name(error::ILLEGAL_ADDRESS, out)).unwrap();
    // SAFETY: a constant of the library.
    assert_eq!(unsafe { CStr::from_ptr(name) }, c"CUDA_ERROR_ILLEGAL_ADDRESS");
}

/// A context is current in the thread that made it so, and nowhere else.
#[test]
fn contexts_are_of_a_thread() {
    let Some(driver) = cuda_driver::begin() else { return };
    let session = Session::new(&driver);
    let (api, context) = (session.api, session.context.expose_provenance());
    let alloc = move || api.made(0, |out| api.alloc(out, 4));
    let address = alloc().unwrap();
    std::thread::spawn(move || {
        assert_eq!(alloc(), Err(error::INVALID_CONTEXT));
        assert_eq!(api.free(address), Err(error::INVALID_CONTEXT));
        assert_eq!(api.synchronize(), Err(error::INVALID_CONTEXT));
        assert_eq!(api.stream_create(&mut null_mut(), 0), Err(error::INVALID_CONTEXT));
        assert_eq!(api.pop(null_mut()), Err(error::INVALID_CONTEXT));
        assert_eq!(api.push(std::ptr::without_provenance_mut(4)), Err(error::INVALID_CONTEXT));
        api.push(std::ptr::with_exposed_provenance_mut(context)).unwrap();
        api.free(address).unwrap();
        assert_eq!(api.made(null_mut(), |out| api.pop(out)).unwrap().addr(), context);
        assert_eq!(alloc(), Err(error::INVALID_CONTEXT));
        assert_eq!(api.made(null_mut(), |out| api.current(out)), Ok(null_mut()));
    })
    .join()
    .unwrap();
    assert!(driver.message().contains("no context is current"), "{}", driver.message());
    assert!(alloc().is_ok());
}

/// A context that ends takes along what was left in it, which the counts tell; one that is retained twice stays.
#[test]
fn contexts_end_with_their_last_reference() {
    let Some(driver) = cuda_driver::begin() else { return };
    let session = Session::new(&driver);
    let api = session.api;
    assert_eq!(api.made(null_mut(), |out| api.retain(out, 0)), Ok(session.context));
    api.new_memory(100);
    api.new_event();
    let pinned = api.new_pinned(4);
    api.release(0).unwrap();
    let counts = driver.counts();
    let live = [counts.live_device_bytes, counts.live_device_allocations, counts.live_pinned_bytes, counts.live_events];
    assert_eq!(live, [100, 1, 16, 1]);
    assert_eq!(
        [counts.live_contexts, counts.live_streams, counts.live_modules, counts.lost_with_contexts],
        [1, 1, 1, 0]
    );
    api.free_host(pinned.address()).unwrap();
    let (context, stream) = (session.context, session.stream);
    drop(session);
    let counts = driver.counts();
    assert_eq!([counts.live_contexts, counts.live_device_bytes, counts.live_streams, counts.live_events], [0; 4]);
    // Memory, event, stream and module.
    assert_eq!(counts.lost_with_contexts, 4);
    assert_eq!(api.release(0), Err(error::INVALID_CONTEXT));
    assert_eq!(api.set_current(context), Err(error::INVALID_CONTEXT));
    // The next one is another one.
    let session = Session::new(&driver);
    assert_ne!(session.context, context);
    assert_eq!(api.stream_synchronize(stream), Err(error::INVALID_HANDLE));
}
