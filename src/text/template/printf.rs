//! Text from patterns: Python's `%` operator, `str.format`, and the format specifications both share.

use super::arguments::Arguments;
use super::marks::{self, Text};
use super::meter::{Meter, R, Sink, fault};
use super::value::{View, as_int, defined, int, type_name, view};
use super::{ops, print};
use minijinja::Value;
use std::sync::Arc;

/// Widest field and longest precision.
const FIELD_MAX: usize = 1 << 16;

/// How one value is laid out.
#[derive(Default, Clone)]
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    zero: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
    /// Some of the specification is content.
    content: bool,
    /// Text is escaped before it is laid out.
    markup: bool,
}

/// The characters of a pattern, with what it says of each.
type Chars = std::iter::Peekable<std::vec::IntoIter<(char, bool)>>;

/// The characters of a text, and whether each is content.
fn characters(text: Text, meter: &Meter) -> R<Vec<(char, bool)>> {
    meter.room(text.len().saturating_mul(8))?;
    Ok(text.chars().collect())
}

fn is_digit(c: &(char, bool)) -> bool {
    c.0.is_ascii_digit()
}

/// The arguments of `%`, one after another.
struct Source<'a> {
    list: std::slice::Iter<'a, Value>,
    by_key: bool,
    /// The pattern is markup: arguments are escaped.
    markup: bool,
}

impl Source<'_> {
    fn take(&mut self) -> R<Value> {
        self.list.next().cloned().ok_or_else(|| fault("not enough arguments for format string"))
    }
}

/// `pattern % argument`.
pub(super) fn percent(pattern: Text, argument: &Value, meter: &Arc<Meter>) -> R<Value> {
    let mut sink = Sink::new(meter);
    let single = [argument.clone()];
    let list: &[Value] = match view(argument) {
        View::Tuple(t) => &t.items,
        _ => &single,
    };
    let mut source = Source { list: list.iter(), by_key: false, markup: pattern.is_markup() };
    let mut chars = characters(pattern, meter)?.into_iter().peekable();
    while let Some((c, content)) = chars.next() {
        if c == '%' {
            directive(&mut chars, argument, &mut source, meter, &mut sink)?;
        } else {
            sink.push_char(c, content)?;
        }
    }
    // Whatever has items is a mapping to `%`, which may leave some of them out.
    let mapping = matches!(view(argument), View::Dict(_) | View::List(_) | View::Range(_));
    if source.list.next().is_some() && !source.by_key && !mapping {
        return Err(fault("not all arguments converted during string formatting"));
    }
    Ok(sink.finish_as(pattern.is_markup()))
}

/// What follows a `%`.
fn directive(chars: &mut Chars, argument: &Value, source: &mut Source, meter: &Arc<Meter>, sink: &mut Sink) -> R<()> {
    let mut value = None;
    if chars.next_if(|c| c.0 == '(').is_some() {
        let mut key = String::new();
        loop {
            match chars.next() {
                Some((')', _)) => break,
                Some((c, _)) => key.push(c),
                None => return Err(fault("incomplete format key")),
            }
        }
        let View::Dict(dict) = view(argument) else { return Err(fault("format requires a mapping")) };
        let missing = fault(format!("'{key}'"));
        value = Some(dict.get(&Value::from(key), meter)?.ok_or(missing)?);
        source.by_key = true;
    }
    let mut spec = Spec { align: Some('>'), markup: source.markup, ..Spec::default() };
    while let Some((flag, _)) = chars.next_if(|c| "-+ 0#".contains(c.0)) {
        match flag {
            '-' => spec.align = Some('<'),
            '+' => spec.sign = Some('+'),
            ' ' => spec.sign = spec.sign.or(Some(' ')),
            '0' => spec.zero = true,
            _ => spec.alternate = true,
        }
    }
    spec.width = field(chars, source)?.unwrap_or(0);
    if chars.next_if(|c| c.0 == '.').is_some() {
        spec.precision = Some(field(chars, source)?.unwrap_or(0));
    }
    while chars.next_if(|c| "hlL".contains(c.0)).is_some() {}
    let (kind, content) = chars.next().ok_or_else(|| fault("incomplete format"))?;
    if kind == '%' {
        return sink.push_char('%', content);
    }
    let value = value.map_or_else(|| source.take(), Ok)?;
    spec.zero &= spec.align == Some('>');
    percent_value(kind, &value, spec, meter, sink)
}

