//! The engine: owns the threads, and is the only module that uses both the scheduler and the model.
//!
//! Threads of an open engine:
//! - The **engine thread** ([`core`]) owns scheduler, model and device.
//! - The **dispatch thread** runs callbacks and writes log lines, unless the host polls.
//! - The **wake thread** calls the wake callback of a host that polls, if there is one.
//! - The **text thread** ([`defer`]) prepares deferred prompts; it starts with the first of them.
//! - The worker threads of the CPU backend compute.
//!
//! Callers send [`Command`]s to the engine thread through a mailbox, and receive events through each request's
//! [`delivery::Outbox`]. All threads sleep while there is nothing to do.

mod active;
pub mod api;
mod begin;
mod control;
mod copy;
mod core;
mod defer;
mod delivery;
mod device;
mod duty;
mod honour;
mod host_thread;
mod identity;
mod mailbox;
mod model_runner;
mod open;
mod parts;
mod places;
mod plan;
mod prefix;
mod prefix_file;
mod prompt;
mod receive;
mod reply;
mod request;
mod stats;
mod step;
mod table;
mod templates;
mod trace;

pub use api::*;
pub use delivery::{CallbackScope, in_callback};
use delivery::{Hold, Nul};
pub use plan::Plan;
pub use prefix::Prefix;
pub use request::Request;
pub use trace::{PageUse, StepTrace, Trace, TraceFn, TraceRow};

use crate::error::{Error, Result, Status, Unit, copied};
use crate::limits;
use crate::os::floats::LibraryFloats;
use crate::os::shortage;
use crate::os::thread::{self, JoinHandle, ThreadOptions};
use crate::sampling::SamplingParams;
use crate::source::{GenerationDefaults, ModelSource};
use crate::text::{EncodeLimits, StopFilter, TextStream, continued};
use active::NewRequest;
use delivery::{Dispatch, Outbox, closed, lock};
use host_thread::{only_tokens, with_text};
use mailbox::Mailbox;
use prompt::TextKit;
use reply::{Answer, Reply};
use stats::StatsCell;
use std::fmt::Display;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Where a request's events go.
pub enum Sink {
    /// The caller pulls them with [`Request::next`] or [`Request::wait`].
    Pull,
    /// Called on the dispatch thread, or with [`Delivery::Poll`] inside the host's own calls; `false` stops the
    /// request. Dropped exactly once: after the terminal event was delivered, or before a failing submit returns.
    Callback(Box<dyn FnMut(&Event) -> bool + Send>),
    /// The engine's event queue, read with [`Engine::next`]. The value inside is dropped exactly once: when the
    /// terminal event is taken, when the engine is dropped and discards that event, or before a failing submit returns.
    Engine(Box<dyn Send>),
}

/// Outcome of a wait.
#[derive(Debug)]
pub enum Next {
    /// Everything pending, merged into one event.
    Event(Box<Event>),
    /// The timeout passed.
    Timeout,
    /// The terminal event was already taken (for callbacks and [`Engine::next`]: and the sink was dropped). As a result
    /// of [`Engine::next`]: the engine is closed and its queue is empty.
    End,
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

/// Commands to the engine thread.
enum Command {
    Submit(Box<NewRequest>),
    /// A request whose prompt is still being prepared.
    Defer(Box<NewRequest>),
    /// The prompt of the deferred request with this id: token ids, and how many more tokens the context holds; or an
    /// error.
    PromptReady(u64, Result<(Vec<u32>, usize)>),
    Cancel(u64, FinishReason),
    CancelAll,
    /// The event queue of a paused request was read: the request with this id can continue.
    Resume(u64),
    /// Check the accounting of pages and slots, and answer.
    Check(Answer),
    /// Drop the cached pages that no request uses and no prefix pins.
    ClearCache,
    Prefix(prefix::Command),
    /// Close: accept nothing more, and cancel the requests that still run at this time.
    Close(Instant),
    /// Test hook: panic on the engine thread.
    Panic,
}

/// State shared by callers, the engine thread and the dispatch thread.
struct Shared {
    mailbox: Mutex<Mailbox>,
    /// Signalled when commands have been sent, or pause or duty limit have changed.
    mail: Condvar,
    /// Signalled when the engine thread has taken the commands or has ended, if senders wait for that.
    taken: Condvar,
    /// Signalled when the engine thread has paused or has ended, and when a pause ends.
    rested: Condvar,
    dispatch: Dispatch,
    /// Prepares the prompts of deferred requests.
    helper: defer::Helper,
    stats: StatsCell,
    log: Option<LogFn>,
    log_level: AtomicI32,
    /// The id of the next request.
    ids: AtomicU64,
    /// Accepted requests without a terminal event, and pins being computed.
    pending: AtomicUsize,
}

impl Shared {
    /// Whether lines of this level are logged. Without a log callback they go to the logger of the `log` crate, which a
    /// Rust host may have set.
    fn logs(&self, level: LogLevel) -> bool {
        match &self.log {
            Some(_) => level as i32 <= self.log_level.load(Ordering::Relaxed),
            None => facade_level(level).is_some_and(|l| log::log_enabled!(target: LOG_TARGET, l)),
        }
    }

