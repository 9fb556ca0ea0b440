//! `astrai chat`: a conversation. One line of stdin is one turn; the oldest turns go when the context is full.

use crate::args::{EngineArgs, PositionArgs, SamplingArgs, TemplateArgs, message_flags};
use crate::constraint::ConstraintArgs;
use crate::failure::{Failure, Outcome, note, to_text};
use crate::interrupt::Interrupt;
use crate::open::open;
use crate::stream::{report, stream};
use astrai::Status;
use astrai::engine::{Engine, FinishReason, Prompt, RequestOptions, Sink};
use clap::Args;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead, IsTerminal, Read, Write};

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
    template: TemplateArgs,
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
    let engine = open(&folder, args.engine.options(), Some(&interrupt))?;
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
            out.write_all(b"> ")?;
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
    /// Stops, variables and the system message; the turns follow it.
    base: Prompt,
    /// User and assistant messages in turn.
    turns: VecDeque<Value>,
    /// Tokens kept free for the answer.
    answer_tokens: usize,
    special_content: bool,
}

impl<'a> Conversation<'a> {
    fn new(engine: &'a Engine, args: &ChatArgs) -> Outcome<Self> {
        let context = engine.info().context_length as usize;
        let wanted = args.sampling.max_tokens.map_or(context / 4, |n| n as usize);
        let system = args.system.iter().map(|text| json!({"role": "system", "content": text}));
        Ok(Conversation {
            engine,
            options: args.constraint.add(engine, args.sampling.options())?,
            base: Prompt { messages: system.collect(), variables: args.template.variables(), ..Prompt::default() },
            turns: VecDeque::new(),
            answer_tokens: wanted.min(context / 2),
            special_content: args.special_content,
        })
    }

    /// Answers one line. A line that cannot be answered is forgotten and told; the conversation goes on.
    fn turn(&mut self, line: String, interrupt: &Interrupt, out: &mut impl Write) -> Outcome {
        self.turns.push_back(json!({"role": "user", "content": line}));
        let request = self.fitting_prompt().and_then(|prompt| self.engine.submit(&prompt, &self.options, Sink::Pull));
        let request = match request {
            Ok(request) => request,
            Err(error) if !matches!(error.status, Status::Closed | Status::Internal | Status::Device) => {
                self.turns.pop_back();
                note(&error.to_string());
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let answer = stream(&request, interrupt, out)?;
        report(&answer);
        if answer.text.is_empty() && answer.finish == FinishReason::Cancel {
            self.turns.pop_back();
            return Ok(());
        }
        self.turns.push_back(json!({"role": "assistant", "content": answer.text}));
        Ok(())
    }

    /// The prompt of the conversation, after dropping the oldest turns that leave no room for an answer.
    fn fitting_prompt(&mut self) -> astrai::Result<Prompt> {
        let mut prompt = self.base.clone();
        prompt.messages.extend(self.turns.iter().cloned());
        prompt.message_flags = message_flags(prompt.messages.len(), self.special_content, false);
        let dropped = self.engine.fit_prompt(&mut prompt, u32::try_from(self.answer_tokens).unwrap_or(u32::MAX))?;
        if dropped > 0 {
            self.turns.drain(..dropped);
            let context = self.engine.info().context_length;
            note(&format!("the context of {context} tokens is full: dropped the {dropped} oldest messages"));
        }
        Ok(prompt)
    }
}
