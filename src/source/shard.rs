//! One safetensors file: its header read and checked, then its tensors mapped or read.

use super::TensorInfo;
use super::bytes::Bytes;
use super::files::{self, quoted};
use super::safetensors::{self, Header, PREFIX_BYTES, Stored};
use crate::error::{Error, Result, Status, Unit};
use crate::os::aligned::AlignedBytes;
use crate::os::mmap::Mapping;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes read between two progress reports.
const READ_BYTES: usize = 8 << 20;

/// A safetensors file whose header has been read and checked. It is not kept open: a checkpoint may have more files
/// than the host may have descriptors.
#[derive(Debug)]
pub(super) struct Shard {
    path: PathBuf,
    pub shown: String,
    pub file_bytes: u64,
    data_begin: u64,
    pub tensors: Vec<Stored>,
    pub metadata: BTreeMap<String, String>,
    /// See [`Shard::stamp`].
    stamp: Option<u64>,
}

/// Counts bytes and asks whether to go on.
pub(super) struct Report<'a> {
    pub done: u64,
    pub total: u64,
    pub progress: &'a mut dyn FnMut(u64, u64) -> bool,
    pub subject: &'a str,
}

impl Report<'_> {
    pub fn add(&mut self, bytes: u64) -> Result<()> {
        self.done = self.done.saturating_add(bytes).min(self.total);
        if (self.progress)(self.done, self.total) {
            return Ok(());
        }
        let message = format!("loading {} was aborted by the progress callback", self.subject);
        Err(Error::new(Status::Aborted, message).about(self.subject).numbers(Unit::Bytes, self.total, self.done))
    }
}

impl Shard {
    /// Reads the header of a checkpoint's file, which must be there.
    pub fn open(path: &Path) -> Result<Shard> {
        Shard::find(path)?.ok_or_else(|| {
            let shown = path.to_string_lossy();
            Error::new(Status::Io, format!("{shown} is not there; download the model again")).about(shown)
        })
    }

    /// As [`Shard::open`]; `None` when there is no such file.
    pub fn find(path: &Path) -> Result<Option<Shard>> {
        let shown = path.to_string_lossy().into_owned();
        let Some((mut file, file_bytes)) = files::open(path)? else { return Ok(None) };
        if file_bytes < PREFIX_BYTES {
            return Err(safetensors::too_short(file_bytes, &shown));
        }
        let failed = |e: std::io::Error| Error::io(format!("cannot read {shown}"), shown.as_str(), &e);
        let mut prefix = [0; 8];
        file.read_exact(&mut prefix).map_err(failed)?;
        let header_bytes = safetensors::header_bytes(prefix, file_bytes, &shown)?;
        let refused = || Error::memory("a safetensors header", header_bytes).about(shown.as_str());
        let len = usize::try_from(header_bytes).map_err(|_| refused())?;
        let mut header = Vec::new();
        header.try_reserve_exact(len).map_err(|_| refused())?;
        header.resize(len, 0);
        file.read_exact(&mut header).map_err(failed)?;
        let data_begin = PREFIX_BYTES + header_bytes;
        let Header { tensors, metadata } = safetensors::parse_header(&header, file_bytes - data_begin, &shown)?;
        let stamp = stamp(&file, path);
        let path = path.to_path_buf();
        Ok(Some(Shard { path, shown, file_bytes, data_begin, tensors, metadata, stamp }))
    }

    /// A number that is another one when the file was written since: of its name, length and times. `None` when the system
    /// does not tell.
    pub fn stamp(&self) -> Option<u64> {
        self.stamp
    }

    /// Maps the tensors, or with `no_mmap` reads them, and adds them to `all`.
    pub fn load(self, no_mmap: bool, all: &mut Vec<(TensorInfo, Bytes)>, report: &mut Report<'_>) -> Result<()> {
        if no_mmap { self.read(all, report) } else { self.map(all, report) }
    }

    /// Opens the file again, for its data; it must have the length it had.
    fn reopen(&self) -> Result<File> {
        match files::open(&self.path)? {
            Some((file, bytes)) if bytes == self.file_bytes => Ok(file),
            _ => {
                let message = format!("{} changed while it was being opened; try again", self.shown);
                Err(Error::new(Status::Io, message).about(self.shown.as_str()))
            }
        }
    }

