//! Opening an engine: options, source, architecture, memory, weights, in an order that finds errors before the
//! expensive work.

use super::api::*;
use super::device::{self, DeviceChoice};
use super::duty::Duty;
use super::honour::{self, Touching};
use super::identity::Identity;
use super::model_runner::ModelRunner;
use super::plan::{LoadPlan, Sizing};
use super::prompt::{PendingTokenizer, TextKit};
use crate::backend::cpu::CpuBackend;
use crate::backend::{Backend, KvShape, cuda};
use crate::error::{Error, Result, Status, Unit, reserved};
use crate::limits;
use crate::model::architecture::Architecture;
use crate::model::families::Family;
use crate::model::loader::{self, Making};
use crate::model::weights_cache::WeightsCache;
use crate::model::{Model, Recipe, Step, Tables, weights};
use crate::os::thread::{self, ThreadOptions};
use crate::os::{memory, shortage};
use crate::sampling::{AllowedTokens, SamplingOutput, SamplingRequests};
use crate::scheduler::{BatchPlan, Capacity, Scheduler};
use crate::source::{Folder, GenerationDefaults, ModelSource};
use std::path::Path;
use std::sync::Arc;

/// Everything an engine needs before its threads start.
pub(super) struct Opened {
    pub text: TextKit,
    pub info: Info,
    pub defaults: GenerationDefaults,
    /// `None` for an engine opened for text only.
    pub runner: Option<ModelRunner>,
    /// Identity of model and device that a saved prefix must match; `None` for text only.
    pub identity: Option<Arc<Identity>>,
    pub running_max: usize,
    pub waiting_max: usize,
}

/// Receives log lines.
type Log<'a> = &'a mut dyn FnMut(LogLevel, String);

/// A model before its weights are read: memory plan, opened device, configuration and text processing.
struct PreparedModel {
    load_plan: LoadPlan,
    backend: Box<dyn Backend>,
    facts: Opening,
    defaults: GenerationDefaults,
    text: TextKit,
    tokenizer: PendingTokenizer,
}

/// Facts about the opened device.
struct Opening {
    device: Device,
    cpu_tier: CpuTier,
    threads: u32,
    /// Part of the identity: CPU tier or GPU architecture, which the computed bits depend on.
    arch: String,
}

/// Opens the model folder `dir` and prepares everything but the threads.
pub(super) fn open(dir: &Path, options: &mut EngineOptions, log: Log) -> Result<Opened> {
    check_options(options)?;
    honour::check_placing(placing(options), log)?;
    let mut progress = report(options);
    // Weights are processed twice: read or mapped, then bound. Each pass is half of the reported progress.
    let mut half = 0;
    let mut reading = |done: u64, total: u64| {
        half = total;
        progress(done, total.saturating_mul(2))
    };
    let mut folder = Folder::headers(dir, options.text_only)?;
    warn(&folder, log);
    shortage::check("the descriptions of a model")?;
    if options.text_only {
        return text_only(&folder, options, log);
    }
    let prepared = prepare(&folder, options, log)?;
    folder.load(options.no_mmap, &mut reading)?;
    finish_somewhere(prepared, Arc::new(folder), options, half, &mut progress, log)
}

/// As [`open`], for a source that is already open.
pub(super) fn open_source(source: Arc<dyn ModelSource>, options: &mut EngineOptions, log: Log) -> Result<Opened> {
    check_options(options)?;
    honour::check_placing(placing(options), log)?;
    let mut progress = report(options);
    warn(&*source, log);
    if options.text_only {
        return text_only(&*source, options, log);
    }
    let prepared = prepare(&*source, options, log)?;
    finish_somewhere(prepared, source, options, 0, &mut progress, log)
}

/// Logs problems of the source's files that do not prevent opening the model.
fn warn(source: &dyn ModelSource, log: Log) {
    source.warnings().iter().for_each(|line| log(LogLevel::Warn, line.clone()));
}

