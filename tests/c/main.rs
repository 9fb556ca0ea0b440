//! The library as C sees it: the header, the shared library of this build, and C programs linked with it.
//!
//! What a machine cannot do prints SKIP with the reason, and fails when the variable ASTRAI_REQUIRE names it.
#![allow(clippy::print_stdout, reason = "a skipped test says so")]

#[cfg(target_os = "linux")]
mod abi;
#[cfg(target_os = "linux")]
mod contract;
#[cfg(target_os = "linux")]
mod examples;
mod header;
#[cfg(target_os = "linux")]
mod host;
#[cfg(target_os = "linux")]
mod lifetime;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod oom;
#[cfg(target_os = "linux")]
mod programs;
#[path = "../support/mod.rs"]
mod support;
