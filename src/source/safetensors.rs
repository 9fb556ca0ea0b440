//! The safetensors header: eight bytes of length, a JSON object, then the tensors' bytes without gap or overlap.
//! Format: <https://github.com/huggingface/safetensors#format>.
//!
//! The `safetensors` crate reads each entry and decides whether entries belong together. Added here is what it does not do: bounds
//! for the length of the header, the number of tensors and their dimensions, which are checked while the header is read; tensors
//! that occur twice, of which the crate takes the last; and messages with the tensor's name and numbers.

use super::TensorInfo;
use super::files::quoted;
use crate::dtype::DType;
use crate::error::{Error, Result, Unit, reserved};
use crate::limits;
use crate::os::shortage;
use safetensors::SafeTensorError;
use safetensors::tensor::{Metadata, TensorInfo as Entry};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

/// Bytes of the length in front of the header.
pub const PREFIX_BYTES: u64 = 8;

/// A tensor and where its bytes are, counted from the end of the header.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Name, type, shape.
    pub info: TensorInfo,
    /// First byte.
    pub begin: u64,
    /// One past the last byte.
    pub end: u64,
}

/// The header's length, checked: within the file and the format's limit. `file` is the path, for messages.
pub fn header_bytes(prefix: [u8; 8], file_bytes: u64, file: &str) -> Result<u64> {
    let header = u64::from_le_bytes(prefix);
    let limit = limits::SAFETENSORS_HEADER_BYTES_MAX;
    if header > limit {
        let message = format!(
            "{file}: its first 8 bytes give a header of {header} bytes, more than the {limit} the format allows; \
             this is not a safetensors file, or it is damaged"
        );
        return Err(Error::format(message).about(file).numbers(Unit::Bytes, header, limit));
    }
    let after_prefix = file_bytes.saturating_sub(PREFIX_BYTES);
    if header > after_prefix {
        let message = format!(
            "{file}: its header should have {header} bytes but only {after_prefix} follow; the file is cut off, download it again"
        );
        return Err(Error::format(message).about(file).numbers(Unit::Bytes, header, after_prefix));
    }
    Ok(header)
}

/// Error for a file too short to hold even the header's length.
pub fn too_short(file_bytes: u64, file: &str) -> Error {
    let message =
        format!("{file}: has {file_bytes} bytes; a safetensors file starts with {PREFIX_BYTES} bytes of header length");
    Error::format(message).about(file).numbers(Unit::Bytes, PREFIX_BYTES, file_bytes)
}

/// What a header says.
#[derive(Debug)]
pub struct Header {
    /// Sorted by position; they cover the data exactly, and each name stands once.
    pub tensors: Vec<Stored>,
    /// The free-form strings of `__metadata__`, the first [`limits::METADATA_BYTES_MAX`] bytes of them.
    pub metadata: BTreeMap<String, String>,
}

/// What the headers of one checkpoint may still take, all its files together.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Tensors.
    pub tensors: usize,
    /// Bytes of headers.
    pub header_bytes: u64,
}

impl Default for Budget {
    /// That of a checkpoint of which nothing has been read.
    fn default() -> Budget {
        Budget { tensors: limits::TENSORS_MAX, header_bytes: limits::CHECKPOINT_HEADER_BYTES_MAX }
    }
}

impl Budget {
    /// Takes the bytes of a header, before they are read.
    ///
    /// # Errors
    /// `Format`, when there are not so many left.
    pub fn take_header(&mut self, bytes: u64, file: &str) -> Result<()> {
        let limit = limits::CHECKPOINT_HEADER_BYTES_MAX;
        self.header_bytes = self.header_bytes.checked_sub(bytes).ok_or_else(|| {
            let taken = limit.saturating_sub(self.header_bytes).saturating_add(bytes);
            let message = format!(
                "{file}: the headers of the checkpoint's files up to this one have {taken} bytes, more than the {limit} that are read"
            );
            Error::format(message).about(file).numbers(Unit::Bytes, taken, limit)
        })?;
        Ok(())
    }
}

