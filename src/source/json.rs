//! JSON as Python's `json` module writes it: the one way by which the files of a model folder are parsed.
//!
//! Beyond the standard it knows the bare words `NaN`, `Infinity` and `-Infinity`, which configurations of some families hold
//! for keys that nobody here reads. They are read as strings of that name: a key that has to be a number then says what it is.
//! A byte order mark in front is skipped, as editors leave one.

use crate::error::{Error, Result, reserved};
use crate::json::{string_end, with_numbers};
use crate::limits::{CONFIG_TREE_BYTES_MAX, JSON_MEMORY_FACTOR, TEXT_MEMORY_BYTES};
use crate::os::shortage;
use serde::de::DeserializeOwned;

const WORDS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Parses the text of the file `shown`.
///
/// # Errors
/// `Format`, with the line and column; `Memory`.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8], shown: &str) -> Result<T> {
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let invalid = |e: serde_json::Error| {
        let message = match bytes.trim_ascii().is_empty() {
            true => format!("{shown} is not valid JSON: it is empty; its download may be incomplete"),
            false => format!("{shown} is not valid JSON: {e}"),
        };
        with_numbers(Error::format(message).about(shown), &e)
    };
    let read = || match serde_json::from_slice(bytes) {
        Ok(value) => Ok(value),
        Err(e) => match quote_words(bytes)? {
            Some(standard) => serde_json::from_slice(&standard).map_err(invalid),
            None => Err(invalid(e)),
        },
    };
    // A tree has a budget, whatever the text.
    let tree = bytes.len().saturating_mul(JSON_MEMORY_FACTOR).min(2 * CONFIG_TREE_BYTES_MAX);
    shortage::backed("a JSON file", bytes.len().saturating_add(tree).saturating_add(TEXT_MEMORY_BYTES), read).flatten()
}

/// The text with Python's words in quotes; `None` when there are none outside of strings.
fn quote_words(bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut found = 0usize;
    scan(bytes, |_, is_word| found += usize::from(is_word));
    if found == 0 {
        return Ok(None);
    }
    let mut quoted = reserved("a JSON file with quoted words", bytes.len().saturating_add(found.saturating_mul(2)))?;
    scan(bytes, |piece, is_word| match is_word {
        true => quoted.extend([b"\"", piece, b"\""].into_iter().flatten()),
        false => quoted.extend_from_slice(piece),
    });
    Ok(Some(quoted))
}

/// Gives the text in pieces: strings with their quotes, words of Python's, and all else byte by byte.
fn scan<'a>(bytes: &'a [u8], mut piece: impl FnMut(&'a [u8], bool)) {
    let mut rest = bytes;
    while let Some(&first) = rest.first() {
        let word = WORDS.iter().find(|word| rest.starts_with(word)).map(|word| word.len());
        let len = match first {
            b'"' => string_end(rest, 1),
            _ => word.unwrap_or(1),
        };
        let (head, tail) = rest.split_at(len.min(rest.len()));
        piece(head, word.is_some());
        rest = tail;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(text: &str) -> Result<Value> {
        parse(text.as_bytes(), "f.json")
    }

    #[test]
    fn what_python_writes_is_read() {
        let text =
            r#"{"a":[0.0, Infinity],"b":-Infinity,"c":NaN,"NaN":"\"Infinity, \\","d":{"e":[NaN,NaN]},"f":"-Infinity"}"#;
        let expected = json!({"a": [0.0, "Infinity"], "b": "-Infinity", "c": "NaN", "NaN": "\"Infinity, \\",
            "d": {"e": ["NaN", "NaN"]}, "f": "-Infinity"});
        assert_eq!(read(text), Ok(expected));
        assert_eq!(read("\u{feff}{\"a\": 1}"), Ok(json!({"a": 1})));
    }

    #[test]
    fn what_python_does_not_write_is_refused() {
        let bad = [
            "",
            " \n",
            "{",
            "{\"a\": nan}",
            "{\"a\": +Infinity}",
            "{\"a\": Infinityy}",
            "{NaN: 1}x",
            "{\"NaN",
            "NaNNaN",
            "\"\\",
        ];
        for text in bad {
            let error = read(text).expect_err(text);
            assert!(error.message.starts_with("f.json is not valid JSON: "), "{error}");
        }
        assert!(read("").expect_err("empty").message.contains("it is empty"));
    }
}
