//! Opening an engine: [`super::open`] prepares the model, here the threads start.

use super::core::Core;
use super::draft_model::DraftModel;
use super::drafting::Drafting;
use super::duty::Duty;
use super::guide::Guides;
use super::honour;
use super::mailbox::Mailbox;
use super::memory_plan::{self, MemoryPlan};
use super::open::{self, Opened};
use super::stats::StatsCell;
use super::text_queue::TextQueue;
use super::{Delivery, Dispatch, Engine, EngineOptions, Log, LogLevel, Shared, lock, refuse_in_callback};
use crate::constrain;
use crate::error::{Error, Result};
use crate::limits;
use crate::os::floats::LibraryFloats;
use crate::os::shortage;
use crate::os::thread;
use crate::source::ModelSource;
use std::fmt::Display;
use std::path::Path;
use std::sync::atomic::{AtomicI32, AtomicU64};
use std::sync::{Arc, Mutex};

impl Engine {
    /// The memory that opening `dir` with these options takes, without loading weights or starting threads. The
    /// callbacks in `options` are not called. Blocks while it reads small files.
    ///
    /// # Errors
    /// As [`Engine::open`], but too little memory is reported by [`MemoryPlan::fits`]. For an engine opened for text only,
    /// all numbers are 0.
    pub fn plan(dir: &Path, options: &EngineOptions) -> Result<MemoryPlan> {
        refuse_in_callback("plan")?;
        let _floats = LibraryFloats::enter();
        honour::check(options)?;
        let options = options.numbers();
        thread::with_stack(limits::OPEN_STACK_BYTES, move || memory_plan::of_files(dir, &options))?
    }

    /// Opens the model in `dir`, a folder or a GGUF file; blocks until the engine can take requests.
    ///
    /// # Errors
    /// `Argument` and `Unsupported` for options, `Io` and `Format` for files, `Memory`, `Device`, `Aborted` by the
    /// progress callback, `Reentrant` inside a callback.
    pub fn open(dir: &Path, options: EngineOptions) -> Result<Engine> {
        Engine::start(&dir.display(), options, |options| open::Source::path(dir, options))
    }

    /// As [`Engine::open`], for a model that is not in files. The source is dropped when the engine closes, or earlier;
    /// saving or restoring a prefix may read its tensors once more.
    ///
    /// # Errors
    /// As of [`Engine::open`].
    pub fn open_source(source: Box<dyn ModelSource>, options: EngineOptions) -> Result<Engine> {
        let subject = source.subject().to_owned();
        Engine::start(&subject, options, |_| Ok(open::Source::whole(source.into())))
    }