/// A width or precision: digits, or `*` for the next argument.
fn field(chars: &mut Chars, source: &mut Source) -> R<Option<usize>> {
    if chars.next_if(|c| c.0 == '*').is_none() {
        return digits(chars);
    }
    // What markup wraps its arguments in is no int.
    let n = as_int(&source.take()?)
        .filter(|_| !source.markup)
        .and_then(|n| usize::try_from(n).ok())
        .filter(|n| *n <= FIELD_MAX);
    n.map(Some).ok_or_else(|| fault(format!("* wants an int of at most {FIELD_MAX}")))
}

fn digits(chars: &mut Chars) -> R<Option<usize>> {
    let mut n = None;
    while let Some((d, _)) = chars.next_if(is_digit) {
        let value = n.unwrap_or(0) * 10 + d.to_digit(10).unwrap_or(0) as usize;
        if value > FIELD_MAX {
            return Err(fault(format!("a field wider than {FIELD_MAX}")));
        }
        n = Some(value);
    }
    Ok(n)
}

#[allow(clippy::cast_possible_truncation, reason = "Python truncates too; what is out of range saturates")]
fn percent_value(kind: char, value: &Value, mut spec: Spec, meter: &Arc<Meter>, sink: &mut Sink) -> R<()> {
    let decimal = matches!(kind, 'd' | 'i' | 'u');
    match kind {
        's' | 'r' | 'a' => {
            let mut text = Sink::new(meter);
            shown(value, kind, &mut text)?;
            spec.zero = false;
            if !spec.markup {
                return pad_text(text.text(), &spec, sink);
            }
            let markup = kind == 's' && marks::text(value).is_some_and(Text::is_markup);
            let mut escaped = Sink::new(meter);
            escaped.push_escaped(text.text().as_markup(markup))?;
            pad_text(escaped.text(), &spec, sink)
        }
        'c' | 'x' | 'X' | 'o' if spec.markup => Err(fault(format!("%{kind} format: an integer is required"))),
        'c' => {
            let code = as_int(value).and_then(|code| u32::try_from(code).ok()).and_then(char::from_u32);
            let mut buffer = [0; 4];
            let text = match code {
                Some(c) => Some(Text::plain(c.encode_utf8(&mut buffer))),
                None => marks::text(value).filter(|t| t.str().chars().count() == 1),
            };
            spec.zero = false;
            pad_text(text.ok_or_else(|| fault("%c requires int or char"))?, &spec, sink)
        }
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
            let n = match view(value) {
                View::Float(f) if decimal => Some(f.trunc() as i128),
                _ => as_int(value),
            };
            let what = if decimal { "a real number" } else { "an integer" };
            let wrong = || fault(format!("%{kind} format: {what} is required, not {}", type_name(value)));
            spec.kind = Some(if decimal { 'd' } else { kind });
            match view(value) {
                View::Big(big) if decimal => whole(big.is_negative(), big.magnitude(), &spec, sink),
                View::Big(_) => Err(ops::too_large()),
                _ => integer(n.ok_or_else(wrong)?, &spec, sink),
            }
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            let wrong = || fault(format!("must be real number, not {}", type_name(value)));
            spec.kind = Some(kind);
            number(ops::as_float(value).ok_or_else(wrong)?, &spec, sink)
        }
        other => Err(fault(format!("unsupported format character '{other}'"))),
    }
}

/// `str(value)` for `s`, `repr(value)` otherwise.
fn shown(value: &Value, kind: char, sink: &mut Sink) -> R<()> {
    if kind == 's' { print::display(value, sink) } else { print::repr(value, sink) }
}

/// Text in its field.
fn pad_text(text: Text, spec: &Spec, sink: &mut Sink) -> R<()> {
    let cut = match spec.precision {
        Some(p) => text.part(ops::text_slice(text.str(), None, Some(p as i128))),
        None => text,
    };
    pad("", cut, '<', spec, sink)
}

