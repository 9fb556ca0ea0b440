//! Errors as C sees them.

use super::guard::{Freed, guard};
use super::types::astrai_error;
use crate::error::Error;
use std::ffi::c_char;
use std::mem;
use std::ptr;

/// An error with the text its pointers point to. `c` is first: its address is the error's address.
#[repr(C)]
pub(super) struct ErrorCell {
    c: astrai_error,
    magic: u64,
    message: Vec<u8>,
    subject: Vec<u8>,
}

// SAFETY: the pointers in `c` point into the vectors beside it, which move with it and are never changed.
unsafe impl Send for ErrorCell {}

/// Given to the caller, who frees it.
const OWNED: u64 = 0x6173_7472_6169_4572;
/// Lives inside an event.
const EMBEDDED: u64 = 0x6173_7472_6169_4565;

impl ErrorCell {
    fn new(error: Error, magic: u64) -> ErrorCell {
        let message = terminated(error.message);
        let subject = terminated(error.subject);
        let c = astrai_error {
            struct_size: mem::size_of::<astrai_error>() as u32,
            status: error.status as i32,
            os_code: error.os_code,
            unit: error.unit as i32,
            needed: error.needed,
            available: error.available,
            message: message.as_ptr().cast::<c_char>(),
            message_len: message.len() - 1,
            subject: subject.as_ptr().cast::<c_char>(),
            subject_len: subject.len() - 1,
        };
        ErrorCell { c, magic, message, subject }
    }

    /// An error that lives inside an event: `astrai_error_free` leaves it alone.
    pub(super) fn embedded(error: Error) -> ErrorCell {
        ErrorCell::new(error, EMBEDDED)
    }

    /// The struct for C; valid as long as the cell is neither moved nor dropped.
    pub(super) fn as_c(&self) -> &astrai_error {
        &self.c
    }
}

/// The bytes of `text` and a NUL that its length does not count.
fn terminated(text: String) -> Vec<u8> {
    let mut bytes = text.into_bytes();
    bytes.push(0);
    bytes
}

/// Writes a new error, or NULL, to `err` if there is such a place.
///
/// # Safety
/// `err` is NULL or points to a writable pointer.
pub(super) unsafe fn write(err: *mut *mut astrai_error, error: Option<Error>) {
    if err.is_null() || !err.is_aligned() {
        return;
    }
    let written = match error {
        None => ptr::null_mut(),
        Some(error) => Box::into_raw(Box::new(ErrorCell::new(error, OWNED))).cast::<astrai_error>(),
    };
    // SAFETY: not NULL, aligned, writable by the caller's promise.
    unsafe { err.write(written) };
}

/// [A] Frees an error that a call wrote to its err. NULL is fine; the error inside an event is left to its event.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_error_free(error: *mut astrai_error) {
    guard("astrai_error_free", ptr::null_mut(), || {
        let cell = error.cast::<ErrorCell>();
        if cell.is_null() || !cell.is_aligned() {
            return Ok(Freed);
        }
        // SAFETY: by the contract an error of this library, all of which are cells.
        let magic = unsafe { &mut (*cell).magic };
        if *magic == OWNED {
            *magic = 0;
            // SAFETY: `write` made it with Box and gave it away; zeroing the magic word makes this the only free.
            drop(unsafe { Box::from_raw(cell) });
        }
        Ok(Freed)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Status, Unit};

    #[test]
    fn every_field_crosses() {
        let mut error = Error::new(Status::Io, "näh\0h").about("α/b").numbers(Unit::Bytes, u64::MAX, 7);
        error.os_code = 2;
        let cell = ErrorCell::embedded(error);
        let c = cell.as_c();
        assert_eq!((c.struct_size, c.status, c.os_code, c.unit), (64, 19, 2, 1));
        assert_eq!((c.needed, c.available), (u64::MAX, 7));
        // SAFETY: both texts are `len` bytes and a NUL.
        let [message, subject] = unsafe {
            [(c.message, c.message_len), (c.subject, c.subject_len)]
                .map(|(text, len)| std::slice::from_raw_parts(text.cast::<u8>(), len + 1))
        };
        assert_eq!(message, "näh\0h\0".as_bytes());
        assert_eq!(subject, "α/b\0".as_bytes());
    }

    #[test]
    fn an_error_without_subject_has_an_empty_one() {
        let cell = ErrorCell::embedded(Error::argument("x"));
        assert!(!cell.as_c().subject.is_null());
        assert_eq!(cell.as_c().subject_len, 0);
    }
}
