//! libastrai: a serving engine inside any process.
//!
//! The rooms, in reading order; a room may use those above it in this list, never those below:
//!
//! | layer | room | what it is for |
//! |---|---|---|
//! | 0 | [`error`], [`limits`], [`json`], [`dtype`], [`os`], [`encoding`] | errors, named limits, JSON within a budget, element types, what differs between systems, formats of quantized weights |
//! | 1 | [`sampling`] | penalties, truncation, draws, log probabilities: what devices are asked, and the passes over a row |
//! | 2 | [`backend`] | tensor operations on ragged batches: the trait, and the CPU and NVIDIA's GPUs behind it |
//! | 2 | [`source`] | where a model comes from: config, tokenizer, template, tensors |
//! | 2 | [`cache`] | slots, pages and page tables: integers only |
//! | 2 | [`speculation`] | drafts: what may follow in a text, and what trying it is worth: integers and probabilities |
//! | 2 | [`text`] | tokenizer, incremental UTF-8, stop strings, chat templates |
//! | 2 | [`constrain`] | what an answer may be, as sets of tokens; its parts: reasoning, content, calls |
//! | 3 | [`model`] | config to architecture, the families, the one forward pass |
//! | 3 | [`scheduler`] | cleanup, refill, prefill, decode; emits a batch of plain integers |
//! | 4 | [`engine`] | owns the threads; schedule, forward, sample, commit, deliver |
//! | 5 | `server` | HTTP in front of engines; of the feature of its name |
//! | 5 | [`ffi`] | every `extern "C"` function, one file per handle |

pub mod dtype;
pub mod encoding;
pub mod error;
pub mod json;
pub mod limits;
pub mod os;

pub mod sampling;

pub mod backend;

pub mod cache;
pub mod constrain;
pub mod source;
pub mod speculation;
pub mod text;

pub mod model;
pub mod scheduler;

pub mod engine;

#[cfg(feature = "server")]
pub mod server;

pub mod ffi;

pub use error::{Error, Result, Status, Unit};
