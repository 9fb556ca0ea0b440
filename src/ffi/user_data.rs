//! The host's `user_data` and its finalizer: one owner, which finalizes when it is dropped, so exactly once.

use super::guard;
use super::types::astrai_finalize_fn;
use std::ffi::c_void;

/// Owns a `user_data`. Whoever may still pass it to a callback holds this.
pub(super) struct UserData {
    pointer: *mut c_void,
    finalize: astrai_finalize_fn,
}

// SAFETY: the header says that callbacks and the finalizer run on library threads; the host gave its consent to
// have the pointer passed to them there. This library never dereferences it.
unsafe impl Send for UserData {}
// SAFETY: as above; sharing hands out nothing but the pointer's value.
unsafe impl Sync for UserData {}

impl UserData {
    /// Takes over `pointer`; `finalize` may be NULL.
    pub(super) fn new(pointer: *mut c_void, finalize: astrai_finalize_fn) -> UserData {
        UserData { pointer, finalize }
    }

    /// The host's pointer.
    pub(super) fn pointer(&self) -> *mut c_void {
        self.pointer
    }
}

impl Drop for UserData {
    fn drop(&mut self) {
        if let Some(finalize) = self.finalize {
            // SAFETY: a function of the declared type, by the contract of the call that took it.
            guard::callback(|| unsafe { finalize(self.pointer) });
        }
    }
}
