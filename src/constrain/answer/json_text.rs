//! JSON as a model writes it, one character at a time: it is checked, and written again as JSON that every parser reads.
//!
//! What is valid JSON passes unchanged, byte for byte. Else:
//! - control characters within strings are escaped, which is how models write them now and then;
//! - a [`Dialect`] names what a format allows beyond JSON: keys without quotes, strings between delimiters of its own.

use crate::limits::{CALL_NAME_BYTES_MAX, JSON_DEPTH_MAX};

/// What a format allows beyond JSON.
#[derive(Clone, Debug, Default)]
pub(super) struct Dialect {
    /// Keys may stand without quotes.
    pub(super) bare_keys: bool,
    /// What opens and closes strings, beside quotes. Between them every character stands for itself.
    pub(super) delimiters: Vec<(String, String)>,
}

/// What a character did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Event {
    /// Nothing of note.
    None,
    /// It began an object or a list.
    Open { object: bool },
    /// It began a scalar.
    Scalar,
    /// It ended an object, a list or a string.
    End,
    /// It ended a key, whose text [`JsonText::literal`] is.
    Key,
}

/// The text is not JSON.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct NotJson;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Expect {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    Colon,
    CommaOrEnd,
    /// The outermost value is complete.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Token {
    None,
    /// `escape`: 0 outside of an escape, 5 right after a backslash, else the hexadecimal digits that are to come.
    String {
        escape: u8,
    },
    /// Within the opening delimiter of a string; `at` bytes were read.
    Opening {
        delimiter: usize,
        at: usize,
    },
    /// In a string with delimiters; `at` bytes of the closing one were read.
    Delimited {
        delimiter: usize,
        at: usize,
    },
    BareKey,
    Number(Number),
    /// What is left of `true`, `false` or `null`.
    Word(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Number {
    Minus,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

impl Number {
    fn next(self, c: char) -> Option<Number> {
        Some(match (self, c) {
            (Number::Minus, '0') => Number::Zero,
            (Number::Minus | Number::Digits, '0'..='9') => Number::Digits,
            (Number::Zero | Number::Digits, '.') => Number::Point,
            (Number::Point | Number::Fraction, '0'..='9') => Number::Fraction,
            (Number::Zero | Number::Digits | Number::Fraction, 'e' | 'E') => Number::Exponent,
            (Number::Exponent, '+' | '-') => Number::ExponentSign,
            (Number::Exponent | Number::ExponentSign | Number::ExponentDigits, '0'..='9') => Number::ExponentDigits,
            _ => return None,
        })
    }

    fn whole(self) -> bool {
        matches!(self, Number::Zero | Number::Digits | Number::Fraction | Number::ExponentDigits)
    }
}

/// A JSON text so far.
#[derive(Debug)]
pub(super) struct JsonText {
    dialect: Dialect,
    /// The containers that are open; true: an object.
    open: Vec<bool>,
    expect: Expect,
    token: Token,
    is_key: bool,
    /// The key or string that ended last as JSON, as far as it is needed to see that it is too long for a name; empty after
    /// other values.
    literal: String,
}

impl JsonText {
    pub(super) fn new(dialect: Dialect) -> JsonText {
        JsonText {
            dialect,
            open: Vec::new(),
            expect: Expect::Value,
            token: Token::None,
            is_key: false,
            literal: String::new(),
        }
    }

    /// Number of objects and lists that are open.
    pub(super) fn depth(&self) -> usize {
        self.open.len()
    }

    /// Whether the outermost value is complete.
    pub(super) fn complete(&self) -> bool {
        self.expect == Expect::Nothing
    }

    /// Whether the next character belongs to a string.
    pub(super) fn in_string(&self) -> bool {
        matches!(self.token, Token::String { .. } | Token::Delimited { .. } | Token::Opening { .. })
    }

    /// The key or string that ended just now; None: it was something else, or it is longer than a name may be.
    pub(super) fn literal(&self) -> Option<String> {
        if self.literal.len() > CALL_NAME_BYTES_MAX { None } else { serde_json::from_str(&self.literal).ok() }
    }

    /// Begins another value after a complete one.
    pub(super) fn begin_another(&mut self) {
        self.expect = Expect::Value;
    }

    /// Ends a number that the next character, or the end of the text, is no part of. True: a value has ended.
    pub(super) fn end_number(&mut self, next: Option<char>) -> Result<bool, NotJson> {
        let Token::Number(number) = self.token else { return Ok(false) };
        if next.is_some_and(|c| number.next(c).is_some()) {
            return Ok(false);
        }
        if !number.whole() {
            return Err(NotJson);
        }
        self.end_value();
        Ok(true)
    }

    /// Goes one character on, before which [`JsonText::end_number`] was called. `out`: what it means in JSON is appended.
    pub(super) fn step(&mut self, c: char, out: &mut String) -> Result<Event, NotJson> {
        match self.token {
            Token::None => self.begin(c, out),
            Token::String { escape } => self.in_quotes(c, escape, out),
            Token::Opening { delimiter, at } => self.in_opening(c, delimiter, at, out),
            Token::Delimited { delimiter, at } => self.in_delimiters(c, delimiter, at, out),
            Token::BareKey if c == ':' || c.is_ascii_whitespace() => {
                self.put(out, "\"");
                let key = self.end_string();
                self.begin(c, out)?;
                Ok(key)
            }
            Token::BareKey if bare(c) => {
                self.put(out, c.encode_utf8(&mut [0; 4]));
                Ok(Event::None)
            }
            Token::BareKey => Err(NotJson),
            Token::Number(number) => {
                self.token = Token::Number(number.next(c).ok_or(NotJson)?);
                out.push(c);
                Ok(Event::None)
            }
            Token::Word(rest) => {
                let rest = rest.strip_prefix(c).ok_or(NotJson)?;
                out.push(c);
                if !rest.is_empty() {
                    self.token = Token::Word(rest);
                    return Ok(Event::None);
                }
                self.end_value();
                Ok(Event::End)
            }
        }
    }

    /// A character outside of scalars.
    fn begin(&mut self, c: char, out: &mut String) -> Result<Event, NotJson> {
        let value = matches!(self.expect, Expect::Value | Expect::ValueOrEnd);
        let key = matches!(self.expect, Expect::Key | Expect::KeyOrEnd);
        if matches!(c, ' ' | '\n' | '\r' | '\t') {
            out.push(c);
            return Ok(Event::None);
        }
        if value || key {
            let opens = |(open, _): &(String, String)| open.starts_with(c);
            if let Some(delimiter) = self.dialect.delimiters.iter().position(opens) {
                self.is_key = key;
                self.literal.clear();
                self.token = Token::Opening { delimiter, at: 0 };
                self.in_opening(c, delimiter, 0, out)?;
                return Ok(if key { Event::None } else { Event::Scalar });
            }
        }
        match c {
            '"' if value || key => {
                self.begin_string(key, out);
                self.token = Token::String { escape: 0 };
                return Ok(if key { Event::None } else { Event::Scalar });
            }
            _ if key && self.dialect.bare_keys && bare(c) => {
                self.begin_string(true, out);
                self.put(out, c.encode_utf8(&mut [0; 4]));
                self.token = Token::BareKey;
                return Ok(Event::None);
            }
            _ => {}
        }
        out.push(c);
        match (c, self.expect) {
            ('{' | '[', _) if value => {
                if self.open.len() >= JSON_DEPTH_MAX {
                    return Err(NotJson);
                }
                let object = c == '{';
                self.open.push(object);
                self.expect = if object { Expect::KeyOrEnd } else { Expect::ValueOrEnd };
                Ok(Event::Open { object })
            }
            ('}', Expect::KeyOrEnd | Expect::CommaOrEnd) if self.open.last() == Some(&true) => Ok(self.close()),
            (']', Expect::ValueOrEnd | Expect::CommaOrEnd) if self.open.last() == Some(&false) => Ok(self.close()),
            (':', Expect::Colon) => {
                self.expect = Expect::Value;
                Ok(Event::None)
            }
            (',', Expect::CommaOrEnd) => {
                self.expect = if self.open.last() == Some(&true) { Expect::Key } else { Expect::Value };
                Ok(Event::None)
            }
            ('t', _) if value => Ok(self.scalar(Token::Word("rue"))),
            ('f', _) if value => Ok(self.scalar(Token::Word("alse"))),
            ('n', _) if value => Ok(self.scalar(Token::Word("ull"))),
            ('-', _) if value => Ok(self.scalar(Token::Number(Number::Minus))),
            ('0', _) if value => Ok(self.scalar(Token::Number(Number::Zero))),
            ('1'..='9', _) if value => Ok(self.scalar(Token::Number(Number::Digits))),
            _ => Err(NotJson),
        }
    }

    fn scalar(&mut self, token: Token) -> Event {
        self.literal.clear();
        self.token = token;
        Event::Scalar
    }

    fn in_quotes(&mut self, c: char, escape: u8, out: &mut String) -> Result<Event, NotJson> {
        let escape = match (escape, c) {
            (0, '"') => {
                self.put(out, "\"");
                return Ok(self.end_string());
            }
            (0, '\\') => 5,
            (0, c) if c < ' ' => {
                self.put(out, &escaped(c));
                return Ok(Event::None);
            }
            (0, _) => 0,
            (5, 'u') => 4,
            (5, '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't') => 0,
            (1..=4, c) if c.is_ascii_hexdigit() => escape - 1,
            _ => return Err(NotJson),
        };
        self.put(out, c.encode_utf8(&mut [0; 4]));
        self.token = Token::String { escape };
        Ok(Event::None)
    }

    fn in_opening(&mut self, c: char, delimiter: usize, at: usize, out: &mut String) -> Result<Event, NotJson> {
        let open = self.dialect.delimiters.get(delimiter).map_or("", |(open, _)| open.as_str());
        let rest = open.get(at..).and_then(|rest| rest.strip_prefix(c)).ok_or(NotJson)?;
        if !rest.is_empty() {
            self.token = Token::Opening { delimiter, at: at + c.len_utf8() };
        } else {
            let key = self.is_key;
            self.begin_string(key, out);
            self.token = Token::Delimited { delimiter, at: 0 };
        }
        Ok(Event::None)
    }

    fn in_delimiters(&mut self, c: char, delimiter: usize, at: usize, out: &mut String) -> Result<Event, NotJson> {
        let close = self.dialect.delimiters.get(delimiter).map_or(String::new(), |(_, close)| close.clone());
        // What was read of the closing delimiter, and the character: its longest end that may begin one is kept.
        let mut read = close.get(..at).unwrap_or("").to_owned();
        read.push(c);
        let borders = read.char_indices().map(|(from, _)| from).chain([read.len()]);
        let kept = borders.into_iter().find(|&from| close.starts_with(&read[from..])).unwrap_or(read.len());
        let text: String = read[..kept].chars().map(escaped).collect();
        self.put(out, &text);
        if read.len() - kept == close.len() {
            self.put(out, "\"");
            return Ok(self.end_string());
        }
        self.token = Token::Delimited { delimiter, at: read.len() - kept };
        Ok(Event::None)
    }

    fn begin_string(&mut self, key: bool, out: &mut String) {
        self.is_key = key;
        self.literal.clear();
        self.put(out, "\"");
    }

    fn put(&mut self, out: &mut String, text: &str) {
        out.push_str(text);
        if self.literal.len() <= CALL_NAME_BYTES_MAX {
            self.literal.push_str(text);
        }
    }

    fn end_string(&mut self) -> Event {
        if self.is_key {
            self.token = Token::None;
            self.expect = Expect::Colon;
            return Event::Key;
        }
        self.end_value();
        Event::End
    }

    fn close(&mut self) -> Event {
        self.literal.clear();
        self.open.pop();
        self.end_value();
        Event::End
    }

    fn end_value(&mut self) {
        self.token = Token::None;
        self.expect = if self.open.is_empty() { Expect::Nothing } else { Expect::CommaOrEnd };
    }
}

/// Whether a character may stand in a key without quotes.
fn bare(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '$')
}

/// A character as it stands in a string of JSON.
fn escaped(c: char) -> String {
    match c {
        '"' => "\\\"".into(),
        '\\' => "\\\\".into(),
        '\n' => "\\n".into(),
        '\r' => "\\r".into(),
        '\t' => "\\t".into(),
        c if c < ' ' => format!("\\u{:04x}", u32::from(c)),
        c => c.into(),
    }
}

/// A text as a string of JSON.
pub(super) fn quoted(text: &str) -> String {
    let inside: String = text.chars().map(escaped).collect();
    format!("\"{inside}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn read(text: &str, dialect: &Dialect) -> Result<String, NotJson> {
        let mut json = JsonText::new(dialect.clone());
        let mut out = String::new();
        for c in text.chars() {
            json.end_number(Some(c))?;
            json.step(c, &mut out)?;
        }
        json.end_number(None)?;
        if json.complete() { Ok(out) } else { Err(NotJson) }
    }

    #[test]
    fn valid_json_passes_unchanged_and_nothing_else_passes() {
        let plain = Dialect::default();
        let texts = [
            r#"{"a": [1, -0, 0.5, 1e+9, -12.0E-3], "b\"\\\u00e9": {}, "": []}"#,
            "  [ ]\n",
            "\"é\"",
            "null",
            "0",
            "[true,false]",
            "{",
            "{]",
            "[1,]",
            "{\"a\":1,}",
            "{\"a\"}",
            "01",
            "1.",
            "-",
            "tru",
            "nul l",
            "\"\\x\"",
            "\"\\u12g4\"",
            "[1 2]",
            "{a:1}",
            "1 2",
            "[]]",
            "'a'",
            "\u{feff}1",
            "+1",
            ".5",
            "1e",
            "{\"a\":1 \"b\":2}",
            "",
            "{,}",
            "[,1]",
            "NaN",
        ];
        for text in texts {
            let valid = serde_json::from_str::<Value>(text).is_ok();
            assert_eq!(read(text, &plain), if valid { Ok(text.to_owned()) } else { Err(NotJson) }, "{text:?}");
        }
        assert!(read(&"[".repeat(JSON_DEPTH_MAX + 1), &plain).is_err());
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(read("{\"a\": \"x\ny\u{1}\"}", &Dialect::default()).unwrap(), "{\"a\": \"x\\ny\\u0001\"}");
    }

    #[test]
    fn a_dialect_becomes_json() {
        let quote = "<|\"|>".to_owned();
        let gemma = Dialect { bare_keys: true, delimiters: vec![(quote.clone(), quote)] };
        let text = "{a_1:<|\"|>say \"hi\"\\ <|\"<|\"|>,list : [<|\"|><|\"|>,1],\"q\":{x.y:null},<|\"|>k<|\"|>:true}";
        let read = read(text, &gemma).unwrap();
        let value: Value = serde_json::from_str(&read).unwrap();
        assert_eq!(
            value,
            serde_json::json!({"a_1": "say \"hi\"\\ <|\"", "list": ["", 1], "q": {"x.y": null}, "k": true})
        );
    }
}
