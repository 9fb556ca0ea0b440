//! `astrai chat`: a conversation. One line of stdin is one turn; the oldest turns go when the context is full.

use crate::args::{EngineArgs, PositionArgs, SamplingArgs, TemplateArgs, message_flags};
use crate::constraint::ConstraintArgs;
use crate::failure::{Failure, Outcome, note, read_array, to_text};
use crate::interrupt::Interrupt;
use crate::open::open;
use crate::stream::{Call, ShowArgs, report, stream};
use astrai::Status;
use astrai::engine::{Engine, FinishReason, MessageFlags, Prompt, RequestOptions, Sink};
use clap::Args;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::PathBuf;

/// Bytes of a line; a longer one is taken as several.
const LINE_BYTES_MAX: u64 = astrai::limits::PROMPT_BYTES_MAX as u64;

/// Arguments of `astrai chat`.
#[derive(Args)]
pub struct ChatArgs {
    #[command(flatten)]
    position: PositionArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    constraint: ConstraintArgs,
    #[command(flatten)]
    show: ShowArgs,
    #[command(flatten)]
    template: TemplateArgs,
    /// The tools that the model may call, a JSON array. Each call is a line, NAME(ARGUMENTS), and the next line of stdin its result
    #[arg(long, value_name = "FILE.json")]
    tools: Option<PathBuf>,
    /// System message; it is kept when turns are trimmed
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    /// Names of special tokens in what is said to the model are those tokens [default: ordinary characters]
    #[arg(long)]
    special_content: bool,
}

/// Runs the subcommand.
pub fn chat(args: ChatArgs) -> Outcome {
    let interrupt = Interrupt::install()?;
    let folder = args.position.folder(&args.engine.model.folder, Some(&interrupt))?;
    let engine = open(&folder, args.constraint.engine(args.engine.options()), Some(&interrupt))?;
    if !engine.info().has_chat_template {
        return Err(Failure::Message(format!(
            "{} has no chat template to chat with; use `astrai run`",
            folder.display()
        )));
    }
    let mut conversation = Conversation::new(&engine, &args)?;
    let interactive = std::io::stdin().is_terminal();
    let mut out = std::io::stdout().lock();
    loop {
        if interactive {
            out.write_all(conversation.asks_for().as_bytes())?;
            out.flush()?;
        }
        let Some(line) = interrupt.idle(read_line)? else {
            return Ok(());
        };
        if !line.trim().is_empty() {
            conversation.turn(line, &interrupt, &mut out)?;
            interrupt.rearm();
        }
    }
}

/// A line of stdin without its end; `None` after the last. Bytes that are not UTF-8 are replaced.
fn read_line() -> Outcome<Option<String>> {
    let mut line = Vec::new();
    match std::io::stdin().lock().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(to_text(line, "the line").trim_end_matches(['\n', '\r']).to_owned())),
        Err(error) => Err(Failure::Message(format!("cannot read stdin: {error}"))),
    }
}

/// What was said, and the engine that says more.
struct Conversation<'a> {
    engine: &'a Engine,
    options: RequestOptions,
    show: &'a ShowArgs,
    /// The system message and the turns so far.
    prompt: Prompt,
    /// Calls of the last answer whose results are to come, in order.
    calls: VecDeque<Call>,
    /// Tokens kept free for the answer.
    answer_tokens: u32,
    special_content: bool,
}

impl<'a> Conversation<'a> {
    fn new(engine: &'a Engine, args: &'a ChatArgs) -> Outcome<Self> {
        let context = engine.info().context_length;
        let wanted = args.sampling.max_tokens.unwrap_or(context / 4);
        let system = args.system.iter().map(|text| json!({"role": "system", "content": text}));
        let tools = args.tools.as_deref().map(|path| read_array(path, "tools")).transpose()?.map(Value::Array);
        let mut prompt =
            Prompt { messages: system.collect(), variables: args.template.variables(), tools, ..Prompt::default() };
        args.show.add(&mut prompt.variables);
        let mut conversation = Conversation {
            engine,
            options: args.constraint.add(engine, args.sampling.options())?,
            show: &args.show,
            prompt,
            calls: VecDeque::new(),
            answer_tokens: wanted.min(context / 2),
            special_content: args.special_content,
        };
        conversation.flag();
        Ok(conversation)
    }

    /// Gives the last message the flags of what is said to the model.
    fn flag(&mut self) {
        self.prompt.message_flags.resize_with(self.prompt.messages.len().saturating_sub(1), MessageFlags::default);
        self.prompt.message_flags.extend(message_flags(1, self.special_content, false));
        self.prompt.message_flags.truncate(self.prompt.messages.len());
    }

    /// What the next line is.
    fn asks_for(&self) -> String {
        self.calls.front().map_or("> ".to_owned(), |call| format!("result of {}> ", call.name))
    }

    /// Takes a line: the result of a call that waits for one, else what is said to the model. A line that cannot be answered is
    /// forgotten and told; the conversation goes on.
    fn turn(&mut self, line: String, interrupt: &Interrupt, out: &mut impl Write) -> Outcome {
        let before = self.prompt.clone();
        match self.calls.front() {
            Some(call) => self.prompt.add_result(&call.id, &line)?,
            None => {
                self.prompt.messages.push(json!({"role": "user", "content": line}));
                self.flag();
            }
        }
        if self.calls.len() > 1 {
            self.calls.pop_front();
            return Ok(());
        }
        let submitted = self.fit().and_then(|()| self.engine.submit(&self.prompt, &self.options, Sink::Pull));
        let request = match submitted {
            Ok(request) => request,
            Err(error) if !matches!(error.status, Status::Closed | Status::Internal | Status::Device) => {
                self.prompt = before;
                note(&error.to_string());
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let answer = stream(&request, self.show, interrupt, out)?;
        report(&answer);
        if answer.text.is_empty() && answer.finish == FinishReason::Cancel {
            self.prompt = before;
            return Ok(());
        }
        self.prompt.add_answer(&request)?;
        self.calls = answer.calls.into();
        Ok(())
    }

    /// Drops the oldest turns that leave no room for an answer.
    fn fit(&mut self) -> astrai::Result<()> {
        let dropped = self.engine.fit_prompt(&mut self.prompt, self.answer_tokens)?;
        if dropped > 0 {
            let context = self.engine.info().context_length;
            note(&format!("the context of {context} tokens is full: dropped the {dropped} oldest messages"));
        }
        Ok(())
    }
}
