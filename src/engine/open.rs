//! Opening an engine: source, architecture, memory, weights, in an order that finds mistakes before it spends time.

use super::api::*;
use super::core::Machine;
use super::prompt::TextKit;
use crate::backend::cpu::CpuBackend;
use crate::backend::{Backend, KvShape};
use crate::dtype::DType;
use crate::error::{Error, Result, Status, Unit};
use crate::limits;
use crate::model::architecture::{Architecture, LayerGroup};
use crate::model::families::{self, Family};
use crate::model::{Model, Step, Tables, config::Config, weights};
use crate::os::memory;
use crate::os::thread::ThreadOptions;
use crate::sampling::{AllowedTokens, Sampler};
use crate::scheduler::{BatchPlan, Capacity, Policy, Scheduler};
use crate::source::{Folder, FolderOptions, GenerationDefaults, ModelSource};
use std::path::Path;

/// Fraction of free memory the KV pages may take when no budget is given.
const FREE_MEMORY_SHARE: u64 = 4;
/// KV memory when the system does not say how much is free, in bytes.
const KV_BYTES_FALLBACK: u64 = 1 << 30;

/// An engine about to start.
pub(super) struct Opened {
    pub text: TextKit,
    pub info: Info,
    pub defaults: GenerationDefaults,
    /// None for an engine opened for text only.
    pub machine: Option<Machine>,
    pub running_max: usize,
    pub waiting_max: usize,
}

/// What the options mean for a model.
struct Sizing {
    running_max: usize,
    waiting_max: usize,
    context: usize,
    page_tokens: usize,
    step_tokens: usize,
    frames: usize,
    kv: DType,
    policy: Policy,
}

/// What loading reports to: bytes done and in all; `false` aborts.
type Report<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

/// The caller's progress function, as one that knows it is a callback.
fn report(options: &mut EngineOptions) -> impl FnMut(u64, u64) -> bool + use<> {
    let mut progress = options.progress.take();
    move |done, total| {
        let _scope = super::delivery::CallbackScope::new();
        progress.as_mut().is_none_or(|p| p(done, total))
    }
}

/// Reads the folder and prepares everything but the threads.
pub(super) fn open(dir: &Path, options: &mut EngineOptions, log: &mut dyn FnMut(LogLevel, String)) -> Result<Opened> {
    check_options(options)?;
    let mut progress = report(options);
    let folder_options = FolderOptions { no_mmap: options.no_mmap, text_only: options.text_only };
    // Weights are seen twice: read or mapped, then bound. One bar shows both, so each is half of it.
    let mut half = 0;
    let mut reading = |done: u64, total: u64| {
        half = total;
        progress(done, total.saturating_mul(2))
    };
    let folder = Folder::open(dir, folder_options, &mut reading)?;
    if options.text_only {
        return text_only(&folder);
    }
    prepare(&folder, options, half, &mut progress, log)
}

/// As [`open`], for a source that is open already.
pub(super) fn open_source(
    source: &dyn ModelSource,
    options: &mut EngineOptions,
    log: &mut dyn FnMut(LogLevel, String),
) -> Result<Opened> {
    check_options(options)?;
    let mut progress = report(options);
    if options.text_only { text_only(source) } else { prepare(source, options, 0, &mut progress, log) }
}

