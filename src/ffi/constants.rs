//! Every constant of the header; their values are part of the ABI.

/// Version of the ABI this header describes; compare with astrai_abi_version().
pub const ASTRAI_ABI_VERSION: u32 = 1;

/// The call did what it says.
pub const ASTRAI_OK: i32 = 0;
/// The time ran out; nothing changed, unless the function says otherwise.
pub const ASTRAI_TIMEOUT: i32 = 1;
/// The stream has ended; there is nothing more to read.
pub const ASTRAI_END: i32 = 2;
/// An argument or option value is not allowed.
pub const ASTRAI_ERR_ARGUMENT: i32 = 10;
/// struct_size is zero, too small, or larger than this library knows with unknown fields set.
pub const ASTRAI_ERR_STRUCT_SIZE: i32 = 11;
/// The handle is of another kind or was freed.
pub const ASTRAI_ERR_HANDLE: i32 = 12;
/// A blocking call inside a callback.
pub const ASTRAI_ERR_REENTRANT: i32 = 13;
/// Another thread is using a one-thread-at-a-time handle.
pub const ASTRAI_ERR_BUSY: i32 = 14;
/// The engine is closed, or closing.
pub const ASTRAI_ERR_CLOSED: i32 = 15;
/// The process forked after the engine was opened.
pub const ASTRAI_ERR_FORKED: i32 = 16;
/// A callback asked to stop.
pub const ASTRAI_ERR_ABORTED: i32 = 17;
/// The caller's buffer is too small; *count holds the capacity that is needed.
pub const ASTRAI_ERR_BUFFER: i32 = 18;
/// The operating system refused a file operation; os_code says why.
pub const ASTRAI_ERR_IO: i32 = 19;
/// A file is not what its format demands.
pub const ASTRAI_ERR_FORMAT: i32 = 20;
/// Valid, but nothing this build can do.
pub const ASTRAI_ERR_UNSUPPORTED: i32 = 21;
/// The chat template failed, or raised an error, whose message is the template's own.
pub const ASTRAI_ERR_TEMPLATE: i32 = 22;
/// Text is not valid UTF-8.
pub const ASTRAI_ERR_UTF8: i32 = 23;
/// The prompt is longer than the context, which is never longer than what the KV memory holds; needed and available are in
/// tokens.
pub const ASTRAI_ERR_CONTEXT: i32 = 24;
/// Memory could not be had.
pub const ASTRAI_ERR_MEMORY: i32 = 26;
/// Too many requests are waiting.
pub const ASTRAI_ERR_QUEUE_FULL: i32 = 27;
/// A saved state belongs to another model or configuration.
pub const ASTRAI_ERR_MISMATCH: i32 = 28;
/// The device failed or is not there.
pub const ASTRAI_ERR_DEVICE: i32 = 29;
/// A defect of the library itself.
pub const ASTRAI_ERR_INTERNAL: i32 = 30;

/// needed and available of an error are not set.
pub const ASTRAI_UNIT_NONE: i32 = 0;
/// They count bytes.
pub const ASTRAI_UNIT_BYTES: i32 = 1;
/// They count tokens.
pub const ASTRAI_UNIT_TOKENS: i32 = 2;
/// They count things one by one.
pub const ASTRAI_UNIT_COUNT: i32 = 3;

/// More tokens or text; the request goes on.
pub const ASTRAI_EVENT_DELTA: i32 = 1;
/// Terminal: the request ran to its end.
pub const ASTRAI_EVENT_FINISHED: i32 = 2;
/// Terminal: stopped from outside.
pub const ASTRAI_EVENT_CANCELLED: i32 = 3;
/// Terminal: failed; the event carries the error.
pub const ASTRAI_EVENT_FAILED: i32 = 4;

