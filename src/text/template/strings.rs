//! Methods of Python's `str`.

use super::arguments::Arguments;
use super::lexer::is_space;
use super::marks::{self, Text, str_of};
use super::meter::{Meter, R, Sink, fault};
use super::print::{text_in, to_text};
use super::value::{View, as_int, int, type_name, view};
use super::{digits, ops, printf};
use minijinja::Value;
use std::sync::Arc;

/// A method by the name it is called by, which some share.
type Method = fn(Text, &str, Arguments, &Arc<Meter>) -> R<Value>;
/// A method without arguments that asks something of a text.
type Predicate = fn(&str) -> bool;
/// A method without arguments that changes the letters of a text.
type Mapping = fn(&str) -> String;

const METHODS: [(&str, Method); 29] = [
    ("center", justify),
    ("count", search),
    ("encode", unavailable),
    ("endswith", affix),
    ("expandtabs", expand_tabs),
    ("find", search),
    ("format", printf::format),
    ("format_map", printf::format),
    ("index", search),
    ("join", join),
    ("ljust", justify),
    ("lstrip", strip_method),
    ("maketrans", unavailable),
    ("partition", partition),
    ("removeprefix", remove_affix),
    ("removesuffix", remove_affix),
    ("replace", replace_method),
    ("rfind", search),
    ("rindex", search),
    ("rjust", justify),
    ("rpartition", partition),
    ("rsplit", split_method),
    ("rstrip", strip_method),
    ("split", split_method),
    ("splitlines", split_lines),
    ("startswith", affix),
    ("strip", strip_method),
    ("translate", unavailable),
    ("zfill", justify),
];
const PREDICATES: [(&str, Predicate); 12] = [
    ("isalnum", |s| all(s, char::is_alphanumeric)),
    ("isalpha", |s| all(s, char::is_alphabetic)),
    ("isascii", str::is_ascii),
    ("isdecimal", |s| all(s, digits::is_decimal)),
    ("isdigit", |s| all(s, digits::is_digit)),
    ("isidentifier", is_identifier),
    ("islower", |s| s.chars().any(cased) && !s.chars().any(char::is_uppercase)),
    ("isnumeric", |s| all(s, char::is_numeric)),
    ("isprintable", |s| s.chars().all(|c| c == ' ' || super::print::printable(c))),
    ("isspace", |s| all(s, is_space)),
    ("istitle", |s| s.chars().any(cased) && title(s) == s),
    ("isupper", |s| s.chars().any(cased) && !s.chars().any(char::is_lowercase)),
];
const MAPPINGS: [(&str, Mapping); 6] = [
    ("capitalize", capitalize),
    ("casefold", |s| s.to_lowercase().replace('ß', "ss")),
    ("lower", str::to_lowercase),
    ("swapcase", swap_case),
    ("title", title),
    ("upper", str::to_uppercase),
];

fn find<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|(known, _)| *known == name).map(|(_, entry)| *entry)
}

/// Whether texts have a method of this name.
pub(super) fn is_method(name: &str) -> bool {
    find(&METHODS, name).is_some() || find(&PREDICATES, name).is_some() || find(&MAPPINGS, name).is_some()
}

/// Calls the method `name` of the text `s`. Methods of markup give markup, and escape what they put to it.
pub(super) fn call(s: Text, name: &str, mut arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    if !s.is_markup() {
        return call_of_text(s, name, arguments, meter);
    }
    let added = match name {
        "join" => arguments.positional.first_mut(),
        "replace" | "ljust" | "rjust" | "center" => arguments.positional.get_mut(1),
        _ => None,
    };
    if let Some(added) = added {
        *added = match name {
            "join" => {
                let items = meter.iterate(added)?;
                meter.list_of(items.iter().map(|item| escape(item, meter)))?
            }
            _ => escape(added, meter)?,
        };
    }
    let result = call_of_text(s, name, arguments, meter)?;
    if let View::List(parts) | View::Tuple(parts) = view(&result) {
        return parts.mapped(|part| meter.markup(part.clone(), true), meter);
    }
    meter.markup(result, true)
}

/// A value as markup: markup as it is, anything else escaped.
pub(super) fn escape(value: &Value, meter: &Arc<Meter>) -> R<Value> {
    let text = to_text(value, meter)?;
    let mut sink = Sink::new(meter);
    sink.push_escaped(text_in(&text))?;
    Ok(sink.finish_as(true))
}

fn call_of_text(s: Text, name: &str, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    meter.work(s.len())?;
    if let Some(method) = find(&METHODS, name) {
        return method(s, name, arguments, meter);
    }
    let [] = arguments.bind(name, [])?;
    meter.heavy(s.len())?;
    match (find(&PREDICATES, name), find(&MAPPINGS, name)) {
        (Some(predicate), _) => Ok(Value::from(predicate(s.str()))),
        (None, Some(mapping)) => mapped(s, meter, mapping),
        (None, None) => Ok(Value::UNDEFINED),
    }
}

