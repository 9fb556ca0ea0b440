//! What memory a configuration takes, before any weight is touched.
//!
//! [`Engine::plan`] and `open` share [`LoadPlan::of`], so that they cannot differ: it reads the config and the headers of
//! the weights' files, and sizes everything by them and the options. Counted are the weights, the KV pages and the
//! workspace, which is all that a step needs; not the tokenizer and the bookkeeping: some bytes for each page and each token
//! of a step, and for each request a page table of the length it may reach, of which the system gives what is written.

use super::api::*;
use super::device::{self, DeviceChoice};
use super::logits::HostLogits;
use super::{Engine, open, refuse_in_callback};
use crate::backend::{cpu, cuda};
use crate::dtype::DType;
use crate::error::{Error, Result, Status, Unit};
use crate::limits;
use crate::model::architecture::Architecture;
use crate::model::checkpoint;
use crate::model::config::Config;
use crate::model::families::{self, Family};
use crate::model::weights::WeightBytes;
use crate::model::{Model, Recipe, StepLimits};
use crate::os::floats::LibraryFloats;
use crate::os::memory::Bound;
use crate::os::thread;
use crate::sampling::Sampler;
use crate::source::{Folder, ModelSource};
use std::path::Path;

/// Fraction of free memory the KV pages may take when no budget is given.
const FREE_MEMORY_SHARE: u64 = 4;
/// KV memory when the system does not say how much is free, in bytes.
const KV_BYTES_FALLBACK: u64 = 1 << 30;

/// What an engine would take. Without a `memory_budget` some of it depends on the memory that is free just now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// `total_bytes` is at most `available_bytes`. If not, the numbers are those of the least that the options allow, within
    /// the budget. Beyond the budget open refuses. Beyond what can be had it refuses without a budget, and with one it warns,
    /// since who names a budget may know better; when only mapped weights are too much, which are then read from the disk
    /// again and again, it always goes ahead.
    pub fits: bool,
    /// Longest sequence, in tokens.
    pub context_length: u32,
    /// Sequences of `context_length` tokens whose pages are there at the same time, at most the slots. More may run as
    /// long as they are shorter.
    pub max_sequences: u32,
    /// Bytes of the weights the model uses: tensors as stored, mapped from the files or with `no_mmap` copied to memory, and
    /// quantized ones, which are memory of the engine's own.
    pub weight_bytes: u64,
    /// Bytes of all KV pages.
    pub kv_bytes: u64,
    /// Bytes of activations, logits and scratch.
    pub workspace_bytes: u64,
    /// The three together.
    pub total_bytes: u64,
    /// The smaller of the memory budget and the memory that can be had, [`crate::os::memory::available`]; 0 when nothing says.
    pub available_bytes: u64,
    /// Tokens that all KV pages hold.
    pub kv_tokens: u64,
    /// Bytes of KV pages for each token.
    pub kv_bytes_per_token: u64,
}

impl Engine {
    /// What memory opening `dir` with these options takes, without loading weights or starting threads. The callbacks in
    /// `options` are not called. Blocks while it reads small files.
    ///
    /// # Errors
    /// As [`Engine::open`]; too little memory is no error here but [`Plan::fits`]. An engine for text only takes nothing.
    pub fn plan(dir: &Path, options: &EngineOptions) -> Result<Plan> {
        refuse_in_callback("plan")?;
        let _floats = LibraryFloats::enter();
        open::check_options(options)?;
        let options = options.numbers();
        thread::with_stack(limits::OPEN_STACK_BYTES, move || {
            let folder = Folder::headers(dir, options.text_only)?;
            if options.text_only {
                return Ok(Plan { fits: true, ..Plan::default() });
            }
            Ok(LoadPlan::of(&folder, &options, &mut |_, _| {})?.sizing.plan())
        })?
    }
}

/// A model as the options would open it.
pub(super) struct LoadPlan {
    pub family: &'static Family,
    pub model_type: String,
    pub architecture: Architecture,
    pub recipe: Recipe,
    pub sizing: Sizing,
}

impl LoadPlan {
    pub fn of(
        source: &dyn ModelSource,
        options: &EngineOptions,
        log: &mut dyn FnMut(LogLevel, String),
    ) -> Result<LoadPlan> {
        let (family, model_type) = families::find(source.config()?, source.subject())?;
        let config = Config::new(source.config()?, source.subject()).for_context(options.context_length as usize);
        let architecture = (family.architecture)(&config, &model_type)?;
        // Before anything is sized by the model. Its warnings are told when the weights are bound.
        checkpoint::check(&architecture, family, source)?;
        let recipe = recipe(options.weights);
        let sizing = device::choose(options, &architecture, source, recipe, log)?;
        Ok(LoadPlan { family, model_type, architecture, recipe, sizing })
    }
}

