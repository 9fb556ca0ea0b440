//! Requests to the hub and to where it redirects: the token goes to the hub alone, what may pass is told from what does not.

use std::io;
use std::sync::Arc;
use std::time::Duration;
use ureq::http::{Response, StatusCode, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

/// Redirects followed for one request.
const REDIRECTS_MAX: usize = 10;
/// Longest address, in bytes: those of a content network carry signatures.
const ADDRESS_BYTES_MAX: usize = 16 << 10;
/// Until a connection stands, and until a server that was asked says something more.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Attempts without any progress before giving up.
const ATTEMPTS_MAX: u32 = 5;
/// First wait between two attempts; it doubles each time.
const WAIT_FIRST: Duration = Duration::from_millis(250);
/// Longest wait that a server may ask for.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// Why a request did not give what was asked.
#[derive(Debug)]
pub enum Trouble {
    /// It may go better in a while, the one that the server names.
    Passing { reason: String, after: Option<Duration> },
    /// The server does not have the range of bytes.
    Range,
    /// It will not go better.
    Lasting(String),
}

impl Trouble {
    fn passing(reason: impl Into<String>) -> Self {
        Trouble::Passing { reason: reason.into(), after: None }
    }
}

/// What the server's answer says beside its body: header fields of the first answer, which is the hub's own.
pub struct Answer {
    /// The last answer, whose body is read.
    pub response: Response<Body>,
    /// Header fields of the hub's own answer, before redirects elsewhere.
    pub first: ureq::http::HeaderMap,
}

/// A client of one hub.
pub struct Client {
    agent: Agent,
    endpoint: Uri,
    token: Option<String>,
}

impl Client {
    /// For the hub at the address.
    pub fn new(endpoint: &str, token: Option<String>) -> Result<Client, String> {
        let endpoint: Uri = endpoint.parse().map_err(|e| format!("HF_ENDPOINT is \"{endpoint}\": {e}"))?;
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("astrai/", env!("CARGO_PKG_VERSION")))
            // As stored: hashes and ranges are those of the stored bytes.
            .accept_encoding("identity")
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(READ_TIMEOUT))
            .timeout_per_read(Some(READ_TIMEOUT));
        if endpoint.scheme_str() == Some("https") {
            config = config.tls_config(tls()?);
        }
        Ok(Client { agent: config.build().new_agent(), endpoint, token })
    }

    /// Whether requests to the hub name their sender.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Gets what is at an address of the hub, bytes `from..to` of it when given. Statuses from 400 on are answers too, but for
    /// those that may pass.
    pub fn get(&self, address: &str, from: u64, to: Option<u64>) -> Result<Answer, Trouble> {
        self.ask(address, (from, to), false)
    }

    /// Gets the header fields alone.
    pub fn head(&self, address: &str) -> Result<Answer, Trouble> {
        self.ask(address, (0, None), true)
    }

    fn ask(&self, address: &str, (from, to): (u64, Option<u64>), head: bool) -> Result<Answer, Trouble> {
        let mut uri = parse(address)?;
        let mut first = None;
        for _ in 0..=REDIRECTS_MAX {
            let request = if head { self.agent.head(&uri) } else { self.agent.get(&uri) };
            let request = match (from, to) {
                (0, None) => request,
                (from, None) => request.header("range", format!("bytes={from}-")),
                (from, Some(to)) => request.header("range", format!("bytes={from}-{}", to.saturating_sub(1))),
            };
            let request = match &self.token {
                Some(token) if origin(&uri) == origin(&self.endpoint) => {
                    request.header("authorization", format!("Bearer {token}"))
                }
                _ => request,
            };
            let response = request.call().map_err(|error| of_transport(&uri, error))?;
            let status = response.status();
            let leads =
                matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308).then(|| target(&uri, &response)).transpose()?;
            let hub = origin(&uri) == origin(&self.endpoint);
            if hub {
                first = Some(response.headers().clone());
            }
            match leads {
                // What is asked for is in the header fields of the hub's own answer.
                Some(next) if head && origin(&next) != origin(&uri) => {
                    let first = first.unwrap_or_default();
                    return Ok(Answer { response, first });
                }
                Some(next) => uri = next,
                None if status == StatusCode::TOO_MANY_REQUESTS
                    || status == StatusCode::REQUEST_TIMEOUT
                    || status.is_server_error() =>
                {
                    let after = response
                        .headers()
                        .get("retry-after")
                        .and_then(|value| value.to_str().ok()?.trim().parse().ok());
                    let reason = format!("{} answers {status}", uri.host().unwrap_or("the server"));
                    return Err(Trouble::Passing { reason, after: after.map(Duration::from_secs) });
                }
                None if status == StatusCode::RANGE_NOT_SATISFIABLE => return Err(Trouble::Range),
                None => return Ok(Answer { response, first: first.unwrap_or_default() }),
            }
        }
        Err(Trouble::Lasting(format!("more than {REDIRECTS_MAX} redirects from {address}")))
    }
}

