//! One safetensors file: its header read and checked, then its tensors mapped or read.

use super::TensorInfo;
use super::bytes::Bytes;
use super::files::{self, quoted};
use super::foreign;
use super::safetensors::{self, Budget, Header, PREFIX_BYTES, Stored};
use crate::error::{Error, Result, Status, Unit};
use crate::os::aligned::AlignedBytes;
use crate::os::mmap::Mapping;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes read between two progress reports.
const READ_BYTES: usize = 8 << 20;
/// A time younger than this may stay the same although the file changes: longer than the tick of any file system's clock.
const RECENT: Duration = Duration::from_secs(2);

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
    /// Reads the header of a checkpoint's file, which must be there, within what its headers may still take.
    pub fn open(path: &Path, budget: &mut Budget) -> Result<Shard> {
        Shard::find_within(path, budget)?.map(|(shard, _)| shard).ok_or_else(|| {
            let shown = path.to_string_lossy();
            Error::new(Status::Io, format!("{shown} is not there; download the model again")).about(shown)
        })
    }

    /// As [`Shard::open`], with the file; `None` when there is none.
    pub fn find(path: &Path) -> Result<Option<(Shard, File)>> {
        Shard::find_within(path, &mut Budget::default())
    }

    /// A file whose header was read elsewhere: its tensors are sorted by position, counted from `data_begin`, and lie in it.
    pub fn of(file: &File, path: PathBuf, file_bytes: u64, data_begin: u64, tensors: Vec<Stored>) -> Shard {
        let (shown, stamp) = (path.to_string_lossy().into_owned(), stamp(file, &path));
        Shard { path, shown, file_bytes, data_begin, tensors, metadata: BTreeMap::new(), stamp }
    }

    fn find_within(path: &Path, budget: &mut Budget) -> Result<Option<(Shard, File)>> {
        let shown = path.to_string_lossy().into_owned();
        let Some((mut file, file_bytes)) = files::open(path)? else { return Ok(None) };
        if file_bytes < PREFIX_BYTES {
            return Err(safetensors::too_short(file_bytes, &shown));
        }
        let failed = |e: std::io::Error| Error::io(format!("cannot read {shown}"), shown.as_str(), &e);
        let mut prefix = [0; 8];
        file.read_exact(&mut prefix).map_err(failed)?;
        let header_bytes = match safetensors::header_bytes(prefix, file_bytes, &shown) {
            Ok(bytes) => bytes,
            // Many a file that is something else begins so that it gives an absurd length.
            Err(error) => return Err(foreign::weights_file(prefix, &mut file, &shown).unwrap_or(error)),
        };
        budget.take_header(header_bytes, &shown)?;
        let refused = || Error::memory("a safetensors header", header_bytes).about(shown.as_str());
        let len = usize::try_from(header_bytes).map_err(|_| refused())?;
        let mut header = Vec::new();
        header.try_reserve_exact(len).map_err(|_| refused())?;
        header.resize(len, 0);
        file.read_exact(&mut header).map_err(failed)?;
        let data_begin = PREFIX_BYTES + header_bytes;
        let Header { tensors, metadata } =
            safetensors::parse_header_within(&header, file_bytes - data_begin, &shown, budget)?;
        let stamp = stamp(&file, path);
        let path = path.to_path_buf();
        Ok(Some((Shard { path, shown, file_bytes, data_begin, tensors, metadata, stamp }, file)))
    }

    /// Bytes before the data.
    pub fn header_bytes(&self) -> u64 {
        self.data_begin
    }

    /// A number that is another one when the file was written since: of its name, place, length and times. `None` when the
    /// system does not tell, or the file was written so recently that its time may not tell.
    pub fn stamp(&self) -> Option<u64> {
        self.stamp
    }

    /// Opens the file again, maps its tensors, or with `no_mmap` reads them, and adds them to `all`.
    pub fn load(self, no_mmap: bool, all: &mut Vec<(TensorInfo, Bytes)>, report: &mut Report<'_>) -> Result<()> {
        let file = self.reopen()?;
        self.load_from(file, no_mmap, all, report)
    }

    /// As [`Shard::load`], from the file that [`Shard::find`] gave.
    pub fn load_from(
        self,
        file: File,
        no_mmap: bool,
        all: &mut Vec<(TensorInfo, Bytes)>,
        report: &mut Report<'_>,
    ) -> Result<()> {
        if no_mmap { self.read(file, all, report) } else { self.map(&file, all, report) }
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

    fn map(self, file: &File, all: &mut Vec<(TensorInfo, Bytes)>, report: &mut Report<'_>) -> Result<()> {
        let too_large = || Error::memory(format!("mapping {}", self.shown), self.file_bytes).about(self.shown.as_str());
        let len = usize::try_from(self.file_bytes - self.data_begin).map_err(|_| too_large())?;
        let mapping = Mapping::new(file, self.data_begin, len).map_err(|e| {
            Error::io(format!("cannot map {}; try opening without mapping", self.shown), self.shown.as_str(), &e)
        })?;
        let mapping = Arc::new(mapping);
        for Stored { info, begin, end } in self.tensors {
            let range = usize::try_from(begin).ok().zip(usize::try_from(end).ok()).map(|(begin, end)| begin..end);
            let bytes = range.and_then(|range| Bytes::mapped(&mapping, range));
            let bytes = bytes.ok_or_else(|| Error::internal(format!("{}: a tensor outside the file", self.shown)))?;
            all.push((info, bytes));
        }
        report.add(self.file_bytes)
    }

    fn read(self, mut file: File, all: &mut Vec<(TensorInfo, Bytes)>, report: &mut Report<'_>) -> Result<()> {
        let failed = |e: std::io::Error| Error::io(format!("cannot read {}", self.shown), self.shown.as_str(), &e);
        file.seek(SeekFrom::Start(self.data_begin)).map_err(failed)?;
        report.add(self.data_begin)?;
        // Tensors follow one another in this order; gaps are those that another file has.
        let mut at = 0;
        for Stored { info, begin, end } in self.tensors {
            if begin != at {
                file.seek(SeekFrom::Start(self.data_begin.saturating_add(begin))).map_err(failed)?;
                report.add(begin.saturating_sub(at))?;
            }
            at = end;
            let len = usize::try_from(end - begin)
                .map_err(|_| Error::memory(quoted(&info.name), end - begin).about(self.shown.as_str()))?;
            let mut buffer = allocate(len, &info.name, &self.shown)?;
            for chunk in buffer.as_mut_slice().chunks_mut(READ_BYTES) {
                file.read_exact(chunk).map_err(failed)?;
                report.add(chunk.len() as u64)?;
            }
            all.push((info, Bytes::from_aligned(buffer)));
        }
        match self.file_bytes.saturating_sub(self.data_begin).saturating_sub(at) {
            0 => Ok(()),
            rest => report.add(rest),
        }
    }
}

/// See [`Shard::stamp`].
fn stamp(file: &File, path: &Path) -> Option<u64> {
    let metadata = file.metadata().ok()?;
    let modified = metadata.modified().ok()?;
    // A later change within the same tick of the system's clock would leave the time as it is.
    if SystemTime::now().duration_since(modified).ok()? < RECENT {
        return None;
    }
    let modified = modified.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_nanos();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Which file it is, and when it was last changed in any way: nobody can set these.
    #[cfg(unix)]
    let own = {
        use std::os::unix::fs::MetadataExt;
        (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
    };
    #[cfg(not(unix))]
    let own = ();
    Some(xxh3_64(format!("{} {modified} {own:?} {name}", metadata.len()).as_bytes()))
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
