//! One file: from where an earlier attempt ended, hashed while it arrives, and given its name only when it is whole and right.

use super::cache::{RepositoryCache, failed, make_parent};
use super::http::{Patience, Trouble, field};
use super::hub::Hub;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes read at once.
const CHUNK_BYTES: usize = 128 << 10;
/// Connections for one file, at most, however far each one comes.
const CONNECTIONS_MAX: u32 = 200;
/// What a download ends with that others ended.
const STOPPED: &str = "stopped";

/// A file to have.
#[derive(Clone)]
pub struct Wanted {
    pub name: String,
    pub bytes: u64,
    /// As [`super::hub::RemoteFile::hash`].
    pub hash: String,
}

/// What a download tells meanwhile.
pub enum Told {
    /// Bytes that are there now.
    Bytes(u64),
    Note(String),
}

/// The hash that a hub names a file by.
#[derive(Clone)]
enum Hash {
    Sha256(Sha256),
    Git(Sha1),
}

impl Hash {
    /// Of the kind that `hash` is, for a file of `bytes`.
    fn like(hash: &str, bytes: u64) -> Hash {
        if hash.len() == 64 {
            return Hash::Sha256(Sha256::new());
        }
        let mut sha1 = Sha1::new();
        // What git hashes before the content.
        sha1.update(format!("blob {bytes}\0"));
        Hash::Git(sha1)
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Hash::Sha256(hash) => hash.update(bytes),
            Hash::Git(hash) => hash.update(bytes),
        }
    }

    fn finish(self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Hash::Sha256(hash) => hex(&hash.finalize()),
            Hash::Git(hash) => hex(&hash.finalize()),
        }
    }

    fn name(hash: &str) -> &'static str {
        if hash.len() == 64 { "sha256" } else { "git's sha1" }
    }
}

/// A file on its way.
struct Part {
    file: File,
    hash: Hash,
    /// Bytes there.
    have: u64,
}

/// Downloads a file into the cache's blobs, if it is not there.
pub fn download(
    hub: &Hub,
    cache: &RepositoryCache,
    commit: &str,
    wanted: &Wanted,
    stop: &AtomicBool,
    told: &mut dyn FnMut(Told),
) -> Result<(), String> {
    let waiting = || format!("another process downloads {}; waiting for it", wanted.name);
    let lock = cache.lock(&wanted.hash, || told(Told::Note(waiting())))?;
    if cache.has_blob(&wanted.hash, wanted.bytes) {
        told(Told::Bytes(wanted.bytes));
        return Ok(());
    }
    // Where nothing keeps two processes apart, each has a file of its own, which no later attempt goes on with.
    let path = match &lock {
        Some(_) => cache.incomplete(&wanted.hash),
        None => cache.incomplete(&format!("{}.{}", wanted.hash, std::process::id())),
    };
    make_parent(&path)?;
    let mut part = Part::open(&path, wanted)?;
    let mut resumed = part.have > 0;
    told(Told::Bytes(part.have));
    loop {
        part.fill(hub, commit, wanted, stop, told).map_err(|reason| match reason.as_str() {
            STOPPED => reason,
            _ => format!("{}: {reason}", wanted.name),
        })?;
        let found = part.hash.clone().finish();
        if found == wanted.hash {
            break;
        }
        if !resumed {
            drop(part);
            fs::remove_file(&path).map_err(|error| failed(&path, &error))?;
            let (name, kind, expected) = (&wanted.name, Hash::name(&wanted.hash), &wanted.hash);
            return Err(format!(
                "{name} arrived damaged: its {kind} is {found}, the hub lists {expected}; it was removed, and the next attempt \
                 begins anew"
            ));
        }
        // The beginning is an earlier attempt's, and may be what is wrong.
        told(Told::Note(format!("{}: what an earlier download left does not fit; it begins anew", wanted.name)));
        part.begin_anew(wanted, told)?;
        resumed = false;
    }
    part.file.sync_data().map_err(|error| failed(&path, &error))?;
    // Closed before it is renamed, as Windows wants it.
    drop(part);
    fs::rename(&path, cache.blob(&wanted.hash)).map_err(|error| failed(&path, &error))?;
    drop(lock);
    Ok(())
}