    /// Queues a log line, which is made only if its level is logged.
    fn log(&self, level: LogLevel, line: impl FnOnce() -> String) {
        if self.logs(level) {
            self.dispatch.log(level, line());
        }
    }
}

/// An open model with its scheduler. Dropping it closes it.
pub struct Engine {
    shared: Arc<Shared>,
    text: Arc<TextKit>,
    info: Info,
    defaults: GenerationDefaults,
    /// Opened without weights: only the text functions work.
    text_only: bool,
    /// Identity of model and device that a saved prefix must match; `None` without weights.
    identity: Option<Arc<identity::Identity>>,
    running_max: usize,
    waiting_max: usize,
    threads: Mutex<Vec<JoinHandle>>,
    /// Priority and affinity of the engine's threads.
    placing: ThreadOptions,
}

impl Engine {
    /// Opens the model folder `dir`; blocks until the engine can take requests.
    ///
    /// # Errors
    /// `Argument` and `Unsupported` for options, `Io` and `Format` for files, `Memory`, `Device`, `Aborted` by the
    /// progress callback, `Reentrant` inside a callback.
    pub fn open(dir: &Path, options: EngineOptions) -> Result<Engine> {
        Engine::start(&dir.display(), options, |options, log| open::open(dir, options, log))
    }

    /// As [`Engine::open`], for a model that is not a folder. The source is dropped when the engine closes, or earlier;
    /// saving or restoring a prefix may read its tensors once more.
    ///
    /// # Errors
    /// As of [`Engine::open`].
    pub fn open_source(source: Box<dyn ModelSource>, options: EngineOptions) -> Result<Engine> {
        let subject = source.subject().to_owned();
        Engine::start(&subject, options, |options, log| open::open_source(source.into(), options, log))
    }

    /// Prepares the model, then starts the threads.
    fn start(
        subject: &dyn Display,
        mut options: EngineOptions,
        prepare: impl FnOnce(&mut EngineOptions, &mut dyn FnMut(LogLevel, String)) -> Result<open::Opened> + Send,
    ) -> Result<Engine> {
        refuse_in_callback("open")?;
        shortage::forget();
        let _floats = LibraryFloats::enter();
        // An error in these options is reported below, by the check of all options.
        let duty = duty::Duty::new(options.duty_work_us, options.duty_interval_us).unwrap_or_default();
        let control = control::Control::new(duty);
        let shared = Arc::new(Shared {
            mailbox: Mutex::new(Mailbox::new(control)?),
            mail: Condvar::new(),
            taken: Condvar::new(),
            rested: Condvar::new(),
            dispatch: Dispatch::new(options.delivery == Delivery::Poll, options.wake.clone()),
            helper: defer::Helper::default(),
            stats: StatsCell::default(),
            log: options.log.take(),
            log_level: AtomicI32::new(options.log_level as i32),
            ids: AtomicU64::new(1),
            pending: AtomicUsize::new(0),
        });
        let prepared = thread::with_stack(limits::OPEN_STACK_BYTES, || {
            // While opening, log lines are written on the opener's own thread.
            let mut log = |level, line: String| {
                if shared.logs(level) {
                    shared.call_log(level, &line);
                }
            };
            prepare(&mut options, &mut log)
        });
        let opened = prepared.flatten().inspect_err(|e| {
            if shared.logs(LogLevel::Error) {
                shared.call_log(LogLevel::Error, &format!("cannot open {subject}: {e}"));
            }
        })?;
        let placing = ThreadOptions { priority: options.thread_priority, affinity_mask: options.affinity_mask };
        let engine = Engine {
            shared: shared.clone(),
            text: Arc::new(opened.text.ending_with(shared.helper.ended())),
            info: opened.info,
            defaults: opened.defaults,
            text_only: opened.runner.is_none(),
            identity: opened.identity,
            running_max: opened.running_max,
            waiting_max: opened.waiting_max,
            threads: Mutex::default(),
            placing,
        };
        if let Some(runner) = opened.runner {
            // From here on a failure drops `engine`, which stops the threads that already run.
            let core = core::Core::new(shared.clone(), runner, options.planner.take(), options.trace.take())?;
            if options.delivery == Delivery::Thread {
                let dispatcher = thread::spawn("dispatch", placing, {
                    let shared = shared.clone();
                    move || shared.deliver()
                })?;
                lock(&engine.threads).push(dispatcher);
            }
            if shared.dispatch.waker.is_needed() {
                let shared = shared.clone();
                let waker = thread::spawn("wake", placing, move || shared.dispatch.waker.run())?;
                lock(&engine.threads).push(waker);
            }
            lock(&engine.threads).push(thread::spawn("engine", placing, move || core.run())?);
        }
        shortage::check("an engine")?;
        Ok(engine)
    }

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
        let cut = now.checked_add(grace).unwrap_or(now + Duration::from_secs(u32::MAX as u64));
        let mut mailbox = lock(&self.shared.mailbox);
        if std::mem::replace(&mut mailbox.closed, true) {
            return Err(closed());
        }
        drop(mailbox);
        self.shared.send_anyway(Command::Close(cut));
        self.shared.dispatch.close();
        if self.text_only {
            // Normally done by the engine thread when it ends.
            self.shared.dispatch.stop();
        }
        Ok(())
    }

