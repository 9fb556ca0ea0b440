//! The file of a saved prefix: the model and configuration it belongs to, its token ids, and the contents of its pages.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | [`MAGIC`] |
//! | 4 | [`VERSION`], little-endian like all numbers here |
//! | 4 | length of the description |
//! | … | the description: a JSON object, [`super::identity::Description`] |
//! | 8 | XXH3-64 of all bytes before |
//! | 4 × tokens | token ids |
//! | … | for each page, its frame in each layer group, in the format of [`crate::backend::Cache::read_page`]; of a group that does not keep all, only what the end needs |
//! | 8 | XXH3-64 of tokens and pages, seeded with the first checksum |
//!
//! Later versions must keep the first three fields and the first checksum, so that an older library can tell a newer
//! file from a damaged one. A reader trusts nothing in the file: lengths are checked against limits and the file's own
//! length before memory is allocated. Damage is `Format`; an intact file of another model or configuration is
//! `Mismatch` with both values. The checksums detect accidental damage, not deliberate manipulation of keys and values.

use super::Identity;
use super::identity::Description;
use crate::error::{Error, Result, Status, Unit, reserved};
use crate::limits;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

const MAGIC: &[u8; 8] = b"ASTRAIKV";
/// Bumped when the layout of the file changes.
const VERSION: u32 = 1;
const FIXED_BYTES: usize = 16;
const SUM_BYTES: usize = 8;

fn damaged(shown: &str, what: impl std::fmt::Display) -> Error {
    Error::format(format!("{shown} is no sound prefix file: {what}; save the prefix anew")).about(shown)
}

/// Writes a prefix file sequentially: `begin`, any number of `data`, `end`.
pub(super) struct Writer<'a> {
    file: &'a mut File,
    shown: &'a str,
    sum: Xxh3,
}

impl<'a> Writer<'a> {
    /// Writes everything up to the pages.
    pub fn begin(file: &'a mut File, shown: &'a str, description: Description, tokens: &[u32]) -> Result<Writer<'a>> {
        let description = Description { tokens: tokens.len() as u64, ..description };
        let json = serde_json::to_vec(&description).map_err(|e| Error::internal(e.to_string()))?;
        let header = header(VERSION, &json)?;
        let seed = xxh3_64(&header);
        let mut writer = Writer { file, shown, sum: Xxh3::with_seed(seed) };
        writer.write(&header)?;
        writer.write(&seed.to_le_bytes())?;
        let mut bytes = reserved("token ids", tokens.len() * 4)?;
        tokens.iter().for_each(|id| bytes.extend_from_slice(&id.to_le_bytes()));
        writer.data(&bytes)?;
        Ok(writer)
    }

    /// Appends page contents.
    pub fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.sum.update(bytes);
        self.write(bytes)
    }

    /// Writes the final checksum.
    pub fn end(mut self) -> Result<()> {
        let sum = self.sum.digest();
        self.write(&sum.to_le_bytes())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io(format!("cannot write {}", self.shown), self.shown, &e))
    }
}

fn header(version: u32, json: &[u8]) -> Result<Vec<u8>> {
    if json.len() > limits::PREFIX_HEADER_BYTES_MAX {
        return Err(Error::internal(format!("the description of a prefix has {} bytes", json.len())));
    }
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&version.to_le_bytes());
    header.extend_from_slice(&(json.len() as u32).to_le_bytes());
    header.extend_from_slice(json);
    Ok(header)
}

/// An open prefix file that was verified from end to end and belongs to this engine's model and configuration.
pub(super) struct Reader {
    file: File,
    shown: String,
    /// File offset of the first page.
    pages_start: u64,
    pages_bytes: u64,
    /// Checksum over the tokens and the pages read so far.
    sum: Xxh3,
    /// The checksum stored at the end of the file.
    sum_wanted: u64,
    pub tokens: Vec<u32>,
}

