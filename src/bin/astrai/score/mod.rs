//! `astrai score`: JSON lines in, JSON lines out, for evaluation by others.
//!
//! A thread of ours reads stdin and submits; the main thread writes results in input order, each as soon as it and
//! those before it are there. Between the two stands a queue of named length, so that a long file is throttled and
//! never refused. The exit code is 0 when every line was answered, bad lines included.

mod case;
mod result;
mod text;

use crate::args::{EngineArgs, PositionArgs};
use crate::constraint;
use crate::failure::{Failure, Outcome, note};
use crate::open::open;
use astrai::Status;
use astrai::engine::{Engine, EventKind, Next, Prompt, PromptPart, Request, Sink, TextOptions};
use astrai::text::continued;
use case::Case;
use clap::Args;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

/// Lines read and not yet answered, at most.
const LINES_IN_FLIGHT_MAX: usize = astrai::limits::WAITING_DEFAULT;
/// Longest line of input, in bytes: a prompt of the longest length, escaped.
const LINE_BYTES_MAX: u64 = 4 * astrai::limits::PROMPT_BYTES_MAX as u64;
/// Wait before a line that the engine had no room for is submitted again.
const RETRY: Duration = Duration::from_millis(10);

/// Arguments of `astrai score`.
#[derive(Args)]
pub struct ScoreArgs {
    #[command(flatten)]
    position: PositionArgs,
    #[command(flatten)]
    engine: EngineArgs,
    /// Sequences computed at once [default: the engine's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=astrai::limits::RUNNING_MAX as i64))]
    max_batch: Option<u32>,
    /// Print the perplexity of this text instead of reading stdin
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// With --text: tokens from one window to the next [default: half the context]
    #[arg(long, value_name = "TOKENS", requires = "text")]
    stride: Option<usize>,
}

/// Runs the subcommand.
pub fn score(args: ScoreArgs) -> Outcome {
    let folder = args.position.folder(&args.engine.model.folder, None)?;
    let mut options = args.engine.options();
    options.max_running = args.max_batch.unwrap_or(0);
    // One more than the queue: the line being written has left it.
    options.max_waiting = LINES_IN_FLIGHT_MAX as u32 + 1;
    let engine = Arc::new(open(&folder, options, None)?);
    let outcome = match &args.text {
        Some(path) => text::perplexity(&engine, path, args.stride),
        None => score_lines(&engine),
    };
    // The reader may still be waiting for stdin and hold the engine, so that dropping our handle would not close it.
    let closed = engine.close(Duration::ZERO);
    outcome?;
    Ok(closed?)
}

/// Reads stdin to its end and answers every line.
fn score_lines(engine: &Arc<Engine>) -> Outcome {
    // With the line that the reader has in its hand.
    let (sender, entries) = sync_channel(LINES_IN_FLIGHT_MAX - 1);
    let reader_engine = engine.clone();
    std::thread::Builder::new()
        .name("score-reader".to_owned())
        .spawn(move || read_lines(&reader_engine, &sender))
        .map_err(|e| Failure::Message(format!("cannot start a thread: {e}")))?;
    let mut out = std::io::stdout().lock();
    for entry in entries {
        let line = match entry {
            Entry::Bad { id, message } => result::bad(&id, &message),
            Entry::Running { id, prompt_tokens, wants_prompt_logprobs, request } => match finish(&request) {
                Ok(event) => result::scored(&id, &prompt_tokens, wants_prompt_logprobs, &event),
                Err(message) => result::bad(&id, &message),
            },
            Entry::Unreadable(message) => return Err(Failure::Message(message)),
        };
        writeln!(out, "{line}")?;
        out.flush()?;
    }
    Ok(())
}

/// Waits for the whole of a request.
fn finish(request: &Request) -> Result<Box<astrai::engine::Event>, String> {
    match request.wait(None) {
        Ok(Next::Event(event)) if event.kind == EventKind::Failed => {
            Err(event.error.map_or("the request failed".to_owned(), |error| error.to_string()))
        }
        Ok(Next::Event(event)) => Ok(event),
        Ok(Next::Timeout | Next::End) => Err("the engine ended the request without a last event".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A line of input on its way to a line of output.
enum Entry {
    /// It cannot be scored.
    Bad { id: Value, message: String },
    /// It is being scored.
    Running { id: Value, prompt_tokens: Vec<u32>, wants_prompt_logprobs: bool, request: Request },
    /// Stdin failed; nothing follows.
    Unreadable(String),
}

/// The reader thread: submits every line of stdin in order.
fn read_lines(engine: &Engine, entries: &SyncSender<Entry>) {
    let mut input = std::io::stdin().lock();
    let mut unknown_told = BTreeSet::new();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = input.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line);
        match read {
            Ok(0) => break,
            Ok(bytes) if bytes as u64 > LINE_BYTES_MAX => {
                let _ = entries.send(Entry::Unreadable(format!("line {number} is longer than {LINE_BYTES_MAX} bytes")));
                break;
            }
            Ok(_) if line.trim_ascii().is_empty() => continue,
            Ok(_) => {}
            Err(error) => {
                let _ = entries.send(Entry::Unreadable(format!("cannot read stdin: {error}")));
                break;
            }
        }
        let entry = match case::parse(&line) {
            Ok(case) => {
                for name in case.unknown.iter().filter(|name| unknown_told.insert((*name).clone())) {
                    note(&format!("line {number}: the field `{name}` is not known and has no effect"));
                }
                submit(engine, case)
            }
            Err(bad) => Entry::Bad { id: bad.id, message: format!("line {number}: {}", bad.message) },
        };
        if entries.send(entry).is_err() {
            break;
        }
    }
}

/// Hands a case to the engine, waiting while that is full.
fn submit(engine: &Engine, mut case: Case) -> Entry {
    // Tokens given as ids are passed on as they are; the rest is tokenized once, here, so that the ids reported are
    // the ids computed.
    let prompt_tokens = match case.prompt_tokens {
        Some(tokens) => tokens,
        None => match engine.tokenize(&case.prompt, TextOptions::default()) {
            Ok(tokens) => tokens,
            Err(error) => return Entry::Bad { id: case.id, message: error.to_string() },
        },
    };
    let prompt = Prompt { parts: vec![PromptPart::Tokens(prompt_tokens.clone())], ..Prompt::default() };
    let start = case.prompt.message_flags.last().filter(|flags| flags.continued).and(case.prompt.messages.last());
    case.options.mid_text = start.is_some_and(continued::has_text);
    // Results are taken in order, so a request must be able to finish before anybody reads it.
    case.options.queue_tokens = engine.info().context_length.clamp(1, astrai::limits::QUEUE_TOKENS_MAX as u32);
    if let Some((kind, text)) = case.constraint {
        match engine.compile_constraint(kind, &text) {
            Ok(constraint) => case.options = constraint::with(case.options, constraint),
            Err(error) => return Entry::Bad { id: case.id, message: error.to_string() },
        }
    }
    loop {
        match engine.submit(&prompt, &case.options, Sink::Pull) {
            Ok(request) => {
                let wants_prompt_logprobs = case.options.prompt_logprobs;
                return Entry::Running { id: case.id, prompt_tokens, wants_prompt_logprobs, request };
            }
            Err(error) if error.status == Status::QueueFull => std::thread::sleep(RETRY),
            Err(error) => return Entry::Bad { id: case.id, message: error.to_string() },
        }
    }
}
