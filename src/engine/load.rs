//! The fourth stage of opening: binds the weights to the opened device and makes the runner.

use super::api::{Log, LogLevel};
use super::describe::Described;
use super::identity::Identity;
use super::memory_plan::Sizing;
use super::model_runner::ModelRunner;
use crate::backend::{Backend, KvShape};
use crate::error::{Result, reserved};
use crate::limits;
use crate::model::Model;
use crate::model::architecture::LayerGroup;
use crate::model::loader::{self, Making};
use crate::model::sizes;
use crate::model::weights::Weights;
use crate::model::weights_cache::WeightsCache;
use crate::os::thread::ThreadOptions;
use crate::sampling::{AllowedTokens, SamplingOutput};
use crate::scheduler::{Batch, Capacity, GroupCapacity, Scheduler};
use crate::source::ModelSource;
use std::path::Path;
use std::sync::Arc;

/// The weights cache: a folder that keeps quantized weights from one open to the next.
pub(super) struct Cache<'a> {
    pub folder: &'a Path,
    pub no_mmap: bool,
    pub identity: &'a Identity,
}

/// A model whose device is open, and the source of its weights.
pub(super) struct Load<'a> {
    pub described: &'a Described,
    pub sizing: &'a Sizing,
    pub source: Arc<dyn ModelSource>,
    /// Keep the source while the engine is open.
    pub keep: bool,
    pub cache: Option<Cache<'a>>,
    /// Threads that quantize (0 = one per physical core), and where they run.
    pub threads: usize,
    pub thread_options: ThreadOptions,
}

/// Binds the weights and makes the runner, with all buffers reserved for the largest step.
pub(super) fn load(
    mut load: Load,
    mut backend: Box<dyn Backend>,
    progress: loader::Progress,
    log: Log,
) -> Result<ModelRunner> {
    let weights = bind(&mut load, &mut *backend, progress, log)?;
    let Load { described, sizing, source, keep, .. } = load;
    let source = keep.then_some(source);
    let architecture = described.architecture.clone();
    let capacities: Vec<GroupCapacity> = sizing.groups.capacities(sizing.frames).collect();
    let groups = architecture.groups();
    let of_group = |(group, capacity): (&LayerGroup, &GroupCapacity)| {
        group.shape(capacity.frames, sizing.page_tokens, sizing.choice.kv)
    };
    let shapes: Vec<KvShape> = groups.iter().zip(&capacities).map(of_group).collect();
    let model = Model::new(architecture, weights, &shapes, &sizing.step, &mut *backend)?;
    let scheduler = Scheduler::new(Capacity {
        running_max: sizing.running_max,
        waiting_max: sizing.waiting_max,
        step_tokens: sizing.step_tokens,
        page_tokens: sizing.page_tokens,
        groups: capacities,
        pages_max: sizing.frames,
    })?;
    let (rows, vocab, hidden) = (sizing.step.sequences, model.vocab(), described.architecture.hidden);
    Ok(ModelRunner {
        scheduler,
        model,
        backend,
        source,
        batch: Batch { rows: reserved("the rows of a step", rows)?, tokens: 0 },
        page_tokens: sizing.page_tokens,
        logits_positions: reserved("the wanted logits of a step", sizing.step_tokens)?,
        sampled: SamplingOutput::new(sizing.logits_rows)?,
        states: reserved("hidden states", hidden * sizing.step_tokens.min(limits::EMBEDDING_ROWS))?,
        allowed: Arc::new(AllowedTokens::all(vocab)),
    })
}

/// Binds the weights. Quantized matrices come from the weights cache if it has them; else they are made, and stored
/// there.
fn bind(load: &mut Load, backend: &mut dyn Backend, progress: loader::Progress, log: Log) -> Result<Weights> {
    let Described { family, architecture, recipe, .. } = load.described;
    let source = &*load.source;
    let mut bind = |making, progress: loader::Progress, log: Log| {
        let mut note = |line| log(LogLevel::Warn, line);
        loader::bind(architecture, family, source, making, backend, progress, &mut note)
    };
    let making = Making { threads: load.threads, thread_options: load.thread_options, ..(*recipe).into() };
    let Some(cache) = load.cache.take().filter(|_| recipe.quantizes()) else { return bind(making, progress, log) };
    let total = sizes::sizes(architecture, source, *recipe)?.read();
    let file = WeightsCache::new(cache.folder, architecture, source, *recipe)?;
    let contents = |go_on: &mut dyn FnMut() -> bool| cache.identity.contents(go_on);
    let kept =
        file.find(cache.no_mmap, &contents, &mut || progress(0, total), &mut |line| log(LogLevel::Warn, line))?;
    let mut made = Vec::new();
    let making = Making { kept: kept.as_ref(), made: kept.is_none().then_some(&mut made), ..making };
    let bound = bind(making, progress, log)?;
    let path = file.path().display();
    if kept.is_some() {
        log(LogLevel::Info, format!("quantized weights are those of {path}"));
    } else if file.store(made, &contents, &mut || progress(total, total), &mut |line| log(LogLevel::Warn, line))? {
        log(LogLevel::Info, format!("quantized weights are kept in {path}"));
    }
    Ok(bound)
}
