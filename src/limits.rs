//! Every limit of the library, by name, in one place (law 8). A value that a file or a caller gives is checked
//! against these before anything is sized by it.

/// Largest `config.json`, `generation_config.json` or template file read, in bytes.
pub const CONFIG_BYTES_MAX: u64 = 16 << 20;
/// Most modules of an embedding model: transformer, pooling and what follows.
pub const EMBEDDING_MODULES_MAX: usize = 32;
/// Most bytes of the weights of a dense layer of an embedding model, as f32.
pub const EMBEDDING_DENSE_BYTES_MAX: usize = 1 << 30;
/// Most inputs or outputs of such a layer, and most numbers of an embedding.
pub const EMBEDDING_WIDTH_MAX: usize = 1 << 16;
/// Hidden states that are read from a device at once, in tokens.
pub const EMBEDDING_ROWS: usize = 64;
/// Largest `tokenizer.json` read, in bytes.
pub const TOKENIZER_BYTES_MAX: u64 = 256 << 20;
/// Most steps of a tokenizer's decoder.
pub const DECODER_STAGES_MAX: usize = 64;
/// Most steps of a tokenizer's normalizer, and of its pre-tokenizer.
pub const TOKENIZER_STEPS_MAX: usize = 64;
/// Most steps, of normalizer and pre-tokenizer together, that write text in the byte-level alphabet: each doubles it.
pub const BYTE_LEVEL_STEPS_MAX: usize = 4;
/// Most pieces that a tokenizer's post-processor makes of one text: tokens that it adds, and copies of the text.
pub const POST_PROCESSOR_PIECES_MAX: usize = 256;
/// Text is normalized and its words are encoded in pieces of about so many bytes; between them a request may end.
pub const TEXT_PIECE_BYTES: usize = 16 << 10;
/// Largest piece of text that a normalizer gets at once where it cannot be cut safely, in bytes.
pub const TEXT_PIECE_BYTES_MAX: usize = 1 << 20;
/// Times that a normalizer's step may lengthen a piece of text, beyond [`NORMALIZED_BYTES_FREE`].
pub const NORMALIZER_GROWTH_MAX: usize = 64;
/// Bytes that a normalizer's step may make of any piece of text, however short.
pub const NORMALIZED_BYTES_FREE: usize = 4096;
/// Longest text that a normalizer may make of a prompt, in bytes.
pub const NORMALIZED_BYTES_MAX: usize = 256 << 20;
/// Longest replacement of one character in a normalizer's table, in bytes.
pub const CHARACTER_REPLACEMENT_BYTES_MAX: usize = 1024;
/// Longest word that a vocabulary gets at once, in bytes of its alphabet. Longer ones go in pieces.
pub const WORD_BYTES: usize = 8 << 10;
/// Longest part of a word that is looked through for a place where it can be cut, in bytes.
pub const WORD_BYTES_MAX: usize = 1 << 20;
/// Longest text for an expression that backtracks, in bytes.
pub const BACKTRACKING_BYTES_MAX: usize = 64 << 10;
/// Backtracks of such an expression before a match, at most.
pub const BACKTRACKS_MAX: usize = 100_000;
/// Backtracks with which a match is tried before; what it needs is known to that accuracy.
pub const BACKTRACKS_TRIED: [usize; 3] = [32, 512, 8192];
/// Bytes that the expressions of a tokenizer may read or try for each byte of a text, all of them together: those of language
/// models read it a few times.
pub const SEARCH_EFFORT_FACTOR: usize = 64;
/// Bytes that they may read or try beyond that, however short the prompt.
pub const SEARCH_EFFORT_FREE: usize = 1 << 20;
/// An automaton that looks for words says so after this many bytes.
pub const SEARCH_PIECE_BYTES: usize = 4 << 10;
/// Largest automaton of one expression, in bytes.
pub const AUTOMATON_BYTES_MAX: usize = 10 << 20;
/// Memory for what a search makes of an automaton while it runs, in bytes, for each direction. When it is full, it begins anew.
pub const AUTOMATON_CACHE_BYTES: usize = 1 << 20;
/// Backtracks of an expression of a decoder before a match, at most: it runs for each token, on the engine's thread.
pub const DECODER_BACKTRACKS_MAX: usize = 1_000;
/// As [`SEARCH_EFFORT_FREE`], for an expression of a decoder and what it gets for one token.
pub const DECODER_EFFORT_FREE: usize = 4096;
/// Longest text that a decoder may make of one token, and of an answer that it must see whole, in bytes.
pub const DECODED_BYTES_MAX: usize = 1 << 20;
/// Deferred prompts with more text than this, in bytes, let shorter ones go first.
pub const LONG_PROMPT_BYTES: usize = 64 << 10;
/// A prompt of so many bytes is counted to its end when it exceeds the context; of a longer one the error says "more than".
pub const COUNTED_BYTES_MAX: usize = 256 << 10;
/// Largest `model.safetensors.index.json` read, in bytes; that of a model with many experts is long.
pub const INDEX_BYTES_MAX: u64 = 128 << 20;
/// Largest safetensors header, in bytes. The format's own limit.
pub const SAFETENSORS_HEADER_BYTES_MAX: u64 = 100_000_000;
/// Bytes of a GGUF file's header, vocabulary included.
pub const GGUF_HEADER_BYTES_MAX: u64 = 256 << 20;
/// Keys of a GGUF file's metadata.
pub const GGUF_KEYS_MAX: usize = 1 << 16;
/// Bytes of a safetensors header's free-form strings that are kept, names included.
pub const METADATA_BYTES_MAX: usize = 4096;
/// Most shards of one checkpoint.
pub const SHARDS_MAX: usize = 1024;
/// Most bytes of the headers of one checkpoint, all its files together.
pub const CHECKPOINT_HEADER_BYTES_MAX: u64 = 256 << 20;
/// Most tensors of one checkpoint, all its files together, counted while they are read.
pub const TENSORS_MAX: usize = 1 << 20;
/// Names of a folder looked at to say what it is when it is no model folder.
pub const FOLDER_NAMES_MAX: usize = 4096;
/// Tensors named in a message about many.
pub const NAMED_TENSORS_MAX: usize = 8;
/// Most dimensions of a tensor.
pub const TENSOR_RANK_MAX: usize = 8;