/// As [`finish`], but with [`Device::Auto`] it falls back to the CPU when a GPU was chosen and then fails or lacks
/// memory.
fn finish_somewhere(
    prepared: PreparedModel,
    source: Arc<dyn ModelSource>,
    options: &mut EngineOptions,
    read: u64,
    progress: loader::Progress,
    log: Log,
) -> Result<Opened> {
    let chosen = options.device == Device::Auto && matches!(prepared.load_plan.sizing.device, DeviceChoice::Cuda(..));
    match finish(prepared, source.clone(), options, read, progress, log) {
        Err(error) if chosen && matches!(error.status, Status::Memory | Status::Device) => {
            device::refused(&error, log);
            (options.device, options.device_index) = (Device::Cpu, 0);
            let prepared = prepare(&*source, options, log)?;
            finish(prepared, source, options, read, progress, log)
        }
        done => done,
    }
}

/// Wraps the caller's progress callback: it runs on the caller's thread, marked as inside a callback. Without a
/// callback, returns true.
fn report(options: &mut EngineOptions) -> impl FnMut(u64, u64) -> bool + use<> {
    let mut progress = options.progress.take();
    move |done, total| {
        let Some(progress) = &mut progress else { return true };
        thread::on_caller(|| {
            let _scope = super::delivery::CallbackScope::new();
            progress(done, total)
        })
    }
}

/// Priority and affinity of the engine's threads, including those used while it opens.
fn placing(options: &EngineOptions) -> ThreadOptions {
    ThreadOptions { priority: options.thread_priority, affinity_mask: options.affinity_mask }
}

/// Does everything that needs no weights. The tokenizer is read on its own thread, while the weights are loaded and
/// bound.
fn prepare(source: &dyn ModelSource, options: &mut EngineOptions, log: Log) -> Result<PreparedModel> {
    let mut load_plan = LoadPlan::of(source, options, log)?;
    load_plan.sizing.require()?;
    let (backend, facts) = match open_device(&load_plan.sizing, options, log) {
        Err(error) if options.device == Device::Auto && matches!(load_plan.sizing.device, DeviceChoice::Cuda(..)) => {
            device::refused(&error, log);
            options.device = Device::Cpu;
            options.device_index = 0;
            load_plan = LoadPlan::of(source, options, log)?;
            load_plan.sizing.require()?;
            open_device(&load_plan.sizing, options, log)?
        }
        opened => opened?,
    };
    honour::warn(options, &load_plan.sizing, log);
    let architecture = &load_plan.architecture;
    let mut warn = |line| log(LogLevel::Warn, line);
    let defaults = GenerationDefaults::from_source(source, &mut warn)?;
    if let Some(id) = defaults.eos_tokens.iter().find(|&&id| id as usize >= architecture.vocab) {
        let vocab = architecture.vocab;
        log(LogLevel::Warn, format!("eos_token_id {id} is not below the vocabulary size {vocab}: it never comes"));
    }
    let mut text = TextKit::open(source, architecture.vocab, &mut |line| log(LogLevel::Warn, line))?;
    text.longest = load_plan.sizing.longest;
    shortage::check("the configuration and chat templates of a model")?;
    let tokenizer = PendingTokenizer::start(source, placing(options))?;
    Ok(PreparedModel { load_plan, backend, facts, defaults, text, tokenizer })
}

/// Opens the chosen device.
fn open_device(sizing: &Sizing, options: &EngineOptions, log: Log) -> Result<(Box<dyn Backend>, Opening)> {
    let (device, threads) = (Device::Cuda, 1);
    match &sizing.device {
        DeviceChoice::Cpu => {
            let (compute, threads) = (device::compute(options), options.threads as usize);
            let backend = CpuBackend::new(options.cpu_tier, compute, threads, placing(options))?;
            let (cpu_tier, threads) = (backend.tier(), backend.threads() as u32);
            let arch = format!("{cpu_tier:?}").to_lowercase();
            Ok((Box::new(backend), Opening { device: Device::Cpu, cpu_tier, threads, arch }))
        }
        DeviceChoice::Cuda(cuda_options, facts, _) => {
            let (major, minor) = facts.capability;
            let arch = format!("sm_{major}{minor}{}", if cuda_options.invariant { "" } else { " relaxed" });
            let mut note = |line| log(LogLevel::Info, line);
            let backend = cuda::open(*cuda_options, sizing.weight_bytes(), &mut note)?;
            Ok((backend, Opening { device, cpu_tier: CpuTier::Auto, threads, arch }))
        }
    }
}

