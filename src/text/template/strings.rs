//! Methods of Python's `str`.

use super::lexer::is_space;
use super::marks::{self, Text, str_of};
use super::meter::{Meter, R, Sink, fault};
use super::print::{text_in, to_text};
use super::value::{Arguments, View, as_int, int, type_name, view};
use super::{digits, ops, printf};
use minijinja::Value;
use std::sync::Arc;

/// Names of the methods.
pub(super) const METHODS: [&str; 47] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];

/// Calls the method `name` of `value`, which is the text `s`. Methods of markup give markup, and escape what they put to it.
pub(super) fn call(value: &Value, s: Text, name: &str, mut arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    if !s.is_markup() {
        return call_of_text(value, s, name, arguments, meter);
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
                meter.list(items.iter().map(|item| escape(item, meter)).collect::<R<Vec<_>>>()?)?
            }
            _ => escape(added, meter)?,
        };
    }
    let result = call_of_text(value, s, name, arguments, meter)?;
    let tuple = matches!(view(&result), View::Tuple(_));
    if let View::List(parts) | View::Tuple(parts) = view(&result) {
        let parts = parts.items.iter().map(|part| meter.markup(part.clone(), true));
        return meter.items(parts.collect::<R<Vec<_>>>()?, tuple);
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

fn call_of_text(value: &Value, s: Text, name: &str, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    meter.work(s.len())?;
    match name {
        "format" | "format_map" => return printf::format(s, name, arguments, meter),
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = arguments.bind(name, ["chars"])?;
            let chars = chars.filter(|c| !c.is_none());
            let chars = chars.as_ref().map(|c| text(c, name)).transpose()?;
            let rest = strip(s.str(), chars.map(Text::str), name != "rstrip", name != "lstrip", meter)?;
            return meter.text(s.part(rest));
        }
        "startswith" | "endswith" => return affix(s.str(), name, arguments, meter),
        "split" | "rsplit" => {
            let [separator, limit] = arguments.bind(name, ["sep", "maxsplit"])?;
            let separator = separator.filter(|v| !v.is_none());
            let separator = separator.as_ref().map(|v| text(v, name)).transpose()?;
            let limit = optional_int(limit.as_ref())?.filter(|n| *n >= 0).map_or(usize::MAX, clamp);
            meter.heavy(s.len())?;
            let parts = split(s.str(), separator.map(Text::str), limit, name == "rsplit")?;
            return texts(s, &parts, meter);
        }
        "splitlines" => {
            let [keep] = arguments.bind(name, ["keepends"])?;
            return texts(s, &lines(s.str(), keep.is_some_and(|k| k.is_true())), meter);
        }
        "join" => {
            let [items] = arguments.bind(name, ["iterable"])?;
            return join(s, &items.unwrap_or_default(), meter);
        }
        "replace" => {
            let [old, new, count] = arguments.bind(name, ["old", "new", "count"])?;
            let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
            let count = optional_int(count.as_ref())?.filter(|n| *n >= 0).map_or(usize::MAX, clamp);
            return replace(s, text(&old, name)?.str(), text(&new, name)?, count, meter);
        }
        "find" | "rfind" | "index" | "rindex" | "count" => return search(s.str(), name, arguments, meter),
        "partition" | "rpartition" => {
            let [separator] = arguments.bind(name, ["sep"])?;
            return partition(s, text(&separator.unwrap_or_default(), name)?, name == "rpartition", meter);
        }
        "removeprefix" | "removesuffix" => {
            let [affix] = arguments.bind(name, ["affix"])?;
            let affix = affix.unwrap_or_default();
            let affix = text(&affix, name)?.str();
            let rest = if name == "removeprefix" { s.str().strip_prefix(affix) } else { s.str().strip_suffix(affix) };
            return meter.text(s.part(rest.unwrap_or(s.str())));
        }
        "center" | "ljust" | "rjust" | "zfill" => return justify(s, name, arguments, meter),
        "expandtabs" => {
            let [size] = arguments.bind(name, ["tabsize"])?;
            return expand_tabs(s, optional_int(size.as_ref())?.map_or(8, |n| clamp(n.max(0))), meter);
        }
        "encode" | "translate" | "maketrans" => {
            return Err(fault(format!("str.{name} is not available in chat templates")));
        }
        _ => {}
    }
    let [] = arguments.bind(name, [])?;
    meter.heavy(s.len())?;
    if let Some(yes) = predicate(s.str(), name) {
        return Ok(Value::from(yes));
    }
    match name {
        "upper" => mapped(s, meter, str::to_uppercase),
        "lower" => mapped(s, meter, str::to_lowercase),
        "casefold" => mapped(s, meter, |s| s.to_lowercase().replace('ß', "ss")),
        "capitalize" => mapped(s, meter, capitalize),
        "title" => mapped(s, meter, title),
        "swapcase" => mapped(s, meter, swap_case),
        _ => Ok(value.clone()),
    }
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
    match value {
        None => Ok(None),
        Some(v) if v.is_none() => Ok(None),
        Some(v) => match as_int(v) {
            Some(i) => Ok(Some(i)),
            None => Err(fault(format!("'{}' object cannot be interpreted as an integer", type_name(v)))),
        },
    }
}