impl Reader {
    /// Opens and verifies a file.
    ///
    /// # Errors
    /// `Io`, `Format` for damage, `Mismatch`, `Context` when the engine's context is shorter than the prefix, `Memory`;
    /// `Closed` and the other errors of [`Identity::description`].
    pub fn open(path: &Path, identity: &Identity) -> Result<Reader> {
        let shown = path.to_string_lossy().into_owned();
        let io = |e: std::io::Error| Error::io(format!("cannot read {shown}"), shown.as_str(), &e);
        // Opening a named pipe would block.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(Error::new(Status::Io, format!("{shown} is not a regular file")).about(shown));
        }
        let mut file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        let (version, json, seed) = read_header(&mut file, len, &shown)?;
        if version != VERSION {
            let message = format!("{shown} has version {version} of the prefix format, this library reads {VERSION}");
            let error = Error::new(Status::Mismatch, message).about(shown);
            return Err(error.numbers(Unit::Count, version as u64, VERSION as u64));
        }
        let description: Description =
            serde_json::from_slice(&json).map_err(|e| damaged(&shown, format_args!("its description: {e}")))?;
        identity.compare(&description, &shown)?;
        let data_start = (FIXED_BYTES + json.len() + SUM_BYTES) as u64;
        let tokens = checked_len(&description, identity, data_start, len, &shown)?;
        let pages_start = data_start + tokens as u64 * 4;
        let pages_bytes = len - SUM_BYTES as u64 - pages_start;
        let sum = Xxh3::with_seed(seed);
        let mut reader = Reader { file, shown, pages_start, pages_bytes, sum, sum_wanted: 0, tokens: Vec::new() };
        reader.read_tokens(tokens)?;
        reader.verify()?;
        reader.check_tokens(identity.layout.vocab)?;
        // Last, because it may have to read all weights.
        identity.compare_weights(&description, &reader.shown)?;
        Ok(reader)
    }

    fn read_tokens(&mut self, count: usize) -> Result<()> {
        let mut bytes = buffer(count * 4)?;
        self.read(&mut bytes)?;
        self.sum.update(&bytes);
        self.tokens = reserved("token ids", count)?;
        let ids = bytes.chunks_exact(4).filter_map(|b| b.try_into().ok().map(u32::from_le_bytes));
        self.tokens.extend(ids);
        Ok(())
    }

    /// Reads all pages to verify the checksum, then seeks back to the first page.
    fn verify(&mut self) -> Result<()> {
        let before = self.sum.clone();
        let mut piece = buffer(limits::PREFIX_PIECE_BYTES.min(self.pages_bytes as usize))?;
        let mut left = self.pages_bytes;
        while left > 0 {
            let count = (piece.len() as u64).min(left) as usize;
            self.data(&mut piece[..count])?;
            left -= count as u64;
        }
        let mut wanted = [0; SUM_BYTES];
        self.read(&mut wanted)?;
        self.sum_wanted = u64::from_le_bytes(wanted);
        self.end()?;
        self.sum = before;
        let back = self.file.seek(SeekFrom::Start(self.pages_start));
        back.map(|_| ()).map_err(|e| Error::io(format!("cannot read {}", self.shown), self.shown.as_str(), &e))
    }

    fn check_tokens(&self, vocab: usize) -> Result<()> {
        match self.tokens.iter().position(|&id| id as usize >= vocab) {
            None => Ok(()),
            Some(at) => {
                let what =
                    format_args!("token {} at index {at}, the vocabulary has {vocab}", self.tokens[at]).to_string();
                Err(damaged(&self.shown, what))
            }
        }
    }

    /// Reads the next bytes of the pages and adds them to the checksum.
    pub fn data(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.read(bytes)?;
        self.sum.update(bytes);
        Ok(())
    }

    /// To be called after all pages were read: fails if the contents changed since they were verified.
    pub fn end(&self) -> Result<()> {
        if self.sum.digest() == self.sum_wanted {
            return Ok(());
        }
        Err(damaged(&self.shown, "the checksum of its contents is wrong"))
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<()> {
        let failed = |e| Error::io(format!("cannot read {}", self.shown), self.shown.as_str(), &e);
        self.file.read_exact(bytes).map_err(failed)
    }
}