/// The request has not ended.
pub const ASTRAI_FINISH_NONE: i32 = 0;
/// The model ended the sequence.
pub const ASTRAI_FINISH_EOS: i32 = 1;
/// A stop string or stop token was produced.
pub const ASTRAI_FINISH_STOP: i32 = 2;
/// max_tokens were produced, or the context is full.
pub const ASTRAI_FINISH_LENGTH: i32 = 3;
/// astrai_request_cancel, astrai_engine_cancel_all, or the handle was freed.
pub const ASTRAI_FINISH_CANCEL: i32 = 4;
/// The callback returned nonzero.
pub const ASTRAI_FINISH_CALLBACK: i32 = 5;
/// The deadline passed.
pub const ASTRAI_FINISH_DEADLINE: i32 = 6;
/// The engine was closed.
pub const ASTRAI_FINISH_CLOSE: i32 = 7;
/// An error ended it.
pub const ASTRAI_FINISH_ERROR: i32 = 8;

/// The GPU of device_index if the library was built for it and it holds the model, else the CPU; a log line says why.
pub const ASTRAI_DEVICE_AUTO: i32 = 0;
/// The CPU.
pub const ASTRAI_DEVICE_CPU: i32 = 1;
/// The NVIDIA GPU of device_index; ASTRAI_ERR_UNSUPPORTED from a library built without it, ASTRAI_ERR_DEVICE without driver.
pub const ASTRAI_DEVICE_CUDA: i32 = 2;

/// Chosen by the library.
pub const ASTRAI_TYPE_AUTO: i32 = 0;
/// IEEE binary32.
pub const ASTRAI_TYPE_F32: i32 = 1;
/// bfloat16.
pub const ASTRAI_TYPE_BF16: i32 = 2;
/// 8-bit integers with factors: of weights one for each group, of the KV cache one for each token and head.
pub const ASTRAI_TYPE_Q8: i32 = 3;
/// 4-bit codes into a table of sixteen values, with factors, of weights only.
pub const ASTRAI_TYPE_Q4: i32 = 4;
/// Of weights only: Q4, with Q8 where it pays most; some 5 bits a weight.
pub const ASTRAI_TYPE_Q5: i32 = 5;

/// The fastest instruction set this processor has.
pub const ASTRAI_TIER_AUTO: i32 = 0;
/// Plain loops in f32: the specification of all others.
pub const ASTRAI_TIER_REFERENCE: i32 = 1;
/// What every processor of the architecture has.
pub const ASTRAI_TIER_PORTABLE: i32 = 2;
/// Arm NEON.
pub const ASTRAI_TIER_NEON: i32 = 3;
/// AVX2 with FMA.
pub const ASTRAI_TIER_AVX2: i32 = 4;
/// AVX-512.
pub const ASTRAI_TIER_AVX512: i32 = 5;
/// Intel AMX. Opening an engine asks Linux to let the process use it, for good; Auto does the same where it is there.
pub const ASTRAI_TIER_AMX: i32 = 6;

/// Callbacks run on a dispatch thread of the library.
pub const ASTRAI_DELIVER_THREAD: i32 = 0;
/// Callbacks, finalizers and log lines run inside open, poll, wait, close and free only, on the thread that calls.
pub const ASTRAI_DELIVER_POLL: i32 = 1;

/// No log lines.
pub const ASTRAI_LOG_OFF: i32 = 0;
/// Failures of the engine.
pub const ASTRAI_LOG_ERROR: i32 = 1;
/// Things a developer should know.
pub const ASTRAI_LOG_WARN: i32 = 2;
/// Open, close, configuration.
pub const ASTRAI_LOG_INFO: i32 = 3;
/// Details.
pub const ASTRAI_LOG_DEBUG: i32 = 4;

