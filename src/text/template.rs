//! Chat templates, rendered byte for byte as transformers renders them with Jinja.
//!
//! minijinja runs the template; what Jinja and Python do differently, or what a hostile template could use to exhaust
//! the process, is ours:
//!
//! - [`lower`] rewrites the source: whitespace rules, `generation` blocks, operators and literals as function calls.
//! - [`functions`], [`filters`], [`selection`], [`checks`], [`methods`] are Jinja's globals, filters, tests and Python's methods.
//! - [`value`], [`ops`], [`mod@print`], [`pretty`], [`printf`] are Python's containers, operators, printing and formatting.
//! - [`marks`] remembers which text is content, through all of these.
//! - [`messages`] and [`probe`] give each template what clients send in the form it wants.
//! - [`meter`] bounds the work, the memory and the stack of a rendering.
//!
//! Called by the engine's `render`, and by the command line with a template of its own. A rendering keeps nothing.

mod arguments;
mod big;
mod checks;
mod clock;
mod digits;
mod filters;
mod functions;
mod lexer;
mod lower;
mod marks;
mod messages;
mod meter;
mod methods;
mod numbers;
mod ops;
mod pretty;
mod print;
mod printf;
mod probe;
mod selection;
mod strings;
mod value;
mod words;

use crate::error::{Error, Result, Status, Unit};
use crate::limits;
use crate::os::{shortage, thread};
use crate::text::MarkedText;
use messages::{Messages, Wants};
use meter::{METER, Meter, R, Sink};
use minijinja::{AutoEscape, Environment, ErrorKind, Output, State, Value};
use serde_json::Map;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub(super) use lexer::is_space;
pub(super) use messages::REASONING;

pub use crate::os::clock::LocalTime;

/// Name of the one template of the environment.
const TEMPLATE: &str = "chat template";
/// Nesting of macro calls and blocks the engine allows itself.
const RECURSION_MAX: usize = 400;

/// What a template sees.
pub struct TemplateInput<'a> {
    /// The conversation: JSON objects with `role`, `content` and whatever else the template reads.
    pub messages: &'a [serde_json::Value],
    /// The functions the model may call, a JSON array; absent, `tools` is none.
    pub tools: Option<&'a serde_json::Value>,
    /// All else: `bos_token`, `enable_thinking`, `documents` ...
    pub variables: &'a Map<String, serde_json::Value>,
    /// Whether the prompt is to end where the assistant's turn begins.
    pub add_generation_prompt: bool,
    /// The time `strftime_now` tells; absent, the system's.
    pub now: Option<LocalTime>,
    /// Messages reach the template as they are given, byte for byte what transformers makes of them. Otherwise arguments become
    /// objects or JSON text, and content takes the form the template wants ([`ChatTemplate::learn`]).
    pub exact: bool,
    /// For each message, whether names of special tokens in it are tokens; absent, they are ordinary characters, but for what
    /// the assistant said.
    pub special: &'a [bool],
    /// Set while the template runs, ends the rendering with an error within some milliseconds.
    pub stop: Option<Arc<AtomicBool>>,
}

impl<'a> TemplateInput<'a> {
    /// A conversation without tools, which ends where the assistant's turn begins.
    pub fn new(messages: &'a [serde_json::Value], variables: &'a Map<String, serde_json::Value>) -> TemplateInput<'a> {
        let (tools, now, special, stop) = (None, None, &[][..], None);
        TemplateInput { messages, tools, variables, add_generation_prompt: true, now, exact: false, special, stop }
    }
}

/// A parsed chat template. Shared by any number of threads.
pub struct ChatTemplate {
    environment: Environment<'static>,
    subject: String,
    wants: Wants,
}

impl ChatTemplate {
    /// Parses a template; `subject` names it in errors.
    ///
    /// # Errors
    /// [`Status::Template`] with the line and what is wrong with it.
    pub fn new(source: &str, subject: &str) -> Result<ChatTemplate> {
        let refused = |line: u32, what: String| {
            Error::new(Status::Template, format!("{subject}, line {line}: {what}")).about(subject)
        };
        let lowered = thread::with_stack(limits::TEXT_STACK_BYTES, || lower::lower(source))?;
        let lowered = lowered.map_err(|(line, e)| refused(line, sentence(&e)))?;
        let mut environment = Environment::empty();
        let syntax = minijinja::syntax::SyntaxConfig::builder().keep_trailing_newline(true).build();
        environment.set_syntax(syntax.map_err(|e| Error::internal(e.to_string()))?);
        environment.set_fuel(Some(limits::TEMPLATE_FUEL));
        environment.set_recursion_limit(RECURSION_MAX);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_formatter(emit);
        environment.set_unknown_method_callback(call_method);
        functions::install(&mut environment);
        filters::install(&mut environment);
        checks::install(&mut environment);
        let line_of = |e: &minijinja::Error| e.line().and_then(|l| u32::try_from(l).ok()).unwrap_or(0);
        // The compiler keeps buffers in a thread-local with a destructor; on the opener's own thread that would keep the
        // library mapped after it was closed.
        let estimate = lowered.len().saturating_mul(limits::TEMPLATE_MEMORY_FACTOR);
        let compile = || environment.add_template_owned(TEMPLATE, lowered);
        let compiled = thread::aside("template", || {
            // An empty one first, so that the thread-local is there before memory is kept behind the work: glibc, which notes
            // its destructor, cannot be helped out.
            let empty = Environment::empty().add_template_owned(TEMPLATE, String::new());
            empty.map(|()| shortage::backed("a chat template", estimate, compile))
        })?;
        let compiled = compiled.map_err(|e| Error::internal(e.to_string()))??;
        compiled.map_err(|e| refused(line_of(&e), sentence(&e)))?;
        Ok(ChatTemplate { environment, subject: subject.to_owned(), wants: Wants::default() })
    }

