//! Why a request gets no answer. Each dialect writes it in its own shape.

use crate::error::{Error, Status};
use axum::http::StatusCode;

/// What kind of refusal it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// 400: the request is not what the dialect says.
    Invalid,
    /// 401: no key, or a wrong one.
    Key,
    /// 403: it comes from a page of another origin, or asks for another host.
    Forbidden,
    /// 404: there is no such path or model.
    NotFound,
    /// 405: the path is there, not for this method.
    Method,
    /// 408: the body did not come in time.
    Slow,
    /// 413: the body is too long.
    TooLarge,
    /// 415: the body is not said to be JSON.
    MediaType,
    /// 422: understood, but nothing that this model or build can do.
    Unprocessable,
    /// 429: too many requests wait.
    Full,
    /// 500: a defect.
    Internal,
    /// 503: the model is loading or gone, or memory is short.
    Unavailable,
}

impl Kind {
    /// Its status.
    pub fn status(self) -> StatusCode {
        match self {
            Kind::Invalid => StatusCode::BAD_REQUEST,
            Kind::Key => StatusCode::UNAUTHORIZED,
            Kind::Forbidden => StatusCode::FORBIDDEN,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::Method => StatusCode::METHOD_NOT_ALLOWED,
            Kind::Slow => StatusCode::REQUEST_TIMEOUT,
            Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Kind::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Kind::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
            Kind::Full => StatusCode::TOO_MANY_REQUESTS,
            Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Why a request gets no answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refusal {
    pub kind: Kind,
    /// What, where, and what to do next.
    pub message: String,
    /// The field that it is about.
    pub param: Option<String>,
    /// A word for programs.
    pub code: Option<&'static str>,
}

/// A result that is refused.
pub(super) type Outcome<T> = Result<T, Refusal>;

impl Refusal {
    /// A refusal without a field and a code.
    pub fn new(kind: Kind, message: impl Into<String>) -> Refusal {
        Refusal { kind, message: message.into(), param: None, code: None }
    }

    /// A field of the request that is not allowed.
    pub fn field(param: &str, message: impl Into<String>) -> Refusal {
        Refusal { param: Some(param.to_owned()), ..Refusal::new(Kind::Invalid, message) }
    }

    /// Adds the word for programs.
    pub fn coded(self, code: &'static str) -> Refusal {
        Refusal { code: Some(code), ..self }
    }
}

impl From<&Error> for Refusal {
    fn from(error: &Error) -> Refusal {
        let (kind, code) = match error.status {
            Status::Argument | Status::Template | Status::Utf8 | Status::Format => (Kind::Invalid, None),
            Status::Context => (Kind::Invalid, Some("context_length_exceeded")),
            Status::Unsupported => (Kind::Unprocessable, None),
            Status::QueueFull => (Kind::Full, Some("queue_full")),
            Status::Closed | Status::Memory => (Kind::Unavailable, None),
            _ => (Kind::Internal, None),
        };
        // Other errors are about files, which clients need not know.
        let is_field = error.status == Status::Argument && !error.subject.is_empty();
        let param = is_field.then(|| error.subject.clone());
        Refusal { kind, message: error.message.clone(), param, code }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal::from(&error)
    }
}
