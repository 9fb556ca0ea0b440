//! Whether a model fits into memory, before it is downloaded: its headers alone are fetched, put at the beginning of files that
//! have no other content, and the engine plans with those.

use super::hub::{Hub, RemoteFile};
use astrai::Status;
use astrai::backend::device::GPU_BUILT;
use astrai::engine::{Engine, EngineOptions};
use astrai::limits::SAFETENSORS_HEADER_BYTES_MAX;
use astrai::os::memory;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// Bytes of headers fetched at first: nearly all are shorter.
const SAFETENSORS_FIRST: u64 = 1 << 20;
const GGUF_FIRST: u64 = 16 << 20;
/// Bytes fetched of a `.gguf` file whose header is longer than that, at most.
const GGUF_LAST: u64 = 96 << 20;
/// What a model takes beside its weights where no plan can be made: this share of them, within bounds.
const BESIDE_SHARE: u64 = 8;
const BESIDE_MIN: u64 = 64 << 20;
const BESIDE_MAX: u64 = 2 << 30;

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Bytes that it takes of those available; 0 available when the system does not tell.
    Fits {
        needed: u64,
        available: u64,
    },
    TooLarge {
        needed: u64,
        available: u64,
    },
    /// The engine cannot run it, however much memory there is.
    Unsupported(String),
}

/// Where the headers of a model come from.
pub struct Headers<'a> {
    pub hub: &'a Hub,
    pub commit: &'a str,
}

/// By size alone.
pub fn by_size(bytes: u64) -> Fit {
    let needed = bytes.saturating_add((bytes / BESIDE_SHARE).clamp(BESIDE_MIN, BESIDE_MAX));
    match memory::available_bytes() {
        Some(available) if needed > available => Fit::TooLarge { needed, available },
        available => Fit::Fits { needed, available: available.unwrap_or(0) },
    }
}

/// Whether a model of these files fits: as the engine plans it, or where it cannot plan with the headers, by size. `small` are
/// files that are there already, such as `config.json`, which a folder of safetensors needs beside them.
pub fn fits(headers: &Headers<'_>, files: &[RemoteFile], small: &[PathBuf], told: &mut dyn FnMut(&str)) -> Fit {
    let bytes = files.iter().fold(0u64, |sum, file| sum.saturating_add(file.bytes.unwrap_or(0)));
    let size = by_size(bytes);
    // On a GPU more may fit than in the machine's memory.
    if matches!(size, Fit::TooLarge { .. }) && !GPU_BUILT {
        return size;
    }
    for prefix in [GGUF_FIRST, GGUF_LAST] {
        match planned(headers, files, small, prefix, told) {
            Some(Ok(fit)) => return fit,
            // The header may be longer.
            Some(Err(Status::Format)) if small.is_empty() && bytes > prefix => {}
            _ => break,
        }
    }
    size
}

/// What the engine plans; `None` when the headers cannot be had.
fn planned(
    headers: &Headers<'_>,
    files: &[RemoteFile],
    small: &[PathBuf],
    prefix: u64,
    told: &mut dyn FnMut(&str),
) -> Option<Result<Fit, Status>> {
    let dir = Scratch::new()?;
    for path in small {
        fs::copy(path, dir.0.join(path.file_name()?)).ok()?;
    }
    let mut model = dir.0.clone();
    for (at, file) in files.iter().enumerate() {
        let name = file.name.rsplit('/').next().unwrap_or(&file.name);
        let path = dir.0.join(name);
        let gguf = name.to_ascii_lowercase().ends_with(".gguf");
        let bytes = file.bytes?;
        let header = match gguf {
            true => headers.first(file, prefix.min(bytes), told)?,
            false => headers.safetensors(file, bytes, told)?,
        };
        write_sparse(&path, &header, bytes).ok()?;
        if gguf && at == 0 {
            model = path;
        }
    }
    Some(match Engine::plan(&model, &EngineOptions::default()) {
        Ok(plan) if plan.fits => Ok(Fit::Fits { needed: plan.total_bytes, available: plan.available_bytes }),
        Ok(plan) => Ok(Fit::TooLarge { needed: plan.total_bytes, available: plan.available_bytes }),
        Err(error) if error.status == Status::Unsupported => Ok(Fit::Unsupported(error.message)),
        Err(error) => Err(error.status),
    })
}

impl Headers<'_> {
    /// The first bytes of a file.
    fn first(&self, file: &RemoteFile, count: u64, told: &mut dyn FnMut(&str)) -> Option<Vec<u8>> {
        let fetched = self.hub.persist(told, || {
            let mut answer = self.hub.bytes(self.commit, &file.name, 0, Some(count))?;
            let mut bytes = Vec::new();
            let read = answer.response.body_mut().as_reader().take(count).read_to_end(&mut bytes);
            read.map_err(|e| super::http::Trouble::Passing { reason: e.to_string(), after: None })?;
            Ok(bytes)
        });
        fetched.ok().filter(|bytes| bytes.len() as u64 == count)
    }

    /// The header of a safetensors file, whose first eight bytes are its length.
    fn safetensors(&self, file: &RemoteFile, bytes: u64, told: &mut dyn FnMut(&str)) -> Option<Vec<u8>> {
        let first = self.first(file, SAFETENSORS_FIRST.min(bytes), told)?;
        let length = u64::from_le_bytes(first.get(..8)?.try_into().ok()?);
        let end = length.checked_add(8).filter(|end| *end <= bytes && length <= SAFETENSORS_HEADER_BYTES_MAX)?;
        if end <= first.len() as u64 { Some(first) } else { self.first(file, end, told) }
    }
}

/// A file with this beginning and nothing but a length behind it.
fn write_sparse(path: &Path, header: &[u8], bytes: u64) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(header)?;
    file.set_len(bytes)
}

/// A folder that is removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Option<Scratch> {
        for number in 0..100 {
            let path = std::env::temp_dir().join(format!("astrai-plan-{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Some(Scratch(path)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(_) => return None,
            }
        }
        None
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nobody can be told; the system clears its folder for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_size_what_is_larger_than_memory_does_not_fit() {
        assert!(matches!(by_size(1 << 50), Fit::TooLarge { .. }));
        assert!(matches!(by_size(1 << 10), Fit::Fits { needed, .. } if needed > BESIDE_MIN));
    }
}
