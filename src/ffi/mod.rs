//! The C ABI: every `extern "C"` function, one file per handle, and no engine logic.
//!
//! Called by C programs through `include/astrai.h`, which cbindgen generates from the documentation and types of
//! this room (`make header`; the test `header` fails when the two differ). What holds everywhere:
//!
//! - The body of an exported function is one call of `guard::guard`: no panic crosses the ABI, and the caller's
//!   `astrai_error **` is written in one place.
//! - Handles are `handle::Handle`s: reference-counted, marked with a magic word, tied to the process that opened
//!   them.
//! - What comes from the caller passes through `input` before anything else looks at it.
//! - Host callbacks are called through `guard::callback`, which is what makes a blocking call inside one an error.
//!
//! The documentation of exported items is written for readers of the header: plain C, no links.

// The names in this room are the names in the header.
#![allow(non_camel_case_types)]
// `[A]`, `[B]` and `[S]` are the marks of the header's contract block, which is also the safety section of every
// exported function.
#![allow(rustdoc::broken_intra_doc_links, clippy::missing_safety_doc)]

pub mod constants;
pub mod types;

pub mod constraint;
pub mod control;
pub mod engine;
pub mod error;
pub mod event;
pub mod library;
pub mod prefix;
pub mod prompt;
pub mod request;
pub mod server;
pub mod settings;
pub mod text;

mod built;
mod guard;
mod handle;
mod input;
mod options;
mod user_data;

#[doc(hidden)]
pub mod package;
#[doc(hidden)]
pub mod testing;
