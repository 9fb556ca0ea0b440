//! Every struct and callback type of the header. Layouts are part of the ABI: structs grow at the tail
//! only, and `tests/c/layout.c` pins the offset of every field.

pub use super::constants::*;
use std::ffi::{c_char, c_void};

/// A model opened by astrai_engine_open; freed by astrai_engine_free.
pub struct astrai_engine {
    _opaque: [u8; 0],
}

/// What is asked of a model; made by astrai_prompt_new, freed by astrai_prompt_free.
pub struct astrai_prompt {
    _opaque: [u8; 0],
}

/// What a request wants beside numbers: stops, biases, a constraint; made by astrai_settings_new, freed by
/// astrai_settings_free.
pub struct astrai_settings {
    _opaque: [u8; 0],
}

/// What answers may be; made by astrai_constraint_compile, freed by astrai_constraint_free.
pub struct astrai_constraint {
    _opaque: [u8; 0],
}

/// A submitted request; made by astrai_submit, freed by astrai_request_free.
pub struct astrai_request {
    _opaque: [u8; 0],
}

/// A beginning of prompts that stays in memory; made by astrai_prefix_pin or astrai_prefix_restore, freed by
/// astrai_prefix_free.
pub struct astrai_prefix {
    _opaque: [u8; 0],
}

/// An HTTP server in front of an engine; made by astrai_server_start, ended and freed by astrai_server_stop.
pub struct astrai_server {
    _opaque: [u8; 0],
}

/// What went wrong, where, and what to do next. Library-owned: free with astrai_error_free, except inside an event.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct astrai_error {
    /// Set by the library.
    pub struct_size: u32,
    /// ASTRAI_ERR_*
    pub status: i32,
    /// errno or GetLastError(); 0 when the system had no part in it.
    pub os_code: i32,
    /// ASTRAI_UNIT_* of the two numbers.
    pub unit: i32,
    /// What was asked for.
    pub needed: u64,
    /// What is there.
    pub available: u64,
    /// One or two sentences in UTF-8.
    pub message: *const c_char,
    /// Length of message in bytes.
    pub message_len: usize,
    /// A path, a tensor, an option; "" when there is none.
    pub subject: *const c_char,
    /// Length of subject in bytes.
    pub subject_len: usize,
}

/// Counts and times of a request that ended; lives inside its event. Times are in microseconds.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct astrai_usage {
    /// Set by the library.
    pub struct_size: u32,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of these, tokens taken from the prefix cache.
    pub cached_tokens: u32,
    /// Tokens generated, those that completed a stop included.
    pub generated_tokens: u32,
    /// Times the request gave up its memory to others and came back.
    pub preemptions: u32,
    /// Of the tokens generated, those after which the answer stood in its reasoning.
    pub reasoning_tokens: u32,
    /// Seed of the random numbers; set it with ASTRAI_REQUEST_SEEDED to get the same tokens again.
    pub seed: u64,
    /// From submit until the request began to run.
    pub queue_us: u64,
    /// From submit to the first token.
    pub first_token_us: u64,
    /// In the steps that computed the prompt.
    pub prefill_us: u64,
    /// From the first token to the end of the request.
    pub decode_us: u64,
    /// From submit to the end.
    pub total_us: u64,
    /// Drafts that were computed; see ASTRAI_SPECULATE_*.
    pub drafted_tokens: u32,
    /// Of these, tokens of the answer: so many steps fewer.
    pub accepted_tokens: u32,
}