/// A sign or prefix and a body in their field.
fn pad(sign: &str, body: Text, default: char, spec: &Spec, sink: &mut Sink) -> R<()> {
    let missing = spec.width.saturating_sub(sign.chars().count() + body.str().chars().count());
    let align = if spec.zero && spec.fill.is_none() { '=' } else { spec.align.unwrap_or(default) };
    let fill = spec.fill.unwrap_or(if spec.zero { '0' } else { ' ' }).to_string();
    // A fill that a content pattern names comes from it.
    let fill = Text::whole(&fill, spec.content);
    let (before, inside, after) = match align {
        '<' => (0, 0, missing),
        '^' => (missing / 2, 0, missing - missing / 2),
        '=' => (0, missing, 0),
        _ => (missing, 0, 0),
    };
    sink.repeat(fill, before)?;
    sink.push(sign)?;
    sink.repeat(fill, inside)?;
    sink.push_text(body)?;
    sink.repeat(fill, after)
}

fn sign_of(negative: bool, spec: &Spec) -> String {
    match spec.sign {
        _ if negative => "-".to_owned(),
        Some(c @ ('+' | ' ')) => c.to_string(),
        _ => String::new(),
    }
}

fn grouped(digits: &str, separator: Option<char>, every: usize) -> String {
    let Some(separator) = separator else { return digits.to_owned() };
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(every) {
            out.push(separator);
        }
        out.push(c);
    }
    out
}

/// A whole number in decimal.
fn whole(negative: bool, digits: &str, spec: &Spec, sink: &mut Sink) -> R<()> {
    let body = format!("{digits:0>width$}", width = spec.precision.unwrap_or(0));
    pad(&sign_of(negative, spec), Text::plain(&grouped(&body, spec.grouping, 3)), '>', spec, sink)
}

fn integer(n: i128, spec: &Spec, sink: &mut Sink) -> R<()> {
    let magnitude = n.unsigned_abs();
    let (prefix, body, every) = match spec.kind {
        Some('x') => ("0x", format!("{magnitude:x}"), 4),
        Some('X') => ("0X", format!("{magnitude:X}"), 4),
        Some('o') => ("0o", format!("{magnitude:o}"), 4),
        Some('b') => ("0b", format!("{magnitude:b}"), 4),
        _ => ("", magnitude.to_string(), 3),
    };
    let mut sign = sign_of(n < 0, spec);
    if spec.alternate {
        sign.push_str(prefix);
    }
    let body = format!("{body:0>width$}", width = spec.precision.unwrap_or(0));
    pad(&sign, Text::plain(&grouped(&body, spec.grouping, every)), '>', spec, sink)
}

fn number(f: f64, spec: &Spec, sink: &mut Sink) -> R<()> {
    let sign = sign_of(f.is_sign_negative() && !f.is_nan(), spec);
    let a = f.abs();
    let precision = spec.precision.unwrap_or(6);
    let mut body = match spec.kind {
        _ if f.is_nan() => "nan".to_owned(),
        _ if f.is_infinite() => "inf".to_owned(),
        Some('f' | 'F') => format!("{a:.precision$}"),
        Some('%') => format!("{:.precision$}%", a * 100.0),
        Some('e' | 'E') => exponent(a, precision),
        Some('g' | 'G') => general(a, precision, spec.alternate),
        _ => match spec.precision {
            None => print::float(a),
            Some(p) => {
                let text = general(a, p, false);
                if text.contains(['.', 'e']) { text } else { text + ".0" }
            }
        },
    };
    if matches!(spec.kind, Some('E' | 'F' | 'G')) {
        body = body.to_uppercase();
    }
    if spec.grouping.is_some() {
        let end = body.find(['.', 'e', 'E', '%']).unwrap_or(body.len());
        let (whole, rest) = body.split_at(end);
        body = grouped(whole, spec.grouping, 3) + rest;
    }
    pad(&sign, Text::plain(&body), '>', spec, sink)
}

