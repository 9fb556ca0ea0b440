//! Opens an engine, with a progress bar for a person who waits for a large model.

use crate::failure::{Failure, Outcome, note};
use crate::interrupt::Interrupt;
use astrai::Status;
use astrai::engine::{Engine, EngineOptions, LogLevel};
use astrai::source::ModelSource;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Below this a model loads faster than a bar can be read, in bytes.
const PROGRESS_BYTES_MIN: u64 = 256 << 20;
/// Redraws of the bar per second, at most.
const PROGRESS_HZ: u8 = 10;
const PROGRESS: &str = "loading {bar:32} {bytes}/{total_bytes} {binary_bytes_per_sec}";

/// Opens the model folder. Warnings of the engine go to stderr; Ctrl-C aborts, and so does the progress function of `options`.
pub fn open(dir: &Path, options: EngineOptions, interrupt: Option<&Interrupt>) -> Outcome<Engine> {
    open_with(options, interrupt, |options| Engine::open(dir, options))
}

/// Opens a model that is no folder, likewise.
pub fn open_source(source: Box<dyn ModelSource>, options: EngineOptions) -> Outcome<Engine> {
    open_with(options, None, |options| Engine::open_source(source, options))
}

fn open_with(
    mut options: EngineOptions,
    interrupt: Option<&Interrupt>,
    open: impl FnOnce(EngineOptions) -> astrai::Result<Engine>,
) -> Outcome<Engine> {
    let interrupt = interrupt.cloned();
    let mut bar: Option<ProgressBar> = None;
    let mut others = options.progress.take();
    options.progress = Some(Box::new(move |done, total| {
        if total >= PROGRESS_BYTES_MIN {
            let bar = bar.get_or_insert_with(|| progress_bar(total, PROGRESS_HZ, PROGRESS));
            bar.set_position(done);
            if done >= total {
                bar.finish_and_clear();
            }
        }
        let go_on = others.as_mut().is_none_or(|progress| progress(done, total));
        go_on && !interrupt.as_ref().is_some_and(Interrupt::raised)
    }));
    options.log_level = LogLevel::Warn;
    // Why an open failed is in its error, which is told once.
    let opened = Arc::new(AtomicBool::new(false));
    let tell = opened.clone();
    options.log = Some(Arc::new(move |level, line| {
        if level != LogLevel::Error || tell.load(Ordering::Relaxed) {
            note(line);
        }
    }));
    let engine = open(options).map_err(|error| match error.status {
        Status::Aborted => Failure::Interrupted,
        _ => error.into(),
    })?;
    opened.store(true, Ordering::Relaxed);
    Ok(engine)
}

/// A bar on stderr; indicatif draws nothing when that is not a terminal.
pub fn progress_bar(total: u64, hz: u8, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(hz));
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
