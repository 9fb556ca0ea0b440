//! Metadata by type, with errors that name the key.

use super::header::{Header, Value};
use crate::error::{Error, Result};
use crate::source::files::quoted;

/// The metadata of a file.
#[derive(Clone, Copy)]
pub struct Metadata<'a> {
    /// Its header.
    pub header: &'a Header,
    /// Bytes of the header, in which arrays lie.
    pub bytes: &'a [u8],
    /// The file, for messages.
    pub file: &'a str,
}

impl<'a> Metadata<'a> {
    /// An error about a key.
    pub fn wrong(&self, key: &str, expected: &str) -> Error {
        let found = match self.header.get(key) {
            None => "is missing".to_owned(),
            Some(Value::Text(text)) => format!("is {}", quoted(text)),
            Some(Value::Array(array)) => format!("is an array of {}", array.len),
            Some(Value::Unsigned(n)) => format!("is {n}"),
            Some(Value::Signed(n)) => format!("is {n}"),
            Some(Value::Float(x)) => format!("is {x}"),
            Some(Value::Bool(b)) => format!("is {b}"),
        };
        Error::format(format!("{}: the key {} {found}; {expected} is expected", self.file, quoted(key)))
            .about(self.file)
    }

    /// A whole number, if the key is there. An array whose elements are all the same counts as one of them.
    pub fn whole(&self, key: &str) -> Result<Option<u64>> {
        let wrong = || self.wrong(key, "a whole number of at least 0");
        match self.header.get(key) {
            None => Ok(None),
            Some(&Value::Unsigned(n)) => Ok(Some(n)),
            Some(&Value::Signed(n)) => u64::try_from(n).map(Some).map_err(|_| wrong()),
            Some(Value::Array(array)) => {
                let mut numbers = Header::numbers(self.bytes, array).ok_or_else(wrong)?;
                let first = numbers.next().ok_or_else(wrong)?;
                if first < 0.0 || first.fract() != 0.0 || !numbers.all(|number| number == first) {
                    return Err(self.wrong(key, "one whole number for all layers"));
                }
                // Beyond 2^53 a float is not exact, and no such number makes sense here.
                Ok(Some(first as u64))
            }
            Some(_) => Err(wrong()),
        }
    }

    /// As [`Metadata::whole`], of a key that must be there.
    pub fn required(&self, key: &str) -> Result<u64> {
        self.whole(key)?.ok_or_else(|| self.wrong(key, "a whole number"))
    }

    /// A number, if the key is there.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.header.get(key) {
            None => Ok(None),
            Some(&Value::Float(x)) if x.is_finite() => Ok(Some(x)),
            Some(&Value::Unsigned(n)) => Ok(Some(n as f64)),
            Some(&Value::Signed(n)) => Ok(Some(n as f64)),
            Some(_) => Err(self.wrong(key, "a number")),
        }
    }

    /// A truth value, if the key is there.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.header.get(key) {
            None => Ok(None),
            Some(&Value::Bool(b)) => Ok(Some(b)),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    /// A text, if the key is there.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.header.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "a text")),
        }
    }

    /// The texts of an array, if the key is there.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        let wrong = || self.wrong(key, "an array of texts in UTF-8");
        match self.header.get(key) {
            None => Ok(None),
            Some(Value::Array(array)) => {
                let mut all = crate::error::reserved("the texts of a GGUF file", array.len)?;
                for text in Header::texts(self.bytes, array).ok_or_else(wrong)? {
                    all.push(text.ok_or_else(wrong)?);
                }
                Ok(Some(all))
            }
            Some(_) => Err(wrong()),
        }
    }

    /// A number, or the numbers of an array, if the key is there; true counts as 1.
    pub fn numbers_or_one(&self, key: &str) -> Result<Option<Vec<f64>>> {
        match self.header.get(key) {
            Some(Value::Array(_)) => self.numbers(key),
            Some(&Value::Bool(b)) => Ok(Some(vec![f64::from(u8::from(b))])),
            _ => Ok(self.number(key)?.map(|number| vec![number])),
        }
    }

    /// The numbers of an array, if the key is there.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let wrong = || self.wrong(key, "an array of numbers");
        match self.header.get(key) {
            None => Ok(None),
            Some(Value::Array(array)) => {
                let mut all = crate::error::reserved("the numbers of a GGUF file", array.len)?;
                all.extend(Header::numbers(self.bytes, array).ok_or_else(wrong)?);
                Ok(Some(all))
            }
            Some(_) => Err(wrong()),
        }
    }
}
