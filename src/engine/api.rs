//! The plain types a caller exchanges with the engine: options, prompts, events, usage. No behaviour beyond
//! defaults; [`crate::ffi`] mirrors each one as a C struct.

pub use crate::backend::cpu::Tier as CpuTier;
use crate::dtype::DType;
pub use crate::encoding::Encoding;
use crate::error::Error;
use crate::limits;
pub use crate::scheduler::Policy;
use std::path::PathBuf;
use std::sync::Arc;

/// Where the model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The first GPU (or that of `device_index`) if the library has a backend for it and it holds the model, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

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
    /// 8-bit groups.
    Q8,
    /// 4-bit groups.
    Q4,
}

/// How callbacks are called.
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

/// Called by `open` on the opener's thread with bytes done and in all; `false` aborts.
pub type ProgressFn = Box<dyn FnMut(u64, u64) -> bool + Send>;
/// Receives log lines from any engine thread.
pub type LogFn = Arc<dyn Fn(LogLevel, &str) + Send + Sync>;
/// Called from an engine thread, without any lock, when there is something to poll: once until the next poll begins.
pub type WakeFn = Arc<dyn Fn() + Send + Sync>;

/// Options of [`super::Engine::open`]. `0` means automatic everywhere.
#[derive(Default)]
pub struct EngineOptions {
    /// Read weights into memory instead of mapping the files.
    pub no_mmap: bool,
    /// Open tokenizer and template only, no weights.
    pub text_only: bool,
    /// Write every KV page while the engine opens, so that memory that cannot be had shows there, as an error, and not later
    /// as the end of the process. On a GPU it is there once it is reserved.
    pub touch_kv: bool,
    /// Device.
    pub device: Device,
    /// Index of the device among those of its kind.
    pub device_index: i32,
    /// On a GPU let a token depend on what else is in its step, so that faster products may be used (cuBLASLt where it is
    /// installed). The CPU's never do.
    pub relax_invariance: bool,
    /// On a GPU give way to its other work, such as a game's rendering.
    pub gpu_low_priority: bool,
    /// Sleep while the GPU works, instead of watching for its end: slower by some microseconds a step, with a core free.
    pub gpu_blocking_wait: bool,
    /// Instruction set of the CPU kernels.
    pub cpu_tier: CpuTier,
    /// Precision of activations; [`Type::F32`] is the reference mode.
    pub compute: Type,
    /// Weight format: automatic keeps weights as stored, [`Type::Q8`] and [`Type::Q4`] quantize the matrices of products while
    /// the engine opens. Of the 4-bit format the output matrix has 8 bits; embedding, norms, biases and the router of experts
    /// stay as stored. Products with quantized weights take 8-bit inputs, whatever `compute` says.
    pub weights: Type,
    /// A folder where quantized weights are kept in a file, made if need be: the next open of the same model maps them and makes
    /// none. They are then memory that processes share, though [`super::Engine::plan`] goes on counting them as the engine's
    /// own. One folder serves any number of models; who may write there decides what the models say. A file that cannot be read
    /// or written costs a log line, not the engine.
    pub weights_cache: Option<PathBuf>,
    /// Element type of KV pages; automatic follows `compute`. [`Type::Q8`]: 8-bit integers with one f32 factor for each
    /// token and head, of keys and of values.
    pub kv: Type,
    /// How callbacks are called.
    pub delivery: Delivery,
    /// Verbosity of `log`.
    pub log_level: LogLevel,
    /// Operating-system priority of the engine's threads: negative is lower than that of the opener's, 0 the same.
    pub thread_priority: i32,
    /// Threads that compute, the scheduler's included; 0 = physical cores.
    pub threads: u32,
    /// Sequences running at once.
    pub max_running: u32,
    /// Requests waiting for a slot.
    pub max_waiting: u32,
    /// Context length in tokens; 0 = the model's, within the memory budget.
    pub context_length: u32,
    /// Tokens of a KV page.
    pub page_tokens: u32,
    /// Tokens of one step.
    pub step_tokens: u32,
    /// Engine work at most, in microseconds of every `duty_interval_us`; see [`super::Engine::set_duty`]. Both 0 = no limit.
    pub duty_work_us: u32,
    /// The interval of `duty_work_us`, in microseconds.
    pub duty_interval_us: u32,
    /// Bytes that weights, KV pages and workspace may take together, on a GPU of its memory; see [`super::Engine::plan`], whose
    /// `fits` also says whether there is as much: opening with a budget beyond that is a warning in the log. 0 = no bound but
    /// that of the KV pages: the smaller of slots × context and a quarter of free memory.
    pub memory_budget: u64,
    /// Processors the engine's threads may use, bit i = processor i; 0 = all.
    pub affinity_mask: u64,
    /// Who may be in a step together; for measurements.
    pub policy: Policy,
    /// Load progress.
    pub progress: Option<ProgressFn>,
    /// Log lines.
    pub log: Option<LogFn>,
    /// With [`Delivery::Poll`]: there is something to poll.
    pub wake: Option<WakeFn>,
    /// Watches every step. For measurements in Rust; the C API has no such option.
    pub trace: Option<super::Trace>,
}

