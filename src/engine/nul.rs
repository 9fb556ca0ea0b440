//! Whether an event's text can be given to C as it is.

/// Whether the event's text is followed by a NUL in memory. False in a copy, which has memory of its own.
#[derive(Debug, Default)]
pub struct Nul(pub(super) bool);

impl Clone for Nul {
    fn clone(&self) -> Nul {
        Nul(false)
    }
}

impl PartialEq for Nul {
    /// Always equal: it does not belong to the event's contents.
    fn eq(&self, _: &Nul) -> bool {
        true
    }
}
