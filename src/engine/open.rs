//! Opening an engine goes one way, and finds errors before the expensive work:
//! [`Described`] → [`DeviceChoice`] → [`Sizing`] → [`load()`] → [`Opened`].

use super::abilities::Abilities;
use super::api::*;
use super::delivery::CallbackScope;
use super::describe::Described;
use super::device::{self, DeviceChoice, Failure};
use super::honour::{self, Touching};
use super::identity::Identity;
use super::load::{Cache, Load, load};
use super::memory_plan::Sizing;
use super::model_runner::ModelRunner;
use super::parts::no_tokenizer;
use super::prompt::{PendingTokenizer, TextKit};
use crate::backend::device::OpenDevice;
use crate::constrain::TokenTrie;
use crate::error::{Error, Result, Status};
use crate::model::{loader, sizes};
use crate::os::thread::{self, ThreadOptions};
use crate::os::{memory, shortage};
use crate::sampling::AllowedTokens;
use crate::source::{self, GenerationDefaults, Loadable, ModelSource};
use std::path::Path;
use std::sync::Arc;

/// Everything an engine needs before its threads start.
pub(super) struct Opened {
    pub text: TextKit,
    /// The tree of the vocabulary, where it is wanted and can be had.
    pub trie: Option<TokenTrie>,
    pub info: Info,
    pub defaults: GenerationDefaults,
    /// `None` for an engine opened for text only.
    pub abilities: Option<Abilities>,
    /// `None` likewise.
    pub runner: Option<ModelRunner>,
    /// Identity of model and device that a saved prefix must match; `None` for text only.
    pub identity: Option<Arc<Identity>>,
    pub running_max: usize,
    pub waiting_max: usize,
}

/// Where a model comes from. The weights of files are read, or mapped, once a device is open for them.
pub(super) struct Source {
    unread: Option<Box<dyn Loadable>>,
    whole: Option<Arc<dyn ModelSource>>,
    /// Bytes of progress that reading has reported.
    read: u64,
}

impl Source {
    /// A model folder or file, of whose weights only the headers are read.
    pub fn path(path: &Path, options: &EngineOptions) -> Result<Source> {
        Ok(Source { unread: Some(source::headers(path, options.text_only)?), whole: None, read: 0 })
    }

    /// A source that is already open.
    pub fn whole(source: Arc<dyn ModelSource>) -> Source {
        Source { unread: None, whole: Some(source), read: 0 }
    }

    fn model(&self) -> Result<&dyn ModelSource> {
        let unread = self.unread.as_deref().map(|source| source as &dyn ModelSource);
        unread.or(self.whole.as_deref()).ok_or_else(|| Error::internal("the source of the weights is gone"))
    }

    /// The source with its weights. With `last`, nothing of it is kept here: it can be dropped when they are bound.
    fn load(&mut self, last: bool, no_mmap: bool, progress: loader::Progress) -> Result<Arc<dyn ModelSource>> {
        if let Some(mut source) = self.unread.take() {
            // Weights are processed twice: read or mapped, then bound. Each pass is half of the reported progress.
            source.load(no_mmap, &mut |done, total| {
                self.read = total;
                progress(done, total.saturating_mul(2))
            })?;
            self.whole = Some(Arc::from(source as Box<dyn ModelSource>));
        }
        let whole = if last { self.whole.take() } else { self.whole.clone() };
        whole.ok_or_else(|| Error::internal("the source of the weights is gone"))
    }
}

/// Prepares everything but the threads. `source` is called after the options were checked.
pub(super) fn open(
    source: impl FnOnce(&EngineOptions) -> Result<Source>,
    options: &mut EngineOptions,
    log: Log,
) -> Result<Opened> {
    honour::check(options)?;
    honour::check_placing(options.placing(), log)?;
    let mut progress = report(options);
    let mut source = source(options)?;
    let model = source.model()?;
    model.warnings().iter().for_each(|line| log(LogLevel::Warn, line.clone()));
    shortage::check("the descriptions of a model")?;
    if options.text_only {
        return text_only(model, options, log);
    }
    let described = Described::of(model, options)?;
    device::on_first(options.device, log, |device, last, log| {
        let (sizing, device) = on_device(device, &described, &source, options, log).map_err(Failure::OfDevice)?;
        honour::warn(options, &sizing, log);
        let texts = Texts::start(source.model()?, &sizing, described.architecture.vocab, options, log)?;
        let whole = source.load(last, options.no_mmap, &mut progress)?;
        let mut progress = |done: u64, total: u64| {
            let (read, half) = (source.read, if source.read == 0 { total } else { source.read });
            let share = (done as f64 / total.max(1) as f64).min(1.0);
            progress(read + (half as f64 * share) as u64, read.saturating_add(half))
        };
        let ready = Ready { described: &described, sizing, device, texts, source: whole };
        ready.finish(options, &mut progress, log).map_err(|error| match error.status {
            Status::Memory | Status::Device => Failure::OfDevice(error),
            _ => Failure::Other(error),
        })
    })
}

