//! The header of a GGUF file: metadata by key, and where each tensor lies.
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
//!
//! ```text
//! magic "GGUF", version u32, tensors u64, keys u64
//! keys     name string, type u32, value
//! tensors  name string, dimensions u32, each u64 (innermost first), type u32, offset u64
//! padding  to a multiple of the alignment; the offsets count from here
//! ```
//!
//! Numbers are little-endian, a string is its length as u64 and its bytes. Every number is hostile: counts and lengths are
//! compared with the bytes there are before anything is reserved, and nothing is read beyond the file.

use super::tensor_type::{self, Known};
use crate::error::{Error, Result, Unit, reserved};
use crate::limits;
use crate::source::TensorInfo;
use crate::source::files::quoted;
use crate::source::safetensors::Stored;
use std::ops::Range;

/// How a file begins.
pub const MAGIC: &[u8; 4] = b"GGUF";
/// Alignment of tensors where the metadata has no other.
const ALIGNMENT_DEFAULT: u64 = 32;
/// Largest alignment that makes sense: a huge memory page.
const ALIGNMENT_MAX: u64 = 1 << 21;
/// Most dimensions of a tensor.
const DIMENSIONS_MAX: u32 = 4;
/// Bytes of a key, and of a tensor's name.
const NAME_BYTES_MAX: u64 = 1 << 16;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// A number of either float type.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// Text.
    Text(String),
    /// Elements of one type.
    Array(Array),
}

/// An array, whose elements stay in the bytes of the header.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    kind: Kind,
    /// Elements.
    pub len: usize,
    /// Where they lie.
    bytes: Range<usize>,
}

/// Types of metadata values, by the numbers the format gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    const ALL: [Kind; 13] = [
        Kind::U8,
        Kind::I8,
        Kind::U16,
        Kind::I16,
        Kind::U32,
        Kind::I32,
        Kind::F32,
        Kind::Bool,
        Kind::Text,
        Kind::Array,
        Kind::U64,
        Kind::I64,
        Kind::F64,
    ];

    /// Fewest bytes of a value.
    const fn bytes(self) -> u64 {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::Text | Kind::U64 | Kind::I64 | Kind::F64 => 8,
            Kind::Array => 12,
        }
    }
}

/// What a header says. Arrays are read from its bytes by [`Header::texts`] and [`Header::numbers`].
#[derive(Debug)]
pub struct Header {
    /// Each key stands once.
    pub metadata: Vec<(String, Value)>,
    /// Sorted by position; they do not overlap, and each name stands once. Offsets count from `data_begin`.
    pub tensors: Vec<Stored>,
    /// First byte of the data.
    pub data_begin: u64,
}

impl Header {
    /// A value by its key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// The texts of an array in the header's bytes; `None` when its elements are no texts, or not UTF-8.
    pub fn texts<'a>(header: &'a [u8], array: &Array) -> Option<impl Iterator<Item = Option<&'a str>> + use<'a>> {
        let mut rest = header.get(array.bytes.clone()).filter(|_| array.kind == Kind::Text)?;
        Some((0..array.len).map(move |_| {
            let (len, after) = rest.split_first_chunk::<8>()?;
            let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
            let (text, after) = after.split_at_checked(len)?;
            rest = after;
            std::str::from_utf8(text).ok()
        }))
    }

    /// The numbers of an array in the header's bytes; `None` when its elements are no numbers.
    pub fn numbers<'a>(header: &'a [u8], array: &Array) -> Option<impl Iterator<Item = f64> + use<'a>> {
        let kind = array.kind;
        let bytes = header.get(array.bytes.clone()).filter(|_| !matches!(kind, Kind::Text | Kind::Array))?;
        let number = move |bytes: &[u8]| match scalar(kind, bytes) {
            Value::Unsigned(n) => n as f64,
            Value::Signed(n) => n as f64,
            Value::Float(x) => x,
            Value::Bool(b) => f64::from(u8::from(b)),
            Value::Text(_) | Value::Array(_) => f64::NAN,
        };
        Some(bytes.chunks_exact(usize::try_from(kind.bytes()).ok()?).map(number))
    }
}

