//! From a prompt to token ids: the chat template, then the tokenizer. Runs on the calling thread or on the text
//! thread ([`super::defer`]).

use super::answer::{AnswerOptions, AnswerReader, ResponseFormat};
use super::begin::BeginTokens;
use super::breakers::Breakers;
use super::memory_plan::LongestContext;
use super::parts::{self, no_tokenizer};
use super::prior_answer;
use super::templates::Templates;
use super::text_queue::Encoded;
use super::{LogLevel, Prompt, PromptPart, RequestOptions, Settings, Shared, TextOptions, ToolChoice, lock};
use crate::constrain::TokenTrie;
use crate::error::{Error, Result, Status, Unit};
use crate::limits;
use crate::os::shortage;
use crate::os::thread::{self, JoinHandle, ThreadOptions};
use crate::source::ModelSource;
use crate::text::{EncodeLimits, MarkedText, TemplateInput, TextStream, Tokenizer, continued};
use serde_json::{Map, Value};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

/// The tokenizer, chat templates and special tokens of a model; shared by all threads.
pub(super) struct TextKit {
    pub tokenizer: Option<Arc<Tokenizer>>,
    templates: Templates,
    /// Template variables of the model: `bos_token`, `eos_token` and similar.
    variables: Map<String, Value>,
    /// Vocabulary size: token ids of a prompt must be below it; 0 = unknown (no weights were opened).
    pub vocab: usize,
    /// The longest context with which this model could be opened; for error messages.
    pub longest: LongestContext,
    /// The tokens that the tokenizer puts before raw text.
    pub before: BeginTokens,
    /// Every token with which the tokenizer or the model's configuration begins a sequence.
    pub begins: Vec<u32>,
    /// Sequence breakers that requests with DRY had.
    pub breakers: Breakers,
    /// Set when the engine has ended; stops templates that are still running.
    ended: Arc<AtomicBool>,
}

/// A tokenizer that is being loaded on a thread of its own, with the tree of its tokens if that is wanted. For a large vocabulary
/// this takes as long as the rest of opening a mapped model, so both run in parallel.
pub(super) struct PendingTokenizer {
    thread: Option<JoinHandle>,
    read: Arc<Mutex<Option<Result<Read>>>>,
}

/// A tokenizer that was read.
pub(super) struct Read {
    pub tokenizer: Tokenizer,
    /// The tree of its tokens, or why there is none; `None` where it was not wanted.
    pub trie: Option<Result<TokenTrie>>,
}

impl PendingTokenizer {
    /// Starts loading the source's tokenizer, if it has one, and makes the tree of its tokens below `tree_of`.
    pub fn start(source: &dyn ModelSource, options: ThreadOptions, tree_of: Option<usize>) -> Result<PendingTokenizer> {
        let mut pending = PendingTokenizer { thread: None, read: Arc::default() };
        if let Some(bytes) = source.tokenizer_json()? {
            let (read, subject) = (pending.read.clone(), source.subject().to_owned());
            let stack = tree_of.map_or(limits::THREAD_STACK_BYTES, |_| limits::CONSTRAINT_STACK_BYTES);
            pending.thread = Some(thread::spawn_with("tokenizer", options, stack, move || {
                let json = bytes.as_slice();
                let estimate = shortage::estimate(json.len(), limits::TOKENIZER_MEMORY_FACTOR);
                let tokenizer = shortage::backed("the tokenizer", estimate, || Tokenizer::from_json(json, &subject));
                let with_tree = |tokenizer| {
                    let trie = tree_of.map(|vocab| TokenTrie::new(&tokenizer, vocab));
                    Read { tokenizer, trie }
                };
                *lock(&read) = Some(tokenizer.flatten().map(with_tree));
            })?);
        }
        Ok(pending)
    }

    /// Waits for the tokenizer; `None` when the source has none.
    pub fn join(mut self) -> Result<Option<Read>> {
        let Some(thread) = self.thread.take() else { return Ok(None) };
        thread.join();
        let panicked = || Err(Error::internal("the thread that read the tokenizer panicked"));
        lock(&self.read).take().unwrap_or_else(panicked).map(Some)
    }
}

