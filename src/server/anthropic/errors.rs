//! Refusals in Anthropic's shape: `{"type": "error", "error": {"type", "message"}}`.

use crate::limits;
use crate::server::refusal::{Kind, Outcome, Refusal};
use axum::Json;
use axum::http::HeaderValue;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// The body of an error.
#[derive(Serialize)]
pub(in crate::server) struct ErrorBody<'a> {
    r#type: &'static str,
    error: ErrorFields<'a>,
}

#[derive(Serialize)]
struct ErrorFields<'a> {
    r#type: &'static str,
    message: &'a str,
}

/// A refusal as a body.
pub(in crate::server) fn body(refusal: &Refusal) -> ErrorBody<'_> {
    let r#type = match refusal.kind {
        Kind::Key => "authentication_error",
        Kind::Forbidden => "permission_error",
        Kind::NotFound => "not_found_error",
        Kind::TooLarge => "request_too_large",
        Kind::Full => "rate_limit_error",
        Kind::Unavailable => "overloaded_error",
        Kind::Internal => "api_error",
        Kind::Invalid | Kind::Method | Kind::Slow | Kind::MediaType | Kind::Unprocessable => "invalid_request_error",
    };
    ErrorBody { r#type: "error", error: ErrorFields { r#type, message: &refusal.message } }
}

/// A refusal as a response.
pub(in crate::server) fn response(refusal: &Refusal) -> Response {
    let mut response = (refusal.kind.status(), Json(body(refusal))).into_response();
    if matches!(refusal.kind, Kind::Full | Kind::Unavailable) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(limits::SERVER_RETRY_SECONDS));
    }
    response
}

/// The response, or that of the refusal.
pub(super) fn or_response(outcome: Outcome<Response>) -> Response {
    outcome.unwrap_or_else(|refusal| response(&refusal))
}
