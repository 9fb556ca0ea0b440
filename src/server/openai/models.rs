//! `/v1/models`, which two dialects have.

use super::errors;
use crate::server::models::State as ModelState;
use crate::server::refusal::Outcome;
use crate::server::state::State as Server;
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::sync::Arc;

/// A time that is not known, as Anthropic's dialect writes it.
const UNKNOWN_TIME: &str = "1970-01-01T00:00:00Z";

/// As OpenAI's and as Anthropic's dialect have it; each ignores the other's fields.
#[derive(Serialize)]
struct ModelList {
    object: &'static str,
    has_more: bool,
    first_id: Option<String>,
    last_id: Option<String>,
    data: Vec<ModelObject>,
}

#[derive(Serialize)]
struct ModelObject {
    id: String,
    r#type: &'static str,
    display_name: String,
    created_at: &'static str,
    lifecycle: &'static str,
    object: &'static str,
    /// When the server started, in seconds since 1970.
    created: u64,
    owned_by: &'static str,
    /// Longest sequence, in tokens; of a model that is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_model_len: Option<u32>,
}

fn object(server: &Server, id: String, context: Option<u32>) -> ModelObject {
    ModelObject {
        display_name: id.clone(),
        id,
        r#type: "model",
        created_at: UNKNOWN_TIME,
        lifecycle: "active",
        object: "model",
        created: server.started,
        owned_by: "astrai",
        max_model_len: context,
    }
}

/// `GET /v1/models`: those that are ready or loading.
pub(in crate::server) async fn list(State(server): State<Arc<Server>>) -> Response {
    let of = |(name, state): (String, ModelState)| match state {
        ModelState::Ready(model) => Some(object(&server, name, Some(model.engine.info().context_length))),
        ModelState::Loading(..) => Some(object(&server, name, None)),
        ModelState::Failed(_) => None,
    };
    let data: Vec<ModelObject> = server.models.all(true).into_iter().filter_map(of).collect();
    let id = |model: Option<&ModelObject>| model.map(|model| model.id.clone());
    let (first_id, last_id) = (id(data.first()), id(data.last()));
    Json(ModelList { object: "list", has_more: false, first_id, last_id, data }).into_response()
}

/// `GET /v1/models/{id}`.
pub(in crate::server) async fn one(State(server): State<Arc<Server>>, Path(id): Path<String>) -> Response {
    let found = || -> Outcome<Response> {
        let model = server.models.find(Some(&id))?;
        Ok(Json(object(&server, id.clone(), Some(model.engine.info().context_length))).into_response())
    };
    errors::or_response(found())
}
