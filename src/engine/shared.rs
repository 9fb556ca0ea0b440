//! What all threads of an engine share.

use super::guide::Guides;
use super::mailbox::Mailbox;
use super::stats::StatsCell;
use super::text_queue::TextQueue;
use super::{Dispatch, LogFn, LogLevel, call_host};
use crate::os::thread;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

/// State shared by callers and all threads of an engine.
pub(super) struct Shared {
    pub mailbox: Mailbox,
    pub dispatch: Arc<Dispatch>,
    /// The prompts of deferred requests.
    pub texts: TextQueue,
    /// Constraints whose masks are being computed.
    pub guides: Guides,
    pub stats: StatsCell,
    pub log: Option<LogFn>,
    pub log_level: AtomicI32,
    /// The id of the next request.
    pub ids: AtomicU64,
    /// Accepted requests without a terminal event, and pins being computed.
    pub pending: Arc<AtomicUsize>,
}

/// Target of log lines in the `log` crate.
const LOG_TARGET: &str = "astrai";

/// The level of the `log` crate; `None` for [`LogLevel::Off`].
fn facade_level(level: LogLevel) -> Option<log::Level> {
    match level {
        LogLevel::Off => None,
        LogLevel::Error => Some(log::Level::Error),
        LogLevel::Warn => Some(log::Level::Warn),
        LogLevel::Info => Some(log::Level::Info),
        LogLevel::Debug => Some(log::Level::Debug),
    }
}

impl Shared {
    /// Whether lines of this level are logged. Without a log callback they go to the logger of the `log` crate, which a
    /// Rust host may have set.
    pub fn logs(&self, level: LogLevel) -> bool {
        match &self.log {
            Some(_) => level as i32 <= self.log_level.load(Ordering::Relaxed),
            None => facade_level(level).is_some_and(|l| log::log_enabled!(target: LOG_TARGET, l)),
        }
    }

    /// Queues a log line, which is made only if its level is logged.
    pub fn log(&self, level: LogLevel, line: impl FnOnce() -> String) {
        if self.logs(level) {
            self.dispatch.log(level, line());
        }
    }

    /// Writes a log line to the log callback or to the `log` crate. While an engine opens, this runs on the opening
    /// thread.
    pub fn call_log(&self, level: LogLevel, line: &str) {
        let write = || match (&self.log, facade_level(level)) {
            (Some(log), _) => log(level, line),
            (None, Some(level)) => log::log!(target: LOG_TARGET, level, "{line}"),
            (None, None) => {}
        };
        thread::on_caller(|| call_host(write));
    }
}
