//! What the hub says of a repository: its commit, its files with sizes and hashes, its licence.

use super::http::{Answer, Client, Patience, Trouble, field, shown};
use super::reference::{Reference, is_below, is_commit, is_lower_hex};
use serde_json::Value;
use std::io::Read;
use ureq::http::StatusCode;

/// Bytes of the hub's description of a repository, and files in it, at most.
const MODEL_BYTES_MAX: u64 = 64 << 20;
const FILES_MAX: usize = 100_000;
/// Bytes of a file, at most: more than any file system holds is a lie.
const FILE_BYTES_MAX: u64 = 1 << 50;
/// Characters of a licence that are shown.
const LICENCE_CHARS_MAX: usize = 200;

/// A hub, asked about one repository.
pub struct Hub {
    client: Client,
    endpoint: String,
    repository: String,
    revision: String,
}

/// What a repository holds at one commit.
pub struct Repository {
    pub commit: String,
    pub files: Vec<RemoteFile>,
    pub licence: Option<String>,
    /// Whether its licence has to be accepted first.
    pub gated: bool,
}

/// A file of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Relative, with slashes; it was checked.
    pub name: String,
    pub bytes: Option<u64>,
    /// SHA-256 (64 digits) of large files, git's SHA-1 of small ones (40 digits). The cache's name for its bytes.
    pub hash: Option<String>,
}

impl Hub {
    /// For one repository.
    pub fn new(client: Client, endpoint: &str, reference: &Reference) -> Hub {
        let (repository, revision) = (reference.repository.clone(), reference.revision.clone());
        Hub { client, endpoint: endpoint.to_owned(), repository, revision }
    }

    /// The repository's page for people.
    pub fn page(&self) -> String {
        format!("{}/{}", self.endpoint, self.repository)
    }

    /// Asks what there is. Files whose size or hash the hub does not list are asked for one by one with [`Hub::complete`].
    pub fn repository(&self, told: &mut dyn FnMut(&str)) -> Result<Repository, String> {
        let revision = encoded(&self.revision, false);
        let address = format!("{}/api/models/{}/revision/{revision}?blobs=true", self.endpoint, self.repository);
        let text = self.persist(told, || {
            let answer = self.client.get(&address, 0, None)?;
            let mut answer = self.accepted(answer, None)?;
            let mut text = Vec::new();
            let read = answer.response.body_mut().as_reader().take(MODEL_BYTES_MAX + 1).read_to_end(&mut text);
            read.map_err(|e| Trouble::Passing { reason: e.to_string(), after: None })?;
            Ok(text)
        })?;
        if text.len() as u64 > MODEL_BYTES_MAX {
            return Err(format!("the hub's description of {} has more than {MODEL_BYTES_MAX} bytes", self.repository));
        }
        let model = serde_json::from_slice(&text);
        let model: Value =
            model.map_err(|e| format!("what {} says of {} is no JSON: {e}", self.endpoint, self.repository))?;
        described(&model).map_err(|what| format!("what {} says of {} {what}", self.endpoint, self.repository))
    }

    /// Size and hash of a file, which the hub is asked for where it did not list them.
    pub fn complete(
        &self,
        commit: &str,
        file: &RemoteFile,
        told: &mut dyn FnMut(&str),
    ) -> Result<(u64, String), String> {
        if let (Some(bytes), Some(hash)) = (file.bytes, &file.hash) {
            return Ok((bytes, hash.clone()));
        }
        let answer = self
            .persist(told, || self.accepted(self.client.head(&self.address(commit, &file.name))?, Some(&file.name)))?;
        let number = |name| field(&answer.first, name).and_then(|value| value.parse().ok());
        let length = answer.response.status().is_success().then(|| number("content-length")).flatten();
        let etag = field(&answer.first, "x-linked-etag").or(field(&answer.first, "etag")).and_then(hash_of_etag);
        let name = &file.name;
        let hash = file.hash.clone().or(etag).ok_or_else(|| {
            format!("{} gives no hash of {name}, so that nothing could tell whether it arrives whole", self.endpoint)
        })?;
        let bytes = file.bytes.or(number("x-linked-size")).or(length).filter(|bytes| *bytes <= FILE_BYTES_MAX);
        Ok((bytes.ok_or_else(|| format!("{} does not say how large {name} is", self.endpoint))?, hash))
    }

    /// Bytes `from..to` of a file, or from `from` on.
    pub fn bytes(&self, commit: &str, name: &str, from: u64, to: Option<u64>) -> Result<Answer, Trouble> {
        self.accepted(self.client.get(&self.address(commit, name), from, to)?, Some(name))
    }

