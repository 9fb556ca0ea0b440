//! The command line tool and the other tools of this repository, its README, and the house rules of its sources.
#![allow(clippy::print_stdout, reason = "a skipped test says so")]

#[cfg(feature = "cli")]
mod cli;
#[cfg(unix)]
mod compare;
mod engine_files;
mod families;
#[cfg(unix)]
mod gpu_check;
mod layering;
#[cfg(all(unix, feature = "cli"))]
mod readme;
#[path = "../support/mod.rs"]
mod support;
