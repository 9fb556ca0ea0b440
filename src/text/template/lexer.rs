//! Source text to tokens, with Jinja's rules for whitespace around tags (`trim_blocks` and `lstrip_blocks` on, the
//! last newline of the file dropped), `raw` blocks, comments, and Python's literals.

use super::meter::{R, fault};
use minijinja::Error;

/// A token and its line.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) line: u32,
    pub(super) kind: Kind,
}

#[derive(Debug, PartialEq)]
pub(super) enum Kind {
    Data(String),
    PrintBegin,
    PrintEnd,
    TagBegin,
    TagEnd,
    Name(String),
    Str(String),
    Int(i128),
    Float(f64),
    Operator(&'static str),
    End,
}

/// Operators, longest first.
const OPERATORS: [&str; 27] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", "|", ",", ";", "!",
];

/// Whether Python's `str.isspace` holds.
pub(in crate::text) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

struct Lexer<'s> {
    source: &'s str,
    position: usize,
    line: u32,
    /// The last token ended with a newline, or there was none.
    line_starting: bool,
    tokens: Vec<Token>,
}

/// All tokens of `source`, ending with [`Kind::End`]; an error carries its line.
pub(super) fn tokenize(source: &str) -> Result<Vec<Token>, (u32, Error)> {
    let mut source = source.replace("\r\n", "\n").replace('\r', "\n");
    if source.ends_with('\n') {
        source.pop();
    }
    let mut lexer = Lexer { source: &source, position: 0, line: 1, line_starting: true, tokens: Vec::new() };
    let result = lexer.run();
    let line = lexer.line;
    result.map_err(|e| (line, e))?;
    lexer.tokens.push(Token { line, kind: Kind::End });
    Ok(lexer.tokens)
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        self.source.get(self.position..).unwrap_or_default()
    }

    fn advance(&mut self, bytes: usize) {
        let passed = self.rest().get(..bytes).unwrap_or_default();
        self.line += u32::try_from(passed.matches('\n').count()).unwrap_or(u32::MAX);
        if let Some(last) = passed.chars().next_back() {
            self.line_starting = last == '\n';
        }
        self.position += bytes;
    }

    fn token(&mut self, kind: Kind) {
        self.tokens.push(Token { line: self.line, kind });
    }

    fn run(&mut self) -> R<()> {
        while !self.rest().is_empty() {
            let rest = self.rest();
            let Some((at, mark)) = find_tag(rest) else {
                self.token(Kind::Data(rest.to_owned()));
                self.advance(rest.len());
                return Ok(());
            };
            let sign = rest.get(at + 2..).and_then(|r| r.chars().next()).filter(|c| matches!(c, '-' | '+'));
            let data = self.strip_data(rest.get(..at).unwrap_or_default(), sign, mark != '{');
            if !data.is_empty() {
                self.token(Kind::Data(data.to_owned()));
            }
            if let Some(len) = raw_begin(rest.get(at..).unwrap_or_default()) {
                self.advance(at + len);
                self.raw()?;
                continue;
            }
            self.advance(at + 2 + usize::from(sign.is_some()));
            match mark {
                '#' => self.comment()?,
                '%' => self.tag(Kind::TagBegin, "%}")?,
                _ => self.tag(Kind::PrintBegin, "}}")?,
            }
        }
        Ok(())
    }

    /// The text before a tag, stripped as the tag's sign and kind ask.
    fn strip_data(&self, text: &'s str, sign: Option<char>, block: bool) -> &'s str {
        match sign {
            Some('-') => text.trim_end_matches(is_space),
            None if block => {
                let line = text.rfind('\n').map_or(0, |i| i + 1);
                let tail = text.get(line..).unwrap_or_default();
                let only_space = !tail.is_empty() && tail.chars().all(is_space);
                if (line > 0 || self.line_starting) && only_space { text.get(..line).unwrap_or_default() } else { text }
            }
            _ => text,
        }
    }

    fn comment(&mut self) -> R<()> {
        let Some(end) = self.rest().find("#}") else {
            return Err(fault("Missing end of comment tag"));
        };
        let before = self.rest().get(..end).unwrap_or_default().chars().next_back();
        self.advance(end + 2);
        self.after_end(before, true);
        Ok(())
    }

    /// What a tag's end swallows of the text after it.
    fn after_end(&mut self, sign: Option<char>, block: bool) {
        let rest = self.rest();
        match sign {
            Some('-') => self.advance(rest.len() - rest.trim_start_matches(is_space).len()),
            Some('+') => {}
            _ if block && rest.starts_with('\n') => self.advance(1),
            _ => {}
        }
    }

    fn raw(&mut self) -> R<()> {
        let rest = self.rest();
        let mut from = 0;
        while let Some(at) = rest.get(from..).and_then(|r| r.find("{%")).map(|i| i + from) {
            if let Some((sign, end_sign, len)) = endraw(rest.get(at..).unwrap_or_default()) {
                let data = self.strip_data(rest.get(..at).unwrap_or_default(), sign, true);
                if !data.is_empty() {
                    self.token(Kind::Data(data.to_owned()));
                }
                self.advance(at + len);
                self.after_end(end_sign, true);
                return Ok(());
            }
            from = at + 2;
        }
        Err(fault("Missing end of raw directive"))
    }

    /// The inside of `{{ }}` or `{% %}`.
    fn tag(&mut self, begin: Kind, end: &'static str) -> R<()> {
        let block = begin == Kind::TagBegin;
        self.token(begin);
        let mut open: Vec<char> = Vec::new();
        loop {
            let rest = self.rest();
            if open.is_empty() {
                let sign = rest.chars().next().filter(|c| *c == '-' || (*c == '+' && block));
                let len = usize::from(sign.is_some());
                if rest.get(len..).is_some_and(|r| r.starts_with(end)) {
                    self.token(if block { Kind::TagEnd } else { Kind::PrintEnd });
                    self.advance(len + 2);
                    self.after_end(sign, block);
                    return Ok(());
                }
            }
            let Some(first) = rest.chars().next() else {
                // The parser says what was missing.
                return Ok(());
            };
            if is_space(first) {
                self.advance(rest.len() - rest.trim_start_matches(is_space).len());
            } else if first.is_ascii_digit() {
                self.number()?;
            } else if first == '_' || first.is_alphabetic() {
                let len = rest.find(|c: char| !(c == '_' || c.is_alphanumeric())).unwrap_or(rest.len());
                self.token(Kind::Name(rest.get(..len).unwrap_or_default().to_owned()));
                self.advance(len);
            } else if first == '"' || first == '\'' {
                self.string(first)?;
            } else {
                self.operator(first, &mut open)?;
            }
        }
    }

    fn operator(&mut self, first: char, open: &mut Vec<char>) -> R<()> {
        let rest = self.rest();
        let unexpected = || fault(format!("unexpected char '{first}' at {}", self.position));
        let operator = OPERATORS.iter().find(|o| rest.starts_with(**o)).ok_or_else(unexpected)?;
        match first {
            '!' if *operator == "!" => return Err(unexpected()),
            '(' => open.push(')'),
            '[' => open.push(']'),
            '{' => open.push('}'),
            ')' | ']' | '}' => match open.pop() {
                Some(expected) if expected == first => {}
                Some(expected) => return Err(fault(format!("unexpected '{first}', expected '{expected}'"))),
                None => return Err(fault(format!("unexpected '{first}'"))),
            },
            _ => {}
        }
        self.token(Kind::Operator(operator));
        self.advance(operator.len());
        Ok(())
    }

    fn number(&mut self) -> R<()> {
        let rest = self.rest();
        let digits = |s: &str, hex: bool| {
            let ok = |c: char| c == '_' || if hex { c.is_ascii_hexdigit() } else { c.is_ascii_digit() };
            s.find(|c| !ok(c)).unwrap_or(s.len())
        };
        let radix = match rest.get(..2).unwrap_or_default().to_ascii_lowercase().as_str() {
            "0x" => 16,
            "0o" => 8,
            "0b" => 2,
            _ => 10,
        };
        let bad = || fault("a number that cannot be read");
        if radix != 10 {
            let len = digits(rest.get(2..).unwrap_or_default(), true);
            let text = rest.get(2..2 + len).unwrap_or_default().replace('_', "");
            self.token(Kind::Int(i128::from_str_radix(&text, radix).map_err(|_| bad())?));
            self.advance(2 + len);
            return Ok(());
        }
        let mut len = digits(rest, false);
        let mut float = false;
        // A number after a dot is an index: in `x.1.0` there is no 1.0.
        let after_dot = matches!(self.tokens.last(), Some(Token { kind: Kind::Operator("."), .. }));
        let tail = |len: usize| rest.get(len..).unwrap_or_default();
        if !after_dot {
            if tail(len).starts_with('.') && tail(len + 1).starts_with(|c: char| c.is_ascii_digit()) {
                len += 1 + digits(tail(len + 1), false);
                float = true;
            }
            if tail(len).starts_with(['e', 'E']) {
                let sign = usize::from(tail(len + 1).starts_with(['+', '-']));
                if tail(len + 1 + sign).starts_with(|c: char| c.is_ascii_digit()) {
                    len += 1 + sign + digits(tail(len + 1 + sign), false);
                    float = true;
                }
            }
        }
        let text = rest.get(..len).unwrap_or_default().replace('_', "");
        let kind = if float {
            Kind::Float(text.parse().map_err(|_| bad())?)
        } else {
            Kind::Int(text.parse().map_err(|_| fault("an integer of more than 38 digits"))?)
        };
        self.token(kind);
        self.advance(len);
        Ok(())
    }

    fn string(&mut self, quote: char) -> R<()> {
        let rest = self.rest();
        let mut text = String::new();
        let mut chars = rest.char_indices().skip(1).peekable();
        while let Some((at, c)) = chars.next() {
            if c == quote {
                self.token(Kind::Str(text));
                self.advance(at + 1);
                return Ok(());
            }
            if c != '\\' {
                text.push(c);
                continue;
            }
            let Some((_, escape)) = chars.next() else { break };
            let simple = match escape {
                '\n' => continue,
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                'a' => '\u{7}',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'v' => '\u{b}',
                '\\' | '\'' | '"' => escape,
                'x' | 'u' | 'U' => {
                    let want = match escape {
                        'x' => 2,
                        'u' => 4,
                        _ => 8,
                    };
                    let hex: String = (0..want)
                        .map_while(|_| chars.next_if(|(_, c)| c.is_ascii_hexdigit()))
                        .map(|(_, c)| c)
                        .collect();
                    let code = u32::from_str_radix(&hex, 16).ok().filter(|_| hex.len() == want);
                    code.and_then(char::from_u32)
                        .ok_or_else(|| fault(format!("a string with a bad \\{escape} escape")))?
                }
                '0'..='7' => {
                    let mut code = escape as u32 - '0' as u32;
                    for _ in 0..2 {
                        if let Some((_, d)) = chars.next_if(|(_, c)| ('0'..='7').contains(c)) {
                            code = code * 8 + (d as u32 - '0' as u32);
                        }
                    }
                    char::from_u32(code).ok_or_else(|| fault("a string with a bad octal escape"))?
                }
                other => {
                    text.push('\\');
                    other
                }
            };
            text.push(simple);
        }
        Err(unterminated(quote, self.position))
    }
}

