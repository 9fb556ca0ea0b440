//! Whether memory ran out on a thread. The global allocator of the C libraries (`capi/`) serves small blocks from a reserve when
//! the system refuses them, and notes it here, so that the work of that thread is given up at its next check instead of ending
//! the process. Without that allocator, as in every Rust program, only [`backed`] work notes what it could not have.
//!
//! What was noted stays until the next piece of work begins with [`forget`]: an error that somebody takes for advice and goes on
//! without does not make the check after it succeed.
//!
//! A plain number in a thread-local without a destructor, which would keep the library mapped after `dlclose`.

use crate::error::{Error, Result, reserved};
use crate::limits;
use std::cell::Cell;
use std::sync::OnceLock;

thread_local! {
    /// Bytes of the first block that was refused since the last [`forget`], 0 = none.
    static REFUSED: Cell<usize> = const { Cell::new(0) };
}

/// The system refused a block of `bytes` bytes to this thread, and the reserve gave it.
pub fn note(bytes: usize) {
    if REFUSED.get() == 0 {
        REFUSED.set(bytes.max(1));
    }
}

/// Whether a block was refused on this thread since the last [`forget`].
pub fn is_noted() -> bool {
    REFUSED.get() != 0
}

/// Bytes of the first block that was refused on this thread since then, 0 = none.
pub fn refused() -> usize {
    REFUSED.get()
}

/// Starts anew: what was refused before does not concern the work that begins. Whoever checks does this first.
pub fn forget() {
    REFUSED.set(0);
}

/// An error if memory ran out on this thread since the last [`forget`]; `what` is what was being done, as in "cannot allocate … for".
///
/// # Errors
/// `Memory`.
pub fn check(what: &str) -> Result<()> {
    match REFUSED.get() {
        0 => Ok(()),
        bytes => Err(Error::memory(what, bytes as u64)),
    }
}

/// About what [`backed`] work on a text of `bytes` bytes allocates, by one of the `*_MEMORY_FACTOR`s in [`limits`].
pub fn estimate(bytes: usize, factor: usize) -> usize {
    bytes.saturating_mul(factor).saturating_add(limits::TEXT_MEMORY_BYTES)
}

/// How the C libraries' allocator keeps memory behind a piece of work.
#[derive(Clone, Copy)]
pub struct Backups {
    /// Takes so many bytes and keeps them behind what the thread does; 0 when they cannot be had, else what `end` gets.
    pub begin: fn(usize) -> usize,
    /// The work is over.
    pub end: fn(usize),
    /// What is behind the calling thread, 0 = nothing.
    pub current: fn() -> usize,
    /// Puts what is behind another thread, which waits meanwhile, behind the calling one.
    pub adopt: fn(usize),
}

/// Set by the C libraries when they are loaded, and never otherwise.
static BACKUPS: OnceLock<Backups> = OnceLock::new();

/// From now on [`backed`] work has these behind it.
pub fn use_backups(backups: Backups) {
    let _first = BACKUPS.set(backups);
}

/// Runs work that allocates about `bytes` in all, in a dependency that cannot be refused memory; `what` is what it makes. So
/// much is tried as one block before, and in the C libraries kept behind the work: if memory runs out all the same, the work
/// goes on from there and its result is dropped.
///
/// # Errors
/// `Memory`.
pub fn backed<R>(what: &str, bytes: usize, work: impl FnOnce() -> R) -> Result<R> {
    let backup = Backup::begin(what, bytes)?;
    // What was refused before the work does not concern it, but whoever checks after it.
    let before = REFUSED.replace(0);
    let result = work();
    // All that came from the backup goes before it, and the error comes after.
    let kept = if is_noted() {
        drop(result);
        None
    } else {
        Some(result)
    };
    drop(backup);
    let Some(kept) = kept else { return Err(Error::memory(what, refused() as u64)) };
    if !is_noted() {
        REFUSED.set(before);
    }
    Ok(kept)
}