/// astrai_engine_options.flags: read the weights into memory instead of mapping the files.
pub const ASTRAI_ENGINE_NO_MMAP: u32 = 1;
/// astrai_engine_options.flags: tokenizer and template only, no weights.
pub const ASTRAI_ENGINE_TEXT_ONLY: u32 = 2;
/// astrai_engine_options.flags: on a GPU give way to its other work, such as a game's rendering.
pub const ASTRAI_ENGINE_GPU_LOW_PRIORITY: u32 = 4;
/// astrai_engine_options.flags: sleep while the GPU works, instead of watching for its end.
pub const ASTRAI_ENGINE_GPU_BLOCKING_WAIT: u32 = 8;
/// astrai_engine_options.flags: write every page of the KV cache in open: memory that cannot be had is ERR_MEMORY there, and
/// not the end of the process when it is used. What cannot be seen to be there is not written.
pub const ASTRAI_ENGINE_TOUCH_KV: u32 = 16;
/// astrai_engine_options.flags: make what constraints need of the vocabulary while the engine opens, and count it in the plan.
/// Without it the first constraint or call of a tool makes it, which takes up to a second then.
pub const ASTRAI_ENGINE_CONSTRAINTS: u32 = 32;

/// astrai_engine_options.speculation: drafts are what followed the last words of a request earlier in its own text, prompt or
/// answer. A step computes them with the token before them, and gives several tokens where they were right.
pub const ASTRAI_SPECULATE_OWN_TEXT: u32 = 1;
/// astrai_engine_options.speculation: drafts also come from the answers of the engine's earlier requests. Then how fast an answer
/// comes may tell what others were about.
pub const ASTRAI_SPECULATE_SHARED_TEXTS: u32 = 2;

/// astrai_request_options.flags: seed is set; without it a random one is drawn and reported in the usage.
pub const ASTRAI_REQUEST_SEEDED: u32 = 1;
/// astrai_request_options.flags: go on after an end-of-sequence token.
pub const ASTRAI_REQUEST_IGNORE_EOS: u32 = 2;
/// astrai_request_options.flags: report the log probability of every prompt token.
pub const ASTRAI_REQUEST_PROMPT_LOGPROBS: u32 = 4;
/// astrai_request_options.flags: template and tokenizer run on a thread of the engine; their errors, and a prompt that
/// is empty or too long, become an ASTRAI_EVENT_FAILED.
pub const ASTRAI_REQUEST_DEFER: u32 = 8;
/// astrai_request_options.flags: events go to a queue of the engine, read with astrai_engine_next; on_event is NULL.
pub const ASTRAI_REQUEST_TO_ENGINE: u32 = 16;
/// astrai_request_options.flags: special tokens have their names in the text of events, as a model's marker of a tool call
/// needs; without it they have no text. A token that ends the answer has none either way: tokens has its id.
pub const ASTRAI_REQUEST_SPECIAL: u32 = 32;
/// astrai_request_options.flags: the text of events is all that the model wrote, with its reasoning, its calls and the markers
/// around them. Without it the text of an answer to messages is its content alone. Events have parts either way.
pub const ASTRAI_REQUEST_RAW_TEXT: u32 = 64;

/// astrai_request_options.flags: the host chooses every token, by astrai_request_logits and astrai_request_choose. Until it has, the
/// request has no part in the engine's steps, and nobody waits for it.
pub const ASTRAI_REQUEST_HOST_LOGITS: u32 = 128;
/// astrai_request_options.flags: nothing is generated; the last event has the embedding of the prompt, which is of text or tokens.
/// Pooling and what follows are those of the model's modules.json; without one it is the state of the last token, divided by its
/// norm. Options about tokens are to be left unset. The request ends with ASTRAI_FINISH_LENGTH. ERR_UNSUPPORTED: the model's files
/// ask for something that is not computed here.
pub const ASTRAI_REQUEST_EMBED: u32 = 256;

/// The prompt is not made of messages: its answer is one part, of content.
pub const ASTRAI_FORMAT_TEXT: i32 = 0;
/// How the model writes reasoning and calls is not known: all of the answer is content.
pub const ASTRAI_FORMAT_UNKNOWN: i32 = 1;
/// The answer is read into reasoning, content and calls.
pub const ASTRAI_FORMAT_KNOWN: i32 = 2;

