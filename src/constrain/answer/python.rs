//! Calls as Python writes them: `[get_weather(city='Paris', days=3), ping()]`.

use std::collections::HashMap;

use super::cast::{Tools, cast_json};
use super::json_text::quoted;
use crate::limits::JSON_DEPTH_MAX;

/// Where a text of Python stands: what is in a string, and whether its first bracket was closed.
#[derive(Debug, Default)]
pub(super) struct PythonScan {
    quote: Option<char>,
    escaped: bool,
    depth: usize,
    complete: bool,
}

impl PythonScan {
    /// Goes one character on.
    pub(super) fn step(&mut self, c: char) {
        if let Some(quote) = self.quote {
            match c {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                c if c == quote => self.quote = None,
                _ => {}
            }
            return;
        }
        match c {
            '\'' | '"' => self.quote = Some(c),
            '[' | '(' | '{' => self.depth += 1,
            ']' | ')' | '}' => {
                self.depth = self.depth.saturating_sub(1);
                self.complete |= self.depth == 0;
            }
            _ => {}
        }
    }

    /// Whether the next character belongs to a string.
    pub(super) fn in_string(&self) -> bool {
        self.quote.is_some()
    }

    /// Whether the first bracket was closed.
    pub(super) fn complete(&self) -> bool {
        self.complete
    }
}

/// The calls of a text: names, and arguments as JSON. None: it is no list of calls with named arguments.
pub(super) fn calls(text: &str, tools: &Tools) -> Option<Vec<(String, String)>> {
    let mut reader = Reader { rest: text.trim() };
    let list = reader.take('[');
    let mut calls = Vec::new();
    while !(list && reader.take(']')) {
        calls.push(reader.call(tools)?);
        reader.space();
        // Without brackets calls may stand one after the other.
        if !reader.take(',') && !reader.take(';') && list && !reader.rest.starts_with(']') {
            return None;
        }
        if !list && reader.rest.trim().is_empty() {
            break;
        }
    }
    reader.space();
    reader.rest.is_empty().then_some(calls)
}

/// A literal of Python as JSON.
pub(super) fn literal(text: &str) -> Option<String> {
    let mut reader = Reader { rest: text.trim() };
    let mut out = String::new();
    reader.value(&mut out, 0)?;
    reader.space();
    reader.rest.is_empty().then_some(out)
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Takes a character, after space, if it comes next.
    fn take(&mut self, c: char) -> bool {
        self.space();
        let rest = self.rest.strip_prefix(c);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn name(&mut self) -> Option<&'a str> {
        self.space();
        let end =
            self.rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '-'))).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        (!name.is_empty()).then_some(name)
    }

    fn call(&mut self, tools: &Tools) -> Option<(String, String)> {
        let name = self.name()?;
        if !self.take('(') {
            return None;
        }
        let mut arguments: Vec<(&str, String)> = Vec::new();
        let mut places: HashMap<&str, usize> = HashMap::new();
        while !self.take(')') {
            let key = self.name()?;
            if !self.take('=') {
                return None;
            }
            let mut value = String::new();
            self.value(&mut value, 0)?;
            let value = cast_json(value, &tools.types(name, key));
            let place = *places.entry(key).or_insert(arguments.len());
            match arguments.get_mut(place) {
                Some((_, earlier)) => *earlier = value,
                None => arguments.push((key, value)),
            }
            if !self.take(',') && !self.rest.starts_with(')') {
                return None;
            }
        }
        let pairs: Vec<String> = arguments.iter().map(|(key, value)| format!("{}: {value}", quoted(key))).collect();
        Some((name.to_owned(), format!("{{{}}}", pairs.join(", "))))
    }

    /// Appends a value as JSON.
    fn value(&mut self, out: &mut String, depth: usize) -> Option<()> {
        self.space();
        if depth > JSON_DEPTH_MAX {
            return None;
        }
        match self.rest.chars().next()? {
            '\'' | '"' => {
                let mut text = self.string()?;
                // Strings side by side are one.
                while self.rest.trim_start().starts_with(['\'', '"']) {
                    self.space();
                    text.push_str(&self.string()?);
                }
                out.push_str(&quoted(&text));
            }
            '[' => self.items('[', ']', out, depth)?,
            '(' => self.items('(', ')', out, depth)?,
            '{' => self.dict(out, depth)?,
            '-' | '+' | '.' | '0'..='9' => out.push_str(&self.number()?),
            _ => out.push_str(match self.name()? {
                "True" | "true" => "true",
                "False" | "false" => "false",
                "None" | "null" => "null",
                _ => return None,
            }),
        }
        Some(())
    }

    fn items(&mut self, open: char, close: char, out: &mut String, depth: usize) -> Option<()> {
        self.take(open);
        out.push('[');
        let mut first = true;
        while !self.take(close) {
            if !first {
                out.push_str(", ");
            }
            first = false;
            self.value(out, depth + 1)?;
            if !self.take(',') && !self.rest.starts_with(close) {
                return None;
            }
        }
        out.push(']');
        Some(())
    }

    fn dict(&mut self, out: &mut String, depth: usize) -> Option<()> {
        self.take('{');
        out.push('{');
        let mut first = true;
        while !self.take('}') {
            if !first {
                out.push_str(", ");
            }
            first = false;
            let mut key = String::new();
            self.value(&mut key, depth + 1)?;
            out.push_str(&if key.starts_with('"') { key } else { quoted(&key) });
            if !self.take(':') {
                return None;
            }
            out.push_str(": ");
            self.value(out, depth + 1)?;
            if !self.take(',') && !self.rest.starts_with('}') {
                return None;
            }
        }
        out.push('}');
        Some(())
    }

    fn number(&mut self) -> Option<String> {
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_')));
        let (text, rest) = self.rest.split_at_checked(end.unwrap_or(self.rest.len()))?;
        self.rest = rest;
        let text = text.replace('_', "");
        if super::cast::is_json(&text) {
            return Some(text);
        }
        let value: f64 = text.parse().ok()?;
        serde_json::Number::from_f64(value).map(|number| number.to_string())
    }

    fn string(&mut self) -> Option<String> {
        let quote = self.rest.chars().next()?;
        let triple: String = std::iter::repeat_n(quote, 3).collect();
        let end = if self.rest.starts_with(&triple) { triple.as_str() } else { self.rest.get(..1)? };
        let mut rest = self.rest.get(end.len()..)?;
        let mut text = String::new();
        loop {
            if let Some(after) = rest.strip_prefix(end) {
                self.rest = after;
                return Some(text);
            }
            let mut chars = rest.chars();
            match chars.next()? {
                '\\' => {
                    let c = chars.next()?;
                    rest = chars.as_str();
                    rest = unescape(c, rest, &mut text)?;
                }
                c => {
                    text.push(c);
                    rest = chars.as_str();
                }
            }
        }
    }
}

