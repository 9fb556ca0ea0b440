//! `/tokenize`, `/detokenize` and `/apply-template`: what a model makes of texts, without an answer. Done on the worker thread.

use super::body::{self, Fields};
use super::openai::{chat, errors};
use super::refusal::Outcome;
use super::state::State as Server;
use crate::engine::{Prompt, PromptPart, TextOptions};
use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;

#[derive(Serialize)]
struct Tokens {
    tokens: Vec<u32>,
    count: usize,
    /// Longest sequence of the model, in tokens.
    max_model_len: u32,
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
        let mut fields = body::read(request).await?;
        let model = server.models.find(fields.take::<String>("model")?.as_deref())?;
        let max_model_len = model.engine.info().context_length;
        let content: Option<String> = match fields.take("content")? {
            Some(content) => Some(content),
            None => fields.take("prompt")?,
        };
        let prompt = match content {
            None => messages(&mut fields)?,
            Some(text) => {
                let special = fields.take("parse_special")?.unwrap_or(true);
                let parts = vec![PromptPart::Text { text, special }];
                Prompt { parts, ..Prompt::default() }
            }
        };
        let options = text_options(&mut fields)?;
        let tokens = server.worker.run(move || model.engine.tokenize(&prompt, options)).await?;
        Ok(Json(Tokens { count: tokens.len(), tokens, max_model_len }).into_response())
    };
    errors::or_response(answer.await)
}

/// `POST /detokenize`: the text of `tokens`, with the names of special tokens.
pub(super) async fn detokenize(State(server): State<Arc<Server>>, request: Request) -> Response {
    let answer = async {
        let mut fields = body::read(request).await?;
        let model = server.models.find(fields.take::<String>("model")?.as_deref())?;
        let tokens: Vec<u32> = fields.need("tokens")?;
        let options = TextOptions { special: true, ..TextOptions::default() };
        let content = server.worker.run(move || model.engine.detokenize(&tokens, options)).await?;
        Ok(Json(Text { prompt: content.clone(), content }).into_response())
    };
    errors::or_response(answer.await)
}

/// `POST /apply-template`: the text that the chat template makes of `messages` (with `tools`).
pub(super) async fn apply_template(State(server): State<Arc<Server>>, request: Request) -> Response {
    let answer = async {
        let mut fields = body::read(request).await?;
        let model = server.models.find(fields.take::<String>("model")?.as_deref())?;
        let prompt = messages(&mut fields)?;
        let options = text_options(&mut fields)?;
        let prompt = server.worker.run(move || model.engine.render(&prompt, options)).await?;
        Ok(Json(Rendered { prompt }).into_response())
    };
    errors::or_response(answer.await)
}

fn messages(fields: &mut Fields) -> Outcome<Prompt> {
    let mut prompt = chat::prompt(fields)?;
    prompt.tools = fields.take::<Vec<Value>>("tools")?.filter(|tools| !tools.is_empty()).map(Value::Array);
    Ok(prompt)
}

/// `add_generation_prompt`: the text begins the assistant's turn, true by default.
fn text_options(fields: &mut Fields) -> Outcome<TextOptions> {
    let generation = fields.take("add_generation_prompt")?.unwrap_or(true);
    Ok(TextOptions { no_generation_prompt: !generation, ..TextOptions::default() })
}
