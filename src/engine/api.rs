//! The plain types a caller gives the engine, options and prompts, and what it says of itself. They have no behaviour beyond
//! defaults; [`crate::ffi`] mirrors each one as a C struct.

use super::{Constraint, PriorAnswer};
pub use crate::backend::cpu::Tier as CpuTier;
pub use crate::backend::device::Device;
pub use crate::backend::device::ProbeFn;
pub use crate::constrain::ToolChoice;
use crate::dtype::DType;
pub use crate::encoding::Encoding;
use crate::error::{Error, Result, copied, reserved};
use crate::limits;
use crate::model::Recipe;
use crate::os::thread::ThreadOptions;
pub use crate::scheduler::ScheduleFn;
use std::path::PathBuf;
use std::sync::Arc;

/// Element type of computation, weights or KV pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Type {
    /// Chosen by the library.
    #[default]
    Auto,
    /// IEEE binary32.
    F32,
    /// bfloat16.
    Bf16,
    /// 8-bit integers, quantized in groups.
    Q8,
    /// 4-bit integers, quantized in groups.
    Q4,
    /// 4-bit integers, and 8-bit ones where it pays most: some 5 bits in all.
    Q5,
}

impl Type {
    /// Whether integers with scales make it up.
    pub fn is_quantized(self) -> bool {
        matches!(self, Type::Q8 | Type::Q5 | Type::Q4)
    }

    /// How weights of this type are made; types that are not quantized leave them as they are stored.
    pub fn recipe(self) -> Recipe {
        match self {
            Type::Q8 => Recipe::Q8,
            Type::Q5 => Recipe::Q5,
            Type::Q4 => Recipe::Q4,
            Type::Auto | Type::F32 | Type::Bf16 => Recipe::Stored,
        }
    }
}

/// Where callbacks run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// On a dispatch thread of the library.
    #[default]
    Thread,
    /// Inside the host's own calls: open, poll, wait, close and drop.
    Poll,
}

/// Verbosity of an engine's log callback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i32)]
pub enum LogLevel {
    /// Nothing.
    #[default]
    Off = 0,
    /// Failures of the engine.
    Error = 1,
    /// Things a developer should know.
    Warn = 2,
    /// Open, close, configuration.
    Info = 3,
    /// Details.
    Debug = 4,
}

/// Receives log lines.
pub(super) type Log<'a> = &'a mut dyn FnMut(LogLevel, String);

/// Called by `open` on the calling thread with the bytes done and the total; `false` aborts.
pub type ProgressFn = Box<dyn FnMut(u64, u64) -> bool + Send>;
/// Receives log lines from any engine thread.
pub type LogFn = Arc<dyn Fn(LogLevel, &str) + Send + Sync>;
/// Called from a thread of the library, with no lock held, when there is something to poll: once until the next poll
/// begins.
pub type WakeFn = Arc<dyn Fn() + Send + Sync>;
/// See [`EngineOptions::draft_fn`].
pub type DraftFn = Box<dyn Fn(&[u32], &mut Vec<u32>) + Send>;

