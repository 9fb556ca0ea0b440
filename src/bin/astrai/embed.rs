//! `astrai embed`: lines of text in, one JSON line with an embedding each out.
//!
//! A thread of ours reads stdin and submits; the main thread writes results in the order of the texts. Between the two stands a
//! queue of named length, so that a long file is throttled and never refused.

use crate::args::{EngineArgs, PositionArgs};
use crate::failure::{Failure, Outcome, to_text};
use crate::open::open;
use astrai::Status;
use astrai::engine::{Engine, EventKind, Next, Prompt, PromptPart, Request, RequestOptions, Sink};
use clap::Args;
use serde::Serialize;
use std::io::{BufRead, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

/// Texts read and not yet answered, at most.
const TEXTS_IN_FLIGHT_MAX: usize = astrai::limits::WAITING_DEFAULT;
/// Wait before a text that the engine had no room for is submitted again.
const RETRY: Duration = Duration::from_millis(10);

/// Arguments of `astrai embed`.
#[derive(Args)]
pub struct EmbedArgs {
    #[command(flatten)]
    position: PositionArgs,
    #[command(flatten)]
    engine: EngineArgs,
    /// A text, instead of the lines of stdin; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    text: Vec<String>,
    /// Leave the first so many numbers of each embedding, divided by their norm where all had the norm 1
    #[arg(long, value_name = "N")]
    dimensions: Option<usize>,
    /// Sequences computed at once [default: the engine's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=astrai::limits::RUNNING_MAX as i64))]
    max_batch: Option<u32>,
}

/// A line of output.
#[derive(Serialize)]
#[serde(untagged)]
enum Line {
    Embedding { index: usize, prompt_tokens: u32, embedding: Vec<f32> },
    Bad { index: usize, error: String },
}

/// Runs the subcommand.
pub fn embed(args: EmbedArgs) -> Outcome {
    let folder = args.position.folder(&args.engine.model.folder, None)?;
    let mut options = args.engine.options();
    options.max_running = args.max_batch.unwrap_or(0);
    // One more than the queue: the line being written has left it.
    options.max_waiting = TEXTS_IN_FLIGHT_MAX as u32 + 1;
    let engine = Arc::new(open(&folder, options, None)?);
    let outcome = engine.embedding().map_err(Failure::from).and_then(|_| {
        if let Some(dimensions) = args.dimensions {
            engine.shorten_embedding(&mut Vec::new(), dimensions)?;
        }
        embed_all(&engine, args.text, args.dimensions)
    });
    // The reader may still be waiting for stdin and hold the engine, so that dropping our handle would not close it.
    let closed = engine.close(Duration::ZERO);
    outcome?;
    Ok(closed?)
}

/// Answers every text.
fn embed_all(engine: &Arc<Engine>, texts: Vec<String>, dimensions: Option<usize>) -> Outcome {
    // With the text that the reader has in its hand.
    let (sender, entries) = sync_channel(TEXTS_IN_FLIGHT_MAX - 1);
    let reader_engine = engine.clone();
    std::thread::Builder::new()
        .name("embed-reader".to_owned())
        .spawn(move || match texts.is_empty() {
            true => read_lines(&reader_engine, &sender),
            false => _ = texts.into_iter().try_for_each(|text| sender.send(Ok(submit(&reader_engine, text)))),
        })
        .map_err(|e| Failure::Message(format!("cannot start a thread: {e}")))?;
    let mut out = std::io::stdout().lock();
    for (index, entry) in entries.into_iter().enumerate() {
        let line = match entry?.and_then(|request| finish(engine, &request, dimensions)) {
            Ok((prompt_tokens, embedding)) => Line::Embedding { index, prompt_tokens, embedding },
            Err(error) => Line::Bad { index, error: error.to_string() },
        };
        let line = serde_json::to_string(&line).map_err(|e| Failure::Message(e.to_string()))?;
        writeln!(out, "{line}")?;
        out.flush()?;
    }
    Ok(())
}

/// Waits for an embedding: the tokens of its text, and its numbers.
fn finish(engine: &Engine, request: &Request, dimensions: Option<usize>) -> astrai::Result<(u32, Vec<f32>)> {
    let lost = |what: &str| astrai::Error::new(Status::Internal, format!("the engine ended the request {what}"));
    let Next::Event(mut event) = request.wait(None)? else { return Err(lost("without a last event")) };
    match (event.kind, event.error.take()) {
        (EventKind::Finished, _) => {}
        (_, Some(error)) => return Err(error),
        _ => return Err(lost("before its embedding was made")),
    }
    let mut embedding = std::mem::take(&mut event.embedding);
    if let Some(dimensions) = dimensions {
        engine.shorten_embedding(&mut embedding, dimensions)?;
    }
    Ok((event.usage.unwrap_or_default().prompt_tokens, embedding))
}

/// A text on its way: a failure ends the program, an error is told in its line.
type Entry = Outcome<astrai::Result<Request>>;

/// The reader thread: submits every line of stdin that is not blank, in order.
fn read_lines(engine: &Engine, entries: &SyncSender<Entry>) {
    let (mut input, mut line, most) = (std::io::stdin().lock(), Vec::new(), astrai::limits::PROMPT_BYTES_MAX as u64);
    for number in 1.. {
        line.clear();
        let read = input.by_ref().take(most + 1).read_until(b'\n', &mut line);
        let entry = match read {
            Ok(0) => break,
            Ok(bytes) if bytes as u64 > most => {
                Err(Failure::Message(format!("line {number} is longer than {most} bytes")))
            }
            Ok(_) if line.trim_ascii().is_empty() => continue,
            Ok(_) => {
                let text = to_text(line.trim_ascii_end().to_vec(), &format!("line {number}"));
                Ok(submit(engine, text))
            }
            Err(error) => Err(Failure::Message(format!("cannot read stdin: {error}"))),
        };
        let last = entry.is_err();
        if entries.send(entry).is_err() || last {
            break;
        }
    }
}

/// Hands a text to the engine, waiting while that is full.
fn submit(engine: &Engine, text: String) -> astrai::Result<Request> {
    let prompt = Prompt { parts: vec![PromptPart::Text { text, special: true }], ..Prompt::default() };
    let options = RequestOptions { embed: true, ..RequestOptions::default() };
    loop {
        match engine.submit(&prompt, &options, Sink::Pull) {
            Err(error) if error.status == Status::QueueFull => std::thread::sleep(RETRY),
            submitted => return submitted,
        }
    }
}
