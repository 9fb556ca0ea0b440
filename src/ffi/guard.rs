//! What stands between C and the library: panics are caught, errors are handed over, callbacks are marked, and neither
//! side computes in the other's floating-point environment.
//!
//! Nothing here has a destructor in a thread-local: such a destructor, registered on a host thread, would keep the
//! library mapped after `dlclose`.

use super::error;
use super::types::astrai_error;
use crate::engine::{CallbackScope, in_callback};
use crate::error::{Error, Result, Status};
use crate::os::floats::LibraryFloats;
use crate::os::shortage;
use std::any::Any;
use std::cell::Cell;
use std::ffi::CStr;
use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

thread_local! {
    /// Guarded calls in progress on this thread.
    static GUARDS: Cell<u32> = const { Cell::new(0) };
}

/// What the body of an exported function returns, and how that and a failure look to C.
pub(super) trait Outcome: Sized {
    /// The C type.
    type C;
    /// The value that the call returns.
    fn to_c(outcome: std::result::Result<Self, Status>) -> Self::C;
}

impl Outcome for Status {
    type C = i32;
    fn to_c(outcome: std::result::Result<Status, Status>) -> i32 {
        outcome.unwrap_or_else(|failure| failure) as i32
    }
}

/// A function whose only success is `ASTRAI_OK`.
impl Outcome for () {
    type C = i32;
    fn to_c(outcome: std::result::Result<(), Status>) -> i32 {
        outcome.err().unwrap_or(Status::Ok) as i32
    }
}

/// What a `_free` does, which returns nothing.
pub(super) struct Freed;

impl Outcome for Freed {
    type C = ();
    fn to_c(_outcome: std::result::Result<Freed, Status>) {}
}

impl Outcome for u32 {
    type C = u32;
    fn to_c(outcome: std::result::Result<u32, Status>) -> u32 {
        outcome.unwrap_or(0)
    }
}

impl Outcome for u64 {
    type C = u64;
    fn to_c(outcome: std::result::Result<u64, Status>) -> u64 {
        outcome.unwrap_or(0)
    }
}

/// Static text; never NULL.
impl Outcome for &'static CStr {
    type C = *const std::ffi::c_char;
    fn to_c(outcome: std::result::Result<&'static CStr, Status>) -> Self::C {
        outcome.unwrap_or_default().as_ptr()
    }
}

/// Text that a handle keeps; NULL when the call failed.
pub(super) struct Borrowed(pub *const std::ffi::c_char);

impl Outcome for Borrowed {
    type C = *const std::ffi::c_char;
    fn to_c(outcome: std::result::Result<Borrowed, Status>) -> Self::C {
        outcome.map_or(std::ptr::null(), |text| text.0)
    }
}

/// Runs the body of the exported function `name`: catches panics and writes `*err` (NULL unless the call failed).
pub(super) fn guard<T: Outcome>(
    name: &'static str,
    err: *mut *mut astrai_error,
    body: impl FnOnce() -> Result<T>,
) -> T::C {
    // What ran out before, in a callback of this call for example, is no concern of it.
    if !is_inside() {
        shortage::forget();
    }
    let (outcome, failure) = {
        let _inside = Inside::enter();
        match panic::catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| Err(panicked(name, payload))) {
            Ok(value) => (Ok(value), None),
            Err(failure) => (Err(failure.status), Some(failure)),
        }
    };
    // SAFETY: by the contract `err` is NULL or points to a writable `astrai_error *`.
    unsafe { error::write(err, failure) };
    T::to_c(outcome)
}

/// Calls host code. Blocking functions called from inside it are refused with `Reentrant`.
pub(super) fn callback<R>(call: impl FnOnce() -> R) -> R {
    let _inside = CallbackScope::new();
    call()
}

/// Refuses a blocking call inside a callback.
pub(super) fn may_block(name: &'static str) -> Result<()> {
    if !in_callback() {
        return Ok(());
    }
    Err(Error::new(
        Status::Reentrant,
        format!("{name} may block and was called inside a callback; call it from another thread, or with timeout 0 where it has one"),
    )
    .about(name))
}

/// The same for a call that waits at most so long: not at all, it may be made anywhere.
pub(super) fn may_wait(name: &'static str, timeout: Option<Duration>) -> Result<()> {
    if timeout == Some(Duration::ZERO) { Ok(()) } else { may_block(name) }
}

/// Whether an exported function runs on this thread.
pub(super) fn is_inside() -> bool {
    GUARDS.get() != 0
}

/// A guarded call on this thread, for as long as it lives.
struct Inside {
    _floats: LibraryFloats,
}

impl Inside {
    fn enter() -> Inside {
        GUARDS.set(GUARDS.get().saturating_add(1));
        Inside { _floats: LibraryFloats::enter() }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        GUARDS.set(GUARDS.get().saturating_sub(1));
    }
}

fn panicked(name: &'static str, payload: Box<dyn Any + Send>) -> Error {
    let what = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    // A payload may itself panic when it is dropped.
    if let Err(second) = panic::catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        std::mem::forget(second);
    }
    Error::internal(format!("defect of the library in {name}: {what}; please report it")).about(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr;

    #[test]
    fn a_panic_becomes_an_internal_error() {
        let mut err = ptr::null_mut();
        let status = guard("astrai_test", &mut err, || -> Result<Status> { panic!("boom {}", 7) });
        assert_eq!(status, Status::Internal as i32);
        // SAFETY: the guard wrote a library-owned error.
        let message = unsafe { CStr::from_ptr((*err).message) }.to_str().unwrap().to_owned();
        assert_eq!(message, "defect of the library in astrai_test: boom 7; please report it");
        // SAFETY: it is freed once.
        unsafe { error::astrai_error_free(err) };
        assert_eq!(GUARDS.get(), 0);
    }

    #[test]
    fn a_payload_that_panics_when_dropped_is_contained() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("second");
            }
        }
        let status = guard("astrai_test", ptr::null_mut(), || -> Result<Status> { panic::panic_any(Bomb) });
        assert_eq!(status, Status::Internal as i32);
    }

    #[test]
    fn the_error_is_cleared_by_a_call_that_succeeds() {
        let mut err = ptr::dangling_mut();
        assert_eq!(guard("astrai_test", &mut err, || Ok(Status::Timeout)), 1);
        assert!(err.is_null());
    }

    #[test]
    fn blocking_calls_are_refused_inside_callbacks_only() {
        assert!(may_block("astrai_test").is_ok());
        let refused = callback(|| callback(|| may_block("astrai_test"))).unwrap_err();
        assert_eq!(refused.status, Status::Reentrant);
        assert!(may_block("astrai_test").is_ok());
    }
}
