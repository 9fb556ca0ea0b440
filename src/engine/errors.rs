//! Errors that several files of the engine give.

use crate::error::{Error, Status};

/// The error of calls and requests after the engine was closed.
pub(super) fn closed() -> Error {
    Error::new(Status::Closed, "the engine is closed")
}

/// The error that every request gets after a panic of the engine thread.
pub(super) fn panicked() -> Error {
    Error::new(
        Status::Internal,
        "the engine thread failed because of a defect in the library; the engine takes no more requests: close it and open it again",
    )
}