impl Drop for PendingTokenizer {
    /// Joins the thread, so that a failed open leaves none behind.
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join();
        }
    }
}

impl TextKit {
    /// Reads everything but the tokenizer from the source. Compiles the templates; those that fail are reported to
    /// `warn`.
    pub fn open(source: &dyn ModelSource, vocab: usize, warn: &mut dyn FnMut(String)) -> Result<TextKit> {
        let variables = source.special_tokens()?.variables();
        Ok(TextKit {
            tokenizer: None,
            templates: Templates::open(source, &variables, warn)?,
            variables,
            vocab,
            longest: LongestContext::default(),
            before: BeginTokens::default(),
            begins: Vec::new(),
            breakers: Breakers::default(),
            ended: Arc::default(),
        })
    }

    /// Adds the tokenizer; `bos` is the begin token of the model's configuration.
    pub fn with_tokenizer(self, tokenizer: Option<Tokenizer>, bos: Option<u32>) -> TextKit {
        let tokenizer = tokenizer.map(Arc::new);
        let mut kit =
            TextKit { before: tokenizer.as_deref().map(BeginTokens::of).unwrap_or_default(), tokenizer, ..self };
        if let Some(tokenizer) = kit.tokenizer.as_deref() {
            kit.templates.learn(tokenizer);
        }
        let begins = [kit.before.first(), kit.named("bos_token"), bos].into_iter().flatten().collect();
        TextKit { begins, ..kit }
    }

    /// Sets the flag that is set when the engine has ended.
    pub fn ending_with(self, ended: Arc<AtomicBool>) -> TextKit {
        TextKit { ended, ..self }
    }

    /// The id of the special token that the model folder's files call `name`, such as `eos_token`.
    pub fn named(&self, name: &str) -> Option<u32> {
        self.tokenizer.as_ref()?.id(self.variables.get(name)?.as_str()?)
    }

    /// Whether the model has a chat template.
    pub fn has_template(&self) -> bool {
        self.templates.any()
    }

    /// The tokenizer, or an error saying that the folder has none.
    pub fn tokenizer(&self) -> Result<&Arc<Tokenizer>> {
        self.tokenizer.as_ref().ok_or_else(no_tokenizer)
    }

    /// How the answer to a prompt is read: `None` for one that is not made of messages.
    pub fn format(&self, prompt: &Prompt) -> Option<&ResponseFormat> {
        if prompt.messages.is_empty() { None } else { self.templates.format(prompt) }
    }

    /// The name of the format of answers to prompts that name no chat template; `None`: it is not known.
    pub fn format_name(&self) -> Option<&str> {
        self.templates.default_format()?.name()
    }

    /// The reader of the answer to a prompt whose text is `text`.
    pub fn answer_reader(
        &self,
        prompt: &Prompt,
        text: &str,
        options: &RequestOptions,
        request_id: u64,
    ) -> Option<Box<AnswerReader>> {
        let stream = self.stream(prompt, options)?;
        let options =
            AnswerOptions { prompt: text, tools: prompt.tools.as_ref(), raw: options.raw_text, request_id, stream };
        self.format(prompt).map(|format| AnswerReader::new(format, options))
    }

    /// The detokenizer of the answer to a prompt; `None` without a tokenizer.
    pub fn stream(&self, prompt: &Prompt, options: &RequestOptions) -> Option<TextStream> {
        let stream = TextStream::new(self.tokenizer.clone()?, options.special);
        let stream = if goes_on(prompt, options) { stream.continuing() } else { stream };
        Some(match self.format(prompt) {
            Some(format) => stream.keeping(format.special()),
            None => stream,
        })
    }

    /// The text of a prompt: the rendered chat, or the concatenated parts.
    pub fn render(&self, prompt: &Prompt, options: TextOptions) -> Result<String> {
        if prompt.messages.is_empty() {
            self.raw_text(prompt)
        } else {
            Ok(self.render_chat(prompt, options, &self.ended)?.text)
        }
    }

