//! Who may ask. A page on the internet is not a client: its browser would send requests to loopback for it. So the `Host` has to be
//! one by which the server is to be called (a name of the page's own that leads to loopback is none), an `Origin` has to be the
//! server's own, bodies are said to be JSON, which a page cannot say without being allowed to, and no answer allows it.

use super::refusal::{Kind, Outcome, Refusal};
use super::state::State as Server;
use super::{anthropic, openai};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, Method};
use axum::middleware::Next;
use axum::response::Response;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use subtle::{Choice, ConstantTimeEq};

/// What answers without a key: whether the server lives is no secret.
const OPEN_PATHS: [&str; 2] = ["/", "/health"];

/// The rules of a server.
pub(super) struct Guard {
    /// It listens at loopback.
    loopback: bool,
    keys: Vec<String>,
    hosts: Vec<String>,
}

impl Guard {
    /// For a server at `address`; `keys`, one of which is needed if there are any; names of `hosts` beside loopback's.
    pub fn new(address: SocketAddr, keys: Vec<String>, hosts: Vec<String>) -> Guard {
        Guard { loopback: address.ip().is_loopback(), keys, hosts }
    }

    fn allows_host(&self, host: &str) -> bool {
        let name = host.trim_start_matches('[').trim_end_matches(']');
        match name.parse::<IpAddr>() {
            // A number cannot be made to lead elsewhere, as a name can.
            Ok(ip) => ip.is_loopback() || !self.loopback || self.is_named(host),
            Err(_) => name.eq_ignore_ascii_case("localhost") || self.is_named(host),
        }
    }

    fn is_named(&self, host: &str) -> bool {
        self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host))
    }

    fn allows_key(&self, headers: &HeaderMap) -> bool {
        let bearer = |text: &'_ str| {
            text.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("bearer ")).map(|_| text[7..].trim().to_owned())
        };
        let given = headers.get(AUTHORIZATION).and_then(|value| bearer(value.to_str().ok()?));
        let other = || {
            headers.get(HeaderName::from_static("x-api-key")).and_then(|value| Some(value.to_str().ok()?.to_owned()))
        };
        let Some(given) = given.or_else(other) else { return false };
        // All are compared, each in a time that tells its length alone.
        let same = |known: &String| known.as_bytes().ct_eq(given.as_bytes());
        self.keys.iter().map(same).fold(Choice::from(0), |any, one| any | one).into()
    }

    fn check(&self, request: &Request) -> Outcome<()> {
        let headers = request.headers();
        let authority = match (request.uri().authority(), headers.get(HOST)) {
            (Some(authority), _) => Some(authority.clone()),
            (None, Some(host)) => host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()),
            (None, None) => None,
        };
        let Some(authority) = authority.filter(|authority| self.allows_host(authority.host())) else {
            let message = "the Host header names a host by which this server is not to be called; call it by its address, or have it allow the name";
            return Err(Refusal::new(Kind::Forbidden, message).coded("host_not_allowed"));
        };
        if let Some(origin) = headers.get(ORIGIN) {
            let own = origin
                .to_str()
                .ok()
                .and_then(|origin| origin.strip_prefix("http://").or(origin.strip_prefix("https://")));
            if own.is_none_or(|own| !own.eq_ignore_ascii_case(authority.as_str())) {
                let message = "requests from pages of another origin are not answered";
                return Err(Refusal::new(Kind::Forbidden, message).coded("origin_not_allowed"));
            }
        }
        if !self.keys.is_empty() && !OPEN_PATHS.contains(&request.uri().path()) && !self.allows_key(headers) {
            let message = "no API key, or a wrong one; send one as \"Authorization: Bearer KEY\" or \"x-api-key: KEY\"";
            return Err(Refusal::new(Kind::Key, message).coded("invalid_api_key"));
        }
        if request.method() == Method::POST {
            let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let kind = kind.split(';').next().unwrap_or_default().trim();
            if !kind.eq_ignore_ascii_case("application/json") {
                let message =
                    format!("the body is said to be {kind:?}; send JSON with \"Content-Type: application/json\"");
                return Err(Refusal::new(Kind::MediaType, message));
            }
        }
        Ok(())
    }
}

/// Lets a request through, or refuses it.
pub(super) async fn check(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    match server.guard.check(&request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refuse(&path, &refusal),
    }
}

/// The text of a refusal in the dialect of the path.
pub(super) fn text(path: &str, refusal: &Refusal) -> String {
    let text = match path.starts_with("/v1/messages") {
        true => serde_json::to_string(&anthropic::errors::body(refusal)),
        false => serde_json::to_string(&openai::errors::body(refusal)),
    };
    text.unwrap_or_default()
}

/// A refusal in the dialect of the path.
pub(super) fn refuse(path: &str, refusal: &Refusal) -> Response {
    match path.starts_with("/v1/messages") {
        true => anthropic::errors::response(refusal),
        false => openai::errors::response(refusal),
    }
}
