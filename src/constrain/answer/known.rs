//! Formats that are built in, for models whose `tokenizer_config.json` has no `response_template`: a table, as data. Which one
//! a model has is seen by what its chat template contains.

use serde::Deserialize;
use serde_json::Value;

use super::ResponseTemplate;
use super::syntax::CallSyntax;
use crate::error::{Error, Result};

/// The table; the first format that fits is taken.
const FORMATS: &str = include_str!("formats.json");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Format {
    name: String,
    /// Alternatives: the chat template contains all texts of one of them.
    contains: Vec<Vec<String>>,
    /// None of these is in the chat template.
    #[serde(default)]
    without: Vec<String>,
    /// In the language of [`mod@super::template`].
    template: Value,
    /// How calls are written, if there are any.
    #[serde(default)]
    calls: Option<CallSyntax>,
}

impl Format {
    fn fits(&self, chat_template: &str) -> bool {
        let has = |text: &String| chat_template.contains(text.as_str());
        self.contains.iter().any(|all| all.iter().all(has)) && !self.without.iter().any(has)
    }

    fn template(self) -> Result<ResponseTemplate> {
        ResponseTemplate::named(&self.name, &self.template, self.calls)
    }
}

fn formats() -> Result<Vec<Format>> {
    serde_json::from_str(FORMATS).map_err(|e| Error::internal(format!("the table of response templates: {e}")))
}

impl ResponseTemplate {
    /// The built-in format of a model with this chat template. None: its format is not known.
    pub fn known(chat_template: &str) -> Option<ResponseTemplate> {
        formats().ok()?.into_iter().find(|format| format.fits(chat_template))?.template().ok()
    }

    /// A built-in format by its name.
    pub fn by_name(name: &str) -> Option<ResponseTemplate> {
        formats().ok()?.into_iter().find(|format| format.name == name)?.template().ok()
    }

    /// Names of the built-in formats.
    pub fn names() -> Vec<String> {
        formats().map(|formats| formats.into_iter().map(|format| format.name).collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_is_read_and_chosen() {
        for format in formats().unwrap() {
            let name = format.name.clone();
            for contained in &format.contains {
                let chosen = ResponseTemplate::known(&contained.join(" "));
                assert_eq!(chosen.and_then(|t| t.name().map(str::to_owned)), Some(name.clone()), "{contained:?}");
            }
            format.template().unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        // Calls of another format, whose markers end like those of a known one.
        assert!(ResponseTemplate::known("<mm:think> ]<]minimax[>[<tool_call>").is_none());
        assert!(ResponseTemplate::known("{% for m in messages %}{{ m.content }}{% endfor %}").is_none());
    }
}