fn unterminated(quote: char, position: usize) -> Error {
    fault(format!("unexpected char {quote:?} at {position}: the string does not end"))
}

/// The first `{{`, `{%` or `{#`, and its second character.
fn find_tag(text: &str) -> Option<(usize, char)> {
    let mut from = 0;
    loop {
        let at = text.get(from..)?.find('{')? + from;
        match text.as_bytes().get(at + 1) {
            Some(b'{') => return Some((at, '{')),
            Some(b'%') => return Some((at, '%')),
            Some(b'#') => return Some((at, '#')),
            _ => from = at + 1,
        }
    }
}

fn skip_space(text: &str) -> &str {
    text.trim_start_matches(is_space)
}

fn strip_sign(text: &str) -> (Option<char>, &str) {
    match text.chars().next() {
        Some(c @ ('-' | '+')) => (Some(c), text.get(1..).unwrap_or_default()),
        _ => (None, text),
    }
}

/// Length of a `{% raw %}` at the start of `text`, with the whitespace a `-%}` takes.
fn raw_begin(text: &str) -> Option<usize> {
    let (_, rest) = strip_sign(text.strip_prefix("{%")?);
    let rest = skip_space(skip_space(rest).strip_prefix("raw")?);
    let rest = match rest.strip_prefix("-%}") {
        Some(rest) => skip_space(rest),
        None => rest.strip_prefix("%}")?,
    };
    Some(text.len() - rest.len())
}

/// Signs and length of an `{% endraw %}` at the start of `text`.
fn endraw(text: &str) -> Option<(Option<char>, Option<char>, usize)> {
    let (sign, rest) = strip_sign(text.strip_prefix("{%")?);
    let rest = skip_space(skip_space(rest).strip_prefix("endraw")?);
    let (end, rest) = strip_sign(rest);
    Some((sign, end, text.len() - rest.strip_prefix("%}")?.len()))
}
