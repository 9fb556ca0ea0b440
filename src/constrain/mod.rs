//! What an answer is made of, and what it may be.
//!
//! [`answer`] reads a model's text as parts: content, reasoning, and calls of tools.

pub mod answer;
