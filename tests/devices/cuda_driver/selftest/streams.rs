//! Streams and events: nothing runs early, sources are read late, results arrive when they are waited for and not before.

use std::ptr::null_mut;

use super::api::{Api, Handle, Session};
use crate::cuda_driver::{self, error};

const FF: u32 = 0xFFFF_FFFF;

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Launches a kernel that adds the number of threads to a counter.
fn count(session: &Session, stream: Handle, counter: u64) {
    session.launch_in(stream, "test_atomics", [1, 1, 1], 32, 0, &[Api::param(&counter)]).unwrap();
}

#[test]
fn nothing_runs_before_the_host_waits() {
    let Some(driver) = cuda_driver::begin() else { return };
    let session = Session::new(&driver);
    let api = session.api;
    let counter = session.upload(&[0i32]);
    let result = api.new_pinned(1);
    result.set(3.0);
    count(&session, session.stream, counter);
    api.download_async(result.address(), counter, 4, session.stream).unwrap();
    assert_eq!(bits(&result.get()), [FF], "the result is garbage until it is waited for");
    assert_eq!(driver.counts().to_host_copies, 0);
    // Another stream, which waits for nothing of this one.
    let other = api.new_stream();
    api.stream_synchronize(other).unwrap();
    assert_eq!(bits(&result.get()), [FF]);
    api.stream_synchronize(session.stream).unwrap();
    assert_eq!(bits(&result.get()), [32]);
    let counts = driver.counts();
    let copies = [counts.to_device_copies, counts.to_device_bytes, counts.to_host_copies, counts.to_host_bytes];
    assert_eq!(copies, [1, 4, 1, 4]);
    assert_eq!([counts.launches, counts.stream_synchronisations], [1, 2]);
    // Eagerly, it is there at once.
    driver.set_eager(true);
    count(&session, session.stream, counter);
    api.download_async(result.address(), counter, 4, session.stream).unwrap();
    assert_eq!(bits(&result.get()), [64]);
}

#[test]
fn pinned_sources_are_read_late_and_others_at_once() {
    let Some(driver) = cuda_driver::begin() else { return };
    let session = Session::new(&driver);
    let api = session.api;
    let (pinned, mut pageable) = (api.new_pinned(1), vec![1.0f32]);
    pinned.set(1.0);
    let (a, b) = (api.new_memory(4), api.new_memory(4));
    api.upload_async(a, pinned.address(), 4, session.stream).unwrap();
    api.upload_async(b, pageable.as_ptr().cast(), 4, session.stream).unwrap();
    pinned.set(2.0);
    pageable[0] = 2.0;
    assert_eq!(session.download::<f32>(a, 1), [2.0]);
    assert_eq!(session.download::<f32>(b, 1), [1.0]);
    // Freed before it was read.
    api.upload_async(a, pinned.address(), 4, session.stream).unwrap();
    api.free_host(pinned.address()).unwrap();
    assert_eq!(api.stream_synchronize(session.stream), Err(error::ILLEGAL_ADDRESS));
    assert!(driver.message().contains("had been freed"), "{}", driver.message());
}

#[test]
fn streams_are_ordered_by_events_alone() {
    let Some(driver) = cuda_driver::begin() else { return };
    let session = Session::new(&driver);
    let api = session.api;
    let (first, second) = (session.stream, api.new_stream());
    let event = api.new_event();
    let memory = api.new_memory(4);
    let result = api.new_pinned(1);
    // An event that was never recorded holds up nobody.
    api.stream_wait(second, event, 0).unwrap();
    api.fill_async(memory, 1, 4, first).unwrap();
    api.download_async(result.address(), memory, 4, second).unwrap();
    api.stream_synchronize(second).unwrap();
    assert_eq!(bits(&result.get()), [FF], "the other stream's work has not been waited for");
    api.event_record(event, first).unwrap();
    api.fill_async(memory, 2, 4, first).unwrap();
    api.stream_wait(second, event, 0).unwrap();
    api.download_async(result.address(), memory, 4, second).unwrap();
    api.stream_synchronize(second).unwrap();
    assert_eq!(bits(&result.get()), [0x0101_0101], "as far as the event, and no further");
    api.stream_synchronize(first).unwrap();
    assert_eq!(session.download::<u32>(memory, 1), [0x0202_0202]);
}

