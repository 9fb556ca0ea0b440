//! Filters that look at words: `wordcount`, `wordwrap`, `striptags`.

use super::arguments::Arguments;
use super::lexer::is_space;
use super::marks::Text;
use super::meter::{Meter, R, Sink, fault};
use super::print::{text_in, to_text};
use super::strings;
use super::value::{as_int, defined, int, type_name};
use minijinja::Value;
use std::ops::Range;
use std::sync::Arc;

/// Longest entity that is looked for, without its ampersand.
const ENTITY_BYTES_MAX: usize = 12;

/// `value|wordcount`.
pub(super) fn count(value: &Value, meter: &Arc<Meter>) -> R<Value> {
    let text = to_text(value, meter)?;
    let text = text_in(&text);
    meter.heavy(text.len())?;
    let words = text.str().split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|w| !w.is_empty());
    Ok(int(words.count() as i128))
}

/// `value|wordwrap(width, break_long_words, wrapstring, break_on_hyphens)`, as Python's `textwrap` does it.
pub(super) fn wrap(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let names = ["width", "break_long_words", "wrapstring", "break_on_hyphens"];
    let [width, long, newline, hyphens] = arguments.bind("wordwrap", names)?;
    let width = width.as_ref().and_then(as_int).unwrap_or(79);
    let width = usize::try_from(width).ok().filter(|w| *w > 0).ok_or_else(|| fault("wordwrap: width must be > 0"))?;
    let (long, hyphens) = (long.is_none_or(|v| v.is_true()), hyphens.is_none_or(|v| v.is_true()));
    let newline = newline.filter(|n| !n.is_none()).unwrap_or_else(|| Value::from("\n"));
    let Some(text) = super::marks::text(value) else {
        defined(value)?;
        return Err(fault(format!("wordwrap needs a str, not {}", type_name(value))));
    };
    meter.heavy(text.len())?;
    meter.room(text.len().saturating_mul(size_of::<&str>()))?;
    let mut sink = Sink::new(meter);
    let mut first = true;
    for line in strings::lines(text.str(), false) {
        let wrapped = wrapped(line, width, long, hyphens);
        let rows = if wrapped.is_empty() { Vec::from([Range { start: 0, end: 0 }]) } else { wrapped };
        for row in rows {
            if !std::mem::take(&mut first) {
                sink.push_text(text_in(&newline))?;
            }
            sink.push_text(text.part(line).slice(row))?;
        }
    }
    Ok(sink.finish())
}

/// Pieces of a line that stay together: runs of spaces, and words, cut after hyphens between letters.
fn chunks(line: &str, hyphens: bool) -> Vec<&str> {
    let mut chunks = Vec::new();
    let mut start = 0;
    let chars: Vec<(usize, char)> = line.char_indices().collect();
    let at = |i: usize| chars.get(i).map(|(_, c)| *c);
    for i in 1..chars.len() {
        let (Some(before), Some(here)) = (at(i - 1), at(i)) else { break };
        let space = |c: char| matches!(c, '\t' | '\n' | '\u{b}' | '\u{c}' | '\r' | ' ');
        let letter = |c: Option<char>| c.is_some_and(|c| c.is_alphabetic() || c == '_');
        let hyphen = hyphens
            && before == '-'
            && i >= 3
            && at(i - 2).is_some_and(|c| c.is_alphanumeric() || c == '_')
            && letter(at(i - 3))
            && letter(Some(here))
            && at(i + 1).is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '-'));
        if space(before) != space(here) || hyphen {
            let end = chars.get(i).map_or(line.len(), |(at, _)| *at);
            chunks.push(line.get(start..end).unwrap_or_default());
            start = end;
        }
    }
    if start < line.len() {
        chunks.push(line.get(start..).unwrap_or_default());
    }
    chunks
}

