//! How much stack a thread has left, and running work that needs more on a thread of the library's own.
//!
//! A host may call from a thread with little stack: a fiber, a thread of a game engine, one of musl's with its 128 KiB.
//! Work whose depth follows its input, a template that recurs or JSON that nests, runs in place where there is room for it,
//! and else on a thread that lives as long as the work. That thread is not kept for the next time: a thread that waits in the
//! library's code would keep it from being unloaded.
//!
//! The host's callbacks stay where the contract says they run: [`on_caller`] brings them back to the waiting thread.

use super::shortage;
use super::thread::{NAME_PREFIX, ThreadOptions, spawn_with};
use crate::error::{Error, Result};
use crate::limits;
use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::{Condvar, Mutex, MutexGuard};

thread_local! {
    /// Lowest and highest address of this thread's stack, once somebody asked. Plain numbers: no destructor.
    static BOUNDS: Cell<Option<(usize, usize)>> = const { Cell::new(None) };
    /// The thread that waits for this one's work; null on a thread that nobody waits for.
    static CALLER: Cell<*const Caller> = const { Cell::new(ptr::null()) };
}

/// Bytes of stack that the calling thread has left. 0 where that is not known: the system does not say, or the thread runs on
/// a stack that is not its own, as a fiber does.
pub fn remaining() -> usize {
    // Asked again where the system did not say: it may have lacked the memory to.
    let bounds = BOUNDS.get().or_else(imp::bounds);
    BOUNDS.set(bounds);
    let (low, high) = bounds.unwrap_or((0, 0));
    let here = position();
    if (low..high).contains(&here) { here - low } else { 0 }
}

/// Where the stack is now: the address of a local, compared and never followed.
#[inline(never)]
pub fn position() -> usize {
    let local = 0u8;
    ptr::from_ref(std::hint::black_box(&local)).addr()
}

/// Runs `body` with at least `bytes` of stack: in place if the calling thread has as many left, else [`aside`]. A panic in
/// `body` goes on in the caller.
///
/// # Errors
/// `Memory` when a thread is needed and none can be had.
pub fn with_stack<R: Send>(bytes: usize, body: impl FnOnce() -> R + Send) -> Result<R> {
    if remaining() >= bytes {
        return Ok(body());
    }
    // What a thread needs for itself is no part of what was asked for.
    run("stack", limits::THREAD_STACK_BYTES.max(bytes.saturating_mul(2)), body)
}

/// Runs `body` on a thread of its own and waits for its result. For dependencies that keep a thread-local with a
/// destructor: registered on a host's thread, it would keep the library mapped after `dlclose`; here it runs when the
/// thread ends, which is before this returns. A panic in `body` goes on in the caller.
///
/// # Errors
/// `Memory` when no thread can be had.
pub fn aside<R: Send>(name: &str, body: impl FnOnce() -> R + Send) -> Result<R> {
    run(name, limits::THREAD_STACK_BYTES, body)
}

/// As [`aside`], with a stack of `stack_bytes`.
///
/// # Errors
/// As there.
pub fn aside_with<R: Send>(name: &str, stack_bytes: usize, body: impl FnOnce() -> R + Send) -> Result<R> {
    run(name, stack_bytes, body)
}

/// Runs `call` on the thread that waits for the calling one in [`with_stack`] or [`aside`], in the end on the one that
/// called the library; in place when nobody waits. A panic in `call` goes on here.
pub fn on_caller<R: Send>(call: impl FnOnce() -> R + Send) -> R {
    let caller = CALLER.get();
    if caller.is_null() {
        return call();
    }
    let mut call = Some(call);
    let mut result = None;
    let mut visit = || {
        if let Some(call) = call.take() {
            result = Some(catch_unwind(AssertUnwindSafe(call)));
        }
    };
    // SAFETY: `run` sets this pointer to a value that outlives the thread, and waits for its end.
    unsafe { &*caller }.visit(&mut visit);
    match result {
        Some(Ok(value)) => value,
        Some(Err(payload)) => resume_unwind(payload),
        // The caller serves every visit before it is told of the end.
        None => unreachable!("the waiting thread did not run what it was given"),
    }
}

