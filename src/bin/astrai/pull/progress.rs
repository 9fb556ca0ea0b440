//! What is told while models come: a bar and lines on stderr for people, or JSON lines on stdout for programs.

use crate::failure::{Failure, Outcome, note};
use crate::open::progress_bar;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::io::Write;
use std::time::{Duration, Instant};

/// Redraws of the bar per second, at most.
const BAR_HZ: u8 = 10;
const BAR: &str = "pulling {bar:32} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
/// Time between two JSON lines about one file, at least, but for its first and its last.
const EVENT_INTERVAL: Duration = Duration::from_millis(250);

/// Tells what happens.
pub struct Report {
    json: bool,
    bar: Option<ProgressBar>,
    /// Why stdout cannot be written any more.
    broken: Option<std::io::Error>,
    /// Bytes that are there, of each file on its way.
    files: Vec<Progress>,
}

struct Progress {
    name: String,
    bytes: u64,
    total: u64,
    told: Option<Instant>,
    /// Whether it has changed since then.
    pending: bool,
}

impl Progress {
    fn event(&mut self) -> Value {
        (self.told, self.pending) = (Some(Instant::now()), false);
        json!({"event": "file", "name": self.name, "bytes": self.bytes, "total": self.total})
    }
}

impl Report {
    /// For a program that reads JSON lines, or a person.
    pub fn new(json: bool) -> Report {
        Report { json, bar: None, broken: None, files: Vec::new() }
    }

    /// Anything worth a line.
    pub fn note(&mut self, message: &str) {
        match &self.bar {
            _ if self.json => self.event(&json!({"event": "note", "message": message})),
            Some(bar) => bar.suspend(|| note(message)),
            None => note(message),
        }
    }

    /// The repository, and under what licence it is.
    pub fn model(
        &mut self,
        repository: &str,
        revision: &str,
        commit: &str,
        licence: Option<&str>,
        gated: bool,
        page: &str,
    ) {
        if self.json {
            return self.event(&json!({
                "event": "model", "repository": repository, "revision": revision, "commit": commit, "licence": licence,
                "gated": gated, "page": page,
            }));
        }
        let gated = if gated { ", to be accepted there" } else { "" };
        self.note(&format!("licence: {} ({page}{gated})", licence.unwrap_or("none is named")));
    }

    /// What was chosen, and why.
    pub fn choice(&mut self, name: &str, reason: &str) {
        match self.json {
            true => self.event(&json!({"event": "choice", "name": name, "reason": reason})),
            false => self.note(&format!("{name}: {reason}")),
        }
    }

    /// Files begin to come: their names and bytes.
    pub fn begin(&mut self, files: &[(&str, u64)]) {
        let of = |(name, total): &(&str, u64)| Progress {
            name: (*name).to_owned(),
            bytes: 0,
            total: *total,
            told: None,
            pending: false,
        };
        self.files = files.iter().map(of).collect();
        if !self.json {
            let total = self.files.iter().fold(0u64, |sum, file| sum.saturating_add(file.total));
            self.bar = Some(progress_bar(total, BAR_HZ, BAR));
        }
    }

    /// So many bytes of a file are there.
    pub fn bytes(&mut self, index: usize, bytes: u64) {
        let Some(file) = self.files.get_mut(index) else {
            return;
        };
        let first = file.told.is_none();
        file.bytes = bytes;
        if let Some(bar) = &self.bar {
            // What was there before counts for the place, not for the speed.
            if first {
                bar.inc(bytes);
                bar.reset_eta();
                file.told = Some(Instant::now());
            } else {
                bar.set_position(self.files.iter().map(|file| file.bytes).sum());
            }
        } else if first || bytes == file.total || file.told.is_some_and(|told| told.elapsed() >= EVENT_INTERVAL) {
            let event = file.event();
            self.event(&event);
        } else {
            file.pending = true;
        }
    }

    /// Nothing happens just now: what was not yet told is.
    pub fn idle(&mut self) {
        let pending = self.files.iter_mut().filter(|file| self.json && file.pending);
        let events: Vec<Value> = pending.map(Progress::event).collect();
        events.iter().for_each(|event| self.event(event));
    }

    /// No files come any more.
    pub fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.files.clear();
    }

    /// The last line: the path of the model.
    pub fn done(&mut self, path: &str) -> Outcome {
        match self.json {
            true => self.event(&json!({"event": "done", "path": path})),
            false => writeln!(std::io::stdout(), "{path}")?,
        }
        self.check()
    }

    /// The last line of one that failed, for programs; people are told by the program's end.
    pub fn failed(&mut self, message: &str) {
        if self.json {
            self.event(&json!({"event": "error", "message": message}));
        }
    }

    /// Whether somebody still reads.
    pub fn check(&mut self) -> Outcome {
        self.broken.take().map_or(Ok(()), |error| Err(Failure::from(error)))
    }

    fn event(&mut self, event: &Value) {
        let mut out = std::io::stdout().lock();
        if let Err(error) = writeln!(out, "{event}").and_then(|()| out.flush()) {
            self.broken = Some(error);
        }
    }
}