/// Why a header was not read.
#[derive(Debug)]
pub enum Fault {
    /// It goes on after the bytes that were given.
    Longer,
    /// It is wrong.
    Wrong(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::Wrong(error)
    }
}

/// Reads the header of a file of `file_bytes` bytes that begins with `bytes`. `file` is its path, for messages. `tensors_max`:
/// tensors that may still come, of all files of the model together.
///
/// # Errors
/// [`Fault::Longer`] when the header does not end in `bytes`, unless that is the whole file.
pub fn parse(bytes: &[u8], file_bytes: u64, file: &str, tensors_max: usize) -> std::result::Result<Header, Fault> {
    let mut reader = Reader { bytes, at: 0, file_bytes, file };
    if reader.take(4)? != MAGIC {
        return Err(reader.fault("does not begin with GGUF; it is no GGUF file, or it is damaged").into());
    }
    match reader.u32()? {
        2 | 3 => {}
        1 => return Err(reader.fault("is of version 1, of which there are hardly any; convert the model anew").into()),
        version if version.swap_bytes() < 1 << 16 => {
            let message = "is big-endian; only little-endian files are read: download one of those";
            return Err(Error::unsupported(format!("{file}: {message}")).about(file).into());
        }
        version => {
            let message = format!("{file}: version {version} is not known; versions 2 and 3 are");
            return Err(Error::unsupported(message).about(file).into());
        }
    }
    let (tensors, keys) = (reader.u64()?, reader.u64()?);
    let tensors = reader.count("tensors", tensors, 24, tensors_max)?;
    let keys = reader.count("keys of metadata", keys, 13, limits::GGUF_KEYS_MAX)?;
    let mut metadata = reserved("GGUF metadata", keys)?;
    for _ in 0..keys {
        let key = reader.name("a key")?;
        let value = reader.value(&key)?;
        metadata.push((key, value));
    }
    let mut names: Vec<&str> = metadata.iter().map(|(key, _)| key.as_str()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find_map(|pair| (pair[0] == pair[1]).then_some(pair[0])) {
        return Err(reader.fault(&format!("has the key {} twice", quoted(twice))).into());
    }
    let mut header = Header { metadata, tensors: reserved("the list of tensors", tensors)?, data_begin: 0 };
    let alignment = match header.get("general.alignment") {
        None => ALIGNMENT_DEFAULT,
        Some(&Value::Unsigned(n)) if n.is_power_of_two() && (8..=ALIGNMENT_MAX).contains(&n) => n,
        Some(other) => {
            let what = format!("has a general.alignment of {other:?}; a power of two from 8 is expected");
            return Err(reader.fault(&what).into());
        }
    };
    for _ in 0..tensors {
        let stored = reader.tensor(alignment)?;
        header.tensors.push(stored);
    }
    let begin = (reader.at as u64).next_multiple_of(alignment);
    header.data_begin = if tensors == 0 { begin.min(file_bytes) } else { begin };
    check_places(&mut header.tensors, file_bytes.saturating_sub(header.data_begin), file)?;
    Ok(header)
}

/// That tensors lie in the file, one after the other, under different names.
fn check_places(tensors: &mut [Stored], data_bytes: u64, file: &str) -> Result<()> {
    tensors.sort_unstable_by(|a, b| (a.begin, a.end, &a.info.name).cmp(&(b.begin, b.end, &b.info.name)));
    let fault = |stored: &Stored, what: String| {
        Error::format(format!("{file}: tensor {} {what}", quoted(&stored.info.name))).about(file)
    };
    let mut end = 0;
    for stored in tensors.iter() {
        if stored.end > data_bytes {
            let what = format!("ends at byte {} of the data but only {data_bytes} follow the header", stored.end);
            let error = fault(stored, format!("{what}; the file is cut off, download it again"));
            return Err(error.numbers(Unit::Bytes, stored.end, data_bytes));
        }
        if stored.begin < end {
            let what = format!("overlaps the tensor before it: it begins at byte {}, expected {end}", stored.begin);
            return Err(fault(stored, what).numbers(Unit::Bytes, end, stored.begin));
        }
        end = stored.end;
    }
    let mut names: Vec<&Stored> = tensors.iter().collect();
    names.sort_unstable_by(|a, b| a.info.name.cmp(&b.info.name));
    match names.windows(2).find(|pair| pair[0].info.name == pair[1].info.name) {
        Some(pair) => Err(fault(pair[0], "stands there twice".to_owned())),
        None => Ok(()),
    }
}

/// A place in the bytes of a header.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    file_bytes: u64,
    file: &'a str,
}