impl Part {
    /// What an earlier attempt left, or nothing.
    fn open(path: &Path, wanted: &Wanted) -> Result<Part, String> {
        let fail = |error| failed(path, &error);
        let open = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path);
        let mut part = Part { file: open.map_err(fail)?, hash: Hash::like(&wanted.hash, wanted.bytes), have: 0 };
        if part.file.metadata().map_err(fail)?.len() > wanted.bytes {
            part.restart().map_err(fail)?;
        }
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match part.file.read(&mut chunk).map_err(fail)? {
                0 => return Ok(part),
                count => {
                    part.hash.update(&chunk[..count]);
                    part.have += count as u64;
                }
            }
        }
    }

    /// Empties the file.
    fn restart(&mut self) -> std::io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()
    }

    /// Gets what is missing, over as many connections as it takes.
    fn fill(
        &mut self,
        hub: &Hub,
        commit: &str,
        wanted: &Wanted,
        stop: &AtomicBool,
        told: &mut dyn FnMut(Told),
    ) -> Result<(), String> {
        let mut patience = Patience::default();
        let mut connections = 0;
        while self.have < wanted.bytes {
            let before = self.have;
            connections += 1;
            let (reason, after) = match self.receive(hub, commit, wanted, stop, told) {
                Ok(()) => continue,
                Err(Trouble::Lasting(reason)) => return Err(reason),
                Err(Trouble::Range) if before > 0 => {
                    self.begin_anew(wanted, told)?;
                    ("the server lacks the rest of the file".to_owned(), None)
                }
                Err(Trouble::Range) => return Err("the server says that it has no bytes".to_owned()),
                Err(Trouble::Passing { reason, after }) => (reason, after),
            };
            if connections >= CONNECTIONS_MAX {
                return Err(format!("{reason}; given up after {connections} connections"));
            }
            if self.have > before {
                patience.renew();
            }
            let (name, have) = (&wanted.name, self.have);
            patience.wait(&reason, after, |line| told(Told::Note(format!("{name}: {line}, from byte {have}"))))?;
        }
        Ok(())
    }

    /// Gets what one connection gives.
    fn receive(
        &mut self,
        hub: &Hub,
        commit: &str,
        wanted: &Wanted,
        stop: &AtomicBool,
        told: &mut dyn FnMut(Told),
    ) -> Result<(), Trouble> {
        if stop.load(Ordering::Relaxed) {
            return Err(Trouble::Lasting(STOPPED.to_owned()));
        }
        let mut answer = hub.bytes(commit, &wanted.name, self.have, None)?;
        let partial = answer.response.status().as_u16() == 206;
        let range = field(answer.response.headers(), "content-range").and_then(first_of_range);
        if self.have > 0 && !(partial && range == Some(self.have)) {
            // Servers need not know ranges; the whole file comes instead.
            if partial {
                return Err(Trouble::Range);
            }
            self.begin_anew(wanted, told).map_err(Trouble::Lasting)?;
        }
        let length = field(answer.response.headers(), "content-length").and_then(|value| value.parse::<u64>().ok());
        let rest = wanted.bytes - self.have;
        if let Some(length) = length.filter(|length| *length != rest) {
            return Err(Trouble::Lasting(format!(
                "the server has {length} bytes where the hub lists {rest}; it is not the same file"
            )));
        }
        let mut body = answer.response.body_mut().as_reader();
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(Trouble::Lasting(STOPPED.to_owned()));
            }
            let count = match body.read(&mut chunk) {
                Ok(0) if self.have == wanted.bytes => return Ok(()),
                Ok(0) => return Err(lost("the connection ended early")),
                Ok(count) => count,
                Err(error) => return Err(lost(&error.to_string())),
            };
            if count as u64 > wanted.bytes - self.have {
                return Err(Trouble::Lasting(format!("the server sends more than the {} bytes listed", wanted.bytes)));
            }
            let bytes = &chunk[..count];
            self.file.write_all(bytes).map_err(|error| Trouble::Lasting(format!("cannot write: {error}")))?;
            self.hash.update(bytes);
            self.have += count as u64;
            told(Told::Bytes(self.have));
        }
    }

    fn begin_anew(&mut self, wanted: &Wanted, told: &mut dyn FnMut(Told)) -> Result<(), String> {
        self.restart().map_err(|error| format!("cannot write: {error}"))?;
        self.hash = Hash::like(&wanted.hash, wanted.bytes);
        self.have = 0;
        told(Told::Bytes(0));
        Ok(())
    }
}

fn lost(reason: &str) -> Trouble {
    Trouble::Passing { reason: format!("the connection was lost ({reason})"), after: None }
}

/// The first byte that a `content-range` names.
fn first_of_range(value: &str) -> Option<u64> {
    value.trim().strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_git_and_of_large_files() {
        let of = |like: &str, text: &str| {
            let mut hash = Hash::like(like, text.len() as u64);
            hash.update(text.as_bytes());
            hash.finish()
        };
        // `printf hello | git hash-object --stdin`, `printf hello | sha256sum`.
        assert_eq!(of(&"0".repeat(40), "hello"), "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0");
        let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        assert_eq!(of(&"0".repeat(64), "hello"), sha256);
        assert_eq!(first_of_range("bytes 5-9/10"), Some(5));
        assert_eq!((first_of_range("bytes */10"), first_of_range("5-9")), (None, None));
    }
}