/// Stored bytes that are quantized between two progress reports, at least sixteen rows.
pub const QUANTIZED_PIECE_BYTES: usize = 16 << 20;

/// Most layers of a model.
pub const LAYERS_MAX: usize = 1024;
/// Largest hidden, intermediate or projection width, in elements.
pub const WIDTH_MAX: usize = 1 << 20;
/// Largest head size, in elements.
pub const HEAD_DIM_MAX: usize = 1024;
/// Most tokens that an output of a convolution sees.
pub const CONV_KERNEL_MAX: usize = 64;
/// Most attention heads of a layer.
pub const HEADS_MAX: usize = 4096;
/// Most routed experts of a layer.
pub const EXPERTS_MAX: usize = 4096;
/// Most experts of a model, those of all layers together, shared ones included.
pub const MODEL_EXPERTS_MAX: usize = 1 << 17;
/// Largest vocabulary, in tokens.
pub const VOCAB_MAX: usize = 1 << 24;
/// Longest context, in tokens.
pub const CONTEXT_MAX: usize = 1 << 24;

/// Most threads of one engine.
pub const THREADS_MAX: usize = 1024;
/// Most sequences running at once.
pub const RUNNING_MAX: usize = 4096;
/// Most requests waiting for a slot.
pub const WAITING_MAX: usize = 1 << 20;
/// Requests waiting for a slot, by default.
pub const WAITING_DEFAULT: usize = 4096;
/// Sequences running at once, by default.
pub const RUNNING_DEFAULT: usize = 16;
/// Arrivals of one age bucket: within it the sequence with the longest cached prefix is admitted first.
pub const AGE_BUCKET_ARRIVALS: usize = 32;
/// Admissions a waiting sequence sees before it ranks above every priority.
pub const OVERTAKEN_MAX: usize = 256;
/// Steps a running sequence goes without a row for its prompt before it gets the first.
pub const UNSERVED_STEPS_MAX: usize = 32;
/// Pages of the prefix tree that one look for a beginning with all it needs goes through.
pub const USABLE_PAGES_LOOKED_AT_MAX: usize = 4096;
/// Waiting sequences looked at to find the next one to admit.
pub const REFILL_SCAN_MAX: usize = 128;
/// Tokens of one step, by default: a prefill chunk and all decode rows.
pub const STEP_TOKENS_DEFAULT: usize = 256;
/// Most tokens of one step.
pub const STEP_TOKENS_MAX: usize = 1 << 16;
/// Tokens of one step on a GPU, by default: prompts want many rows there.
pub const STEP_TOKENS_GPU_DEFAULT: usize = 2048;
/// Most tokens of one step on a GPU, whose launches count blocks of rows up to 65,535.
pub const STEP_TOKENS_GPU_MAX: usize = 1 << 14;
/// Most logits rows of one step beyond one for each row (prompt logprobs take several passes).
pub const LOGITS_ROWS_MAX: usize = 64;
/// The same on a GPU, which samples them where they are: one for each sequence of a step.
pub const LOGITS_ROWS_GPU_MAX: usize = 512;
/// Most drafts of a sequence in one step.
pub const DRAFT_TOKENS_MAX: usize = 32;
/// Drafts of a sequence in one step, at most, by default.
pub const DRAFT_TOKENS_DEFAULT: usize = 16;
/// Tokens of texts whose repetitions are looked up between two steps: of one that was just admitted more may be left.
pub const DRAFT_TEXT_TOKENS: usize = 2048;
/// Microseconds that masks of drafts under a constraint may take after one of its tokens; what is not there then is not drafted.
pub const DRAFT_MASKS_US: u64 = 500;
/// Tokens of an answer whose repetitions are drafted from; there are no drafts of text behind them.
pub const DRAFT_ANSWER_TOKENS: usize = 1 << 14;
/// Longest text that drafts are made of its repetitions.
pub const DRAFT_TEXT_MAX: usize = 1 << 17;
/// Tokens of ended requests that drafts are taken from, by default.
pub const DRAFT_SHARED_TOKENS: usize = 1 << 18;
/// Tokens of a KV page, by default.
pub const PAGE_TOKENS_DEFAULT: usize = 16;
/// Most tokens of a KV page.
pub const PAGE_TOKENS_MAX: usize = 256;
/// A GPU's memory that is left free without a budget, in bytes: code, recorded steps and what the driver rounds up are in no
/// plan. A quarter of what is free where that is less.
pub const GPU_FREE_BYTES: u64 = 256 << 20;

