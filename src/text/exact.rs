//! Whole numbers in JSON that no machine integer holds, kept exactly.
//!
//! `serde_json` reads `250000000000000000000` as a float unless a feature is on that changes every crate of the program.
//! [`keep`] rewrites such numbers before the text is parsed, into the object by which serde_json itself passes numbers of
//! any length; [`number`] recognises it. Chat templates print them digit by digit, as Python does.

use serde_json::{Map, Value};
use std::borrow::Cow;

/// The one key of the object that stands for a number.
const KEY: &str = "$serde_json::private::Number";
/// Digits of the longest number that always fits 64 bits.
const SAFE_DIGITS: usize = 18;

/// JSON text in which whole numbers beyond 64 bits are objects that keep their digits. Borrowed if there is none; text that
/// is no JSON stays none.
pub fn keep(json: &str) -> Cow<'_, str> {
    let bytes = json.as_bytes();
    let mut out = String::new();
    let (mut at, mut copied) = (0, 0);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = string_end(bytes, at + 1),
            b'-' | b'0'..=b'9' => {
                let end = number_end(bytes, at);
                let token = json.get(at..end).unwrap_or_default();
                if is_long_integer(token) {
                    out.push_str(json.get(copied..at).unwrap_or_default());
                    out.push_str(&format!("{{\"{KEY}\":\"{token}\"}}"));
                    copied = end;
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    out.push_str(json.get(copied..).unwrap_or_default());
    Cow::Owned(out)
}

/// Parses JSON text, whole numbers beyond 64 bits kept.
///
/// # Errors
/// Those of `serde_json`; columns count from the rewritten text where there are such numbers.
pub fn parse(json: &str) -> serde_json::Result<Value> {
    serde_json::from_str(&keep(json))
}

/// The index after the quote that ends the string whose first character is at `at`.
fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn number_end(bytes: &[u8], at: usize) -> usize {
    let inside = |b: &u8| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    bytes.iter().skip(at).position(|b| !inside(b)).map_or(bytes.len(), |n| at + n)
}

/// Whether JSON's grammar takes it for a whole number that 64 bits do not hold.
fn is_long_integer(token: &str) -> bool {
    let digits = token.strip_prefix('-').unwrap_or(token);
    let whole = digits.len() > SAFE_DIGITS && !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
    whole && token.parse::<i64>().is_err() && token.parse::<u64>().is_err()
}

/// The digits of a number that [`keep`] kept.
pub fn number(object: &Map<String, Value>) -> Option<&str> {
    if object.len() != 1 {
        return None;
    }
    object.get(KEY)?.as_str().filter(|digits| is_long_integer(digits))
}

#[cfg(test)]
mod tests {
    use super::{keep, number};
    use serde_json::Value;
    use std::borrow::Cow;

    #[test]
    fn only_long_whole_numbers_are_rewritten() {
        for same in [
            "[18446744073709551615, -9223372036854775808, 1.5, 1e400, 12345678901234567890.5]",
            r#"{"250000000000000000000": "\"250000000000000000000"}"#,
            "",
            "[-, \"",
            "00000000000000000000000000",
        ] {
            assert!(matches!(keep(same), Cow::Borrowed(text) if text == same), "{same}");
        }
        let kept: Value =
            serde_json::from_str(&keep("{\"a\": [250000000000000000000,-18446744073709551616]}")).unwrap();
        assert_eq!(kept["a"][0].as_object().and_then(number), Some("250000000000000000000"));
        assert_eq!(kept["a"][1].as_object().and_then(number), Some("-18446744073709551616"));
        assert_eq!(number(serde_json::json!({"$serde_json::private::Number": "12"}).as_object().unwrap()), None);
    }
}
