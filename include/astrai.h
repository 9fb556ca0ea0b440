/* libastrai: a serving engine for language models inside any process.
 *
 * Open a model folder, submit prompts from any thread, receive tokens through a callback or by pulling. The shortest
 * whole program is examples-c/stream.c; build it with
 *
 *   cc -std=c99 examples-c/stream.c -Iinclude -Ltarget/release -lastrai -Wl,-rpath,$PWD/target/release -o stream
 *
 * CONTRACT
 * [A] any thread, any time, also in callbacks; never waits for a step of the engine.
 * [B] may block: inside any engine's callback ASTRAI_ERR_REENTRANT (timeout_ms 0 excepted, but for poll).
 * [S] one thread at a time per handle, else ASTRAI_ERR_BUSY; never undefined behaviour.
 * Inputs are copied. Paths: NUL-terminated UTF-8, on Windows too. Text: pointer and length; NULL only with length 0.
 * Output text: never NULL, whole UTF-8, may hold U+0000; a NUL follows that the length does not count.
 * Status: below 10 is not an error; ERR_X in a comment is ASTRAI_ERR_X. err may be NULL; else it is always written,
 * NULL if the status is below 10; free it with astrai_error_free. Other outputs are written only on OK
 * (ASTRAI_ERR_BUFFER also sets *count).
 * Caller structs: struct_size bounds reads and writes; 0, unknown flag bits and nonzero reserved fields are errors.
 * Library structs: the library sets struct_size; ASTRAI_HAS guards fields newer than ABI 1.
 * Arrays hold scalars. Structs hold no bool, enum, long or struct, and grow only at their end.
 * timeout_ms: 0 polls, -1 is forever.
 * Callbacks: the C calling convention, never unwind or longjmp. They run on a dispatch thread of the engine, progress
 * on the opener's, log on any thread that works for the engine. With ASTRAI_DELIVER_POLL all of them, finalizers too, run
 * on the host's threads, inside open, poll, wait, close and free only; wake alone runs on library threads.
 * Stack: a calling thread, or a fiber, needs 64 KiB. What may need more (open, plan, templates, tokenizer, JSON) runs on a
 * thread of the library while the caller has less left and waits; its callbacks run on the caller's then too. A thread that
 * cannot be had is ASTRAI_ERR_MEMORY. Callbacks on threads of the library have 1 MiB.
 * Floating point: how the host rounds or treats denormals changes no result, and callbacks on its threads find it as it was.
 * After close, next and wait still yield what is there, cancel and free are fine; all else is ASTRAI_ERR_CLOSED.
 * free(NULL) is fine; NULL elsewhere is ASTRAI_ERR_ARGUMENT unless said otherwise.
 * Handles keep what they need alive: free them in any order.
 * A forked child gets ASTRAI_ERR_FORKED from engines, requests and prefixes of its parent.
 * Nothing here prints, exits, installs a signal handler, or touches the environment or the network. An allocation that the
 * system refuses is ASTRAI_ERR_MEMORY, of the call or in a request's terminal event. So that this holds for the smallest ones,
 * the library has 16 MiB of static memory, shared by its engines and touched only when there is none left. (The exception is
 * the C library's own: glibc ends a process that has no memory for the thread-local variables of a library that was loaded
 * with dlopen, on a thread's first call.)
 *
 * Generated from src/ffi by cbindgen. Do not edit. */

#ifndef ASTRAI_H
#define ASTRAI_H

#include <stddef.h>
#include <stdint.h>

/* Whether the struct at p is new enough to have field f of type T. */
#define ASTRAI_HAS(p, T, f) ((p)->struct_size >= offsetof(T, f) + sizeof((p)->f))

/* -- version ----------------------------------------------------------------- */

/// Version of the ABI this header describes; compare with astrai_abi_version().
#define ASTRAI_ABI_VERSION 1

/* -- status; below 10 is not an error ---------------------------------------- */

/// The call did what it says.
#define ASTRAI_OK 0
/// The time ran out; nothing changed, unless the function says otherwise.
#define ASTRAI_TIMEOUT 1
/// The stream has ended; there is nothing more to read.
#define ASTRAI_END 2
/// An argument or option value is not allowed.
#define ASTRAI_ERR_ARGUMENT 10
/// struct_size is zero, too small, or larger than this library knows with unknown fields set.
#define ASTRAI_ERR_STRUCT_SIZE 11
/// The handle is of another kind or was freed.
#define ASTRAI_ERR_HANDLE 12
/// A blocking call inside a callback.
#define ASTRAI_ERR_REENTRANT 13
/// Another thread is using a one-thread-at-a-time handle.
#define ASTRAI_ERR_BUSY 14
/// The engine is closed, or closing.
#define ASTRAI_ERR_CLOSED 15
/// The process forked after the engine was opened.
#define ASTRAI_ERR_FORKED 16
/// A callback asked to stop.
#define ASTRAI_ERR_ABORTED 17
/// The caller's buffer is too small; *count holds the capacity that is needed.
#define ASTRAI_ERR_BUFFER 18
/// The operating system refused a file operation; os_code says why.
#define ASTRAI_ERR_IO 19
/// A file is not what its format demands.
#define ASTRAI_ERR_FORMAT 20
/// Valid, but nothing this build can do.
#define ASTRAI_ERR_UNSUPPORTED 21
/// The chat template failed, or raised an error, whose message is the template's own.
#define ASTRAI_ERR_TEMPLATE 22
/// Text is not valid UTF-8.
#define ASTRAI_ERR_UTF8 23
/// The prompt is longer than the context, which is never longer than what the KV memory holds; needed and available are in
/// tokens.
#define ASTRAI_ERR_CONTEXT 24
/// Memory could not be had.
#define ASTRAI_ERR_MEMORY 26
/// Too many requests are waiting.
#define ASTRAI_ERR_QUEUE_FULL 27
/// A saved state belongs to another model or configuration.
#define ASTRAI_ERR_MISMATCH 28
/// The device failed or is not there.
#define ASTRAI_ERR_DEVICE 29
/// A defect of the library itself.
#define ASTRAI_ERR_INTERNAL 30

/* -- unit of an error's numbers ---------------------------------------------- */

/// needed and available of an error are not set.
#define ASTRAI_UNIT_NONE 0
/// They count bytes.
#define ASTRAI_UNIT_BYTES 1
/// They count tokens.
#define ASTRAI_UNIT_TOKENS 2
/// They count things one by one.
#define ASTRAI_UNIT_COUNT 3

/* -- kind of an event -------------------------------------------------------- */

/// More tokens or text; the request goes on.
#define ASTRAI_EVENT_DELTA 1
/// Terminal: the request ran to its end.
#define ASTRAI_EVENT_FINISHED 2
/// Terminal: stopped from outside.
#define ASTRAI_EVENT_CANCELLED 3
/// Terminal: failed; the event carries the error.
#define ASTRAI_EVENT_FAILED 4

/* -- why a request ended ----------------------------------------------------- */

/// The request has not ended.
#define ASTRAI_FINISH_NONE 0
/// The model ended the sequence.
#define ASTRAI_FINISH_EOS 1
/// A stop string or stop token was produced.
#define ASTRAI_FINISH_STOP 2
/// max_tokens were produced, or the context is full.
#define ASTRAI_FINISH_LENGTH 3
/// astrai_request_cancel, astrai_engine_cancel_all, or the handle was freed.
#define ASTRAI_FINISH_CANCEL 4
/// The callback returned nonzero.
#define ASTRAI_FINISH_CALLBACK 5
/// The deadline passed.
#define ASTRAI_FINISH_DEADLINE 6
/// The engine was closed.
#define ASTRAI_FINISH_CLOSE 7
/// An error ended it.
#define ASTRAI_FINISH_ERROR 8

/* -- device ------------------------------------------------------------------ */

/// The GPU of device_index if the library was built for it and it holds the model, else the CPU; a log line says why.
#define ASTRAI_DEVICE_AUTO 0
/// The CPU.
#define ASTRAI_DEVICE_CPU 1
/// The NVIDIA GPU of device_index; ASTRAI_ERR_UNSUPPORTED from a library built without it, ASTRAI_ERR_DEVICE without driver.
#define ASTRAI_DEVICE_CUDA 2

/* -- element type ------------------------------------------------------------ */

/// Chosen by the library.
#define ASTRAI_TYPE_AUTO 0
/// IEEE binary32.
#define ASTRAI_TYPE_F32 1
/// bfloat16.
#define ASTRAI_TYPE_BF16 2
/// 8-bit integers with factors: of weights one for each group, of the KV cache one for each token and head.
#define ASTRAI_TYPE_Q8 3
/// 4-bit codes into a table of sixteen values, with factors, of weights only.
#define ASTRAI_TYPE_Q4 4
/// Of weights only: Q4, with Q8 where it pays most; some 5 bits a weight.
#define ASTRAI_TYPE_Q5 5