/// What the option `weights` means.
fn recipe(weights: Type) -> Recipe {
    match weights {
        Type::Q8 => Recipe::Q8,
        Type::Q4 => Recipe::Q4,
        Type::Auto | Type::F32 | Type::Bf16 => Recipe::STORED,
    }
}

/// The longest context that an engine of a model could be opened with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LongestContext {
    /// That the model was made for, in tokens.
    pub model: usize,
    /// That the KV pages can hold in the memory there is for them, in tokens.
    pub memory: usize,
}

impl LongestContext {
    /// What helps when a context of `context` tokens is too short: what open would refuse is not advised.
    pub fn advice(self, context: usize) -> String {
        let longest = self.model.min(self.memory);
        if context < longest {
            format!("or open the engine with a longer context_length, up to {longest}")
        } else if context < self.model {
            "or open the engine with more memory (memory_budget): what it has holds no longer context".to_owned()
        } else {
            "it is the longest that this model was made for".to_owned()
        }
    }
}

/// What the options mean for a model.
#[derive(Clone, Debug)]
pub(super) struct Sizing {
    pub running_max: usize,
    pub waiting_max: usize,
    pub context: usize,
    pub longest: LongestContext,
    pub page_tokens: usize,
    pub step_tokens: usize,
    /// Rows of logits computed at once.
    pub logits_rows: usize,
    /// What the model's steps are bounded by; its context is that before KV memory bounds it.
    pub step: StepLimits,
    /// Page frames of each layer group.
    pub frames: usize,
    pub kv: DType,
    pub policy: Policy,
    /// Where all this lies.
    pub device: DeviceChoice,
    weights: WeightBytes,
    /// Of one page in all layer groups.
    page_bytes: u64,
    workspace_bytes: u64,
    budget: Option<u64>,
    free: Option<u64>,
    /// Whose word `free` is.
    bound: Option<Bound>,
    no_mmap: bool,
    touch_kv: bool,
}

impl Sizing {
    /// The element type of pages that the options ask for.
    pub fn kv(o: &EngineOptions) -> DType {
        match (o.kv, o.compute) {
            (Type::F32, _) | (Type::Auto, Type::F32) => DType::F32,
            (Type::Q8, _) => DType::I8,
            _ => DType::Bf16,
        }
    }

    /// `free` is what is free of the memory of `place`.
    pub fn of(
        o: &EngineOptions,
        a: &Architecture,
        weights: WeightBytes,
        free: Option<u64>,
        kv: DType,
        device: DeviceChoice,
    ) -> Result<Sizing> {
        let or = |value: u32, default: usize| if value == 0 { default } else { value as usize };
        let asked = o.context_length as usize;
        if asked > a.context_max {
            return Err(Error::argument(format!(
                "option context_length is {asked}, but the model was made for {} tokens",
                a.context_max
            ))
            .about("context_length")
            .numbers(Unit::Tokens, asked as u64, a.context_max as u64));
        }
        let running_max = or(o.max_running, limits::RUNNING_DEFAULT);
        // A GPU fills steps up to recorded sizes, and samples all rows at once.
        let (rows, logits_max) = match &device {
            DeviceChoice::Cpu => (running_max, limits::LOGITS_ROWS_MAX),
            DeviceChoice::Cuda(..) => (cuda::padded(running_max), limits::LOGITS_ROWS_GPU_MAX),
        };
        let default = match &device {
            DeviceChoice::Cpu => limits::STEP_TOKENS_DEFAULT,
            DeviceChoice::Cuda(..) => limits::STEP_TOKENS_GPU_DEFAULT,
        };
        let step_tokens = or(o.step_tokens, default).max(rows);
        let logits_rows = rows.clamp(8, logits_max);
        let page_tokens = or(o.page_tokens, limits::PAGE_TOKENS_DEFAULT);
        let context = if asked == 0 { a.context } else { asked };
        let step = StepLimits {
            tokens: step_tokens,
            sequences: rows.min(step_tokens),
            logits_rows,
            context,
            page_tokens,
            own_scratch: matches!(device, DeviceChoice::Cuda(..)),
        };
        let tensors = Model::workspace_bytes(a, &step);
        let page_bytes = page_bytes(a, page_tokens, kv)?;
        let workspace = match &device {
            // The host has a copy of the logits.
            DeviceChoice::Cpu => [
                HostLogits::bytes(logits_rows, a.vocab),
                Sampler::bytes(a.vocab),
                cpu::scratch_bytes(o.cpu_tier, cpu::threads_of(o.threads as usize), &Model::max_batch_shape(a, &step)),
            ]
            .into_iter()
            .fold(tensors, u64::saturating_add),
            DeviceChoice::Cuda(options, ..) => {
                // A page more than are used: for rows that nobody wants.
                let scratch = cuda::scratch_bytes(options, &Model::max_batch_shape(a, &step));
                scratch.saturating_add(tensors).saturating_add(page_bytes)
            }
        };
        let mut sizing = Sizing {
            running_max,
            waiting_max: or(o.max_waiting, limits::WAITING_DEFAULT),
            context,
            longest: LongestContext::default(),
            page_tokens,
            step_tokens,
            logits_rows,
            step,
            frames: 0,
            kv,
            policy: o.policy,
            weights,
            page_bytes,
            workspace_bytes: workspace,
            budget: (o.memory_budget > 0).then_some(o.memory_budget),
            free,
            bound: None,
            touch_kv: o.touch_kv,
            no_mmap: o.no_mmap && matches!(device, DeviceChoice::Cpu),
            device,
        };
        sizing.frames = sizing.choose_frames(asked)?;
        sizing.context = sizing.context.min(sizing.frames * page_tokens);
        let memory = usize::try_from(sizing.affordable_frames()).unwrap_or(usize::MAX).saturating_mul(page_tokens);
        sizing.longest = LongestContext { model: a.context_max, memory: memory.max(sizing.context) };
        Ok(sizing)
    }

