//! Methods of Python's `str`.

use super::lexer::is_space;
use super::meter::{Meter, R, Sink, fault};
use super::value::{Arguments, View, as_int, int, type_name, view};
use super::{ops, printf};
use minijinja::Value;
use std::sync::Arc;

/// Names of the methods.
pub(super) const METHODS: [&str; 43] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "islower",
    "isnumeric",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
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

/// Calls the method `name` of `value`, which is the text `s`.
pub(super) fn call(value: &Value, s: &str, name: &str, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    meter.work(s.len())?;
    match name {
        "format" => return printf::format(s, &arguments, meter),
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = arguments.bind(name, ["chars"])?;
            let chars = chars.filter(|c| !c.is_none()).map(|c| text(&c, name)).transpose()?;
            return meter.text(strip(s, chars.as_deref(), name != "rstrip", name != "lstrip"));
        }
        "startswith" | "endswith" => return affix(s, name, arguments),
        "split" | "rsplit" => {
            let [separator, limit] = arguments.bind(name, ["sep", "maxsplit"])?;
            let separator = separator.filter(|v| !v.is_none()).map(|v| text(&v, name)).transpose()?;
            let limit = optional_int(limit.as_ref())?.filter(|n| *n >= 0).map_or(usize::MAX, clamp);
            let parts = split(s, separator.as_deref(), limit, name == "rsplit")?;
            return texts(&parts, meter);
        }
        "splitlines" => {
            let [keep] = arguments.bind(name, ["keepends"])?;
            return texts(&lines(s, keep.is_some_and(|k| k.is_true())), meter);
        }
        "join" => {
            let [items] = arguments.bind(name, ["iterable"])?;
            return join(s, &items.unwrap_or_default(), meter);
        }
        "replace" => {
            let [old, new, count] = arguments.bind(name, ["old", "new", "count"])?;
            let (old, new) = (text(&old.unwrap_or_default(), name)?, text(&new.unwrap_or_default(), name)?);
            let count = optional_int(count.as_ref())?.filter(|n| *n >= 0).map_or(usize::MAX, clamp);
            return replace(s, &old, &new, count, meter);
        }
        "find" | "rfind" | "index" | "rindex" | "count" => return search(s, name, arguments),
        "partition" | "rpartition" => {
            let [separator] = arguments.bind(name, ["sep"])?;
            return partition(s, &text(&separator.unwrap_or_default(), name)?, name == "rpartition", meter);
        }
        "removeprefix" | "removesuffix" => {
            let [affix] = arguments.bind(name, ["affix"])?;
            let affix = text(&affix.unwrap_or_default(), name)?;
            let rest = if name == "removeprefix" { s.strip_prefix(&*affix) } else { s.strip_suffix(&*affix) };
            return meter.text(rest.unwrap_or(s));
        }
        "center" | "ljust" | "rjust" | "zfill" => return justify(s, name, arguments, meter),
        "expandtabs" => {
            let [size] = arguments.bind(name, ["tabsize"])?;
            return expand_tabs(s, optional_int(size.as_ref())?.map_or(8, |n| clamp(n.max(0))), meter);
        }
        "encode" | "translate" => return Err(fault(format!("str.{name} is not available in chat templates"))),
        _ => {}
    }
    let [] = arguments.bind(name, [])?;
    if let Some(yes) = predicate(s, name) {
        return Ok(Value::from(yes));
    }
    meter.room(s.len() * 3)?;
    Ok(match name {
        "upper" => meter.text(&s.to_uppercase())?,
        "lower" => meter.text(&s.to_lowercase())?,
        "casefold" => meter.text(&s.to_lowercase().replace('ß', "ss"))?,
        "capitalize" => meter.text(&capitalize(s))?,
        "title" => meter.text(&title(s))?,
        "swapcase" => meter.text(&swap_case(s))?,
        _ => value.clone(),
    })
}

/// The text of an argument; a TypeError if it is none.
fn text(value: &Value, method: &str) -> R<String> {
    match value.as_str() {
        Some(s) => Ok(s.to_owned()),
        None => Err(fault(format!("{method}() argument must be str, not {}", type_name(value)))),
    }
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

fn texts(parts: &[&str], meter: &Arc<Meter>) -> R<Value> {
    let items = parts.iter().map(|p| meter.text(p)).collect::<R<Vec<_>>>()?;
    meter.list(items)
}

/// `s.strip(chars)` at the chosen ends.
pub(super) fn strip<'s>(s: &'s str, chars: Option<&str>, start: bool, end: bool) -> &'s str {
    let gone = |c: char| chars.map_or_else(|| is_space(c), |set| set.contains(c));
    let s = if start { s.trim_start_matches(gone) } else { s };
    if end { s.trim_end_matches(gone) } else { s }
}