/// Everything after the reading. `read` bytes have been reported; binding reports as many again.
fn prepare(
    source: &dyn ModelSource,
    options: &EngineOptions,
    read: u64,
    progress: Report,
    log: &mut dyn FnMut(LogLevel, String),
) -> Result<Opened> {
    let (family, model_type) = families::find(source.config()?, source.subject())?;
    let config = Config::new(source.config()?, source.subject());
    let architecture = (family.architecture)(&config, &model_type)?;
    let defaults = GenerationDefaults::from_source(source)?;
    if let Some(id) = defaults.eos_tokens.iter().find(|&&id| id as usize >= architecture.vocab) {
        let vocab = architecture.vocab;
        log(LogLevel::Warn, format!("eos_token_id {id} is not below the vocabulary size {vocab}: it never comes"));
    }
    let text = TextKit::open(source, architecture.vocab)?;
    let sizing = Sizing::of(options, &architecture)?;
    let thread_options = ThreadOptions { priority: options.thread_priority, affinity_mask: options.affinity_mask };
    let backend = CpuBackend::new(options.cpu_tier, options.threads as usize, thread_options)?;
    let info = Info {
        model_type,
        device_name: backend.name(),
        device: Device::Cpu,
        cpu_tier: backend.tier(),
        compute: if options.compute == Type::F32 { Type::F32 } else { Type::Bf16 },
        vocab_size: architecture.vocab as u32,
        context_length: sizing.context as u32,
        layers: architecture.layers.len() as u32,
        bos_token: defaults.bos_token,
        eos_token: defaults.eos_tokens.first().copied(),
        has_chat_template: text.has_template(),
    };
    let allowed = allowed_tokens(&text, architecture.vocab)?;
    let parts = Parts { family, architecture, source, allowed };
    let mut binding = |done: u64, total: u64| {
        let half = if read == 0 { total } else { read };
        let share = (done as f64 / total.max(1) as f64).min(1.0);
        progress(read + (half as f64 * share) as u64, read.saturating_add(half))
    };
    let machine = build(parts, &sizing, Box::new(backend), &mut binding, log)?;
    log(LogLevel::Info, describe(&info, &sizing));
    Ok(Opened {
        text,
        info,
        defaults,
        machine: Some(machine),
        running_max: sizing.running_max,
        waiting_max: sizing.waiting_max,
    })
}

fn text_only(source: &dyn ModelSource) -> Result<Opened> {
    let text = TextKit::open(source, 0)?;
    let tokenizer = text.tokenizer()?;
    let special = source.special_tokens()?;
    let id = |name| special.get(name).and_then(|t| tokenizer.id(t));
    let info = Info {
        device_name: "none (text only)".into(),
        vocab_size: tokenizer.vocab_size() as u32,
        bos_token: id("bos_token"),
        eos_token: id("eos_token"),
        has_chat_template: text.has_template(),
        ..Info::default()
    };
    Ok(Opened { text, info, defaults: GenerationDefaults::default(), machine: None, running_max: 0, waiting_max: 0 })
}

/// Refuses values outside their range, and what this build does not have.
fn check_options(o: &EngineOptions) -> Result<()> {
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
    let unsupported = |name: &str, what: &str| {
        Err(Error::unsupported(format!("option {name}: {what} is not in this build")).about(name))
    };
    if o.device == Device::Cuda {
        return unsupported("device", "the CUDA backend");
    }
    if o.device_index != 0 {
        return Err(Error::argument(format!("option device_index is {}; the CPU is device 0", o.device_index))
            .about("device_index"));
    }
    if o.wake.is_some() && o.delivery != Delivery::Poll {
        return Err(Error::argument(
            "option wake is set on an engine with a dispatch thread, which nothing has to wake",
        )
        .about("wake"));
    }
    if matches!(o.compute, Type::Q8 | Type::Q4) {
        return Err(Error::argument("option compute is a quantized type; it takes f32 or bf16").about("compute"));
    }
    if o.weights != Type::Auto {
        return unsupported("weights", "another format than the stored one");
    }
    if matches!(o.kv, Type::Q8 | Type::Q4) {
        return unsupported("kv", "a quantized cache");
    }
    Ok(())
}

/// Ids the sampler may choose: those the tokenizer names; all when there is none.
fn allowed_tokens(text: &TextKit, vocab: usize) -> Result<AllowedTokens> {
    match &text.tokenizer {
        None => Ok(AllowedTokens::all(vocab)),
        Some(tokenizer) => AllowedTokens::from_ids(vocab, (0..vocab as u32).filter(|&id| tokenizer.is_named(id))),
    }
}

impl Sizing {
    fn of(o: &EngineOptions, a: &Architecture) -> Result<Sizing> {
        let or = |value: u32, default: usize| if value == 0 { default } else { value as usize };
        let wanted = o.context_length as usize;
        if wanted > a.context {
            return Err(Error::argument(format!(
                "option context_length is {wanted}, but the model was made for {} tokens",
                a.context
            ))
            .about("context_length")
            .numbers(Unit::Tokens, wanted as u64, a.context as u64));
        }
        let running_max = or(o.max_running, limits::RUNNING_DEFAULT);
        let page_tokens = or(o.page_tokens, limits::PAGE_TOKENS_DEFAULT);
        let kv = match (o.kv, o.compute) {
            (Type::F32, _) | (Type::Auto, Type::F32) => DType::F32,
            _ => DType::Bf16,
        };
        let context = if wanted == 0 { a.context } else { wanted };
        let frames = frames(o, &a.groups(), running_max, page_tokens, context, kv)?;
        let held = frames * page_tokens;
        if wanted > held {
            let message = format!(
                "a context of {wanted} tokens was asked for, but the KV memory holds {held}; raise memory_budget"
            );
            return Err(Error::new(Status::Memory, message).about("memory_budget").numbers(
                Unit::Tokens,
                wanted as u64,
                held as u64,
            ));
        }
        Ok(Sizing {
            running_max,
            waiting_max: or(o.max_waiting, limits::WAITING_DEFAULT),
            context: context.min(held),
            page_tokens,
            step_tokens: or(o.step_tokens, limits::STEP_TOKENS_DEFAULT).max(running_max),
            frames,
            kv,
            policy: o.policy,
        })
    }
}