/* -- instruction set of the CPU ---------------------------------------------- */

/// The fastest instruction set this processor has.
#define ASTRAI_TIER_AUTO 0
/// Plain loops in f32: the specification of all others.
#define ASTRAI_TIER_REFERENCE 1
/// What every processor of the architecture has.
#define ASTRAI_TIER_PORTABLE 2
/// Arm NEON.
#define ASTRAI_TIER_NEON 3
/// AVX2 with FMA.
#define ASTRAI_TIER_AVX2 4
/// AVX-512.
#define ASTRAI_TIER_AVX512 5
/// Intel AMX. Opening an engine asks Linux to let the process use it, for good; Auto does the same where it is there.
#define ASTRAI_TIER_AMX 6

/* -- delivery of callbacks --------------------------------------------------- */

/// Callbacks run on a dispatch thread of the library.
#define ASTRAI_DELIVER_THREAD 0
/// Callbacks, finalizers and log lines run inside open, poll, wait, close and free only, on the thread that calls.
#define ASTRAI_DELIVER_POLL 1

/* -- log level --------------------------------------------------------------- */

/// No log lines.
#define ASTRAI_LOG_OFF 0
/// Failures of the engine.
#define ASTRAI_LOG_ERROR 1
/// Things a developer should know.
#define ASTRAI_LOG_WARN 2
/// Open, close, configuration.
#define ASTRAI_LOG_INFO 3
/// Details.
#define ASTRAI_LOG_DEBUG 4

/* -- flags of an engine ------------------------------------------------------ */

/// astrai_engine_options.flags: read the weights into memory instead of mapping the files.
#define ASTRAI_ENGINE_NO_MMAP 1
/// astrai_engine_options.flags: tokenizer and template only, no weights.
#define ASTRAI_ENGINE_TEXT_ONLY 2
/// astrai_engine_options.flags: on a GPU give way to its other work, such as a game's rendering.
#define ASTRAI_ENGINE_GPU_LOW_PRIORITY 4
/// astrai_engine_options.flags: sleep while the GPU works, instead of watching for its end.
#define ASTRAI_ENGINE_GPU_BLOCKING_WAIT 8
/// astrai_engine_options.flags: write every page of the KV cache in open: memory that cannot be had is ERR_MEMORY there, and
/// not the end of the process when it is used. What cannot be seen to be there is not written.
#define ASTRAI_ENGINE_TOUCH_KV 16
/// astrai_engine_options.flags: make what constraints need of the vocabulary while the engine opens, and count it in the plan.
/// Without it the first constraint or call of a tool makes it, which takes up to a second then.
#define ASTRAI_ENGINE_CONSTRAINTS 32
/// astrai_engine_options.speculation: drafts are what followed the last words of a request earlier in its own text, prompt or
/// answer. A step computes them with the token before them, and gives several tokens where they were right.
#define ASTRAI_SPECULATE_OWN_TEXT 1
/// astrai_engine_options.speculation: drafts also come from the answers of the engine's earlier requests. Then how fast an answer
/// comes may tell what others were about.
#define ASTRAI_SPECULATE_SHARED_TEXTS 2

/* -- flags of a request ------------------------------------------------------ */

/// astrai_request_options.flags: seed is set; without it a random one is drawn and reported in the usage.
#define ASTRAI_REQUEST_SEEDED 1
/// astrai_request_options.flags: go on after an end-of-sequence token.
#define ASTRAI_REQUEST_IGNORE_EOS 2
/// astrai_request_options.flags: report the log probability of every prompt token.
#define ASTRAI_REQUEST_PROMPT_LOGPROBS 4
/// astrai_request_options.flags: template and tokenizer run on a thread of the engine; their errors, and a prompt that
/// is empty or too long, become an ASTRAI_EVENT_FAILED.
#define ASTRAI_REQUEST_DEFER 8
/// astrai_request_options.flags: events go to a queue of the engine, read with astrai_engine_next; on_event is NULL.
#define ASTRAI_REQUEST_TO_ENGINE 16
/// astrai_request_options.flags: special tokens have their names in the text of events, as a model's marker of a tool call
/// needs; without it they have no text. A token that ends the answer has none either way: tokens has its id.
#define ASTRAI_REQUEST_SPECIAL 32
/// astrai_request_options.flags: the text of events is all that the model wrote, with its reasoning, its calls and the markers
/// around them. Without it the text of an answer to messages is its content alone. Events have parts either way.
#define ASTRAI_REQUEST_RAW_TEXT 64
/// astrai_request_options.flags: the host chooses every token, by astrai_request_logits and astrai_request_choose. Until it has, the
/// request has no part in the engine's steps, and nobody waits for it.
#define ASTRAI_REQUEST_HOST_LOGITS 128
/// astrai_request_options.flags: nothing is generated; the last event has the embedding of the prompt, which is of text or tokens.
/// Pooling and what follows are those of the model's modules.json; without one it is the state of the last token, divided by its
/// norm. Options about tokens are to be left unset. The request ends with ASTRAI_FINISH_LENGTH. ERR_UNSUPPORTED: the model's files
/// ask for something that is not computed here.
#define ASTRAI_REQUEST_EMBED 256

/* -- how an answer is read --------------------------------------------------- */

/// The prompt is not made of messages: its answer is one part, of content.
#define ASTRAI_FORMAT_TEXT 0
/// How the model writes reasoning and calls is not known: all of the answer is content.
#define ASTRAI_FORMAT_UNKNOWN 1
/// The answer is read into reasoning, content and calls.
#define ASTRAI_FORMAT_KNOWN 2

/* -- kind of a part of an answer, and how it ends ---------------------------- */

/// Text for the reader.
#define ASTRAI_PART_CONTENT 0
/// What the model thought on its way to the answer.
#define ASTRAI_PART_REASONING 1
/// A call of a tool; its text is the arguments, as JSON.
#define ASTRAI_PART_CALL 2
/// The part goes on.
#define ASTRAI_PART_OPEN 0
/// The part ends, and is whole.
#define ASTRAI_PART_COMPLETE 1
/// The answer ended within the part.
#define ASTRAI_PART_UNCLOSED 2
/// A call that ends and whose arguments are not JSON as the format says; its text is what the model wrote.
#define ASTRAI_PART_MALFORMED 3

/* -- flags of a message ------------------------------------------------------ */

/// astrai_prompt_set_message_flags: names of special tokens in the message's content become those tokens, as most engines
/// always have it. Without it they are ordinary characters, so that what somebody writes makes no turn of the conversation. An
/// assistant's content always has them, because templates split it at its markers.
#define ASTRAI_MESSAGE_SPECIAL 1
/// astrai_prompt_set_message_flags: the message, the last one and an assistant's, is the start of the answer. The model goes
/// on where its content ends, and the events have only what is new. ASTRAI_TEXT_NO_GENERATION_PROMPT changes nothing then.
#define ASTRAI_MESSAGE_CONTINUE 2

/* -- flags of text functions ------------------------------------------------- */

/// Text flags: names of special tokens in raw text become those tokens; detokenize: keep special tokens.
#define ASTRAI_TEXT_SPECIAL 1
/// Text flags: do not open the assistant's turn after the messages.
#define ASTRAI_TEXT_NO_GENERATION_PROMPT 2

/* -- kind of a constraint ---------------------------------------------------- */

/// A JSON schema: the answer is a JSON value that it accepts.
#define ASTRAI_CONSTRAINT_JSON_SCHEMA 1
/// No text: the answer is any JSON value.
#define ASTRAI_CONSTRAINT_JSON 2
/// A regular expression, without look-around and back-references: the whole answer matches.
#define ASTRAI_CONSTRAINT_REGEX 3
/// A grammar in the Lark format, as llguidance extends it.
#define ASTRAI_CONSTRAINT_LARK 4
/// A JSON list of strings: the answer is one of them.
#define ASTRAI_CONSTRAINT_TEXTS 5
/// Added to one of these: the constraint is on all that the model writes, its reasoning, its calls and the markers around them, too.
/// Without it the answer to messages, of a model whose format is known, has it on the content, which follows the reasoning.
#define ASTRAI_CONSTRAINT_WHOLE 256

/* -- choice of tools --------------------------------------------------------- */

/// The model calls tools as it likes.
#define ASTRAI_TOOLS_AUTO 0
/// The answer calls no tool.
#define ASTRAI_TOOLS_NONE 1
/// The answer is calls, at least one.
#define ASTRAI_TOOLS_REQUIRED 2
/// As ASTRAI_TOOLS_REQUIRED, of the tool of this name.
#define ASTRAI_TOOLS_NAMED 3
/// astrai_settings_set_tool_choice: an answer has one call at most.
#define ASTRAI_TOOLS_SINGLE_CALL 1
/// astrai_settings_set_tool_choice: with ASTRAI_TOOLS_AUTO calls of every tool are as its schema demands, not only of those that say
/// "strict": true.
#define ASTRAI_TOOLS_CONSTRAIN 2

