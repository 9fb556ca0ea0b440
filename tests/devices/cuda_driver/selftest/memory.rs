//! Memory: exactly the size, one allocation for a range, a limit, nothing freed twice, and nothing written beside it.

use std::ptr::null_mut;

use super::api::Session;
use crate::cuda_driver::{self, error};

#[test]
fn new_memory_is_not_zero() {
    let Some(driver) = cuda_driver::begin() else { return };
    let session = Session::new(&driver);
    let address = session.api.new_memory(1000);
    assert!(address.is_multiple_of(256));
    assert_eq!(session.download::<u8>(address, 1000), [0xFF; 1000]);
}

#[test]
fn ranges_lie_in_one_allocation() {
    let Some(driver) = cuda_driver::begin() else { return };
    let session = Session::new(&driver);
    let api = session.api;
    let (a, b) = (api.new_memory(100), api.new_memory(100));
    let mut host = [0u8; 200];
    let from = host.as_ptr().cast();
    let to: *mut std::ffi::c_void = host.as_mut_ptr().cast();
    let stream = session.stream;
    // One byte before and beyond, all in another place, an address of the host.
    for (address, bytes) in [(a, 101), (a - 1, 2), (a + 100, 1), (a + 99, 2), (to.addr() as u64, 1), (0, 1)] {
        let outcomes = [
            api.upload_async(address, from, bytes, stream),
            api.download_async(to, address, bytes, stream),
            api.within_async(b, address, bytes, stream),
            api.within_async(address, b, bytes, stream),
            api.fill_async(address, 0, bytes, stream),
            api.upload(address, from, bytes),
            api.download(to, address, bytes),
        ];
        assert_eq!(outcomes, [Err(error::INVALID_VALUE); 7], "{bytes} bytes at {address}");
    }
    assert_eq!(api.fill32_async(a + 2, 0, 1, stream), Err(error::INVALID_VALUE));
    assert_eq!(api.within_async(a, a + 10, 11, stream), Err(error::INVALID_VALUE), "they overlap");
    // Device memory is no memory of the host, and pinned memory has an end as well.
    assert_eq!(api.upload_async(a, std::ptr::without_provenance(b as usize), 4, stream), Err(error::INVALID_VALUE));
    let pinned = api.new_pinned(2);
    assert_eq!(api.upload_async(a, pinned.address(), 9, stream), Err(error::INVALID_VALUE));
    assert_eq!(api.download_async(pinned.address(), a, 9, stream), Err(error::INVALID_VALUE));
    for outcome in [
        api.upload_async(a, from, 100, stream),
        api.download_async(to, a + 99, 1, stream),
        api.within_async(a, a + 10, 10, stream),
        api.upload_async(a, pinned.address(), 8, stream),
        api.upload_async(0, from, 0, stream),
    ] {
        assert_eq!(outcome, Ok(()));
    }
    assert!(driver.is_device_memory(a, 100) && !driver.is_device_memory(a, 101));
    api.synchronize().unwrap();
}

#[test]
fn nothing_is_freed_twice() {
    let Some(driver) = cuda_driver::begin() else { return };
    let session = Session::new(&driver);
    let api = session.api;
    let address = api.new_memory(100);
    assert_eq!(api.free(address + 1), Err(error::INVALID_VALUE));
    assert_eq!(api.free(address), Ok(()));
    assert_eq!(api.free(address), Err(error::INVALID_VALUE));
    assert_eq!(api.free(0), Ok(()));
    let pinned = api.new_pinned(4);
    assert_eq!(api.free_host(pinned.address()), Ok(()));
    assert_eq!(api.free_host(pinned.address()), Err(error::INVALID_VALUE));
    assert_eq!(driver.counts().live_pinned_bytes, 0);
    // Handles as well.
    let (stream, event) = (api.new_stream(), api.new_event());
    assert_eq!([api.stream_destroy(stream), api.event_destroy(event), api.module_unload(session.module)], [Ok(()); 3]);
    let again = [api.stream_destroy(stream), api.event_destroy(event), api.module_unload(session.module)];
    assert_eq!(again, [Err(error::INVALID_HANDLE); 3]);
}

#[test]
fn memory_is_limited() {
    let Some(driver) = cuda_driver::begin() else { return };
    let session = Session::new(&driver);
    let api = session.api;
    driver.set_total_memory(1000);
    let info = || {
        let mut total = 0;
        let free = api.made(0, |out| api.memory_info(out, &raw mut total)).unwrap();
        (free, total)
    };
    assert_eq!(info(), (1000, 1000));
    let address = api.new_memory(600);
    assert_eq!(info(), (400, 1000));
    assert_eq!(api.alloc(&mut 0, 401), Err(error::OUT_OF_MEMORY));
    assert_eq!(api.alloc(&mut 0, usize::MAX), Err(error::OUT_OF_MEMORY));
    assert_eq!(api.alloc(&mut 0, 0), Err(error::INVALID_VALUE));
    let rest = api.new_memory(400);
    assert_eq!(info(), (0, 1000));
    api.free(address).unwrap();
    api.free(rest).unwrap();
    assert_eq!(info(), (1000, 1000));
    let counts = driver.counts();
    assert_eq!([counts.peak_device_bytes, counts.live_device_bytes, counts.device_allocations], [1000, 0, 2]);
}

#[test]
fn the_chosen_allocation_fails() {
    let Some(driver) = cuda_driver::begin() else { return };
    let session = Session::new(&driver);
    let api = session.api;
    driver.fail_allocation(3);
    api.new_memory(4);
    api.new_pinned(1);
    assert_eq!(api.alloc(&mut 0, 4), Err(error::OUT_OF_MEMORY));
    api.new_memory(4);
    driver.fail_allocation(1);
    assert_eq!(api.alloc_host(&mut null_mut(), 4), Err(error::OUT_OF_MEMORY));
    api.new_pinned(1);
}

/// A write beyond the end, or into memory that was freed, is found when memory is given back.
#[test]
fn writes_beside_memory_are_found() {
    let Some(driver) = cuda_driver::begin() else { return };
    let session = Session::new(&driver);
    let api = session.api;
    let address = api.new_memory(100);
    // SAFETY: the byte lies in the margin, which is there for this.
    unsafe { std::ptr::with_exposed_provenance_mut::<u8>(address as usize + 100).write(0) };
    assert_eq!(api.free(address), Err(error::ILLEGAL_ADDRESS));
    assert!(driver.message().contains("before or beyond"), "{}", driver.message());
    // The context has failed.
    assert_eq!(api.synchronize(), Err(error::ILLEGAL_ADDRESS));
    drop(session);
    driver.reset();
    let session = Session::new(&driver);
    let address = api.new_memory(100);
    api.free(address).unwrap();
    // SAFETY: freed memory is kept for a while.
    unsafe { std::ptr::with_exposed_provenance_mut::<u8>(address as usize).write(0) };
    // Until so much was freed after it.
    let freed = || {
        let other = api.new_memory(8 << 20);
        api.free(other)
    };
    assert_eq!([freed(), freed()], [Ok(()), Err(error::ILLEGAL_ADDRESS)]);
    assert!(driver.message().contains("after they had been freed"), "{}", driver.message());
    drop(session);
}