/// What a request produced since its last event. Branch on terminal; ignore unknown kinds; any kind may carry text.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct astrai_event {
    /// Set by the library.
    pub struct_size: u32,
    /// ASTRAI_EVENT_*
    pub kind: i32,
    /// 1 when this is the last event of its request, else 0.
    pub terminal: i32,
    /// ASTRAI_FINISH_*
    pub finish_reason: i32,
    /// As astrai_request_id().
    pub request_id: u64,
    /// As in the request's options.
    pub tag: u64,
    /// Text that became certain: whole UTF-8 characters, without a stop string, and without special tokens unless
    /// ASTRAI_REQUEST_SPECIAL asks for them. Of an answer to messages it is the content, without reasoning and calls, unless
    /// ASTRAI_REQUEST_RAW_TEXT asks for all. May release 0 to n tokens.
    pub text: *const c_char,
    /// Length of text in bytes.
    pub text_len: usize,
    /// The tokens generated; NULL when token_count is 0.
    pub tokens: *const i32,
    /// [token_count] log probabilities; NULL when not asked for.
    pub logprobs: *const f32,
    /// Number of tokens.
    pub token_count: u32,
    /// Alternatives for each token.
    pub top_count: u32,
    /// [token_count][top_count] ids, best first; NULL when not asked for.
    pub top_tokens: *const i32,
    /// [token_count][top_count] log probabilities.
    pub top_logprobs: *const f32,
    /// Terminal only: [prompt_count] log probabilities of the prompt, the first is NaN; NULL when not asked for.
    pub prompt_logprobs: *const f32,
    /// Number of prompt_logprobs.
    pub prompt_count: usize,
    /// Terminal only, else NULL.
    pub usage: *const astrai_usage,
    /// ASTRAI_EVENT_FAILED only, else NULL.
    pub error: *const astrai_error,
    /// Index of the first token in the request's output; of an event without tokens, how many there were. What a cancel dropped
    /// is missing between one event's end and the next one's first.
    pub first_token: u64,
    /// Index of the first byte of text in the request's text, likewise.
    pub first_byte: u64,
    /// Terminal only, of a constrained request: 1 when the answer meets the constraint as it is, 0 when it does not, as it was cut;
    /// else -1.
    pub complete: i32,
    /// ASTRAI_FORMAT_*: whether the answer was read into parts.
    pub format: i32,
    /// Number of parts that the event has something of; see astrai_event_part().
    pub part_count: u32,
    /// 0.
    pub reserved: u32,
    /// Terminal only, of a request with ASTRAI_REQUEST_EMBED that finished: [embedding_len] numbers; else NULL.
    pub embedding: *const f32,
    /// Number of embedding.
    pub embedding_len: usize,
}

/// What an event has of a part of the answer. Caller-owned: set struct_size; its pointers live as long as the event.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct astrai_part {
    /// In: sizeof(astrai_part). Out: the bytes that were filled.
    pub struct_size: u32,
    /// ASTRAI_PART_CONTENT, ASTRAI_PART_REASONING or ASTRAI_PART_CALL.
    pub kind: i32,
    /// Number of the part in the answer, from 0.
    pub index: u32,
    /// Of a call: its number among the calls, from 0; else -1.
    pub call: i32,
    /// 1 where the part begins, else 0.
    pub begins: i32,
    /// ASTRAI_PART_OPEN, or how the part ends: ASTRAI_PART_COMPLETE, ASTRAI_PART_UNCLOSED or ASTRAI_PART_MALFORMED.
    pub ends: i32,
    /// New text of the part: of a call its arguments, as JSON.
    pub text: *const c_char,
    /// Length of text in bytes.
    pub text_len: usize,
    /// The name of the tool, where a call begins; else "".
    pub name: *const c_char,
    /// Length of name in bytes.
    pub name_len: usize,
    /// The id of the call, where it begins: the model's or one of the library's; else "". astrai_prompt_add_result() takes it.
    pub call_id: *const c_char,
    /// Length of call_id in bytes.
    pub call_id_len: usize,
}

/// Receives an event. The event and all it points to die when the callback returns. Nonzero stops the request.
pub type astrai_event_fn = Option<unsafe extern "C" fn(user_data: *mut c_void, event: *const astrai_event) -> i32>;
/// Load progress in bytes, on the opener's thread. Nonzero aborts: open returns ASTRAI_ERR_ABORTED.
pub type astrai_progress_fn = Option<unsafe extern "C" fn(user_data: *mut c_void, done: u64, total: u64) -> i32>;
/// Receives a log line, on the opener's or a dispatch thread (POLL: inside the host's calls). The text dies when the
/// callback returns.
pub type astrai_log_fn =
    Option<unsafe extern "C" fn(user_data: *mut c_void, level: i32, text: *const c_char, len: usize)>;
/// With ASTRAI_DELIVER_POLL: there is something to poll. At most once until the next poll begins, and not for what is
/// pulled. The only callback on a library thread then, one that does nothing else: one that takes its time delays no token, only
/// itself and close.
pub type astrai_wake_fn = Option<unsafe extern "C" fn(user_data: *mut c_void)>;
/// The library is done with user_data. Exactly once, after the last callback that gets it, even if the call failed.
pub type astrai_finalize_fn = Option<unsafe extern "C" fn(user_data: *mut c_void)>;

