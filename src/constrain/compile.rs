//! From the text of a constraint to a [`Grammar`].

use super::guided::Guided;
use super::schema;
use super::{Grammar, TokenTrie};
use crate::error::{Error, Result, Unit};
use crate::limits;
use crate::os::shortage;
use astrai_guidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// How the text of a constraint is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A JSON schema: the answer is a JSON value that it accepts.
    JsonSchema,
    /// No text: the answer is any JSON value.
    Json,
    /// A regular expression of Rust's `regex` crate, without look-around and back-references: the whole answer matches.
    Regex,
    /// A grammar in the Lark format, as llguidance extends it; its start rule is `start`.
    Lark,
    /// A JSON list of strings: the answer is one of them.
    Texts,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::JsonSchema => "JSON schema",
            Kind::Json => "any JSON",
            Kind::Regex => "regular expression",
            Kind::Lark => "Lark grammar",
            Kind::Texts => "list of texts",
        }
    }
}

/// Compiles a constraint for a vocabulary. Needs a stack of [`limits::CONSTRAINT_STACK_BYTES`], and may take seconds.
///
/// # Errors
/// `Argument` for a text that is not of its kind or beyond the limits; `Unsupported` for what cannot be expressed, by name and position; `Memory`.
pub fn compile(vocabulary: &Arc<TokenTrie>, kind: Kind, text: &str) -> Result<Arc<dyn Grammar>> {
    let most = limits::CONSTRAINT_BYTES_MAX;
    if text.len() > most {
        let message = format!("a constraint of {} bytes; at most {most} are read", text.len());
        return Err(Error::argument(message).about("constraint").numbers(Unit::Bytes, text.len() as u64, most as u64));
    }
    let source = Source::read(kind, text)?;
    let estimate =
        text.len().saturating_mul(limits::CONSTRAINT_MEMORY_FACTOR).saturating_add(limits::CONSTRAINT_MEMORY_BYTES);
    let made = shortage::backed("a constraint", estimate, || {
        let grammar = source.grammar();
        catch_unwind(AssertUnwindSafe(|| Guided::compile(vocabulary, TopLevelGrammar::from_grammar(grammar))))
    })?;
    match made {
        Ok(Ok(grammar)) => Ok(Arc::new(grammar)),
        Ok(Err(message)) => Err(source.refusal(&message)),
        Err(_) => {
            Err(Error::internal("the parser of constraints panicked; please report the constraint").about("constraint"))
        }
    }
}

/// A constraint as it was read.
enum Source {
    Schema(Value),
    /// The kind that was asked for, and the grammar that it makes.
    Lark(Kind, String),
    Regex(String),
}

impl Source {
    fn read(kind: Kind, text: &str) -> Result<Source> {
        let wrong = |what: String| Error::argument(format!("the {} {what}", kind.name())).about("constraint");
        match kind {
            Kind::Json => Ok(Source::Schema(schema::bounded(Value::Bool(true)))),
            Kind::JsonSchema => {
                let value: Value = serde_json::from_str(text).map_err(|e| wrong(format!("is no JSON: {e}")))?;
                if !matches!(value, Value::Object(_) | Value::Bool(_)) {
                    return Err(wrong("is neither an object nor true or false".into()));
                }
                Ok(Source::Schema(schema::bounded(value)))
            }
            Kind::Regex => {
                check_size(text, kind)?;
                Ok(Source::Regex(text.to_owned()))
            }
            Kind::Lark => {
                if text.contains("::=") {
                    let message = "the grammar is GBNF, as its `::=` says; constraints are Lark grammars: `root ::= item+` is \
                                   `start: item+` there, rules are in lower case and terminals in upper case";
                    return Err(Error::unsupported(message).about("constraint"));
                }
                check_size(text, kind)?;
                Ok(Source::Lark(kind, text.to_owned()))
            }
            Kind::Texts => {
                let texts: Vec<String> =
                    serde_json::from_str(text).map_err(|e| wrong(format!("is no JSON list of strings: {e}")))?;
                if texts.is_empty() {
                    return Err(wrong("is empty".into()));
                }
                // As the grammar's strings have it.
                let quoted =
                    |text: &String| serde_json::to_string(text).unwrap_or_default().replace('\u{7f}', "\\u007f");
                let all: Vec<String> = texts.iter().map(quoted).collect();
                Ok(Source::Lark(kind, format!("start: TEXT\nTEXT: {}", all.join(" | "))))
            }
        }
    }

    fn grammar(&self) -> GrammarWithLexer {
        match self {
            Source::Schema(value) => GrammarWithLexer::from_json_schema(value.clone()),
            Source::Lark(_, text) => GrammarWithLexer::from_lark(text.clone()),
            Source::Regex(text) => GrammarWithLexer::from_regex(text),
        }
    }

    /// The error for what the parser refused.
    fn refusal(&self, message: &str) -> Error {
        let (kind, place) = match self {
            Source::Schema(value) => (Kind::JsonSchema, schema::place(value, message)),
            Source::Lark(kind, _) => (*kind, None),
            Source::Regex(_) => (Kind::Regex, None),
        };
        let message: String = message.chars().take(limits::CONSTRAINT_MESSAGE_CHARS_MAX).collect();
        let place = place.map(|pointer| format!(" (at {pointer})")).unwrap_or_default();
        Error::unsupported(format!("the {} cannot be used: {message}{place}", kind.name())).about("constraint")
    }
}

/// That a text is not too long, and brackets do not nest deeper than the parser's recursion can go. Brackets in texts are counted like others: what is refused
/// wrongly has hundreds more that open than close.
fn check_size(text: &str, kind: Kind) -> Result<()> {
    let most = limits::CONSTRAINT_EXPRESSION_BYTES_MAX;
    if text.len() > most {
        let message = format!("the {} has {} bytes; at most {most} are read", kind.name(), text.len());
        return Err(Error::argument(message).about("constraint").numbers(Unit::Bytes, text.len() as u64, most as u64));
    }
    let (mut depth, mut deepest) = (0usize, 0usize);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    let most = limits::CONSTRAINT_DEPTH_MAX;
    if deepest <= most {
        return Ok(());
    }
    let message = format!("the {} nests {deepest} deep; at most {most} are read", kind.name());
    Err(Error::argument(message).about("constraint").numbers(Unit::Count, deepest as u64, most as u64))
}
