//! What `src/engine/delivery/sync.rs` is in the library. A wait with a deadline finds that it has passed already; or lets the lock
//! go once, to whoever wants it, and finds then that it has passed ([`soon`]); or it never does.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

/// A lock whose guard knows it, so that a wait can let it go and take it again.
#[derive(Debug, Default)]
pub struct Mutex<T>(loom::sync::Mutex<T>);

#[derive(Debug)]
pub struct MutexGuard<'a, T> {
    of: &'a Mutex<T>,
    guard: loom::sync::MutexGuard<'a, T>,
}

impl<T> Mutex<T> {
    pub fn new(data: T) -> Mutex<T> {
        Mutex(loom::sync::Mutex::new(data))
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

#[derive(Debug, Default)]
pub struct Condvar(loom::sync::Condvar);

impl Condvar {
    pub fn new() -> Condvar {
        Condvar(loom::sync::Condvar::new())
    }

    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    MutexGuard { of: mutex, guard: mutex.0.lock().unwrap() }
}

pub fn wait_until<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    deadline: Option<Instant>,
) -> (MutexGuard<'a, T>, bool) {
    let MutexGuard { of, guard } = guard;
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    match left {
        Some(Duration::ZERO) => (MutexGuard { of, guard }, false),
        Some(left) if left <= SOON => {
            drop(guard);
            if let Some(work) = MEANWHILE.take() {
                work();
            }
            loom::thread::yield_now();
            (lock(of), false)
        }
        _ => (MutexGuard { of, guard: condvar.0.wait(guard).unwrap() }, true),
    }
}

/// Waits until `found` makes something of what the mutex guards, or until `deadline`, if there is one: then None. The lock is
/// held again in either case.
pub fn wait_for<'a, T, R>(
    condvar: &Condvar,
    mut guard: MutexGuard<'a, T>,
    deadline: Option<Instant>,
    mut found: impl FnMut(&mut T) -> Option<R>,
) -> (MutexGuard<'a, T>, Option<R>) {
    loop {
        if let Some(result) = found(&mut guard) {
            return (guard, Some(result));
        }
        let (again, in_time) = wait_until(condvar, guard, deadline);
        guard = again;
        if !in_time {
            return (guard, None);
        }
    }
}

const SOON: Duration = Duration::from_secs(1 << 10);

/// A time that comes while the wait for it has let the lock go.
pub fn soon() -> Instant {
    Instant::now() + SOON
}

/// A time that does not come.
pub fn later() -> Instant {
    Instant::now() + SOON * 1024
}

thread_local! {
    /// The threads of a test are all run on one.
    static MEANWHILE: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// What the next wait until [`soon`] does while it has let the lock go.
pub fn meanwhile(work: impl FnOnce() + 'static) {
    MEANWHILE.set(Some(Box::new(work)));
}