    /// The text that the template makes of a prompt's messages. Stops when `stop` is set.
    fn render_chat(&self, prompt: &Prompt, options: TextOptions, stop: &Arc<AtomicBool>) -> Result<MarkedText> {
        if continues(prompt)? {
            return continued::render(prompt.copied_messages()?, |messages| {
                self.render_messages(prompt, messages, false, options.exact, stop)
            });
        }
        self.render_messages(prompt, &prompt.messages, !options.no_generation_prompt, options.exact, stop)
    }

    fn render_messages(
        &self,
        prompt: &Prompt,
        messages: &[Value],
        add_generation_prompt: bool,
        exact: bool,
        stop: &Arc<AtomicBool>,
    ) -> Result<MarkedText> {
        if !prompt.parts.is_empty() {
            return Err(Error::argument("a prompt holds either messages or text and tokens, not both"));
        }
        let (template, named) = self.templates.pick(prompt)?;
        let estimate = shortage::estimate(prompt.heap_bytes(), limits::RENDER_MEMORY_FACTOR);
        let rendered = shortage::backed("a rendered chat", estimate, || {
            let variables = Templates::variables(&self.variables, prompt, named);
            let special: Vec<bool> = prompt.message_flags.iter().map(|flags| flags.special).collect();
            template.render(&TemplateInput {
                tools: prompt.tools.as_ref(),
                add_generation_prompt,
                exact,
                special: &special,
                stop: Some(Arc::clone(stop)),
                ..TemplateInput::new(messages, &variables)
            })
        });
        rendered.flatten()
    }

    fn raw_text(&self, prompt: &Prompt) -> Result<String> {
        let mut text = String::new();
        let mut add = |piece: &str| {
            let bytes = text.len().saturating_add(piece.len());
            text.try_reserve(piece.len()).map_err(|_| Error::memory("the text of a prompt", bytes as u64))?;
            text.push_str(piece);
            Ok::<_, Error>(())
        };
        for part in &prompt.parts {
            match part {
                PromptPart::Text { text: piece, .. } => add(piece)?,
                PromptPart::Tokens(tokens) => add(&self.tokenizer()?.decode(tokens, true)?)?,
            }
        }
        Ok(text)
    }

    /// The token ids of a prompt. A rendered chat contains its special tokens; a raw prompt that begins with text gets
    /// the tokenizer's begin tokens, unless the text itself begins with them.
    pub fn tokenize(&self, prompt: &Prompt, options: TextOptions, limits: &mut EncodeLimits) -> Result<Vec<u32>> {
        self.encode(prompt, options, limits).map(|encoded| encoded.tokens)
    }

    fn encode(&self, prompt: &Prompt, options: TextOptions, limits: &mut EncodeLimits) -> Result<Encoded> {
        let mut text = String::new();
        let ids = if prompt.messages.is_empty() {
            parts::encode(self.tokenizer.as_deref(), &self.before, &prompt.parts, options.special, limits)?
        } else {
            let chat = self.render_chat(prompt, options, limits.stop.as_ref().unwrap_or(&self.ended))?;
            let tokenizer = self.tokenizer()?;
            let answers = prior_answer::places(&prompt.answers, &chat, tokenizer);
            let ids = match answers.is_empty() {
                true => tokenizer.encode_marked(&chat, false, limits)?,
                false => parts::encode_chat(tokenizer, &chat, &answers, limits)?,
            };
            text = chat.text;
            ids
        };
        self.check_ids(&ids)?;
        Ok(Encoded { tokens: ids, text })
    }

    /// The token ids of a prompt and the text of its messages; `Context` if they exceed `limits.tokens`, the context length.
    pub fn prepare(&self, prompt: &Prompt, options: TextOptions, limits: &mut EncodeLimits) -> Result<Encoded> {
        let context = limits.tokens;
        let encoded = self.encode(prompt, options, limits).map_err(|mut e| {
            if e.status == Status::Context {
                e.message = format!("{}; shorten it, {}", e.message, self.longest.advice(context));
            }
            e
        })?;
        self.check_length(encoded.tokens.len(), context)?;
        Ok(encoded)
    }

