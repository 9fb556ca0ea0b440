//! What engines write to their logs.

use astrai::engine::{EngineOptions, LogFn, LogLevel};
use std::sync::{Arc, Mutex};

/// Log lines.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// `options`, whose log lines come here.
    pub fn of(&self, options: EngineOptions) -> EngineOptions {
        self.at(LogLevel::Info, options)
    }

    /// `options`, whose log lines up to `log_level` come here.
    pub fn at(&self, log_level: LogLevel, options: EngineOptions) -> EngineOptions {
        let lines = self.0.clone();
        let log: LogFn = Arc::new(move |_, line| lines.lock().unwrap().push(line.to_owned()));
        EngineOptions { log_level, log: Some(log), ..options }
    }

    /// Those with `part` in them.
    pub fn with(&self, part: &str) -> Vec<String> {
        self.0.lock().unwrap().iter().filter(|line| line.contains(part)).cloned().collect()
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}