fn unavailable(_: Text, name: &str, _: Arguments, _: &Arc<Meter>) -> R<Value> {
    Err(fault(format!("str.{name} is not available in chat templates")))
}

/// Text whose letters are changed. Where the parts that are content cannot be told in the result, all of it is.
pub(super) fn mapped(s: Text, meter: &Arc<Meter>, map: fn(&str) -> String) -> R<Value> {
    // Every byte is looked at, and a letter may become three.
    meter.heavy(s.len().saturating_mul(2))?;
    meter.room(s.len().saturating_mul(3))?;
    let whole = map(s.str());
    let mut runs = s.runs();
    if let (Some((_, content)), None) = (runs.next(), runs.next()) {
        return meter.text(Text::whole(&whole, content));
    }
    if whole.len() == s.len() && whole.is_ascii() && s.str().is_ascii() {
        return meter.text(Text::new(&whole, &s.content()));
    }
    let mut sink = Sink::new(meter);
    for (run, content) in s.runs() {
        sink.push_as(&map(run), content)?;
    }
    if sink.text().str() == whole { Ok(sink.finish()) } else { meter.text(Text::whole(&whole, s.is_marked())) }
}

/// The text of an argument; a TypeError if it is none.
fn text<'v>(value: &'v Value, method: &str) -> R<Text<'v>> {
    marks::text(value).ok_or_else(|| fault(format!("{method}() argument must be str, not {}", type_name(value))))
}

fn optional_int(value: Option<&Value>) -> R<Option<i128>> {
    let wrong = |v| fault(format!("'{}' object cannot be interpreted as an integer", type_name(v)));
    value.filter(|v| !v.is_none()).map(|v| as_int(v).ok_or_else(|| wrong(v))).transpose()
}

fn clamp(n: i128) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// Parts of a text, as a list.
fn texts(of: Text, parts: &[&str], meter: &Arc<Meter>) -> R<Value> {
    meter.steps(parts.len().saturating_mul(2))?;
    meter.list_of(parts.iter().map(|p| meter.text(of.part(p))))
}

fn strip_method(s: Text, name: &str, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [chars] = arguments.bind(name, ["chars"])?;
    let chars = chars.filter(|c| !c.is_none());
    let chars = chars.as_ref().map(|c| text(c, name)).transpose()?;
    let rest = strip(s.str(), chars.map(Text::str), name != "rstrip", name != "lstrip", meter)?;
    meter.text(s.part(rest))
}

/// `s.strip(chars)` at the chosen ends.
pub(super) fn strip<'s>(s: &'s str, chars: Option<&str>, start: bool, end: bool, meter: &Meter) -> R<&'s str> {
    // Each character that goes is looked for among `chars`.
    meter.work(s.len().saturating_mul(chars.map_or(1, str::len)))?;
    let gone = |c: char| chars.map_or_else(|| is_space(c), |set| set.contains(c));
    let s = if start { s.trim_start_matches(gone) } else { s };
    Ok(if end { s.trim_end_matches(gone) } else { s })
}

fn affix(s: Text, name: &str, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let s = s.str();
    let [wanted, start, end] = arguments.bind(name, ["prefix", "start", "end"])?;
    let wanted = wanted.ok_or_else(|| fault(format!("{name}() takes at least 1 argument (0 given)")))?;
    let (start, end) = (optional_int(start.as_ref())?, optional_int(end.as_ref())?);
    if start.is_some() || end.is_some() {
        meter.heavy(s.len())?;
    }
    let part = if start.is_none() && end.is_none() { s } else { ops::text_slice(s, start, end) };
    let fits = |affix: &Value| -> R<bool> {
        meter.step()?;
        let affix = str_of(affix).ok_or_else(|| {
            let kind = type_name(affix);
            fault(format!("{name} first arg must be str or a tuple of str, not {kind}"))
        })?;
        Ok(if name == "startswith" { part.starts_with(affix) } else { part.ends_with(affix) })
    };
    let several = if let View::Tuple(list) = view(&wanted) { &list.items } else { std::slice::from_ref(&wanted) };
    ops::any(several, fits).map(Value::from)
}

fn remove_affix(s: Text, name: &str, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [affix] = arguments.bind(name, ["affix"])?;
    let affix = affix.unwrap_or_default();
    let affix = text(&affix, name)?.str();
    let rest = if name == "removeprefix" { s.str().strip_prefix(affix) } else { s.str().strip_suffix(affix) };
    meter.text(s.part(rest.unwrap_or(s.str())))
}

