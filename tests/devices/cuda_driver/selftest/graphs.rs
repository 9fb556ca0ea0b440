//! Capture: what is recorded, what is refused meanwhile, and graphs that run again with what lies in memory then.

use std::ptr::null_mut;

use super::api::{Api, Handle, Outcome, Session};
use crate::cuda_driver::{self, error};

const GLOBAL: i32 = 0;
const THREAD_LOCAL: i32 = 1;
const RELAXED: i32 = 2;

fn end(session: &Session) -> Result<Handle, i32> {
    session.api.made(null_mut(), |out| session.api.end_capture(session.stream, out))
}

fn instantiate(api: &Api, graph: Handle) -> Handle {
    api.made(null_mut(), |out| api.instantiate(out, graph, 0)).unwrap()
}

#[test]
fn a_graph_runs_again_with_new_inputs() {
    let Some(driver) = cuda_driver::begin() else { return };
    let session = Session::new(&driver);
    let (api, stream) = (session.api, session.stream);
    let counter = api.new_memory(4);
    let (input, output) = (api.new_pinned(1), api.new_pinned(1));
    let mut pointer = counter;
    api.begin_capture(stream, THREAD_LOCAL).unwrap();
    assert_eq!(api.made(0, |out| api.is_capturing(stream, out)), Ok(1));
    api.upload_async(counter, input.address(), 4, stream).unwrap();
    session.launch("test_atomics", [1, 1, 1], 64, 0, &[Api::param(&pointer)]).unwrap();
    api.download_async(output.address(), counter, 4, stream).unwrap();
    output.set(3.0);
    pointer = 0;
    let graph = end(&session).unwrap();
    assert_eq!((pointer, api.made(0, |out| api.is_capturing(stream, out))), (0, Ok(0)));
    api.synchronize().unwrap();
    assert_eq!(output.get(), [3.0], "capturing runs nothing");
    assert_eq!(driver.counts().launches, 0);
    driver.log(true);
    let exec = instantiate(&api, graph);
    api.graph_destroy(graph).unwrap();
    for start in [10u32, 20] {
        // The source is read when the graph runs, and not when it is launched.
        input.set(f32::from_bits(999));
        api.graph_launch(exec, stream).unwrap();
        input.set(f32::from_bits(start));
        assert_eq!(output.get()[0].to_bits(), 0xFFFF_FFFF);
        api.stream_synchronize(stream).unwrap();
        assert_eq!(output.get()[0].to_bits(), start + 64);
    }
    let counts = driver.counts();
    assert_eq!([counts.captures, counts.graph_instantiations, counts.graph_launches, counts.launches], [1, 1, 2, 2]);
    assert_eq!([counts.to_device_copies, counts.to_host_copies, counts.live_graphs], [2, 2, 1]);
    assert_eq!(driver.logged_kernels(), ["test_atomics"; 2]);
    // One graph in two streams: one launch after the other, though nobody said so.
    let other = api.new_stream();
    input.set(f32::from_bits(0));
    api.graph_launch(exec, stream).unwrap();
    api.graph_launch(exec, other).unwrap();
    api.graph_exec_destroy(exec).unwrap();
    api.stream_synchronize(other).unwrap();
    assert_eq!(api.stream_query(stream), Ok(()));
    assert_eq!(output.get()[0].to_bits(), 64);
    assert_eq!(api.graph_exec_destroy(exec), Err(error::INVALID_VALUE));
    assert_eq!(api.graph_launch(exec, stream), Err(error::INVALID_VALUE));
    assert_eq!(driver.counts().live_graphs, 0);
}

#[test]
fn a_graph_needs_its_memory() {
    let Some(driver) = cuda_driver::begin() else { return };
    let session = Session::new(&driver);
    let api = session.api;
    let memory = api.new_memory(4);
    api.begin_capture(session.stream, GLOBAL).unwrap();
    api.fill_async(memory, 1, 4, session.stream).unwrap();
    let exec = instantiate(&api, end(&session).unwrap());
    api.free(memory).unwrap();
    api.graph_launch(exec, session.stream).unwrap();
    assert_eq!(api.stream_synchronize(session.stream), Err(error::ILLEGAL_ADDRESS));
}

/// Each call that may not be made breaks the capture.
#[test]
fn what_waits_or_allocates_breaks_a_capture() {
    let Some(driver) = cuda_driver::begin() else { return };
    let session = Session::new(&driver);
    let (api, stream) = (session.api, session.stream);
    let (memory, event) = (api.new_memory(4), api.new_event());
    let pinned = api.new_pinned(1);
    let other = api.new_stream();
    let mut word = [0u32];
    let host: *mut std::ffi::c_void = word.as_mut_ptr().cast();
    type Forbidden<'a> = (&'a str, Box<dyn Fn() -> Outcome + 'a>);
    let calls: Vec<Forbidden> = vec![
        ("alloc", Box::new(|| api.alloc(&mut 0, 4))),
        ("free", Box::new(|| api.free(memory))),
        ("pinned", Box::new(|| api.alloc_host(&mut null_mut(), 4))),
        ("free pinned", Box::new(|| api.free_host(pinned.address()))),
        ("synchronise", Box::new(|| api.stream_synchronize(stream))),
        ("synchronise another stream", Box::new(|| api.stream_synchronize(other))),
        ("synchronise all", Box::new(|| api.synchronize())),
        ("query", Box::new(|| api.stream_query(stream))),
        ("query an event", Box::new(|| api.event_query(event))),
        ("wait for an event", Box::new(|| api.event_synchronize(event))),
        ("copy", Box::new(|| api.upload(memory, host, 4))),
        ("copy back", Box::new(|| api.download(host, memory, 4))),
        ("module", Box::new(|| api.module_load(&mut null_mut(), b"x".as_ptr().cast()))),
        ("source that is not pinned", Box::new(|| api.upload_async(memory, host, 4, stream))),
        ("target that is not pinned", Box::new(|| api.download_async(host, memory, 4, stream))),
    ];
    for (name, call) in calls {
        api.begin_capture(stream, THREAD_LOCAL).unwrap();
        assert_eq!(call(), Err(error::CAPTURE_UNSUPPORTED), "{name}");
        assert_eq!(api.made(0, |out| api.is_capturing(stream, out)), Ok(2), "{name}");
        assert_eq!(api.fill_async(memory, 0, 4, stream), Err(error::CAPTURE_INVALIDATED), "{name}");
        assert_eq!(end(&session), Err(error::CAPTURE_INVALIDATED), "{name}");
    }
    let counts = driver.counts();
    assert_eq!([counts.live_device_bytes, counts.live_pinned_bytes, counts.live_graphs], [4, 4, 0]);
    // The stream works again.
    assert_eq!(session.download::<u32>(memory, 1), [0xFFFF_FFFF]);
}