/// Options of astrai_engine_open; 0 means automatic. Fill with astrai_engine_options_init first.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct astrai_engine_options {
    /// sizeof(astrai_engine_options), set by astrai_engine_options_init.
    pub struct_size: u32,
    /// ASTRAI_ENGINE_*
    pub flags: u32,
    /// ASTRAI_DEVICE_*
    pub device: i32,
    /// Which of the devices of that kind.
    pub device_index: i32,
    /// ASTRAI_TIER_*
    pub cpu_tier: i32,
    /// ASTRAI_TYPE_* of computation; F32 is the reference mode.
    pub compute: i32,
    /// ASTRAI_TYPE_* of weights; AUTO keeps them as stored. Q8, Q5 and Q4 quantize the matrices of the layers while the
    /// engine opens, the value projections and the output matrix always to 8 bits; their inputs are 8-bit then, also with compute
    /// F32.
    pub weights: i32,
    /// ASTRAI_TYPE_* of the KV cache; AUTO follows compute, Q5 and Q4 are not supported.
    pub kv: i32,
    /// ASTRAI_DELIVER_*
    pub delivery: i32,
    /// ASTRAI_LOG_*
    pub log_level: i32,
    /// Of the engine's threads: negative is below the opener's (Linux: so much nicer), 0 the same. What the system does
    /// not grant is a warning in the log.
    pub thread_priority: i32,
    /// Threads that compute; 0 = physical cores.
    pub threads: u32,
    /// Requests that run at once.
    pub max_running: u32,
    /// Requests that wait; more are refused with ASTRAI_ERR_QUEUE_FULL.
    pub max_waiting: u32,
    /// In tokens; 0 = the model's, as far as memory_budget allows. At most as long as config.json allows, where a rotary
    /// scaling may reach beyond max_position_embeddings.
    pub context_length: u32,
    /// Tokens of a page of the KV cache.
    pub page_tokens: u32,
    /// Tokens computed in one step.
    pub step_tokens: u32,
    /// Work at most so long in every duty_interval_us, as astrai_engine_set_duty; both 0 = no limit.
    pub duty_work_us: u32,
    /// The interval of duty_work_us, in microseconds.
    pub duty_interval_us: u32,
    /// With speculation or a draft_model: most drafts of a request in one step, at most 32; 0 = automatic. Fewer are tried where they are not worth
    /// their time.
    pub draft_tokens: u32,
    /// Bytes for weights, KV cache and workspace together, on a GPU of its memory; astrai_engine_plan says what they take,
    /// and whether the system has them: a budget beyond that is a warning in the log. 0 = no bound, but the KV cache is
    /// what the slots need, at most a quarter of free memory.
    pub memory_budget: u64,
    /// Processors the engine's threads may use, bit i = processor i; 0 = all. ERR_ARGUMENT: none of them may be used; some
    /// that may not, or a system without such masks: a warning in the log.
    pub affinity_mask: u64,
    /// Load progress; may be NULL.
    pub progress: astrai_progress_fn,
    /// Log lines; may be NULL.
    pub log: astrai_log_fn,
    /// With ASTRAI_DELIVER_POLL only.
    pub wake: astrai_wake_fn,
    /// Called when the engine is done with user_data; may be NULL.
    pub finalize: astrai_finalize_fn,
    /// Passed to the four above.
    pub user_data: *mut c_void,
    /// A folder, made if need be, where quantized weights are kept in a file: the next open of the same model maps them and
    /// makes none. It serves any number of models; who may write there decides what they say. A file that cannot be read or
    /// written costs a log line, not the engine.
    /// NULL: they are made at each open. The string is read during the call.
    pub weights_cache: *const c_char,
    /// 1, as astrai_engine_options_init sets it: a token never depends on the other requests. 0: on a GPU it may, where
    /// that is faster.
    pub invariant: i32,
    /// ASTRAI_SPECULATE_*: where drafts come from; 0 = there are none. No token and no log probability depends on it.
    pub speculation: u32,
    /// A smaller model of the same vocabulary that drafts, too: a folder or a GGUF file, opened for the same device in the same formats; it
    /// takes at most a quarter of a memory_budget. NULL: none. The string is read during the call.
    pub draft_model: *const c_char,
}