/// Parses the JSON of a header followed by `data_bytes` bytes, of a checkpoint with no other file.
pub fn parse_header(json: &[u8], data_bytes: u64, file: &str) -> Result<Header> {
    parse_header_within(json, data_bytes, file, &mut Budget::default())
}

/// As [`parse_header`], and takes its tensors from a budget while they are read.
pub(super) fn parse_header_within(json: &[u8], data_bytes: u64, file: &str, budget: &mut Budget) -> Result<Header> {
    let text = std::str::from_utf8(json).map_err(|e| {
        let at = e.valid_up_to();
        Error::format(format!("{file}: header is not UTF-8 from its byte {at} on; the file is damaged")).about(file)
    })?;
    let read = || -> serde_json::Result<_> {
        let mut reader = serde_json::Deserializer::from_str(text);
        let header = HeaderVisitor { tensors_max: budget.tensors }.deserialize(&mut reader)?;
        reader.end()?;
        Ok((Metadata::new(None, header.tensors.clone()), header))
    };
    let estimate = text.len().saturating_mul(limits::HEADER_MEMORY_FACTOR).saturating_add(limits::TEXT_MEMORY_BYTES);
    let (checked, header) = shortage::backed("the header of a safetensors file", estimate, read)?
        .map_err(|e| Error::format(format!("{file}: header is not what safetensors demands: {e}")).about(file))?;
    let RawHeader { tensors, metadata } = header;
    budget.tensors -= tensors.len().min(budget.tensors);
    let covered = match checked {
        Ok(checked) => checked.data_len() as u64,
        Err(error) => return Err(refused(&error, &tensors, file)),
    };
    if covered != data_bytes {
        return Err(wrong_length(&tensors, covered, data_bytes, file));
    }
    let mut list = reserved("the list of tensors", tensors.len())?;
    for (name, Entry { dtype, shape, data_offsets: (begin, end) }) in tensors {
        let known = DType::from_safetensors(&dtype.to_string());
        let dtype = known.ok_or_else(|| {
            Error::format(format!("{file}: tensor {} has the unknown type {dtype}", quoted(&name))).about(file)
        })?;
        list.push(Stored { info: TensorInfo { name, dtype, shape }, begin: begin as u64, end: end as u64 });
    }
    Ok(Header { tensors: list, metadata })
}

/// What the crate's refusal means: it names no tensor in most cases, so each is given to it alone.
fn refused(error: &SafeTensorError, tensors: &[(String, Entry)], file: &str) -> Error {
    let mut expected = 0;
    for (name, entry) in tensors {
        let Entry { dtype, ref shape, data_offsets: (begin, end) } = *entry;
        let fault = |what: String| Error::format(format!("{file}: tensor {} {what}", quoted(name))).about(file);
        let offset =
            |needed: usize, found: usize, what: String| fault(what).numbers(Unit::Bytes, needed as u64, found as u64);
        if end < begin {
            return fault(format!("ends at byte {end}, before it begins at {begin}"));
        }
        let moved = Entry { data_offsets: (0, end - begin), ..entry.clone() };
        match Metadata::new(None, vec![(String::new(), moved)]) {
            Err(SafeTensorError::ValidationOverflow) => {
                return fault(format!("has shape {shape:?}, too large for this machine to address"));
            }
            Err(error) => {
                // Neither product overflows: the crate computed both.
                let bits = shape.iter().product::<usize>() * dtype.bitsize();
                if bits % 8 != 0 {
                    return fault(format!(
                        "of shape {shape:?} and type {dtype} has {bits} bits, which are no whole bytes"
                    ));
                }
                let (needed, held) = (bits / 8, end - begin);
                let what = format!(
                    "of shape {shape:?} and type {dtype} needs {needed} bytes, its offsets hold {held}: {error}"
                );
                return offset(needed, held, what);
            }
            Ok(_) if begin != expected => {
                let fault = if begin < expected { "overlaps the tensor before it" } else { "leaves a gap before it" };
                let what = format!("{fault}: it begins at byte {begin} of the data, expected {expected}");
                return offset(expected, begin, what);
            }
            Ok(_) => expected = end,
        }
    }
    Error::format(format!("{file}: {error}")).about(file)
}