/* -- parts of a chat as JSON ------------------------------------------------- */

/// A JSON array of messages, each an object with a role; replaces the messages there are.
#define ASTRAI_JSON_MESSAGES 1
/// A JSON array of tools for the chat template.
#define ASTRAI_JSON_TOOLS 2
/// A JSON object of further variables for the chat template.
#define ASTRAI_JSON_VARIABLES 3

/// What answers may be; made by astrai_constraint_compile, freed by astrai_constraint_free.
typedef struct astrai_constraint astrai_constraint;

/* -- types ------------------------------------------------------------------- */

/// A model opened by astrai_engine_open; freed by astrai_engine_free.
typedef struct astrai_engine astrai_engine;

/// A beginning of prompts that stays in memory; made by astrai_prefix_pin or astrai_prefix_restore, freed by
/// astrai_prefix_free.
typedef struct astrai_prefix astrai_prefix;

/// What is asked of a model; made by astrai_prompt_new, freed by astrai_prompt_free.
typedef struct astrai_prompt astrai_prompt;

/// A submitted request; made by astrai_submit, freed by astrai_request_free.
typedef struct astrai_request astrai_request;

/// An HTTP server in front of an engine; made by astrai_server_start, ended and freed by astrai_server_stop.
typedef struct astrai_server astrai_server;

/// What a request wants beside numbers: stops, biases, a constraint; made by astrai_settings_new, freed by
/// astrai_settings_free.
typedef struct astrai_settings astrai_settings;

/// Load progress in bytes, on the opener's thread. Nonzero aborts: open returns ASTRAI_ERR_ABORTED.
typedef int32_t (*astrai_progress_fn)(void *user_data, uint64_t done, uint64_t total);

/// Receives a log line, on the opener's or a dispatch thread (POLL: inside the host's calls). The text dies when the
/// callback returns.
typedef void (*astrai_log_fn)(void *user_data, int32_t level, const char *text, size_t len);

/// With ASTRAI_DELIVER_POLL: there is something to poll. At most once until the next poll begins, and not for what is
/// pulled. The only callback on a library thread then, one that does nothing else: one that takes its time delays no token, only
/// itself and close.
typedef void (*astrai_wake_fn)(void *user_data);

/// The library is done with user_data. Exactly once, after the last callback that gets it, even if the call failed.
typedef void (*astrai_finalize_fn)(void *user_data);

/// Options of astrai_engine_open; 0 means automatic. Fill with astrai_engine_options_init first.
typedef struct astrai_engine_options {
  /// sizeof(astrai_engine_options), set by astrai_engine_options_init.
  uint32_t struct_size;
  /// ASTRAI_ENGINE_*
  uint32_t flags;
  /// ASTRAI_DEVICE_*
  int32_t device;
  /// Which of the devices of that kind.
  int32_t device_index;
  /// ASTRAI_TIER_*
  int32_t cpu_tier;
  /// ASTRAI_TYPE_* of computation; F32 is the reference mode.
  int32_t compute;
  /// ASTRAI_TYPE_* of weights; AUTO keeps them as stored. Q8, Q5 and Q4 quantize the matrices of the layers while the
  /// engine opens, the value projections and the output matrix always to 8 bits; their inputs are 8-bit then, also with compute
  /// F32.
  int32_t weights;
  /// ASTRAI_TYPE_* of the KV cache; AUTO follows compute, Q5 and Q4 are not supported.
  int32_t kv;
  /// ASTRAI_DELIVER_*
  int32_t delivery;
  /// ASTRAI_LOG_*
  int32_t log_level;
  /// Of the engine's threads: negative is below the opener's (Linux: so much nicer), 0 the same. What the system does
  /// not grant is a warning in the log.
  int32_t thread_priority;
  /// Threads that compute; 0 = physical cores.
  uint32_t threads;
  /// Requests that run at once.
  uint32_t max_running;
  /// Requests that wait; more are refused with ASTRAI_ERR_QUEUE_FULL.
  uint32_t max_waiting;
  /// In tokens; 0 = the model's, as far as memory_budget allows. At most as long as config.json allows, where a rotary
  /// scaling may reach beyond max_position_embeddings.
  uint32_t context_length;
  /// Tokens of a page of the KV cache.
  uint32_t page_tokens;
  /// Tokens computed in one step.
  uint32_t step_tokens;
  /// Work at most so long in every duty_interval_us, as astrai_engine_set_duty; both 0 = no limit.
  uint32_t duty_work_us;
  /// The interval of duty_work_us, in microseconds.
  uint32_t duty_interval_us;
  /// With speculation or a draft_model: most drafts of a request in one step, at most 32; 0 = automatic. Fewer are tried where they are not worth
  /// their time.
  uint32_t draft_tokens;
  /// Bytes for weights, KV cache and workspace together, on a GPU of its memory; astrai_engine_plan says what they take,
  /// and whether the system has them: a budget beyond that is a warning in the log. 0 = no bound, but the KV cache is
  /// what the slots need, at most a quarter of free memory.
  uint64_t memory_budget;
  /// Processors the engine's threads may use, bit i = processor i; 0 = all. ERR_ARGUMENT: none of them may be used; some
  /// that may not, or a system without such masks: a warning in the log.
  uint64_t affinity_mask;
  /// Load progress; may be NULL.
  astrai_progress_fn progress;
  /// Log lines; may be NULL.
  astrai_log_fn log;
  /// With ASTRAI_DELIVER_POLL only.
  astrai_wake_fn wake;
  /// Called when the engine is done with user_data; may be NULL.
  astrai_finalize_fn finalize;
  /// Passed to the four above.
  void *user_data;
  /// A folder, made if need be, where quantized weights are kept in a file: the next open of the same model maps them and
  /// makes none. It serves any number of models; who may write there decides what they say. A file that cannot be read or
  /// written costs a log line, not the engine.
  /// NULL: they are made at each open. The string is read during the call.
  const char *weights_cache;
  /// 1, as astrai_engine_options_init sets it: a token never depends on the other requests. 0: on a GPU it may, where
  /// that is faster.
  int32_t invariant;
  /// ASTRAI_SPECULATE_*: where drafts come from; 0 = there are none. No token and no log probability depends on it.
  uint32_t speculation;
  /// A smaller model of the same vocabulary that drafts, too: a folder or a GGUF file, opened for the same device in the same formats; it
  /// takes at most a quarter of a memory_budget. NULL: none. The string is read during the call.
  const char *draft_model;
} astrai_engine_options;

/// Options of astrai_submit. astrai_request_options_init sets -1 and NaN, which mean what the model's
/// generation_config.json says, else the default named here.
typedef struct astrai_request_options {
  /// sizeof(astrai_request_options), set by astrai_request_options_init.
  uint32_t struct_size;
  /// ASTRAI_REQUEST_*
  uint32_t flags;
  /// Echoed in every event.
  uint64_t tag;
  /// With ASTRAI_REQUEST_SEEDED: same model, prompt, options and seed give the same tokens.
  uint64_t seed;
  /// Most tokens to generate, 0 only scores the prompt; -1 = what the context leaves.
  int32_t max_tokens;
  /// Draw among the k most probable tokens; 0 = all.
  int32_t top_k;
  /// Higher is served first.
  int32_t priority;
  /// -1 = none, 0 = of each token, k = also of the k best alternatives.
  int32_t logprobs;
  /// Give up after this time; 0 = never.
  uint32_t deadline_ms;
  /// Tokens that may wait to be received before the request pauses; 0 = automatic. It pauses also when their text takes more
  /// than 16 bytes for each that may wait, 1024 at least. The memory for both is taken when the request begins to run.
  uint32_t queue_tokens;
  /// 0 = always the most probable token.
  float temperature;
  /// Draw from the smallest set of tokens with this probability in all; 1 = all.
  float top_p;
  /// Draw from tokens at least this fraction as probable as the best; 0 = all.
  float min_p;
  /// Makes tokens of prompt and output less likely; 1 = off.
  float repetition_penalty;
  /// Subtracted from the logits of tokens in the output; 0 = off.
  float presence_penalty;
  /// Subtracted from the logits once for each time the token is in the output; 0 = off.
  float frequency_penalty;
  /// Stops, biases, tools and the constraint, which are copied; NULL = none.
  const struct astrai_settings *settings;
  /// Most tokens of reasoning, after which its end is written for the model, 0 = none; -1 = as many as it likes. Chats only.
  int32_t reasoning_tokens;
  /// XTC: how often a token is drawn without the top choices; 0 = never, the default.
  float xtc_probability;
  /// XTC: the top choices are the tokens at least so probable after truncation, of which the least likely stays; default 0.1.
  float xtc_threshold;
  /// DRY: subtracted from the logit of a token that goes on with a repetition of the allowed length; 0 = off, the default.
  float dry_multiplier;
  /// DRY: what the penalty is multiplied by for each further token of the repetition; default 1.75.
  float dry_base;
  /// DRY: the least length, in tokens, of a repetition that has a penalty; -1 = 2.
  int32_t dry_allowed_length;
  /// DRY: tokens of prompt and output that are looked at for repetitions, 0 = none; -1 = all.
  int32_t dry_penalty_last_n;
  /// In an engine with speculation: most drafts of a step, where these are fewer than its options say, 0 = none; -1 = as those say.
  /// Requests with DRY and those whose tokens the host chooses have none.
  int32_t draft_tokens;
} astrai_request_options;

