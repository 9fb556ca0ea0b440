//! What is behind an opaque pointer: a reference-counted body behind a magic word and the id of its process.
//!
//! C owns one reference, from the function that made the handle to its `_free`; every call holds another while it
//! runs. So a handle that one thread frees while another is inside a call stays in memory until that call returns.
//! The magic word catches a handle of another kind always, and one that was freed as long as its memory was not
//! used again; it is a net under the caller, not a licence.

use super::guard::Freed;
use crate::error::{Error, Result, Status};
use crate::os::shortage;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, TryLockError, TryLockResult};

/// A kind of handle.
pub(super) trait Kind: Sized {
    /// The opaque type in the header.
    type C;
    /// First word of every live handle of this kind.
    const MAGIC: u64;
    /// What error messages call it.
    const NAME: &'static str;
    /// Whether a forked child may use it: true when it has no threads behind it.
    const SURVIVES_FORK: bool;
}

/// A handle's memory. The magic word is first, so that any live handle can be told from any other.
#[repr(C)]
pub(super) struct Handle<T: Kind> {
    magic: AtomicU64,
    process_id: u32,
    body: T,
}

impl<T: Kind> Handle<T> {
    /// Makes a handle with one reference, which C owns, and writes it to the caller's `out`, as the last act of a call: when
    /// memory ran out on the way here, `body` is dropped instead.
    pub(super) fn give(body: T, out: &mut MaybeUninit<*mut T::C>) -> Result<()> {
        Room::new()?.give(body, out);
        Ok(())
    }

    /// A reference for the time of a call.
    ///
    /// # Safety
    /// `pointer` is NULL, or a handle (of any kind) that is not freed before this returns.
    pub(super) unsafe fn borrow(pointer: *const T::C) -> Result<Arc<Handle<T>>> {
        let handle = pointer.cast::<Handle<T>>();
        if handle.is_null() {
            return Err(Error::argument(format!("{} is NULL", T::NAME)).about(T::NAME));
        }
        if !handle.is_aligned() {
            return Err(not_a_handle::<T>());
        }
        // SAFETY: aligned and, by the caller's promise, a handle of some kind: all begin with the magic word.
        let magic = unsafe { &(*handle).magic };
        if magic.load(Ordering::Acquire) != T::MAGIC {
            return Err(not_a_handle::<T>());
        }
        // SAFETY: the magic word says that `give` made it, so it is the pointer of an `Arc`, and C's own
        // reference keeps it alive until the count is up.
        let handle = unsafe {
            Arc::increment_strong_count(handle);
            Arc::from_raw(handle)
        };
        if !T::SURVIVES_FORK && handle.process_id != std::process::id() {
            let (opened, here) = (handle.process_id, std::process::id());
            return Err(Error::new(
                Status::Forked,
                format!("this {} was opened by process {opened} and is of no use in its forked child {here}; open an engine after the fork", T::NAME),
            )
            .about(T::NAME));
        }
        Ok(handle)
    }

    /// A `_free` function: `end` on the body, then C's reference is given up. NULL is fine.
    ///
    /// # Safety
    /// As for [`Handle::borrow`].
    pub(super) unsafe fn free(pointer: *const T::C, end: impl FnOnce(&T)) -> Result<Freed> {
        if !pointer.is_null() {
            // SAFETY: as promised by the caller.
            let handle = unsafe { Handle::<T>::borrow(pointer) }?;
            end(&handle);
            handle.release();
        }
        Ok(Freed)
    }

    /// Gives up C's reference. Calls in progress keep theirs; later ones see that the handle is gone. Does nothing
    /// the second time.
    pub(super) fn release(self: &Arc<Self>) {
        if self.magic.compare_exchange(T::MAGIC, 0, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            // SAFETY: `give` gave C one reference; the exchange makes this the only place that takes it back.
            unsafe { Arc::decrement_strong_count(Arc::as_ptr(self)) };
        }
    }
}

/// What a lock guards, also after a panic; `busy` where another thread has it.
pub(super) fn unlocked<G>(tried: TryLockResult<G>, busy: impl FnOnce() -> Error) -> Result<G> {
    tried.or_else(|e| match e {
        TryLockError::Poisoned(guard) => Ok(guard.into_inner()),
        TryLockError::WouldBlock => Err(busy()),
    })
}

