//! Anthropic's dialect: `/v1/messages` and `/v1/messages/count_tokens`.

pub(super) mod errors;
mod prompt;
pub(super) mod request;
mod stream;

use super::body::{self, Fields, Read};
use super::models::Model;
use super::refusal::Outcome;
use super::state::State as Server;
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

async fn answer(server: &Arc<Server>, request: Request) -> Outcome<Response> {
    let make = |fields: &mut Fields, model: &Model| Ok((request::ask(fields, model)?, fields.take("stream")?));
    let Read { model, value: (ask, stream), long } = body::read(server, request, make).await?;
    let head = Head { id: server.id("msg_"), model: model.name.clone() };
    let ending = Ending::new(&ask, model.engine.info().context_length);
    let running = ask.start(server, &model, long).await?;
    if stream.unwrap_or(false) {
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
        let Read { model, value: ask, .. } = body::read(&server, request, request::ask).await?;
        Ok(Json(Count { input_tokens: ask.count(&server, model).await? }).into_response())
    };
    errors::or_response(answer.await)
}
