//! Launches that are refused, kernels that fail, calls that fail because the test says so, and the loss of the device.

use std::ptr::{null, null_mut};

use super::api::{Api, LaunchConfig, Session};
use crate::cuda_driver::{self, error};
use crate::support::own_process::alone;

/// CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
const DYNAMIC_SHARED: i32 = 8;

#[test]
fn launches_are_checked() {
    let Some(driver) = cuda_driver::begin() else { return };
    let session = Session::new(&driver);
    let counter = session.upload(&[0i32]);
    let launch = |grid, block, shared| session.launch("test_atomics", grid, block, shared, &[Api::param(&counter)]);
    for (grid, block) in [
        ([0, 1, 1], 32),
        ([1, 0, 1], 32),
        ([1, 1, 0], 32),
        ([1, 1, 1], 0),
        ([1, 65536, 1], 32),
        ([1, 1, 65536], 32),
        ([1 << 31, 1, 1], 32),
        ([1, 1, 1], 1025),
    ] {
        assert_eq!(launch(grid, block, 0), Err(error::INVALID_VALUE), "{grid:?} {block}");
    }
    assert_eq!(launch([1, 1, 1], 1024, 0), Ok(()));
    let api = session.api;
    let function = session.function("test_atomics").unwrap();
    let stream = session.stream;
    assert_eq!(api.launch(function, 1, 1, 1, 32, 1, 1, 0, stream, null(), null()), Err(error::INVALID_VALUE));
    let params = [Api::param(&counter)];
    let stale = api.new_stream();
    api.stream_destroy(stale).unwrap();
    assert_eq!(api.launch(function, 1, 1, 1, 32, 1, 1, 0, stale, params.as_ptr(), null()), Err(error::INVALID_HANDLE));
    let config = LaunchConfig {
        grid: [2, 1, 1],
        block: [32, 1, 1],
        shared_bytes: 0,
        stream,
        attributes: null(),
        attribute_count: 0,
    };
    assert_eq!(api.launch_ex(&raw const config, function, params.as_ptr(), null()), Ok(()));
    assert_eq!(session.download::<i32>(counter, 1), [1024 + 64]);
    // Modules and names.
    assert_eq!(session.function("no_such_kernel").map(|_| ()), Err(error::NOT_FOUND));
    for image in [null(), [0u8, 0].as_ptr().cast(), std::ptr::without_provenance(1)] {
        assert_eq!(api.module_load(&mut null_mut(), image), Err(error::INVALID_IMAGE));
    }
    api.module_unload(session.module).unwrap();
    assert_eq!(api.launch(function, 1, 1, 1, 32, 1, 1, 0, stream, params.as_ptr(), null()), Err(error::INVALID_HANDLE));
}

#[test]
fn shared_memory_has_to_be_asked_for() {
    let Some(driver) = cuda_driver::begin() else { return };
    driver.set_capability(8, 6);
    let session = Session::new(&driver);
    let api = session.api;
    let counter = session.upload(&[0i32]);
    let function = session.function("test_atomics").unwrap();
    let params = [Api::param(&counter)];
    let launch = |shared| api.launch(function, 1, 1, 1, 32, 1, 1, shared, session.stream, params.as_ptr(), null());
    assert_eq!([launch(48 << 10), launch((48 << 10) + 1)], [Ok(()), Err(error::INVALID_VALUE)]);
    assert_eq!(api.function_set(function, DYNAMIC_SHARED, (99 << 10) + 1), Err(error::INVALID_VALUE));
    api.function_set(function, DYNAMIC_SHARED, 64 << 10).unwrap();
    assert_eq!(api.made(0, |out| api.function_get(out, DYNAMIC_SHARED, function)), Ok(64 << 10));
    assert_eq!([launch(64 << 10), launch((64 << 10) + 1)], [Ok(()), Err(error::INVALID_VALUE)]);
    assert_eq!(api.function_set(function, DYNAMIC_SHARED, 99 << 10), Ok(()));
}

/// Parameters are those of the launch, whatever becomes of them before the kernel runs; more than one, of different sizes.
#[test]
fn parameters_are_copied() {
    let Some(driver) = cuda_driver::begin() else { return };
    let session = Session::new(&driver);
    let x: Vec<f32> = (0..256).map(|i| i as f32).collect();
    let input = session.upload(&x);
    let out = session.api.new_memory(1024);
    let mut params = (input, out, 1i32, 0i32);
    let addresses = [Api::param(&params.0), Api::param(&params.1), Api::param(&params.2), Api::param(&params.3)];
    session.launch("test_copies", [1, 1, 1], 64, 2048, &addresses).unwrap();
    params = (0, 0, 99, 99);
    let expected: Vec<f32> = (0..256).map(|i| x[((i / 4) ^ 33) * 4 + i % 4]).collect();
    assert_eq!(session.download::<f32>(out, 256), expected);
    assert_eq!(params.2, 99);
}