fn run<R: Send>(name: &str, stack_bytes: usize, body: impl FnOnce() -> R + Send) -> Result<R> {
    let caller = Caller::default();
    let mut result: Option<std::result::Result<R, Box<dyn Any + Send>>> = None;
    let mut refused = 0;
    let backup = shortage::current();
    let work: Box<dyn FnOnce() + Send + '_> = Box::new(|| {
        CALLER.set(&caller);
        shortage::adopt(backup);
        result = Some(catch_unwind(AssertUnwindSafe(body)));
        CALLER.set(ptr::null());
        refused = shortage::refused();
        caller.end();
    });
    // SAFETY: only the lifetime changes. The thread is joined below, before anything `work` borrows goes away, and
    // nothing between can return or panic: `serve` catches what visitors do. When no thread was made, `work` is dropped
    // unused.
    let work: Box<dyn FnOnce() + Send + 'static> = unsafe { std::mem::transmute(work) };
    let thread = spawn_with(name, ThreadOptions::default(), stack_bytes, work)?;
    caller.serve();
    thread.join();
    // Memory that ran out there did so for the caller's work.
    if refused > 0 {
        shortage::note(refused);
    }
    match result {
        Some(Ok(value)) => Ok(value),
        Some(Err(payload)) => resume_unwind(payload),
        None => Err(Error::internal(format!("the thread {NAME_PREFIX}{name} ended before its work was done"))),
    }
}

