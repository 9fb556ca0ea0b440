//! Chat templates: minijinja, configured like the environment transformers renders with.

use crate::error::{Error, Result, Status};
use crate::limits;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value as Jinja};
use serde_json::{Map, Value};

/// A local date and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTime {
    /// Year.
    pub year: i32,
}

/// What a template sees.
pub struct TemplateInput<'a> {
    /// Messages.
    pub messages: &'a [Value],
    /// Tools.
    pub tools: Option<&'a Value>,
    /// Further variables.
    pub variables: &'a Map<String, Value>,
    /// Open the assistant's turn.
    pub add_generation_prompt: bool,
    /// Clock.
    pub now: Option<LocalTime>,
}

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// Compiles.
    pub fn new(source: &str, subject: &str) -> Result<ChatTemplate> {
        let mut environment = Environment::new();
        let syntax = minijinja::syntax::SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| Error::internal(e.to_string()))?);
        environment.set_fuel(Some(limits::TEMPLATE_FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |m: String| -> std::result::Result<Jinja, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, m))
        });
        environment
            .add_template_owned("chat", source.to_owned())
            .map_err(|e| Error::new(Status::Template, e.to_string()).about(subject))?;
        Ok(ChatTemplate { environment })
    }

    /// Renders.
    pub fn render(&self, input: &TemplateInput) -> Result<String> {
        let fail = |e: minijinja::Error| Error::new(Status::Template, e.detail().unwrap_or(&e.to_string()).to_owned());
        let template = self.environment.get_template("chat").map_err(fail)?;
        let mut all = input.variables.clone();
        all.insert("messages".into(), input.messages.into());
        all.insert("tools".into(), input.tools.cloned().unwrap_or(Value::Null));
        all.insert("add_generation_prompt".into(), input.add_generation_prompt.into());
        template.render(Serde(all)).map_err(fail)
    }
}
