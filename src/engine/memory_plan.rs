//! The third stage of opening: what the engine takes of the device's memory, computed before any weight is read.
//!
//! [`super::Engine::plan`] and `open` share [`Sizing::of`], so that they agree. The plan counts the weights, the KV pages
//! and the workspace, which is everything a step needs, and the vocabulary for constraints where it is asked for. It does not
//! count the tokenizer and the bookkeeping: some bytes
//! for each page and for each token of a step, and for each request a page table of the length it may reach, of which the
//! system commits only the part that is written.

use super::api::*;
use super::describe::Described;
use super::device::{self, DeviceChoice, Failure};
use super::layer_groups::{GroupSizes, too_large};
use crate::constrain::TokenTrie;
use crate::error::{Error, Result, Status, Unit};
use crate::limits;
use crate::model::architecture::Architecture;
use crate::model::{Model, StepLimits};
use crate::source;
use std::path::Path;

/// Without a memory budget, the KV pages may take one part in this many of the free memory.
const FREE_MEMORY_SHARE: u64 = 4;
/// Bytes of KV pages when there is no budget and the system does not report its free memory.
const KV_BYTES_FALLBACK: u64 = 1 << 30;

/// The memory that an engine would take. Without a `memory_budget` it depends on the memory that is free at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Whether everything fits: neither `total_bytes` nor the peak while weights are quantized exceeds
    /// `available_bytes`. If not, the numbers are those of the smallest configuration that the options allow, or of one
    /// within a budget that exceeds the free memory. Opening fails when the budget is exceeded. When the free memory is
    /// exceeded, it fails without a budget or with `touch_kv`, else it warns. It only warns, too, when the free memory
    /// lacks room just for mapped weights, which the system then reads from the disk again and again.
    pub fits: bool,
    /// Longest sequence, in tokens.
    pub context_length: u32,
    /// Sequences of `context_length` tokens that the KV pages hold at the same time, at most `max_running`. More can
    /// run while they are shorter.
    pub max_sequences: u32,
    /// Bytes of the weights in use: tensors as stored, which are mapped from the files or with `no_mmap` copied to
    /// memory, and quantized matrices in memory of the engine's own.
    pub weight_bytes: u64,
    /// Bytes of all KV pages and states.
    pub kv_bytes: u64,
    /// Bytes of activations, logits and scratch.
    pub workspace_bytes: u64,
    /// Sum of weights, KV pages, workspace and, where the device's memory is the machine's, `constraint_bytes`.
    pub total_bytes: u64,
    /// The smaller of the memory budget and the free memory: [`crate::os::memory::available`], or that of the GPU. 0
    /// when neither is known.
    pub available_bytes: u64,
    /// Tokens that all KV pages hold.
    pub kv_tokens: u64,
    /// Bytes of KV pages per token.
    pub kv_bytes_per_token: u64,
    /// Bytes that the vocabulary takes as constraints need it, always in the machine's memory; 0 without the option
    /// `constraints`.
    pub constraint_bytes: u64,
    /// Bytes of the states of recurrences, a part of `kv_bytes`: of sequences that run two each, and those that the prefix cache keeps.
    pub state_bytes: u64,
}

/// The plan for a model's files; the part of [`super::Engine::plan`] that may need a large stack.
///
/// # Errors
/// As there.
pub(super) fn of_files(dir: &Path, options: &EngineOptions) -> Result<MemoryPlan> {
    let Some(draft_model) = options.draft_model.as_deref().filter(|_| !options.text_only) else {
        return of_model(dir, options);
    };
    let draft = of_model(draft_model, &options.of_draft_model())?;
    let mut own = options.numbers();
    own.beside_draft_model(draft.total_bytes);
    let plan = of_model(dir, &own)?;
    // The engine's own budget is what the draft model leaves.
    let available =
        plan.available_bytes.max(plan.available_bytes.saturating_add(draft.total_bytes).min(options.memory_budget));
    let total_bytes = plan.total_bytes.saturating_add(draft.total_bytes);
    Ok(MemoryPlan {
        fits: plan.fits && draft.fits && (plan.available_bytes == 0 || total_bytes <= available),
        weight_bytes: plan.weight_bytes.saturating_add(draft.weight_bytes),
        kv_bytes: plan.kv_bytes.saturating_add(draft.kv_bytes),
        workspace_bytes: plan.workspace_bytes.saturating_add(draft.workspace_bytes),
        total_bytes,
        available_bytes: available,
        ..plan
    })
}

