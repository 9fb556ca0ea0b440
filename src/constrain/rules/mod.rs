//! Grammars of whole answers: reasoning, content and calls of a model whose format is known.
//!
//! An answer has phases ([`mod@machine`]): reasoning and content are free text but for a few delimiters ([`mod@free`], for which no
//! parser runs), what the caller's constraint or the schemas of tools say is read by grammars. The grammar of calls is made from how
//! the format writes them ([`mod@calls`], [`mod@values`], [`mod@tagged`]), and every name and key is written once and read again
//! before it is used ([`mod@check`]), so that calls that were written are those that [`super::answer::AnswerParser`] reads.
//!
//! Read it in this order: [`mod@spelling`], [`mod@watch`], [`mod@free`], [`mod@text`], [`mod@values`], [`mod@tagged`], [`mod@calls`],
//! [`mod@check`], [`mod@build`], [`mod@machine`].

mod build;
mod calls;
mod check;
mod free;
mod machine;
mod spelling;
mod tagged;
#[cfg(test)]
mod tests;
mod text;
mod values;
mod watch;

use super::answer::{AnswerParser, PartKind, ResponseTemplate};
use super::{Grammar, Matcher, TokenTrie};
use crate::error::{Error, Result, Unit};
use crate::limits::{CALL_NAME_BYTES_MAX, TOOLS_BYTES_MAX, TOOLS_MAX};
use machine::{AnswerMatcher, Begin};
use serde_json::Value;
use std::sync::Arc;

/// A tool that a model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The JSON schema of its arguments, an object; null: it has none.
    pub parameters: Value,
    /// Whether its calls are constrained where the model is free to call it or not.
    pub strict: bool,
}

/// Whether an answer calls tools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// It calls none.
    None,
    /// As the model likes.
    #[default]
    Auto,
    /// It calls one or more.
    Required,
    /// It calls the one of this name.
    Named(String),
}

/// What an answer may be.
#[derive(Clone)]
pub struct AnswerRules {
    /// How the model writes answers.
    pub template: Arc<ResponseTemplate>,
    /// The tools that there are.
    pub tools: Vec<Tool>,
    /// Whether they are called.
    pub choice: ToolChoice,
    /// Whether an answer may have several calls.
    pub parallel: bool,
    /// With [`ToolChoice::Auto`]: whether calls of tools that are not strict are constrained, too.
    pub constrain_auto: bool,
    /// Tokens of reasoning, after which its end is written; `None`: as many as the model likes.
    pub reasoning_tokens: Option<usize>,
    /// What the content must be, after the reasoning. With [`ToolChoice::Auto`] an answer is content or calls, not both.
    pub content: Option<Arc<dyn Grammar>>,
}

/// The grammar of whole answers. It never changes and serves any number of requests.
pub struct AnswerGrammar {
    template: Arc<ResponseTemplate>,
    plan: Arc<build::Plan>,
}

/// Makes the grammar of answers. `None`: nothing is to be constrained. Needs a stack of
/// [`crate::limits::CONSTRAINT_STACK_BYTES`], and may take seconds.
///
/// # Errors
/// `Argument` for tools that are too many, too long or have one name, and for a choice that there is no tool for. `Unsupported` where
/// the model's format is not known to write calls, or cannot express a schema or a name: with the tool's name, what it is, and its place
/// in the schema. `Memory`.
pub fn compile_answer(trie: &Arc<TokenTrie>, rules: AnswerRules) -> Result<Option<Arc<AnswerGrammar>>> {
    check_tools(&rules)?;
    let template = rules.template.clone();
    let plan = build::plan(trie, rules)?;
    Ok(plan.map(|plan| Arc::new(AnswerGrammar { template, plan: Arc::new(plan) })))
}

impl AnswerGrammar {
    /// The grammar of answers to a prompt. `prompt_tail`: the prompt, or as much of its end as there is: templates write the beginning
    /// of the answer ahead, such as `<think>`.
    pub fn starting(self: &Arc<Self>, prompt_tail: &str) -> Arc<dyn Grammar> {
        let parser = AnswerParser::new(Some(self.template.clone()), prompt_tail, Arc::default());
        let tail = self.template.tail(prompt_tail);
        let reasoned = || self.plan.closes_reasoning(tail);
        let begin = match parser.inside() {
            Some(PartKind::Reasoning) => Ok(Begin::Reasoning),
            Some(PartKind::Content) => Ok(Begin::Content),
            Some(PartKind::Call) => {
                Err(Error::unsupported("the prompt ends within a call, to which no grammar can be applied"))
            }
            None if reasoned() => Ok(Begin::AfterReasoning),
            None => Ok(Begin::Answer),
        };
        Arc::new(Starting { plan: self.plan.clone(), begin: begin.map_err(|error| error.about("tools")) })
    }
}

/// The grammar of the answers to one prompt.
struct Starting {
    plan: Arc<build::Plan>,
    begin: Result<Begin>,
}

impl Grammar for Starting {
    fn matcher(&self) -> Result<Box<dyn Matcher>> {
        let begin = self.begin.clone()?;
        Ok(Box::new(AnswerMatcher::new(self.plan.clone(), begin)?))
    }
}

/// That tools can be told apart and are not too many, and that there is one to call if one has to be called.
fn check_tools(rules: &AnswerRules) -> Result<()> {
    let wrong = |message: String| Err(Error::argument(message).about("tools"));
    let count = rules.tools.len();
    if count > TOOLS_MAX {
        let message = format!("{count} tools; at most {TOOLS_MAX} can be constrained");
        return Err(Error::argument(message).about("tools").numbers(Unit::Count, count as u64, TOOLS_MAX as u64));
    }
    let mut bytes = 0usize;
    for (index, tool) in rules.tools.iter().enumerate() {
        let name = &tool.name;
        if name.is_empty() || name.len() > CALL_NAME_BYTES_MAX {
            return wrong(format!(
                "the name of tool {index} has {} bytes; 1 to {CALL_NAME_BYTES_MAX} are possible",
                name.len()
            ));
        }
        if rules.tools.iter().take(index).any(|other| other.name == *name) {
            return wrong(format!("two tools have the name {name:?}"));
        }
        if !matches!(tool.parameters, Value::Object(_) | Value::Null) {
            return wrong(format!("the parameters of tool {name:?} are no object"));
        }
        bytes = bytes.saturating_add(name.len()).saturating_add(tool.parameters.to_string().len());
    }
    if bytes > TOOLS_BYTES_MAX {
        let message =
            format!("the tools have {bytes} bytes of names and schemas; at most {TOOLS_BYTES_MAX} can be constrained");
        return Err(Error::argument(message).about("tools").numbers(Unit::Bytes, bytes as u64, TOOLS_BYTES_MAX as u64));
    }
    match &rules.choice {
        ToolChoice::Required if count == 0 => wrong("a call is required, and there are no tools".to_owned()),
        ToolChoice::Named(name) if !rules.tools.iter().any(|tool| tool.name == *name) => {
            wrong(format!("a call of {name:?} is required, and no tool has that name"))
        }
        _ => Ok(()),
    }
}
