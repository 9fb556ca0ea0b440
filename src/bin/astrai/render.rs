//! `astrai render`: the text a chat template makes of messages: what `submit` would use, or with `--exact` byte for byte what
//! transformers makes. Needs only the tokenizer's files.

use crate::args::TemplateArgs;
use crate::failure::{Failure, Outcome, read_file, read_json};
use crate::open::open;
use astrai::engine::{EngineOptions, Prompt, TextOptions};
use astrai::source::{Folder, FolderOptions, ModelSource};
use astrai::text::{ChatTemplate, TemplateInput};
use clap::Args;
use serde_json::{Map, Value};
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
    /// Give the template the messages as they are, as transformers does: no arguments made objects, no content in the form
    /// the template wants
    #[arg(long)]
    exact: bool,
    #[command(flatten)]
    variables: TemplateArgs,
}

/// Runs the subcommand.
pub fn render(args: RenderArgs) -> Outcome {
    let messages = read_array(&args.messages, "messages")?;
    let tools = args.tools.as_deref().map(|path| read_array(path, "tools")).transpose()?.map(Value::Array);
    let text = match &args.template {
        Some(path) => render_file(path, &args, &messages, tools.as_ref())?,
        None => {
            let options = EngineOptions { text_only: true, ..EngineOptions::default() };
            let engine = open(&args.model, options, None)?;
            let prompt = Prompt { messages, tools, variables: args.variables.variables(), ..Prompt::default() };
            let (no_generation_prompt, exact) = (args.no_generation_prompt, args.exact);
            let flags = TextOptions { no_generation_prompt, exact, ..TextOptions::default() };
            engine.render(&prompt, flags)?
        }
    };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Renders with a template that is not the folder's own; the folder, which need not have one, gives the special
/// tokens.
fn render_file(path: &Path, args: &RenderArgs, messages: &[Value], tools: Option<&Value>) -> Outcome<String> {
    let mut template = ChatTemplate::new(&read_file(path)?, &path.display().to_string())?;
    let folder =
        Folder::open(&args.model, FolderOptions { text_only: true, ..FolderOptions::default() }, &mut |_, _| true)?;
    let tokens = folder.special_tokens()?;
    let mut variables: Map<String, Value> = tokens.named.into_iter().map(|(name, text)| (name, text.into())).collect();
    if !tokens.additional.is_empty() {
        variables.insert("additional_special_tokens".to_owned(), tokens.additional.into());
    }
    variables.extend(args.variables.variables());
    template.learn(&variables);
    let (add_generation_prompt, exact) = (!args.no_generation_prompt, args.exact);
    let input = TemplateInput { tools, add_generation_prompt, exact, ..TemplateInput::new(messages, &variables) };
    Ok(template.render(&input)?.text)
}

/// A file that holds a JSON array.
fn read_array(path: &Path, what: &str) -> Outcome<Vec<Value>> {
    match read_json(path)? {
        Value::Array(items) => Ok(items),
        _ => Err(Failure::Message(format!("{}: expected a JSON array of {what}", path.display()))),
    }
}
