//! A safetensors file of the library's own making: written whole, found again, mapped. The only tensors the library writes
//! are derived from others, so such a file may always be thrown away.

use super::bytes::Bytes;
use super::safetensors::PREFIX_BYTES;
use super::shard::{Report, Shard};
use super::{TensorInfo, files};
use crate::error::{Error, Result, Status};
use crate::os::aligned::ALIGNMENT;
use crate::os::files::{open_to_change, replace};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes written between two questions whether to go on.
const WRITE_BYTES: usize = 8 << 20;

/// A file whose header has been read and checked.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    shard: Shard,
    /// The file that was looked at, whatever has its name by now.
    file: File,
}

impl TensorFile {
    /// Reads the header of the file `path`; `None` when there is none of that name.
    ///
    /// # Errors
    /// `Io`, and `Format` for a file that is damaged or something else.
    pub fn find(path: &Path) -> Result<Option<TensorFile>> {
        Ok(Shard::find(path)?.map(|(shard, file)| TensorFile { path: path.to_path_buf(), shard, file }))
    }

    /// A string of its metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.shard.metadata.get(key).map(String::as_str)
    }

    /// Its tensors, in the order of their bytes.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.shard.tensors.iter().map(|stored| &stored.info)
    }

    /// Maps the tensors, or with `no_mmap` reads them. Sorted by name. `go_on` is asked now and then.
    ///
    /// # Errors
    /// `Io`, `Memory`, `Aborted`.
    pub fn load(self, no_mmap: bool, go_on: &mut dyn FnMut() -> bool) -> Result<Vec<(TensorInfo, Bytes)>> {
        let (shown, total) = (self.shard.shown.clone(), self.shard.file_bytes);
        let mut all = Vec::new();
        let progress = &mut |_, _| go_on();
        let mut report = Report { done: 0, total, progress, subject: &shown };
        self.shard.load_from(self.file, no_mmap, &mut all, &mut report)?;
        all.sort_unstable_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Writes a string of the metadata anew, in place: the new one has as many bytes, and both are plain letters and digits.
    /// Whoever reads the header meanwhile sees the old string, the new one or a mixture; the tensors are not touched.
    ///
    /// # Errors
    /// `Io`; `Internal` when there is no such string.
    pub fn overwrite(&self, key: &str, value: &str) -> Result<()> {
        let shown = &self.shard.shown;
        let failed = |e: std::io::Error| Error::io(format!("cannot update {shown}"), shown.as_str(), &e);
        let missing = || Error::internal(format!("{shown} has no {key} of {} bytes", value.len()));
        let old = self.metadata(key).filter(|old| old.len() == value.len()).ok_or_else(missing)?;
        let mut file = open_to_change(&self.path)?;
        let mut header = Vec::new();
        (&mut file).take(self.shard.header_bytes()).read_to_end(&mut header).map_err(failed)?;
        let wanted = format!("\"{key}\":\"{old}\"");
        let at = header.windows(wanted.len()).position(|part| part == wanted.as_bytes()).ok_or_else(missing)?;
        file.seek(SeekFrom::Start((at + key.len() + 4) as u64)).map_err(failed)?;
        file.write_all(value.as_bytes()).map_err(failed)
    }

    /// Writes a file of these tensors, or leaves the old one. Their bytes follow one another, the first on a multiple of
    /// [`ALIGNMENT`]. `go_on` is asked now and then. Makes the folder if need be.
    ///
    /// # Errors
    /// `Io`, `Aborted`; `Internal` when a tensor's shape and bytes disagree.
    pub fn write(
        path: &Path,
        metadata: &[(&str, &str)],
        tensors: &[(TensorInfo, &[u8])],
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<()> {
        let header = TensorFile::header(metadata, tensors)?;
        let shown = path.to_string_lossy();
        let failed = |e: std::io::Error| Error::io(format!("cannot write {shown}"), shown.as_ref(), &e);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        replace(path, |file: &mut File| {
            file.write_all(&header).map_err(failed)?;
            for piece in tensors.iter().flat_map(|(_, bytes)| bytes.chunks(WRITE_BYTES)) {
                if !go_on() {
                    return Err(Error::new(Status::Aborted, format!("writing {shown} was aborted")).about(&*shown));
                }
                file.write_all(piece).map_err(failed)?;
            }
            Ok(())
        })
    }

    /// The header with its length in front.
    pub fn header(metadata: &[(&str, &str)], tensors: &[(TensorInfo, &[u8])]) -> Result<Vec<u8>> {
        let text = |text: &str| serde_json::Value::from(text).to_string();
        let strings: Vec<String> =
            metadata.iter().map(|(key, value)| format!("{}:{}", text(key), text(value))).collect();
        let mut json = format!("{{\"__metadata__\":{{{}}}", strings.join(","));
        let mut begin = 0;
        for (info, bytes) in tensors {
            let bits = info.shape.iter().try_fold(info.dtype.bits(), |bits, &dim| bits.checked_mul(dim));
            if bits != bytes.len().checked_mul(8) {
                let name = files::quoted(&info.name);
                return Err(Error::internal(format!(
                    "tensor {name} of shape {:?} has {} bytes",
                    info.shape,
                    bytes.len()
                )));
            }
            let (name, dtype, end) = (text(&info.name), info.dtype.safetensors_name(), begin + bytes.len());
            json += &format!(
                ",{name}:{{\"dtype\":\"{dtype}\",\"shape\":{:?},\"data_offsets\":[{begin},{end}]}}",
                info.shape
            );
            begin = end;
        }
        json.push('}');
        let prefix = PREFIX_BYTES as usize;
        let padded = (prefix + json.len()).next_multiple_of(ALIGNMENT) - prefix;
        json.extend(std::iter::repeat_n(' ', padded - json.len()));
        Ok([&(padded as u64).to_le_bytes(), json.as_bytes()].concat())
    }
}
