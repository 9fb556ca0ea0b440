//! Whether memory ran out on a thread. The global allocator of the C libraries (`capi/`) serves small blocks from a reserve when
//! the system refuses them, and notes it here, so that the work of that thread is given up at its next check instead of ending
//! the process. Without that allocator, as in every Rust program, nothing is ever noted.
//!
//! A plain number in a thread-local without a destructor, which would keep the library mapped after `dlclose`.

use crate::error::{Error, Result};
use std::cell::Cell;

thread_local! {
    /// Bytes of the first block that was refused since the last [`check`] or [`forget`], 0 = none.
    static REFUSED: Cell<usize> = const { Cell::new(0) };
}

/// The system refused a block of `bytes` bytes to this thread, and the reserve gave it.
pub fn note(bytes: usize) {
    if REFUSED.get() == 0 {
        REFUSED.set(bytes.max(1));
    }
}

/// Whether a block was refused on this thread since the last [`check`] or [`forget`].
pub fn is_noted() -> bool {
    REFUSED.get() != 0
}

/// Bytes of the first block that was refused on this thread since then, 0 = none.
pub fn refused() -> usize {
    REFUSED.get()
}

/// Starts anew: what was refused before does not concern the work that begins.
pub fn forget() {
    REFUSED.set(0);
}

/// An error if memory ran out on this thread since the last check; `what` is what was being done, as in "cannot allocate … for".
///
/// # Errors
/// `Memory`.
pub fn check(what: &str) -> Result<()> {
    let bytes = REFUSED.get();
    if bytes == 0 {
        return Ok(());
    }
    let error = Error::memory(what, bytes as u64);
    // The message may have come from the reserve too.
    forget();
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;

    #[test]
    fn what_was_refused_is_told_once_and_on_its_own_thread() {
        assert!(check("a test").is_ok());
        note(48);
        note(4096);
        std::thread::spawn(|| assert!(!is_noted() && check("another thread").is_ok())).join().unwrap();
        assert!(is_noted());
        let error = check("a test").unwrap_err();
        assert_eq!((error.status, error.needed), (Status::Memory, 48));
        assert!(error.message.contains("a test"), "{error}");
        assert!(!is_noted() && check("a test").is_ok());
        note(0);
        assert!(is_noted());
        forget();
        assert!(!is_noted());
    }
}