fn of_model(dir: &Path, options: &EngineOptions) -> Result<MemoryPlan> {
    let source = source::headers(dir, options.text_only)?;
    if options.text_only {
        return Ok(MemoryPlan { fits: true, ..MemoryPlan::default() });
    }
    let described = Described::of(&*source, options)?;
    device::on_first(options.device, &mut |_, _| {}, |device, last, _| {
        let choice = DeviceChoice::of(device, &described, &*source, options).map_err(Failure::OfDevice)?;
        let sizing = Sizing::of(options, &described.architecture, choice).map_err(Failure::OfDevice)?;
        if !last {
            sizing.require().map_err(Failure::OfDevice)?;
        }
        Ok(sizing.plan())
    })
}

/// Bounds on the context that a model could be opened with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LongestContext {
    /// Longest context that the model supports, in tokens.
    pub model: usize,
    /// Longest context that KV pages can hold in the memory available to them, in tokens.
    pub memory: usize,
    /// Tokens of a step, of a model whose prompts have to be in one.
    pub step: Option<usize>,
}

impl LongestContext {
    /// Advice for an error message when a context of `context` tokens is too short. Names only what open would accept.
    pub fn advice(self, context: usize) -> String {
        let longest = self.model.min(self.memory);
        if self.step.is_some_and(|step| context >= step && step < longest) {
            format!(
                "or open the engine with more step_tokens, up to {longest}: this model computes a prompt in one step"
            )
        } else if context < longest {
            format!("or open the engine with a longer context_length, up to {longest}")
        } else if context < self.model {
            "or open the engine with more memory (memory_budget): what it has holds no longer context".to_owned()
        } else {
            "it is the longest that this model was made for".to_owned()
        }
    }
}

/// The sizes of an engine: the options, applied to a model and a device.
pub(super) struct Sizing {
    pub running_max: usize,
    pub waiting_max: usize,
    pub context: usize,
    pub longest: LongestContext,
    pub page_tokens: usize,
    pub step_tokens: usize,
    /// Rows of logits computed at once.
    pub logits_rows: usize,
    /// Bounds of a step. Its `context` is the requested one, before it is reduced to what the KV pages hold.
    pub step: StepLimits,
    /// Page frames of each layer group that keeps all pages.
    pub frames: usize,
    /// The device that holds all of this.
    pub choice: DeviceChoice,
    /// The layer groups.
    pub groups: GroupSizes,
    workspace_bytes: u64,
    constraint_bytes: u64,
    /// The device has memory of its own, apart from the machine's.
    own_memory: bool,
    /// The memory budget in bytes; `None` = no budget.
    budget: Option<u64>,
    no_mmap: bool,
    touch_kv: bool,
}