/// Options of [`super::Engine::open`]. `0` means automatic everywhere.
pub struct EngineOptions {
    /// Read weights into memory instead of mapping the files.
    pub no_mmap: bool,
    /// Open tokenizer and template only, no weights.
    pub text_only: bool,
    /// Write every KV page while the engine opens, so that a lack of memory is an error of open, instead of ending the
    /// process later. Has no effect on a GPU, where reserved memory is always backed.
    pub touch_kv: bool,
    /// Make what constraints need of the vocabulary while the engine opens, beside the weights, and count it in the plan. Without,
    /// the first constraint or call of a tool makes it, which takes up to a second then.
    pub constraints: bool,
    /// Device that runs the model.
    pub device: Device,
    /// Index of the device among those of its kind.
    pub device_index: i32,
    /// Law 1: a token's result never depends on the other rows of its step; true by default. If false, it may on a GPU,
    /// which allows faster matrix products. On the CPU it never does.
    pub invariant: bool,
    /// On a GPU, run at a lower priority than other work, such as a game's rendering.
    pub gpu_low_priority: bool,
    /// Block instead of spinning while waiting for the GPU: some microseconds slower per step, but it leaves a CPU core
    /// free.
    pub gpu_blocking_wait: bool,
    /// Instruction set of the CPU kernels.
    pub cpu_tier: CpuTier,
    /// Precision of activations; [`Type::F32`] is the reference mode.
    pub compute: Type,
    /// Weight format. Automatic keeps weights as stored; [`Type::Q8`], [`Type::Q5`] and [`Type::Q4`] quantize the matrices
    /// while the engine opens. With the latter two, value projections and the output matrix use 8 bits. Embedding, norms,
    /// biases and the router of experts stay as stored. Products with quantized weights use 8-bit inputs, whatever `compute` says.
    pub weights: Type,
    /// A folder, created if necessary, that keeps quantized weights in a file: the next open of the same model maps
    /// that file instead of quantizing. Processes share mapped weights, though [`super::Engine::plan`] counts them as
    /// the engine's own memory. One folder serves any number of models. Whoever can write to it controls the weights. A
    /// file that cannot be read or written causes a log line, not an error.
    pub weights_cache: Option<PathBuf>,
    /// Element type of KV pages; automatic follows `compute`. [`Type::Q8`]: 8-bit integers, with one f32 factor for
    /// each key and each value of a token and head.
    pub kv: Type,
    /// Where callbacks run.
    pub delivery: Delivery,
    /// Verbosity of `log`.
    pub log_level: LogLevel,
    /// Operating-system priority of the engine's threads, relative to the opening thread: negative is lower, 0 the
    /// same.
    pub thread_priority: i32,
    /// Threads that compute, the scheduler's included; 0 = physical cores.
    pub threads: u32,
    /// Most sequences that run at once.
    pub max_running: u32,
    /// Most requests that wait for a slot.
    pub max_waiting: u32,
    /// Most tokens of a sequence; 0 = the model's context length, reduced to what the memory for KV pages holds.
    pub context_length: u32,
    /// Tokens per KV page.
    pub page_tokens: u32,
    /// Most tokens computed in one step.
    pub step_tokens: u32,
    /// Most working time of the engine, in microseconds of every `duty_interval_us`; see [`super::Engine::set_duty`].
    /// Both 0 = no limit.
    pub duty_work_us: u32,
    /// The interval of `duty_work_us`, in microseconds.
    pub duty_interval_us: u32,
    /// Most bytes that weights, KV pages and workspace may take together, on a GPU of its memory. See
    /// [`super::Engine::plan`], whose `fits` also says whether that much is free; if not, open logs a warning. 0 = no
    /// budget: the KV pages take the smaller of slots × context and a quarter of the free memory.
    pub memory_budget: u64,
    /// Processors the engine's threads may use, bit i = processor i; 0 = all.
    pub affinity_mask: u64,
    /// Where drafts come from; off by default.
    pub speculation: Speculation,
    /// A smaller model of the same vocabulary that drafts, too: a folder or a GGUF file. It runs on the same device, with the same
    /// formats, and takes at most a quarter of a `memory_budget`.
    pub draft_model: Option<PathBuf>,
    /// Called with the progress of loading.
    pub progress: Option<ProgressFn>,
    /// Called with log lines.
    pub log: Option<LogFn>,
    /// With [`Delivery::Poll`]: called when there is something to poll.
    pub wake: Option<WakeFn>,
    /// Schedules every step in place of the scheduler. For measurements in Rust; the C API has no such option.
    pub schedule_fn: Option<ScheduleFn>,
    /// Drafts what follows the tokens of a request, whatever that is worth, in place of [`EngineOptions::speculation`]: appends it to
    /// an empty list. On the engine thread, which waits for it. For measurements in Rust; the C API has no such option.
    pub draft_fn: Option<DraftFn>,
    /// Looks for the device in place of the library, so that a Rust host can bring one of its own; the C API has no such
    /// option.
    pub probe_fn: Option<ProbeFn>,
    /// Called after every step. For measurements in Rust; the C API has no such option.
    pub trace: Option<super::Trace>,
}

/// A draft model gets one part in so many of a memory budget.
const DRAFT_MODEL_SHARE: u64 = 4;

/// Tokens that are computed before it is known whether they follow, so that a step gives several where they do. Tokens and log
/// probabilities are the same with and without; see [`mod@crate::speculation`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Speculation {
    /// From what followed the last words of a request's text earlier in it, in prompt or answer.
    pub own_text: bool,
    /// And from the answers of earlier requests of the engine. Then how fast an answer comes may tell what others were about.
    pub shared_texts: bool,
    /// Most drafts of a request in one step; 0 = automatic. Fewer are tried where they are not worth their time.
    pub draft_tokens: u32,
    /// As many are tried as there are, whatever they are worth. For measurements in Rust; the C API has no such option.
    pub always: bool,
}

impl Speculation {
    /// Whether there are drafts.
    pub fn is_on(&self) -> bool {
        self.own_text || self.shared_texts
    }

