//! Jinja's filters, with the `tojson` of transformers.

use super::functions::Args;
use super::lexer::is_space;
use super::meter::{Meter, R, Sink, fault};
use super::print::JsonStyle;
use super::selection::{dictsort, extreme, groupby, join, map, select, sort, sum, unique};
use super::strings;
use super::value::{Arguments, View, as_int, defined, int, type_name, view};
use super::{methods, numbers, ops, print, printf};
use minijinja::{Environment, State, Value};
use std::sync::Arc;

/// A filter: its value, its arguments, what they may use.
type Filter = fn(&Value, Arguments, &Arc<Meter>) -> R<Value>;

/// Filters that need nothing but their arguments.
const FILTERS: [(&str, Filter); 41] = [
    ("abs", numbers::abs),
    ("attr", attr),
    ("batch", batch),
    ("capitalize", |v, a, m| text_filter(v, a, m, strings::capitalize)),
    ("center", center),
    ("count", length),
    ("d", default),
    ("default", default),
    ("dictsort", dictsort),
    ("e", escape),
    ("escape", escape),
    ("first", first),
    ("float", numbers::float),
    ("forceescape", escape),
    ("format", format),
    ("groupby", groupby),
    ("indent", indent),
    ("int", numbers::int_filter),
    ("items", items),
    ("join", join),
    ("last", last),
    ("length", length),
    ("list", list),
    ("lower", |v, a, m| text_filter(v, a, m, str::to_lowercase)),
    ("max", |v, a, m| extreme(v, a, m, true)),
    ("min", |v, a, m| extreme(v, a, m, false)),
    ("pprint", pprint),
    ("replace", replace),
    ("reverse", reverse),
    ("round", numbers::round),
    ("safe", string),
    ("slice", slice),
    ("sort", sort),
    ("string", string),
    ("sum", sum),
    ("title", |v, a, m| text_filter(v, a, m, title)),
    ("tojson", tojson),
    ("trim", trim),
    ("truncate", truncate),
    ("unique", unique),
    ("upper", |v, a, m| text_filter(v, a, m, str::to_uppercase)),
];

/// Adds the filters.
pub(super) fn install(env: &mut Environment<'_>) {
    for (name, filter) in FILTERS {
        env.add_filter(name, move |state: &mut State, args: Args| -> R<Value> {
            let (value, arguments) = split(&args.into_values())?;
            filter(&value, arguments, &Meter::of(state)?)
        });
    }
    env.add_filter("urlencode", |state: &mut State, args: Args| {
        urlencode(&split(&args.into_values())?.0, &Meter::of(state)?)
    });
    env.add_filter("wordcount", |state: &mut State, args: Args| {
        wordcount(&split(&args.into_values())?.0, &Meter::of(state)?)
    });
    env.add_filter("map", |state: &mut State, args: Args| map(state, &args.into_values()));
    env.add_filter("select", |state: &mut State, args: Args| select(state, &args.into_values(), false, true));
    env.add_filter("reject", |state: &mut State, args: Args| select(state, &args.into_values(), false, false));
    env.add_filter("selectattr", |state: &mut State, args: Args| select(state, &args.into_values(), true, true));
    env.add_filter("rejectattr", |state: &mut State, args: Args| select(state, &args.into_values(), true, false));
}

/// Names of all filters.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let others = ["urlencode", "wordcount", "map", "select", "reject", "selectattr", "rejectattr"];
    FILTERS.iter().map(|(n, _)| *n).chain(others)
}

pub(super) fn split(args: &[Value]) -> R<(Value, Arguments)> {
    let (value, rest) = args.split_first().ok_or_else(|| fault("a filter without a value"))?;
    Ok((value.clone(), Arguments::new(rest)?))
}

pub(super) fn truth(value: Option<Value>) -> bool {
    value.is_some_and(|v| v.is_true())
}

/// `str(value)`.
pub(super) fn text_of(value: &Value, meter: &Arc<Meter>) -> R<String> {
    Ok(print::to_text(value, meter)?.as_str().unwrap_or_default().to_owned())
}

fn text_filter(value: &Value, arguments: Arguments, meter: &Arc<Meter>, f: fn(&str) -> String) -> R<Value> {
    let [] = arguments.bind("filter", [])?;
    let text = text_of(value, meter)?;
    meter.room(text.len() * 3)?;
    meter.text(&f(&text))
}

/// A size argument.
fn count(value: Option<Value>, name: &str) -> R<Option<usize>> {
    let Some(value) = value else { return Ok(None) };
    match as_int(&value) {
        Some(n) => Ok(Some(usize::try_from(n.max(0)).unwrap_or(usize::MAX))),
        None => Err(fault(format!("{name}: an int is needed, not {}", type_name(&value)))),
    }
}

fn attr(value: &Value, arguments: Arguments, _: &Arc<Meter>) -> R<Value> {
    let [name] = arguments.bind("attr", ["name"])?;
    defined(value)?;
    let name = name.unwrap_or_default();
    // Attributes only: a dict's items are none.
    Ok(methods::attribute(value, name.as_str().unwrap_or_default()).unwrap_or_default())
}

