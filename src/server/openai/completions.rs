//! `/v1/completions`: texts and tokens that are continued as they are.

use super::completion::{self, Asked, Choices};
use super::errors;
use super::options;
use super::types::{TextLogprobs, finish_reason};
use crate::engine::{Event, FinishReason, PartKind, Prompt, PromptPart};
use crate::limits;
use crate::server::EngineRef;
use crate::server::answer::{self, Answer};
use crate::server::body::Fields;
use crate::server::core::Ask;
use crate::server::models::Model;
use crate::server::refusal::{Outcome, Refusal};
use crate::server::state::State as Server;
use axum::extract::{Request, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text, a list of texts, a list of token ids, or a list of such lists")]
enum Prompts {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    TokenLists(Vec<Vec<u32>>),
}

/// Names of special tokens in a raw text are those tokens.
fn of_text(text: String) -> Prompt {
    Prompt { parts: vec![PromptPart::Text { text, special: true }], ..Prompt::default() }
}

fn of_tokens(tokens: Vec<u32>) -> Prompt {
    Prompt { parts: vec![PromptPart::Tokens(tokens)], ..Prompt::default() }
}

/// Handles a request.
pub(in crate::server) async fn handle(State(server): State<Arc<Server>>, request: Request) -> Response {
    errors::or_response(completion::answer::<TextChoices>(&server, request, asked).await)
}

/// What the request asks for.
pub(in crate::server) fn asked(fields: &mut Fields, _: &Model) -> Outcome<Asked> {
    let sending = options::sending(fields)?;
    let mut ask = Ask::new(prompts(fields, "prompt")?);
    options::sampling(fields, &mut ask)?;
    ask.constraint = options::response_format(fields)?;
    ask.options.logprobs = fields.take("logprobs")?;
    for name in ["echo", "suffix"] {
        // False and an empty text ask for nothing.
        let asked: Option<serde_json::Value> = fields.take(name)?;
        if asked.is_some_and(|value| value != false && value != "") {
            return Err(Refusal::field(name, format!("{name} is nothing that this server does")));
        }
    }
    Ok(Asked { ask, sending })
}

/// Reads a field of texts or tokens.
pub(super) fn prompts(fields: &mut Fields, name: &str) -> Outcome<Vec<Prompt>> {
    let prompts: Vec<Prompt> = match fields.need(name)? {
        Prompts::Text(text) => vec![of_text(text)],
        Prompts::Texts(texts) => texts.into_iter().map(of_text).collect(),
        Prompts::Tokens(tokens) => vec![of_tokens(tokens)],
        Prompts::TokenLists(lists) => lists.into_iter().map(of_tokens).collect(),
    };
    if prompts.is_empty() || prompts.len() > limits::SERVER_PROMPTS_MAX {
        let message = format!("{name} has {} of them; 1 to {} are allowed", prompts.len(), limits::SERVER_PROMPTS_MAX);
        return Err(Refusal::field(name, message));
    }
    Ok(prompts)
}

#[derive(Serialize)]
pub(super) struct Choice {
    index: usize,
    text: String,
    logprobs: Option<TextLogprobs>,
    finish_reason: Option<&'static str>,
}

/// Writes the choices.
struct TextChoices {
    engine: EngineRef,
    /// Characters of each choice that were sent.
    offsets: Vec<usize>,
}

impl Choices for TextChoices {
    const ID: &str = "cmpl-";
    const OBJECTS: [&str; 2] = ["text_completion"; 2];
    type Choice = Choice;

    fn new(_: &Server, model: &Model, count: usize) -> TextChoices {
        TextChoices { engine: model.engine.clone(), offsets: vec![0; count] }
    }

    fn whole(&self, index: usize, answer: Answer) -> Choice {
        let text = answer.text(PartKind::Content);
        let logprobs = TextLogprobs::of(&self.engine, answer.tokens, &mut 0);
        Choice { index, text, logprobs, finish_reason: Some(finish_reason(answer.finish, false)) }
    }

    fn begin(&mut self, _: usize) -> Option<Choice> {
        None
    }

    fn event(&mut self, index: usize, event: &Event) -> Vec<Choice> {
        let Some(offset) = self.offsets.get_mut(index) else { return Vec::new() };
        let logprobs = TextLogprobs::of(&self.engine, answer::tokens(event), offset);
        let mut all = Vec::new();
        if !event.text.is_empty() || logprobs.is_some() {
            all.push(Choice { index, text: event.text.clone(), logprobs, finish_reason: None });
        }
        if event.finish != FinishReason::None {
            let finish_reason = Some(finish_reason(event.finish, false));
            all.push(Choice { index, text: String::new(), logprobs: None, finish_reason });
        }
        all
    }
}