/// What went wrong, where, and what to do next. Library-owned: free with astrai_error_free, except inside an event.
typedef struct astrai_error {
  /// Set by the library.
  uint32_t struct_size;
  /// ASTRAI_ERR_*
  int32_t status;
  /// errno or GetLastError(); 0 when the system had no part in it.
  int32_t os_code;
  /// ASTRAI_UNIT_* of the two numbers.
  int32_t unit;
  /// What was asked for.
  uint64_t needed;
  /// What is there.
  uint64_t available;
  /// One or two sentences in UTF-8.
  const char *message;
  /// Length of message in bytes.
  size_t message_len;
  /// A path, a tensor, an option; "" when there is none.
  const char *subject;
  /// Length of subject in bytes.
  size_t subject_len;
} astrai_error;

/// Counts and times of a request that ended; lives inside its event. Times are in microseconds.
typedef struct astrai_usage {
  /// Set by the library.
  uint32_t struct_size;
  /// Tokens of the prompt.
  uint32_t prompt_tokens;
  /// Of these, tokens taken from the prefix cache.
  uint32_t cached_tokens;
  /// Tokens generated, those that completed a stop included.
  uint32_t generated_tokens;
  /// Times the request gave up its memory to others and came back.
  uint32_t preemptions;
  /// Of the tokens generated, those after which the answer stood in its reasoning.
  uint32_t reasoning_tokens;
  /// Seed of the random numbers; set it with ASTRAI_REQUEST_SEEDED to get the same tokens again.
  uint64_t seed;
  /// From submit until the request began to run.
  uint64_t queue_us;
  /// From submit to the first token.
  uint64_t first_token_us;
  /// In the steps that computed the prompt.
  uint64_t prefill_us;
  /// From the first token to the end of the request.
  uint64_t decode_us;
  /// From submit to the end.
  uint64_t total_us;
  /// Drafts that were computed; see ASTRAI_SPECULATE_*.
  uint32_t drafted_tokens;
  /// Of these, tokens of the answer: so many steps fewer.
  uint32_t accepted_tokens;
} astrai_usage;

/// What a request produced since its last event. Branch on terminal; ignore unknown kinds; any kind may carry text.
typedef struct astrai_event {
  /// Set by the library.
  uint32_t struct_size;
  /// ASTRAI_EVENT_*
  int32_t kind;
  /// 1 when this is the last event of its request, else 0.
  int32_t terminal;
  /// ASTRAI_FINISH_*
  int32_t finish_reason;
  /// As astrai_request_id().
  uint64_t request_id;
  /// As in the request's options.
  uint64_t tag;
  /// Text that became certain: whole UTF-8 characters, without a stop string, and without special tokens unless
  /// ASTRAI_REQUEST_SPECIAL asks for them. Of an answer to messages it is the content, without reasoning and calls, unless
  /// ASTRAI_REQUEST_RAW_TEXT asks for all. May release 0 to n tokens.
  const char *text;
  /// Length of text in bytes.
  size_t text_len;
  /// The tokens generated; NULL when token_count is 0.
  const int32_t *tokens;
  /// [token_count] log probabilities; NULL when not asked for.
  const float *logprobs;
  /// Number of tokens.
  uint32_t token_count;
  /// Alternatives for each token.
  uint32_t top_count;
  /// [token_count][top_count] ids, best first; NULL when not asked for.
  const int32_t *top_tokens;
  /// [token_count][top_count] log probabilities.
  const float *top_logprobs;
  /// Terminal only: [prompt_count] log probabilities of the prompt, the first is NaN; NULL when not asked for.
  const float *prompt_logprobs;
  /// Number of prompt_logprobs.
  size_t prompt_count;
  /// Terminal only, else NULL.
  const struct astrai_usage *usage;
  /// ASTRAI_EVENT_FAILED only, else NULL.
  const struct astrai_error *error;
  /// Index of the first token in the request's output; of an event without tokens, how many there were. What a cancel dropped
  /// is missing between one event's end and the next one's first.
  uint64_t first_token;
  /// Index of the first byte of text in the request's text, likewise.
  uint64_t first_byte;
  /// Terminal only, of a constrained request: 1 when the answer meets the constraint as it is, 0 when it does not, as it was cut;
  /// else -1.
  int32_t complete;
  /// ASTRAI_FORMAT_*: whether the answer was read into parts.
  int32_t format;
  /// Number of parts that the event has something of; see astrai_event_part().
  uint32_t part_count;
  /// 0.
  uint32_t reserved;
  /// Terminal only, of a request with ASTRAI_REQUEST_EMBED that finished: [embedding_len] numbers; else NULL.
  const float *embedding;
  /// Number of embedding.
  size_t embedding_len;
} astrai_event;

/// What an event has of a part of the answer. Caller-owned: set struct_size; its pointers live as long as the event.
typedef struct astrai_part {
  /// In: sizeof(astrai_part). Out: the bytes that were filled.
  uint32_t struct_size;
  /// ASTRAI_PART_CONTENT, ASTRAI_PART_REASONING or ASTRAI_PART_CALL.
  int32_t kind;
  /// Number of the part in the answer, from 0.
  uint32_t index;
  /// Of a call: its number among the calls, from 0; else -1.
  int32_t call;
  /// 1 where the part begins, else 0.
  int32_t begins;
  /// ASTRAI_PART_OPEN, or how the part ends: ASTRAI_PART_COMPLETE, ASTRAI_PART_UNCLOSED or ASTRAI_PART_MALFORMED.
  int32_t ends;
  /// New text of the part: of a call its arguments, as JSON.
  const char *text;
  /// Length of text in bytes.
  size_t text_len;
  /// The name of the tool, where a call begins; else "".
  const char *name;
  /// Length of name in bytes.
  size_t name_len;
  /// The id of the call, where it begins: the model's or one of the library's; else "". astrai_prompt_add_result() takes it.
  const char *call_id;
  /// Length of call_id in bytes.
  size_t call_id_len;
} astrai_part;

/// Facts about an engine. Caller-owned: set struct_size; strings live until astrai_engine_free.
typedef struct astrai_info {
  /// In: sizeof(astrai_info). Out: the bytes that were filled.
  uint32_t struct_size;
  /// Tokens the model knows, padding included; 0 without weights.
  uint32_t vocab_size;
  /// Longest sequence of this engine, in tokens.
  uint32_t context_length;
  /// Layers of the model.
  uint32_t layers;
  /// ASTRAI_DEVICE_*
  int32_t device;
  /// ASTRAI_TIER_*
  int32_t cpu_tier;
  /// ASTRAI_TYPE_*
  int32_t compute;
  /// Beginning of sequence; -1 = none.
  int32_t bos_token;
  /// The first end-of-sequence token; -1 = none. Those of generation_config.json, of config.json and the tokenizer's
  /// eos_token all end an answer; this is the first of them in that order.
  int32_t eos_token;
  /// 1 when the folder has a chat template, else 0.
  int32_t has_chat_template;
  /// As in config.json.
  const char *model_type;
  /// For people.
  const char *device_name;
  /// How the model writes reasoning and calls: the name of a built-in format, or "response_template" where tokenizer_config.json
  /// says it; "" where it is not known.
  const char *answer_format;
} astrai_info;

