//! The locks used by [`super::queue`], [`super::ready`] and [`super::completions`]. Those files use nothing else of the
//! project, so that `tests/loom` can build them with locks whose interleavings it explores.

use std::time::Instant;

pub use std::sync::{Condvar, Mutex, MutexGuard};

/// Locks a mutex whose data stays consistent even if a holder panicked.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Waits until notified or until `deadline`, if there is one; false when the deadline has passed. After true the caller
/// must check its condition again: the wake-up may be spurious, or the deadline may have passed just now. In either
/// case other threads may have held the lock meanwhile.
pub fn wait_until<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    deadline: Option<Instant>,
) -> (MutexGuard<'a, T>, bool) {
    match deadline {
        None => (condvar.wait(guard).unwrap_or_else(|e| e.into_inner()), true),
        Some(deadline) => {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return (guard, false);
            }
            let (guard, _) = condvar.wait_timeout(guard, left).unwrap_or_else(|e| e.into_inner());
            (guard, true)
        }
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
