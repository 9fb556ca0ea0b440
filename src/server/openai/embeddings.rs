//! `/v1/embeddings`: vectors of texts and tokens.

use super::completions::prompts;
use super::errors;
use crate::limits;
use crate::server::answer::Answer;
use crate::server::body::{self, Fields, Read};
use crate::server::core::Ask;
use crate::server::models::Model;
use crate::server::refusal::{Outcome, Refusal};
use crate::server::state::State as Server;
use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use std::sync::Arc;

/// What a request asks for.
pub(in crate::server) struct Asked {
    pub ask: Ask,
    /// Numbers of a vector; none: all.
    dimensions: Option<usize>,
    base64: bool,
}

#[derive(Serialize)]
struct Object<'a> {
    object: &'static str,
    data: Vec<Entry>,
    model: &'a str,
    usage: Usage,
}

#[derive(Serialize)]
struct Entry {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector {
    Floats(Vec<f32>),
    /// Little-endian binary32.
    Base64(String),
}

#[derive(Default, Serialize)]
struct Usage {
    prompt_tokens: u64,
    total_tokens: u64,
}

/// Handles a request.
pub(in crate::server) async fn handle(State(server): State<Arc<Server>>, request: Request) -> Response {
    errors::or_response(answer(&server, request).await)
}

/// What the request asks for.
pub(in crate::server) fn asked(fields: &mut Fields, model: &Model) -> Outcome<Asked> {
    let ask = Ask::embeddings(prompts(fields, "input")?);
    let base64 = match fields.take::<String>("encoding_format")?.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            let message = format!("encoding_format is {other:?}; it is float or base64");
            return Err(Refusal::field("encoding_format", message));
        }
    };
    let dimensions = fields.take("dimensions")?;
    if let Some(dimensions) = dimensions {
        model.engine.shorten_embedding(&mut Vec::new(), dimensions)?;
    }
    Ok(Asked { ask, dimensions, base64 })
}

/// The engine's words for what is wrong with a prompt are about the field it came in.
fn of_input(refusal: Refusal) -> Refusal {
    match refusal.param.as_deref() {
        Some("prompt" | "tokens") => Refusal { param: Some("input".to_owned()), ..refusal },
        _ => refusal,
    }
}

async fn answer(server: &Arc<Server>, request: Request) -> Outcome<Response> {
    let Read { model, value: Asked { ask, dimensions, base64 }, long } = body::read(server, request, asked).await?;
    let running = ask.start(server, &model, long).await.map_err(of_input)?;
    let answers = running.answers().await.map_err(of_input)?;
    let numbers: usize = answers.iter().map(|answer| answer.embedding.len()).sum();
    let written = move || {
        let mut usage = Usage::default();
        let entry = |(index, answer): (usize, Answer)| {
            usage.prompt_tokens += u64::from(answer.usage.prompt_tokens);
            let mut vector = answer.embedding;
            if let Some(dimensions) = dimensions {
                model.engine.shorten_embedding(&mut vector, dimensions)?;
            }
            let embedding = match base64 {
                true => {
                    Vector::Base64(STANDARD.encode(vector.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()))
                }
                false => Vector::Floats(vector),
            };
            Ok::<_, Refusal>(Entry { object: "embedding", index, embedding })
        };
        let data = answers.into_iter().enumerate().map(entry).collect::<Outcome<_>>()?;
        usage.total_tokens = usage.prompt_tokens;
        Ok::<_, Refusal>(body::written(&Object { object: "list", data, model: &model.name, usage }))
    };
    let long = numbers > limits::SERVER_SHORT_EMBEDDINGS;
    Ok(body::response(if long { server.reader.run(written).await? } else { written()? }))
}