/// Counters of an engine, one consistent snapshot. Caller-owned: set struct_size.
typedef struct astrai_stats {
  /// In: sizeof(astrai_stats). Out: the bytes that were filled.
  uint32_t struct_size;
  /// Requests that run.
  uint32_t running;
  /// Requests that wait to run.
  uint32_t waiting;
  /// Requests that pause because nobody receives their tokens.
  uint32_t stalled;
  /// Pages of the KV cache that belong to requests.
  uint64_t pages_used;
  /// Pages kept for prompts that begin alike.
  uint64_t pages_cached;
  /// Pages that are free.
  uint64_t pages_free;
  /// Prompt tokens looked up in the prefix cache.
  uint64_t prefix_tokens_seen;
  /// Prompt tokens found there.
  uint64_t prefix_tokens_hit;
  /// Requests that gave up their memory to others and came back.
  uint64_t preemptions;
  /// Cached pages given up for new ones.
  uint64_t evictions;
  /// Prompt tokens received.
  uint64_t tokens_in;
  /// Tokens generated.
  uint64_t tokens_out;
  /// Requests that ran to their end.
  uint64_t finished;
  /// Requests stopped from outside.
  uint64_t cancelled;
  /// Requests that failed.
  uint64_t failed;
  /// Steps of the scheduler.
  uint64_t steps;
  /// Time in its phases, in microseconds: returning what ended.
  uint64_t cleanup_us;
  /// Admitting what waited.
  uint64_t refill_us;
  /// Steps with prompts.
  uint64_t prefill_us;
  /// Steps with generated tokens only.
  uint64_t decode_us;
  /// Time that requests waited, added up.
  uint64_t queue_us;
  /// Log lines that were dropped.
  uint64_t log_dropped;
  /// Drafts that were computed.
  uint64_t drafted_tokens;
  /// Of these, tokens of answers.
  uint64_t accepted_tokens;
  /// Time that they have saved, in microseconds, as far as the times of other steps tell.
  uint64_t saved_us;
} astrai_stats;

/// What memory an engine would take. Caller-owned: set struct_size. Tokenizer and bookkeeping are not counted.
typedef struct astrai_plan {
  /// In: sizeof(astrai_plan). Out: the bytes that were filled.
  uint32_t struct_size;
  /// 1 when total_bytes is at most available_bytes, else 0: then the numbers are the least that the options allow.
  uint32_t fits;
  /// Longest sequence, in tokens.
  uint32_t context_length;
  /// Sequences of context_length tokens that fit at the same time, at most max_running; of shorter ones more may run.
  uint32_t max_sequences;
  /// Weights the model uses: mapped from the files, or with ASTRAI_ENGINE_NO_MMAP copied; quantized ones are memory of the
  /// engine's own.
  uint64_t weight_bytes;
  /// All pages of the KV cache, and state_bytes.
  uint64_t kv_bytes;
  /// Activations, logits and scratch.
  uint64_t workspace_bytes;
  /// The three together, and constraint_bytes where the engine has no GPU.
  uint64_t total_bytes;
  /// The smaller of memory_budget and the memory that can be had: what is free, what the process's control groups (a
  /// container's limit) leave, and its own limits; on a GPU its free memory. 0 when nothing says.
  uint64_t available_bytes;
  /// Tokens the KV cache holds.
  uint64_t kv_tokens;
  /// KV cache for each token in all layers. Layers with a sliding window keep fewer: their pages are at most kv_tokens times this.
  uint64_t kv_bytes_per_token;
  /// The vocabulary as constraints need it, in the machine's memory; 0 without ASTRAI_ENGINE_CONSTRAINTS.
  uint64_t constraint_bytes;
  /// States of layers that keep one instead of what each token leaves: of sequences that run two each, and those of the prefix
  /// cache. A part of kv_bytes; 0 for models without such layers.
  uint64_t state_bytes;
} astrai_plan;

/// Receives an event. The event and all it points to die when the callback returns. Nonzero stops the request.
typedef int32_t (*astrai_event_fn)(void *user_data, const struct astrai_event *event);

/// Options of astrai_server_start; 0 and NULL mean automatic. Fill with astrai_server_options_init first. Its strings end with a NUL
/// and are read during the call.
typedef struct astrai_server_options {
  /// sizeof(astrai_server_options), set by astrai_server_options_init.
  uint32_t struct_size;
  /// The port to listen at; 0 = one that is free.
  uint32_t port;
  /// The address to listen at; NULL = "127.0.0.1". Any other than loopback lets other machines ask.
  const char *host;
  /// What requests call the model; NULL = "default". A request that names none means it, too.
  const char *model_name;
  /// The key that each request must have; NULL = none is needed.
  const char *api_key;
  /// Names by which the server may be called beside localhost, with commas between them; NULL = none.
  const char *allowed_hosts;
  /// Priority of the server's requests; -1, as astrai_server_options_init sets it: after those of the program.
  int32_t priority;
  /// 0.
  uint32_t reserved;
} astrai_server_options;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/* -- library ----------------------------------------------------------------- */

/// [A] The ABI version of the library in use. Compare it with ASTRAI_ABI_VERSION before anything else.
uint32_t astrai_abi_version(void);

/// [A] The version of the library, for people: "0.1.0". Static.
const char *astrai_version(void);

/// [A] The name of a status as in this header, "ASTRAI_ERR_CONTEXT"; "ASTRAI_UNKNOWN" for others. Static.
const char *astrai_status_name(int32_t status);

/// [A] Sets every option to automatic. size is the caller's sizeof(astrai_engine_options).
/// ERR_ARGUMENT: options is NULL. ERR_STRUCT_SIZE: size is none that this struct ever had.
int32_t astrai_engine_options_init(struct astrai_engine_options *options, size_t size);

/// [A] Sets every option to the model's default. size is the caller's sizeof(astrai_request_options).
/// ERR_ARGUMENT: options is NULL. ERR_STRUCT_SIZE: size is none that this struct ever had.
int32_t astrai_request_options_init(struct astrai_request_options *options, size_t size);

/// [A] Frees an error that a call wrote to its err. NULL is fine; the error inside an event is left to its event.
void astrai_error_free(struct astrai_error *error);

/// [A] Looks at a part of an event, by an index below its part_count. While an answer is streamed, an event has of each part what is
/// new: text is to be appended. *out is filled as far as its struct_size. ERR_ARGUMENT: the event has no part index.
int32_t astrai_event_part(const struct astrai_event *event,
                          uint32_t index,
                          struct astrai_part *out,
                          struct astrai_error **err);

/// [A] Frees an event from astrai_request_next, astrai_request_wait or astrai_engine_next, with all it points to; the last
/// lets the next event of its request come. NULL is fine; an event shown to a callback is left to the library.
void astrai_event_free(struct astrai_event *event);

/* -- engine ------------------------------------------------------------------ */

/// [B] Opens a model, a folder in Hugging Face layout or a GGUF file, and starts its engine. options may be NULL: all automatic.
/// *out is freed with astrai_engine_free. The finalizer in options runs once: when the call failed, before it returns;
/// else when the engine is freed, after its last log line. Not with ERR_STRUCT_SIZE: nothing was read.
/// ERR_IO, ERR_FORMAT: a file is missing or not what it should be; subject is its path. ERR_UNSUPPORTED: a model or
/// an option this version has no code for. ERR_ABORTED: progress returned nonzero. ERR_MEMORY, ERR_ARGUMENT, ERR_UTF8.
int32_t astrai_engine_open(const char *dir,
                           const struct astrai_engine_options *options,
                           struct astrai_engine **out,
                           struct astrai_error **err);

/// [B] Lets requests run for at most grace_ms (-1: until they end), cancels the rest, delivers every terminal event,
/// runs finalizers and joins all threads. A request whose full queue nobody reads does not end by itself. With
/// ASTRAI_DELIVER_POLL it delivers on the calling thread. Until the handle is freed other calls return ERR_CLOSED;
/// requests can still be read, and astrai_engine_next gives what is queued.
/// After OK the library may be unloaded once its handles are freed.
/// ERR_CLOSED: it is closed already. ERR_REENTRANT, ERR_ARGUMENT.
int32_t astrai_engine_close(const struct astrai_engine *engine, int32_t grace_ms, struct astrai_error **err);

/// [B] Closes the engine without grace if that was not done, and frees the handle. NULL is fine. Events that nobody took
/// with astrai_engine_next are dropped, their finalizers run. While another thread is inside a call with the handle,
/// that call ends the engine when it returns; poll and next return at once. Inside a callback it does not wait for
/// callbacks: the engine closes after the callback returned. In a forked child it does nothing.
void astrai_engine_free(struct astrai_engine *engine);

/// [A] Facts about the engine; *out keeps its strings until astrai_engine_free. ERR_STRUCT_SIZE: set out->struct_size.
int32_t astrai_engine_info(const struct astrai_engine *engine,
                           struct astrai_info *out,
                           struct astrai_error **err);

/// [A] One consistent snapshot of the counters, without a lock. ERR_STRUCT_SIZE: set out->struct_size.
int32_t astrai_engine_stats(const struct astrai_engine *engine, struct astrai_stats *out, struct astrai_error **err);

/// [B] Proves, between two steps, that every page and slot is free, cached or owned exactly as often as it is used.
/// ERR_INTERNAL: it is not, and what.
int32_t astrai_engine_check(const struct astrai_engine *engine, struct astrai_error **err);

/// [A] Changes how much the log callback is told: ASTRAI_LOG_* ERR_ARGUMENT: no such level.
int32_t astrai_engine_set_log_level(const struct astrai_engine *engine, int32_t level, struct astrai_error **err);

/// [A] Cancels every request of the engine; each gets its terminal event.
int32_t astrai_engine_cancel_all(const struct astrai_engine *engine, struct astrai_error **err);