fn split_method(s: Text, name: &str, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [separator, limit] = arguments.bind(name, ["sep", "maxsplit"])?;
    let separator = separator.filter(|v| !v.is_none());
    let separator = separator.as_ref().map(|v| text(v, name)).transpose()?;
    let limit = times(limit)?;
    meter.heavy(s.len())?;
    texts(s, &split(s.str(), separator.map(Text::str), limit, name == "rsplit")?, meter)
}

/// How often something is done: without limit where the argument is absent or negative.
fn times(limit: Option<Value>) -> R<usize> {
    Ok(optional_int(limit.as_ref())?.filter(|n| *n >= 0).map_or(usize::MAX, clamp))
}

/// `s.split(separator, limit)`, or from the right.
fn split<'s>(s: &'s str, separator: Option<&str>, limit: usize, right: bool) -> R<Vec<&'s str>> {
    let mut parts = Vec::new();
    let Some(separator) = separator else {
        // Only the side the splitting comes from is stripped: what is left over keeps its other end.
        let trim =
            |text: &'s str| if right { text.trim_end_matches(is_space) } else { text.trim_start_matches(is_space) };
        let mut rest = trim(s);
        while !rest.is_empty() {
            let cut = if right { rest.rfind(is_space) } else { rest.find(is_space) };
            let Some(at) = cut.filter(|_| parts.len() < limit) else {
                parts.push(rest);
                break;
            };
            let width = rest.get(at..).and_then(|r| r.chars().next()).map_or(1, char::len_utf8);
            let (head, tail) = (rest.get(..at).unwrap_or_default(), rest.get(at + width..).unwrap_or_default());
            let (part, left) = if right { (tail, head) } else { (head, tail) };
            parts.push(part);
            rest = trim(left);
        }
        if right {
            parts.reverse();
        }
        return Ok(parts);
    };
    if separator.is_empty() {
        return Err(fault("empty separator"));
    }
    let pieces = limit.saturating_add(1);
    if right {
        parts.extend(s.rsplitn(pieces, separator));
        parts.reverse();
    } else {
        parts.extend(s.splitn(pieces, separator));
    }
    Ok(parts)
}

/// Whether `str.splitlines` ends a line at it.
pub(super) fn is_line_end(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn split_lines(s: Text, name: &str, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [keep] = arguments.bind(name, ["keepends"])?;
    texts(s, &lines(s.str(), keep.is_some_and(|k| k.is_true())), meter)
}

/// `s.splitlines()`.
pub(super) fn lines(s: &str, keep: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut start = 0;
    let mut chars = s.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if !is_line_end(c) {
            continue;
        }
        let mut next = at + c.len_utf8();
        if c == '\r' && chars.next_if(|(_, c)| *c == '\n').is_some() {
            next += 1;
        }
        lines.push(s.get(start..if keep { next } else { at }).unwrap_or_default());
        start = next;
    }
    if start < s.len() {
        lines.push(s.get(start..).unwrap_or_default());
    }
    lines
}

fn join(separator: Text, name: &str, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [items] = arguments.bind(name, ["iterable"])?;
    let mut sink = Sink::new(meter);
    for (i, item) in meter.iterate(&items.unwrap_or_default())?.iter().enumerate() {
        if i > 0 {
            sink.push_text(separator)?;
        }
        let wrong = || fault(format!("sequence item {i}: expected str instance, {} found", type_name(item)));
        sink.push_text(marks::text(item).ok_or_else(wrong)?)?;
    }
    Ok(sink.finish())
}

fn replace_method(s: Text, name: &str, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [old, new, count] = arguments.bind(name, ["old", "new", "count"])?;
    let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
    let count = times(count)?;
    replace(s, text(&old, name)?.str(), text(&new, name)?, count, meter)
}

/// `s.replace(old, new, count)`.
pub(super) fn replace(s: Text, old: &str, new: Text, count: usize, meter: &Arc<Meter>) -> R<Value> {
    meter.heavy(s.len())?;
    let mut sink = Sink::new(meter);
    let mut from = 0;
    for (at, found) in s.str().match_indices(old).take(count) {
        sink.push_text(s.slice(from..at))?;
        sink.push_text(new)?;
        from = at + found.len();
    }
    sink.push_text(s.slice(from..s.len()))?;
    Ok(sink.finish())
}

