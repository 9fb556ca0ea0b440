//! Text on its way to the model and back: tokenizers, chat templates, prompts.
#![allow(clippy::print_stdout, reason = "what was skipped belongs to a test's report")]

#[cfg(unix)]
mod constraints;
mod prompts;
#[path = "../support/mod.rs"]
mod support;
mod templates;
mod threads;