    /// Repeats what may go better later.
    pub fn persist<T>(
        &self,
        told: &mut dyn FnMut(&str),
        attempt: impl Fn() -> Result<T, Trouble>,
    ) -> Result<T, String> {
        let mut patience = Patience::default();
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(Trouble::Lasting(reason)) => return Err(reason),
                Err(Trouble::Range) => return Err(format!("{} lacks a part of a file that it lists", self.endpoint)),
                Err(Trouble::Passing { reason, after }) => {
                    patience
                        .wait(&reason, after, &mut *told)
                        .map_err(|reason| format!("{}: {reason}", self.endpoint))?;
                }
            }
        }
    }

    fn address(&self, commit: &str, name: &str) -> String {
        format!("{}/{}/resolve/{commit}/{}", self.endpoint, self.repository, encoded(name, true))
    }

    /// An answer that is none of refusal, or for what may be refused why it was.
    fn accepted(&self, answer: Answer, file: Option<&str>) -> Result<Answer, Trouble> {
        let status = answer.response.status();
        if status.is_success() || status.is_redirection() {
            return Ok(answer);
        }
        let (repository, revision, endpoint, page) = (&self.repository, &self.revision, &self.endpoint, self.page());
        let code = field(&answer.first, "x-error-code").or(field(answer.response.headers(), "x-error-code"));
        let known = self.client.has_token();
        Err(Trouble::Lasting(match (status, code) {
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, Some("GatedRepo")) if known => format!(
                "{repository} is gated, and the account of the token has no access: accept its licence at {page}, signed in as that \
                 account"
            ),
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, Some("GatedRepo")) => format!(
                "{repository} is gated: accept its licence at {page}, and set HF_TOKEN to a token of your account"
            ),
            (StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND, Some("RepoNotFound")) => format!(
                "there is no repository {repository} at {endpoint}, or it is private: look at its name{}",
                if known { ", and whether the token's account may read it" } else { ", or set HF_TOKEN" }
            ),
            (StatusCode::NOT_FOUND, Some("RevisionNotFound")) => {
                format!("{repository} has no revision {revision}: branches, tags and commits are at {page}/tree/main")
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) if known => format!(
                "{endpoint} refuses access to {repository} ({status}): the token of HF_TOKEN is not valid or may not read it; its \
                 licence may have to be accepted at {page}"
            ),
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => format!(
                "{endpoint} refuses access to {repository} ({status}): set HF_TOKEN to a token of your account, and accept the licence \
                 at {page} if it has one"
            ),
            (StatusCode::NOT_FOUND, _) => match file {
                Some(file) => format!("{repository} has no file {file} at {endpoint}"),
                None => format!("there is no repository {repository}, or no revision {revision} of it, at {endpoint}"),
            },
            _ => format!("{endpoint} answers {status} to a request for {}", file.unwrap_or(repository)),
        }))
    }
}

/// Reads the hub's description.
fn described(model: &Value) -> Result<Repository, String> {
    let commit = model["sha"].as_str().filter(|sha| is_commit(sha)).ok_or("names no commit")?.to_owned();
    let listed = model["siblings"].as_array().ok_or("lists no files")?;
    if listed.len() > FILES_MAX {
        return Err(format!("lists {} files, and at most {FILES_MAX} are taken", listed.len()));
    }
    let files = listed.iter().map(|file| {
        let name = file["rfilename"].as_str().ok_or("lists a file without a name")?;
        if !is_below(name) {
            return Err(format!("lists a file \"{}\", which would lie outside of its folder", shown(name, 200)));
        }
        let lfs = &file["lfs"];
        let hash = match lfs["sha256"].as_str().or(lfs["oid"].as_str()) {
            Some(sha256) => Some(sha256).filter(|hash| hash.len() == 64),
            // Of a large file this would be the hash of its pointer.
            None if lfs.is_object() => None,
            None => file["blobId"].as_str().filter(|hash| hash.len() == 40),
        };
        let bytes = lfs["size"].as_u64().or(file["size"].as_u64());
        if bytes.is_some_and(|bytes| bytes > FILE_BYTES_MAX) {
            return Err(format!("says that {name} has more than {FILE_BYTES_MAX} bytes"));
        }
        Ok(RemoteFile { name: name.to_owned(), bytes, hash: hash.filter(|hash| is_lower_hex(hash)).map(str::to_owned) })
    });
    let files = files.collect::<Result<Vec<_>, String>>()?;
    let gated = !matches!(model["gated"], Value::Null | Value::Bool(false));
    Ok(Repository { commit, files, licence: licence(model), gated })
}

