//! `astrai run`: one prompt, one answer.

use crate::args::{EngineArgs, SamplingArgs, TemplateArgs};
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::open::open;
use crate::stream::{report, stream};
use astrai::engine::{FinishReason, Prompt, PromptPart, Sink};
use clap::Args;
use serde_json::json;
use std::io::Read;

/// Arguments of `astrai run`.
#[derive(Args)]
pub struct RunArgs {
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    template: TemplateArgs,
    /// System message before the prompt; needs a chat template
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "raw")]
    system: Option<String>,
    /// Continue the prompt as it is, names of special tokens in it included, without the chat template
    #[arg(long, conflicts_with = "chat")]
    raw: bool,
    /// Insist on the chat template [default: used when the model has one]
    #[arg(long)]
    chat: bool,
    /// The prompt; - reads it from stdin
    #[arg(value_name = "PROMPT")]
    prompt: String,
}

/// Runs the subcommand.
pub fn run(args: RunArgs) -> Outcome {
    let text = if args.prompt == "-" { read_stdin()? } else { args.prompt.clone() };
    let interrupt = Interrupt::install()?;
    let engine = open(&args.engine.model.folder, args.engine.options(), Some(&interrupt))?;
    let has_template = engine.info().has_chat_template;
    if !has_template && (args.chat || args.system.is_some()) {
        let option = if args.chat { "--chat" } else { "--system" };
        return Err(Failure::Message(format!(
            "{option} needs a chat template, and {} has none; leave the option away",
            args.engine.model.folder.display()
        )));
    }
    let mut prompt =
        Prompt { stops: args.sampling.stop.clone(), variables: args.template.variables(), ..Prompt::default() };
    if has_template && !args.raw {
        prompt.messages.extend(args.system.map(|system| json!({"role": "system", "content": system})));
        prompt.messages.push(json!({"role": "user", "content": text}));
    } else {
        prompt.variables.clear();
        prompt.parts.push(PromptPart::Text { text, special: true });
    }
    let request = engine.submit(&prompt, &args.sampling.options(), Sink::Pull)?;
    let answer = stream(&request, &interrupt, &mut std::io::stdout().lock())?;
    report(&answer);
    if answer.finish == FinishReason::Cancel { Err(Failure::Interrupted) } else { Ok(()) }
}

/// All of stdin, which must be UTF-8.
fn read_stdin() -> Outcome<String> {
    let bytes_max = astrai::limits::PROMPT_BYTES_MAX as u64;
    let mut text = String::new();
    let read = std::io::stdin().lock().take(bytes_max + 1).read_to_string(&mut text);
    let bytes = read.map_err(|e| Failure::Message(format!("cannot read the prompt from stdin: {e}")))?;
    if bytes as u64 > bytes_max {
        return Err(Failure::Message(format!("the prompt on stdin is longer than {bytes_max} bytes")));
    }
    Ok(text)
}
