//! The one error type of the library: what went wrong, where, and the numbers a program can act on.
//!
//! Every room returns [`Result`]. An [`Error`] carries a [`Status`] (the number that crosses the C ABI), a
//! message that says what, where and what to do next, the subject it is about (a path, a tensor, an option) and,
//! where a quantity was too large or too small, `needed` and `available` with their [`Unit`].

use std::ffi::CStr;
use std::fmt;

/// Result with the library's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Defines [`Status`]: each with its number and its name in the C header.
macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $c_name:literal;)*) => {
        /// Outcome of a call as it crosses the C ABI. Values below 10 are not errors.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(i32)]
        pub enum Status {
            $($(#[$doc])* $name = $number,)*
        }

        impl Status {
            /// Every status, in the order of their values.
            pub const ALL: [Status; [$($c_name),*].len()] = [$(Status::$name),*];

            /// Its name in the C header.
            pub fn c_name(self) -> &'static CStr {
                match self {
                    $(Status::$name => $c_name,)*
                }
            }
        }
    };
}

statuses! {
    /// The call did what it says.
    Ok = 0, c"ASTRAI_OK";
    /// The time ran out; nothing changed.
    Timeout = 1, c"ASTRAI_TIMEOUT";
    /// The stream has ended; there is nothing more to read.
    End = 2, c"ASTRAI_END";
    /// An argument or option value is not allowed.
    Argument = 10, c"ASTRAI_ERR_ARGUMENT";
    /// `struct_size` is zero, too small, or larger than this library knows with unknown fields set.
    StructSize = 11, c"ASTRAI_ERR_STRUCT_SIZE";
    /// The handle is of another kind or was freed.
    Handle = 12, c"ASTRAI_ERR_HANDLE";
    /// A blocking call inside a callback.
    Reentrant = 13, c"ASTRAI_ERR_REENTRANT";
    /// Another thread is using a one-thread-at-a-time handle.
    Busy = 14, c"ASTRAI_ERR_BUSY";
    /// The engine is closed.
    Closed = 15, c"ASTRAI_ERR_CLOSED";
    /// The process forked after the engine was opened.
    Forked = 16, c"ASTRAI_ERR_FORKED";
    /// A callback asked to stop.
    Aborted = 17, c"ASTRAI_ERR_ABORTED";
    /// The caller's buffer is too small; the needed size was written.
    Buffer = 18, c"ASTRAI_ERR_BUFFER";
    /// The operating system refused a file operation; `os_code` says why.
    Io = 19, c"ASTRAI_ERR_IO";
    /// A file is not what its format demands.
    Format = 20, c"ASTRAI_ERR_FORMAT";
    /// Valid, but nothing this build can do.
    Unsupported = 21, c"ASTRAI_ERR_UNSUPPORTED";
    /// The chat template failed or raised.
    Template = 22, c"ASTRAI_ERR_TEMPLATE";
    /// Text is not valid UTF-8.
    Utf8 = 23, c"ASTRAI_ERR_UTF8";
    /// Prompt longer than the context.
    Context = 24, c"ASTRAI_ERR_CONTEXT";
    /// Memory could not be had.
    Memory = 26, c"ASTRAI_ERR_MEMORY";
    /// Too many requests are waiting.
    QueueFull = 27, c"ASTRAI_ERR_QUEUE_FULL";
    /// A saved state belongs to another model or configuration.
    Mismatch = 28, c"ASTRAI_ERR_MISMATCH";
    /// The device failed or is not there.
    Device = 29, c"ASTRAI_ERR_DEVICE";
    /// A defect of the library itself.
    Internal = 30, c"ASTRAI_ERR_INTERNAL";
}

/// What `needed` and `available` of an [`Error`] count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i32)]
pub enum Unit {
    /// The numbers are not set.
    #[default]
    None = 0,
    /// Bytes.
    Bytes = 1,
    /// Tokens.
    Tokens = 2,
    /// Things counted one by one.
    Count = 3,
}