/// Options of astrai_submit. astrai_request_options_init sets -1 and NaN, which mean what the model's
/// generation_config.json says, else the default named here.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct astrai_request_options {
    /// sizeof(astrai_request_options), set by astrai_request_options_init.
    pub struct_size: u32,
    /// ASTRAI_REQUEST_*
    pub flags: u32,
    /// Echoed in every event.
    pub tag: u64,
    /// With ASTRAI_REQUEST_SEEDED: same model, prompt, options and seed give the same tokens.
    pub seed: u64,
    /// Most tokens to generate, 0 only scores the prompt; -1 = what the context leaves.
    pub max_tokens: i32,
    /// Draw among the k most probable tokens; 0 = all.
    pub top_k: i32,
    /// Higher is served first.
    pub priority: i32,
    /// -1 = none, 0 = of each token, k = also of the k best alternatives.
    pub logprobs: i32,
    /// Give up after this time; 0 = never.
    pub deadline_ms: u32,
    /// Tokens that may wait to be received before the request pauses; 0 = automatic. It pauses also when their text takes more
    /// than 16 bytes for each that may wait, 1024 at least. The memory for both is taken when the request begins to run.
    pub queue_tokens: u32,
    /// 0 = always the most probable token.
    pub temperature: f32,
    /// Draw from the smallest set of tokens with this probability in all; 1 = all.
    pub top_p: f32,
    /// Draw from tokens at least this fraction as probable as the best; 0 = all.
    pub min_p: f32,
    /// Makes tokens of prompt and output less likely; 1 = off.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens in the output; 0 = off.
    pub presence_penalty: f32,
    /// Subtracted from the logits once for each time the token is in the output; 0 = off.
    pub frequency_penalty: f32,
    /// Stops, biases, tools and the constraint, which are copied; NULL = none.
    pub settings: *const astrai_settings,
    /// Most tokens of reasoning, after which its end is written for the model, 0 = none; -1 = as many as it likes. Chats only.
    pub reasoning_tokens: i32,
    /// XTC: how often a token is drawn without the top choices; 0 = never, the default.
    pub xtc_probability: f32,
    /// XTC: the top choices are the tokens at least so probable after truncation, of which the least likely stays; default 0.1.
    pub xtc_threshold: f32,
    /// DRY: subtracted from the logit of a token that goes on with a repetition of the allowed length; 0 = off, the default.
    pub dry_multiplier: f32,
    /// DRY: what the penalty is multiplied by for each further token of the repetition; default 1.75.
    pub dry_base: f32,
    /// DRY: the least length, in tokens, of a repetition that has a penalty; -1 = 2.
    pub dry_allowed_length: i32,
    /// DRY: tokens of prompt and output that are looked at for repetitions, 0 = none; -1 = all.
    pub dry_penalty_last_n: i32,
    /// In an engine with speculation: most drafts of a step, where these are fewer than its options say, 0 = none; -1 = as those say.
    /// Requests with DRY and those whose tokens the host chooses have none.
    pub draft_tokens: i32,
}

/// Facts about an engine. Caller-owned: set struct_size; strings live until astrai_engine_free.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct astrai_info {
    /// In: sizeof(astrai_info). Out: the bytes that were filled.
    pub struct_size: u32,
    /// Tokens the model knows, padding included; 0 without weights.
    pub vocab_size: u32,
    /// Longest sequence of this engine, in tokens.
    pub context_length: u32,
    /// Layers of the model.
    pub layers: u32,
    /// ASTRAI_DEVICE_*
    pub device: i32,
    /// ASTRAI_TIER_*
    pub cpu_tier: i32,
    /// ASTRAI_TYPE_*
    pub compute: i32,
    /// Beginning of sequence; -1 = none.
    pub bos_token: i32,
    /// The first end-of-sequence token; -1 = none. Those of generation_config.json, of config.json and the tokenizer's
    /// eos_token all end an answer; this is the first of them in that order.
    pub eos_token: i32,
    /// 1 when the folder has a chat template, else 0.
    pub has_chat_template: i32,
    /// As in config.json.
    pub model_type: *const c_char,
    /// For people.
    pub device_name: *const c_char,
    /// How the model writes reasoning and calls: the name of a built-in format, or "response_template" where tokenizer_config.json
    /// says it; "" where it is not known.
    pub answer_format: *const c_char,
}