fn search(s: Text, name: &str, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let s = s.str();
    let [wanted, start, end] = arguments.bind(name, ["sub", "start", "end"])?;
    let wanted = wanted.unwrap_or_default();
    let wanted = text(&wanted, name)?.str();
    let (start, end) = (optional_int(start.as_ref())?, optional_int(end.as_ref())?);
    meter.heavy(s.len())?;
    let part = ops::text_slice(s, start, end);
    if name == "count" {
        let n = if wanted.is_empty() { part.chars().count() + 1 } else { part.matches(wanted).count() };
        return Ok(int(n as i128));
    }
    let found = if name.starts_with('r') { part.rfind(wanted) } else { part.find(wanted) };
    match found {
        Some(at) => {
            let offset = part.as_ptr().addr().saturating_sub(s.as_ptr().addr()).min(s.len());
            let before = if part.is_empty() { start.map_or(0, |n| clamp(n.max(0))) } else { chars_in(s, offset) };
            Ok(int((before + chars_in(part, at)) as i128))
        }
        None if name.ends_with("index") => Err(fault("substring not found")),
        None => Ok(Value::from(-1)),
    }
}

fn chars_in(s: &str, bytes: usize) -> usize {
    s.get(..bytes).unwrap_or_default().chars().count()
}

fn partition(s: Text, name: &str, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [separator] = arguments.bind(name, ["sep"])?;
    let separator = separator.unwrap_or_default();
    let (separator, right) = (text(&separator, name)?, name == "rpartition");
    if separator.len() == 0 {
        return Err(fault("empty separator"));
    }
    let found = if right { s.str().rsplit_once(separator.str()) } else { s.str().split_once(separator.str()) };
    let empty = Text::plain("");
    let parts = match found {
        // The separator of the result is the one that was given, in Python too.
        Some((before, after)) => [s.part(before), separator, s.part(after)],
        None if right => [empty, empty, s],
        None => [s, empty, empty],
    };
    meter.tuple(parts.iter().map(|p| meter.text(*p)).collect::<R<_>>()?)
}

fn justify(s: Text, name: &str, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [width, fill] = arguments.bind(name, ["width", "fillchar"])?;
    let width = optional_int(width.as_ref())?.ok_or_else(|| fault(format!("{name} expected at least 1 argument")))?;
    let fill = fill.unwrap_or_else(|| Value::from(" "));
    let fill = text(&fill, name)?;
    if fill.str().chars().count() != 1 {
        return Err(fault("The fill character must be exactly one character long"));
    }
    let missing = clamp(width.max(0)).saturating_sub(s.str().chars().count());
    // Python puts the odd one to the left when the width is odd.
    let left = missing / 2 + (missing & clamp(width.max(0)) & 1);
    let mut sink = Sink::new(meter);
    if name == "zfill" {
        let sign = usize::from(s.str().starts_with(['+', '-']));
        sink.push_text(s.slice(0..sign))?;
        sink.repeat(Text::plain("0"), missing)?;
        sink.push_text(s.slice(sign..s.len()))?;
        return Ok(sink.finish());
    }
    let (before, after) = match name {
        "ljust" => (0, missing),
        "rjust" => (missing, 0),
        _ => (left, missing - left),
    };
    sink.repeat(fill, before)?;
    sink.push_text(s)?;
    sink.repeat(fill, after)?;
    Ok(sink.finish())
}

fn expand_tabs(s: Text, name: &str, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [size] = arguments.bind(name, ["tabsize"])?;
    let size = optional_int(size.as_ref())?.map_or(8, |n| clamp(n.max(0)));
    let mut sink = Sink::new(meter);
    let mut column = 0;
    for (c, content) in s.chars() {
        if c == '\t' {
            let spaces = if size == 0 { 0 } else { size - column % size };
            sink.repeat(Text::plain(" "), spaces)?;
            column += spaces;
            continue;
        }
        sink.push_char(c, content)?;
        column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
    }
    Ok(sink.finish())
}

fn cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase()
}

fn all(s: &str, of: fn(char) -> bool) -> bool {
    !s.is_empty() && s.chars().all(of)
}

fn is_identifier(s: &str) -> bool {
    let mut chars = s.chars();
    chars.next().is_some_and(|c| c == '_' || c.is_alphabetic()) && chars.all(|c| c == '_' || c.is_alphanumeric())
}

/// The first character upper, the rest lower.
pub(super) fn capitalize(s: &str) -> String {
    let mut chars = s.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().collect::<String>() + &chars.as_str().to_lowercase(),
        None => String::new(),
    }
}

fn title(s: &str) -> String {
    titled(s, |c| !cased(c))
}

/// Text whose words begin with a capital, and go on in small letters: one word after each character that `ends` words.
pub(super) fn titled(s: &str, ends: fn(char) -> bool) -> String {
    let mut out = String::with_capacity(s.len());
    let mut start = true;
    for c in s.chars() {
        if start {
            out.extend(c.to_uppercase())
        } else {
            out.extend(c.to_lowercase())
        }
        start = ends(c);
    }
    out
}

fn swap_case(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    for c in s.chars() {
        if c.is_uppercase() { out.extend(c.to_lowercase()) } else { out.extend(c.to_uppercase()) }
    }
    out
}