    /// Prepares the model, then starts the threads.
    fn start(
        subject: &dyn Display,
        mut options: EngineOptions,
        source: impl FnOnce(&EngineOptions) -> Result<open::Source> + Send,
    ) -> Result<Engine> {
        refuse_in_callback("open")?;
        shortage::forget();
        let _floats = LibraryFloats::enter();
        // An error in these options is reported below, by the check of all options.
        let duty = Duty::new(options.duty_work_us, options.duty_interval_us).unwrap_or_default();
        let mut shared = Shared {
            mailbox: Mailbox::new(duty)?,
            dispatch: Arc::new(Dispatch::new(options.delivery == Delivery::Poll, options.wake.clone())),
            texts: TextQueue::default(),
            guides: Guides::default(),
            stats: StatsCell::default(),
            log: options.log.take(),
            log_level: AtomicI32::new(options.log_level as i32),
            ids: AtomicU64::new(1),
            pending: Arc::default(),
        };
        let prepared = thread::with_stack(limits::OPEN_STACK_BYTES, || {
            // While opening, log lines are written on the opener's own thread.
            let mut log = |level, line: String| {
                if shared.logs(level) {
                    shared.call_log(level, &line);
                }
            };
            let draft_model = open_draft_model(&mut options, &mut log)?;
            let opened = Box::new(open::open(source, &mut options, &mut log)?);
            let draft_model = match draft_model {
                Some(draft_model) => draft_by(draft_model, &opened)?,
                None => None,
            };
            // In boxes: the caller's stack may be small.
            Ok((opened, draft_model))
        });
        let (opened, draft_model) = prepared.flatten().inspect_err(|e| {
            if shared.logs(LogLevel::Error) {
                shared.call_log(LogLevel::Error, &format!("cannot open {subject}: {e}"));
            }
        })?;
        shared.guides = Guides::new(opened.trie);
        let shared = Arc::new(shared);
        let placing = options.placing();
        let engine = Engine {
            shared: shared.clone(),
            text: Arc::new(opened.text.ending_with(shared.texts.ended())),
            info: opened.info,
            defaults: opened.defaults,
            text_only: opened.runner.is_none(),
            abilities: opened.abilities,
            identity: opened.identity,
            running_max: opened.running_max,
            waiting_max: opened.waiting_max,
            threads: Mutex::default(),
            placing,
        };
        if let Some(runner) = opened.runner {
            // From here on a failure drops `engine`, which stops the threads that already run.
            let (schedule_fn, trace) = (options.schedule_fn.take(), options.trace.take());
            let drafting = Drafting::new(&mut options, draft_model, &runner)?;
            let core = Core::new(shared.clone(), runner, schedule_fn, trace, drafting)?;
            let start = |name, body: Box<dyn FnOnce() + Send>| {
                let thread = thread::spawn(name, placing, body)?;
                lock(&engine.threads).push(thread);
                Ok::<_, Error>(())
            };
            if options.delivery == Delivery::Thread {
                let shared = shared.clone();
                start("dispatch", Box::new(move || shared.deliver()))?;
            }
            if shared.dispatch.waker.is_needed() {
                start("wake", Box::new(move || shared.dispatch.waker.run()))?;
            }
            start("engine", Box::new(move || core.run()))?;
        }
        shortage::check("an engine")?;
        Ok(engine)
    }
}

/// Opens the draft model, if there is to be one, and leaves what memory it does not take to the engine's own.
///
/// # Errors
/// As of opening an engine.
fn open_draft_model(options: &mut EngineOptions, log: Log) -> Result<Option<Opened>> {
    let Some(path) = options.draft_model.clone().filter(|_| !options.text_only) else { return Ok(None) };
    let attempt = |own: EngineOptions, log: Log| {
        let mut own = own;
        open::open(|own| open::Source::path(&path, own), &mut own, log)
    };
    let opened = match attempt(options.of_draft_model(), log) {
        // It may be for shorter texts than the engine's.
        Err(error) if error.subject == "context_length" => {
            attempt(EngineOptions { context_length: 0, ..options.of_draft_model() }, log)
        }
        opened => opened,
    };
    let opened = opened.map_err(|error| Error { message: format!("the draft model: {}", error.message), ..error })?;
    let taken = opened.runner.as_ref().map_or(0, |runner| runner.backend.reserved().total());
    options.beside_draft_model(taken);
    Ok(Some(opened))
}

/// The draft model of an engine, which has to speak of the same tokens.
fn draft_by(draft_model: Opened, opened: &Opened) -> Result<Option<Box<DraftModel>>> {
    let vocab = opened.info.vocab_size.min(draft_model.info.vocab_size) as usize;
    let same = match (&opened.text.tokenizer, &draft_model.text.tokenizer) {
        (Some(own), Some(other)) => constrain::fingerprint(own, vocab)? == constrain::fingerprint(other, vocab)?,
        (None, None) => opened.info.vocab_size == draft_model.info.vocab_size,
        _ => false,
    };
    if !same {
        let message = "the draft model has another vocabulary: drafts are tokens, which have to be the same in both";
        return Err(Error::argument(message).about("draft_model"));
    }
    let made = draft_model.runner.map(|runner| DraftModel::new(runner, opened.running_max, opened.info.vocab_size));
    Ok(made.transpose()?.map(Box::new))
}