    /// Most drafts of a request in one step.
    pub fn draft_tokens_or_default(&self) -> usize {
        if self.draft_tokens == 0 { limits::DRAFT_TOKENS_DEFAULT } else { self.draft_tokens as usize }
    }
}

/// A piece of a raw prompt.
#[derive(Clone, Debug, PartialEq)]
pub enum PromptPart {
    /// Text that is tokenized.
    Text {
        /// The text.
        text: String,
        /// Names of special tokens in the text become those tokens.
        special: bool,
    },
    /// Token ids.
    Tokens(Vec<u32>),
}

/// Flags of a chat message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageFlags {
    /// Names of special tokens in the content become those tokens. In an assistant message they always do.
    pub special: bool,
    /// The answer continues this message, which must be the last one and an assistant message.
    pub continued: bool,
}

/// The input of a request: either raw parts, or messages for the chat template, not both.
#[derive(Clone, Debug, Default)]
pub struct Prompt {
    /// Raw parts, in order.
    pub parts: Vec<PromptPart>,
    /// Chat messages: JSON objects with at least `role`, and `content`.
    pub messages: Vec<serde_json::Value>,
    /// Flags of the messages, by index; messages beyond its end have no flags.
    pub message_flags: Vec<MessageFlags>,
    /// The `tools` variable of the chat template, a JSON array.
    pub tools: Option<serde_json::Value>,
    /// Further variables of the chat template, a JSON object.
    pub variables: serde_json::Map<String, serde_json::Value>,
    /// Answers of requests among the messages, by index, in ascending order; see [`Prompt::add_answer`].
    pub answers: Vec<(usize, PriorAnswer)>,
}

/// Flags of [`super::Engine::render`] and [`super::Engine::tokenize`].
#[derive(Clone, Copy, Debug, Default)]
pub struct TextOptions {
    /// `tokenize`: names of special tokens in any text part become those tokens; `detokenize`: keep special tokens.
    pub special: bool,
    /// `render`/`tokenize` of messages: do not add the prompt that begins the assistant's turn.
    pub no_generation_prompt: bool,
    /// `render`/`tokenize` of messages: pass them to the template unchanged, without converting content or arguments to
    /// the form that the template expects.
    pub exact: bool,
}

/// Options of one request. `None` means the model's `generation_config.json`, else the named default.
#[derive(Clone, Debug, Default)]
pub struct RequestOptions {
    /// Echoed in every event.
    pub tag: u64,
    /// Run template and tokenizer on a thread of the engine; their errors become a failed terminal event.
    pub defer: bool,
    /// Seed of the request's random stream; `None` = a random one, which is reported in [`super::Usage::seed`].
    pub seed: Option<u64>,
    /// Do not stop at the end-of-sequence tokens.
    pub ignore_eos: bool,
    /// Include special tokens in the text by their names, except for the one that ends the answer.
    pub special: bool,
    /// The text of events is all that the model wrote, with reasoning, calls and their delimiters, also of a prompt made of
    /// messages. Events have parts all the same.
    pub raw_text: bool,
    /// The answer continues the text of the prompt: its first token keeps the leading space that detokenizers drop at
    /// the beginning of a text. Always on for a continued message ([`MessageFlags::continued`]).
    pub mid_text: bool,
    /// Report the log probability of every prompt token.
    pub prompt_logprobs: bool,
    /// Nothing is generated: the last event has the [embedding](super::Event::embedding) of the prompt, which is raw. Options about
    /// tokens are refused. The request finishes with [`super::FinishReason::Length`].
    pub embed: bool,
    /// The host chooses every token, by [`super::Request::logits`] and [`super::Request::choose`].
    pub host_logits: bool,
    /// Most tokens to generate; default: as many as the context has room for.
    pub max_tokens: Option<u32>,
    /// Most drafts of a step, in an engine with [`EngineOptions::speculation`], where these are fewer than the engine's options say;
    /// 0 = none.
    pub draft_tokens: Option<u32>,
    /// Sample among the k most probable tokens only; 0 = all.
    pub top_k: Option<u32>,
    /// Requests of higher priority are admitted first.
    pub priority: i32,
    /// `Some(0)`: report the log probability of each generated token; `Some(k)`: also those of the k most probable
    /// tokens.
    pub logprobs: Option<u32>,
    /// Milliseconds from submit after which the request ends; 0 = no deadline.
    pub deadline_ms: u32,
    /// Tokens of reasoning, after which its end is written for the model; `None`: as many as it likes. Chats only.
    pub reasoning_tokens: Option<u32>,
    /// Tokens the event queue holds before the request is paused; 0 = default.
    pub queue_tokens: u32,
    /// Divides the logits; 0 = greedy.
    pub temperature: Option<f32>,
    /// Sample from the smallest set of most probable tokens whose total probability reaches this.
    pub top_p: Option<f32>,
    /// Sample from tokens at least this fraction as probable as the most probable one.
    pub min_p: Option<f32>,
    /// XTC: how often a token is drawn without the top choices; default 0, never.
    pub xtc_probability: Option<f32>,
    /// XTC: the top choices are the tokens at least so probable after truncation, of which the least likely stays; default 0.1.
    pub xtc_threshold: Option<f32>,
    /// DRY: the penalty of a token that goes on with a repetition of the allowed length; default 0, none.
    pub dry_multiplier: Option<f32>,
    /// DRY: what the penalty is multiplied by for each further token of the repetition; default 1.75.
    pub dry_base: Option<f32>,
    /// DRY: the least length, in tokens, of a repetition that has a penalty; default 2.
    pub dry_allowed_length: Option<u32>,
    /// DRY: tokens of prompt and output that are looked at; 0 = none; default -1, all.
    pub dry_penalty_last_n: Option<i32>,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output; 1 = none.
    pub repetition_penalty: Option<f32>,
    /// Subtracted from logits of tokens seen in the output; 0 = none.
    pub presence_penalty: Option<f32>,
    /// Subtracted from logits for each occurrence in the output; 0 = none.
    pub frequency_penalty: Option<f32>,
    /// Stops, biases and the constraint; `None` = no such.
    pub settings: Option<Arc<Settings>>,
}

