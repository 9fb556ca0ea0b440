//! Reading small files whole: regular files only, with a size limit, and with errors that name the file.

use super::{foreign, json};
use crate::error::{Error, Result, Status, Unit};
use crate::json::Tree;
use crate::limits::CONFIG_TREE_BYTES_MAX;
use crate::os::shortage;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// Opens the regular file `path`; `None` when there is nothing of that name. Links are followed, as model hubs keep
/// their files behind links. Anything but a regular file is refused: opening a pipe would wait for ever.
pub(super) fn open(path: &Path) -> Result<Option<(File, u64)>> {
    let shown = path.to_string_lossy();
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            if path.symlink_metadata().is_ok() {
                let what = format!("{shown} is a link to a file that is not there; download the model again");
                return Err(Error::io(what, shown, &e));
            }
            return Ok(None);
        }
        Err(e) => return Err(Error::io(format!("cannot look at {shown}"), shown, &e)),
    };
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "is a folder, not a regular file" } else { "is not a regular file" };
        return Err(Error::new(Status::Io, format!("{shown} {what}; a file is expected here")).about(shown));
    }
    let file = File::open(path).map_err(|e| Error::io(format!("cannot open {shown}"), shown.as_ref(), &e))?;
    let len = file.metadata().map_err(|e| Error::io(format!("cannot look at {shown}"), shown.as_ref(), &e))?.len();
    Ok(Some((file, len)))
}

/// Reads the whole file `path`, `None` when it is absent. More than `limit` bytes are an error, found before any are
/// read.
pub(super) fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    read_whole(path, limit).inspect_err(|e| {
        // Files that are advice are done without, but not for this reason: opening fails at its next check.
        if e.status == Status::Memory {
            shortage::note(usize::try_from(e.needed).unwrap_or(usize::MAX));
        }
    })
}

fn read_whole(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let shown = path.to_string_lossy();
    let Some((file, len)) = open(path)? else { return Ok(None) };
    let too_large = |len: u64| {
        Error::format(format!(
            "{shown} has {len} bytes, more than the {limit} such a file may have; is it the right file?"
        ))
        .about(shown.as_ref())
        .numbers(Unit::Bytes, len, limit)
    };
    if len > limit {
        return Err(too_large(len));
    }
    let mut bytes = Vec::new();
    let refused = || Error::memory(shown.as_ref(), len).about(shown.as_ref());
    bytes.try_reserve_exact(usize::try_from(len).map_err(|_| refused())?).map_err(|_| refused())?;
    // The file may have grown since: the limit holds all the same.
    let read = file.take(limit.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|e| Error::io(format!("cannot read {shown}"), shown.as_ref(), &e))?;
    if bytes.len() as u64 > limit {
        return Err(too_large(bytes.len() as u64));
    }
    match foreign::content(&bytes) {
        Some(what) => Err(Error::format(format!("{shown} is {what}")).about(shown)),
        None => Ok(Some(bytes)),
    }
}

/// Reads a UTF-8 text file, `None` when it is absent.
pub(super) fn read_text(path: &Path, limit: u64) -> Result<Option<String>> {
    let Some(bytes) = read(path, limit)? else { return Ok(None) };
    String::from_utf8(bytes).map(Some).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let shown = path.to_string_lossy();
        Error::format(format!("{shown} is not UTF-8 from byte {at} on; a text file is expected")).about(shown)
    })
}

/// Reads a JSON file into a type, `None` when it is absent.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path, limit: u64) -> Result<Option<T>> {
    let Some(bytes) = read(path, limit)? else { return Ok(None) };
    json::parse(&bytes, &path.to_string_lossy()).map(Some)
}

/// Reads a file that holds one JSON object, `None` when it is absent. Its tree takes at most
/// [`CONFIG_TREE_BYTES_MAX`].
pub(super) fn read_object(path: &Path, limit: u64) -> Result<Option<Value>> {
    let Some(Tree(value)) = read_json::<Tree<CONFIG_TREE_BYTES_MAX>>(path, limit)? else { return Ok(None) };
    if !value.is_object() {
        let (found, shown) = (kind(&value), path.to_string_lossy());
        return Err(Error::format(format!("{shown} holds {found}; a JSON object is expected")).about(shown));
    }
    Ok(Some(value))
}

/// What a JSON value is, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A name or value from a file for a message: quoted, control characters escaped, and cut when long.
pub(super) fn quoted(text: &str) -> String {
    const CHARS_MAX: usize = 160;
    if text.chars().nth(CHARS_MAX).is_none() {
        return format!("{text:?}");
    }
    let head: String = text.chars().take(CHARS_MAX).collect();
    format!("{head:?}…")
}
