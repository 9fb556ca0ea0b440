//! What answers to chats may be: a constraint on their content, the tools that may or must be called, a budget of reasoning. Rules
//! become a grammar of the whole answer, which is made on the text thread and kept for the next requests with the same rules.

use super::Prompt;
use super::answer_grammars::Rules;
use super::api::{RequestOptions, Settings};
use super::constraint::Constraint;
use super::guide::{Guide, Guides};
use super::prompt::TextKit;
use crate::constrain::{AnswerRules, TokenTrie, Tool, ToolChoice};
use crate::error::{Error, Result};
use crate::limits;
use crate::os::{shortage, thread};
use serde_json::Value;
use std::sync::Arc;

/// The rules of a request; `None` where its answer is free, or its constraint is on all of it.
///
/// # Errors
/// `Argument` for a choice of tools that the prompt does not have, or of one that is not made of messages; `Unsupported` where it
/// is not known how the model writes calls or reasoning.
pub(super) fn of(text: &TextKit, prompt: &Prompt, options: &RequestOptions) -> Result<Option<AnswerRules>> {
    let none = Settings::default();
    let settings = options.settings.as_deref().unwrap_or(&none);
    let tools = tools(settings.tools.as_deref().or(prompt.tools.as_ref()))?;
    let demanded = match &settings.tool_choice {
        ToolChoice::Required | ToolChoice::Named(_) => Some("tool_choice"),
        _ if options.reasoning_tokens.is_some() => Some("reasoning_tokens"),
        _ => None,
    };
    if settings.constraint.as_ref().is_some_and(|constraint| constraint.whole) {
        return match demanded {
            None => Ok(None),
            Some(what) => {
                let message = format!("{what} goes with no constraint that is on the whole answer, which says it all");
                Err(Error::argument(message).about(what))
            }
        };
    }
    let format = text.format(prompt);
    let template = match (format.and_then(|format| format.template()), demanded) {
        (Some(template), _) => template,
        (None, None) => return Ok(None),
        (None, Some(what)) if format.is_none() => {
            let message = format!(
                "{what} is for prompts made of messages; what a prompt of text or tokens asks for is up to its text"
            );
            return Err(Error::argument(message).about(what));
        }
        (None, Some(what)) => {
            let message = format!(
                "{what}: how this model writes reasoning and calls is not known: its tokenizer_config.json has no response_template, \
                 and its chat template none of the known formats"
            );
            return Err(Error::unsupported(message).about(what));
        }
    };
    if let ToolChoice::Named(name) = &settings.tool_choice
        && !tools.iter().any(|tool| tool.name == *name)
    {
        let names: Vec<&str> = tools.iter().map(|tool| tool.name.as_str()).collect();
        let has =
            if names.is_empty() { "there are no tools".to_owned() } else { format!("there are {}", names.join(", ")) };
        return Err(Error::argument(format!("tool_choice names {name:?}, and {has}")).about("tool_choice"));
    }
    if tools.is_empty() && settings.tool_choice == ToolChoice::Required {
        return Err(Error::argument("tool_choice demands a call, and there are no tools").about("tool_choice"));
    }
    let content = settings.constraint.as_ref().map(|constraint| constraint.grammar.clone());
    let calls = !tools.is_empty()
        && (settings.tool_choice != ToolChoice::Auto
            || settings.constrain_calls
            || settings.single_call
            || tools.iter().any(|tool| tool.strict));
    // A constraint is on all of an answer that can have neither reasoning nor calls.
    let apart = content.is_some() && (template.reasoning().is_some() || !tools.is_empty());
    if !(calls || apart || options.reasoning_tokens.is_some()) {
        return Ok(None);
    }
    Ok(Some(AnswerRules {
        template: template.clone(),
        tools,
        choice: settings.tool_choice.clone(),
        parallel: !settings.single_call,
        constrain_auto: settings.constrain_calls,
        reasoning_tokens: options.reasoning_tokens.map(|tokens| tokens as usize),
        content,
    }))
}

/// Tools as chat templates have them.
fn tools(list: Option<&Value>) -> Result<Vec<Tool>> {
    let wrong = |index: usize| {
        let message = format!("tool {index} is no object with a \"name\", nor with a \"function\" that has one");
        Error::argument(message).about("tools")
    };
    let tool = |(index, tool): (usize, &Value)| {
        let function = tool.get("function").unwrap_or(tool);
        let name = function.get("name").and_then(Value::as_str).ok_or_else(|| wrong(index))?;
        let parameters = function.get("parameters").or_else(|| function.get("input_schema")).cloned();
        let strict = [function, tool].iter().any(|object| object.get("strict") == Some(&Value::Bool(true)));
        Ok(Tool { name: name.to_owned(), parameters: parameters.unwrap_or_default(), strict })
    };
    list.and_then(Value::as_array).into_iter().flatten().enumerate().map(tool).collect()
}

impl Rules {
    /// The guide of the answer to a prompt that ends with `tail`; `None` when its rules leave it free. Compiles on a thread of its own.
    ///
    /// # Errors
    /// Those of [`crate::constrain::compile_answer`]; `Memory`.
    pub fn guide(&self, guides: &Guides, text: &TextKit, tail: &str) -> Result<Option<Arc<Guide>>> {
        let tokenizer = text.tokenizer()?.clone();
        let made = thread::aside_with("constraint", limits::CONSTRAINT_STACK_BYTES, || {
            shortage::forget();
            let trie = guides.trie(|| TokenTrie::new(&tokenizer, self.vocab))?;
            let grammar = guides.answers.get(&trie, &self.rules)?;
            let constraint = grammar.map(|grammar| Constraint::new(grammar.starting(tail), self.vocab)).transpose();
            shortage::check("the rules of an answer").and(constraint)
        });
        let made = made.flatten()?.map(|made| Constraint { tokens: Some(self.fingerprint), ..made });
        made.map(|constraint| Guide::new(&constraint, self.vocab, self.fingerprint, &self.ends)).transpose()
    }
}