/// What a request wants beside numbers. Requests may share it.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Stop strings. One that is the name of a special token also stops at that token.
    pub stops: Vec<String>,
    /// Stop token ids.
    pub stop_tokens: Vec<u32>,
    /// Logit biases by token id, added to the raw logits after the penalties.
    pub bias: Vec<(u32, f32)>,
    /// DRY: texts that a repetition does not reach across; `None`: a new line, a colon, a quote and an asterisk. Special tokens are
    /// such, too.
    pub dry_breakers: Option<Arc<[String]>>,
    /// What the answer may be; its end tokens are allowed exactly where the answer may end. Of a chat whose format is known it is
    /// on the content, which follows the reasoning.
    pub constraint: Option<Constraint>,
    /// The tools that may be called, a JSON array; `None`: those of the prompt.
    pub tools: Option<Arc<serde_json::Value>>,
    /// Whether tools are called.
    pub tool_choice: ToolChoice,
    /// An answer has one call at most.
    pub single_call: bool,
    /// With [`ToolChoice::Auto`]: calls of all tools are constrained, not only of those that say `"strict": true`.
    pub constrain_calls: bool,
}

impl Settings {
    /// A copy, or an error if there is no memory for it.
    ///
    /// # Errors
    /// `Memory`.
    pub fn try_clone(&self) -> Result<Settings> {
        let mut stops = reserved("a copy of settings", self.stops.len())?;
        for stop in &self.stops {
            let mut copy = String::new();
            copy.try_reserve_exact(stop.len()).map_err(|_| Error::memory("a copy of settings", stop.len() as u64))?;
            copy.push_str(stop);
            stops.push(copy);
        }
        Ok(Settings {
            stops,
            stop_tokens: copied("a copy of settings", &self.stop_tokens)?,
            bias: copied("a copy of settings", &self.bias)?,
            dry_breakers: self.dry_breakers.clone(),
            constraint: self.constraint.clone(),
            tools: self.tools.clone(),
            tool_choice: self.tool_choice.clone(),
            single_call: self.single_call,
            constrain_calls: self.constrain_calls,
        })
    }
}

/// Facts about an open engine.
#[derive(Clone, Debug, Default)]
pub struct Info {
    /// `model_type` of the config.
    pub model_type: String,
    /// Human-readable name of the device.
    pub device_name: String,
    /// Device that runs the model.
    pub device: Device,
    /// Tier of the CPU kernels.
    pub cpu_tier: CpuTier,
    /// Threads that compute.
    pub threads: u32,
    /// Precision of computation.
    pub compute: Type,
    /// Encoding of most of the layers' matrices: the quantized format, or the element type that most bytes of the weights have;
    /// `None` for an engine opened for text only.
    pub weights: Option<Encoding>,
    /// Element type of the KV pages, i8 for [`Type::Q8`]; `None` for an engine opened for text only.
    pub kv: Option<DType>,
    /// Vocabulary size of the model, padding included.
    pub vocab_size: u32,
    /// Longest sequence of this engine, in tokens.
    pub context_length: u32,
    /// Tokens computed in one step, at most.
    pub step_tokens: u32,
    /// Tokens that one KV page holds.
    pub page_tokens: u32,
    /// Layers.
    pub layers: u32,
    /// Beginning-of-sequence token, if the tokenizer or config names one.
    pub bos_token: Option<u32>,
    /// First end-of-sequence token: of `generation_config.json`, else of `config.json`, else of the tokenizer. There
    /// may be more, each of which ends an answer.
    pub eos_token: Option<u32>,
    /// Whether the folder has a chat template.
    pub has_chat_template: bool,
    /// How the model writes reasoning and calls: the name of a built-in format, or `response_template` where
    /// `tokenizer_config.json` says it; `None` where it is not known.
    pub answer_format: Option<String>,
}