/// Most pages of one engine.
pub const PAGES_MAX: usize = 1 << 26;

/// Most pinned prefixes of one engine, those being computed included.
pub const PINS_MAX: usize = 1024;
/// Pinned prefixes may take one page in this many; the rest is for requests.
pub const PINNED_SHARE: usize = 2;
/// Bytes of pages copied between two steps while a prefix is saved or restored, at least one page: long prefixes go in
/// pieces, so that running streams do not stall.
pub const PREFIX_PIECE_BYTES: usize = 1 << 20;
/// Longest description at the head of a prefix file, in bytes.
pub const PREFIX_HEADER_BYTES_MAX: usize = 1 << 18;

/// Where a request with XTC names no threshold: that of the engines which have it.
pub const XTC_THRESHOLD_DEFAULT: f32 = 0.1;

/// Where a request with DRY names no base: that of the engines which have it.
pub const DRY_BASE_DEFAULT: f32 = 1.75;
/// As [`DRY_BASE_DEFAULT`], of the allowed length.
pub const DRY_ALLOWED_LENGTH_DEFAULT: u32 = 2;
/// As [`DRY_BASE_DEFAULT`], of the sequence breakers.
pub const DRY_BREAKERS_DEFAULT: [&str; 4] = ["\n", ":", "\"", "*"];
/// Far beyond the distance of any two logits, so that a longer repetition need not count for more.
pub const DRY_PENALTY_MAX: f64 = 1e6;
/// Sequence breakers of a request. They are looked for in every token of the vocabulary.
pub const DRY_BREAKERS_MAX: usize = 64;
/// Bytes of a sequence breaker.
pub const DRY_BREAKER_BYTES_MAX: usize = 256;
/// Lists of breakers whose tokens are kept for the next requests.
pub const DRY_BREAKER_LISTS_KEPT: usize = 8;