/// Page frames of each layer group: enough for every slot's context, within the budget.
fn frames(
    o: &EngineOptions,
    groups: &[LayerGroup],
    running: usize,
    page_tokens: usize,
    context: usize,
    kv: DType,
) -> Result<usize> {
    let overflow = || Error::format("config.json describes KV pages larger than this machine can address");
    let mut bytes = 0u64;
    for group in groups {
        let frame = group.shape(1, page_tokens, kv).frame_bytes().ok_or_else(overflow)?;
        bytes = bytes.checked_add(frame as u64).ok_or_else(overflow)?;
    }
    let budget = match o.memory_budget {
        0 => memory::available_bytes().map_or(KV_BYTES_FALLBACK, |free| free / FREE_MEMORY_SHARE),
        given => given,
    };
    let wanted = (running as u64).saturating_mul(context.div_ceil(page_tokens) as u64);
    let affordable = budget / bytes.max(1);
    if affordable == 0 {
        let message = format!("one KV page takes {bytes} bytes, the memory budget is {budget}");
        return Err(Error::new(Status::Memory, message).about("memory_budget").numbers(Unit::Bytes, bytes, budget));
    }
    usize::try_from(wanted.min(affordable).min(limits::PAGES_MAX as u64)).map_err(|_| overflow())
}

struct Parts<'a> {
    family: &'a Family,
    architecture: Architecture,
    source: &'a dyn ModelSource,
    allowed: AllowedTokens,
}

fn build(
    parts: Parts,
    sizing: &Sizing,
    mut backend: Box<dyn Backend>,
    progress: weights::Progress,
    log: &mut dyn FnMut(LogLevel, String),
) -> Result<Machine> {
    let Parts { family, architecture, source, allowed } = parts;
    let mut note = |line| log(LogLevel::Debug, line);
    let bound = weights::bind(&architecture, family, source, &mut *backend, progress, &mut note)?;
    let shapes: Vec<KvShape> =
        architecture.groups().iter().map(|g| g.shape(sizing.frames, sizing.page_tokens, sizing.kv)).collect();
    let vocab = architecture.vocab;
    let logits_rows = sizing.running_max.clamp(8, limits::LOGITS_ROWS_MAX);
    let model = Model::new(architecture, bound, &shapes, sizing.step_tokens, logits_rows, &mut *backend)?;
    let scheduler = Scheduler::new(Capacity {
        running_max: sizing.running_max,
        waiting_max: sizing.waiting_max,
        step_tokens: sizing.step_tokens,
        page_tokens: sizing.page_tokens,
        frames: vec![sizing.frames; shapes.len()],
        policy: sizing.policy,
    })?;
    let mut logits = Vec::new();
    let count = logits_rows * vocab;
    logits.try_reserve_exact(count).map_err(|_| Error::memory("logits", count as u64 * 4))?;
    logits.resize(count, 0.0);
    let sampler = Sampler::new(vocab)?;
    let step = Step { tables: vec![Tables::default(); shapes.len()], ..Step::default() };
    let page_tokens = sizing.page_tokens;
    Ok(Machine {
        scheduler,
        model,
        backend,
        sampler,
        allowed,
        plan: BatchPlan::default(),
        step,
        page_tokens,
        logits,
        top_tokens: Vec::new(),
        top_logprobs: Vec::new(),
        wanted: Vec::new(),
        logits_rows: Vec::new(),
    })
}

fn describe(info: &Info, s: &Sizing) -> String {
    format!(
        "opened a {} model of {} layers on {}: context {} tokens, {} slots, {} KV pages of {} tokens in {}",
        info.model_type, info.layers, info.device_name, s.context, s.running_max, s.frames, s.page_tokens, s.kv
    )
}