/// Runs other work in the middle of work, as if it had a thread of its own: memory that runs out in the one is no matter of the
/// other, and what is behind the one is not behind the other.
pub fn apart<R>(work: impl FnOnce() -> R) -> R {
    struct Outer(usize, usize);
    impl Drop for Outer {
        fn drop(&mut self) {
            REFUSED.set(self.0);
            adopt(self.1);
        }
    }
    let _outer = Outer(REFUSED.replace(0), current());
    adopt(0);
    work()
}

/// What is behind the calling thread's work, for [`adopt`].
pub(super) fn current() -> usize {
    BACKUPS.get().map_or(0, |backups| (backups.current)())
}

/// The calling thread works for another one, which waits for it: what is behind that is behind this.
pub(super) fn adopt(backup: usize) {
    if let Some(backups) = BACKUPS.get() {
        (backups.adopt)(backup);
    }
}

/// While it lives, memory is behind the thread's work.
struct Backup(usize);

impl Backup {
    fn begin(what: &str, bytes: usize) -> Result<Backup> {
        let begun = match BACKUPS.get() {
            None => reserved::<u8>(what, bytes).map(|_tried| Backup(0)),
            Some(backups) => match (backups.begin)(bytes) {
                0 => Err(Error::memory(what, bytes as u64)),
                token => Ok(Backup(token)),
            },
        };
        // Also for those who take the error for advice and go on without.
        begun.inspect_err(|_| note(bytes))
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        if let Some(backups) = BACKUPS.get().filter(|_| self.0 != 0) {
            (backups.end)(self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;

    #[test]
    fn backed_work_runs_if_its_estimate_can_be_had_and_is_given_up_if_memory_ran_out_in_it() {
        assert_eq!(backed("a test", 1000, || 7).unwrap(), 7);
        let error = backed("a test", isize::MAX as usize, || 7).unwrap_err();
        assert_eq!((error.status, error.needed), (Status::Memory, isize::MAX as u64));
        assert!(is_noted(), "for those who go on without");
        forget();
        assert_eq!(backed("a test", 1000, || note(48)).unwrap_err().needed, 48);
        assert_eq!(backed("a test", 1000, || 7).unwrap(), 7, "what was refused before does not concern it");
        assert_eq!(check("a test").unwrap_err().needed, 48, "and is not forgotten");
        // An error inside that is taken for advice.
        let error = backed("a test", 1000, || backed("inside", 10, || note(16)).is_ok()).unwrap_err();
        assert_eq!((error.needed, error.message.contains("a test")), (16, true));
    }

    #[test]
    fn work_apart_knows_nothing_of_the_work_around_it() {
        let outer = backed("outer work", 1000, || {
            note(48);
            assert_eq!(apart(|| backed("a test", 1000, || 7)).unwrap(), 7);
            apart(forget);
        });
        assert_eq!(outer.unwrap_err().needed, 48);
        forget();
        let outer = backed("outer work", 1000, || {
            assert!(apart(|| backed("a test", 1000, || note(16))).is_err());
            assert!(std::panic::catch_unwind(|| apart(|| -> () { panic!("a test") })).is_err());
            7
        });
        assert_eq!(outer.unwrap(), 7);
        assert!(!is_noted());
    }

    #[test]
    fn what_was_refused_is_told_on_its_own_thread_until_it_is_forgotten() {
        assert!(check("a test").is_ok());
        note(48);
        note(4096);
        std::thread::spawn(|| assert!(!is_noted() && check("another thread").is_ok())).join().unwrap();
        assert!(is_noted());
        let error = check("a test").unwrap_err();
        assert_eq!((error.status, error.needed), (Status::Memory, 48));
        assert!(error.message.contains("a test"), "{error}");
        assert!(is_noted() && check("a test").is_err());
        forget();
        assert!(!is_noted() && check("a test").is_ok());
        note(0);
        assert!(is_noted());
        forget();
        assert!(!is_noted());
    }
}