fn affix(s: &str, name: &str, arguments: Arguments) -> R<Value> {
    let [wanted, start, end] = arguments.bind(name, ["prefix", "start", "end"])?;
    let wanted = wanted.ok_or_else(|| fault(format!("{name}() takes at least 1 argument (0 given)")))?;
    let (start, end) = (optional_int(start.as_ref())?, optional_int(end.as_ref())?);
    let part = ops::text_slice(s, start, end);
    let fits = |affix: &Value| {
        let affix = affix.as_str().ok_or_else(|| {
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
        let trim = |text: &'s str| strip(text, None, !right, right);
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

/// `s.splitlines()`.
pub(super) fn lines(s: &str, keep: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut start = 0;
    let mut chars = s.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let ends =
            matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
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

fn join(separator: &str, items: &Value, meter: &Arc<Meter>) -> R<Value> {
    let mut sink = Sink::new(meter);
    for (i, item) in meter.iterate(items)?.iter().enumerate() {
        if i > 0 {
            sink.push(separator)?;
        }
        let wrong = || fault(format!("sequence item {i}: expected str instance, {} found", type_name(item)));
        sink.push(item.as_str().ok_or_else(wrong)?)?;
    }
    Ok(sink.finish())
}

/// `s.replace(old, new, count)`.
pub(super) fn replace(s: &str, old: &str, new: &str, count: usize, meter: &Arc<Meter>) -> R<Value> {
    let mut sink = Sink::new(meter);
    let mut from = 0;
    for (at, found) in s.match_indices(old).take(count) {
        sink.push(s.get(from..at).unwrap_or_default())?;
        sink.push(new)?;
        from = at + found.len();
    }
    sink.push(s.get(from..).unwrap_or_default())?;
    Ok(sink.finish())
}

fn search(s: &str, name: &str, arguments: Arguments) -> R<Value> {
    let [wanted, start, end] = arguments.bind(name, ["sub", "start", "end"])?;
    let wanted = text(&wanted.unwrap_or_default(), name)?;
    let (start, end) = (optional_int(start.as_ref())?, optional_int(end.as_ref())?);
    let part = ops::text_slice(s, start, end);
    if name == "count" {
        let n = if wanted.is_empty() { part.chars().count() + 1 } else { part.matches(&*wanted).count() };
        return Ok(int(n as i128));
    }
    let found = if name.starts_with('r') { part.rfind(&*wanted) } else { part.find(&*wanted) };
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

fn partition(s: &str, separator: &str, right: bool, meter: &Arc<Meter>) -> R<Value> {
    if separator.is_empty() {
        return Err(fault("empty separator"));
    }
    let found = if right { s.rsplit_once(separator) } else { s.split_once(separator) };
    let parts = match found {
        Some((before, after)) => [before, separator, after],
        None if right => ["", "", s],
        None => [s, "", ""],
    };
    let parts = parts.iter().map(|p| meter.text(p)).collect::<R<Vec<_>>>()?;
    meter.tuple(parts)
}

fn justify(s: &str, name: &str, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [width, fill] = arguments.bind(name, ["width", "fillchar"])?;
    let width = optional_int(width.as_ref())?.ok_or_else(|| fault(format!("{name} expected at least 1 argument")))?;
    let fill = fill.map_or(Ok(" ".to_owned()), |f| text(&f, name))?;
    if fill.chars().count() != 1 {
        return Err(fault("The fill character must be exactly one character long"));
    }
    let missing = clamp(width.max(0)).saturating_sub(s.chars().count());
    // Python puts the odd one to the left when the width is odd.
    let left = missing / 2 + (missing & clamp(width.max(0)) & 1);
    let mut sink = Sink::new(meter);
    if name == "zfill" {
        let (sign, digits) = s.split_at(usize::from(s.starts_with(['+', '-'])));
        sink.push(sign)?;
        sink.repeat("0", missing)?;
        sink.push(digits)?;
        return Ok(sink.finish());
    }
    let (before, after) = match name {
        "ljust" => (0, missing),
        "rjust" => (missing, 0),
        _ => (left, missing - left),
    };
    sink.repeat(&fill, before)?;
    sink.push(s)?;
    sink.repeat(&fill, after)?;
    Ok(sink.finish())
}

fn expand_tabs(s: &str, size: usize, meter: &Arc<Meter>) -> R<Value> {
    let mut sink = Sink::new(meter);
    let mut column = 0;
    for c in s.chars() {
        match c {
            '\t' => {
                let spaces = if size == 0 { 0 } else { size - column % size };
                sink.repeat(" ", spaces)?;
                column += spaces;
            }
            c => {
                sink.push_char(c)?;
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
            }
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
        "isdigit" | "isdecimal" | "isnumeric" => all(char::is_numeric),
        "isascii" => s.is_ascii(),
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