/// Binds the weights and completes the engine. `read`: bytes of progress reported so far; binding reports as many
/// again.
fn finish(
    prepared: PreparedModel,
    source: Arc<dyn ModelSource>,
    options: &EngineOptions,
    read: u64,
    progress: loader::Progress,
    log: Log,
) -> Result<Opened> {
    let PreparedModel { load_plan, backend, facts, mut defaults, text, tokenizer } = prepared;
    let LoadPlan { family, model_type, architecture, recipe, sizing } = load_plan;
    let mut info = Info {
        model_type,
        device_name: backend.name(),
        device: facts.device,
        cpu_tier: facts.cpu_tier,
        threads: facts.threads,
        weights: weights::encoding(&architecture, family, &*source, recipe)?,
        kv: Some(sizing.kv),
        compute: if options.compute == Type::F32 { Type::F32 } else { Type::Bf16 },
        vocab_size: architecture.vocab as u32,
        context_length: sizing.context as u32,
        step_tokens: sizing.step_tokens as u32,
        page_tokens: sizing.page_tokens as u32,
        layers: architecture.layers.len() as u32,
        // Completed below from the tokenizer, which is still being read.
        bos_token: defaults.bos_token,
        eos_token: defaults.eos_tokens.first().copied(),
        has_chat_template: text.has_template(),
    };
    let shapes = architecture.groups().iter().map(|g| g.shape(0, sizing.page_tokens, sizing.kv)).collect();
    let identity = Identity::of(&source, &info, &architecture, facts.arch, options.weights, shapes, sizing.longest)?;
    if options.no_mmap && recipe.quantizes() {
        // Hashes the weights now: the source is dropped once they are bound, so that they are not in memory twice.
        identity.description()?;
    }
    let parts = Parts { family, architecture, recipe, source, keep: !(options.no_mmap && recipe.quantizes()) };
    let cache =
        options.weights_cache.as_deref().map(|folder| Cache { folder, no_mmap: options.no_mmap, identity: &identity });
    let mut binding = |done: u64, total: u64| {
        let half = if read == 0 { total } else { read };
        let share = (done as f64 / total.max(1) as f64).min(1.0);
        progress(read + (half as f64 * share) as u64, read.saturating_add(half))
    };
    shortage::check("the plan of a model")?;
    let mut runner = build(parts, cache, &sizing, backend, &mut binding, log)?;
    if options.touch_kv {
        let mut go_on = || binding(1, 1);
        let total = runner.backend.reserved().kv;
        let mut touching = Touching { total, written: 0, available: &memory::available, go_on: &mut go_on };
        runner.backend.touch_kv(&mut |bytes| touching.may(bytes))?;
    }
    let text = text.with_tokenizer(tokenizer.join()?, defaults.bos_token);
    defaults.add_eos(text.named("eos_token"));
    info.eos_token = defaults.eos_tokens.first().copied();
    info.bos_token = defaults.bos_token.or(text.named("bos_token"));
    runner.backend.set_vocabulary_mask(&allowed_tokens(&text, info.vocab_size as usize)?)?;
    log(LogLevel::Info, describe(&info, &sizing));
    shortage::check("a model")?;
    Ok(Opened {
        text,
        info,
        defaults,
        runner: Some(runner),
        identity: Some(Arc::new(identity)),
        running_max: sizing.running_max,
        waiting_max: sizing.waiting_max,
    })
}