/// One snapshot of an engine's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[allow(missing_docs, reason = "the names are the documentation; the C header explains the units")]
pub struct Stats {
    pub running: u32,
    pub waiting: u32,
    pub stalled: u32,
    pub pages_used: u64,
    pub pages_cached: u64,
    pub pages_free: u64,
    pub prefix_tokens_seen: u64,
    pub prefix_tokens_hit: u64,
    pub preemptions: u64,
    pub evictions: u64,
    pub tokens_in: u64,
    pub tokens_out: u64,
    pub finished: u64,
    pub cancelled: u64,
    pub failed: u64,
    pub steps: u64,
    pub cleanup_us: u64,
    pub refill_us: u64,
    pub prefill_us: u64,
    pub decode_us: u64,
    pub queue_us: u64,
    pub log_dropped: u64,
    pub drafted_tokens: u64,
    pub accepted_tokens: u64,
    pub saved_us: u64,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            no_mmap: false,
            text_only: false,
            touch_kv: false,
            constraints: false,
            device: Device::Auto,
            device_index: 0,
            invariant: true,
            gpu_low_priority: false,
            gpu_blocking_wait: false,
            cpu_tier: CpuTier::Auto,
            compute: Type::Auto,
            weights: Type::Auto,
            weights_cache: None,
            kv: Type::Auto,
            delivery: Delivery::Thread,
            log_level: LogLevel::Off,
            thread_priority: 0,
            threads: 0,
            max_running: 0,
            max_waiting: 0,
            context_length: 0,
            page_tokens: 0,
            step_tokens: 0,
            duty_work_us: 0,
            duty_interval_us: 0,
            memory_budget: 0,
            affinity_mask: 0,
            speculation: Speculation::default(),
            draft_model: None,
            progress: None,
            log: None,
            wake: None,
            schedule_fn: None,
            draft_fn: None,
            probe_fn: None,
            trace: None,
        }
    }
}

impl EngineOptions {
    /// A copy without the callbacks, which cannot be shared between threads.
    pub(super) fn numbers(&self) -> EngineOptions {
        EngineOptions {
            weights_cache: self.weights_cache.clone(),
            draft_model: self.draft_model.clone(),
            progress: None,
            log: None,
            wake: None,
            schedule_fn: None,
            draft_fn: None,
            probe_fn: self.probe_fn.clone(),
            trace: None,
            ..*self
        }
    }

    /// Whether there are drafts.
    pub(super) fn drafts(&self) -> bool {
        self.speculation.is_on() || self.draft_model.is_some() || self.draft_fn.is_some()
    }

    /// Those of the inside of a draft model.
    pub(super) fn of_draft_model(&self) -> EngineOptions {
        EngineOptions {
            speculation: Speculation::default(),
            draft_model: None,
            constraints: false,
            delivery: Delivery::Thread,
            memory_budget: self.memory_budget / DRAFT_MODEL_SHARE,
            ..self.numbers()
        }
    }

    /// Those of an engine whose draft model takes this much memory.
    pub(super) fn beside_draft_model(&mut self, bytes: u64) {
        if self.memory_budget > 0 {
            self.memory_budget = self.memory_budget.saturating_sub(bytes).max(1);
        }
    }

    /// Priority and affinity of the engine's threads, including those used while it opens.
    pub(super) fn placing(&self) -> ThreadOptions {
        ThreadOptions { priority: self.thread_priority, affinity_mask: self.affinity_mask }
    }
}

impl RequestOptions {
    /// Tokens the event queue holds before the request is paused.
    pub fn queue_tokens_or_default(&self) -> usize {
        if self.queue_tokens == 0 { limits::QUEUE_TOKENS_DEFAULT } else { self.queue_tokens as usize }
    }
}