/// [B][S] For engines opened with ASTRAI_DELIVER_POLL: shows what is ready to the callbacks, on the calling thread. Waits
/// up to timeout_ms for the first event (0 does not wait, -1 waits forever); then shows at most one event of each
/// request, those that became ready first first, and at most max_events in all (0 = no limit). *ran, which may be
/// NULL, is the number of events shown, 0 when none came in time. When it is max_events there may be more; wake is not
/// called for those. Log lines are written too and do not count.
/// ERR_REENTRANT: inside a callback, whatever timeout_ms is. ERR_BUSY: another thread is in poll, or delivers in
/// astrai_request_wait. ERR_ARGUMENT: the engine has a dispatch thread. ERR_CLOSED.
int32_t astrai_engine_poll(struct astrai_engine *engine,
                           int32_t timeout_ms,
                           uint32_t max_events,
                           uint32_t *ran,
                           struct astrai_error **err);

/// [B] Takes everything unread of the request that has been ready longest, among those submitted with
/// ASTRAI_REQUEST_TO_ENGINE, as one event; its request_id and tag say whose. *out is freed with astrai_event_free. When it
/// is terminal, the request's finalizer has run before this returns. Any number of threads may call it: until the event is
/// freed, no thread gets another of its request, so that they come in order. What the request gives meanwhile is one event,
/// which freeing puts at the end of the line. Events may be freed in any order, also after the engine.
/// TIMEOUT: nothing came in timeout_ms (0 polls, -1 waits forever). After close it gives what is queued; then END.
/// ERR_BUSY: nothing can come before an event is freed, because every request of this queue that has not given its last
/// event has one out. At once when the calling thread took all of those; when others did, after 100 ms in which none was
/// taken or freed. ERR_CLOSED: the engine is being freed. ERR_MEMORY: for the event, which stays.
int32_t astrai_engine_next(const struct astrai_engine *engine,
                           int32_t timeout_ms,
                           struct astrai_event **out,
                           struct astrai_error **err);

/// [B] Says what memory astrai_engine_open with these options would take, from config and file headers alone: no weights
/// are read, no threads started, and the callbacks in options are not called. NULL options: all automatic. Too
/// little memory is no error: fits is 0. Other errors as astrai_engine_open.
int32_t astrai_engine_plan(const char *dir,
                           const struct astrai_engine_options *options,
                           struct astrai_plan *out,
                           struct astrai_error **err);

/// [B] Keeps the engine from working until astrai_engine_resume. OK: no step is running and none will begin. TIMEOUT: what
/// runs was not over in time, and the pause stays requested; or another thread resumed the engine. Requests
/// are accepted, cancelled and meet their deadlines as always, but make no progress. Idempotent.
/// astrai_engine_close on a paused engine gives no grace. ERR_REENTRANT, ERR_ARGUMENT, ERR_CLOSED.
int32_t astrai_engine_pause(const struct astrai_engine *engine,
                            int32_t timeout_ms,
                            struct astrai_error **err);

/// [A] Ends a pause; fine when there is none.
int32_t astrai_engine_resume(const struct astrai_engine *engine, struct astrai_error **err);

/// [A] Lets the engine work at most work_us in every interval_us, both in microseconds; 0 and 0: no limit. It rests
/// between two layers of the model, on a GPU between two steps, so it may exceed the limit by one of those, which it makes
/// up for. After idling it may work work_us at once: two intervals that touch can have twice as much. Takes effect at once. Work is steps, and copying
/// the pages of prefixes that are saved or restored.
/// ERR_ARGUMENT: work_us is more than interval_us, or only work_us is 0; needed and available are the two.
int32_t astrai_engine_set_duty(const struct astrai_engine *engine,
                               uint32_t work_us,
                               uint32_t interval_us,
                               struct astrai_error **err);

/// [A] Drops the cached pages that no request uses and no prefix pins, before the next step.
int32_t astrai_engine_clear_cache(const struct astrai_engine *engine, struct astrai_error **err);

/* -- prompt: a builder, so that nobody marshals arrays of pointers ----------- */

/// [S] Makes an empty prompt; no engine is needed. *out is freed with astrai_prompt_free.
int32_t astrai_prompt_new(struct astrai_prompt **out, struct astrai_error **err);

/// [S] Makes a copy; the two have nothing in common afterwards. *out is freed with astrai_prompt_free.
int32_t astrai_prompt_clone(const struct astrai_prompt *prompt,
                            struct astrai_prompt **out,
                            struct astrai_error **err);

/// [S] Adds raw text, which the tokenizer takes as it is. flags: ASTRAI_TEXT_SPECIAL. Before a prompt that begins with text
/// go the tokens that the tokenizer begins every text with, unless with ASTRAI_TEXT_SPECIAL the text begins with them itself.
/// Texts added one after the other, with no token ids between them, are one text: "har" and "bor" give the tokens of
/// "harbor". A name of a special token counts if all of it was added with ASTRAI_TEXT_SPECIAL.
/// ERR_UTF8 names the first bad byte. ERR_ARGUMENT: the prompt has messages.
int32_t astrai_prompt_add_text(struct astrai_prompt *prompt,
                               const char *text,
                               size_t len,
                               uint32_t flags,
                               struct astrai_error **err);

/// [S] Adds token ids, to which nothing is added: a prompt that has its begin token twice is told in the log, with
/// ASTRAI_LOG_WARN. Whether the model has them is checked by submit. ERR_ARGUMENT: one is negative, or the prompt has
/// messages.
int32_t astrai_prompt_add_tokens(struct astrai_prompt *prompt,
                                 const int32_t *tokens,
                                 size_t count,
                                 struct astrai_error **err);

/// [S] Adds a chat message; role is NUL-terminated, "user" for example. The model's chat template turns the messages
/// into text. Names of special tokens in text are ordinary characters, but for an assistant's;
/// astrai_prompt_set_message_flags has them as tokens. ERR_UTF8 names the first bad byte. ERR_ARGUMENT: the prompt has
/// text or tokens, or its last message is to be continued.
int32_t astrai_prompt_add_message(struct astrai_prompt *prompt,
                                  const char *role,
                                  const char *text,
                                  size_t len,
                                  struct astrai_error **err);

/// [S] Sets a part of a chat from JSON text: ASTRAI_JSON_MESSAGES, ASTRAI_JSON_TOOLS or ASTRAI_JSON_VARIABLES. It
/// replaces that part; messages set anew have no flags. ERR_ARGUMENT: not JSON, or of another shape, or the prompt has text
/// or tokens.
int32_t astrai_prompt_set_json(struct astrai_prompt *prompt,
                               int32_t part,
                               const char *json,
                               size_t len,
                               struct astrai_error **err);

/// [S] Sets the flags of a message: ASTRAI_MESSAGE_*, in place of those it has. index counts the messages from 0, added or
/// set as JSON; -1 is the last one there is now. astrai_submit, astrai_render, astrai_tokenize and astrai_prefix_pin keep
/// to them.
/// With ASTRAI_MESSAGE_CONTINUE the chat ends where the content of the last message ends, or the last part of text in it, or
/// of a message without content its reasoning: the template is not asked to open the assistant's turn, and what it would put
/// after the content is left out. Spaces at the end of the content stay if the template keeps them. When the
/// template leaves out a part of the content, those functions give ERR_TEMPLATE. Stop strings are looked for in
/// what is new.
/// ERR_ARGUMENT: there is no such message, or ASTRAI_MESSAGE_CONTINUE for one that is not the last or not of the role
/// "assistant".
int32_t astrai_prompt_set_message_flags(struct astrai_prompt *prompt,
                                        int32_t index,
                                        uint32_t flags,
                                        struct astrai_error **err);

/// [S] Drops the oldest whole turns of a chat until it leaves room for reserve tokens of an answer, or only the last one is left;
/// *dropped (dropped may be NULL) is how many messages that were. A turn is a user's message and what follows it up to the next one, calls and their results
/// included; the last turn stays, and so do messages of the system. When it drops, it drops to three quarters of the room, so
/// that the turns after it find their beginning computed, and not every turn of a full context is computed anew.
/// ERR_CONTEXT: the last turn alone is longer than the context; needed and available are in tokens, and the prompt is as it was.
/// ERR_ARGUMENT: the prompt has no messages. ERR_TEMPLATE, ERR_UNSUPPORTED, ERR_CLOSED.
int32_t astrai_prompt_fit(const struct astrai_engine *engine,
                          struct astrai_prompt *prompt,
                          uint32_t reserve,
                          uint32_t *dropped,
                          struct astrai_error **err);