/// Appends what an escape means whose letter is `c`; gives what follows it.
fn unescape<'a>(c: char, rest: &'a str, text: &mut String) -> Option<&'a str> {
    let digits = match c {
        'x' => 2,
        'u' => 4,
        'U' => 8,
        _ => {
            match c {
                'n' => text.push('\n'),
                't' => text.push('\t'),
                'r' => text.push('\r'),
                'b' => text.push('\u{8}'),
                'f' => text.push('\u{c}'),
                '0' => text.push('\0'),
                '\n' => {}
                '\\' | '\'' | '"' | '/' => text.push(c),
                // Python keeps the backslash of what is no escape.
                _ => text.extend(['\\', c]),
            }
            return Some(rest);
        }
    };
    let code = u32::from_str_radix(rest.get(..digits)?, 16).ok()?;
    let after = rest.get(digits..)?;
    if let Some(character) = char::from_u32(code) {
        text.push(character);
        return Some(after);
    }
    // Half of a pair: as JSON writes characters beyond U+FFFF.
    let low =
        after.strip_prefix("\\u").and_then(|low| Some((u32::from_str_radix(low.get(..4)?, 16).ok()?, low.get(4..)?)));
    let (low, beyond) = low.filter(|(low, _)| (0xDC00..0xE000).contains(low) && (0xD800..0xDC00).contains(&code))?;
    let pair = 0x10000 + (code.checked_sub(0xD800)? << 10) + low.checked_sub(0xDC00)?;
    text.push(char::from_u32(pair)?);
    Some(beyond)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Vec<(String, String)>> {
        calls(text, &Tools::default())
    }

    #[test]
    fn calls_become_names_and_json() {
        let call = |name: &str, arguments: &str| (name.to_owned(), arguments.to_owned());
        assert_eq!(
            read("[get_weather(city='Saint-\\'Ouen\\u00e9', days=3,), a.b()]").unwrap(),
            [call("get_weather", "{\"city\": \"Saint-'Ouené\", \"days\": 3}"), call("a.b", "{}")]
        );
        assert_eq!(
            read("[f(a=[1, -2.5, True, None], b={'x': (1,), \"y\": {}}, c=\"\"\"q\"q\"\"\", d=1_000, e='a' 'b')]")
                .unwrap(),
            [call(
                "f",
                "{\"a\": [1, -2.5, true, null], \"b\": {\"x\": [1], \"y\": {}}, \"c\": \"q\\\"q\", \"d\": 1000, \"e\": \"ab\"}"
            )]
        );
        assert_eq!(read("f(a='\\ud83d\\ude00')").unwrap(), [call("f", "{\"a\": \"😀\"}")]);
        assert_eq!(read("[]").unwrap(), []);
        for wrong in ["[f(1)]", "[f(a=)]", "[f(a=b)]", "[f(a=1", "[f]", "[f()] x", "f", "[f() g()]", "[f(a='x)]", ""] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(read(&format!("[f(a={})]", "[".repeat(100_000))), None);
    }
}