/// Tokens a request's event queue holds before the request is paused, by default.
pub const QUEUE_TOKENS_DEFAULT: usize = 4096;
/// Most tokens a request's event queue may hold.
pub const QUEUE_TOKENS_MAX: usize = 1 << 20;
/// Bytes of text that a request's event queue has room for, for each token that it holds; with more it is full, too.
pub const QUEUE_TEXT_BYTES: usize = 16;
/// Tokens that a request's event queue holds while a reader copies what it has.
pub const QUEUE_SPARE_TOKENS: usize = 64;
/// Bytes of text that one token sets free, as a rule; more takes memory in a step.
pub const TOKEN_TEXT_BYTES: usize = 256;
/// Requests that have ended and nobody has read, beyond those that may run and wait: with more none is accepted.
pub const UNREAD_MAX: usize = 256;
/// Milliseconds that a taker waits while others hold events of all requests that could give one, and none is let go.
pub const HELD_WAIT_MS: u64 = 100;
/// Admissions, preemptions and ends that a trace keeps between two records of its detail; of more only the number is known.
pub const TRACE_EVENTS_MAX: usize = 4096;
/// Commands to an engine thread, such as a cancel, for which there is memory from the engine's opening on, whatever happens.
pub const COMMANDS_RESERVED: usize = 256;
/// Tokens generated when neither the request nor the model names a number: as many as the context holds.
pub const GENERATED_TOKENS_MAX: usize = CONTEXT_MAX;
/// Most stop strings of a request.
pub const STOPS_MAX: usize = 256;
/// Longest stop string, in bytes.
pub const STOP_BYTES_MAX: usize = 4096;
/// Most stop token ids of a request.
pub const STOP_TOKENS_MAX: usize = 4096;
/// Most logit biases of a request.
pub const BIASES_MAX: usize = 1 << 16;
/// Most top log probabilities of a token.
pub const TOP_LOGPROBS_MAX: usize = 256;
/// Longest prompt text in bytes, rendered or raw.
pub const PROMPT_BYTES_MAX: usize = 64 << 20;
/// Most parts of a raw prompt, empty ones included.
pub const PROMPT_PARTS_MAX: usize = 1 << 16;
/// Most messages of a prompt.
pub const MESSAGES_MAX: usize = 1 << 16;
/// Most chat templates of a model that go by names.
pub const NAMED_TEMPLATES_MAX: usize = 64;
/// Entries of a folder that are looked at for files of any name.
pub const FOLDER_ENTRIES_MAX: usize = 4096;
/// Instructions a chat template may run.
pub const TEMPLATE_FUEL: u64 = 50_000_000;
/// Longest time a rendering may take, in milliseconds; [`TEMPLATE_FUEL`] ends most sooner.
pub const TEMPLATE_MS_MAX: u64 = 5_000;
/// Steps of each small rendering that finds out, at open, what a chat template wants.
pub const TEMPLATE_PROBE_FUEL: u64 = 200_000;
/// Most digits of a whole number in a chat template, as Python's own limit.
pub const TEMPLATE_DIGITS_MAX: usize = 4300;
/// Longest text a chat template may render, in bytes.
pub const TEMPLATE_OUTPUT_BYTES_MAX: usize = 64 << 20;