/// [S] Adds the answer of a request that has ended and whose terminal event was received: its content, its reasoning and its whole
/// calls become the assistant's message. Where the chat template writes it as the model did, the very tokens that were generated
/// stand for it, so that the next turn finds them in the prefix cache. After a message with ASTRAI_MESSAGE_CONTINUE the answer goes
/// on with that one. The request may be freed right after. ERR_ARGUMENT: the request has not ended, or its prompt was not made of
/// messages, or this one is not.
int32_t astrai_prompt_add_answer(struct astrai_prompt *prompt,
                                 const struct astrai_request *request,
                                 struct astrai_error **err);

/// [S] Adds what a tool returned, as the result of the call of the last answer that has this id (NUL-terminated). ERR_UTF8 names the
/// first bad byte. ERR_ARGUMENT: the last message, but for results, is no answer with such a call, or the call has its result.
int32_t astrai_prompt_add_result(struct astrai_prompt *prompt,
                                 const char *call_id,
                                 const char *text,
                                 size_t len,
                                 struct astrai_error **err);

/// [S] Frees a prompt; requests made from it go on. NULL is fine.
void astrai_prompt_free(struct astrai_prompt *prompt);

/* -- text: the caller brings the buffer -------------------------------------- */

/// [A] The text that the chat template makes of the prompt's messages, or its raw text as it is. OK: *count is the
/// length in bytes, and a NUL follows. ERR_BUFFER: *count is the capacity needed, NUL included; cap 0 asks for it.
/// flags: ASTRAI_TEXT_* ERR_TEMPLATE: the template failed. ERR_UNSUPPORTED: the model has none.
int32_t astrai_render(const struct astrai_engine *engine,
                      const struct astrai_prompt *prompt,
                      uint32_t flags,
                      char *out,
                      size_t cap,
                      size_t *count,
                      struct astrai_error **err);

/// [A] The token ids of a prompt, as submit would use them. OK: *count ids were written. ERR_BUFFER: *count is the
/// capacity needed; cap 0 asks for it. flags: ASTRAI_TEXT_* ERR_TEMPLATE, ERR_UNSUPPORTED: as astrai_render.
int32_t astrai_tokenize(const struct astrai_engine *engine,
                        const struct astrai_prompt *prompt,
                        uint32_t flags,
                        int32_t *out,
                        size_t cap,
                        size_t *count,
                        struct astrai_error **err);

/// [A] The text of token ids. OK: *count is the length in bytes, and a NUL follows. ERR_BUFFER: *count is the
/// capacity needed, NUL included; cap 0 asks for it. flags: ASTRAI_TEXT_SPECIAL keeps special tokens.
/// ERR_ARGUMENT: an id the model does not have. ERR_UNSUPPORTED: the model has no tokenizer.
int32_t astrai_detokenize(const struct astrai_engine *engine,
                          const int32_t *tokens,
                          size_t token_count,
                          uint32_t flags,
                          char *out,
                          size_t cap,
                          size_t *count,
                          struct astrai_error **err);

/* -- settings: what a request wants beside numbers --------------------------- */

/// [S] Makes empty settings; no engine is needed. *out is freed with astrai_settings_free.
int32_t astrai_settings_new(struct astrai_settings **out, struct astrai_error **err);

/// [S] Makes a copy; the two have nothing in common afterwards but the constraint. *out is freed with astrai_settings_free.
int32_t astrai_settings_clone(const struct astrai_settings *settings,
                              struct astrai_settings **out,
                              struct astrai_error **err);

/// [S] Adds a stop string: generation ends before it, and no part of it is delivered. One that is the name of a special
/// token of the model ends generation at that token, too. ERR_ARGUMENT: it is empty.
int32_t astrai_settings_add_stop(struct astrai_settings *settings,
                                 const char *text,
                                 size_t len,
                                 struct astrai_error **err);

/// [S] Adds a token id that ends generation, besides the model's own. ERR_ARGUMENT: it is negative.
int32_t astrai_settings_add_stop_token(struct astrai_settings *settings, int32_t token, struct astrai_error **err);

/// [S] Adds bias to the logit of a token; -INFINITY forbids it. ERR_ARGUMENT: token is negative, bias NaN or INFINITY.
int32_t astrai_settings_add_bias(struct astrai_settings *settings,
                                 int32_t token,
                                 float bias,
                                 struct astrai_error **err);

/// [S] Sets what answers may be; NULL: anything. The constraint may be freed right after.
int32_t astrai_settings_set_constraint(struct astrai_settings *settings,
                                       const struct astrai_constraint *constraint,
                                       struct astrai_error **err);

/// [S] Sets the texts that a repetition (DRY) does not reach across: a JSON list of strings, "[]" for none. NULL and 0: the usual ones, a
/// new line, a colon, a quote and an asterisk. Special tokens are such, too. ERR_ARGUMENT: no list of strings, too many, or one is
/// empty or too long.
int32_t astrai_settings_set_dry_breakers(struct astrai_settings *settings,
                                         const char *json,
                                         size_t len,
                                         struct astrai_error **err);

/// [S] Sets the tools of requests: a JSON array as ASTRAI_JSON_TOOLS takes it. A prompt without tools of its own has these; of one that
/// has some, these are the ones that may be called. NULL and 0: none. ERR_ARGUMENT: not JSON, or no array.
int32_t astrai_settings_set_tools(struct astrai_settings *settings,
                                  const char *json,
                                  size_t len,
                                  struct astrai_error **err);

/// [S] Sets whether answers call tools: ASTRAI_TOOLS_*. name (NUL-terminated) is the tool of ASTRAI_TOOLS_NAMED, else NULL. flags:
/// ASTRAI_TOOLS_SINGLE_CALL, ASTRAI_TOOLS_CONSTRAIN. Calls of ASTRAI_TOOLS_REQUIRED and ASTRAI_TOOLS_NAMED, with
/// ASTRAI_TOOLS_AUTO those of tools with "strict": true, are written as the model's format has them, with arguments that their schemas
/// accept; no others can be generated. What a schema has that cannot be demanded is ERR_UNSUPPORTED in the request's last event, as is
/// a model whose format is not known at submit. ERR_ARGUMENT: an unknown choice, or a name where none belongs.
int32_t astrai_settings_set_tool_choice(struct astrai_settings *settings,
                                        int32_t choice,
                                        const char *name,
                                        uint32_t flags,
                                        struct astrai_error **err);

/// [S] Frees settings; requests made with them go on. NULL is fine.
void astrai_settings_free(struct astrai_settings *settings);

/* -- constraint: what answers may be ----------------------------------------- */

/// [B] Compiles what answers may be: kind is one of ASTRAI_CONSTRAINT_*, to which
/// ASTRAI_CONSTRAINT_WHOLE may be added; text is written accordingly. The first constraint of an engine
/// takes up to seconds, for the vocabulary; others milliseconds. *out serves any number of requests of this engine, through
/// astrai_settings_set_constraint, and is freed with astrai_constraint_free. Where an answer may end, the model's end tokens are
/// allowed, and nowhere else; log probabilities stay those of the model.
/// ERR_UNSUPPORTED: something in it cannot be expressed, or nothing meets it; the message has name and position. ERR_ARGUMENT: the
/// text is not of its kind, too long, or nests too deeply. ERR_UTF8, ERR_CLOSED.
int32_t astrai_constraint_compile(const struct astrai_engine *engine,
                                  int32_t kind,
                                  const char *text,
                                  size_t len,
                                  struct astrai_constraint **out,
                                  struct astrai_error **err);

/// [A] Frees a constraint; settings and requests that have it go on. NULL is fine. In a forked child it does nothing.
void astrai_constraint_free(struct astrai_constraint *constraint);

/* -- request ----------------------------------------------------------------- */

/// [A] Submits a prompt; the prompt may be changed or freed right after. options may be NULL: the model's defaults.
/// With on_event, each event is shown to it on a dispatch thread, the first possibly before this returns (with
/// ASTRAI_DELIVER_POLL: inside later calls); out may be NULL: the request runs on without a handle. With on_event NULL,
/// events are pulled through *out with astrai_request_next or astrai_request_wait, or with ASTRAI_REQUEST_TO_ENGINE
/// taken with astrai_engine_next, and out may be NULL again. *out is freed with astrai_request_free.
/// finalize(user_data) runs exactly once: after the terminal callback; before astrai_engine_next returns the terminal
/// event, or when the engine is freed with it untaken; of a pulled request when *out is freed; before this returns when
/// it fails.
/// ERR_CONTEXT: the prompt is longer than the context, which is never longer than what the KV memory holds; needed and
/// available are in tokens. ERR_QUEUE_FULL: as many requests run and wait as may, or too many have ended whose last events
/// nobody took: take them, or free the handles of pulled ones. ERR_TEMPLATE, ERR_CLOSED, ERR_UNSUPPORTED; those of the prompt with
/// ASTRAI_REQUEST_DEFER in its terminal event instead. ERR_ARGUMENT: an option is out of range (subject names it), the
/// prompt is empty, a token id is not the model's, or on_event is set with ASTRAI_REQUEST_TO_ENGINE.
int32_t astrai_submit(const struct astrai_engine *engine,
                      const struct astrai_prompt *prompt,
                      const struct astrai_request_options *options,
                      astrai_event_fn on_event,
                      void *user_data,
                      astrai_finalize_fn finalize,
                      struct astrai_request **out,
                      struct astrai_error **err);

