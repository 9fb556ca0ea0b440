//! Whether the server lives, and how far its models are.

use super::models::State as ModelState;
use super::state::State as Server;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How far a model is.
#[derive(Serialize)]
pub(super) struct ModelHealth {
    status: &'static str,
    /// Bytes that are read, while it loads.
    #[serde(skip_serializing_if = "Option::is_none")]
    done: Option<u64>,
    /// All bytes, while it loads.
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    /// Why it has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// How the server is.
#[derive(Serialize)]
pub(super) struct Health {
    /// `ok` when all models are ready, `failed` when one has failed, else `loading`.
    status: &'static str,
    models: BTreeMap<String, ModelHealth>,
}

/// `GET /health`: 200 when all models are ready, else 503.
pub(super) async fn health(State(server): State<Arc<Server>>) -> (StatusCode, Json<Health>) {
    let of = |state: &ModelState| match state {
        ModelState::Ready(_) => ModelHealth { status: "ready", done: None, total: None, error: None },
        ModelState::Loading(done, total) => {
            ModelHealth { status: "loading", done: Some(*done), total: Some(*total), error: None }
        }
        ModelState::Failed(error) => {
            ModelHealth { status: "failed", done: None, total: None, error: Some(error.message.clone()) }
        }
    };
    let models: BTreeMap<_, _> =
        server.models.all(false).iter().map(|(name, state)| (name.clone(), of(state))).collect();
    let any = |status| models.values().any(|model| model.status == status);
    let (code, status) = match (any("failed"), any("loading")) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "failed"),
        (false, true) => (StatusCode::SERVICE_UNAVAILABLE, "loading"),
        (false, false) => (StatusCode::OK, "ok"),
    };
    (code, Json(Health { status, models }))
}
