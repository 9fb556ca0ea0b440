//! `/tokenize`, `/detokenize` and `/apply-template`: what a model makes of texts, without an answer. Done on the worker thread.

use super::body::{self, Fields, Read};
use super::models::Model;
use super::openai::{errors, messages, options};
use super::refusal::Outcome;
use super::state::State as Server;
use crate::engine::{Prompt, PromptPart, TextOptions};
use crate::error::Result;
use axum::extract::{Request, State};
use axum::response::Response;
use serde::Serialize;
use std::sync::Arc;

#[derive(Serialize)]
struct Tokens {
    tokens: Vec<u32>,
    count: usize,
    /// Longest sequence of the model, in tokens.
    max_model_len: u32,
}

impl Tokens {
    fn new(tokens: Vec<u32>, max_model_len: u32) -> Tokens {
        Tokens { count: tokens.len(), tokens, max_model_len }
    }
}

#[derive(Serialize)]
struct Text {
    /// Under the two names that clients look for.
    content: String,
    prompt: String,
}

#[derive(Serialize)]
struct Rendered {
    prompt: String,
}

/// `POST /tokenize`: the tokens that the model would get of `messages` (with `tools`), or of the text `content`, also called `prompt`,
/// with those that the tokenizer puts before any text. `parse_special`: names of special tokens in a text are those tokens, true by
/// default.
pub(super) async fn tokenize(State(server): State<Arc<Server>>, request: Request) -> Response {
    let answer = async {
        let Read { model, value: (prompt, options), .. } = body::read(&server, request, asked_tokens).await?;
        let max_model_len = model.engine.info().context_length;
        let tokens = move || model.engine.tokenize(&prompt, options);
        written(&server, move || Ok(Tokens::new(tokens()?, max_model_len))).await
    };
    errors::or_response(answer.await)
}

/// `POST /detokenize`: the text of `tokens`, with the names of special tokens.
pub(super) async fn detokenize(State(server): State<Arc<Server>>, request: Request) -> Response {
    let answer = async {
        let Read { model, value: tokens, .. } = body::read(&server, request, asked_text).await?;
        let options = TextOptions { special: true, ..TextOptions::default() };
        let content = move || model.engine.detokenize(&tokens, options);
        written(&server, move || content().map(|content| Text { prompt: content.clone(), content })).await
    };
    errors::or_response(answer.await)
}

/// `POST /apply-template`: the text that the chat template makes of `messages` (with `tools`).
pub(super) async fn apply_template(State(server): State<Arc<Server>>, request: Request) -> Response {
    let answer = async {
        let Read { model, value: (prompt, options), .. } = body::read(&server, request, asked_prompt).await?;
        written(&server, move || model.engine.render(&prompt, options).map(|prompt| Rendered { prompt })).await
    };
    errors::or_response(answer.await)
}

/// Makes an answer on the worker thread, and writes it there, too: it may be as long as a body.
async fn written<T: Serialize>(
    server: &Server,
    make: impl FnOnce() -> Result<T> + Send + 'static,
) -> Outcome<Response> {
    let written = move || make().map(|answer| body::written(&answer));
    Ok(body::response(server.worker.run(written).await?))
}

/// What `/tokenize` asks for.
pub(super) fn asked_tokens(fields: &mut Fields, _: &Model) -> Outcome<(Prompt, TextOptions)> {
    let content: Option<String> = match fields.take("content")? {
        Some(content) => Some(content),
        None => fields.take("prompt")?,
    };
    let prompt = match content {
        None => chat(fields)?,
        Some(text) => {
            let special = fields.take("parse_special")?.unwrap_or(true);
            Prompt { parts: vec![PromptPart::Text { text, special }], ..Prompt::default() }
        }
    };
    Ok((prompt, text_options(fields)?))
}

/// What `/detokenize` asks for.
pub(super) fn asked_text(fields: &mut Fields, _: &Model) -> Outcome<Vec<u32>> {
    fields.need("tokens")
}

/// What `/apply-template` asks for.
pub(super) fn asked_prompt(fields: &mut Fields, _: &Model) -> Outcome<(Prompt, TextOptions)> {
    Ok((chat(fields)?, text_options(fields)?))
}

fn chat(fields: &mut Fields) -> Outcome<Prompt> {
    let mut prompt = messages::prompt(fields)?;
    prompt.tools = options::tool_list(fields)?;
    Ok(prompt)
}

/// `add_generation_prompt`: the text begins the assistant's turn, true by default.
fn text_options(fields: &mut Fields) -> Outcome<TextOptions> {
    let generation = fields.take("add_generation_prompt")?.unwrap_or(true);
    Ok(TextOptions { no_generation_prompt: !generation, ..TextOptions::default() })
}