/// Counts attempts and waits between them.
#[derive(Default)]
pub struct Patience {
    failures: u32,
}

impl Patience {
    /// Something went well.
    pub fn renew(&mut self) {
        self.failures = 0;
    }

    /// Waits before the next attempt; `told` is what is said meanwhile.
    ///
    /// # Errors
    /// The reason, when there were enough attempts.
    pub fn wait(&mut self, reason: &str, after: Option<Duration>, told: impl FnOnce(&str)) -> Result<(), String> {
        self.failures += 1;
        if self.failures >= ATTEMPTS_MAX {
            return Err(format!("{reason}; given up after {ATTEMPTS_MAX} attempts"));
        }
        let wait = after.unwrap_or(WAIT_FIRST * 2u32.pow(self.failures - 1)).min(WAIT_MAX);
        told(&format!("{reason}; the next attempt follows in {:.1} s", wait.as_secs_f64()));
        std::thread::sleep(wait);
        Ok(())
    }
}

/// Text of a server as it may be shown in a terminal, at most so many characters.
pub fn shown(text: &str, chars_max: usize) -> String {
    text.chars().take(chars_max).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A header field as text.
pub fn field<'a>(fields: &'a ureq::http::HeaderMap, name: &str) -> Option<&'a str> {
    fields.get(name)?.to_str().ok()
}

fn parse(address: &str) -> Result<Uri, Trouble> {
    let wrong = || Trouble::Lasting(format!("\"{}\" is no address", shown(address, 200)));
    if address.len() > ADDRESS_BYTES_MAX {
        return Err(wrong());
    }
    let uri: Uri = address.parse().map_err(|_| wrong())?;
    let known = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
    if known { Ok(uri) } else { Err(wrong()) }
}

/// Scheme, host and port.
fn origin(uri: &Uri) -> (Option<&str>, Option<String>, Option<u16>) {
    let port = uri.port_u16().or(match uri.scheme_str() {
        Some("https") => Some(443),
        Some("http") => Some(80),
        _ => None,
    });
    (uri.scheme_str(), uri.host().map(str::to_ascii_lowercase), port)
}

/// Where an answer redirects to.
fn target(from: &Uri, response: &Response<Body>) -> Result<Uri, Trouble> {
    let location = response.headers().get("location").and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(|| Trouble::Lasting("a redirect leads nowhere".to_owned()))?;
    let (scheme, host) =
        (from.scheme_str().unwrap_or("https"), from.authority().map_or("", |authority| authority.as_str()));
    let next = if location.starts_with("//") {
        parse(&format!("{scheme}:{location}"))?
    } else if location.starts_with('/') {
        parse(&format!("{scheme}://{host}{location}"))?
    } else if location.contains("://") {
        parse(location)?
    } else {
        let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        parse(&format!("{scheme}://{host}{folder}/{location}"))?
    };
    if from.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
        return Err(Trouble::Lasting(format!("{} redirects from https to http", from.host().unwrap_or("the server"))));
    }
    Ok(next)
}

