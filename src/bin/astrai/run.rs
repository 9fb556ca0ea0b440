//! `astrai run`: one prompt, one answer.

use crate::args::{EngineArgs, SamplingArgs, TemplateArgs, message_flags};
use crate::constraint::ConstraintArgs;
use crate::failure::{Failure, Outcome, read_array, to_text};
use crate::interrupt::Interrupt;
use crate::open::open;
use crate::pull;
use crate::stream::{ShowArgs, report, stream};
use astrai::engine::{FinishReason, Prompt, PromptPart, Sink};
use clap::Args;
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Arguments of `astrai run`.
#[derive(Args)]
pub struct RunArgs {
    /// Model: its folder (config.json, *.safetensors, tokenizer.json), a .gguf file or hf://owner/name[:quant]; it is left away
    /// with --model
    #[arg(value_name = "MODEL_DIR")]
    first: Option<OsString>,
    /// The prompt; - reads it from stdin; it is left away with --messages
    #[arg(value_name = "PROMPT")]
    second: Option<OsString>,
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
    /// System message before the prompt; needs a chat template
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "raw")]
    system: Option<String>,
    /// Continue the prompt as it is, names of special tokens in it included, without the chat template
    #[arg(long, conflicts_with_all = ["chat", "set", "special_content"])]
    raw: bool,
    /// Insist on the chat template [default: used when the model has one]
    #[arg(long)]
    chat: bool,
    /// Names of special tokens in the messages are those tokens [default: ordinary characters]
    #[arg(long)]
    special_content: bool,
    /// A conversation in place of the prompt: a JSON array of messages
    #[arg(long, value_name = "FILE.json", conflicts_with_all = ["raw", "system"])]
    messages: Option<PathBuf>,
    /// The tools that the model may call, a JSON array; each call is a line of the answer, NAME(ARGUMENTS)
    #[arg(long, value_name = "FILE.json", conflicts_with = "raw")]
    tools: Option<PathBuf>,
    /// With --messages: the last message, an assistant's, is the start of the answer; only what is new is printed
    #[arg(long = "continue", requires = "messages")]
    continued: bool,
}

/// Runs the subcommand.
pub fn run(args: RunArgs) -> Outcome {
    let words: Vec<&OsString> = args.first.iter().chain(&args.second).collect();
    let wants_prompt = args.messages.is_none();
    let (folder, prompt) = place(args.engine.model.folder.as_deref(), &words, wants_prompt)?;
    let said = Said::read(&args, prompt)?;
    let interrupt = Interrupt::install()?;
    let folder = pull::model(&folder, Some(&interrupt))?;
    let engine = open(&folder, args.constraint.engine(args.engine.options()), Some(&interrupt))?;
    let prompt = said.prompt(&args, engine.info().has_chat_template, &folder)?;
    let options = args.constraint.add(&engine, args.sampling.options())?;
    let request = engine.submit(&prompt, &options, Sink::Pull)?;
    let answer = stream(&request, &args.show, &interrupt, &mut std::io::stdout().lock())?;
    report(&answer);
    if answer.finish == FinishReason::Cancel { Err(Failure::Interrupted) } else { Ok(()) }
}

/// What is asked.
enum Said {
    Text(String),
    Messages(Vec<Value>),
}

impl Said {
    fn read(args: &RunArgs, prompt: Option<&OsStr>) -> Outcome<Said> {
        if let Some(path) = &args.messages {
            return Ok(Said::Messages(read_array(path, "messages")?));
        }
        match prompt {
            Some(prompt) if prompt == "-" => Ok(Said::Text(read_stdin()?)),
            Some(prompt) => Ok(Said::Text(to_text(prompt.as_encoded_bytes().to_vec(), "the prompt"))),
            None => Err(Failure::message("there is no prompt")),
        }
    }

