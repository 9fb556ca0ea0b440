//! `astrai render`: the text a chat template makes of messages: what `submit` would use, or with `--exact` byte for byte what
//! transformers makes. Needs only the tokenizer's files.

use crate::args::{PositionArgs, TemplateArgs, message_flags};
use crate::failure::{Outcome, read_array, read_file};
use crate::open::open;
use astrai::engine::{EngineOptions, Prompt, TextOptions};
use astrai::source::{self, FolderOptions};
use astrai::text::{ChatTemplate, TemplateInput, continued};
use clap::Args;
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Arguments of `astrai render`.
#[derive(Args)]
pub struct RenderArgs {
    #[command(flatten)]
    position: PositionArgs,
    /// Model folder or hf://owner/name, if it is not given by its position; only its tokenizer and template files are read
    #[arg(long = "model", value_name = "MODEL")]
    folder: Option<PathBuf>,
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
    /// The last message, an assistant's, is the start of the answer: end where it ends
    #[arg(long = "continue")]
    continued: bool,
    /// Give the template the messages as they are, as transformers does: no arguments made objects, no content in the form
    /// the template wants
    #[arg(long)]
    exact: bool,
    #[command(flatten)]
    variables: TemplateArgs,
}

/// Runs the subcommand.
pub fn render(args: RenderArgs) -> Outcome {
    let folder = args.position.folder(&args.folder, None)?;
    let messages = read_array(&args.messages, "messages")?;
    let tools = args.tools.as_deref().map(|path| read_array(path, "tools")).transpose()?.map(Value::Array);
    let text = match &args.template {
        Some(path) => render_file(path, &folder, &args, &messages, tools.as_ref())?,
        None => {
            let options = EngineOptions { text_only: true, ..EngineOptions::default() };
            let engine = open(&folder, options, None)?;
            let message_flags = message_flags(messages.len(), false, args.continued);
            let variables = args.variables.variables();
            let prompt = Prompt { messages, message_flags, tools, variables, ..Prompt::default() };
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
fn render_file(
    path: &Path,
    folder: &Path,
    args: &RenderArgs,
    messages: &[Value],
    tools: Option<&Value>,
) -> Outcome<String> {
    let mut template = ChatTemplate::new(&read_file(path)?, &path.display().to_string())?;
    let options = FolderOptions { text_only: true, ..FolderOptions::default() };
    let folder = source::open(folder, options, &mut |_, _| true)?;
    let mut variables = folder.special_tokens()?.variables();
    variables.extend(args.variables.variables());
    template.learn(&variables);
    let render = |messages: &[Value], add_generation_prompt| {
        let (tools, exact) = (tools, args.exact);
        template.render(&TemplateInput {
            tools,
            add_generation_prompt,
            exact,
            ..TemplateInput::new(messages, &variables)
        })
    };
    if args.continued {
        return Ok(continued::render(messages.to_vec(), |messages| render(messages, false))?.text);
    }
    Ok(render(messages, !args.no_generation_prompt)?.text)
}
