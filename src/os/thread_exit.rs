//! Destructors of thread-locals on threads of the library.
//!
//! std has them noted by the C library, and glibc ends the process when it has no memory for the note. The shared library
//! (`capi/src/thread_exit.rs`) hands the notes to this room instead, which has a place for them on every thread and runs them
//! when one of the library's own ends. Not used in any other build.

use std::cell::Cell;
use std::ffi::c_void;

/// What ends an object.
pub type Destructor = unsafe extern "C" fn(*mut c_void);

/// Most destructors that a thread can have noted here. A dependency has a few thread-locals at most.
const PLACES: usize = 16;

type Note = Option<(Destructor, *mut c_void)>;

thread_local! {
    static NOTES: [Cell<Note>; PLACES] = const { [const { Cell::new(None) }; PLACES] };
}

/// Notes that `destructor` is to be called with `object` at the end of the calling thread, which is one of the library's own;
/// false where it is another, or has no place left. Allocates nothing.
///
/// # Safety
/// `destructor` may be called once with `object` on this thread, when its body is over.
pub unsafe fn note(destructor: Destructor, object: *mut c_void) -> bool {
    if !super::thread::is_ours() {
        return false;
    }
    NOTES.with(|notes| {
        let free = notes.iter().find(|note| note.get().is_none());
        free.inspect(|place| place.set(Some((destructor, object)))).is_some()
    })
}

/// Runs what was noted on this thread, the last first, and what is noted meanwhile.
pub(super) fn run() {
    while let Some((destructor, object)) = NOTES.with(|notes| notes.iter().rev().find_map(Cell::take)) {
        // SAFETY: the one call that `note` was promised; `take` removed the note.
        unsafe { destructor(object) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::thread::{self, ThreadOptions};
    use std::sync::Mutex;

    static ENDED: Mutex<Vec<usize>> = Mutex::new(Vec::new());

    unsafe extern "C" fn end(object: *mut c_void) {
        ENDED.lock().unwrap().push(object.addr());
        if object.addr() == 2 {
            // SAFETY: `end` may be called with any address, and any number of times.
            assert!(unsafe { note(end, std::ptr::without_provenance_mut(100)) });
        }
    }

    #[test]
    fn the_last_note_runs_first_and_what_does_not_fit_is_left_to_the_caller() {
        let noted = |object: usize| {
            // SAFETY: as in `end`.
            unsafe { note(end, std::ptr::without_provenance_mut(object)) }
        };
        assert!(!noted(1), "a host's thread");
        let body = move || assert!((1..=PLACES).all(noted) && !noted(PLACES + 1));
        thread::spawn("notes", ThreadOptions::default(), body).unwrap().join();
        let mut expected: Vec<usize> = (2..=PLACES).rev().collect();
        expected.extend([100, 1]);
        assert_eq!(*ENDED.lock().unwrap(), expected);
    }
}