#[test]
fn the_default_stream_waits_for_blocking_streams_alone() {
    let Some(driver) = cuda_driver::begin() else { return };
    let session = Session::new(&driver);
    let api = session.api;
    let blocking = api.made(null_mut(), |out| api.stream_create(out, 0)).unwrap();
    let memory = api.new_memory(4);
    let mut result = [0u32];
    api.fill_async(memory, 1, 4, session.stream).unwrap();
    api.download(result.as_mut_ptr().cast(), memory, 4).unwrap();
    assert_eq!(result, [FF]);
    api.fill_async(memory, 2, 4, blocking).unwrap();
    api.download(result.as_mut_ptr().cast(), memory, 4).unwrap();
    assert_eq!(result, [0x0202_0202]);
    // The default stream's work comes before what a blocking stream gets later, and not before that of others.
    api.upload(memory, [7u32].as_ptr().cast(), 4).unwrap();
    assert_eq!(session.download::<u32>(memory, 1), [0x0101_0101]);
    let pinned = api.new_pinned(1);
    api.download_async(pinned.address(), memory, 4, blocking).unwrap();
    api.stream_synchronize(blocking).unwrap();
    assert_eq!(bits(&pinned.get()), [7]);
}

#[test]
fn waiting_for_an_event_runs_what_came_before_it() {
    let Some(driver) = cuda_driver::begin() else { return };
    let session = Session::new(&driver);
    let api = session.api;
    let (event, end) = (api.new_event(), api.new_event());
    let memory = api.new_memory(4);
    let (before, after) = (api.new_pinned(1), api.new_pinned(1));
    assert_eq!(api.event_query(event), Ok(()));
    assert_eq!(api.event_elapsed(&mut 0.0, event, end), Err(error::INVALID_HANDLE));
    api.fill_async(memory, 1, 4, session.stream).unwrap();
    api.download_async(before.address(), memory, 4, session.stream).unwrap();
    api.event_record(event, session.stream).unwrap();
    api.download_async(after.address(), memory, 4, session.stream).unwrap();
    api.event_record(end, session.stream).unwrap();
    assert_eq!(api.event_elapsed(&mut 0.0, event, end), Err(error::NOT_READY));
    api.event_synchronize(event).unwrap();
    assert_eq!((bits(&before.get()), bits(&after.get())), (vec![0x0101_0101], vec![FF]));
    // A query does one thing at a time, so that polling comes to an end.
    assert_eq!(api.event_query(event), Ok(()));
    assert_eq!(api.event_query(end), Err(error::NOT_READY));
    assert_eq!(bits(&after.get()), [0x0101_0101]);
    assert_eq!(api.stream_query(session.stream), Err(error::NOT_READY));
    assert_eq!([api.stream_query(session.stream), api.event_query(end)], [Ok(()); 2]);
    assert!(api.made(-1.0, |out| api.event_elapsed(out, event, end)).unwrap() >= 0.0);
    assert_eq!(driver.counts().event_synchronisations, 1);
    // Recorded again, it is the later place that counts.
    api.download_async(after.address(), memory, 4, session.stream).unwrap();
    api.event_record(event, session.stream).unwrap();
    assert_eq!(api.event_query(event), Err(error::NOT_READY));
}

#[test]
fn the_context_waits_for_all_streams() {
    let Some(driver) = cuda_driver::begin() else { return };
    let session = Session::new(&driver);
    let api = session.api;
    let counter = session.upload(&[0i32]);
    api.stream_synchronize(session.stream).unwrap();
    let other = api.new_stream();
    count(&session, session.stream, counter);
    count(&session, other, counter);
    api.stream_destroy(other).unwrap();
    api.synchronize().unwrap();
    assert_eq!(session.download::<i32>(counter, 1), [64]);
    assert_eq!(driver.counts().context_synchronisations, 1);
    // Freeing memory waits as well.
    let result = api.new_pinned(1);
    api.download_async(result.address(), counter, 4, session.stream).unwrap();
    let memory = api.new_memory(4);
    assert_eq!(bits(&result.get()), [FF]);
    api.free(memory).unwrap();
    assert_eq!(bits(&result.get()), [64]);
}

/// Two threads with a context, streams of their own and one in common.
#[test]
fn threads_do_not_lose_work() {
    let Some(driver) = cuda_driver::begin() else { return };
    let session = Session::new(&driver);
    let api = session.api;
    let counters: Vec<u64> = (0..2).map(|_| session.upload(&[0i32])).collect();
    api.synchronize().unwrap();
    let (context, common) = (session.context.expose_provenance(), session.stream.expose_provenance());
    let function = session.function("test_atomics").unwrap().expose_provenance();
    std::thread::scope(|scope| {
        for counter in counters.clone() {
            scope.spawn(move || {
                let handle = std::ptr::with_exposed_provenance_mut;
                api.set_current(handle(context)).unwrap();
                let streams = [api.new_stream(), handle(common)];
                for i in 0..200 {
                    let (stream, params) = (streams[i % 2], [Api::param(&counter)]);
                    let none = std::ptr::null();
                    api.launch(handle(function), 1, 1, 1, 32, 1, 1, 0, stream, params.as_ptr(), none).unwrap();
                    if i % 10 < 2 {
                        api.stream_synchronize(streams[i % 2]).unwrap();
                    }
                }
                api.synchronize().unwrap();
            });
        }
    });
    for counter in counters {
        assert_eq!(session.download::<i32>(counter, 1), [200 * 32]);
    }
}