/// The rows of one line, as ranges of its bytes.
fn wrapped(line: &str, width: usize, long: bool, hyphens: bool) -> Vec<Range<usize>> {
    let mut rows: Vec<Range<usize>> = Vec::new();
    let mut pieces = chunks(line, hyphens);
    pieces.reverse();
    let blank = |c: &str| c.chars().all(is_space);
    let mut at = 0;
    while let Some(next) = pieces.last() {
        // A row does not begin with spaces, but for the first.
        if blank(next) && !rows.is_empty() {
            at += next.len();
            pieces.pop();
            continue;
        }
        let (start, mut used, mut end, mut last_blank) = (at, 0, at, 0);
        while let Some(next) = pieces.last() {
            let len = next.chars().count();
            if used + len > width {
                break;
            }
            used += len;
            end += next.len();
            last_blank = if blank(next) { next.len() } else { 0 };
            pieces.pop();
        }
        let too_long = pieces.last().filter(|p| p.chars().count() > width).copied();
        if let Some(piece) = too_long {
            let room = width.saturating_sub(used);
            if long {
                let cut = piece.char_indices().nth(room.max(usize::from(used == 0))).map_or(piece.len(), |(i, _)| i);
                let (head, tail) = piece.split_at(cut);
                pieces.pop();
                if !tail.is_empty() {
                    pieces.push(tail);
                }
                end += head.len();
                last_blank = if head.is_empty() { last_blank } else { 0 };
            } else if end == start {
                pieces.pop();
                end += piece.len();
            }
        }
        at = end;
        if end - last_blank > start {
            rows.push(start..end - last_blank);
        }
    }
    rows
}

/// `value|striptags`: without comments and tags, spaces collapsed, entities as characters.
pub(super) fn strip_tags(value: &Value, meter: &Arc<Meter>) -> R<Value> {
    let value = to_text(value, meter)?;
    let value = without(text_in(&value), "<!--", "-->", meter)?;
    let value = without(text_in(&value), "<", ">", meter)?;
    let text = text_in(&value);
    let mut spaced = Sink::new(meter);
    for (i, word) in text.str().split(is_space).filter(|w| !w.is_empty()).enumerate() {
        spaced.push(if i > 0 { " " } else { "" })?;
        spaced.push_text(text.part(word))?;
    }
    let mut sink = Sink::new(meter);
    let mut rest = spaced.text();
    while let Some(at) = rest.str().find('&') {
        meter.step()?;
        sink.push_text(rest.slice(0..at))?;
        let tail = rest.slice(at..rest.len());
        let (length, c) = entity(tail.str()).unwrap_or((1, '&'));
        sink.push_char(c, tail.slice(0..length).is_marked())?;
        rest = tail.slice(length..tail.len());
    }
    sink.push_text(rest)?;
    Ok(sink.finish())
}

/// The text without what stands between `open` and `close`.
fn without(text: Text, open: &str, close: &str, meter: &Arc<Meter>) -> R<Value> {
    meter.heavy(text.len())?;
    let mut sink = Sink::new(meter);
    let mut rest = text;
    while let Some(start) = rest.str().find(open) {
        let Some(end) = rest.str().get(start..).and_then(|t| t.find(close)) else { break };
        sink.push_text(rest.slice(0..start))?;
        rest = rest.slice(start + end + close.len()..rest.len());
    }
    sink.push_text(rest)?;
    Ok(sink.finish())
}

/// The character of the entity at the start of `text`, and the entity's length: numbers and the commonest names.
fn entity(text: &str) -> Option<(usize, char)> {
    let end = text.bytes().take(ENTITY_BYTES_MAX).position(|b| b == b';')?;
    let name = text.get(1..end)?;
    let c = match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => '\u{a0}',
        "copy" => '©',
        "hellip" => '…',
        "mdash" => '—',
        "ndash" => '–',
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => number.parse(),
            };
            char::from_u32(code.ok()?)?
        }
    };
    Some((end + 1, c))
}