    /// Page frames that the memory there is for them holds.
    fn affordable_frames(&self) -> u64 {
        let kv_bytes = match self.budget {
            Some(budget) => budget.saturating_sub(self.weights.used()).saturating_sub(self.workspace_bytes),
            None => self.free.map_or(KV_BYTES_FALLBACK, |free| {
                let own_weights = self.weights.used() - if self.no_mmap { 0 } else { self.weights.kept };
                let left = free.saturating_sub(own_weights).saturating_sub(self.workspace_bytes);
                left.min(free / FREE_MEMORY_SHARE)
            }),
        };
        kv_bytes / self.page_bytes.max(1)
    }

    /// Page frames: enough for every slot's context as far as memory allows, but at least for one sequence of the context
    /// that was asked for, or one page.
    fn choose_frames(&self, asked: usize) -> Result<usize> {
        let wanted = (self.running_max as u64).saturating_mul(self.context.div_ceil(self.page_tokens) as u64);
        let frames = wanted.min(self.affordable_frames()).min(limits::PAGES_MAX as u64);
        let frames = frames.max(asked.div_ceil(self.page_tokens).max(1) as u64);
        frames.checked_mul(self.page_bytes).and_then(|_| usize::try_from(frames).ok()).ok_or_else(too_large)
    }

    /// With the word of who bounds memory.
    pub fn bounded_by(self, bound: Option<Bound>) -> Sizing {
        Sizing { bound, ..self }
    }