/// A piece of a raw prompt.
#[derive(Clone, Debug, PartialEq)]
pub enum PromptPart {
    /// Text; `special` lets the names of special tokens in it become those tokens.
    Text {
        /// The text.
        text: String,
        /// Parse special tokens in it.
        special: bool,
    },
    /// Token ids.
    Tokens(Vec<u32>),
}

/// How a message of a chat is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageFlags {
    /// Names of special tokens in its content become those tokens. Those of an assistant's message always do.
    pub special: bool,
    /// The message, the last one and an assistant's, is the start of the answer: the model goes on where it ends.
    pub continued: bool,
}

/// What is asked of the model. Either raw parts, or messages for the chat template; not both.
#[derive(Clone, Debug, Default)]
pub struct Prompt {
    /// Raw parts, in order.
    pub parts: Vec<PromptPart>,
    /// Chat messages: JSON objects with at least `role`, and `content`.
    pub messages: Vec<serde_json::Value>,
    /// How they are taken, by their index; a message beyond its end has no flag.
    pub message_flags: Vec<MessageFlags>,
    /// The `tools` variable of the chat template, a JSON array.
    pub tools: Option<serde_json::Value>,
    /// Further variables of the chat template, a JSON object.
    pub variables: serde_json::Map<String, serde_json::Value>,
    /// Stop strings. One that is the name of a special token is that token, too.
    pub stops: Vec<String>,
    /// Stop token ids.
    pub stop_tokens: Vec<u32>,
    /// Logit biases by token id, added to the raw logits after the penalties.
    pub bias: Vec<(u32, f32)>,
}

/// Flags of [`super::Engine::render`] and [`super::Engine::tokenize`].
#[derive(Clone, Copy, Debug, Default)]
pub struct TextOptions {
    /// `tokenize`: treat every text part as if special tokens may be parsed; `detokenize`: keep special tokens.
    pub special: bool,
    /// `render`/`tokenize` of messages: do not open the assistant's turn.
    pub no_generation_prompt: bool,
    /// `render`/`tokenize` of messages: the template gets them as they are given, and no form of content or arguments that it
    /// would rather have.
    pub exact: bool,
}

/// Options of one request. `None` means the model's `generation_config.json`, else the named default.
#[derive(Clone, Debug, Default)]
pub struct RequestOptions {
    /// Echoed in every event.
    pub tag: u64,
    /// Template and tokenizer run on a thread of the engine; their errors become a failed terminal event.
    pub defer: bool,
    /// Seed of the request's random stream; `None` draws one and reports it in the usage.
    pub seed: Option<u64>,
    /// Do not stop at the end-of-sequence tokens.
    pub ignore_eos: bool,
    /// Special tokens have their names in the text, but for one that ends the answer.
    pub special: bool,
    /// The prompt ends in the middle of a text that the answer goes on with: its first token keeps the space that decoders
    /// drop at the beginning of a text. So it is for a message that is continued, without being asked for.
    pub mid_text: bool,
    /// Report the log probability of every prompt token.
    pub prompt_logprobs: bool,
    /// Most tokens to generate; default: what the context leaves.
    pub max_tokens: Option<u32>,
    /// SamplingRequest among the k most probable tokens only; 0 = all.
    pub top_k: Option<u32>,
    /// Higher is served first.
    pub priority: i32,
    /// `Some(0)`: log probability of each generated token; `Some(k)`: also the k best.
    pub logprobs: Option<u32>,
    /// Give up after this time; 0 = never.
    pub deadline_ms: u32,
    /// Tokens the event queue holds before the request is paused; 0 = default.
    pub queue_tokens: u32,
    /// 0 = greedy.
    pub temperature: Option<f32>,
    /// SamplingRequest from the smallest set of tokens whose probability reaches this.
    pub top_p: Option<f32>,
    /// SamplingRequest from tokens at least this fraction as probable as the best.
    pub min_p: Option<f32>,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output; 1 = none.
    pub repetition_penalty: Option<f32>,
    /// Subtracted from logits of tokens seen in the output; 0 = none.
    pub presence_penalty: Option<f32>,
    /// Subtracted from logits for each occurrence in the output; 0 = none.
    pub frequency_penalty: Option<f32>,
}

/// Why a request ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i32)]
pub enum FinishReason {
    /// It has not.
    #[default]
    None = 0,
    /// The model ended the sequence.
    Eos = 1,
    /// A stop string or stop token.
    Stop = 2,
    /// `max_tokens`, or the context is full.
    Length = 3,
    /// Cancelled by the caller.
    Cancel = 4,
    /// The callback asked to stop.
    Callback = 5,
    /// The deadline passed.
    Deadline = 6,
    /// The engine was closed.
    Close = 7,
    /// An error; see [`Event::error`].
    Error = 8,
}

/// Kind of an [`Event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum EventKind {
    /// More tokens or text.
    Delta = 1,
    /// Terminal: the request ran to its end.
    Finished = 2,
    /// Terminal: stopped from outside.
    Cancelled = 3,
    /// Terminal: failed.
    Failed = 4,
}

