//! The parts of an answer: reasoning, content, and calls of tools.
//!
//! A [`ResponseTemplate`] says how a model writes them. It comes from `tokenizer_config.json` or from a table of known
//! formats, is made once for a model and never changes. An [`AnswerParser`] reads one answer with it, while it is written:
//!
//! - It gives the same parts however the text is cut, as long as each piece is whole UTF-8.
//! - It holds back what may be the beginning of a delimiter, space that may be the end of a part, and calls whose format
//!   shows what they are only at their end. Everything else leaves at once and is never taken back.
//! - No text gets lost, but for delimiters, space around parts, and fields that are no parts: a call without its end is
//!   given as a call with [`PartEnd::Unclosed`]. What turns out to be no call goes back to the content, whole; if its name was
//!   told before, or the opening has named it, it is a call with [`PartEnd::Malformed`], up to its closing delimiter.
//! - Its work grows with the text, its memory is bounded (`limits.rs`), and no text makes it fail.
//!
//! Read it in the order of the way that text takes: [`mod@template`], [`mod@pattern`], [`mod@scanner`], [`mod@parser`], then
//! what reads calls ([`mod@call_json`], [`mod@arguments`], [`mod@python`]) and what writes parts ([`mod@parts`]).

mod arguments;
mod call_json;
mod cast;
mod json_text;
mod known;
mod parser;
mod parts;
mod pattern;
mod python;
mod region;
mod scanner;
mod shape;
mod syntax;
mod template;
#[cfg(test)]
mod tests;

pub use cast::Tools;
pub use parser::AnswerParser;
pub(super) use pattern::{Pattern, State as PatternState};
pub use syntax::{ArgumentSyntax, CallSyntax, Delimiters, MessageSyntax, Opening};
pub use template::ResponseTemplate;

/// What a part of an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PartKind {
    /// Text for the reader.
    Content,
    /// What the model thought on its way to the answer.
    Reasoning,
    /// A call of a tool.
    Call,
}

/// How a part ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PartEnd {
    /// It is whole. A call's text is JSON.
    Complete,
    /// The answer ended within it.
    Unclosed,
    /// A call whose arguments are not what the format says. Its text is what was written.
    Malformed,
}

/// More of a part.
#[derive(Clone, Debug, PartialEq)]
pub struct PartDelta {
    /// What it is a part of.
    pub kind: PartKind,
    /// Number of the part, in the order of the text, from 0.
    pub part: usize,
    /// Of a call: its number among the calls, from 0.
    pub call: Option<usize>,
    /// Whether the part begins here.
    pub begins: bool,
    /// The tool's name, where the call begins. None there: the answer ended before it was known.
    pub name: Option<String>,
    /// The call's id, if the model wrote one; where the call begins or where it ends.
    pub id: Option<String>,
    /// Text that follows what came before: of a call its arguments, as JSON.
    pub text: String,
    /// Whether the part ends here, and how.
    pub end: Option<PartEnd>,
}