    /// Bytes of the weights in use.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.used()
    }

    fn kv_bytes(&self) -> u64 {
        self.frames as u64 * self.page_bytes
    }

    fn total_bytes(&self) -> u64 {
        self.kv_bytes().saturating_add(self.weights.used()).saturating_add(self.workspace_bytes)
    }

    /// The answer to [`Engine::plan`].
    pub fn plan(&self) -> Plan {
        let available = self.budget.into_iter().chain(self.free).min();
        let pages_each = self.context.div_ceil(self.page_tokens).max(1);
        Plan {
            fits: available.is_none_or(|available| self.total_bytes().max(self.own_bytes()) <= available),
            context_length: self.context as u32,
            max_sequences: (self.frames / pages_each).min(self.running_max) as u32,
            weight_bytes: self.weights.used(),
            kv_bytes: self.kv_bytes(),
            workspace_bytes: self.workspace_bytes,
            total_bytes: self.total_bytes(),
            available_bytes: available.unwrap_or(0),
            kv_tokens: self.frames as u64 * self.page_tokens as u64,
            kv_bytes_per_token: self.page_bytes / self.page_tokens as u64,
        }
    }

    /// Memory of our own, at its most: mapped weights are the system's. With `no_mmap` all that quantized weights are made from
    /// is there until the last is made; KV pages and workspace come after.
    fn own_bytes(&self) -> u64 {
        let total = self.total_bytes();
        if self.no_mmap {
            return total.max(self.weights.source.saturating_add(self.weights.quantized));
        }
        total.saturating_sub(self.weights.kept)
    }

    /// What it is made of, for messages.
    fn parts(&self) -> String {
        let Plan { weight_bytes, kv_bytes, workspace_bytes, kv_tokens, total_bytes, .. } = self.plan();
        let mut parts =
            format!("weights {weight_bytes}, workspace {workspace_bytes}, KV pages of {kv_tokens} tokens {kv_bytes}");
        if self.own_bytes() > total_bytes {
            parts += &format!("; before that, weights as stored and quantized {}", self.own_bytes());
        }
        parts
    }

    /// How much can be had, and by whose leave, for messages.
    fn free_words(&self, free: u64) -> String {
        match (&self.device, self.bound) {
            (DeviceChoice::Cuda(..), _) => {
                format!("{free} bytes of the GPU's memory are free, with some left to its driver")
            }
            (DeviceChoice::Cpu, None) => format!("{free} bytes of memory are free"),
            (DeviceChoice::Cpu, Some(bound)) => format!("{bound} leaves {free} bytes of memory"),
        }
    }

    /// Refuses what does not fit: into the budget everything; without one, or when the KV pages are to be touched, into what
    /// can be had all that has to be memory of our own.
    pub fn require(&self) -> Result<()> {
        let (total, own) = (self.total_bytes(), self.own_bytes());
        let advice = "lower context_length, max_running or step_tokens";
        if let Some(budget) = self.budget.filter(|&budget| total.max(own) > budget) {
            let (needed, parts) = (total.max(own), self.parts());
            let what = format!("memory_budget is {budget} bytes, but these options take at least {needed}");
            let error = Error::new(Status::Memory, format!("{what} ({parts}); raise it, or {advice}"));
            return Err(error.about("memory_budget").numbers(Unit::Bytes, needed, budget));
        }
        let held_to_it = self.budget.is_none() || self.touch_kv;
        if let Some(free) = self.free.filter(|&free| held_to_it && own > free) {
            let (what, parts) = (self.free_words(free), self.parts());
            let least = if self.budget.is_none() { "at least " } else { "" };
            let budget = if self.budget.is_none() { "" } else { "memory_budget, " };
            let advice = advice.replacen("lower ", &format!("lower {budget}"), 1);
            let message = format!("{what}, but these options take {least}{own} ({parts}); free some, or {advice}");
            return Err(Error::new(Status::Memory, message).about("memory").numbers(Unit::Bytes, own, free));
        }
        Ok(())
    }

    /// What to say of an engine that opens although there is less memory than it may come to use.
    pub fn warning(&self) -> Option<String> {
        let (total, own) = (self.total_bytes().max(self.own_bytes()), self.own_bytes());
        let free = self.free.filter(|&free| total > free)?;
        let (what, parts) = (self.free_words(free), self.parts());
        let later = if own > free {
            "using them all would end the process; lower memory_budget, context_length or max_running"
        } else {
            "weights that are mapped will be read from the disk again and again"
        };
        Some(format!("{what}, but these options take {total} ({parts}): {later}"))
    }
}

/// Bytes of one page, in all layer groups.
fn page_bytes(a: &Architecture, page_tokens: usize, kv: DType) -> Result<u64> {
    let mut bytes = 0u64;
    for group in a.groups() {
        let frame = group.shape(1, page_tokens, kv).frame_bytes().ok_or_else(too_large)?;
        bytes = bytes.checked_add(frame as u64).ok_or_else(too_large)?;
    }
    Ok(bytes)
}