    fn check_length(&self, tokens: usize, context: usize) -> Result<()> {
        if tokens == 0 {
            return Err(Error::argument("the prompt is empty; it needs at least one token").about("prompt"));
        }
        if tokens > context {
            let advice = self.longest.advice(context);
            let message = format!("the prompt has {tokens} tokens, the context holds {context}; shorten it, {advice}");
            let error = Error::new(Status::Context, message).about("prompt");
            return Err(error.numbers(Unit::Tokens, tokens as u64, context as u64));
        }
        Ok(())
    }

    /// Logs a warning if a prompt begins with two begin tokens.
    pub fn warn_of_two_begins(&self, ids: &[u32], shared: &Shared) {
        if let [first, second, ..] = ids
            && self.begins.contains(first)
            && self.begins.contains(second)
            // Not if the tokenizer itself puts two there.
            && self.before.pair().is_none_or(|own| !ids.starts_with(own))
        {
            shared.log(LogLevel::Warn, || {
                let which = match first == second {
                    true => format!("the begin token {first} twice"),
                    false => format!("two begin tokens, {first} and {second}"),
                };
                format!("a prompt has {which}; answers are worse for it: give one, or leave it to the tokenizer")
            });
        }
    }

    /// The text of token ids.
    pub fn detokenize(&self, ids: &[u32], options: TextOptions) -> Result<String> {
        self.check_ids(ids)?;
        self.tokenizer()?.decode(ids, options.special)
    }

    /// Checks that every id is below the vocabulary size, if that is known.
    pub fn check_ids(&self, ids: &[u32]) -> Result<()> {
        if self.vocab == 0 {
            return Ok(());
        }
        match ids.iter().position(|&id| id as usize >= self.vocab) {
            None => Ok(()),
            Some(at) => Err(Error::argument(format!(
                "token {} at index {at} is not below the vocabulary size {}",
                ids[at], self.vocab
            ))
            .about("tokens")
            .numbers(Unit::Count, ids[at] as u64, self.vocab as u64)),
        }
    }
}

/// Whether the answer goes on with a text. Text of a constrained answer is what its tokens stand for, to the byte, as if it did.
pub(super) fn goes_on(prompt: &Prompt, options: &RequestOptions) -> bool {
    let demands = |settings: &Arc<Settings>| {
        settings.constraint.is_some() || matches!(settings.tool_choice, ToolChoice::Required | ToolChoice::Named(_))
    };
    let constrained = options.settings.as_ref().is_some_and(demands);
    options.mid_text || constrained || answer_start(prompt).is_some_and(continued::has_text)
}

/// The last message, if it is the start of the answer, which the model is to continue.
fn answer_start(prompt: &Prompt) -> Option<&Value> {
    let at = prompt.messages.len().checked_sub(1)?;
    prompt.message_flags.get(at).filter(|flags| flags.continued)?;
    prompt.messages.get(at)
}

/// Whether the model is to continue the last message; an error if the message flags do not allow it.
fn continues(prompt: &Prompt) -> Result<bool> {
    let refused = |what: String| Err(Error::argument(what).about("message flags"));
    let (flags, messages) = (prompt.message_flags.len(), prompt.messages.len());
    if flags > messages {
        return refused(format!("flags of {flags} messages are given, and there are {messages}"));
    }
    let early = prompt.message_flags.iter().enumerate().find(|(at, flags)| flags.continued && at + 1 < messages);
    if let Some((at, _)) = early {
        return refused(format!("message {at} is to be continued, and it is not the last of {messages}"));
    }
    match answer_start(prompt).map(|message| message.get("role").and_then(Value::as_str).unwrap_or_default()) {
        None => Ok(false),
        Some("assistant") => Ok(true),
        Some(role) => {
            refused(format!("the last message is to be continued, and its role is {role:?}, not \"assistant\""))
        }
    }
}