/// The licence of the model's card, or of its tags.
fn licence(model: &Value) -> Option<String> {
    let card = &model["cardData"];
    let words = |value: &Value| match value {
        Value::String(name) => Some(name.clone()),
        Value::Array(names) => Some(names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")),
        _ => None,
    };
    let of_tags = || {
        let tags = model["tags"].as_array()?;
        tags.iter().find_map(|tag| tag.as_str()?.strip_prefix("license:").map(str::to_owned))
    };
    let mut licence = words(&card["license"]).or_else(of_tags).filter(|name| !name.is_empty())?;
    let more =
        [&card["license_name"], &card["license_link"]].map(|value| value.as_str().filter(|text| !text.is_empty()));
    if let [name, link] = more
        && (name.is_some() || link.is_some())
    {
        licence += &format!(": {}", [name, link].into_iter().flatten().collect::<Vec<_>>().join(", "));
    }
    Some(shown(&licence, LICENCE_CHARS_MAX))
}

/// The hash that an entity tag is, for tags of this kind of hub.
fn hash_of_etag(etag: &str) -> Option<String> {
    let hash = etag.trim().trim_start_matches("W/").trim_matches('"');
    (matches!(hash.len(), 40 | 64) && is_lower_hex(hash)).then(|| hash.to_owned())
}

/// Percent encoding for a part of an address.
fn encoded(text: &str, keep_slashes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'/' if keep_slashes => out.push('/'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_description_has_a_commit_and_files_with_their_hashes() {
        let large = "a".repeat(64);
        let model = json!({"sha": SHA, "gated": "manual", "tags": ["x", "license:mit"], "siblings": [
            {"rfilename": "config.json", "size": 3, "blobId": SHA},
            {"rfilename": "m.gguf", "size": 9, "blobId": SHA, "lfs": {"sha256": large, "size": 9, "pointerSize": 130}},
            {"rfilename": "n.gguf", "lfs": {"size": 9}},
            {"rfilename": "bare"},
        ]});
        let repository = described(&model).unwrap();
        assert_eq!((&*repository.commit, repository.gated, repository.licence.as_deref()), (SHA, true, Some("mit")));
        let hashes: Vec<_> = repository.files.iter().map(|file| (file.bytes, file.hash.as_deref())).collect();
        assert_eq!(hashes, [(Some(3), Some(SHA)), (Some(9), Some(&*large)), (Some(9), None), (None, None)]);
    }

    #[test]
    fn a_description_that_lies_is_refused() {
        let with = |file: Value| described(&json!({"sha": SHA, "siblings": [file]}));
        for name in ["../x", "/x", "a/../b", "C:\\x", "a\u{1b}[2J"] {
            assert!(with(json!({"rfilename": name})).is_err_and(|what| !what.contains('\u{1b}')), "{name}");
        }
        assert!(with(json!({"rfilename": "x", "size": u64::MAX})).is_err());
        assert!(with(json!({"size": 1})).is_err() && with(json!("x")).is_err());
        assert!(described(&json!({"sha": "../..", "siblings": []})).is_err());
        assert!(described(&json!({"sha": SHA})).is_err() && described(&json!([])).is_err());
    }

    #[test]
    fn a_licence_is_a_name_a_list_or_other_with_its_name() {
        let of = |card: Value| licence(&json!({"cardData": card}));
        assert_eq!(of(json!({"license": "apache-2.0"})).as_deref(), Some("apache-2.0"));
        assert_eq!(of(json!({"license": ["mit", "cc-by-4.0"]})).as_deref(), Some("mit, cc-by-4.0"));
        let other = json!({"license": "other", "license_name": "qwen", "license_link": "LICENSE"});
        assert_eq!(of(other).as_deref(), Some("other: qwen, LICENSE"));
        assert_eq!(of(json!({"license": "\u{1b}[31mx"})).as_deref(), Some("\u{fffd}[31mx"));
        assert_eq!((of(json!({})), licence(&json!({}))), (None, None));
    }

    #[test]
    fn addresses_and_tags_are_read_and_written_as_the_hub_has_them() {
        assert_eq!(encoded("a b/ü#?.gguf", true), "a%20b/%C3%BC%23%3F.gguf");
        assert_eq!(encoded("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(hash_of_etag(&format!("W/\"{SHA}\"")).as_deref(), Some(SHA));
        assert_eq!(
            (hash_of_etag("\"abc\""), hash_of_etag("\"../../../../../../../../../../../../../../\"")),
            (None, None)
        );
    }
}