/// The file holds more or fewer bytes than its tensors cover.
fn wrong_length(tensors: &[(String, Entry)], covered: u64, data_bytes: u64, file: &str) -> Error {
    let beyond = tensors.iter().find(|(_, entry)| entry.data_offsets.1 as u64 > data_bytes);
    let message = match beyond {
        Some((name, entry)) => {
            let (name, end) = (quoted(name), entry.data_offsets.1);
            let what =
                format!("{file}: tensor {name} ends at byte {end} of the data but only {data_bytes} follow the header");
            return Error::format(format!("{what}; the file is cut off")).about(file).numbers(
                Unit::Bytes,
                end as u64,
                data_bytes,
            );
        }
        None => {
            format!("{file}: its tensors cover {covered} bytes of data but the file holds {data_bytes}; it is damaged")
        }
    };
    Error::format(message).about(file).numbers(Unit::Bytes, covered, data_bytes)
}

/// The entries of a header, sorted by position, each name once.
struct RawHeader {
    tensors: Vec<(String, Entry)>,
    metadata: BTreeMap<String, String>,
}

/// Reads at most so many tensors.
struct HeaderVisitor {
    tensors_max: usize,
}

impl<'de> DeserializeSeed<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<RawHeader, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    crate::json::expects!("a JSON object with one entry for each tensor");

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<RawHeader, A::Error> {
        let mut tensors: Vec<(String, Entry)> = Vec::new();
        let mut metadata = None;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                let strings = map.next_value::<Option<Strings>>();
                let strings = strings.map_err(|e| de::Error::custom(format!("__metadata__: {e}")))?;
                if metadata.replace(strings.map(|s| s.0).unwrap_or_default()).is_some() {
                    return Err(de::Error::custom("__metadata__ stands in the header twice"));
                }
                continue;
            }
            if tensors.len() == self.tensors_max {
                let together =
                    if self.tensors_max < limits::TENSORS_MAX { ", with those of the files before" } else { "" };
                return Err(de::Error::custom(format!("more than {} tensors{together}", limits::TENSORS_MAX)));
            }
            let fault = |what: &dyn fmt::Display| de::Error::custom(format!("tensor {}: {what}", quoted(&name)));
            let entry = map.next_value::<Entry>().map_err(|e| fault(&e))?;
            if entry.shape.len() > limits::TENSOR_RANK_MAX {
                return Err(fault(&format_args!("more than {} dimensions", limits::TENSOR_RANK_MAX)));
            }
            tensors.push((name, entry));
        }
        tensors.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        if let Some(pair) = tensors.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(de::Error::custom(format!("tensor {} stands in the header twice", quoted(&pair[0].0))));
        }
        tensors.sort_by_key(|(_, entry)| entry.data_offsets);
        Ok(RawHeader { tensors, metadata: metadata.unwrap_or_default() })
    }
}

/// The free-form strings of `__metadata__`: all are checked, few are kept.
struct Strings(BTreeMap<String, String>);

crate::json::visited!(Strings, StringsVisitor);

impl<'de> Visitor<'de> for StringsVisitor {
    type Value = Strings;

    crate::json::expects!("an object of strings");

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Strings, A::Error> {
        let (mut kept, mut bytes) = (BTreeMap::new(), 0);
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            bytes += key.len() + value.len();
            if bytes <= limits::METADATA_BYTES_MAX {
                kept.insert(key, value);
            }
        }
        Ok(Strings(kept))
    }
}
