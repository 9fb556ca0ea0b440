//! `/v1/completions`: texts and tokens that are continued as they are.

use super::chat::Head;
use super::errors;
use super::options::{self, Sending};
use super::types::{TextLogprobs, UsageObject, finish_reason};
use crate::engine::{Event, PartKind, Prompt, PromptPart};
use crate::limits;
use crate::server::EngineRef;
use crate::server::answer::{self, Answer};
use crate::server::body::{self, Fields};
use crate::server::core::Ask;
use crate::server::refusal::{Outcome, Refusal};
use crate::server::state::State as Server;
use crate::server::stream::{self, Out, Writer, push};
use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response, sse};
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
    errors::or_response(answer(&server, request).await)
}

async fn answer(server: &Server, request: Request) -> Outcome<Response> {
    let mut fields = body::read(request).await?;
    let model = server.models.find(fields.take::<String>("model")?.as_deref())?;
    let sending = options::sending(&mut fields)?;
    let mut ask = Ask::new(prompts(&mut fields)?);
    options::sampling(&mut fields, &mut ask)?;
    ask.constraint = options::response_format(&mut fields)?;
    ask.options.logprobs = fields.take("logprobs")?;
    for name in ["echo", "suffix"] {
        // False and an empty text ask for nothing.
        let asked: Option<serde_json::Value> = fields.take(name)?;
        if asked.is_some_and(|value| value != false && value != "") {
            return Err(Refusal::field(name, format!("{name} is nothing that this server does")));
        }
    }
    let (choices, all) = (ask.choices, ask.choices * ask.prompts.len());
    let head = Head::new(server.id("cmpl-"), &model.name);
    let running = ask.start(server, &model).await?;
    let Sending { stream, include_usage } = sending;
    let engine = model.engine.clone();
    if stream {
        let (usage, offsets) = (UsageObject::default(), vec![0; all]);
        let writer = TextStream { head, engine, choices, offsets, usage, include_usage };
        return Ok(stream::response(running.begun().await?, writer));
    }
    let mut usage = UsageObject::default();
    let choice = |(index, answer): (usize, Answer)| {
        usage.add(index, choices, &answer.usage);
        let text = answer.text(PartKind::Content);
        let logprobs = TextLogprobs::of(&engine, answer.tokens, &mut 0);
        Choice { index, text, logprobs, finish_reason: Some(finish_reason(answer.finish, false)) }
    };
    let choices = running.answers().await?.into_iter().enumerate().map(choice).collect();
    Ok(Json(object(&head, choices, Some(usage))).into_response())
}

fn prompts(fields: &mut Fields) -> Outcome<Vec<Prompt>> {
    let prompts: Vec<Prompt> = match fields.need("prompt")? {
        Prompts::Text(text) => vec![of_text(text)],
        Prompts::Texts(texts) => texts.into_iter().map(of_text).collect(),
        Prompts::Tokens(tokens) => vec![of_tokens(tokens)],
        Prompts::TokenLists(lists) => lists.into_iter().map(of_tokens).collect(),
    };
    if prompts.is_empty() || prompts.len() > limits::SERVER_PROMPTS_MAX {
        let message = format!("there are {} prompts; 1 to {} are allowed", prompts.len(), limits::SERVER_PROMPTS_MAX);
        return Err(Refusal::field("prompt", message));
    }
    Ok(prompts)
}

#[derive(Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<UsageObject>,
}

#[derive(Serialize)]
struct Choice {
    index: usize,
    text: String,
    logprobs: Option<TextLogprobs>,
    finish_reason: Option<&'static str>,
}

fn object(head: &Head, choices: Vec<Choice>, usage: Option<UsageObject>) -> Completion<'_> {
    let Head { id, created, model } = head;
    Completion { id, object: "text_completion", created: *created, model, choices, usage }
}

/// Writes the stream.
struct TextStream {
    head: Head,
    engine: EngineRef,
    /// Choices of each prompt.
    choices: usize,
    /// Characters of each choice that were sent.
    offsets: Vec<usize>,
    usage: UsageObject,
    include_usage: bool,
}

impl Writer for TextStream {
    fn begin(&mut self, _: &mut Out) {}

    fn event(&mut self, index: usize, event: &Event, out: &mut Out) {
        let Some(offset) = self.offsets.get_mut(index) else { return };
        let logprobs = TextLogprobs::of(&self.engine, answer::tokens(event), offset);
        if !event.text.is_empty() || logprobs.is_some() {
            let choice = Choice { index, text: event.text.clone(), logprobs, finish_reason: None };
            push(out, &object(&self.head, vec![choice], None));
        }
        if event.terminal() {
            self.usage.add(index, self.choices, &event.usage.unwrap_or_default());
            let finish_reason = Some(finish_reason(event.finish, false));
            let choice = Choice { index, text: String::new(), logprobs: None, finish_reason };
            push(out, &object(&self.head, vec![choice], None));
        }
    }

    fn failed(&mut self, refusal: &Refusal, out: &mut Out) {
        push(out, &errors::body(refusal));
    }

    fn end(&mut self, out: &mut Out) {
        if self.include_usage {
            push(out, &object(&self.head, Vec::new(), Some(self.usage)));
        }
        out.push_back(sse::Event::default().data("[DONE]"));
    }
}