/// Largest struct of the C ABI that any version may have, in bytes.
pub const STRUCT_BYTES_MAX: usize = 4096;
/// Deepest nesting of lists and objects in JSON.
pub const JSON_DEPTH_MAX: usize = 127;
/// Most memory of the values of a configuration file or of a part of a tokenizer, in bytes; a tree takes many times its text.
pub const CONFIG_TREE_BYTES_MAX: usize = 64 << 20;
/// Most memory of the values of a JSON text of a prompt, in bytes.
pub const PROMPT_TREE_BYTES_MAX: usize = 64 << 20;
/// Longest JSON text of a prompt, in bytes: a parsed value takes many times its text.
pub const PROMPT_JSON_BYTES_MAX: usize = 16 << 20;
/// Log lines waiting for the log callback; more are dropped and counted.
pub const LOG_LINES_MAX: usize = 1024;
/// Most bytes of text a rendering may make, and of lists and dicts it may hold.
pub const TEMPLATE_MEMORY_BYTES_MAX: usize = 512 << 20;
/// Most bytes of stack a chat template's recursion may use of its caller's thread.
pub const TEMPLATE_STACK_BYTES_MAX: usize = 256 << 10;

/// Bytes of partial results of attention for each CPU thread: long sequences are cut for several threads as far as these hold,
/// which no result shows.
pub const ATTENTION_PARTS_BYTES: usize = 1 << 20;

/// Largest logits that are searched for while logits are computed; with more than these in top-k the whole row is read.
pub const BEST_LOGITS_MAX: usize = 64;

/// Static memory of the C libraries that serves when the system has none left, in bytes; a multiple of 1,024. It is touched only
/// then.
pub const RESERVE_BYTES: usize = 16 << 20;
/// Largest block that this reserve serves, in bytes; a larger one fails, and what asks for it must be able to.
pub const RESERVE_BLOCK_BYTES_MAX: usize = 1 << 20;
/// Largest block that may come from any part of the reserve, in bytes; larger ones come from one half of it.
pub const RESERVE_SMALL_BYTES_MAX: usize = 64 << 10;
/// Most pieces of work at once, in all engines, that the C libraries keep memory behind; more run with the reserve alone.
pub const BACKUPS_MAX: usize = 128;
/// Stack of the library's own threads, in bytes. Callbacks run on them too.
pub const THREAD_STACK_BYTES: usize = 2 << 20;
/// Stack that a calling thread has to have, as the header's contract says, in bytes.
pub const CALLER_STACK_BYTES: usize = 64 << 10;
/// Stack that chat templates, tokenizers and JSON are run with, in bytes: on the caller's thread if it has as much left.
pub const TEXT_STACK_BYTES: usize = TEMPLATE_STACK_BYTES_MAX + (256 << 10);
/// Memory that a thread of the library tries before it begins its work, in bytes.
pub const THREAD_START_BYTES: usize = 64 << 10;
/// Stack that an engine is opened or planned with, in bytes; as above.
pub const OPEN_STACK_BYTES: usize = 512 << 10;

/// Most entries of a folder that are looked at for what writers that died have left there.
pub const STALE_ENTRIES_MAX: usize = 1 << 16;

/// Bytes of KV pages written at once while an engine touches them; between two pieces it looks what memory is left.
pub const TOUCH_PIECE_BYTES: usize = 32 << 20;
/// Bytes that must be left beside a piece that is about to be written: for what others, and the system, take meanwhile.
pub const TOUCH_SPARE_BYTES: u64 = 32 << 20;