fn batch(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [size, fill] = arguments.bind("batch", ["linecount", "fill_with"])?;
    let size = count(size, "batch")?.filter(|n| *n > 0).ok_or_else(|| fault("batch needs a size"))?;
    let mut rows = Vec::new();
    for chunk in meter.iterate(value)?.chunks(size) {
        let mut row = chunk.to_vec();
        if let Some(fill) = fill.as_ref().filter(|f| !f.is_none()) {
            meter.room(size.saturating_mul(size_of::<Value>()))?;
            row.resize(size, fill.clone());
        }
        rows.push(meter.list(row)?);
    }
    meter.list(rows)
}

fn slice(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [slices, fill] = arguments.bind("slice", ["slices", "fill_with"])?;
    let slices = count(slices, "slice")?.filter(|n| *n > 0).ok_or_else(|| fault("slice needs a number of slices"))?;
    let items = meter.iterate(value)?;
    let (each, extra) = (items.len() / slices, items.len() % slices);
    meter.room(slices.saturating_mul(size_of::<Value>()))?;
    let mut rows = Vec::new();
    let mut rest = items.as_slice();
    for number in 0..slices {
        let (head, tail) = rest.split_at((each + usize::from(number < extra)).min(rest.len()));
        rest = tail;
        let mut row = head.to_vec();
        if number >= extra {
            row.extend(fill.clone().filter(|f| !f.is_none()));
        }
        rows.push(meter.list(row)?);
    }
    meter.list(rows)
}

fn center(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [width] = arguments.bind("center", ["width"])?;
    let positional = vec![width.unwrap_or_else(|| Value::from(80))];
    let text = text_of(value, meter)?;
    strings::call(value, &text, "center", Arguments { positional, named: Vec::new() }, meter)
}

/// `len(value)`.
pub(super) fn len(value: &Value) -> R<usize> {
    Ok(match view(value) {
        View::Undefined => 0,
        View::Str(s) => s.chars().count(),
        View::List(l) | View::Tuple(l) => l.items.len(),
        View::Dict(d) => d.entries.len(),
        View::Range(r) => r.len,
        _ => return Err(fault(format!("object of type '{}' has no len()", type_name(value)))),
    })
}

fn length(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [] = arguments.bind("length", [])?;
    meter.work(value.as_str().map_or(0, str::len))?;
    Ok(int(len(value)? as i128))
}

fn default(value: &Value, arguments: Arguments, _: &Arc<Meter>) -> R<Value> {
    let [other, boolean] = arguments.bind("default", ["default_value", "boolean"])?;
    if value.is_undefined() || truth(boolean) && !value.is_true() {
        return Ok(other.unwrap_or_else(|| Value::from("")));
    }
    Ok(value.clone())
}

fn escape(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [] = arguments.bind("escape", [])?;
    let mut sink = Sink::new(meter);
    for c in text_of(value, meter)?.chars() {
        match c {
            '&' => sink.push("&amp;")?,
            '<' => sink.push("&lt;")?,
            '>' => sink.push("&gt;")?,
            '\'' => sink.push("&#39;")?,
            '"' => sink.push("&#34;")?,
            c => sink.push_char(c)?,
        }
    }
    Ok(sink.finish())
}

fn first(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [] = arguments.bind("first", [])?;
    Ok(meter.iterate(value)?.into_iter().next().unwrap_or_default())
}

fn last(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [] = arguments.bind("last", [])?;
    Ok(meter.iterate(value)?.pop().unwrap_or_default())
}

fn list(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [] = arguments.bind("list", [])?;
    meter.list(meter.iterate(value)?)
}

fn items(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [] = arguments.bind("items", [])?;
    if value.is_undefined() { meter.list(Vec::new()) } else { methods::pairs(value, meter) }
}

fn format(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let pattern = text_of(value, meter)?;
    match (arguments.positional.is_empty(), arguments.named.is_empty()) {
        (false, false) => Err(fault("can't handle positional and keyword arguments at the same time")),
        (_, true) => printf::percent(&pattern, &meter.tuple(arguments.positional)?, meter),
        _ => printf::percent(&pattern, &methods::dict(arguments, meter)?, meter),
    }
}

fn reverse(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [] = arguments.bind("reverse", [])?;
    if let View::Str(s) = view(value) {
        meter.room(s.len())?;
        return meter.text(&s.chars().rev().collect::<String>());
    }
    let mut items = meter.iterate(value)?;
    items.reverse();
    meter.list(items)
}

fn string(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [] = arguments.bind("string", [])?;
    print::to_text(value, meter)
}

fn trim(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [chars] = arguments.bind("trim", ["chars"])?;
    let text = text_of(value, meter)?;
    meter.text(strings::strip(&text, chars.as_ref().and_then(Value::as_str), true, true))
}

fn replace(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [old, new, times] = arguments.bind("replace", ["old", "new", "count"])?;
    let (Some(old), Some(new)) = (old, new) else {
        return Err(fault("replace() missing required arguments: 'old' and 'new'"));
    };
    let times = times.as_ref().and_then(as_int).and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let (text, old, new) = (text_of(value, meter)?, text_of(&old, meter)?, text_of(&new, meter)?);
    strings::replace(&text, &old, &new, times, meter)
}

