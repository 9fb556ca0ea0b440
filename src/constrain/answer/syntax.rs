//! How a format is written, as plain data: for grammars that make a model write calls which are calls.

use serde::Deserialize;

/// What opens and closes a region; any of the texts does.
#[derive(Clone, Debug, PartialEq)]
pub struct Delimiters {
    /// What opens it.
    pub open: Vec<String>,
    /// What closes it; empty: it ends with the answer.
    pub close: Vec<String>,
}

/// How calls are written: `open`, then calls with `separator` between them, then `close`. A call is `call`, with `{name}`
/// replaced by the tool's name and `{arguments}` by the arguments, which are written as `arguments` says. Some formats also
/// have `{index}`, the call's number, and `{id}`, an id of nine letters and digits.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct CallSyntax {
    /// Before the first call.
    #[serde(default)]
    pub open: String,
    /// One call.
    pub call: String,
    /// Between two calls.
    #[serde(default)]
    pub separator: String,
    /// After the last call.
    #[serde(default)]
    pub close: String,
    /// How its arguments are written.
    pub arguments: ArgumentSyntax,
    /// What begins a call.
    #[serde(default)]
    pub openings: Vec<Opening>,
    /// How parts are written that each stand in a message of their own; the texts of `call` then are those of a whole message.
    #[serde(default)]
    pub messages: Option<MessageSyntax>,
}

/// A text that begins a call.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Opening {
    /// The text.
    pub text: String,
    /// How what it begins begins where it is written as [`CallSyntax`] says; none: it is not written like that.
    #[serde(default)]
    pub stands_for: Option<String>,
    /// Whether it begins a call at the beginning of the answer alone.
    #[serde(default)]
    pub at_start: bool,
}

/// How messages are written.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct MessageSyntax {
    /// Between the end of a message and what opens the next one.
    pub next: String,
    /// What opens reasoning.
    pub reasoning: String,
    /// What opens content: first the one of an answer, then others.
    pub content: Vec<String>,
    /// What closes reasoning and content.
    pub close: String,
}

/// How the arguments of a call are written.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ArgumentSyntax {
    /// As a JSON object.
    Json,
    /// As JSON with keys that have no quotes, and strings between `quote`.
    BareJson {
        /// What opens and closes a string.
        quote: String,
    },
    /// Each as `argument`, with `{key}` and `{value}` replaced; strings stand as they are, other values as JSON. `{is_string}`,
    /// if there, is `true` or `false`.
    Tagged {
        /// One argument.
        argument: String,
        /// Texts that the reader would take for something else than a part of the value, beside the tags that end it.
        #[serde(default)]
        without: Vec<String>,
    },
    /// `key=value, key=value` with values of Python.
    Python,
}
