//! The caller's handle of an engine: closing it, facts, text functions, pause and duty limit. How the engine thread follows the
//! last two is in [`super::pacing`].

use super::abilities::Abilities;
use super::delivery::discard;
use super::duty::Duty;
use super::host_thread::with_text;
use super::receive::deadline;
use super::reply::ask;
use super::{
    Command, Identity, Info, LogLevel, Prompt, Shared, Stats, TextKit, TextOptions, Trace, in_callback, lock,
    refuse_blocking, refuse_in_callback,
};
use crate::error::Result;
use crate::os::thread::{JoinHandle, ThreadOptions};
use crate::source::GenerationDefaults;
use crate::text::EncodeLimits;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// An open model with its scheduler. Dropping it closes it.
pub struct Engine {
    pub(super) shared: Arc<Shared>,
    pub(super) text: Arc<TextKit>,
    pub(super) info: Info,
    pub(super) defaults: GenerationDefaults,
    /// Opened without weights: only the text functions work.
    pub(super) text_only: bool,
    /// `None` without weights.
    pub(super) abilities: Option<Abilities>,
    /// Identity of model and device that a saved prefix must match; `None` without weights.
    pub(super) identity: Option<Arc<Identity>>,
    pub(super) running_max: usize,
    pub(super) waiting_max: usize,
    pub(super) threads: Mutex<Vec<JoinHandle>>,
    /// Priority and affinity of the engine's threads.
    pub(super) placing: ThreadOptions,
}

impl Engine {
    /// Ends all requests after at most `grace`, delivers their terminal events and joins all threads. Events in the
    /// queue of [`Engine::next`] can still be taken. A paused engine has no grace period, since no request could
    /// finish.
    ///
    /// # Errors
    /// `Closed` for a second call, `Reentrant` inside a callback.
    pub fn close(&self, grace: Duration) -> Result<()> {
        refuse_in_callback("close")?;
        self.begin_close(grace)?;
        if self.shared.dispatch.poll {
            self.shared.deliver_to_the_end();
        }
        let threads = std::mem::take(&mut *lock(&self.threads));
        threads.into_iter().rev().for_each(JoinHandle::join);
        Ok(())
    }

    /// The part of [`Engine::close`] that does not block.
    pub(crate) fn begin_close(&self, grace: Duration) -> Result<()> {
        let now = Instant::now();
        self.shared.mailbox.close(now.checked_add(grace).unwrap_or(now + Duration::from_secs(u32::MAX as u64)))?;
        self.shared.dispatch.close();
        if self.text_only {
            // Normally done by the engine thread when it ends.
            self.shared.dispatch.stop();
        }
        Ok(())
    }

    pub(super) fn open_or_closed(&self) -> Result<()> {
        self.shared.mailbox.open().map(drop)
    }

    /// Most requests that run and wait.
    pub(super) fn pending_max(&self) -> usize {
        self.running_max + self.waiting_max
    }

    /// Facts about the engine; also available after close.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// A snapshot of the counters. Lock-free while the engine is open.
    pub fn stats(&self) -> Result<Stats> {
        Ok(self.shared.stats.read())
    }

    /// Checks between two steps that every page and slot is accounted for (law 3). Blocks.
    ///
    /// # Errors
    /// `Internal` when the accounting is wrong or the engine thread failed, `Closed`, `Reentrant` inside a callback.
    pub fn check(&self) -> Result<()> {
        refuse_in_callback("check")?;
        if self.text_only {
            return self.open_or_closed();
        }
        ask(|answer| self.shared.mailbox.send(Command::Check(answer)))
    }

    /// The text the chat template makes of the prompt's messages (or the raw text parts joined).
    pub fn render(&self, prompt: &Prompt, options: TextOptions) -> Result<String> {
        self.open_or_closed()?;
        with_text(|| self.text.render(prompt, options))
    }

    /// The token ids of a prompt, as `submit` would use them.
    pub fn tokenize(&self, prompt: &Prompt, options: TextOptions) -> Result<Vec<u32>> {
        self.open_or_closed()?;
        let mut go_on = || self.open_or_closed();
        with_text(|| self.text.tokenize(prompt, options, &mut EncodeLimits::new(usize::MAX, &mut go_on)))
    }

    /// The text of token ids.
    pub fn detokenize(&self, tokens: &[u32], options: TextOptions) -> Result<String> {
        self.open_or_closed()?;
        with_text(|| self.text.detokenize(tokens, options))
    }

    /// The bytes that a token stands for inside a text, which need not be whole characters; none for a token without a name.
    ///
    /// # Errors
    /// `Unsupported` without a tokenizer, and where its decoder makes text of all tokens together only.
    pub fn token_bytes(&self, token: u32) -> Result<Vec<u8>> {
        self.text.tokenizer()?.token_bytes(token)
    }

    /// Cancels every request.
    pub fn cancel_all(&self) -> Result<()> {
        self.shared.mailbox.send(Command::CancelAll)
    }

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

    /// Traces the steps from the next one on, in place of the trace there was, or no more. With [`Trace::detail`] the callback is
    /// called at once. The old callback is dropped on the engine thread, and not called after it was dropped.
    ///
    /// # Errors
    /// `Closed`; `Memory`.
    pub fn set_trace(&self, trace: Option<Trace>) -> Result<()> {
        if self.text_only {
            return self.open_or_closed();
        }
        self.shared.mailbox.send(Command::SetTrace(trace.map(Box::new)))
    }

    /// Changes the verbosity of the log callback.
    pub fn set_log_level(&self, level: LogLevel) -> Result<()> {
        self.open_or_closed()?;
        self.shared.log_level.store(level as i32, Ordering::Relaxed);
        Ok(())
    }

    /// Whether it was opened for text only.
    pub fn is_text_only(&self) -> bool {
        self.text_only
    }

    /// Most sequences that run at once.
    pub fn running_max(&self) -> usize {
        self.running_max
    }

    /// Test hook: the engine thread panics.
    #[doc(hidden)]
    pub fn inject_panic(&self) {
        self.shared.mailbox.send_anyway(Command::Panic);
    }
}

impl Drop for Engine {
    /// Closes the engine if it is not closed yet. Inside a callback, the threads of an engine with a dispatch thread
    /// cannot be joined and are detached: they end once the callback has returned. The threads of an engine that polls
    /// never wait for a callback and are joined.
    fn drop(&mut self) {
        let _ = self.begin_close(Duration::ZERO);
        let threads = std::mem::take(&mut *lock(&self.threads));
        let poll = self.shared.dispatch.poll;
        if poll && !threads.is_empty() {
            if in_callback() {
                self.shared.orphan(threads.iter().any(JoinHandle::is_current));
            } else {
                self.shared.deliver_to_the_end();
            }
        }
        for thread in threads.into_iter().rev() {
            if (in_callback() && !poll) || thread.is_current() { thread.detach() } else { thread.join() }
        }
        discard(&self.shared.dispatch.completions);
    }
}