fn clamp(n: i128) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// Parts of a text, as a list.
fn texts(of: Text, parts: &[&str], meter: &Arc<Meter>) -> R<Value> {
    meter.steps(parts.len().saturating_mul(2))?;
    let items = parts.iter().map(|p| meter.text(of.part(p))).collect::<R<Vec<_>>>()?;
    meter.list(items)
}

/// `s.strip(chars)` at the chosen ends.
pub(super) fn strip<'s>(s: &'s str, chars: Option<&str>, start: bool, end: bool, meter: &Meter) -> R<&'s str> {
    // Each character that goes is looked for among `chars`.
    meter.work(s.len().saturating_mul(chars.map_or(1, str::len)))?;
    let gone = |c: char| chars.map_or_else(|| is_space(c), |set| set.contains(c));
    let s = if start { s.trim_start_matches(gone) } else { s };
    Ok(if end { s.trim_end_matches(gone) } else { s })
}

fn strip_space(s: &str, start: bool, end: bool) -> &str {
    let s = if start { s.trim_start_matches(is_space) } else { s };
    if end { s.trim_end_matches(is_space) } else { s }
}

fn affix(s: &str, name: &str, arguments: Arguments, meter: &Meter) -> R<Value> {
    let [wanted, start, end] = arguments.bind(name, ["prefix", "start", "end"])?;
    let wanted = wanted.ok_or_else(|| fault(format!("{name}() takes at least 1 argument (0 given)")))?;
    let (start, end) = (optional_int(start.as_ref())?, optional_int(end.as_ref())?);
    if start.is_some() || end.is_some() {
        meter.heavy(s.len())?;
    }
    let part = if start.is_none() && end.is_none() { s } else { ops::text_slice(s, start, end) };
    let fits = |affix: &Value| {
        meter.step()?;
        let affix = str_of(affix).ok_or_else(|| {
            let kind = type_name(affix);
            fault(format!("{name} first arg must be str or a tuple of str, not {kind}"))
        })?;
        Ok(if name == "startswith" { part.starts_with(affix) } else { part.ends_with(affix) })
    };
    if let View::Tuple(list) = view(&wanted) {
        for affix in &list.items {
            if fits(affix)? {
                return Ok(Value::from(true));
            }
        }
        return Ok(Value::from(false));
    }
    fits(&wanted).map(Value::from)
}

/// `s.split(separator, limit)`, or from the right.
fn split<'s>(s: &'s str, separator: Option<&str>, limit: usize, right: bool) -> R<Vec<&'s str>> {
    let mut parts = Vec::new();
    let Some(separator) = separator else {
        // Only the side the splitting comes from is stripped: what is left over keeps its other end.
        let trim = |text: &'s str| strip_space(text, !right, right);
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

/// `s.splitlines()`.
pub(super) fn lines(s: &str, keep: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut start = 0;
    let mut chars = s.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let ends = is_line_end(c);
        if !ends {
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

fn join(separator: Text, items: &Value, meter: &Arc<Meter>) -> R<Value> {
    let mut sink = Sink::new(meter);
    for (i, item) in meter.iterate(items)?.iter().enumerate() {
        if i > 0 {
            sink.push_text(separator)?;
        }
        let wrong = || fault(format!("sequence item {i}: expected str instance, {} found", type_name(item)));
        sink.push_text(marks::text(item).ok_or_else(wrong)?)?;
    }
    Ok(sink.finish())
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

fn search(s: &str, name: &str, arguments: Arguments, meter: &Meter) -> R<Value> {
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

fn partition(s: Text, separator: Text, right: bool, meter: &Arc<Meter>) -> R<Value> {
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
    let parts = parts.iter().map(|p| meter.text(*p)).collect::<R<Vec<_>>>()?;
    meter.tuple(parts)
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

fn expand_tabs(s: Text, size: usize, meter: &Arc<Meter>) -> R<Value> {
    let mut sink = Sink::new(meter);
    let mut column = 0;
    for (run, content) in s.runs() {
        for c in run.chars() {
            if c == '\t' {
                let spaces = if size == 0 { 0 } else { size - column % size };
                sink.repeat(Text::plain(" "), spaces)?;
                column += spaces;
                continue;
            }
            sink.push_char(c, content)?;
            column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
        }
    }
    Ok(sink.finish())
}

fn cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase()
}

fn predicate(s: &str, name: &str) -> Option<bool> {
    let all = |f: fn(char) -> bool| !s.is_empty() && s.chars().all(f);
    Some(match name {
        "isspace" => all(is_space),
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isdecimal" => all(digits::is_decimal),
        "isdigit" => all(digits::is_digit),
        "isnumeric" => all(char::is_numeric),
        "isascii" => s.is_ascii(),
        "isprintable" => s.chars().all(|c| c == ' ' || super::print::printable(c)),
        "isidentifier" => {
            let mut chars = s.chars();
            chars.next().is_some_and(|c| c == '_' || c.is_alphabetic())
                && chars.all(|c| c == '_' || c.is_alphanumeric())
        }
        "islower" => s.chars().any(cased) && !s.chars().any(char::is_uppercase),
        "isupper" => s.chars().any(cased) && !s.chars().any(char::is_lowercase),
        "istitle" => s.chars().any(cased) && title(s) == s,
        _ => return None,
    })
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
    let mut out = String::with_capacity(s.len());
    let mut inside = false;
    for c in s.chars() {
        if inside {
            out.extend(c.to_lowercase())
        } else {
            out.extend(c.to_uppercase())
        }
        inside = cased(c);
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