#[test]
fn capture_modes_say_whose_calls_are_forbidden() {
    let Some(driver) = cuda_driver::begin() else { return };
    let session = Session::new(&driver);
    let (api, context) = (session.api, session.context.expose_provenance());
    let elsewhere = |call: &(dyn Fn() -> Outcome + Sync)| {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                api.set_current(std::ptr::with_exposed_provenance_mut(context)).unwrap();
                call()
            });
            thread.join().unwrap()
        })
    };
    let alloc = || api.alloc(&mut 0, 4);
    let refused = Err(error::CAPTURE_UNSUPPORTED);
    for (mode, here, there) in [(GLOBAL, refused, refused), (THREAD_LOCAL, refused, Ok(())), (RELAXED, Ok(()), Ok(()))]
    {
        api.begin_capture(session.stream, mode).unwrap();
        assert_eq!(api.begin_capture(session.stream, mode), Err(error::ILLEGAL_STATE));
        assert_eq!(elsewhere(&alloc), there, "mode {mode}");
        assert_eq!(alloc(), here, "mode {mode}");
        assert_eq!(end(&session).is_err(), here.is_err());
    }
    // Ended by the thread that began.
    let stream = session.stream.expose_provenance();
    let end_there = || api.end_capture(std::ptr::with_exposed_provenance_mut(stream), &mut null_mut());
    api.begin_capture(session.stream, THREAD_LOCAL).unwrap();
    assert_eq!(elsewhere(&end_there), Err(error::CAPTURE_WRONG_THREAD));
    assert!(end(&session).is_ok());
    api.begin_capture(session.stream, RELAXED).unwrap();
    assert_eq!(elsewhere(&end_there), Ok(()));
    assert_eq!(end(&session), Err(error::ILLEGAL_STATE));
}

#[test]
fn other_streams_join_a_capture_by_events() {
    let Some(driver) = cuda_driver::begin() else { return };
    let session = Session::new(&driver);
    let (api, stream) = (session.api, session.stream);
    let (memory, other) = (api.new_memory(4), api.new_stream());
    let (fork, join) = (api.new_event(), api.new_event());
    let begin = || {
        api.begin_capture(stream, GLOBAL).unwrap();
        api.event_record(fork, stream).unwrap();
        api.stream_wait(other, fork, 0).unwrap();
        api.fill_async(memory, 3, 4, other).unwrap();
    };
    begin();
    assert_eq!(end(&session), Err(error::CAPTURE_UNJOINED));
    begin();
    api.event_record(join, other).unwrap();
    api.stream_wait(stream, join, 0).unwrap();
    let exec = instantiate(&api, end(&session).unwrap());
    assert_eq!(session.download::<u32>(memory, 1), [0xFFFF_FFFF]);
    api.graph_launch(exec, stream).unwrap();
    assert_eq!(session.download::<u32>(memory, 1), [0x0303_0303]);
    assert_eq!(api.event_synchronize(join), Err(error::CAPTURED_EVENT));
    // An event from outside of the capture, and the default stream beside a blocking one that captures.
    api.event_record(fork, stream).unwrap();
    api.begin_capture(other, GLOBAL).unwrap();
    assert_eq!(api.stream_wait(other, fork, 0), Err(error::CAPTURE_ISOLATION));
    assert_eq!(api.end_capture(other, &mut null_mut()), Err(error::CAPTURE_INVALIDATED));
    let blocking = api.made(null_mut(), |out| api.stream_create(out, 0)).unwrap();
    api.begin_capture(blocking, RELAXED).unwrap();
    assert_eq!(api.fill_async(memory, 1, 4, null_mut()), Err(error::CAPTURE_IMPLICIT));
    assert_eq!(api.end_capture(blocking, &mut null_mut()), Err(error::CAPTURE_INVALIDATED));
    assert_eq!(api.begin_capture(null_mut(), GLOBAL), Err(error::CAPTURE_UNSUPPORTED));
}

/// A launch of a graph counts as one towards the loss of the device.
#[test]
fn the_device_is_lost_after_a_graph() {
    let Some(driver) = cuda_driver::begin() else { return };
    let session = Session::new(&driver);
    let api = session.api;
    let memory = api.new_memory(4);
    api.begin_capture(session.stream, GLOBAL).unwrap();
    api.fill_async(memory, 1, 4, session.stream).unwrap();
    let exec = instantiate(&api, end(&session).unwrap());
    driver.lose_device(1, error::DEVICE_UNAVAILABLE);
    api.graph_launch(exec, session.stream).unwrap();
    let lost = Err(error::DEVICE_UNAVAILABLE);
    assert_eq!([api.graph_launch(exec, session.stream), api.stream_synchronize(session.stream)], [lost; 2]);
}