impl Sizing {
    /// Computes all sizes.
    ///
    /// # Errors
    /// `Argument` when the options ask for a longer context than the model supports; `Format` when sizes overflow.
    pub fn of(o: &EngineOptions, a: &Architecture, choice: DeviceChoice) -> Result<Sizing> {
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
        let profile = choice.device.profile();
        let running_max = or(o.max_running, limits::RUNNING_DEFAULT);
        let rows = running_max;
        let drafts = if o.drafts() { o.speculation.draft_tokens_or_default() } else { 0 };
        let context = if asked == 0 { a.context } else { asked };
        // Of such a model a step has all tokens of a prompt.
        let step_default = match a.bidirectional() {
            true => context.clamp(profile.step_tokens_default, profile.step_tokens_max),
            false => profile.step_tokens_default,
        };
        let step_tokens = or(o.step_tokens, step_default).max(rows + drafts);
        let step_max = a.bidirectional().then_some(step_tokens);
        let context = context.min(step_max.unwrap_or(usize::MAX));
        let logits_rows = (rows + drafts).clamp(8, profile.logits_rows_max);
        let page_tokens = or(o.page_tokens, limits::PAGE_TOKENS_DEFAULT);
        let step = StepLimits {
            tokens: step_tokens,
            sequences: rows.min(step_tokens),
            logits_rows,
            context,
            page_tokens,
            frames: 0,
        };
        let groups = GroupSizes::of(a, page_tokens, choice.kv, running_max, step_tokens, context)?;
        let scratch = choice.device.scratch_bytes(&Model::max_batch_shape(a, &step));
        let spare = groups.frame_bytes().saturating_mul(profile.spare_frames);
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
            groups,
            workspace_bytes: Model::workspace_bytes(a, &step).saturating_add(scratch).saturating_add(spare),
            budget: (o.memory_budget > 0).then_some(o.memory_budget),
            touch_kv: o.touch_kv,
            constraint_bytes: if o.constraints { TokenTrie::kept_bytes(a.vocab) } else { 0 },
            own_memory: profile.own_memory,
            no_mmap: o.no_mmap && !profile.own_memory,
            choice,
        };
        sizing.frames = sizing.choose_frames(asked)?;
        sizing.step.frames = sizing.frames;
        sizing.context = sizing.context.min(sizing.frames * page_tokens);
        let memory = sizing.affordable_frames(limits::PAGES_MAX).saturating_mul(page_tokens);
        sizing.longest = LongestContext { model: a.context_max, memory: memory.max(sizing.context), step: step_max };
        Ok(sizing)
    }

    /// Bytes that are free on the device; `None` when unknown.
    fn free(&self) -> Option<u64> {
        self.choice.free.as_ref().map(|free| free.bytes)
    }

    /// Page frames, up to `wanted`, that fit into the memory available for KV pages: what weights and workspace leave of the
    /// budget, or without a budget of the free memory, but then at most a fixed share of it.
    fn affordable_frames(&self, wanted: usize) -> usize {
        let kv_bytes = match self.budget {
            Some(budget) => budget.saturating_sub(self.choice.weights.used()).saturating_sub(self.other_bytes()),
            None => self.free().map_or(KV_BYTES_FALLBACK, |free| {
                let own_weights = self.choice.weights.used() - if self.no_mmap { 0 } else { self.choice.weights.kept };
                let left = free.saturating_sub(own_weights).saturating_sub(self.other_bytes());
                left.min(free / FREE_MEMORY_SHARE)
            }),
        };
        self.groups.affordable(kv_bytes, wanted)
    }

    /// Page frames of each layer group that keeps all: as many as memory allows, up to a full context for every slot, but at least
    /// enough for one sequence of `asked` tokens, and at least one.
    fn choose_frames(&self, asked: usize) -> Result<usize> {
        let wanted = self.running_max.saturating_mul(self.context.div_ceil(self.page_tokens)).min(limits::PAGES_MAX);
        let frames = self.affordable_frames(wanted).max(asked.div_ceil(self.page_tokens).max(1));
        self.groups.bytes(frames).map(|_| frames).ok_or_else(too_large)
    }

    fn kv_bytes(&self) -> u64 {
        self.groups.bytes(self.frames).unwrap_or(u64::MAX)
    }

    /// What is neither weights nor KV pages, of the memory that the plan is about.
    fn other_bytes(&self) -> u64 {
        self.workspace_bytes.saturating_add(if self.own_memory { 0 } else { self.constraint_bytes })
    }

    fn total_bytes(&self) -> u64 {
        self.kv_bytes().saturating_add(self.choice.weights.used()).saturating_add(self.other_bytes())
    }

    /// The result of [`super::Engine::plan`].
    pub fn plan(&self) -> MemoryPlan {
        let available = self.budget.into_iter().chain(self.free()).min();
        let pages_each = self.context.div_ceil(self.page_tokens).max(1);
        MemoryPlan {
            fits: available.is_none_or(|available| self.total_bytes().max(self.own_bytes()) <= available),
            context_length: self.context as u32,
            max_sequences: (self.frames / pages_each).min(self.running_max) as u32,
            weight_bytes: self.choice.weights.used(),
            kv_bytes: self.kv_bytes(),
            workspace_bytes: self.workspace_bytes,
            total_bytes: self.total_bytes(),
            available_bytes: available.unwrap_or(0),
            kv_tokens: self.groups.tokens(self.frames),
            kv_bytes_per_token: self.groups.page_bytes().unwrap_or(u64::MAX) / self.page_tokens as u64,
            constraint_bytes: self.constraint_bytes,
            state_bytes: self.groups.state_bytes(self.frames),
        }
    }

    /// Peak memory of the engine's own, in bytes: all but mapped weights. With `no_mmap`, the stored weights stay in
    /// memory until the last matrix is quantized; KV pages and workspace are allocated after that.
    fn own_bytes(&self) -> u64 {
        let total = self.total_bytes();
        if self.no_mmap {
            return total.max(self.choice.weights.source.saturating_add(self.choice.weights.quantized));
        }
        total.saturating_sub(self.choice.weights.kept)
    }

    /// The parts of the total, for messages.
    fn parts(&self) -> String {
        let MemoryPlan { weight_bytes, kv_bytes, workspace_bytes, kv_tokens, total_bytes, .. } = self.plan();
        let mut parts =
            format!("weights {weight_bytes}, workspace {workspace_bytes}, KV pages of {kv_tokens} tokens {kv_bytes}");
        if self.constraint_bytes > 0 && !self.own_memory {
            parts += &format!(", the vocabulary for constraints {}", self.constraint_bytes);
        }
        if self.own_bytes() > total_bytes {
            parts += &format!("; before that, weights as stored and quantized {}", self.own_bytes());
        }
        parts
    }

    /// Checks that the sizes fit. With a budget, everything has to fit into it. Without one, and whenever the KV pages
    /// are to be touched, the engine's own memory has to fit into the free memory.
    ///
    /// # Errors
    /// `Memory`, with the bytes needed and available.
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
        if let Some(free) = self.choice.free.as_ref().filter(|free| held_to_it && own > free.bytes) {
            let (what, parts) = (&free.words, self.parts());
            let least = if self.budget.is_none() { "at least " } else { "" };
            let budget = if self.budget.is_none() { "" } else { "memory_budget, " };
            let advice = advice.replacen("lower ", &format!("lower {budget}"), 1);
            let message = format!("{what}, but these options take {least}{own} ({parts}); free some, or {advice}");
            return Err(Error::new(Status::Memory, message).about("memory").numbers(Unit::Bytes, own, free.bytes));
        }
        Ok(())
    }

    /// The warning for an engine that opens although it may come to use more memory than is free; `None` when it
    /// cannot.
    pub fn warning(&self) -> Option<String> {
        let (total, own) = (self.total_bytes().max(self.own_bytes()), self.own_bytes());
        let free = self.choice.free.as_ref().filter(|free| total > free.bytes)?;
        let (what, parts) = (&free.words, self.parts());
        let later = if own > free.bytes {
            "using them all would end the process; lower memory_budget, context_length or max_running"
        } else {
            "weights that are mapped will be read from the disk again and again"
        };
        Some(format!("{what}, but these options take {total} ({parts}): {later}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, open};
    use crate::sampling::{SamplingOutput, SamplingRequests};
    use std::path::PathBuf;

    fn models() -> Vec<PathBuf> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let fixtures = std::fs::read_dir(root.join("tests/fixtures/parity")).unwrap();
        let folders = fixtures.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
        let opens = |path: &PathBuf| {
            let plan = Engine::plan(path, &EngineOptions::default());
            plan.err().is_none_or(|error| error.status != Status::Unsupported)
        };
        let folders: Vec<PathBuf> = folders.filter(opens).collect();
        assert!(folders.len() > 40, "only {} fixtures open", folders.len());
        folders.into_iter().chain([root.join("models/storyteller")]).collect()
    }

    fn variants(budget: u64) -> [EngineOptions; 10] {
        let base = || EngineOptions { memory_budget: budget, threads: 1, ..EngineOptions::default() };
        [
            base(),
            EngineOptions { no_mmap: true, ..base() },
            EngineOptions { constraints: true, ..base() },
            EngineOptions { compute: Type::F32, page_tokens: 7, ..base() },
            EngineOptions { max_running: 3, step_tokens: 17, context_length: 33, ..base() },
            EngineOptions { max_running: 100, kv: Type::F32, ..base() },
            EngineOptions { max_running: 3, kv: Type::Q8, page_tokens: 7, ..base() },
            EngineOptions { weights: Type::Q8, ..base() },
            EngineOptions { weights: Type::Q4, ..base() },
            EngineOptions { weights: Type::Q4, no_mmap: true, ..base() },
        ]
    }

    /// An engine reserves exactly the bytes of its plan.
    #[test]
    fn an_open_engine_is_as_large_as_its_plan() {
        for dir in models() {
            for mut options in variants(0).into_iter().chain(variants(40 << 20)) {
                let plan = Engine::plan(&dir, &options).unwrap();
                assert!(plan.fits, "{}: {plan:?}", dir.display());
                let parts = [plan.weight_bytes, plan.kv_bytes, plan.workspace_bytes, plan.constraint_bytes];
                assert_eq!(plan.total_bytes, parts.iter().sum::<u64>());
                assert!(plan.kv_bytes - plan.state_bytes <= plan.kv_tokens * plan.kv_bytes_per_token);
                let opened = open::open(|o| open::Source::path(&dir, o), &mut options, &mut |_, _| {}).unwrap();
                let tree =
                    if opened.trie.is_some() { TokenTrie::kept_bytes(opened.info.vocab_size as usize) } else { 0 };
                let named = opened.text.tokenizer.is_some();
                assert_eq!(plan.constraint_bytes, if named { tree } else { plan.constraint_bytes });
                let runner = opened.runner.unwrap();
                let reserved = runner.backend.reserved();
                let (rows, vocab) = (runner.model.logits_rows_max(), runner.model.vocab());
                let lists = SamplingRequests::bytes(rows, vocab) + SamplingOutput::bytes(rows);
                let workspace = reserved.tensors + reserved.scratch + lists;
                let real = (reserved.weights, reserved.kv, workspace, opened.info.context_length);
                let planned = (plan.weight_bytes, plan.kv_bytes, plan.workspace_bytes, plan.context_length);
                assert_eq!(real, planned, "{}", dir.display());
                let groups = &runner.scheduler.capacity().groups;
                let paged = groups.iter().filter(|group| group.keep != crate::cache::Keep::State);
                let most = paged.map(|group| group.frames as u64).max().unwrap_or(0);
                assert_eq!(most * runner.page_tokens as u64, plan.kv_tokens);
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
        assert_eq!(plan(whole.total_bytes, 0), MemoryPlan { available_bytes: whole.total_bytes, ..whole });
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
        // Too small for one page, or for the requested context: the plan says by how much, and open fails.
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