    /// As the engine has it.
    fn prompt(self, args: &RunArgs, has_template: bool, folder: &Path) -> Outcome<Prompt> {
        let options = [
            ("--chat", args.chat),
            ("--system", args.system.is_some()),
            ("--messages", args.messages.is_some()),
            ("--tools", args.tools.is_some()),
            ("--set", !args.template.set.is_empty()),
            ("--special-content", args.special_content),
        ];
        if let (false, Some((option, _))) = (has_template, options.iter().find(|(_, given)| *given)) {
            let folder = folder.display();
            return Err(Failure::Message(format!(
                "{option} needs a chat template, and {folder} has none; leave the option away"
            )));
        }
        let mut prompt = Prompt::default();
        match self {
            Said::Text(text) if args.raw || !has_template => {
                prompt.parts.push(PromptPart::Text { text, special: true });
                return Ok(prompt);
            }
            Said::Text(text) => {
                prompt.messages.extend(args.system.iter().map(|system| json!({"role": "system", "content": system})));
                prompt.messages.push(json!({"role": "user", "content": text}));
            }
            Said::Messages(messages) => prompt.messages = messages,
        }
        prompt.tools = args.tools.as_deref().map(|path| read_array(path, "tools")).transpose()?.map(Value::Array);
        prompt.variables = args.template.variables();
        args.show.add(&mut prompt.variables);
        prompt.message_flags = message_flags(prompt.messages.len(), args.special_content, args.continued);
        Ok(prompt)
    }
}

/// Tells the model folder from the prompt: of two arguments, the folder that exists is the model. With `--model` there is
/// the prompt only; without a prompt the folder.
fn place<'a>(
    model: Option<&Path>,
    words: &[&'a OsString],
    wants_prompt: bool,
) -> Outcome<(PathBuf, Option<&'a OsStr>)> {
    let usage = |message: String| Err(Failure::Usage(message));
    let shown = |word: &OsStr| format!("\"{}\"", word.display());
    let is_folder = |word: &OsStr| Path::new(word).is_dir() || pull::is_reference(Path::new(word));
    match (model, words, wants_prompt) {
        (Some(model), [], false) => Ok((model.to_owned(), None)),
        (Some(model), [prompt], true) => Ok((model.to_owned(), Some(prompt))),
        (_, [], true) => usage("there is no prompt; give the model folder and the prompt, or - for stdin".to_owned()),
        (Some(model), [first, ..], _) => {
            let (first, model) = (shown(first), model.display());
            let what =
                if wants_prompt { "there is one prompt, in quotes" } else { "--messages is in place of a prompt" };
            usage(format!("--model names {model} already, and {first} is one argument too many: {what}"))
        }
        (None, [], false) => usage("there is no model; name its folder, here or with --model".to_owned()),
        (None, [model], false) => Ok((model.into(), None)),
        (None, [only], true) if is_folder(only) => {
            usage(format!("there is no prompt after the folder {}", shown(only)))
        }
        (None, [only], true) => {
            usage(format!("there is no model for the prompt {}: name its folder before it", shown(only)))
        }
        (None, [_, second, ..], false) => {
            usage(format!("--messages is in place of a prompt, and {} is one argument too many", shown(second)))
        }
        (None, [first, second, ..], true) => {
            let config =
                |word: &OsStr| Path::new(word).join("config.json").is_file() || pull::is_reference(Path::new(word));
            let first_is = (is_folder(first), config(first));
            let mut order = first_is.cmp(&(is_folder(second), config(second)));
            if !first_is.0 {
                // Who opens the file says what it is; a repository name is no prompt.
                let hub = names_repository(first) && !names_repository(second);
                order = order.then(is_file(first).cmp(&is_file(second))).then(hub.cmp(&false));
            }
            match order {
                Ordering::Greater => Ok((first.into(), Some(second))),
                Ordering::Less => Ok((second.into(), Some(first))),
                Ordering::Equal => {
                    let which = if first_is.0 { "both of" } else { "none of" };
                    let (first, second) = (shown(first), shown(second));
                    usage(format!("{which} {first} and {second} is a model folder; name it with --model"))
                }
            }
        }
    }
}

fn is_file(word: &OsStr) -> bool {
    Path::new(word).is_file()
}

/// Whether a word looks like the name of a repository, as in "owner/name": no prompt does.
fn names_repository(word: &OsStr) -> bool {
    let plain = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    word.to_str().and_then(|word| word.split_once('/')).is_some_and(|(owner, name)| plain(owner) && plain(name))
}

/// All of stdin; bytes that are not UTF-8 are replaced.
fn read_stdin() -> Outcome<String> {
    let bytes_max = astrai::limits::PROMPT_BYTES_MAX as u64;
    let mut text = Vec::new();
    let read = std::io::stdin().lock().take(bytes_max + 1).read_to_end(&mut text);
    let bytes = read.map_err(|e| Failure::Message(format!("cannot read the prompt from stdin: {e}")))?;
    if bytes as u64 > bytes_max {
        return Err(Failure::Message(format!("the prompt on stdin is longer than {bytes_max} bytes")));
    }
    Ok(to_text(text, "the prompt on stdin"))
}
