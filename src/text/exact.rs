//! Numbers in JSON that serde_json reads otherwise than Python does, kept as Python has them.
//!
//! `serde_json` reads `250000000000000000000` as a float unless a feature is on that changes every crate of the program, and
//! refuses `1e400`, `NaN` and `Infinity`. [`keep`] rewrites such numbers before the text is parsed, into the object by which
//! serde_json itself passes numbers of any length; [`number`] recognises it. Chat templates print whole numbers digit by digit.

use crate::json::string_end;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::ops::Range;

/// The one key of the object that stands for a number.
const KEY: &str = "$serde_json::private::Number";
/// Digits of the longest number that always fits 64 bits.
const SAFE_DIGITS: usize = 18;

/// What Python's reader takes beyond JSON's numbers, each a float.
const WORDS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// A number that [`keep`] kept.
#[derive(Debug, PartialEq)]
pub enum Number<'a> {
    /// A whole number, in decimal digits.
    Whole(&'a str),
    /// An infinite number, or NaN.
    Float(f64),
}

/// Bytes that a rewritten number takes at most, as text and as a value, beyond what it takes itself.
pub const REWRITTEN_BYTES: usize = 512;

/// JSON text in which whole numbers beyond 64 bits are objects that keep their digits, and floats beyond the largest, `NaN`
/// and `Infinity` are such objects, too. The whole number `-0` becomes `0`, as in Python. Borrowed if nothing changes; other
/// text that is no JSON stays none.
pub fn keep(json: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut copied = 0;
    for token in (Rewritten { json, at: 0 }) {
        out.push_str(json.get(copied..token.start).unwrap_or_default());
        match json.get(token.clone()).unwrap_or_default() {
            "-0" => out.push('0'),
            token => out.push_str(&format!("{{\"{KEY}\":\"{token}\"}}")),
        }
        copied = token.end;
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    out.push_str(json.get(copied..).unwrap_or_default());
    Cow::Owned(out)
}

/// How many numbers [`keep`] rewrites: each takes up to [`REWRITTEN_BYTES`] more.
pub fn rewritten(json: &str) -> usize {
    Rewritten { json, at: 0 }.count()
}

/// The numbers that are rewritten, as ranges of the text.
struct Rewritten<'a> {
    json: &'a str,
    at: usize,
}

impl Iterator for Rewritten<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let bytes = self.json.as_bytes();
        while let Some(byte) = bytes.get(self.at) {
            let start = self.at;
            match byte {
                b'"' => self.at = string_end(bytes, start + 1),
                b'-' | b'0'..=b'9' | b'N' | b'I' => {
                    let rest = self.json.get(start..).unwrap_or_default();
                    let word = WORDS.iter().find(|word| rest.starts_with(**word));
                    let end = word.map_or_else(|| number_end(bytes, start), |word| start + word.len());
                    self.at = end.max(start + 1);
                    let token = self.json.get(start..end).unwrap_or_default();
                    if token == "-0" || is_long_integer(token) || beyond_floats(token).is_some() {
                        return Some(start..end);
                    }
                }
                _ => self.at += 1,
            }
        }
        None
    }
}

/// Parses JSON text, numbers kept as by [`keep`].
///
/// # Errors
/// Those of `serde_json`; columns count from the rewritten text where there are such numbers.
pub fn parse(json: &str) -> serde_json::Result<Value> {
    serde_json::from_str(&keep(json))
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

/// The value of one of [`WORDS`], or of a number in JSON's grammar that is larger than every float.
fn beyond_floats(token: &str) -> Option<f64> {
    if WORDS.contains(&token) {
        return token.parse().ok();
    }
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // Without an exponent or a fraction it is a whole number.
    let unsigned = token.strip_prefix('-').unwrap_or(token);
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let grammar = digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && digits(fraction)
        && digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent));
    let float = grammar && unsigned.contains(['.', 'e', 'E']);
    token.parse().ok().filter(|value: &f64| float && value.is_infinite())
}

/// The number that [`keep`] kept in this object.
pub fn number(object: &Map<String, Value>) -> Option<Number<'_>> {
    if object.len() != 1 {
        return None;
    }
    let token = object.get(KEY)?.as_str()?;
    if is_long_integer(token) { Some(Number::Whole(token)) } else { beyond_floats(token).map(Number::Float) }
}

#[cfg(test)]
mod tests {
    use super::{Number, keep, number, rewritten};
    use serde_json::Value;
    use std::borrow::Cow;

    #[test]
    fn only_long_whole_numbers_are_rewritten() {
        for same in [
            "[18446744073709551615, -9223372036854775808, 1.5, -0.0, 1e308, 12345678901234567890.5]",
            r#"{"250000000000000000000": "\"250000000000000000000"}"#,
            r#"{"NaN": "-0, Infinity", "a": [null, "1e400"]}"#,
            "[01e400, 1.e400, 1e, -e400, Nan, Inf, --0]",
            "",
            "[-, \"",
            "00000000000000000000000000",
        ] {
            assert!(matches!(keep(same), Cow::Borrowed(text) if text == same), "{same}");
        }
        let kept: Value =
            serde_json::from_str(&keep("{\"a\": [250000000000000000000,-18446744073709551616]}")).unwrap();
        assert_eq!(kept["a"][0].as_object().and_then(number), Some(Number::Whole("250000000000000000000")));
        assert_eq!(kept["a"][1].as_object().and_then(number), Some(Number::Whole("-18446744073709551616")));
        assert_eq!(number(serde_json::json!({"$serde_json::private::Number": "12"}).as_object().unwrap()), None);
    }

    #[test]
    fn numbers_are_what_python_reads() {
        let text = "[-0, -0.0, NaN, Infinity, -Infinity, 1e400, -1.5E+999, 100.23934140005247]";
        assert_eq!(rewritten(text), 6);
        let kept: Value = serde_json::from_str(&keep(text)).unwrap();
        let float = |i: usize| match kept[i].as_object().and_then(number) {
            Some(Number::Float(value)) => value,
            other => panic!("{i}: {other:?}"),
        };
        assert_eq!(kept[0].as_i64(), Some(0));
        assert!(kept[1].as_f64().unwrap().is_sign_negative());
        assert!(float(2).is_nan());
        assert_eq!([float(3), float(4), float(5), float(6)], [1.0, -1.0, 1.0, -1.0].map(|sign| sign * f64::INFINITY));
        assert_eq!(kept[7].as_f64(), Some(100.23934140005247));
    }
}