/// Everything that is known before any weight is read: sizes that fit, and the opened device.
fn on_device(
    device: Device,
    described: &Described,
    source: &Source,
    options: &EngineOptions,
    log: Log,
) -> Result<(Sizing, OpenDevice)> {
    let choice = DeviceChoice::of(device, described, source.model()?, options)?;
    let sizing = Sizing::of(options, &described.architecture, choice)?;
    sizing.require()?;
    let DeviceChoice { device, weights, .. } = &sizing.choice;
    let device = device.open(weights.used(), &mut |line| log(LogLevel::Info, line))?;
    Ok((sizing, device))
}

/// Wraps the caller's progress callback: it runs on the caller's thread, marked as inside a callback. Without a
/// callback, returns true.
fn report(options: &mut EngineOptions) -> impl FnMut(u64, u64) -> bool + use<> {
    let mut progress = options.progress.take();
    move |done, total| {
        let Some(progress) = &mut progress else { return true };
        thread::on_caller(|| {
            let _scope = CallbackScope::new();
            progress(done, total)
        })
    }
}

/// What a model's text needs, beside its weights.
struct Texts {
    defaults: GenerationDefaults,
    kit: TextKit,
    /// Read on a thread of its own, while the weights are loaded and bound.
    tokenizer: PendingTokenizer,
}

impl Texts {
    fn start(
        source: &dyn ModelSource,
        sizing: &Sizing,
        vocab: usize,
        options: &EngineOptions,
        log: Log,
    ) -> Result<Texts> {
        let mut warn = |line| log(LogLevel::Warn, line);
        let defaults = GenerationDefaults::from_source(source, &mut warn)?;
        if let Some(id) = defaults.eos_tokens.iter().find(|&&id| id as usize >= vocab) {
            warn(format!("eos_token_id {id} is not below the vocabulary size {vocab}: it never comes"));
        }
        let mut kit = TextKit::open(source, vocab, &mut warn)?;
        kit.longest = sizing.longest;
        shortage::check("the configuration and chat templates of a model")?;
        let tokenizer = PendingTokenizer::start(source, options.placing(), options.constraints.then_some(vocab))?;
        Ok(Texts { defaults, kit, tokenizer })
    }
}

/// A model whose device is open and whose weights can be read.
struct Ready<'a> {
    described: &'a Described,
    sizing: Sizing,
    device: OpenDevice,
    texts: Texts,
    source: Arc<dyn ModelSource>,
}

