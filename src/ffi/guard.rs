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

thread_local! {
    /// Guarded calls in progress on this thread.
    static GUARDS: Cell<u32> = const { Cell::new(0) };
}

/// What an exported function returns: how success and failure look to C.
pub(super) trait Outcome {
    /// The C type.
    type C;
    /// The value of a call that did what it says.
    fn done(self) -> Self::C;
    /// The value of a call that failed.
    fn failed(status: Status) -> Self::C;
}

impl Outcome for Status {
    type C = i32;
    fn done(self) -> i32 {
        self as i32
    }
    fn failed(status: Status) -> i32 {
        status as i32
    }
}

/// A function that returns nothing, a `_free`.
impl Outcome for () {
    type C = ();
    fn done(self) {}
    fn failed(_status: Status) {}
}

impl Outcome for u32 {
    type C = u32;
    fn done(self) -> u32 {
        self
    }
    fn failed(_status: Status) -> u32 {
        0
    }
}

impl Outcome for u64 {
    type C = u64;
    fn done(self) -> u64 {
        self
    }
    fn failed(_status: Status) -> u64 {
        0
    }
}

/// Static text; never NULL.
impl Outcome for &'static CStr {
    type C = *const std::ffi::c_char;
    fn done(self) -> Self::C {
        self.as_ptr()
    }
    fn failed(_status: Status) -> Self::C {
        c"".as_ptr()
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
    let outcome = {
        let _inside = Inside::enter();
        panic::catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| Err(panicked(name, payload)))
    };
    match outcome {
        Ok(value) => {
            // SAFETY: by the contract `err` is NULL or points to a writable `astrai_error *`.
            unsafe { error::write(err, None) };
            value.done()
        }
        Err(failure) => {
            let status = failure.status;
            // SAFETY: as above.
            unsafe { error::write(err, Some(failure)) };
            T::failed(status)
        }
    }
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
