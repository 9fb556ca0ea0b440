//! The safetensors header: eight bytes of length, a JSON object, then the tensors' bytes without gap or overlap.
//! Format: <https://github.com/huggingface/safetensors#format>.
//!
//! Parsed here and not by the `safetensors` crate because the crate's errors carry no numbers and often no tensor
//! name, because it takes the last of two tensors of one name silently, and because its list of shapes is bounded by
//! the header's length only. The tests hold this reader to the crate: whatever it accepts, the crate reads the same.

use super::TensorInfo;
use super::files::quoted;
use crate::dtype::DType;
use crate::error::{Error, Result, Unit, reserved};
use crate::limits;
use crate::os::shortage;
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
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
    let read = || {
        let mut reader = serde_json::Deserializer::from_str(text);
        let header = HeaderVisitor { tensors_max: budget.tensors }.deserialize(&mut reader)?;
        reader.end().map(|()| header)
    };
    let estimate = text.len().saturating_mul(limits::HEADER_MEMORY_FACTOR).saturating_add(limits::TEXT_MEMORY_BYTES);
    let header = shortage::backed("the header of a safetensors file", estimate, read)?
        .map_err(|e| Error::format(format!("{file}: header is not what safetensors demands: {e}")).about(file))?;
    budget.tensors -= header.tensors.len().min(budget.tensors);
    let mut tensors = reserved("the list of tensors", header.tensors.len())?;
    for raw in header.tensors {
        tensors.push(raw.check(data_bytes, file)?);
    }
    check_names(&mut tensors, file)?;
    check_cover(&mut tensors, data_bytes, file)?;
    Ok(Header { tensors, metadata: header.metadata })
}

/// Refuses a name that stands twice.
fn check_names(tensors: &mut [Stored], file: &str) -> Result<()> {
    tensors.sort_unstable_by(|a, b| a.info.name.cmp(&b.info.name));
    match tensors.windows(2).find(|pair| pair[0].info.name == pair[1].info.name) {
        None => Ok(()),
        Some(pair) => {
            let name = quoted(&pair[0].info.name);
            Err(Error::format(format!("{file}: tensor {name} stands in the header twice")).about(file))
        }
    }
}

/// Sorts by position and refuses gaps, overlaps and bytes that belong to no tensor.
fn check_cover(tensors: &mut [Stored], data_bytes: u64, file: &str) -> Result<()> {
    tensors.sort_by_key(|tensor| (tensor.begin, tensor.end));
    let mut covered = 0;
    for tensor in &*tensors {
        if tensor.begin != covered {
            let (name, begin) = (quoted(&tensor.info.name), tensor.begin);
            let fault = if begin < covered { "overlaps the tensor before it" } else { "leaves a gap before it" };
            let message =
                format!("{file}: tensor {name} {fault}: it begins at byte {begin} of the data, expected {covered}");
            return Err(Error::format(message).about(file).numbers(Unit::Bytes, covered, begin));
        }
        covered = tensor.end;
    }
    if covered != data_bytes {
        let message =
            format!("{file}: its tensors cover {covered} bytes of data but the file holds {data_bytes}; it is damaged");
        return Err(Error::format(message).about(file).numbers(Unit::Bytes, covered, data_bytes));
    }
    Ok(())
}

/// The header as written: tensors in its order.
struct RawHeader {
    tensors: Vec<RawTensor>,
    metadata: BTreeMap<String, String>,
}

struct RawTensor {
    name: String,
    entry: RawEntry,
}

#[derive(serde::Deserialize)]
struct RawEntry {
    dtype: TypeName,
    shape: Shape,
    data_offsets: (u64, u64),
}

impl RawTensor {
    fn check(self, data_bytes: u64, file: &str) -> Result<Stored> {
        let RawEntry { dtype, shape: Shape(dims), data_offsets: (begin, end) } = self.entry;
        let shown = quoted(&self.name);
        let fault = |what: String| Error::format(format!("{file}: tensor {shown} {what}")).about(file);
        let dtype = match dtype {
            TypeName::Known(dtype) => dtype,
            TypeName::Unknown(name) => {
                let found = quoted(&name);
                let known = "known are F32, BF16, F16 and the format's others";
                return Err(fault(format!("has the unknown type {found}; {known}")));
            }
        };
        let overflow = || fault(format!("has shape {dims:?}, too large for this machine to address"));
        let elements = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim)).ok_or_else(overflow)?;
        let bits = elements.checked_mul(dtype.bits() as u64).ok_or_else(overflow)?;
        let shape = dims.iter().map(|&dim| usize::try_from(dim)).collect::<std::result::Result<_, _>>();
        let shape: Vec<usize> = shape.map_err(|_| overflow())?;
        if bits % 8 != 0 {
            return Err(fault(format!("of shape {dims:?} and type {dtype} has {bits} bits, which are no whole bytes")));
        }
        let bytes = bits / 8;
        if end < begin {
            return Err(fault(format!("ends at byte {end}, before it begins at {begin}")));
        }
        if end - begin != bytes {
            let (held, error) = (end - begin, format!("of shape {dims:?} and type {dtype} needs {bytes} bytes"));
            return Err(fault(format!("{error}, its offsets hold {held}")).numbers(Unit::Bytes, bytes, held));
        }
        if end > data_bytes {
            let what =
                format!("ends at byte {end} of the data but only {data_bytes} follow the header; the file is cut off");
            return Err(fault(what).numbers(Unit::Bytes, end, data_bytes));
        }
        Ok(Stored { info: TensorInfo { name: self.name, dtype, shape }, begin, end })
    }
}

/// An element type as written; a million tensors have no string each.
enum TypeName {
    Known(DType),
    Unknown(String),
}

impl<'de> Deserialize<'de> for TypeName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_str(TypeNameVisitor)
    }
}

struct TypeNameVisitor;

impl Visitor<'_> for TypeNameVisitor {
    type Value = TypeName;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a type")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> std::result::Result<TypeName, E> {
        Ok(DType::from_safetensors(name).map_or_else(|| TypeName::Unknown(name.to_owned()), TypeName::Known))
    }
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

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object with one entry for each tensor")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<RawHeader, A::Error> {
        let mut tensors = Vec::new();
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
            let entry = map.next_value::<RawEntry>();
            let entry = entry.map_err(|e| de::Error::custom(format!("tensor {}: {e}", quoted(&name))))?;
            tensors.push(RawTensor { name, entry });
        }
        Ok(RawHeader { tensors, metadata: metadata.unwrap_or_default() })
    }
}

/// The free-form strings of `__metadata__`: all are checked, few are kept.
struct Strings(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(StringsVisitor)
    }
}

struct StringsVisitor;

impl<'de> Visitor<'de> for StringsVisitor {
    type Value = Strings;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

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

/// Dimensions, at most [`limits::TENSOR_RANK_MAX`] of them: a longer list is refused before it is stored.
struct Shape(Vec<u64>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of dimensions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Shape, A::Error> {
        let mut dims = Vec::new();
        while let Some(dim) = seq.next_element::<u64>()? {
            if dims.len() == limits::TENSOR_RANK_MAX {
                return Err(de::Error::custom(format!("more than {} dimensions", limits::TENSOR_RANK_MAX)));
            }
            dims.push(dim);
        }
        Ok(Shape(dims))
    }
}