/// Text for the reader.
pub const ASTRAI_PART_CONTENT: i32 = 0;
/// What the model thought on its way to the answer.
pub const ASTRAI_PART_REASONING: i32 = 1;
/// A call of a tool; its text is the arguments, as JSON.
pub const ASTRAI_PART_CALL: i32 = 2;

/// The part goes on.
pub const ASTRAI_PART_OPEN: i32 = 0;
/// The part ends, and is whole.
pub const ASTRAI_PART_COMPLETE: i32 = 1;
/// The answer ended within the part.
pub const ASTRAI_PART_UNCLOSED: i32 = 2;
/// A call that ends and whose arguments are not JSON as the format says; its text is what the model wrote.
pub const ASTRAI_PART_MALFORMED: i32 = 3;

/// astrai_prompt_set_message_flags: names of special tokens in the message's content become those tokens, as most engines
/// always have it. Without it they are ordinary characters, so that what somebody writes makes no turn of the conversation. An
/// assistant's content always has them, because templates split it at its markers.
pub const ASTRAI_MESSAGE_SPECIAL: u32 = 1;
/// astrai_prompt_set_message_flags: the message, the last one and an assistant's, is the start of the answer. The model goes
/// on where its content ends, and the events have only what is new. ASTRAI_TEXT_NO_GENERATION_PROMPT changes nothing then.
pub const ASTRAI_MESSAGE_CONTINUE: u32 = 2;

/// Text flags: names of special tokens in raw text become those tokens; detokenize: keep special tokens.
pub const ASTRAI_TEXT_SPECIAL: u32 = 1;
/// Text flags: do not open the assistant's turn after the messages.
pub const ASTRAI_TEXT_NO_GENERATION_PROMPT: u32 = 2;

/// A JSON schema: the answer is a JSON value that it accepts.
pub const ASTRAI_CONSTRAINT_JSON_SCHEMA: i32 = 1;
/// No text: the answer is any JSON value.
pub const ASTRAI_CONSTRAINT_JSON: i32 = 2;
/// A regular expression, without look-around and back-references: the whole answer matches.
pub const ASTRAI_CONSTRAINT_REGEX: i32 = 3;
/// A grammar in the Lark format, as llguidance extends it.
pub const ASTRAI_CONSTRAINT_LARK: i32 = 4;
/// A JSON list of strings: the answer is one of them.
pub const ASTRAI_CONSTRAINT_TEXTS: i32 = 5;
/// Added to one of these: the constraint is on all that the model writes, its reasoning, its calls and the markers around them, too.
/// Without it the answer to messages, of a model whose format is known, has it on the content, which follows the reasoning.
pub const ASTRAI_CONSTRAINT_WHOLE: i32 = 256;

/// The model calls tools as it likes.
pub const ASTRAI_TOOLS_AUTO: i32 = 0;
/// The answer calls no tool.
pub const ASTRAI_TOOLS_NONE: i32 = 1;
/// The answer is calls, at least one.
pub const ASTRAI_TOOLS_REQUIRED: i32 = 2;
/// As ASTRAI_TOOLS_REQUIRED, of the tool of this name.
pub const ASTRAI_TOOLS_NAMED: i32 = 3;

/// astrai_settings_set_tool_choice: an answer has one call at most.
pub const ASTRAI_TOOLS_SINGLE_CALL: u32 = 1;
/// astrai_settings_set_tool_choice: with ASTRAI_TOOLS_AUTO calls of every tool are as its schema demands, not only of those that say
/// "strict": true.
pub const ASTRAI_TOOLS_CONSTRAIN: u32 = 2;

/// A JSON array of messages, each an object with a role; replaces the messages there are.
pub const ASTRAI_JSON_MESSAGES: i32 = 1;
/// A JSON array of tools for the chat template.
pub const ASTRAI_JSON_TOOLS: i32 = 2;
/// A JSON object of further variables for the chat template.
pub const ASTRAI_JSON_VARIABLES: i32 = 3;
