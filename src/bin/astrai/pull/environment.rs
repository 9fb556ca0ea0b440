//! What the environment says: the same variables, with the same meaning, as those of huggingface_hub.

use crate::failure::{Failure, Outcome};
use std::env;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The hub when `HF_ENDPOINT` names no other.
const ENDPOINT_DEFAULT: &str = "https://huggingface.co";
/// Longest file with a token, in bytes.
const TOKEN_BYTES_MAX: u64 = 4096;

/// Where models come from and where they are kept.
pub struct Environment {
    /// Address of the hub, without a slash at its end.
    pub endpoint: String,
    /// Who asks.
    pub token: Option<String>,
    /// Whether nothing may be asked of the network.
    pub offline: bool,
    /// The folder of all repositories.
    pub cache: PathBuf,
}

impl Environment {
    /// Reads it.
    ///
    /// # Errors
    /// For an address that is none, a token that cannot be sent, and where there is no folder for the cache.
    pub fn read() -> Outcome<Environment> {
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT_DEFAULT.to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(Failure::Message(format!(
                "HF_ENDPOINT is \"{endpoint}\", which is no address; expected one as {ENDPOINT_DEFAULT}"
            )));
        }
        let home = path("HF_HOME").or_else(|| {
            let caches = path("XDG_CACHE_HOME").or_else(|| Some(env::home_dir()?.join(".cache")))?;
            Some(caches.join("huggingface"))
        });
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let Some(cache) = cache.or_else(|| Some(home.as_ref()?.join("hub"))) else {
            return Err(Failure::message("there is no home folder to keep models in; set HF_HOME or HF_HUB_CACHE"));
        };
        let token_file = path("HF_TOKEN_PATH").or_else(|| Some(home?.join("token")));
        let token = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN"));
        let token = token.or_else(|| token_file.as_deref().and_then(token_of));
        if token.as_ref().is_some_and(|token| !token.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(Failure::message(
                "the token of HF_TOKEN, or in the token file, has characters that no token has",
            ));
        }
        let offline = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().find_map(text);
        let offline = offline.is_some_and(|value| matches!(&*value.to_ascii_uppercase(), "1" | "ON" | "YES" | "TRUE"));
        Ok(Environment { endpoint, token, offline, cache })
    }
}

/// A variable that is set and not empty.
fn text(name: &str) -> Option<String> {
    let value = env::var(name).ok()?;
    let value = value.trim();
    (!value.is_empty()).then(|| value.to_owned())
}

/// A variable with a path, whose `~` is the home folder.
fn path(name: &str) -> Option<PathBuf> {
    let value = PathBuf::from(env::var_os(name).filter(|value| !value.is_empty())?);
    match value.strip_prefix("~") {
        Ok(rest) => Some(env::home_dir()?.join(rest)),
        Err(_) => Some(value),
    }
}

/// The token in a file, if there is one.
fn token_of(file: &Path) -> Option<String> {
    let mut token = String::new();
    fs::File::open(file).ok()?.take(TOKEN_BYTES_MAX).read_to_string(&mut token).ok()?;
    let token = token.trim();
    (!token.is_empty()).then(|| token.to_owned())
}