    fn map(self, all: &mut Vec<(TensorInfo, Bytes)>, report: &mut Report<'_>) -> Result<()> {
        let too_large = || Error::memory(format!("mapping {}", self.shown), self.file_bytes).about(self.shown.as_str());
        let len = usize::try_from(self.file_bytes).map_err(|_| too_large())?;
        let mapping = Mapping::new(&self.reopen()?, len).map_err(|e| {
            Error::io(format!("cannot map {}; try opening without mapping", self.shown), self.shown.as_str(), &e)
        })?;
        let mapping = Arc::new(mapping);
        for Stored { info, begin, end } in self.tensors {
            // Begin and end were checked against the file's length.
            let position = |offset: u64| usize::try_from(self.data_begin + offset).ok();
            let range = position(begin).zip(position(end)).map(|(begin, end)| begin..end);
            let bytes = range.and_then(|range| Bytes::mapped(&mapping, range));
            let bytes = bytes.ok_or_else(|| Error::internal(format!("{}: a tensor outside the file", self.shown)))?;
            all.push((info, bytes));
        }
        report.add(self.file_bytes)
    }

    fn read(self, all: &mut Vec<(TensorInfo, Bytes)>, report: &mut Report<'_>) -> Result<()> {
        let failed = |e: std::io::Error| Error::io(format!("cannot read {}", self.shown), self.shown.as_str(), &e);
        let mut file = self.reopen()?;
        file.seek(SeekFrom::Start(self.data_begin)).map_err(failed)?;
        report.add(self.data_begin)?;
        // Tensors follow one another without gaps, in this order.
        for Stored { info, begin, end } in self.tensors {
            let len = usize::try_from(end - begin)
                .map_err(|_| Error::memory(quoted(&info.name), end - begin).about(self.shown.as_str()))?;
            let mut buffer = allocate(len, &info.name, &self.shown)?;
            for chunk in buffer.as_mut_slice().chunks_mut(READ_BYTES) {
                file.read_exact(chunk).map_err(failed)?;
                report.add(chunk.len() as u64)?;
            }
            all.push((info, Bytes::from_aligned(buffer)));
        }
        Ok(())
    }
}

fn stamp(file: &File, path: &Path) -> Option<u64> {
    let metadata = file.metadata().ok()?;
    let nanos = |time: std::time::SystemTime| time.duration_since(std::time::UNIX_EPOCH).ok().map(|d| d.as_nanos());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // The time of the last change of any kind, which nobody can set.
    #[cfg(unix)]
    let changed =
        (std::os::unix::fs::MetadataExt::ctime(&metadata), std::os::unix::fs::MetadataExt::ctime_nsec(&metadata));
    #[cfg(not(unix))]
    let changed = ();
    let all = format!("{} {:?} {changed:?} {name}", metadata.len(), nanos(metadata.modified().ok()?)?);
    Some(xxh3_64(all.as_bytes()))
}

/// The bytes themselves where they are aligned to their element, else an aligned copy: the format promises no
/// alignment, and kernels read elements.
pub(super) fn align(bytes: &Bytes, info: &TensorInfo, subject: &str) -> Result<Bytes> {
    if bytes.as_slice().as_ptr().addr().is_multiple_of(info.dtype.size()) {
        return Ok(bytes.clone());
    }
    let mut copy = allocate(bytes.len(), &info.name, subject)?;
    copy.as_mut_slice().copy_from_slice(bytes.as_slice());
    Ok(Bytes::from_aligned(copy))
}

fn allocate(len: usize, tensor: &str, subject: &str) -> Result<AlignedBytes> {
    AlignedBytes::zeroed(len).ok_or_else(|| {
        let message = format!(
            "cannot allocate {len} bytes for tensor {}; map the files instead of reading them, or free memory",
            quoted(tensor)
        );
        Error::new(Status::Memory, message).about(subject).numbers(Unit::Bytes, len as u64, 0)
    })
}