fn too_large() -> Error {
    Error::format("config.json describes KV pages larger than this machine can address")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn models() -> Vec<PathBuf> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let fixtures = std::fs::read_dir(root.join("tests/fixtures/parity")).unwrap();
        let folders = fixtures.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
        folders.chain([root.join("models/storyteller")]).collect()
    }

    fn variants(budget: u64) -> [EngineOptions; 9] {
        let base = || EngineOptions { memory_budget: budget, threads: 1, ..EngineOptions::default() };
        [
            base(),
            EngineOptions { no_mmap: true, ..base() },
            EngineOptions { compute: Type::F32, page_tokens: 7, ..base() },
            EngineOptions { max_running: 3, step_tokens: 17, context_length: 33, ..base() },
            EngineOptions { max_running: 100, kv: Type::F32, ..base() },
            EngineOptions { max_running: 3, kv: Type::Q8, page_tokens: 7, ..base() },
            EngineOptions { weights: Type::Q8, ..base() },
            EngineOptions { weights: Type::Q4, ..base() },
            EngineOptions { weights: Type::Q4, no_mmap: true, ..base() },
        ]
    }

    /// An engine reserves what the plan says, to the byte.
    #[test]
    fn an_open_engine_is_as_large_as_its_plan() {
        for dir in models() {
            for mut options in variants(0).into_iter().chain(variants(40 << 20)) {
                let plan = Engine::plan(&dir, &options).unwrap();
                assert!(plan.fits, "{}: {plan:?}", dir.display());
                assert_eq!(plan.total_bytes, plan.weight_bytes + plan.kv_bytes + plan.workspace_bytes);
                assert_eq!(plan.kv_bytes, plan.kv_tokens * plan.kv_bytes_per_token);
                let opened = open::open(&dir, &mut options, &mut |_, _| {}).unwrap();
                let runner = opened.runner.unwrap();
                let reserved = runner.backend.reserved();
                let vocab = runner.model.architecture().vocab;
                let host = HostLogits::bytes(runner.model.logits_rows_max(), vocab);
                let workspace = reserved.tensors + reserved.scratch + host + Sampler::bytes(vocab);
                let real = (reserved.weights, reserved.kv, workspace, opened.info.context_length);
                let planned = (plan.weight_bytes, plan.kv_bytes, plan.workspace_bytes, plan.context_length);
                assert_eq!(real, planned, "{}", dir.display());
                let groups = runner.model.group_count() as u64;
                let pages = runner.scheduler.pages().2 as u64;
                assert_eq!(pages * runner.page_tokens as u64, plan.kv_tokens * groups);
            }
        }
    }

    #[test]
    fn a_budget_is_obeyed_to_the_byte() {
        let dir = &models()[0];
        let with = |memory_budget, context_length| EngineOptions {
            memory_budget,
            context_length,
            threads: 1,
            ..EngineOptions::default()
        };
        let plan = |budget, context| Engine::plan(dir, &with(budget, context)).unwrap();
        let page_tokens = limits::PAGE_TOKENS_DEFAULT as u64;
        let whole = plan(0, 0);
        let page = whole.kv_bytes_per_token * page_tokens;
        let base = whole.weight_bytes + whole.workspace_bytes;
        assert_eq!(whole.max_sequences as usize, limits::RUNNING_DEFAULT, "small models fit whole");
        assert_eq!(plan(whole.total_bytes, 0), Plan { available_bytes: whole.total_bytes, ..whole });
        assert_eq!(plan(u64::MAX, 0).kv_bytes, whole.kv_bytes, "no more than the slots can use");
        for pages in [1, 2, 9] {
            for (spare, held) in [(0, pages), (page - 1, pages), (page, pages + 1)] {
                let plan = plan(base + pages * page + spare, 0);
                assert!(plan.fits && plan.kv_bytes == held * page, "{plan:?}");
                assert_eq!(plan.context_length as u64, (held * page_tokens).min(whole.context_length.into()));
                assert_eq!(plan.kv_tokens, held * page_tokens);
                assert!(plan.total_bytes <= plan.available_bytes && plan.max_sequences >= 1);
            }
        }
        // Too small, for one page or for the context that was asked for: the plan says by how much, open refuses.
        for (context, pages) in [(0, 1), (40, 3), (16, 1)] {
            let least = base + pages * page;
            assert!(plan(least, context).fits);
            for budget in [1, least - page, least - 1] {
                let plan = plan(budget, context);
                assert_eq!((plan.fits, plan.total_bytes, plan.available_bytes), (false, least, budget));
                let error = Engine::open(dir, with(budget, context)).map(|_| ()).unwrap_err();
                assert_eq!((error.status, error.unit), (Status::Memory, Unit::Bytes));
                assert_eq!((error.needed, error.available, error.subject.as_str()), (least, budget, "memory_budget"));
                assert!(
                    error.message.contains("raise it") && error.message.contains(&plan.workspace_bytes.to_string())
                );
            }
            drop(Engine::open(dir, with(least, context)).unwrap());
        }
        let two = plan(base + 6 * page, 40);
        assert_eq!((two.context_length, two.max_sequences), (40, 2), "6 pages are twice 3 pages");
    }
}