    fn open_or_closed(&self) -> Result<()> {
        if lock(&self.shared.mailbox).closed { Err(closed()) } else { Ok(()) }
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
        let reply = Arc::new(Reply::default());
        self.shared.send(Command::Check(Answer(reply.clone())))?;
        reply.wait()
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

    /// Submits a prompt. Never waits for a step. With [`RequestOptions::defer`], errors of template and tokenizer and a
    /// prompt that is too long become a failed terminal event.
    ///
    /// # Errors
    /// `Argument` for options or an empty prompt, `Context` when the prompt exceeds the context length, `QueueFull`,
    /// `Template`, `Memory`, `Closed`; `Unsupported` on an engine opened for text only.
    pub fn submit(&self, prompt: &Prompt, options: &RequestOptions, sink: Sink) -> Result<Request> {
        if self.text_only {
            return Err(Error::unsupported("the engine was opened for text only; open it with weights to generate"));
        }
        self.open_or_closed()?;
        shortage::forget();
        let submitted = Instant::now();
        let context = self.info.context_length as usize;
        let deadline = NewRequest::deadline_of(options, submitted);
        let mut expired = false;
        let mut go_on = || {
            self.open_or_closed()?;
            expired = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if expired {
                Err(Error::new(Status::Aborted, "the deadline passed while the prompt was encoded"))
            } else {
                Ok(())
            }
        };
        let _floats = LibraryFloats::enter();
        let mut prepare =
            || self.text.prepare(prompt, TextOptions::default(), &mut EncodeLimits::new(context, &mut go_on));
        let prepared = match options.defer {
            true => Ok(Vec::new()),
            false if only_tokens(prompt) => prepare(),
            false => with_text(prepare),
        };
        let tokens = match prepared {
            Err(_) if expired => Vec::new(),
            tokens => tokens?,
        };
        self.shared.warn_of_two_begins(&self.text, &tokens);
        let request = self.new_request(prompt, options, tokens, submitted)?;
        let id = self.shared.ids.fetch_add(1, Ordering::Relaxed);
        let limit = options.queue_tokens_or_default();
        let delivery = Arc::new(Outbox::new(id, options.tag, limit, sink));
        let request = NewRequest { delivery: delivery.clone(), ..request };
        let request = Box::new(request);
        // Checked before sending, since a command that was sent cannot be taken back.
        shortage::check("a request")?;
        self.place(&delivery)?;
        let sent = match options.defer {
            true => self.defer(request, prompt),
            false if expired => self.submit_expired(request),
            false => self.shared.send(Command::Submit(request)),
        };
        sent.inspect_err(|_| self.displace(&delivery))?;
        Ok(Request { delivery, shared: self.shared.clone(), detached: false })
    }

    /// Validates the options and fills in the model's defaults. `delivery` is a placeholder that the caller replaces.
    fn new_request(
        &self,
        prompt: &Prompt,
        options: &RequestOptions,
        tokens: Vec<u32>,
        submitted: Instant,
    ) -> Result<NewRequest> {
        let d = &self.defaults;
        let params = SamplingParams {
            temperature: options.temperature.unwrap_or(d.temperature_or_greedy()),
            top_k: options.top_k.or(d.top_k).unwrap_or(0),
            top_p: options.top_p.or(d.top_p).unwrap_or(1.0),
            min_p: options.min_p.or(d.min_p).unwrap_or(0.0),
            repetition_penalty: options.repetition_penalty.or(d.repetition_penalty).unwrap_or(1.0),
            presence_penalty: options.presence_penalty.unwrap_or(0.0),
            frequency_penalty: options.frequency_penalty.unwrap_or(0.0),
            seed: options.seed.unwrap_or_else(random_seed),
            bias: copied("biases", &prompt.bias)?,
            logprobs: options.logprobs,
        };
        params.validate(self.info.vocab_size as usize)?;
        if options.queue_tokens as usize > limits::QUEUE_TOKENS_MAX {
            let (asked, most) = (options.queue_tokens, limits::QUEUE_TOKENS_MAX);
            let error = Error::argument(format!("option queue_tokens is {asked}, the limit is {most}"));
            return Err(error.about("queue_tokens").numbers(Unit::Tokens, asked.into(), most as u64));
        }
        check_stops(prompt, self.info.vocab_size)?;
        if !prompt.stops.is_empty() {
            self.text.tokenizer()?;
        }
        let room = self.info.context_length as usize - tokens.len();
        let wanted = options.max_tokens.or(d.max_new_tokens).map_or(limits::GENERATED_TOKENS_MAX, |n| n as usize);
        let stream = self.text.tokenizer.as_ref().map(|t| TextStream::new(t.clone(), options.special));
        let begun = options.mid_text || prompt::answer_start(prompt).is_some_and(continued::has_text);
        Ok(NewRequest {
            delivery: Arc::new(Outbox::new(0, 0, 1, Sink::Pull)),
            prompt: tokens,
            params,
            stream: stream.map(|stream| if begun { stream.continuing() } else { stream }),
            stops: StopFilter::new(prompt.stops.clone()),
            eos_tokens: if options.ignore_eos { Vec::new() } else { d.eos_tokens.clone() },
            stop_tokens: self.stop_tokens(prompt),
            max_tokens: wanted.min(room),
            prompt_logprobs: options.prompt_logprobs,
            priority: options.priority,
            deadline: NewRequest::deadline_of(options, submitted),
            submitted,
        })
    }

    /// The stop tokens of a prompt, including the special tokens that its stop strings name: these have no text that a
    /// stop string could match.
    fn stop_tokens(&self, prompt: &Prompt) -> Vec<u32> {
        let special = |name: &String| {
            let tokenizer = self.text.tokenizer.as_ref()?;
            tokenizer.id(name).filter(|&id| tokenizer.is_special(id))
        };
        prompt.stop_tokens.iter().copied().chain(prompt.stops.iter().filter_map(special)).collect()
    }

    /// Cancels every request.
    pub fn cancel_all(&self) -> Result<()> {
        self.shared.send(Command::CancelAll)
    }

    /// Changes the verbosity of the log callback.
    pub fn set_log_level(&self, level: LogLevel) -> Result<()> {
        self.open_or_closed()?;
        self.shared.log_level.store(level as i32, Ordering::Relaxed);
        Ok(())
    }

    /// Most sequences that run at once.
    pub fn running_max(&self) -> usize {
        self.running_max
    }

    /// Test hook: the engine thread panics.
    #[doc(hidden)]
    pub fn inject_panic(&self) {
        self.shared.send_anyway(Command::Panic);
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
        self.shared.dispatch.discard_completions();
    }
}

/// An error inside a callback, for calls that block.
fn refuse_in_callback(what: &str) -> Result<()> {
    if in_callback() {
        return Err(Error::new(Status::Reentrant, format!("{what} blocks and must not be called inside a callback")));
    }
    Ok(())
}

/// Checks stop strings and stop tokens against their limits and the vocabulary.
fn check_stops(prompt: &Prompt, vocab: u32) -> Result<()> {
    let too_many = |what: &str, n: usize, max: usize| {
        let error = Error::argument(format!("{n} {what}, the limit is {max}")).about(what);
        if n > max { Err(error.numbers(Unit::Count, n as u64, max as u64)) } else { Ok(()) }
    };
    too_many("stop strings", prompt.stops.len(), limits::STOPS_MAX)?;
    too_many("stop tokens", prompt.stop_tokens.len(), limits::STOP_TOKENS_MAX)?;
    if prompt.stops.iter().any(|s| s.is_empty()) {
        return Err(Error::argument("a stop string is empty").about("stop strings"));
    }
    if let Some(long) = prompt.stops.iter().find(|s| s.len() > limits::STOP_BYTES_MAX) {
        too_many("bytes of a stop string", long.len(), limits::STOP_BYTES_MAX)?;
    }
    match prompt.stop_tokens.iter().find(|&&t| t >= vocab) {
        Some(t) => {
            Err(Error::argument(format!("stop token {t} is not below the vocabulary size {vocab}"))
                .about("stop tokens"))
        }
        None => Ok(()),
    }
}

/// A random seed: the keys of the standard library's hasher come from the system's random source.
fn random_seed() -> u64 {
    RandomState::new().hash_one(Instant::now())
}

/// An error inside a callback, unless the timeout is zero.
fn refuse_blocking(timeout: Option<Duration>, what: &str) -> Result<()> {
    if timeout == Some(Duration::ZERO) { Ok(()) } else { refuse_in_callback(what) }
}