/// What the host build finds in a kernel makes the context fail, from the next wait on and for good.
#[test]
fn kernel_faults_stay() {
    let Some(driver) = cuda_driver::begin() else { return };
    // A barrier that is not reached by all, and an address that is not aligned.
    for (fault, expected) in [(0i32, error::LAUNCH_FAILED), (3, error::ILLEGAL_ADDRESS)] {
        driver.reset();
        let session = Session::new(&driver);
        let api = session.api;
        let out = api.new_memory(256);
        let launch =
            |fault: &i32| session.launch("test_faults", [2, 1, 1], 64, 0, &[Api::param(&out), Api::param(fault)]);
        launch(&5).unwrap();
        api.stream_synchronize(session.stream).unwrap();
        assert_eq!(launch(&fault), Ok(()), "a launch does not know yet");
        assert_eq!(api.stream_synchronize(session.stream), Err(expected));
        let message = driver.message();
        assert!(message.contains("test_faults") && message.contains("selftest.cu:"), "{message}");
        let again = [
            api.stream_synchronize(session.stream),
            launch(&5),
            api.alloc(&mut 0, 4),
            api.event_create(&mut null_mut(), 0),
            api.synchronize(),
        ];
        assert_eq!(again, [Err(expected); 5]);
        // Given back all the same, so that leaks can be told from faults.
        assert_eq!(api.free(out), Err(expected));
        assert_eq!(api.stream_destroy(session.stream), Err(expected));
        let counts = driver.counts();
        assert_eq!([counts.live_device_bytes, counts.live_streams], [0, 0]);
    }
    // A new context is well.
    driver.reset();
    let session = Session::new(&driver);
    let counter = session.upload(&[5i32]);
    assert_eq!(session.download::<i32>(counter, 1), [5]);
}

#[test]
fn the_chosen_call_fails() {
    let Some(driver) = cuda_driver::begin() else { return };
    let session = Session::new(&driver);
    let api = session.api;
    driver.fail_call(Some("cuMemAlloc_v2"), 2, error::INVALID_DEVICE);
    let event = api.new_event();
    api.new_memory(4);
    assert_eq!(api.alloc(&mut 0, 4), Err(error::INVALID_DEVICE));
    api.new_memory(4);
    driver.fail_call(None, 2, error::LAUNCH_FAILED);
    api.new_memory(4);
    assert_eq!(api.event_destroy(event), Err(error::LAUNCH_FAILED));
    assert_eq!(driver.counts().live_events, 0, "what releases does so");
    assert_eq!(api.synchronize(), Ok(()));
}

#[test]
fn a_lost_device_stays_lost() {
    let Some(driver) = cuda_driver::begin() else { return };
    let session = Session::new(&driver);
    let api = session.api;
    let counter = session.upload(&[0i32]);
    let result = api.new_pinned(1);
    let launch = || session.launch("test_atomics", [1, 1, 1], 32, 0, &[Api::param(&counter)]);
    driver.lose_device(2, error::ECC_UNCORRECTABLE);
    launch().unwrap();
    api.download_async(result.address(), counter, 4, session.stream).unwrap();
    launch().unwrap();
    // The second one went through, and nothing after it.
    let lost = Err(error::ECC_UNCORRECTABLE);
    let outcomes = [
        launch(),
        api.stream_synchronize(session.stream),
        api.synchronize(),
        api.alloc(&mut 0, 4),
        api.device_count(&mut 0),
        api.retain(&mut null_mut(), 0),
        api.init(0),
        api.free(counter),
        api.stream_destroy(session.stream),
        api.module_unload(session.module),
    ];
    assert_eq!(outcomes, [lost; 10]);
    assert!(result.get()[0].is_nan(), "work that waited is never done");
    assert_eq!(api.free_host(result.address()), lost);
    // Releasing works, in the context that was lost.
    let counts = driver.counts();
    assert_eq!([counts.live_device_bytes, counts.live_pinned_bytes, counts.live_streams, counts.live_modules], [0; 4]);
    driver.reset();
    assert_eq!(api.synchronize(), lost, "a reset does not heal a context");
    drop(session);
    assert_eq!(driver.counts().live_contexts, 0);
    let session = Session::new(&driver);
    driver.lose_device(0, error::DEVICE_UNAVAILABLE);
    assert_eq!(api.synchronize(), Err(error::DEVICE_UNAVAILABLE));
    drop(session);
}

/// Before cuInit nothing works. In a process of its own, for nobody can take it back.
#[test]
fn the_driver_has_to_be_initialised() {
    if !alone(the_driver_has_to_be_initialised) {
        return;
    }
    let Some(driver) = cuda_driver::begin() else { return };
    let api = Api::new(&driver);
    assert_eq!(api.device_count(&mut 0), Err(error::NOT_INITIALIZED));
    assert_eq!(api.retain(&mut null_mut(), 0), Err(error::NOT_INITIALIZED));
    assert_eq!(api.version(&mut 0), Ok(()));
    api.init(0).unwrap();
    assert_eq!(api.device_count(&mut 0), Ok(()));
}

#[test]
fn launches_are_logged_on_demand() {
    let Some(driver) = cuda_driver::begin() else { return };
    let session = Session::new(&driver);
    let counter = session.upload(&[0i32]);
    let launch = |x| session.launch("test_atomics", [x, 2, 1], 32, 64, &[Api::param(&counter)]).unwrap();
    launch(1);
    assert!(driver.logged().is_empty());
    driver.log(true);
    launch(3);
    assert_eq!(driver.logged(), ["test_atomics grid 3 2 1 block 32 1 1 shared 64"]);
    assert_eq!(driver.logged_kernels(), ["test_atomics"]);
    driver.log(false);
    launch(1);
    assert!(driver.logged().is_empty());
}