/// Memory for a handle, taken before something is done that cannot be undone.
pub(super) struct Room<T: Kind>(Arc<MaybeUninit<Handle<T>>>);

impl<T: Kind> Room<T> {
    /// Takes it.
    ///
    /// # Errors
    /// `Memory`, also when that ran out on this thread before.
    pub(super) fn new() -> Result<Room<T>> {
        let room = Room(Arc::new_uninit());
        shortage::check(T::NAME)?;
        Ok(room)
    }

    /// Makes a handle with one reference, which C owns, and writes it to the caller's `out`.
    pub(super) fn give(mut self, body: T, out: &mut MaybeUninit<*mut T::C>) {
        let Some(place) = Arc::get_mut(&mut self.0) else { unreachable!("nobody else knows the memory") };
        place.write(Handle { magic: AtomicU64::new(T::MAGIC), process_id: std::process::id(), body });
        // SAFETY: written just now.
        let handle = unsafe { self.0.assume_init() };
        out.write(Arc::into_raw(handle).cast_mut().cast());
    }
}

impl<T: Kind> Deref for Handle<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.body
    }
}

impl<T: Kind> Drop for Handle<T> {
    fn drop(&mut self) {
        self.magic.store(0, Ordering::Release);
    }
}

fn not_a_handle<T: Kind>() -> Error {
    Error::new(
        Status::Handle,
        format!("the {} given is not a live {} handle: it is of another kind or was freed", T::NAME, T::NAME),
    )
    .about(T::NAME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr;

    struct Red {
        _witness: Arc<()>,
    }
    struct Blue;
    impl Kind for Red {
        type C = u8;
        const MAGIC: u64 = 0x11;
        const NAME: &'static str = "red";
        const SURVIVES_FORK: bool = true;
    }
    impl Kind for Blue {
        type C = u8;
        const MAGIC: u64 = 0x22;
        const NAME: &'static str = "blue";
        const SURVIVES_FORK: bool = true;
    }

    fn give<T: Kind>(body: T) -> *mut T::C {
        let mut out = MaybeUninit::uninit();
        Handle::give(body, &mut out).unwrap();
        // SAFETY: written on success.
        unsafe { out.assume_init() }
    }

    #[test]
    fn what_was_made_while_memory_ran_out_is_dropped() {
        let witness = Arc::new(());
        let mut out = MaybeUninit::new(ptr::null_mut());
        shortage::note(24);
        let error = Handle::give(Red { _witness: Arc::clone(&witness) }, &mut out).unwrap_err();
        assert_eq!((error.status, error.needed), (Status::Memory, 24));
        // SAFETY: initialised above.
        assert!(unsafe { out.assume_init() }.is_null());
        assert_eq!(Arc::strong_count(&witness), 1);
    }

    #[test]
    fn null_misaligned_and_foreign_handles_are_refused() {
        let blue = give(Blue);
        // SAFETY: NULL, and live handles, one byte off in the second case where nothing is read.
        let statuses = unsafe {
            [
                Handle::<Red>::borrow(ptr::null()).err().unwrap().status,
                Handle::<Blue>::borrow(blue.byte_add(1)).err().unwrap().status,
                Handle::<Red>::borrow(blue).err().unwrap().status,
            ]
        };
        assert_eq!(statuses, [Status::Argument, Status::Handle, Status::Handle]);
        // SAFETY: live.
        unsafe { Handle::<Blue>::borrow(blue) }.unwrap().release();
    }

    #[test]
    fn a_call_keeps_a_released_handle_in_memory() {
        let witness = Arc::new(());
        let red = give(Red { _witness: Arc::clone(&witness) });
        // SAFETY: live.
        let call = unsafe { Handle::<Red>::borrow(red) }.unwrap();
        call.release();
        call.release();
        assert_eq!(Arc::strong_count(&witness), 2);
        // SAFETY: the memory is kept by `call`.
        assert_eq!(unsafe { Handle::<Red>::borrow(red) }.err().unwrap().status, Status::Handle);
        drop(call);
        assert_eq!(Arc::strong_count(&witness), 1);
    }
}