/// What went wrong below HTTP.
fn of_transport(uri: &Uri, error: ureq::Error) -> Trouble {
    let host = uri.host().unwrap_or("the server");
    match error {
        ureq::Error::HostNotFound => Trouble::passing(format!("the name {host} cannot be resolved")),
        // A certificate, or an answer that is none of TLS.
        ureq::Error::Rustls(error) => Trouble::Lasting(format!(
            "{host}: {error}; where a network has certificates of its own, SSL_CERT_FILE names a file with them"
        )),
        ureq::Error::Io(error) if error.kind() != io::ErrorKind::InvalidData => {
            Trouble::passing(format!("{host}: {error}"))
        }
        ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed | ureq::Error::Protocol(_) => {
            Trouble::passing(format!("{host}: {error}"))
        }
        error => Trouble::Lasting(format!("{host}: {error}")),
    }
}

/// The system's certificates, or Mozilla's where it has none, as in small containers.
pub fn tls() -> Result<TlsConfig, String> {
    let native = rustls_native_certs::load_native_certs().certs;
    let roots = match native.is_empty() {
        true => RootCerts::WebPki,
        false => {
            let certificates: Vec<_> = native.iter().map(|cert| Certificate::from_der(cert).to_owned()).collect();
            RootCerts::Specific(Arc::new(certificates))
        }
    };
    let config = TlsConfig::builder().root_certs(roots);
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    let config = {
        let missing = missing_instructions();
        if !missing.is_empty() {
            let missing = missing.join(", ");
            return Err(format!(
                "this processor lacks instructions that https needs here ({missing}); download with another program into the same \
                 cache, as `hf download` does"
            ));
        }
        config.unversioned_rustls_crypto_provider(Arc::new(rustls_graviola::default_provider()))
    };
    Ok(config.build())
}

/// Instructions that the cryptography of TLS cannot do without and this processor lacks.
#[cfg(target_arch = "x86_64")]
fn missing_instructions() -> Vec<&'static str> {
    use std::arch::is_x86_feature_detected as has;
    let all = [
        ("aes", has!("aes")),
        ("pclmulqdq", has!("pclmulqdq")),
        ("ssse3", has!("ssse3")),
        ("avx2", has!("avx2")),
        ("adx", has!("adx")),
        ("bmi2", has!("bmi2")),
    ];
    all.into_iter().filter(|(_, there)| !there).map(|(name, _)| name).collect()
}

/// As on x86-64.
#[cfg(target_arch = "aarch64")]
fn missing_instructions() -> Vec<&'static str> {
    use std::arch::is_aarch64_feature_detected as has;
    let all = [("neon", has!("neon")), ("aes", has!("aes")), ("pmull", has!("pmull")), ("sha2", has!("sha2"))];
    all.into_iter().filter(|(_, there)| !there).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_relative_or_whole_and_never_lose_encryption() {
        let to = |from: &str, location: &str| {
            let response = Response::builder().header("location", location).body(Body::builder().data("")).unwrap();
            target(&from.parse().unwrap(), &response).map(|uri| uri.to_string())
        };
        let from = "https://hub/a/b?c=d";
        assert_eq!(to(from, "/x?y").unwrap(), "https://hub/x?y");
        assert_eq!(to(from, "x").unwrap(), "https://hub/a/x");
        assert_eq!(to(from, "//cdn/x").unwrap(), "https://cdn/x");
        assert_eq!(to(from, "https://cdn:8/x").unwrap(), "https://cdn:8/x");
        assert_eq!(to("http://hub/a", "http://cdn/x").unwrap(), "http://cdn/x");
        for bad in ["http://cdn/x", "file:///etc/passwd", "ftp://x/y"] {
            assert!(matches!(to(from, bad), Err(Trouble::Lasting(_))), "{bad}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| origin(&a.parse().unwrap()) == origin(&b.parse().unwrap());
        assert!(same("https://hub/x", "https://HUB:443/y") && same("http://hub", "http://hub:80/"));
        assert!(
            !same("https://hub", "http://hub")
                && !same("http://hub:1", "http://hub:2")
                && !same("http://a", "http://b")
        );
    }

    #[test]
    fn https_can_be_set_up_here() {
        // Where the processor can: what is missing is told, and is no fault of the program.
        assert!(tls().is_ok() || !missing_instructions().is_empty());
    }
}