impl Ready<'_> {
    /// Facts about the engine; those that the tokenizer has are completed later.
    fn info(&self, options: &EngineOptions) -> Result<Info> {
        let Ready { described, sizing, device, texts, source } = self;
        let Described { family, model_type, architecture, recipe, .. } = described;
        Ok(Info {
            model_type: model_type.clone(),
            device_name: device.backend.name(),
            device: sizing.choice.device.device(),
            cpu_tier: device.cpu_tier,
            threads: device.threads,
            weights: sizes::encoding(architecture, family, &**source, *recipe)?,
            kv: Some(sizing.choice.kv),
            compute: if options.compute == Type::F32 { Type::F32 } else { Type::Bf16 },
            vocab_size: architecture.vocab as u32,
            context_length: sizing.context as u32,
            step_tokens: sizing.step_tokens as u32,
            page_tokens: sizing.page_tokens as u32,
            layers: architecture.layers.len() as u32,
            bos_token: None,
            eos_token: None,
            has_chat_template: texts.kit.has_template(),
            answer_format: texts.kit.format_name().map(str::to_owned),
        })
    }

    /// Binds the weights and completes the engine.
    fn finish(self, options: &EngineOptions, progress: loader::Progress, log: Log) -> Result<Opened> {
        let mut info = self.info(options)?;
        let Ready { described, sizing, device, texts, source } = self;
        let Texts { mut defaults, kit, tokenizer } = texts;
        let abilities = described.abilities.clone();
        if let Err(error) = abilities.embedder() {
            log(LogLevel::Warn, format!("the model has no embeddings: {error}"));
        }
        let groups = described.architecture.groups();
        let shapes = groups.iter().map(|g| g.shape(0, sizing.page_tokens, sizing.choice.kv)).collect();
        let (architecture, arch) = (&described.architecture, device.arch);
        let identity = Identity::of(&source, &info, architecture, arch, options.weights, shapes, sizing.longest)?;
        let keep = !(options.no_mmap && described.recipe.quantizes());
        if !keep {
            // Hashes the weights now: the source is dropped once they are bound, so that they are not in memory twice.
            identity.description()?;
        }
        let cache = options.weights_cache.as_deref();
        let cache = cache.map(|folder| Cache { folder, no_mmap: options.no_mmap, identity: &identity });
        shortage::check("the plan of a model")?;
        let (threads, thread_options) = (options.threads as usize, options.placing());
        let model = Load { described, sizing: &sizing, source, keep, cache, threads, thread_options };
        let mut runner = load(model, device.backend, progress, log)?;
        if options.touch_kv {
            let mut go_on = || progress(1, 1);
            let total = runner.backend.reserved().kv;
            let mut touching = Touching { total, written: 0, available: &memory::available, go_on: &mut go_on };
            runner.backend.touch_kv(&mut |bytes| touching.may(bytes))?;
        }
        let read = tokenizer.join()?;
        let missing = options.constraints.then(|| Err(no_tokenizer()));
        let (tokenizer, made) = read.map_or((None, missing), |read| (Some(read.tokenizer), read.trie));
        let trie = tree(made, log)?;
        let text = kit.with_tokenizer(tokenizer, defaults.bos_token);
        defaults.add_eos(text.named("eos_token"));
        info.eos_token = defaults.eos_tokens.first().copied();
        info.bos_token = defaults.bos_token.or(text.named("bos_token"));
        runner.allowed = Arc::new(allowed_tokens(&text, info.vocab_size as usize)?);
        runner.backend.set_vocabulary_mask(&runner.allowed)?;
        log(LogLevel::Info, describe(&info, &sizing));
        shortage::check("a model")?;
        Ok(Opened {
            text,
            trie,
            info,
            defaults,
            abilities: Some(abilities),
            runner: Some(runner),
            identity: Some(Arc::new(identity)),
            running_max: sizing.running_max,
            waiting_max: sizing.waiting_max,
        })
    }
}

fn text_only(source: &dyn ModelSource, options: &EngineOptions, log: Log) -> Result<Opened> {
    honour::warn_text_only(options, log);
    let warn = &mut |line| log(LogLevel::Warn, line);
    let tokenizer = PendingTokenizer::start(source, ThreadOptions::default(), None)?;
    let text = TextKit::open(source, 0, warn)?.with_tokenizer(tokenizer.join()?.map(|read| read.tokenizer), None);
    let tokenizer = text.tokenizer()?;
    let info = Info {
        device_name: "none (text only)".into(),
        vocab_size: tokenizer.vocab_size() as u32,
        bos_token: text.named("bos_token"),
        eos_token: text.named("eos_token"),
        has_chat_template: text.has_template(),
        answer_format: text.format_name().map(str::to_owned),
        ..Info::default()
    };
    let defaults = GenerationDefaults::default();
    shortage::check("a tokenizer and chat templates")?;
    Ok(Opened {
        text,
        trie: None,
        info,
        defaults,
        abilities: None,
        runner: None,
        identity: None,
        running_max: 0,
        waiting_max: 0,
    })
}

/// The tree of the vocabulary, if it was made. Where the model can have none, the log says so, and each constraint will.
///
/// # Errors
/// `Memory`.
fn tree(made: Option<Result<TokenTrie>>, log: Log) -> Result<Option<TokenTrie>> {
    match made.transpose() {
        Err(e) if e.status != Status::Memory => {
            log(LogLevel::Warn, format!("option constraints is not used: {e}"));
            Ok(None)
        }
        made => made,
    }
}

/// The vocabulary mask: the token ids that the tokenizer names; all ids when there is no tokenizer.
fn allowed_tokens(text: &TextKit, vocab: usize) -> Result<AllowedTokens> {
    match &text.tokenizer {
        None => Ok(AllowedTokens::all(vocab)),
        Some(tokenizer) => AllowedTokens::from_ids(vocab, (0..vocab as u32).filter(|&id| tokenizer.is_named(id))),
    }
}

fn describe(info: &Info, s: &Sizing) -> String {
    format!(
        "opened a {} model of {} layers on {}: context {} tokens, {} slots, {} KV pages of {} tokens in {}",
        info.model_type, info.layers, info.device_name, s.context, s.running_max, s.frames, s.page_tokens, s.choice.kv
    )
}