/// A zeroed buffer, or a `Memory` error.
pub(super) fn buffer(bytes: usize) -> Result<Vec<u8>> {
    let mut buffer = reserved("a piece of a prefix file", bytes)?;
    buffer.resize(bytes, 0);
    Ok(buffer)
}

/// Reads the header of a file of `len` bytes: version, description, and checksum.
fn read_header(file: &mut impl Read, len: u64, shown: &str) -> Result<(u32, Vec<u8>, u64)> {
    let mut read =
        |bytes: &mut [u8]| file.read_exact(bytes).map_err(|e| Error::io(format!("cannot read {shown}"), shown, &e));
    if len < (FIXED_BYTES + SUM_BYTES) as u64 {
        return Err(damaged(shown, format_args!("it has only {len} bytes")));
    }
    let mut header = vec![0; FIXED_BYTES];
    read(&mut header)?;
    let number = |at: usize| header.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    let (version, json_len) = (number(8), number(12) as usize);
    if !header.starts_with(MAGIC) {
        return Err(damaged(shown, "it does not begin as one"));
    }
    if json_len > limits::PREFIX_HEADER_BYTES_MAX || (FIXED_BYTES + json_len + SUM_BYTES) as u64 > len {
        let max = limits::PREFIX_HEADER_BYTES_MAX;
        let what = format_args!("its description would have {json_len} bytes of {len}; {max} are allowed").to_string();
        return Err(damaged(shown, what).numbers(Unit::Bytes, json_len as u64, len.min(max as u64)));
    }
    header.resize(FIXED_BYTES + json_len, 0);
    read(&mut header[FIXED_BYTES..])?;
    let mut sum = [0; SUM_BYTES];
    read(&mut sum)?;
    let sum = u64::from_le_bytes(sum);
    if xxh3_64(&header) != sum {
        return Err(damaged(shown, "the checksum of its description is wrong"));
    }
    Ok((version, header.split_off(FIXED_BYTES), sum))
}

/// The number of tokens, after checking that it fits the context and that the file has exactly the resulting length.
fn checked_len(d: &Description, identity: &Identity, data_start: u64, len: u64, shown: &str) -> Result<usize> {
    let page_tokens = identity.layout.page_tokens as u64;
    if !d.tokens.is_multiple_of(page_tokens) {
        return Err(damaged(shown, format_args!("{} tokens are no whole pages of {page_tokens}", d.tokens)));
    }
    if d.tokens > identity.layout.context as u64 {
        let message = format!(
            "{shown} holds {} tokens, the context of this engine {}; restore a shorter one, {}",
            d.tokens,
            identity.layout.context,
            identity.layout.longest.advice(identity.layout.context)
        );
        let error = Error::new(Status::Context, message).about(shown);
        return Err(error.numbers(Unit::Tokens, d.tokens, identity.layout.context as u64));
    }
    let pages = usize::try_from(d.tokens / page_tokens).ok();
    let wanted = pages
        .and_then(|pages| identity.layout.bytes(pages))
        .and_then(|bytes| bytes.checked_add(d.tokens.checked_mul(4)?))
        .and_then(|bytes| bytes.checked_add(data_start + SUM_BYTES as u64));
    match wanted {
        Some(wanted) if wanted == len => Ok(d.tokens as usize),
        _ => {
            let wanted = wanted.unwrap_or(u64::MAX);
            let what = format_args!("{} tokens take {wanted} bytes, it has {len}", d.tokens).to_string();
            Err(damaged(shown, what).numbers(Unit::Bytes, wanted, len))
        }
    }
}

#[cfg(test)]
mod tests;
