//! The HTTP server: over plain connections, on the storyteller, on answers that are given token by token, and with the official
//! clients.
#![cfg(feature = "server")]
#![allow(clippy::print_stdout, reason = "a skipped test says so")]

mod agents;
mod chat;
mod client;
mod clients;
mod completions;
mod embeddings;
mod fuzz;
mod guard;
mod hostile;
mod life;
mod long_prompt;
mod messages;
mod metrics;
mod replicas;
mod responses;
mod scripted;
mod serving;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod window;
