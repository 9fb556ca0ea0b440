//! The page: one file without a build step, joined from its parts when a server is first asked for it. It loads nothing, and its own script
//! and style are all that its policy lets run.

use crate::server::state::State as Server;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::response::{Html, IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use std::sync::Arc;

const HTML: &str = include_str!("page/page.html");
const STYLES: [&str; 2] = [include_str!("page/page.css"), include_str!("page/parts.css")];
/// In the order in which they are joined: each uses what is above it.
const SCRIPTS: [&str; 13] = [
    include_str!("page/dom.js"),
    include_str!("page/palette.js"),
    include_str!("page/engine.js"),
    include_str!("page/source.js"),
    include_str!("page/recording.js"),
    include_str!("page/frames.js"),
    include_str!("page/requests.js"),
    include_str!("page/log.js"),
    include_str!("page/stations.js"),
    include_str!("page/tree.js"),
    include_str!("page/race.js"),
    include_str!("page/chat.js"),
    include_str!("page/main.js"),
];
/// Where the parts go.
const STYLE_PLACE: &str = "/*STYLE*/";
const SCRIPT_PLACE: &str = "/*SCRIPT*/";
const POLICY_PLACE: &str = "<!--POLICY-->";
const RECORDING_PLACE: &str = "<!--RECORDING-->";

/// The page and its policy.
pub(super) struct Page {
    html: String,
    policy: String,
}

impl Page {
    /// Joins it.
    pub fn new() -> Page {
        let style = STYLES.concat();
        let script = format!("\"use strict\";\n{{\n{}\n}}\n", SCRIPTS.join("\n"));
        let policy = format!(
            "default-src 'none'; script-src {}; style-src {}; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'",
            hash(&script),
            hash(&style)
        );
        Page { html: HTML.replace(STYLE_PLACE, &style).replace(SCRIPT_PLACE, &script), policy }
    }

    /// The page with messages inside, which needs no server.
    pub fn recorded(&self, messages: &str) -> String {
        let policy = self.policy.replace("connect-src 'self'", "connect-src 'none'");
        let policy = format!("<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">");
        // Nothing within the data can end it.
        let messages = messages.replace('<', "\\u003c");
        let data = format!("<script type=\"application/json\" id=\"recording\">[\n{messages}\n]</script>");
        self.html.replace(POLICY_PLACE, &policy).replace(RECORDING_PLACE, &data)
    }
}

/// The hash of a part as a policy names it.
fn hash(part: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(part.as_bytes())))
}

/// `GET /`.
pub(in crate::server) async fn home(State(server): State<Arc<Server>>) -> Response {
    let page = server.window.page();
    let headers = [
        (CONTENT_SECURITY_POLICY, format!("{}; frame-ancestors 'none'", page.policy)),
        (CACHE_CONTROL, "no-cache".to_owned()),
        (REFERRER_POLICY, "no-referrer".to_owned()),
        (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    (headers, Html(page.html.replace(POLICY_PLACE, "").replace(RECORDING_PLACE, ""))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// The committed recording is the page of today with what was recorded. `ASTRAI_BLESS=1` writes it anew.
    #[test]
    fn the_committed_recording_has_the_page_as_it_is() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/window.html");
        let committed = std::fs::read_to_string(&path).unwrap();
        let (_, rest) = committed.split_once("id=\"recording\">[\n").expect("a recording");
        let (messages, _) = rest.split_once("\n]</script>").expect("its end");
        let page = Page::new().recorded(messages);
        if std::env::var_os("ASTRAI_BLESS").is_some() {
            std::fs::write(&path, &page).unwrap();
            return;
        }
        let differs = page.lines().zip(committed.lines()).position(|(new, old)| new != old);
        assert!(
            page == committed,
            "docs/window.html has another page, from line {:?} on",
            differs.map(|line| line + 1)
        );
    }
}