/// Options of astrai_server_start; 0 and NULL mean automatic. Fill with astrai_server_options_init first. Its strings end with a NUL
/// and are read during the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct astrai_server_options {
    /// sizeof(astrai_server_options), set by astrai_server_options_init.
    pub struct_size: u32,
    /// The port to listen at; 0 = one that is free.
    pub port: u32,
    /// The address to listen at; NULL = "127.0.0.1". Any other than loopback lets other machines ask.
    pub host: *const c_char,
    /// What requests call the model; NULL = "default". A request that names none means it, too.
    pub model_name: *const c_char,
    /// The key that each request must have; NULL = none is needed.
    pub api_key: *const c_char,
    /// Names by which the server may be called beside localhost, with commas between them; NULL = none.
    pub allowed_hosts: *const c_char,
    /// Priority of the server's requests; -1, as astrai_server_options_init sets it: after those of the program.
    pub priority: i32,
    /// 0.
    pub reserved: u32,
}

/// What memory an engine would take. Caller-owned: set struct_size. Tokenizer and bookkeeping are not counted.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct astrai_plan {
    /// In: sizeof(astrai_plan). Out: the bytes that were filled.
    pub struct_size: u32,
    /// 1 when total_bytes is at most available_bytes, else 0: then the numbers are the least that the options allow.
    pub fits: u32,
    /// Longest sequence, in tokens.
    pub context_length: u32,
    /// Sequences of context_length tokens that fit at the same time, at most max_running; of shorter ones more may run.
    pub max_sequences: u32,
    /// Weights the model uses: mapped from the files, or with ASTRAI_ENGINE_NO_MMAP copied; quantized ones are memory of the
    /// engine's own.
    pub weight_bytes: u64,
    /// All pages of the KV cache, and state_bytes.
    pub kv_bytes: u64,
    /// Activations, logits and scratch.
    pub workspace_bytes: u64,
    /// The three together, and constraint_bytes where the engine has no GPU.
    pub total_bytes: u64,
    /// The smaller of memory_budget and the memory that can be had: what is free, what the process's control groups (a
    /// container's limit) leave, and its own limits; on a GPU its free memory. 0 when nothing says.
    pub available_bytes: u64,
    /// Tokens the KV cache holds.
    pub kv_tokens: u64,
    /// KV cache for each token in all layers. Layers with a sliding window keep fewer: their pages are at most kv_tokens times this.
    pub kv_bytes_per_token: u64,
    /// The vocabulary as constraints need it, in the machine's memory; 0 without ASTRAI_ENGINE_CONSTRAINTS.
    pub constraint_bytes: u64,
    /// States of layers that keep one instead of what each token leaves: of sequences that run two each, and those of the prefix
    /// cache. A part of kv_bytes; 0 for models without such layers.
    pub state_bytes: u64,
}

/// Counters of an engine, one consistent snapshot. Caller-owned: set struct_size.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct astrai_stats {
    /// In: sizeof(astrai_stats). Out: the bytes that were filled.
    pub struct_size: u32,
    /// Requests that run.
    pub running: u32,
    /// Requests that wait to run.
    pub waiting: u32,
    /// Requests that pause because nobody receives their tokens.
    pub stalled: u32,
    /// Pages of the KV cache that belong to requests.
    pub pages_used: u64,
    /// Pages kept for prompts that begin alike.
    pub pages_cached: u64,
    /// Pages that are free.
    pub pages_free: u64,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_tokens_seen: u64,
    /// Prompt tokens found there.
    pub prefix_tokens_hit: u64,
    /// Requests that gave up their memory to others and came back.
    pub preemptions: u64,
    /// Cached pages given up for new ones.
    pub evictions: u64,
    /// Prompt tokens received.
    pub tokens_in: u64,
    /// Tokens generated.
    pub tokens_out: u64,
    /// Requests that ran to their end.
    pub finished: u64,
    /// Requests stopped from outside.
    pub cancelled: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Steps of the scheduler.
    pub steps: u64,
    /// Time in its phases, in microseconds: returning what ended.
    pub cleanup_us: u64,
    /// Admitting what waited.
    pub refill_us: u64,
    /// Steps with prompts.
    pub prefill_us: u64,
    /// Steps with generated tokens only.
    pub decode_us: u64,
    /// Time that requests waited, added up.
    pub queue_us: u64,
    /// Log lines that were dropped.
    pub log_dropped: u64,
    /// Drafts that were computed.
    pub drafted_tokens: u64,
    /// Of these, tokens of answers.
    pub accepted_tokens: u64,
    /// Time that they have saved, in microseconds, as far as the times of other steps tell.
    pub saved_us: u64,
}

#[cfg(test)]
#[path = "types_tests.rs"]
mod tests;
