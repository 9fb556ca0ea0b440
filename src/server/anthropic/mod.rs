//! Anthropic's dialect: `/v1/messages` and `/v1/messages/count_tokens`.

pub(super) mod errors;
mod prompt;
mod request;
mod stream;

use super::body::{self, Fields};
use super::models::Model;
use super::refusal::Outcome;
use super::state::State as Server;
use crate::engine::TextOptions;
use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::sync::Arc;
use stream::{Ending, Head, Message, MessageStream};

/// `POST /v1/messages`.
pub(super) async fn messages(State(server): State<Arc<Server>>, request: Request) -> Response {
    errors::or_response(answer(&server, request).await)
}

async fn answer(server: &Server, request: Request) -> Outcome<Response> {
    let (mut fields, model) = read(server, request).await?;
    let stream = fields.take("stream")?.unwrap_or(false);
    let ask = request::ask(&mut fields, server, &model).await?;
    let head = Head { id: server.id("msg_"), model: model.name.clone() };
    let ending = Ending::new(&ask, model.engine.info().context_length);
    let running = ask.start(server, &model).await?;
    if stream {
        return Ok(super::stream::response(running.begun().await?, MessageStream::new(head, ending)));
    }
    let answer = running.answers().await?.into_iter().next().unwrap_or_default();
    Ok(Json(Message::whole(&head, &ending, &answer)).into_response())
}

#[derive(Serialize)]
struct Count {
    input_tokens: usize,
}

/// `POST /v1/messages/count_tokens`.
pub(super) async fn count_tokens(State(server): State<Arc<Server>>, request: Request) -> Response {
    let answer = async {
        let (mut fields, model) = read(&server, request).await?;
        let mut ask = request::ask(&mut fields, &server, &model).await?;
        let mut prompt = ask.prompts.pop().unwrap_or_default();
        prompt.tools = ask.tools;
        let count = move || Ok(model.engine.tokenize(&prompt, TextOptions::default())?.len());
        Ok(Json(Count { input_tokens: server.worker.run(count).await? }).into_response())
    };
    errors::or_response(answer.await)
}

async fn read(server: &Server, request: Request) -> Outcome<(Fields, Arc<Model>)> {
    let mut fields = body::read(request).await?;
    let model = server.models.find(fields.take::<String>("model")?.as_deref())?;
    Ok((fields, model))
}