fn text_only(source: &dyn ModelSource, options: &EngineOptions, log: Log) -> Result<Opened> {
    honour::warn_text_only(options, log);
    let warn = &mut |line| log(LogLevel::Warn, line);
    let tokenizer = PendingTokenizer::start(source, ThreadOptions::default())?;
    let text = TextKit::open(source, 0, warn)?.with_tokenizer(tokenizer.join()?, None);
    let tokenizer = text.tokenizer()?;
    let info = Info {
        device_name: "none (text only)".into(),
        vocab_size: tokenizer.vocab_size() as u32,
        bos_token: text.named("bos_token"),
        eos_token: text.named("eos_token"),
        has_chat_template: text.has_template(),
        ..Info::default()
    };
    let defaults = GenerationDefaults::default();
    shortage::check("a tokenizer and chat templates")?;
    Ok(Opened { text, info, defaults, runner: None, identity: None, running_max: 0, waiting_max: 0 })
}

/// Checks all options against their ranges and against the features of this build.
///
/// # Errors
/// `Argument`, `Unsupported`.
pub(super) fn check_options(o: &EngineOptions) -> Result<()> {
    let limit = |name: &str, value: u32, max: usize| {
        if value as usize <= max {
            return Ok(());
        }
        Err(Error::argument(format!("option {name} is {value}, the limit is {max}")).about(name).numbers(
            Unit::Count,
            value as u64,
            max as u64,
        ))
    };
    limit("threads", o.threads, limits::THREADS_MAX)?;
    limit("max_running", o.max_running, limits::RUNNING_MAX)?;
    limit("max_waiting", o.max_waiting, limits::WAITING_MAX)?;
    limit("context_length", o.context_length, limits::CONTEXT_MAX)?;
    limit("page_tokens", o.page_tokens, limits::PAGE_TOKENS_MAX)?;
    limit("step_tokens", o.step_tokens, limits::STEP_TOKENS_MAX)?;
    Duty::new(o.duty_work_us, o.duty_interval_us)?;
    let unsupported = |name: &str, what: &str| {
        Err(Error::unsupported(format!("option {name}: {what} is not in this build")).about(name))
    };
    device::check(o)?;
    if o.wake.is_some() && o.delivery != Delivery::Poll {
        return Err(Error::argument(
            "option wake is set on an engine with a dispatch thread, which nothing has to wake",
        )
        .about("wake"));
    }
    if matches!(o.compute, Type::Q8 | Type::Q4) {
        return Err(Error::argument("option compute is a quantized type; it takes f32 or bf16").about("compute"));
    }
    if matches!(o.weights, Type::F32 | Type::Bf16) {
        return unsupported("weights", "another float type than the stored one");
    }
    if o.weights_cache.as_ref().is_some_and(|folder| folder.as_os_str().is_empty()) {
        return Err(
            Error::argument("option weights_cache is empty; name a folder or leave it out").about("weights_cache")
        );
    }
    if o.kv == Type::Q4 {
        return unsupported("kv", "a 4-bit cache");
    }
    Ok(())
}

/// The vocabulary mask: the token ids that the tokenizer names; all ids when there is no tokenizer.
fn allowed_tokens(text: &TextKit, vocab: usize) -> Result<AllowedTokens> {
    match &text.tokenizer {
        None => Ok(AllowedTokens::all(vocab)),
        Some(tokenizer) => AllowedTokens::from_ids(vocab, (0..vocab as u32).filter(|&id| tokenizer.is_named(id))),
    }
}

/// The model that [`build`] makes a runner of.
struct Parts<'a> {
    family: &'a Family,
    architecture: Architecture,
    recipe: Recipe,
    source: Arc<dyn ModelSource>,
    /// Keep the source while the engine is open.
    keep: bool,
}

/// The weights cache: a folder that keeps quantized weights from one open to the next.
struct Cache<'a> {
    folder: &'a Path,
    no_mmap: bool,
    identity: &'a Identity,
}