impl<'a> Reader<'a> {
    fn fault(&self, what: &str) -> Error {
        Error::format(format!("{}: {what}", self.file)).about(self.file)
    }

    /// Bytes of the file from here on.
    fn left(&self) -> u64 {
        self.file_bytes.saturating_sub(self.at as u64)
    }

    fn take(&mut self, len: u64) -> std::result::Result<&'a [u8], Fault> {
        if len > self.left() {
            let what =
                format!("the GGUF header needs {len} bytes at byte {}, but only {} follow", self.at, self.left());
            let error = self.fault(&format!("{what}; the file is cut off or damaged, download it again"));
            return Err(error.numbers(Unit::Bytes, len, self.left()).into());
        }
        let bytes = usize::try_from(len).ok().and_then(|len| self.bytes.get(self.at..self.at.checked_add(len)?));
        let bytes = bytes.ok_or(Fault::Longer)?;
        self.at += bytes.len();
        Ok(bytes)
    }

    fn number<const N: usize>(&mut self) -> std::result::Result<[u8; N], Fault> {
        let bytes = self.take(N as u64)?;
        bytes.try_into().map_err(|_| Fault::Longer)
    }

    fn u32(&mut self) -> std::result::Result<u32, Fault> {
        self.number().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> std::result::Result<u64, Fault> {
        self.number().map(u64::from_le_bytes)
    }

    /// A number of things that take `each` bytes at least, of which `most` are read.
    fn count(&self, what: &str, count: u64, each: u64, most: usize) -> Result<usize> {
        let room = (self.left() / each.max(1)).min(most as u64);
        match usize::try_from(count) {
            Ok(n) if count <= room => Ok(n),
            _ => {
                let why =
                    format!("claims {count} {what}, but has room for {room} at most; the file is cut off or damaged");
                Err(self.fault(&why).numbers(Unit::Count, count, room))
            }
        }
    }

    fn text(&mut self, what: &str, most: u64) -> std::result::Result<String, Fault> {
        let len = self.u64()?;
        if len > most {
            let why = format!("{what} at byte {} has {len} bytes, more than the {most} that are read", self.at);
            return Err(self.fault(&why).numbers(Unit::Bytes, len, most).into());
        }
        let at = self.at;
        match std::str::from_utf8(self.take(len)?) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(self.fault(&format!("{what} at byte {at} is not UTF-8")).into()),
        }
    }

    fn name(&mut self, what: &str) -> std::result::Result<String, Fault> {
        self.text(what, NAME_BYTES_MAX)
    }

    fn kind(&mut self, key: &str) -> std::result::Result<Kind, Fault> {
        let number = self.u32()?;
        let kind = usize::try_from(number).ok().and_then(|number| Kind::ALL.get(number));
        let unknown = || self.fault(&format!("the key {} has the unknown type {number}", quoted(key))).into();
        kind.copied().ok_or_else(unknown)
    }

    fn value(&mut self, key: &str) -> std::result::Result<Value, Fault> {
        match self.kind(key)? {
            Kind::Text => {
                Ok(Value::Text(self.text(&format!("the value of {}", quoted(key)), limits::CONFIG_BYTES_MAX)?))
            }
            Kind::Array => self.array(key).map(Value::Array),
            kind => Ok(scalar(kind, self.take(kind.bytes())?)),
        }
    }

    fn array(&mut self, key: &str) -> std::result::Result<Array, Fault> {
        let kind = self.kind(key)?;
        if kind == Kind::Array {
            return Err(self
                .fault(&format!("the key {} holds arrays in an array, which none needs", quoted(key)))
                .into());
        }
        let count = self.u64()?;
        let len = self.count(&format!("elements of {}", quoted(key)), count, kind.bytes(), limits::VOCAB_MAX)?;
        let begin = self.at;
        if kind == Kind::Text {
            for _ in 0..len {
                let bytes = self.u64()?;
                self.take(bytes)?;
            }
        } else {
            self.take(kind.bytes().saturating_mul(count))?;
        }
        Ok(Array { kind, len, bytes: begin..self.at })
    }

    fn tensor(&mut self, alignment: u64) -> std::result::Result<Stored, Fault> {
        let name = self.name("the name of a tensor")?;
        let shown = quoted(&name);
        let fault = |reader: &Self, what: String| Fault::from(reader.fault(&format!("tensor {shown} {what}")));
        let dimensions = self.u32()?;
        if dimensions > DIMENSIONS_MAX {
            return Err(fault(self, format!("has {dimensions} dimensions; at most {DIMENSIONS_MAX} are possible")));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let length = self.u64()?;
            let length = usize::try_from(length).map_err(|_| fault(self, format!("has a dimension of {length}")))?;
            shape.insert(0, length);
        }
        let number = self.u32()?;
        let offset = self.u64()?;
        let dtype = match tensor_type::known(number) {
            Some(Known::Read(dtype)) => dtype,
            Some(Known::Named(name)) => {
                let what = format!(
                    "{}: tensor {shown} is {name}, which this library does not compute with; take a file of another \
                     quantization, such as Q4_K_M or Q8_0",
                    self.file
                );
                return Err(Error::unsupported(what).about(self.file).into());
            }
            None => return Err(fault(self, format!("has the unknown type {number}"))),
        };
        let elements = shape.iter().try_fold(1usize, |all, &n| all.checked_mul(n));
        // Blocks do not reach from one row into the next.
        let row = shape.last().copied().unwrap_or(1);
        let rows = elements.map(|all| all.checked_div(row).unwrap_or(0));
        let bytes = match (dtype.bytes(row), rows) {
            (Some(row), Some(rows)) => row.checked_mul(rows),
            (None, _) => return Err(fault(self, format!("has rows of {row}, which are no whole blocks of {dtype}"))),
            _ => None,
        };
        let Some(bytes) = bytes else {
            return Err(fault(self, format!("has shape {shape:?}, too large for this machine to address")));
        };
        if !offset.is_multiple_of(alignment) {
            let what =
                format!("begins at byte {offset} of the data, no multiple of the file's alignment of {alignment}");
            return Err(fault(self, what));
        }
        let end = offset.checked_add(bytes as u64).ok_or_else(|| fault(self, format!("begins at byte {offset}")))?;
        Ok(Stored { info: TensorInfo { name, dtype, shape }, begin: offset, end })
    }
}

/// The value of a type that is neither text nor array, in as many bytes as it takes.
fn scalar(kind: Kind, bytes: &[u8]) -> Value {
    let mut wide = [0; 8];
    wide.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    let bits = u64::from_le_bytes(wide);
    // Truncation is meant: the bytes above the type's own are zero.
    match kind {
        Kind::I8 => Value::Signed(i64::from(bits as u8 as i8)),
        Kind::I16 => Value::Signed(i64::from(bits as u16 as i16)),
        Kind::I32 => Value::Signed(i64::from(bits as u32 as i32)),
        Kind::I64 => Value::Signed(bits as i64),
        Kind::F32 => Value::Float(f64::from(f32::from_bits(bits as u32))),
        Kind::F64 => Value::Float(f64::from_bits(bits)),
        Kind::Bool => Value::Bool(bits != 0),
        Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64 | Kind::Text | Kind::Array => Value::Unsigned(bits),
    }
}
