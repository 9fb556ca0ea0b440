//! Refusals in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

use crate::limits;
use crate::server::refusal::{Kind, Outcome, Refusal};
use axum::Json;
use axum::http::HeaderValue;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// The body of an error.
#[derive(Serialize)]
pub(in crate::server) struct ErrorBody<'a> {
    error: ErrorFields<'a>,
}

#[derive(Serialize)]
struct ErrorFields<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'a str>,
    code: Option<&'static str>,
}

/// A refusal as a body.
pub(in crate::server) fn body(refusal: &Refusal) -> ErrorBody<'_> {
    let r#type = match refusal.kind {
        Kind::Key => "authentication_error",
        Kind::Forbidden => "permission_error",
        Kind::NotFound => "not_found_error",
        Kind::Full => "rate_limit_error",
        Kind::Internal | Kind::Unavailable => "server_error",
        Kind::Invalid | Kind::Method | Kind::Slow | Kind::TooLarge | Kind::MediaType | Kind::Unprocessable => {
            "invalid_request_error"
        }
    };
    let error = ErrorFields { message: &refusal.message, r#type, param: refusal.param.as_deref(), code: refusal.code };
    ErrorBody { error }
}

/// A refusal as a response.
pub(in crate::server) fn response(refusal: &Refusal) -> Response {
    let mut response = (refusal.kind.status(), Json(body(refusal))).into_response();
    let headers = response.headers_mut();
    match refusal.kind {
        Kind::Full | Kind::Unavailable => {
            headers.insert(RETRY_AFTER, HeaderValue::from(limits::SERVER_RETRY_SECONDS));
        }
        Kind::Key => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        _ => {}
    }
    response
}

/// The response, or that of the refusal.
pub(in crate::server) fn or_response(outcome: Outcome<Response>) -> Response {
    outcome.unwrap_or_else(|refusal| response(&refusal))
}