/// Memory that a tokenizer takes while it is read, in bytes for each of its file, beside [`TEXT_MEMORY_BYTES`]. This and what
/// follows are estimates, which are tried as one block before; a test measures them.
pub const TOKENIZER_MEMORY_FACTOR: usize = 24;
/// Memory of the tree that a Unigram vocabulary is made into, in bytes for each of its names.
pub const NAME_TREE_MEMORY_FACTOR: usize = 384;
/// Memory that a chat template takes while it is compiled, in bytes for each of its text.
pub const TEMPLATE_MEMORY_FACTOR: usize = 64;
/// Memory that a rendering takes, in bytes for each that the prompt has.
pub const RENDER_MEMORY_FACTOR: usize = 8;
/// Memory that the tokenizer takes for a text, in bytes for each of its first [`ENCODE_PIECE_BYTES`]: it encodes in pieces, and
/// what grows with the text may be refused while it grows.
pub const ENCODE_MEMORY_FACTOR: usize = 64;
/// See there. Longer pieces and words, where a text cannot be cut, are estimated each by [`PIECE_MEMORY_FACTOR`].
pub const ENCODE_PIECE_BYTES: usize = 4 * TEXT_PIECE_BYTES;
/// Memory of one piece of text that is normalized at once, or of one word that the vocabulary gets at once, in bytes for each of
/// its own.
pub const PIECE_MEMORY_FACTOR: usize = 256;
/// Memory that it takes for any text, however short.
pub const ENCODE_MEMORY_BYTES: usize = 64 << 10;
/// Memory that decoding takes beside its text, however few tokens.
pub const DECODE_MEMORY_BYTES: usize = 64 << 10;
/// Memory of each name that a decoder keeps to the end, in bytes beside its text.
pub const DECODED_NAME_MEMORY_BYTES: usize = 256;
/// Memory of the values of a JSON file, in bytes for each of its text, beside the text itself.
pub const JSON_MEMORY_FACTOR: usize = 32;
/// Memory of the tensors' names and shapes, twice while the crate checks them, in bytes for each of a header's text.
pub const HEADER_MEMORY_FACTOR: usize = 16;
/// Memory that any other of these takes, however small what it reads, in bytes.
pub const TEXT_MEMORY_BYTES: usize = 256 << 10;