/// [A] The request's number, as in its events: never 0, never used again by its engine. 0 for NULL.
uint64_t astrai_request_id(const struct astrai_request *request);

/// [B][S] Waits for something to read and takes all of it as one event. *out is freed with astrai_event_free. END:
/// the terminal event was taken before. TIMEOUT: nothing came in timeout_ms (0 polls, -1 waits forever).
/// ERR_ARGUMENT: the request has a callback, or its events go to astrai_engine_next.
int32_t astrai_request_next(const struct astrai_request *request,
                            int32_t timeout_ms,
                            struct astrai_event **out,
                            struct astrai_error **err);

/// [B][S] Waits for the request to end. A pulled request: *out is everything not yet taken as one terminal event,
/// freed with astrai_event_free; END: it was taken before. With a callback or ASTRAI_REQUEST_TO_ENGINE: OK after the
/// terminal event was received and the finalizer ran, and *out (out may be NULL) is NULL. TIMEOUT: it goes on after
/// timeout_ms (0 polls, -1 waits forever). With a callback and ASTRAI_DELIVER_POLL it runs callbacks, of all requests of
/// the engine, on the calling thread, unless another thread is doing that.
int32_t astrai_request_wait(const struct astrai_request *request,
                            int32_t timeout_ms,
                            struct astrai_event **out,
                            struct astrai_error **err);

/// [B][S] Waits for the logits of the next token of a request with ASTRAI_REQUEST_HOST_LOGITS. *logits are *count numbers, one for each
/// token of the vocabulary, which the host may change; they are valid until the token is chosen or the handle is freed, and are the same
/// when asked for again. Events must be read as well: a request whose queue is full has no next token. END: the request has ended. TIMEOUT: they did not come in timeout_ms (0 polls, -1 waits forever).
/// ERR_ARGUMENT: another request.
int32_t astrai_request_logits(const struct astrai_request *request,
                              int32_t timeout_ms,
                              float **logits,
                              size_t *count,
                              struct astrai_error **err);

/// [S] Chooses the next token after astrai_request_logits: a token's id, or -1 for the one that is sampled from the logits as the host
/// has changed them, with the request's options, constraint and biases. Log probabilities stay those of the model. *logits are not valid
/// any more when this returns OK or END. END: the request has ended. ERR_ARGUMENT: there are no logits to choose from, the token may not
/// follow, or none can be sampled; the host may choose again.
int32_t astrai_request_choose(const struct astrai_request *request,
                              int32_t token,
                              struct astrai_error **err);

/// [A] Stops the request. OK also when it has ended. Deltas not yet delivered are dropped; one callback that already
/// began may overlap; then exactly one terminal event follows: CANCELLED, or FAILED. Of a request that had ended before,
/// everything is still delivered.
int32_t astrai_request_cancel(const struct astrai_request *request,
                              struct astrai_error **err);

/// [A] Frees the handle, and cancels the request if it has not ended: its callback still gets the terminal event.
/// NULL is fine. In a forked child it does nothing.
void astrai_request_free(struct astrai_request *request);

/* -- prefix: what many prompts begin with ------------------------------------ */

/// [A] Pins the beginning of prompts to come, such as a persona: computes it in the background, unless it is there
/// already, and keeps it in memory until *out is freed with astrai_prefix_free. Requests that begin with the same
/// tokens start from it. Only whole pages are kept, at most half of all. A chat is rendered without opening the
/// assistant's turn; stops and biases do not matter. The prompt may be changed or freed right after.
/// ERR_CONTEXT, ERR_QUEUE_FULL, ERR_TEMPLATE, ERR_CLOSED, ERR_UNSUPPORTED, ERR_ARGUMENT as for astrai_submit. What
/// goes wrong later is told by astrai_prefix_wait.
int32_t astrai_prefix_pin(const struct astrai_engine *engine,
                          const struct astrai_prompt *prompt,
                          struct astrai_prefix **out,
                          struct astrai_error **err);

/// [B] Waits until the prefix is pinned. *tokens (tokens may be NULL) is how many tokens that are: whole pages, so 0
/// for a prompt shorter than a page; fewer later if a request had no other way to go on, which is logged. TIMEOUT: it
/// is not after timeout_ms (0 polls, -1 waits forever).
/// ERR_MEMORY: pins would take more than half of the pages; needed and available are in tokens. ERR_QUEUE_FULL: too
/// many are pinned. ERR_CLOSED, ERR_INTERNAL: the engine ended. ERR_HANDLE: another thread freed the prefix.
int32_t astrai_prefix_wait(const struct astrai_prefix *prefix,
                           int32_t timeout_ms,
                           uint32_t *tokens,
                           struct astrai_error **err);

/// [B] Waits until the prefix is pinned and writes it to a file, for astrai_prefix_restore in this or another process.
/// A file of that name is replaced in one step: it is there whole, the old or the new, also if the machine stops. It keeps
/// its mode; a new one is its owner's alone. Through a symbolic link the file it leads to is written; ERR_IO for a folder,
/// a device, a pipe or a socket. What a process that was killed left beside it is gone after the next save.
/// Other requests go on meanwhile; a duty limit counts and delays the copying, a pause does not hold it. The first save
/// or restore of an engine reads all weights once, in this call, to know the model by every byte: seconds for each 10 GB
/// that are in memory, else as long as the disk takes. Errors as for astrai_prefix_wait; ERR_IO, ERR_UTF8.
int32_t astrai_prefix_save(const struct astrai_prefix *prefix,
                           const char *path,
                           struct astrai_error **err);

/// [B] Pins what astrai_prefix_save wrote; requests that begin with it give the same bits as if it had been computed.
/// Other requests go on meanwhile. What the first one of an engine costs, and how a duty limit and a pause matter, is said
/// at astrai_prefix_save. *out is freed with astrai_prefix_free. When it fails nothing is pinned.
/// ERR_MISMATCH: the file is of another model (one bit of the weights suffices), instruction set, type, page size or version; the message has both
/// values. ERR_FORMAT: it is damaged. ERR_CONTEXT, ERR_MEMORY: it does not fit, in tokens. ERR_IO, ERR_CLOSED,
/// ERR_UNSUPPORTED, ERR_UTF8. Only restore files you trust: a checksum finds accidents, not malice.
int32_t astrai_prefix_restore(const struct astrai_engine *engine,
                              const char *path,
                              struct astrai_prefix **out,
                              struct astrai_error **err);

/// [A] Frees the handle: the pages are no longer pinned, or no longer computed. They stay cached until their memory is
/// needed. A thread inside astrai_prefix_wait gets ERR_HANDLE. NULL is fine. In a forked child it does nothing.
void astrai_prefix_free(struct astrai_prefix *prefix);

/* -- server: the engine behind HTTP ------------------------------------------ */

/// [A] Sets every option to automatic. size is the caller's sizeof(astrai_server_options).
/// ERR_ARGUMENT: options is NULL. ERR_STRUCT_SIZE: size is none that this struct ever had.
int32_t astrai_server_options_init(struct astrai_server_options *options, size_t size);

/// [B] Starts an HTTP server in front of the engine, on threads of its own, that answers clients of OpenAI's and Anthropic's
/// dialects. options may be NULL: all automatic. *out is ended and freed with astrai_server_stop, before the engine is freed: an
/// engine that is freed first closes, and ends with its server.
/// The server's requests share the engine with those of the program, and are counted in its statistics and limits; their
/// events never come to astrai_engine_next, astrai_engine_poll or a callback. They have the priority of the options.
/// ERR_UNSUPPORTED: the library was built without its server, or the engine was opened for text only. ERR_IO: it cannot listen at
/// host and port; os_code says why. ERR_ARGUMENT, ERR_UTF8, ERR_CLOSED, ERR_MEMORY.
int32_t astrai_server_start(const struct astrai_engine *engine,
                            const struct astrai_server_options *options,
                            struct astrai_server **out,
                            struct astrai_error **err);

/// [A] Where the server answers, such as "http://127.0.0.1:8080"; lives until astrai_server_stop. NULL when server is no live
/// handle.
const char *astrai_server_url(const struct astrai_server *server);

/// [B] Stops listening, lets requests end for at most grace_ms (-1: until they end), cancels the rest, joins the server's threads
/// and frees the handle; the engine goes on. NULL is fine. With an error the server goes on, except with ERR_FORKED.
/// ERR_REENTRANT: inside a callback. ERR_ARGUMENT.
int32_t astrai_server_stop(struct astrai_server *server,
                           int32_t grace_ms,
                           struct astrai_error **err);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* ASTRAI_H */