    /// Finds out by rendering small conversations with these variables what the template wants content and arguments to be.
    pub fn learn(&mut self, variables: &Map<String, serde_json::Value>) {
        self.wants = probe::probe(self, variables);
    }

    /// Renders the conversation. The ranges are what users, tools and system messages said.
    ///
    /// # Errors
    /// [`Status::Template`]: what the template raised, word for word; or what failed in it and on which line.
    /// [`Status::Unsupported`]: content that is no text.
    pub fn render(&self, input: &TemplateInput) -> Result<MarkedText> {
        if !input.exact {
            messages::refuse_parts(input.messages, self.wants)?;
        }
        self.render_within(input, limits::TEMPLATE_FUEL)
    }

    /// Renders where there is enough stack for a template that recurs.
    fn render_within(&self, input: &TemplateInput, fuel: u64) -> Result<MarkedText> {
        thread::with_stack(limits::TEXT_STACK_BYTES, || self.render_here(input, fuel))?
    }

    fn render_here(&self, input: &TemplateInput, fuel: u64) -> Result<MarkedText> {
        let meter = Meter::new(fuel, input.stop.clone());
        let context = context(input, self.wants, &meter).map_err(|e| self.failure(&e))?;
        let template = self.environment.get_template(TEMPLATE).map_err(|e| self.failure(&e))?;
        let marked = marks::read(template.render(context).map_err(|e| self.failure(&e))?);
        if marked.text.len() > limits::TEMPLATE_OUTPUT_BYTES_MAX {
            let (needed, available) = (marked.text.len() as u64, limits::TEMPLATE_OUTPUT_BYTES_MAX as u64);
            let message = format!("{} renders {needed} bytes, more than {available}", self.subject);
            return Err(Error::new(Status::Template, message).about(self.subject.as_str()).numbers(
                Unit::Bytes,
                needed,
                available,
            ));
        }
        Ok(marked)
    }

    fn failure(&self, error: &minijinja::Error) -> Error {
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            if let Some(short) = cause.downcast_ref::<meter::Short>() {
                return Error::memory("a rendered prompt", short.0 as u64);
            }
            if let Some(raised) = cause.downcast_ref::<functions::Raised>() {
                return Error::new(Status::Template, raised.0.as_str()).about(self.subject.as_str());
            }
            source = cause.source();
        }
        let line = error.line().map_or(String::new(), |l| format!(", line {l}"));
        Error::new(Status::Template, format!("{}{line}: {}", self.subject, sentence(error)))
            .about(self.subject.as_str())
    }
}

/// What is wrong, without the engine's names for where.
fn sentence(error: &minijinja::Error) -> String {
    match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => {
            format!("it ran longer than {} steps; it loops, or works on too much text", limits::TEMPLATE_FUEL)
        }
        (ErrorKind::UndefinedError, _) => {
            "a value that is undefined is used; test it with `is defined`, or give it a `default`".to_owned()
        }
        (ErrorKind::InvalidOperation, Some(detail)) => detail.to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    }
}

/// The variables of a rendering.
fn context(input: &TemplateInput, wants: Wants, meter: &Arc<Meter>) -> R<Value> {
    let mut variables = vec![("documents".to_owned(), Value::from(()))];
    for (name, value) in input.variables {
        variables.push((name.clone(), meter.json(value, name == "documents")?));
    }
    let tools = input.tools.map_or(Ok(Value::from(())), |t| meter.json(t, true))?;
    let messages = Messages { wants, exact: input.exact, meter }.list(input)?;
    variables.push(("messages".to_owned(), messages));
    variables.push(("tools".to_owned(), tools));
    variables.push(("add_generation_prompt".to_owned(), Value::from(input.add_generation_prompt)));
    // Last, so that no variable can take their place.
    variables.retain(|(name, _)| !name.starts_with(lower::RESERVED));
    variables.push((METER.to_owned(), Value::from_dyn_object(meter.clone())));
    if let Some(now) = input.now {
        variables.push((clock::NOW.to_owned(), Value::from_object(clock::Fixed(now))));
    }
    Ok(Value::from_pairs(variables))
}

/// Prints a value as Python's `str` does.
fn emit(out: &mut Output, state: &mut State, value: &Value) -> R<()> {
    let meter = Meter::of(state)?;
    if let Some(text) = marks::text(value) {
        meter.charge(text.len())?;
        meter.print(text.len())?;
        return marks::write(out, text).map_err(minijinja::Error::from);
    }
    let mut sink = Sink::new(&meter);
    print::display(value, &mut sink)?;
    meter.print(sink.text().len())?;
    marks::write(out, sink.text()).map_err(minijinja::Error::from)
}

/// Methods of Python's types.
fn call_method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> R<Value> {
    methods::try_call(value, name, args, &Meter::of(state)?)
        .unwrap_or_else(|| Err(minijinja::Error::from(ErrorKind::UnknownMethod)))
}