/// Longest text of a constraint, in bytes.
pub const CONSTRAINT_BYTES_MAX: usize = 1 << 20;
/// Longest regular expression or grammar, in bytes: the work for one may grow with the square of it.
pub const CONSTRAINT_EXPRESSION_BYTES_MAX: usize = 64 << 10;
/// Most characters of the parser's message in that of a refusal; it may quote a line of the text.
pub const CONSTRAINT_MESSAGE_CHARS_MAX: usize = 400;
/// Deepest nesting of brackets in a regular expression or grammar.
pub const CONSTRAINT_DEPTH_MAX: usize = 200;
/// Stack that compiling and using a constraint gets, in bytes.
pub const CONSTRAINT_STACK_BYTES: usize = 16 << 20;
/// Memory that compiling takes, in bytes for each of the text, beside [`CONSTRAINT_MEMORY_BYTES`].
pub const CONSTRAINT_MEMORY_FACTOR: usize = 64;
/// See there.
pub const CONSTRAINT_MEMORY_BYTES: usize = 8 << 20;
/// Steps that compiling the expressions of a constraint may take.
pub const CONSTRAINT_COMPILE_FUEL: u64 = 1_000_000;
/// Steps of the expressions for the tokens that may follow.
pub const CONSTRAINT_STEP_FUEL: u64 = 200_000;
/// Items of the parser for the tokens that may follow.
pub const CONSTRAINT_STEP_ITEMS_MAX: usize = 50_000;
/// Items of the parser for one byte.
pub const CONSTRAINT_ITEMS_IN_ROW_MAX: usize = 2_000;
/// States of the expressions of one constraint or request; each takes 1 to 2 KB.
pub const CONSTRAINT_LEXER_STATES_MAX: usize = 50_000;
/// Symbols of a compiled grammar.
pub const CONSTRAINT_SYMBOLS_MAX: usize = 200_000;
/// Memory that the tree of a vocabulary takes while it is made, in bytes for each of the tokens', beside
/// [`TOKEN_TRIE_BYTES_PER_TOKEN`] and [`TOKEN_TRIE_BYTES`].
pub const TOKEN_TRIE_MEMORY_FACTOR: usize = 40;
/// Memory that the tree of a vocabulary keeps, in bytes for each token, as a plan counts it, beside [`TOKEN_TRIE_BYTES`].
pub const TOKEN_TRIE_BYTES_PER_TOKEN: usize = 448;
/// Memory that the tree of any vocabulary takes, in bytes: the automata of the sets of tokens that it knows beforehand.
pub const TOKEN_TRIE_BYTES: usize = 3 << 19;
/// Most fields of a response template.
pub const RESPONSE_FIELDS_MAX: usize = 32;
/// Longest literal or expression of a response template, in bytes.
pub const RESPONSE_PATTERN_BYTES_MAX: usize = 4096;
/// Most states of the automaton of one delimiter of an answer.
pub const DELIMITER_STATES_MAX: usize = 8192;
/// Longest delimiter of an answer, in bytes: text is held back no longer than this.
pub const DELIMITER_BYTES_MAX: usize = 4096;
/// Most places at once where a delimiter of an answer may have begun.
pub const DELIMITER_CANDIDATES_MAX: usize = 64;
/// Longest text of a call that is kept until it can be given on, in bytes; with more it is no call.
pub const CALL_BYTES_MAX: usize = 4 << 20;
/// Longest name of a tool or key in a call, in bytes.
pub const CALL_NAME_BYTES_MAX: usize = 1024;
/// Most space at the end of a part that is held back because it is not part of it if nothing follows, in bytes.
pub const ANSWER_SPACE_BYTES_MAX: usize = 4096;

/// Memory that compiling a response template is estimated to take, in bytes.
pub const RESPONSE_TEMPLATE_BYTES: usize = 16 << 20;

/// Grammars of answers that an engine keeps for the next requests with the same rules.
pub const ANSWER_GRAMMARS_KEPT: usize = 16;

/// Most bytes of an answer that are given to its parser at once.
pub const ANSWER_PIECE_BYTES: usize = 16 << 10;

/// Bytes of the end of a prompt by which its answer is found again in a longer chat.
pub const ANSWER_LEAD_BYTES: usize = 96;

/// Names of special tokens in the unread part of an answer for which a queue has memory from the beginning; more of them are
/// allocated while the request runs.
pub const QUEUE_SPECIAL_NAMES: usize = 64;
/// A chat that is too long for the context is shortened to this share of the room, in percent.
pub const FIT_LOW_PERCENT: usize = 75;
/// Most tools whose calls are constrained in one answer.
pub const TOOLS_MAX: usize = 128;
/// Most text of the names and schemas of these tools, in bytes.
pub const TOOLS_BYTES_MAX: usize = 1 << 20;
/// States of text that is free but for its delimiters whose tokens are kept; others are found each time.
pub const FREE_TEXT_STATES_MAX: usize = 1024;
/// Space between the end of the reasoning and a constrained answer, in bytes.
pub const SPACE_AFTER_REASONING_BYTES: usize = 4;