fn exponent(a: f64, precision: usize) -> String {
    let text = format!("{a:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

#[allow(clippy::cast_possible_wrap, clippy::cast_possible_truncation, reason = "precision is at most FIELD_MAX")]
fn general(a: f64, precision: usize, keep_zeros: bool) -> String {
    let precision = precision.max(1);
    let scientific = exponent(a, precision - 1);
    let power: i32 = scientific.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    let (body, tail) = if power < -4 || power >= precision as i32 {
        let (mantissa, e) = scientific.split_once('e').unwrap_or((&scientific, "+00"));
        (mantissa.to_owned(), format!("e{e}"))
    } else {
        let decimals = (precision as i32 - 1 - power).max(0).unsigned_abs() as usize;
        (format!("{a:.decimals$}"), String::new())
    };
    let trimmed = body.contains('.') && !keep_zeros;
    let body = if trimmed { body.trim_end_matches('0').trim_end_matches('.') } else { &body };
    format!("{body}{tail}")
}

/// `pattern.format(...)` and `pattern.format_map(mapping)`.
pub(super) fn format(pattern: Text, name: &str, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let arguments = if name == "format_map" {
        let [mapping] = arguments.bind(name, ["mapping"])?;
        let mapping = mapping.unwrap_or_default();
        let View::Dict(dict) = view(&mapping) else {
            return Err(fault(format!("format_map() wants a mapping, not {}", type_name(&mapping))));
        };
        let named = dict.entries.iter().filter(|(name, _)| marks::str_of(name).is_some()).cloned();
        Arguments { positional: Vec::new(), named: named.collect() }
    } else {
        arguments
    };
    let markup = pattern.is_markup();
    let mut formatter =
        Formatter { arguments: &arguments, automatic: 0, manual: false, markup, meter, sink: Sink::new(meter) };
    formatter.fill(pattern, 0)?;
    Ok(formatter.sink.finish_as(markup))
}

struct Formatter<'a> {
    arguments: &'a Arguments,
    automatic: usize,
    /// A place was named by its number: then all are.
    manual: bool,
    /// The pattern is markup: values are escaped.
    markup: bool,
    meter: &'a Arc<Meter>,
    sink: Sink,
}

impl Formatter<'_> {
    fn fill(&mut self, pattern: Text, level: usize) -> R<()> {
        if level > 1 {
            return Err(fault("Max string recursion exceeded"));
        }
        let mut rest = pattern;
        while let Some(at) = rest.str().find(['{', '}']) {
            self.meter.step()?;
            self.sink.push_text(rest.slice(0..at))?;
            let tail = rest.slice(at..rest.len());
            if tail.str().starts_with("{{") || tail.str().starts_with("}}") {
                self.sink.push_text(tail.slice(0..1))?;
                rest = tail.slice(2..tail.len());
                continue;
            }
            if tail.str().starts_with('}') {
                return Err(fault("Single '}' encountered in format string"));
            }
            let mut depth = 0;
            let end = tail.str().char_indices().find(|(_, c)| {
                depth += i32::from(*c == '{') - i32::from(*c == '}');
                depth == 0
            });
            let Some((end, _)) = end else { return Err(fault("expected '}' before end of string")) };
            self.replacement(tail.slice(1..end), level)?;
            rest = tail.slice(end + 1..tail.len());
        }
        self.sink.push_text(rest)
    }

    /// The inside of one pair of braces.
    fn replacement(&mut self, field: Text, level: usize) -> R<()> {
        let (name, rest) = field.str().split_at(field.str().find([':', '!']).unwrap_or(field.len()));
        let (conversion, spec) = match rest.strip_prefix('!') {
            Some(rest) => (rest.chars().next(), rest.split_once(':').map_or("", |(_, s)| s)),
            None => (None, rest.strip_prefix(':').unwrap_or("")),
        };
        let mut value = self.value(name)?;
        if let Some(c) = conversion {
            let mut text = Sink::new(self.meter);
            shown(&value, c, &mut text)?;
            value = text.finish();
        }
        if let (true, View::Str(text)) = (self.markup, view(&value))
            && text.is_markup()
        {
            let refused = || Err(fault("Unsupported format specification for Markup."));
            return if spec.is_empty() { self.sink.push_text(text) } else { refused() };
        }
        if spec.is_empty() && !self.markup {
            return print::display(&value, &mut self.sink);
        }
        let outer = std::mem::replace(&mut self.sink, Sink::new(self.meter));
        self.fill(field.part(spec), level + 1)?;
        let spec = std::mem::replace(&mut self.sink, outer);
        if !self.markup {
            return formatted(&value, spec.text(), self.meter, &mut self.sink);
        }
        let mut text = Sink::new(self.meter);
        formatted(&value, spec.text(), self.meter, &mut text)?;
        self.sink.push_escaped(text.text())
    }

    /// The value a field names: `0`, `name`, nothing, then `.attribute`s and `[item]`s.
    fn value(&mut self, name: &str) -> R<Value> {
        let (first, mut path) = name.split_at(name.find(['.', '[']).unwrap_or(name.len()));
        let positional = |i: usize| {
            let missing = || fault(format!("Replacement index {i} out of range for positional args tuple"));
            self.arguments.positional.get(i).cloned().ok_or_else(missing)
        };
        let mut value = if first.is_empty() {
            self.automatic += 1;
            positional(self.automatic - 1)?
        } else if let Ok(index) = first.parse() {
            self.manual = true;
            positional(index)?
        } else {
            let named = self.arguments.named.iter().find(|(name, _)| marks::str_of(name) == Some(first));
            named.map(|(_, v)| v.clone()).ok_or_else(|| fault(format!("'{first}'")))?
        };
        if self.manual && self.automatic > 0 {
            return Err(fault("cannot switch from manual field specification to automatic field numbering"));
        }
        while !path.is_empty() {
            if let Some(rest) = path.strip_prefix('.') {
                let (name, rest) = rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len()));
                value = ops::attribute(&value, name)?;
                path = rest;
            } else {
                let inside = path.strip_prefix('[').and_then(|p| p.split_once(']'));
                let (key, rest) = inside.ok_or_else(|| fault("Missing ']' in format string"))?;
                let key = key.parse().map_or_else(|_| Value::from(key), int);
                value = ops::item(&value, &key, self.meter)?;
                path = rest;
            }
            defined(&value)?;
        }
        Ok(value)
    }
}