/// Counts and times of a finished request. Times in microseconds since submit, or durations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of these, tokens taken from the prefix cache.
    pub cached_tokens: u32,
    /// Tokens generated, those that completed a stop included.
    pub generated_tokens: u32,
    /// Times the request was preempted.
    pub preemptions: u32,
    /// Seed of the random stream.
    pub seed: u64,
    /// Submit to admission.
    pub queue_us: u64,
    /// Submit to first token.
    pub first_token_us: u64,
    /// Time in steps that computed the prompt.
    pub prefill_us: u64,
    /// First token to last.
    pub decode_us: u64,
    /// Submit to terminal event.
    pub total_us: u64,
}

/// What a request produced since the last event. Text may release the characters of several tokens, or none.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Kind.
    pub kind: EventKind,
    /// Set on terminal events.
    pub finish: FinishReason,
    /// The request.
    pub request_id: u64,
    /// The request's tag.
    pub tag: u64,
    /// Text that became certain; whole UTF-8.
    pub text: String,
    /// Tokens generated.
    pub tokens: Vec<u32>,
    /// Log probability of each token; empty when not asked for.
    pub logprobs: Vec<f32>,
    /// Alternatives reported for each token.
    pub top_count: u32,
    /// `[tokens.len()][top_count]` ids, best first.
    pub top_tokens: Vec<u32>,
    /// `[tokens.len()][top_count]` log probabilities.
    pub top_logprobs: Vec<f32>,
    /// Terminal only: log probability of each prompt token; the first is NaN.
    pub prompt_logprobs: Vec<f32>,
    /// Terminal only.
    pub usage: Option<Usage>,
    /// Failed only.
    pub error: Option<Error>,
    /// Tokens of the request's output before the first of these; of an event without tokens, all so far. A gap between one event's
    /// end and the next one's beginning is what was dropped by a cancel.
    pub first_token: u64,
    /// Bytes of the request's text before this, likewise.
    pub first_byte: u64,
    /// Of an event from [`super::Engine::next`]: keeps the request's next one back.
    pub(super) hold: super::Hold,
    /// Whether a NUL follows the text in its memory.
    pub(super) nul: super::Nul,
}

impl Event {
    /// Lets the request's next event come although this one is kept; dropping it does so too. Only events from
    /// [`super::Engine::next`] keep any back; a clone does not.
    pub fn release(&mut self) {
        self.hold = super::Hold::default();
    }

    /// Whether this is the last event of its request.
    pub fn terminal(&self) -> bool {
        self.kind != EventKind::Delta
    }
}

/// Facts about an open engine.
#[derive(Clone, Debug, Default)]
pub struct Info {
    /// `model_type` of the config.
    pub model_type: String,
    /// Name of the device, for people.
    pub device_name: String,
    /// Device that runs the model.
    pub device: Device,
    /// Tier of the CPU kernels.
    pub cpu_tier: CpuTier,
    /// Threads that compute.
    pub threads: u32,
    /// Precision of computation.
    pub compute: Type,
    /// How the matrices of the layers are stored: quantized, or the element type of most bytes of the weights; `None` of an
    /// engine for text only.
    pub weights: Option<Encoding>,
    /// Element type of the KV pages, i8 for [`Type::Q8`]; `None` of an engine for text only.
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
    /// First end-of-sequence token: of `generation_config.json`, else of `config.json`, else the tokenizer's. All of them end an
    /// answer.
    pub eos_token: Option<u32>,
    /// Whether the folder has a chat template.
    pub has_chat_template: bool,
}

/// One snapshot of an engine's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
}

impl EngineOptions {
    /// These options without the functions among them, which are for one thread at a time.
    pub(super) fn numbers(&self) -> EngineOptions {
        EngineOptions {
            no_mmap: self.no_mmap,
            text_only: self.text_only,
            touch_kv: self.touch_kv,
            device: self.device,
            device_index: self.device_index,
            relax_invariance: self.relax_invariance,
            gpu_low_priority: self.gpu_low_priority,
            gpu_blocking_wait: self.gpu_blocking_wait,
            cpu_tier: self.cpu_tier,
            compute: self.compute,
            weights: self.weights,
            weights_cache: self.weights_cache.clone(),
            kv: self.kv,
            delivery: self.delivery,
            log_level: self.log_level,
            thread_priority: self.thread_priority,
            threads: self.threads,
            max_running: self.max_running,
            max_waiting: self.max_waiting,
            context_length: self.context_length,
            page_tokens: self.page_tokens,
            step_tokens: self.step_tokens,
            duty_work_us: self.duty_work_us,
            duty_interval_us: self.duty_interval_us,
            memory_budget: self.memory_budget,
            affinity_mask: self.affinity_mask,
            policy: self.policy,
            progress: None,
            log: None,
            wake: None,
            trace: None,
        }
    }
}

impl RequestOptions {
    /// Tokens the event queue holds before the request is paused.
    pub fn queue_tokens_or_default(&self) -> usize {
        if self.queue_tokens == 0 { limits::QUEUE_TOKENS_DEFAULT } else { self.queue_tokens as usize }
    }
}