/// What went wrong, where, and with which numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    /// The status that crosses the C ABI; never below 10.
    pub status: Status,
    /// One or two sentences: what, where, what to do next.
    pub message: String,
    /// What the message is about: a path, a tensor name, an option. Empty when there is no such thing.
    pub subject: String,
    /// Unit of `needed` and `available`.
    pub unit: Unit,
    /// The amount that was asked for.
    pub needed: u64,
    /// The amount that is there.
    pub available: u64,
    /// `errno` or `GetLastError()`, 0 when the system had no part in it.
    pub os_code: i32,
}

impl Error {
    /// An error with a message and nothing else.
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Error {
            status,
            message: message.into(),
            subject: String::new(),
            unit: Unit::None,
            needed: 0,
            available: 0,
            os_code: 0,
        }
    }

    /// Names what the error is about.
    pub fn about(mut self, subject: impl Into<String>) -> Self {
        self.subject = subject.into();
        self
    }

    /// Adds the numbers a program can act on.
    pub fn numbers(mut self, unit: Unit, needed: u64, available: u64) -> Self {
        self.unit = unit;
        self.needed = needed;
        self.available = available;
        self
    }

    /// A failed file operation, `Memory` when that is what the system lacked: `what` is the sentence's beginning, for example "cannot open model.safetensors".
    pub fn io(what: impl fmt::Display, subject: impl Into<String>, error: &std::io::Error) -> Self {
        let out_of_memory = error.kind() == std::io::ErrorKind::OutOfMemory;
        let status = if out_of_memory { Status::Memory } else { Status::Io };
        let mut e = Error::new(status, format!("{what}: {error}")).about(subject);
        e.os_code = error.raw_os_error().unwrap_or(0);
        e
    }

    /// A bad argument or option value.
    pub fn argument(message: impl Into<String>) -> Self {
        Error::new(Status::Argument, message)
    }

    /// A malformed file.
    pub fn format(message: impl Into<String>) -> Self {
        Error::new(Status::Format, message)
    }

    /// Something valid that this build cannot do.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Error::new(Status::Unsupported, message)
    }

    /// A defect of the library.
    pub fn internal(message: impl Into<String>) -> Self {
        Error::new(Status::Internal, message)
    }

    /// An allocation of `bytes` bytes for `what` that the system refused.
    pub fn memory(what: impl fmt::Display, bytes: u64) -> Self {
        Error::new(
            Status::Memory,
            format!("cannot allocate {bytes} bytes for {what}; lower the memory budget, context length or slots"),
        )
        .numbers(Unit::Bytes, bytes, 0)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.subject.is_empty() && !self.message.contains(&self.subject) {
            write!(f, " [{}]", self.subject)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// A vector of `count` times `value` that is for `what`.
///
/// # Errors
/// `Memory`.
pub fn filled<T: Clone>(what: &str, count: usize, value: T) -> Result<Vec<T>> {
    let mut vec = reserved(what, count)?;
    vec.resize(count, value);
    Ok(vec)
}

/// A copy of `values`, which are `what`.
///
/// # Errors
/// `Memory`.
pub fn copied<T: Copy>(what: &str, values: &[T]) -> Result<Vec<T>> {
    let mut vec = reserved(what, values.len())?;
    vec.extend_from_slice(values);
    Ok(vec)
}

/// An empty vector with room for `count` things that are `what`.
///
/// # Errors
/// `Memory`.
pub fn reserved<T>(what: &str, count: usize) -> Result<Vec<T>> {
    let mut vec = Vec::new();
    let bytes = (count as u64).saturating_mul(size_of::<T>() as u64);
    vec.try_reserve_exact(count).map_err(|_| Error::memory(what, bytes))?;
    Ok(vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_memory_can_hold_is_an_error_with_its_size() {
        assert_eq!(filled("things", 3, 7u8).unwrap(), [7, 7, 7]);
        assert_eq!(copied("things", &[1, 2]).unwrap(), [1, 2]);
        let error = filled("things", usize::MAX / 16, 7u64).unwrap_err();
        assert_eq!((error.status, error.unit), (Status::Memory, Unit::Bytes));
        assert!(error.needed == usize::MAX as u64 / 16 * 8 && error.message.contains("things"), "{error}");
    }
}