/// Words begin after whitespace, hyphens and opening brackets.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut start = true;
    for c in text.chars() {
        if start {
            out.extend(c.to_uppercase())
        } else {
            out.extend(c.to_lowercase())
        }
        start = is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
    }
    out
}

fn truncate(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [length, kill, end, leeway] = arguments.bind("truncate", ["length", "killwords", "end", "leeway"])?;
    let text = text_of(value, meter)?;
    let end = end.map_or(Ok("...".to_owned()), |e| text_of(&e, meter))?;
    let (length, leeway) = (count(length, "truncate")?.unwrap_or(255), count(leeway, "truncate")?.unwrap_or(5));
    let keep = length.checked_sub(end.chars().count()).ok_or_else(|| fault("truncate: the end is longer"))?;
    if text.chars().count() <= length.saturating_add(leeway) {
        return meter.text(&text);
    }
    let cut = ops::text_slice(&text, None, Some(keep as i128));
    let cut = if truth(kill) { cut } else { cut.rsplit_once(' ').map_or(cut, |(head, _)| head) };
    meter.text(&format!("{cut}{end}"))
}

fn indent(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [width, first, blank] = arguments.bind("indent", ["width", "first", "blank"])?;
    let mut prefix = Sink::new(meter);
    match width.as_ref().and_then(Value::as_str) {
        Some(s) => prefix.push(s)?,
        None => prefix.repeat(" ", count(width, "indent")?.unwrap_or(4))?,
    }
    let View::Str(text) = view(value) else {
        defined(value)?;
        return Err(fault(format!("indent needs a str, not {}", type_name(value))));
    };
    let (first, blank) = (truth(first), truth(blank));
    let mut sink = Sink::new(meter);
    // The newline added here makes a last line that is empty count.
    let text = format!("{text}\n");
    for (i, line) in strings::lines(&text, false).into_iter().enumerate() {
        sink.push(if i > 0 { "\n" } else { "" })?;
        if if i == 0 { first } else { blank || !line.is_empty() } {
            sink.push(prefix.as_str())?;
        }
        sink.push(line)?;
    }
    Ok(sink.finish())
}

fn pprint(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [] = arguments.bind("pprint", [])?;
    let mut sink = Sink::new(meter);
    print::repr(value, &mut sink)?;
    Ok(sink.finish())
}

fn wordcount(value: &Value, meter: &Arc<Meter>) -> R<Value> {
    let text = text_of(value, meter)?;
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|w| !w.is_empty());
    Ok(int(words.count() as i128))
}

fn urlencode(value: &Value, meter: &Arc<Meter>) -> R<Value> {
    let quote = |text: &str, query: bool, sink: &mut Sink| -> R<()> {
        for byte in text.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => sink.push_char(byte.into())?,
                b'/' if !query => sink.push("/")?,
                b' ' if query => sink.push("+")?,
                other => sink.push(&format!("%{other:02X}"))?,
            }
        }
        Ok(())
    };
    let mut sink = Sink::new(meter);
    let pairs = match view(value) {
        View::Dict(_) => methods::pairs(value, meter)?,
        View::List(_) | View::Tuple(_) => value.clone(),
        _ => {
            quote(&text_of(value, meter)?, false, &mut sink)?;
            return Ok(sink.finish());
        }
    };
    for (i, pair) in meter.iterate(&pairs)?.iter().enumerate() {
        sink.push(if i > 0 { "&" } else { "" })?;
        for (n, part) in meter.iterate(pair)?.iter().enumerate() {
            sink.push(if n > 0 { "=" } else { "" })?;
            quote(&text_of(part, meter)?, true, &mut sink)?;
        }
    }
    Ok(sink.finish())
}

fn tojson(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [ascii, indent, separators, sort_keys] =
        arguments.bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let mut prefix = Sink::new(meter);
    let indent = match indent.filter(|v| !v.is_none()) {
        None => None,
        Some(text) if text.as_str().is_some() => text.as_str().map(str::to_owned),
        width => {
            prefix.repeat(" ", count(width, "tojson")?.unwrap_or(0))?;
            Some(prefix.as_str().to_owned())
        }
    };
    let mut style = JsonStyle {
        ascii: truth(ascii),
        item_separator: if indent.is_some() { "," } else { ", " }.to_owned(),
        key_separator: ": ".to_owned(),
        indent,
        sort_keys: truth(sort_keys),
    };
    if let Some(separators) = separators.filter(|v| !v.is_none()) {
        let [item, key] = <[Value; 2]>::try_from(meter.iterate(&separators)?)
            .map_err(|_| fault("tojson: separators are two texts"))?;
        (style.item_separator, style.key_separator) = (text_of(&item, meter)?, text_of(&key, meter)?);
    }
    let mut sink = Sink::new(meter);
    print::json(value, &style, 0, meter, &mut sink)?;
    Ok(sink.finish())
}