/// A thread that waits for work it gave away, and lends itself to it meanwhile.
#[derive(Default)]
struct Caller {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
enum State {
    /// The work goes on.
    #[default]
    Waiting,
    /// Something is to be run here.
    Visit(Visitor),
    /// It was run.
    Visited,
    /// The work is done.
    Ended,
}

/// Borrowed from the worker, which waits until it was called.
struct Visitor(*mut (dyn FnMut() + Send + 'static));

// SAFETY: what it points to is `Send`, and its owner does not touch it until the visit is over.
unsafe impl Send for Visitor {}

impl Caller {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(|e| e.into_inner())
    }

    /// Worker: has `call` run by the waiting thread. `call` catches its own panics.
    fn visit<'a>(&self, call: &'a mut (dyn FnMut() + Send + 'a)) {
        let call: *mut (dyn FnMut() + Send + 'a) = call;
        // SAFETY: only the lifetime changes; this returns after the only use.
        let visitor =
            Visitor(unsafe { std::mem::transmute::<*mut (dyn FnMut() + Send + 'a), *mut (dyn FnMut() + Send)>(call) });
        let mut state = self.lock();
        *state = State::Visit(visitor);
        self.changed.notify_all();
        while !matches!(*state, State::Visited) {
            state = self.wait(state);
        }
        *state = State::Waiting;
    }

    /// Worker: the work is done.
    fn end(&self) {
        *self.lock() = State::Ended;
        self.changed.notify_all();
    }

    /// Caller: runs what visits, until the work is done.
    fn serve(&self) {
        let mut state = self.lock();
        loop {
            match std::mem::take(&mut *state) {
                State::Ended => return,
                State::Visit(visitor) => {
                    drop(state);
                    // This thread may itself work for another.
                    let served = catch_unwind(AssertUnwindSafe(|| {
                        let visitor = visitor;
                        on_caller(move || {
                            let visitor = visitor;
                            // SAFETY: the worker lends it until it is told below that the visit is over.
                            unsafe { (*visitor.0)() }
                        })
                    }));
                    // Visitors catch their own panics.
                    debug_assert!(served.is_ok());
                    state = self.lock();
                    *state = State::Visited;
                    self.changed.notify_all();
                }
                State::Waiting => state = self.wait(state),
                State::Visited => {
                    *state = State::Visited;
                    state = self.wait(state);
                }
            }
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod imp {
    /// Lowest and highest address of the calling thread's stack. On the main thread this reads a file of the kernel's.
    pub fn bounds() -> Option<(usize, usize)> {
        // SAFETY: zeroed attributes are storage for the call that fills them, and destroyed once if it did.
        unsafe {
            let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
            if libc::pthread_getattr_np(libc::pthread_self(), &mut attributes) != 0 {
                return None;
            }
            let (mut low, mut bytes) = (std::ptr::null_mut(), 0);
            let code = libc::pthread_attr_getstack(&attributes, &mut low, &mut bytes);
            libc::pthread_attr_destroy(&mut attributes);
            (code == 0).then(|| (low.addr(), low.addr().saturating_add(bytes)))
        }
    }
}

#[cfg(target_os = "macos")]
mod imp {
    /// As on Linux.
    pub fn bounds() -> Option<(usize, usize)> {
        // SAFETY: both only read what the system knows of the calling thread.
        let (high, bytes) = unsafe {
            let own = libc::pthread_self();
            (libc::pthread_get_stackaddr_np(own).addr(), libc::pthread_get_stacksize_np(own))
        };
        Some((high.checked_sub(bytes)?, high))
    }
}

#[cfg(windows)]
mod imp {
    #[link(name = "kernel32")]
    unsafe extern "system" {
        fn GetCurrentThreadStackLimits(low: *mut usize, high: *mut usize);
    }

    /// As on Linux.
    pub fn bounds() -> Option<(usize, usize)> {
        let (mut low, mut high) = (0, 0);
        // SAFETY: writes two words.
        unsafe { GetCurrentThreadStackLimits(&mut low, &mut high) };
        Some((low, high))
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "macos", windows)))]
mod imp {
    /// Not known: what needs room runs on threads of our own.
    pub fn bounds() -> Option<(usize, usize)> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::thread;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread::{Builder, current};

    /// On a thread of `bytes` of stack.
    fn on_small<R: Send + 'static>(bytes: usize, body: impl FnOnce() -> R + Send + 'static) -> R {
        Builder::new().stack_size(bytes).spawn(body).unwrap().join().unwrap()
    }

    #[test]
    fn what_is_left_is_less_further_down() {
        #[inline(never)]
        fn deeper(levels: usize) -> usize {
            let filler = std::hint::black_box([levels as u8; 1024]);
            let left = if levels == 0 { remaining() } else { deeper(levels - 1) };
            left + std::hint::black_box(filler)[0] as usize - filler[0] as usize
        }
        on_small(256 << 10, || {
            let here = remaining();
            assert!((32 << 10..=256 << 10).contains(&here), "{here}");
            let there = deeper(16);
            assert!(here - there >= 16 << 10, "{here} {there}");
        });
        if cfg!(target_os = "linux") {
            assert!(remaining() > 0);
        }
    }

    #[test]
    fn work_moves_only_when_the_stack_is_short() {
        let here = current().id();
        let there = on_small(1 << 20, move || {
            let here = current().id();
            let (in_place, moved) = (with_stack(128 << 10, || current().id()), with_stack(8 << 20, || current().id()));
            (here, in_place.unwrap(), moved.unwrap())
        });
        assert_eq!(there.0, there.1);
        assert_ne!(there.0, there.2);
        assert_ne!(there.2, here);
        // It has what was asked for.
        let left = on_small(64 << 10, || with_stack(3 << 20, remaining)).unwrap();
        assert!(left >= 3 << 20, "{left}");
    }

    #[test]
    fn work_done_aside_borrows_from_its_caller_and_returns() {
        let words = ["one".to_owned(), "two".to_owned()];
        assert_eq!(aside("test", || words.join(" ")).unwrap(), "one two");
        let panicked = catch_unwind(|| aside("test", || assert!(words.is_empty(), "not empty")));
        assert_eq!(panicked.unwrap_err().downcast_ref::<&str>(), Some(&"not empty"));
    }

    #[test]
    fn callbacks_go_back_to_the_thread_that_called() {
        let home = current().id();
        let calls = AtomicUsize::new(0);
        let call = || {
            assert_eq!(current().id(), home);
            assert!(!thread::is_ours());
            calls.fetch_add(1, Ordering::SeqCst)
        };
        // Two threads away, several times, with a value; and a panic that comes back to where it was called.
        let counted = aside("outer", || {
            assert!(thread::is_ours());
            on_caller(call);
            let inner = aside("inner", || {
                let panicked = catch_unwind(AssertUnwindSafe(|| on_caller(|| panic!("of the host"))));
                assert_eq!(panicked.unwrap_err().downcast_ref::<&str>(), Some(&"of the host"));
                on_caller(call) + on_caller(call)
            });
            inner.unwrap() + on_caller(call)
        });
        assert_eq!(counted.unwrap(), 1 + 2 + 3);
        assert_eq!(on_caller(call), 4, "nobody waits: in place");
    }
}
