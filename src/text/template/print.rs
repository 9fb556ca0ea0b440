//! Values as text: Python's `str` and `repr`, and `json.dumps`.

use super::marks::Text;
use super::meter::{Meter, R, Sink, fault};
use super::value::{View, type_name, view};
use minijinja::Value;
use std::sync::Arc;

/// `str(value)`, as a template prints it.
pub(super) fn display(value: &Value, sink: &mut Sink) -> R<()> {
    match view(value) {
        View::Str(s) => sink.push_text(s),
        View::Undefined => Ok(()),
        _ => repr(value, sink),
    }
}

/// `str(value)` as a value; the value itself if it is text.
pub(super) fn to_text(value: &Value, meter: &Arc<Meter>) -> R<Value> {
    if let View::Str(_) = view(value) {
        return Ok(value.clone());
    }
    let mut sink = Sink::new(meter);
    display(value, &mut sink)?;
    Ok(sink.finish())
}

/// What finding the digits of a float costs, in steps.
const FLOAT_STEPS: usize = 4;

/// `repr(value)`.
pub(super) fn repr(value: &Value, sink: &mut Sink) -> R<()> {
    sink.steps(1)?;
    match view(value) {
        View::Undefined => sink.push("Undefined"),
        View::None => sink.push("None"),
        View::Bool(b) => sink.push(if b { "True" } else { "False" }),
        View::Int(i) => sink.push(&i.to_string()),
        View::Big(big) => sink.push(&big.to_text()),
        View::Float(f) => {
            sink.steps(FLOAT_STEPS)?;
            sink.push(&float(f))
        }
        View::Str(s) => quoted(s, sink),
        View::List(l) => {
            if let Some(name) = l.view_name() {
                sink.push(name)?;
                sink.push("(")?;
            }
            sink.push("[")?;
            separated(&l.items, sink)?;
            sink.push(if l.view_name().is_some() { "])" } else { "]" })
        }
        View::Tuple(l) => {
            sink.push("(")?;
            separated(&l.items, sink)?;
            sink.push(if l.items.len() == 1 { ",)" } else { ")" })
        }
        View::Dict(d) => {
            sink.push("{")?;
            for (i, (key, value)) in d.entries.iter().enumerate() {
                sink.push(if i > 0 { ", " } else { "" })?;
                repr(key, sink)?;
                sink.push(": ")?;
                repr(value, sink)?;
            }
            sink.push("}")
        }
        View::Range(r) if r.step == 1 => sink.push(&format!("range({}, {})", r.start, r.stop)),
        View::Range(r) => sink.push(&format!("range({}, {}, {})", r.start, r.stop, r.step)),
        View::Lazy(l) => sink.push(&format!("<generator object {}>", l.origin)),
        View::Other => match value.downcast_object_ref::<super::functions::Macro>() {
            Some(m) => sink.push(&format!("<Macro '{}'>", m.name)),
            None => sink.push(&format!("<{}>", type_name(value))),
        },
    }
}

fn separated(items: &[Value], sink: &mut Sink) -> R<()> {
    for (i, item) in items.iter().enumerate() {
        sink.push(if i > 0 { ", " } else { "" })?;
        repr(item, sink)?;
    }
    Ok(())
}

/// `repr` of text.
fn quoted(text: Text, sink: &mut Sink) -> R<()> {
    if text.is_markup() {
        sink.push("Markup(")?;
        quoted(text.as_markup(false), sink)?;
        return sink.push(")");
    }
    let quote = if text.str().contains('\'') && !text.str().contains('"') { '"' } else { '\'' };
    sink.push_char(quote, false)?;
    sink.push_replaced(text, |c| {
        Some(match c {
            '\\' => "\\\\".into(),
            '\n' => "\\n".into(),
            '\r' => "\\r".into(),
            '\t' => "\\t".into(),
            c if c == quote => format!("\\{c}").into(),
            ' '..='~' => return None,
            c if printable(c) => return None,
            c => match u32::from(c) {
                code @ 0..=0xff => format!("\\x{code:02x}").into(),
                code @ 0x100..=0xffff => format!("\\u{code:04x}").into(),
                code => format!("\\U{code:08x}").into(),
            },
        })
    })?;
    sink.push_char(quote, false)
}

/// `str.isprintable` of one character. The standard library's debug escaping knows the same classes; only after
/// another character does it leave combining marks alone.
pub(super) fn printable(c: char) -> bool {
    let mut pair = String::from("a");
    pair.push(c);
    pair.escape_debug().eq(pair.chars())
}

