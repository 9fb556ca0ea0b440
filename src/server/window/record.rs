//! A recording: the page with its messages inside. The recorder is a viewer like others, with a longer queue.

use super::Recording;
use super::feed::{Feed, Watching};
use super::pace::Pace;
use super::page::Page;
use crate::error::{Error, Result};
use crate::limits;
use crate::os::thread::{self, JoinHandle, ThreadOptions};
use std::sync::Arc;

/// A recording that runs.
pub(super) struct Recorder(JoinHandle);

impl Recorder {
    /// Waits until the file is written, after the feed was closed.
    pub fn join(self) {
        self.0.join();
    }
}

/// Starts to record; none when no viewer may come any more.
///
/// # Errors
/// `Memory`.
pub(super) fn start(feed: &Arc<Feed>, recording: Recording, pace: Option<Arc<Pace>>) -> Result<Option<Recorder>> {
    let Some(watching) = feed.watch(limits::WINDOW_RECORD_MESSAGES)? else { return Ok(None) };
    let thread = thread::spawn("record", ThreadOptions::default(), move || {
        let messages = collect(watching, |clock: &Pace| recording.until > 0 && clock.clock() >= recording.until, pace);
        let path = &recording.path;
        let failed = |e| Error::io(format_args!("cannot write {}", path.display()), path.display().to_string(), &e);
        (recording.written)(std::fs::write(path, Page::new().recorded(&messages)).map_err(failed));
    })?;
    Ok(Some(Recorder(thread)))
}

/// The messages as items of a JSON list, each `[is it a snapshot, message]`.
fn collect(mut watching: Watching, over: impl Fn(&Pace) -> bool, pace: Option<Arc<Pace>>) -> String {
    let mut all = String::new();
    while let Some(message) = watching.messages.blocking_recv() {
        if all.len() + message.data.len() > limits::WINDOW_RECORD_BYTES_MAX {
            break;
        }
        if !all.is_empty() {
            all.push_str(",\n");
        }
        all.push_str(if message.snapshot { "[1," } else { "[0," });
        all.push_str(&message.data);
        all.push(']');
        if pace.as_deref().is_some_and(&over) {
            break;
        }
    }
    all
}