/// Most connections of a server; others wait until one ends. Each has at most one request in work.
pub const SERVER_CONNECTIONS_MAX: usize = 512;
/// Longest body of a request to a server, in bytes: a conversation of an agent with a million tokens has less.
pub const SERVER_BODY_BYTES_MAX: usize = 16 << 20;
/// Longest head of such a request, in bytes.
pub const SERVER_HEAD_BYTES_MAX: usize = 64 << 10;
/// Most headers of such a request.
pub const SERVER_HEADERS_MAX: usize = 100;
/// Milliseconds in which the head of a request has to come, also after the request before it on the same connection.
pub const SERVER_HEAD_MS: u64 = 75_000;
/// Milliseconds in which the body of a request has to come.
pub const SERVER_BODY_MS: u64 = 60_000;
/// Milliseconds in which a client has to take something of an answer that is ready for it; one that takes nothing has gone.
pub const SERVER_WRITE_MS: u64 = 300_000;
/// Bytes of the bodies of all requests to a server that are being read at once; with more a request is refused.
pub const SERVER_BODIES_BYTES_MAX: usize = 256 << 20;
/// Longest body that a server's thread makes a request of itself, in bytes: of a longer one another thread does, so that nobody else
/// waits for it.
pub const SERVER_SHORT_BODY_BYTES: usize = 64 << 10;
/// Most tokens with log probabilities of an answer that a server's thread writes itself; one with more another thread writes.
pub const SERVER_SHORT_ANSWER_TOKENS: usize = 256;
/// Embeddings of so many numbers in all are written on the server's thread.
pub const SERVER_SHORT_EMBEDDINGS: usize = 4096;
/// Longest text of the instructions, and of the tools, that a response says again, in bytes.
pub const SERVER_ECHO_BYTES_MAX: usize = 128 << 10;
/// Milliseconds that the head of a streamed answer waits for its first event: errors that are found until then have a status.
pub const SERVER_FIRST_EVENT_MS: u64 = 5_000;
/// Milliseconds after which a stream that has nothing to say sends a comment, so that nobody between takes it for dead.
pub const SERVER_KEEP_ALIVE_MS: u64 = 15_000;
/// Seconds after which a client that was refused for a full queue shall try again.
pub const SERVER_RETRY_SECONDS: u32 = 1;
/// Pieces of work, such as schemas to compile, that wait for a server's worker thread; with more a request is refused.
pub const SERVER_WORK_MAX: usize = 64;
/// Compiled constraints that a server keeps of each model, for the next requests with the same schema.
pub const SERVER_CONSTRAINTS_KEPT: usize = 16;
/// Most choices of one request to a server.
pub const SERVER_CHOICES_MAX: usize = 128;
/// Most prompts of one request of completions.
pub const SERVER_PROMPTS_MAX: usize = 1024;
/// Most models of a server.
pub const SERVER_MODELS_MAX: usize = 64;
/// Most tokens of an answer when the request to a server does not say.
pub const SERVER_TOKENS_DEFAULT: u32 = 2048;
/// Temperature, top-k and top-p of a server's answers when the request does not say.
pub const SERVER_TEMPERATURE_DEFAULT: f32 = 1.0;
/// See there.
pub const SERVER_TOP_K_DEFAULT: u32 = 50;
/// See there.
pub const SERVER_TOP_P_DEFAULT: f32 = 1.0;
/// Milliseconds that a thread which reads an engine's events waits for memory before it looks again.
pub const SERVER_MEMORY_WAIT_MS: u64 = 100;
/// Milliseconds from one message to a viewer of the window to the next, at least: what one can see.
pub const WINDOW_EVERY_MS: u64 = 33;
/// Messages that wait for a viewer; one who has more gets a snapshot later.
pub const WINDOW_QUEUE_MESSAGES: usize = 64;
/// Milliseconds after which a full queue of a viewer is looked at again.
pub const WINDOW_ROOM_MS: u64 = 100;
/// Most viewers of a model.
pub const WINDOW_VIEWERS_MAX: usize = 16;
/// Tokens of a text that a viewer is sent at once, where texts are sent: its last ones.
pub const WINDOW_TEXT_TOKENS_MAX: usize = 512;
/// Messages that wait for a recorder.
pub const WINDOW_RECORD_MESSAGES: usize = 4096;
/// Longest trace in a recording, in bytes.
pub const WINDOW_RECORD_BYTES_MAX: usize = 1_300_000;
