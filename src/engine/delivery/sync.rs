//! The locks that [`super::queue`], [`super::ready`] and [`super::completions`] are made of. Those files name nothing else of
//! the project, so that `tests/loom` can build them on locks whose interleavings it tries.

use std::time::Instant;

pub use std::sync::{Condvar, Mutex, MutexGuard};

/// Locks a mutex whose data stays consistent even if a holder panicked.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Waits until `deadline`, or forever; false when the time is over. After true the caller looks again: it may have been
/// woken for nothing, or in the last moment. In either case others may have had the lock meanwhile.
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
