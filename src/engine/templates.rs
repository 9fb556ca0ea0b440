//! The chat templates of a model, and the choice of one for a prompt.
//!
//! A template that cannot be read or compiled gives a warning at open, and an error for prompts that need it.

use super::Prompt;
use super::answer::ResponseFormat;
use crate::constrain::answer::ResponseTemplate;
use crate::error::{Error, Result, Status};
use crate::limits;
use crate::os::shortage;
use crate::source::ModelSource;
use crate::text::{ChatTemplate, Tokenizer};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::sync::Arc;

/// The name of the template for prompts that name none.
const DEFAULT: &str = "default";
/// The name of the template for prompts with tools.
const TOOLS: &str = "tool_use";
/// The variable with which a prompt names a template.
const CHOICE: &str = "chat_template";

/// A template, or the error why it cannot be used.
struct Named {
    name: String,
    template: Result<ChatTemplate>,
    /// The text of the template could be read.
    has_text: bool,
    /// How the answers to its prompts are read.
    format: ResponseFormat,
}

/// All templates of a model.
pub(super) struct Templates {
    named: Vec<Named>,
}

impl Templates {
    /// Compiles the templates of the source and detects which message content and arguments each expects. `variables`
    /// are the special tokens. Templates that do not compile are reported to `warn`.
    ///
    /// # Errors
    /// `Memory`; other errors are kept with the template.
    pub fn open(
        source: &dyn ModelSource,
        variables: &Map<String, Value>,
        warn: &mut dyn FnMut(String),
    ) -> Result<Templates> {
        let own = response_template(source, warn)?;
        let default = source.chat_template().transpose();
        let default = default.map(|text| (DEFAULT, source.chat_template_file(), text.map(Cow::Owned)));
        let others = source.named_templates().iter().map(|t| {
            let text = t.text.as_deref().map(Cow::Borrowed).map_err(Clone::clone);
            (t.name.as_str(), t.file.as_str(), text)
        });
        let mut named: Vec<Named> = Vec::new();
        for (name, file, text) in default.into_iter().chain(others) {
            if named.iter().any(|known| known.name == name) {
                continue;
            }
            let has_text = text.is_ok();
            let format = ResponseFormat::new(own.as_ref(), text.as_deref().unwrap_or_default());
            let template = text.and_then(|text| {
                let estimate = shortage::estimate(text.len(), limits::TEMPLATE_MEMORY_FACTOR);
                let compile = || {
                    let mut template = ChatTemplate::new(&text, file)?;
                    template.learn(variables);
                    Ok(template)
                };
                shortage::backed("a chat template", estimate, compile).flatten()
            });
            match &template {
                Err(e) if e.status == Status::Memory => return Err(e.clone()),
                // The source has already reported a text that could not be read.
                Err(e) if has_text => warn(format!("{}; token ids and raw text work without this template", e.message)),
                _ => {}
            }
            named.push(Named { name: name.to_owned(), template, has_text, format });
        }
        Ok(Templates { named })
    }

    /// Finds the special tokens of the formats of answers.
    pub fn learn(&mut self, tokenizer: &Tokenizer) {
        self.named.iter_mut().for_each(|named| named.format.learn(tokenizer));
    }

    /// How the answers to a prompt of messages are read; `None` where there is no template for it.
    pub fn format(&self, prompt: &Prompt) -> Option<&ResponseFormat> {
        self.find(prompt).map(|named| &named.format)
    }

    /// How answers to prompts that name no template are read.
    pub fn default_format(&self) -> Option<&ResponseFormat> {
        self.named.iter().find(|named| named.name == DEFAULT).map(|named| &named.format)
    }

    /// The template for a prompt, if there is one.
    fn find(&self, prompt: &Prompt) -> Option<&Named> {
        let by_name = |name: &str| self.named.iter().find(|named| named.name == name);
        match prompt.variables.get(CHOICE).and_then(Value::as_str) {
            Some(name) if !self.named.is_empty() => by_name(name),
            _ => prompt.tools.as_ref().and_then(|_| by_name(TOOLS)).or_else(|| by_name(DEFAULT)),
        }
    }

    /// Whether the model has a template, usable or not.
    pub fn any(&self) -> bool {
        self.named.iter().any(|named| named.has_text)
    }

    /// The template for a prompt: the one that its variable `chat_template` names, else the tool template if it has
    /// tools, else the default. The flag says whether the prompt named it.
    ///
    /// # Errors
    /// `Unsupported` if there is none; `Argument` if none has the name; the error of a template that cannot be used.
    pub fn pick(&self, prompt: &Prompt) -> Result<(&ChatTemplate, bool)> {
        let choice = prompt.variables.get(CHOICE).and_then(Value::as_str);
        let found = self.find(prompt);
        if let (Some(name), false) = (choice, self.named.is_empty()) {
            let found = found.ok_or_else(|| {
                let message = format!("the model has no chat template named {name:?}; it has {}", self.names());
                Error::argument(message).about(CHOICE)
            })?;
            return Ok((found.template.as_ref().map_err(Clone::clone)?, true));
        }
        let Some(found) = found else {
            let message = match self.named.is_empty() {
                true => "the model folder has no chat template; send the prompt as text".to_owned(),
                false => format!(
                    "the model has no default chat template; name one of {} by the variable \"{CHOICE}\"",
                    self.names()
                ),
            };
            return Err(Error::unsupported(message).about(CHOICE));
        };
        Ok((found.template.as_ref().map_err(Clone::clone)?, false))
    }

    fn names(&self) -> String {
        let names: Vec<String> = self.named.iter().map(|named| format!("{:?}", named.name)).collect();
        names.join(", ")
    }

    /// The variables of a rendering: the model's, overridden by the prompt's.
    pub fn variables(model: &Map<String, Value>, prompt: &Prompt, named: bool) -> Map<String, Value> {
        let mut variables = model.clone();
        variables.extend(prompt.variables.clone());
        if named {
            variables.remove(CHOICE);
        }
        variables
    }
}

/// The model's own response template. One that cannot be used is reported to `warn`.
///
/// # Errors
/// `Memory`.
fn response_template(source: &dyn ModelSource, warn: &mut dyn FnMut(String)) -> Result<Option<Arc<ResponseTemplate>>> {
    let Some(value) = source.response_template() else { return Ok(None) };
    match shortage::backed("a response template", limits::RESPONSE_TEMPLATE_BYTES, || ResponseTemplate::parse(value))? {
        Ok(template) => Ok(Some(Arc::new(template))),
        Err(e) if e.status == Status::Memory => Err(e),
        Err(e) => {
            warn(format!("tokenizer_config.json: {}; answers are read as the chat template suggests", e.message));
            Ok(None)
        }
    }
}
