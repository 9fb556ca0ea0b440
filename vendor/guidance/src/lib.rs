//! The grammars and the parser of llguidance (<https://github.com/guidance-ai/llguidance>, version 1.9.1, MIT licence:
//! see `LICENSE`), trimmed; `README.md` has what was left out and why.

#![allow(clippy::all, missing_docs, dead_code, unused_imports, unexpected_cfgs)]

pub mod api;
pub mod earley;

mod cancellation;
mod grammar_builder;
mod hashcons;
mod json;
mod lark;
mod logging;
mod regex_rewrite;
pub mod substring;

pub use cancellation::{CancellationHandle, Cancelled};
pub use derivre;
pub use derivre::{HashMap, HashSet};
pub use grammar_builder::{GrammarBuilder, NodeRef};
pub use json::compiler::JsonCompileOptions;
pub use json::{json_merge, lookup_format};
pub use logging::Logger;
pub use regex_rewrite::regex_to_lark;
pub use anyhow::Error as Fault;
pub use std::time::Instant;
pub use toktrie;

#[macro_export]
macro_rules! loginfo {
    ($s:expr, $($arg:tt)*) => {
        if $s.level_enabled(2) {
            use std::fmt::Write;
            writeln!($s.info_logger(), $($arg)*).unwrap();
        }
    };
}

#[macro_export]
macro_rules! infoln {
    ($s:expr, $($arg:tt)*) => {
        if $s.logger.level_enabled(2) {
            use std::fmt::Write;
            writeln!($s.logger.info_logger(), $($arg)*).unwrap();
        }
    };
}

#[macro_export]
macro_rules! warn {
    ($s:expr, $($arg:tt)*) => {
        if $s.logger.level_enabled(1) {
            use std::fmt::Write;
            $s.logger.write_warning("Warning: ");
            writeln!($s.logger.warning_logger(), $($arg)*).unwrap();
        }
    };
}

#[macro_export]
macro_rules! id32_type {
    ($name:ident) => {
        #[derive(serde::Serialize, serde::Deserialize, Hash, PartialEq, Eq, Clone, Copy, Debug)]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl $name {
            pub fn as_usize(&self) -> usize {
                self.0 as usize
            }

            pub fn new(idx: usize) -> Self {
                $name(idx as u32)
            }
        }
    };
}