/// `repr` of a float: the shortest digits that read back the same, with an exponent outside 1e-4 .. 1e16.
pub(super) fn float(f: f64) -> String {
    if f.is_nan() {
        return "nan".to_owned();
    }
    if f.is_infinite() {
        return if f > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{f:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{f}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// How `json.dumps` lays out its text.
pub(super) struct JsonStyle {
    pub(super) ascii: bool,
    pub(super) indent: Option<Value>,
    pub(super) item_separator: Value,
    pub(super) key_separator: Value,
    pub(super) sort_keys: bool,
}

/// On one line.
impl Default for JsonStyle {
    fn default() -> JsonStyle {
        let (item_separator, key_separator) = (Value::from(", "), Value::from(": "));
        JsonStyle { ascii: false, indent: None, item_separator, key_separator, sort_keys: false }
    }
}

/// The text of a value that is text; nothing for any other.
pub(super) fn text_in(value: &Value) -> Text<'_> {
    super::marks::text(value).unwrap_or(Text::plain(""))
}

/// `json.dumps(value)`.
pub(super) fn json(value: &Value, style: &JsonStyle, level: usize, meter: &Arc<Meter>, sink: &mut Sink) -> R<()> {
    meter.step()?;
    match view(value) {
        View::Str(s) => json_text(s, style.ascii, sink),
        View::List(l) | View::Tuple(l) => {
            sink.push("[")?;
            for (i, item) in l.items.iter().enumerate() {
                json_break(i, style, level + 1, sink)?;
                json(item, style, level + 1, meter, sink)?;
            }
            json_close(l.items.is_empty(), "]", style, level, sink)
        }
        View::Dict(d) => {
            sink.push("{")?;
            let mut order: Vec<usize> = (0..d.entries.len()).collect();
            if style.sort_keys {
                let key = |i: &usize| d.entries.get(*i).map_or(&Value::UNDEFINED, |(k, _)| k);
                super::selection::merge_sort(&mut order, meter, &mut |a, b| super::ops::less(key(a), key(b), meter))?;
            }
            for (n, (key, value)) in order.iter().filter_map(|i| d.entries.get(*i)).enumerate() {
                json_break(n, style, level + 1, sink)?;
                json_key(key, style.ascii, sink)?;
                sink.push_text(text_in(&style.key_separator))?;
                json(value, style, level + 1, meter, sink)?;
            }
            json_close(d.entries.is_empty(), "}", style, level, sink)
        }
        other => {
            if let View::Float(_) = other {
                meter.steps(FLOAT_STEPS)?;
            }
            let wrong = || fault(format!("Object of type {} is not JSON serializable", type_name(value)));
            sink.push(&json_scalar(&other).ok_or_else(wrong)?)
        }
    }
}

/// A number or a constant; `None` for any other value.
fn json_scalar(value: &View) -> Option<String> {
    Some(match value {
        View::None => "null".to_owned(),
        View::Bool(b) => b.to_string(),
        View::Int(i) => i.to_string(),
        View::Big(big) => big.to_text(),
        View::Float(f) if f.is_finite() => float(*f),
        View::Float(f) if f.is_nan() => "NaN".to_owned(),
        View::Float(f) => if *f > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        _ => return None,
    })
}

fn json_break(index: usize, style: &JsonStyle, level: usize, sink: &mut Sink) -> R<()> {
    if index > 0 {
        sink.push_text(text_in(&style.item_separator))?;
    }
    match &style.indent {
        Some(indent) => {
            sink.push("\n")?;
            sink.repeat(text_in(indent), level)
        }
        None => Ok(()),
    }
}

fn json_close(empty: bool, end: &str, style: &JsonStyle, level: usize, sink: &mut Sink) -> R<()> {
    if let (Some(indent), false) = (&style.indent, empty) {
        sink.push("\n")?;
        sink.repeat(text_in(indent), level)?;
    }
    sink.push(end)
}

fn json_key(key: &Value, ascii: bool, sink: &mut Sink) -> R<()> {
    match view(key) {
        View::Str(s) => json_text(s, ascii, sink),
        other => {
            let wrong = || fault(format!("keys must be str, int, float, bool or None, not {}", type_name(key)));
            json_text(Text::plain(&json_scalar(&other).ok_or_else(wrong)?), ascii, sink)
        }
    }
}

fn json_text(text: Text, ascii: bool, sink: &mut Sink) -> R<()> {
    sink.push("\"")?;
    sink.push_replaced(text, |c| {
        Some(match c {
            '"' => "\\\"".into(),
            '\\' => "\\\\".into(),
            '\n' => "\\n".into(),
            '\r' => "\\r".into(),
            '\t' => "\\t".into(),
            '\u{8}' => "\\b".into(),
            '\u{c}' => "\\f".into(),
            ' '..='~' => return None,
            c if u32::from(c) >= 0x7f && !ascii => return None,
            c => c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
        })
    })?;
    sink.push("\"")
}
