//! `astrai render`: the text a chat template makes of messages, byte for byte. Needs only the tokenizer's files.

use crate::args::TemplateArgs;
use crate::failure::{Failure, Outcome, read_file, read_json};
use crate::open::open;
use astrai::engine::{EngineOptions, Prompt, TextOptions};
use clap::Args;
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Arguments of `astrai render`.
#[derive(Args)]
pub struct RenderArgs {
    /// Model folder; only its tokenizer and template files are read
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The conversation: a JSON array of messages
    #[arg(long, value_name = "FILE.json")]
    messages: PathBuf,
    /// The tools: a JSON array
    #[arg(long, value_name = "FILE.json")]
    tools: Option<PathBuf>,
    /// Template to use instead of the folder's
    #[arg(long, value_name = "FILE.jinja")]
    template: Option<PathBuf>,
    /// Do not open the assistant's turn
    #[arg(long)]
    no_generation_prompt: bool,
    #[command(flatten)]
    variables: TemplateArgs,
}

/// Runs the subcommand.
pub fn render(args: RenderArgs) -> Outcome {
    let messages = read_array(&args.messages, "messages")?;
    let tools = args.tools.as_deref().map(|path| read_array(path, "tools")).transpose()?.map(Value::Array);
    let text = match &args.template {
        Some(path) => render_file(path, &args, messages, tools)?,
        None => {
            let options = EngineOptions { text_only: true, ..EngineOptions::default() };
            let engine = open(&args.model, options, None)?;
            let prompt = Prompt { messages, tools, variables: args.variables.variables(), ..Prompt::default() };
            let flags = TextOptions { no_generation_prompt: args.no_generation_prompt, ..TextOptions::default() };
            engine.render(&prompt, flags)?
        }
    };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Renders with a template that is not the folder's own; the folder gives the special tokens.
fn render_file(path: &Path, args: &RenderArgs, messages: Vec<Value>, tools: Option<Value>) -> Outcome<String> {
    let source = read_file(path)?;
    let _ = (source, args, messages, tools);
    Err(Failure::message("TODO"))
}

/// A file that holds a JSON array.
fn read_array(path: &Path, what: &str) -> Outcome<Vec<Value>> {
    match read_json(path)? {
        Value::Array(items) => Ok(items),
        _ => Err(Failure::Message(format!("{}: expected a JSON array of {what}", path.display()))),
    }
}