/// `format(value, spec)`.
fn formatted(value: &Value, spec: Text, meter: &Meter, sink: &mut Sink) -> R<()> {
    if spec.len() == 0 {
        return print::display(value, sink);
    }
    let spec = parse_spec(spec, meter)?;
    let unknown = || {
        let kind = spec.kind.unwrap_or('s');
        fault(format!("Unknown format code '{kind}' for object of type '{}'", type_name(value)))
    };
    match view(value) {
        View::Str(s) if matches!(spec.kind, None | Some('s')) => pad_text(s, &spec, sink),
        View::Int(_) | View::Bool(_) | View::Float(_) => match (as_int(value), spec.kind) {
            (Some(n), None | Some('d' | 'x' | 'X' | 'o' | 'b' | 'n')) => integer(n, &spec, sink),
            (Some(n), Some('c')) => {
                let c = u32::try_from(n).ok().and_then(char::from_u32).ok_or_else(unknown)?;
                pad_text(Text::plain(c.encode_utf8(&mut [0; 4])), &spec, sink)
            }
            (_, None | Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%' | 'n')) => {
                number(ops::as_float(value).unwrap_or(f64::NAN), &spec, sink)
            }
            _ => Err(unknown()),
        },
        View::Big(big) if matches!(spec.kind, None | Some('d' | 'n')) => {
            whole(big.is_negative(), big.magnitude(), &spec, sink)
        }
        View::Big(_) if matches!(spec.kind, Some('x' | 'X' | 'o' | 'b')) => Err(ops::too_large()),
        View::Big(big) => number(big.to_float(), &spec, sink),
        View::Str(_) => Err(unknown()),
        _ => Err(fault(format!("unsupported format string passed to {}.__format__", type_name(value)))),
    }
}

fn parse_spec(text: Text, meter: &Meter) -> R<Spec> {
    let mut spec = Spec { content: text.is_marked(), ..Spec::default() };
    let mut chars: Chars = characters(text, meter)?.into_iter().peekable();
    let mut ahead = chars.clone();
    match (ahead.next().map(|c| c.0), ahead.next().map(|c| c.0)) {
        (Some(fill), Some(align @ ('<' | '>' | '^' | '='))) => {
            spec.fill = Some(fill);
            spec.align = Some(align);
            chars = ahead;
        }
        (Some(align @ ('<' | '>' | '^' | '=')), _) => {
            spec.align = Some(align);
            chars.next();
        }
        _ => {}
    }
    let one = |chars: &mut Chars, of: &str| chars.next_if(|c| of.contains(c.0)).map(|c| c.0);
    spec.sign = one(&mut chars, "+- ");
    one(&mut chars, "z");
    spec.alternate = one(&mut chars, "#").is_some();
    spec.zero = one(&mut chars, "0").is_some() && spec.align.is_none();
    spec.width = digits(&mut chars)?.unwrap_or(0);
    spec.grouping = one(&mut chars, ",_");
    if one(&mut chars, ".").is_some() {
        spec.precision = Some(digits(&mut chars)?.ok_or_else(|| fault("Format specifier missing precision"))?);
    }
    spec.kind = chars.next().map(|c| c.0);
    if chars.next().is_some() {
        return Err(fault(format!("Invalid format specifier '{}'", text.str())));
    }
    Ok(spec)
}