/// Binds the weights. Quantized matrices come from the weights cache if it has them; else they are made, and stored
/// there.
fn weights_of(
    parts: &Parts,
    cache: Option<Cache>,
    backend: &mut dyn Backend,
    progress: loader::Progress,
    log: Log,
) -> Result<weights::Weights> {
    let Parts { family, architecture, recipe, source, .. } = parts;
    let mut bind = |making, progress: loader::Progress, log: Log| {
        let mut note = |line| log(LogLevel::Warn, line);
        loader::bind(architecture, family, &**source, making, backend, progress, &mut note)
    };
    let Some(cache) = cache.filter(|_| recipe.quantizes()) else { return bind((*recipe).into(), progress, log) };
    let total = weights::sizes(architecture, &**source, *recipe)?.read();
    let file = WeightsCache::new(cache.folder, architecture, &**source, *recipe)?;
    let contents = |go_on: &mut dyn FnMut() -> bool| cache.identity.contents(go_on);
    let kept =
        file.find(cache.no_mmap, &contents, &mut || progress(0, total), &mut |line| log(LogLevel::Warn, line))?;
    let mut made = Vec::new();
    let making = Making { recipe: *recipe, kept: kept.as_ref(), made: kept.is_none().then_some(&mut made) };
    let bound = bind(making, progress, log)?;
    let path = file.path().display();
    if kept.is_some() {
        log(LogLevel::Info, format!("quantized weights are those of {path}"));
    } else if file.store(made, &contents, &mut || progress(total, total), &mut |line| log(LogLevel::Warn, line))? {
        log(LogLevel::Info, format!("quantized weights are kept in {path}"));
    }
    Ok(bound)
}

/// Binds the weights and makes the runner, with all buffers reserved for the largest step.
fn build(
    parts: Parts,
    cache: Option<Cache>,
    sizing: &Sizing,
    mut backend: Box<dyn Backend>,
    progress: loader::Progress,
    log: Log,
) -> Result<ModelRunner> {
    let bound = weights_of(&parts, cache, &mut *backend, progress, log)?;
    let Parts { architecture, source, keep, .. } = parts;
    let source = keep.then_some(source);
    let shapes: Vec<KvShape> =
        architecture.groups().iter().map(|g| g.shape(sizing.frames, sizing.page_tokens, sizing.kv)).collect();
    let vocab = architecture.vocab;
    let logits_rows = sizing.logits_rows;
    let model = Model::new(architecture, bound, &shapes, &sizing.step, &mut *backend)?;
    let scheduler = Scheduler::new(Capacity {
        running_max: sizing.running_max,
        waiting_max: sizing.waiting_max,
        step_tokens: sizing.step_tokens,
        page_tokens: sizing.page_tokens,
        frames: vec![sizing.frames; shapes.len()],
    })?;
    let page_tokens = sizing.page_tokens;
    let rows = sizing.step.sequences;
    Ok(ModelRunner {
        scheduler,
        model,
        backend,
        source,
        plan: BatchPlan { rows: reserved("the rows of a step", rows)?, tokens: 0 },
        step: step(sizing, rows, shapes.len())?,
        page_tokens,
        logits_positions: reserved("the wanted logits of a step", sizing.step_tokens)?,
        sampling: SamplingRequests::new(logits_rows, vocab)?,
        sampled: SamplingOutput::new(logits_rows)?,
        spare_frame: sizing.frames as u32,
    })
}

/// An empty step with room for the largest one. Only its page lists may have to grow: sequences that share pages can
/// list more pages than exist.
fn step(sizing: &Sizing, rows: usize, groups: usize) -> Result<Step> {
    let tokens = || reserved("the tokens of a step", sizing.step_tokens);
    let pages = rows.saturating_mul(sizing.context.div_ceil(sizing.page_tokens)).min(sizing.frames) + rows;
    let tables = || {
        let what = "the page tables of a step";
        Ok(Tables { pages: reserved(what, pages)?, starts: reserved(what, rows)? })
    };
    Ok(Step {
        logits_indices: tokens()?,
        tokens: tokens()?,
        positions: tokens()?,
        sequences: tokens()?,
        tables: (0..groups).map(|_| tables()).collect::<Result<_>>()?,
    })
}

fn describe(info: &Info, s: &Sizing) -> String {
    format!(
        "opened a {} model of {} layers on {}: context {} tokens, {} slots, {} KV pages of {} tokens in {}",
        info.model_type, info.layers, info.device_name, s.context, s.running_max, s.frames, s.page_tokens, s.kv
    )
}
