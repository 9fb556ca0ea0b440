//! Pause, duty limit and cache control of a running engine: the calls of the host. How the engine thread follows them is
//! in [`super::pacing`].

use super::callback::refuse_blocking;
use super::command::Command;
use super::duty::Duty;
use super::handle::Engine;
use super::receive::deadline;
use crate::error::Result;
use std::time::Duration;

impl Engine {
    /// Stops the engine from working until [`Engine::resume`]. Returns true when no step is running and none will
    /// begin. Returns false when the running layer (on a GPU, the running step) did not end within `timeout` (`None` =
    /// no timeout), in which case the pause stays requested, or when another thread resumed the engine. Requests are
    /// accepted and cancelled and meet their deadlines as always. Idempotent.
    ///
    /// # Errors
    /// `Closed`; `Reentrant` when it would block inside a callback.
    pub fn pause(&self, timeout: Option<Duration>) -> Result<bool> {
        refuse_blocking(timeout, "pause")?;
        self.open_or_closed()?;
        if self.text_only {
            return Ok(true);
        }
        self.shared.mailbox.pause(deadline(timeout))
    }

    /// Ends a pause; does nothing when there is none.
    ///
    /// # Errors
    /// `Closed`.
    pub fn resume(&self) -> Result<()> {
        self.shared.mailbox.resume()
    }

    /// Limits the engine to `work_us` microseconds of work in every `interval_us`; 0 and 0 is no limit. Work is the
    /// time of steps and of copying pages when prefixes are saved or restored. The engine rests between two layers, on
    /// a GPU between two steps, so it may exceed the limit by at most one layer or step, and rests longer afterwards.
    /// After being idle it may work `work_us` at once, so that two adjacent intervals can have up to twice `work_us`.
    /// Takes effect at once, also within a step.
    ///
    /// # Errors
    /// `Argument` with both numbers when `work_us` exceeds `interval_us` or is 0 alone; `Closed`.
    pub fn set_duty(&self, work_us: u32, interval_us: u32) -> Result<()> {
        let duty = Duty::new(work_us, interval_us)?;
        self.shared.mailbox.control(|control| control.duty = duty)
    }

    /// Drops all cached pages that no request uses and no prefix pins, before the next step.
    ///
    /// # Errors
    /// `Closed`.
    pub fn clear_cache(&self) -> Result<()> {
        if self.text_only {
            return self.open_or_closed();
        }
        self.shared.mailbox.send(Command::ClearCache)
    }
}
