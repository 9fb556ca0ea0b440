//! The HTTP server: over plain connections, on the storyteller, on answers that are given token by token, and with the official
//! clients.
#![cfg(feature = "server")]
#![allow(clippy::print_stdout, reason = "a skipped test says so")]

mod chat;
mod client;
mod clients;
mod completions;
mod guard;
mod life;
mod messages;
mod metrics;
mod responses;
mod scripted;
#[path = "../support/mod.rs"]
mod support;
mod window;
