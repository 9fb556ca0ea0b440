//! Jinja's filters, with the `tojson` of transformers.

use super::arguments::Arguments;
use super::functions::Args;
use super::lexer::is_space;
use super::marks::{self, Text, str_of};
use super::meter::{Meter, R, Sink, fault};
use super::print::{JsonStyle, text_in, to_text};
use super::selection::{dictsort, extreme, groupby, join, map, select, sort, sum, unique};
use super::value::{View, as_int, defined, int, type_name, view};
use super::{methods, numbers, ops, pretty, print, printf};
use super::{strings, words};
use minijinja::{Environment, State, Value};
use std::sync::Arc;

/// A filter: its value, its arguments, what they may use.
type Filter = fn(&Value, Arguments, &Arc<Meter>) -> R<Value>;

/// Filters that need nothing but their arguments.
const FILTERS: [(&str, Filter); 28] = [
    ("attr", attr),
    ("batch", batch),
    ("center", center),
    ("d", default),
    ("default", default),
    ("dictsort", dictsort),
    ("filesizeformat", numbers::file_size),
    ("float", numbers::float),
    ("format", format),
    ("groupby", groupby),
    ("indent", indent),
    ("int", numbers::int_filter),
    ("join", join),
    ("max", |v, a, m| extreme(v, a, m, true)),
    ("min", |v, a, m| extreme(v, a, m, false)),
    ("random", |_, _, _| Err(unavailable("random"))),
    ("replace", replace),
    ("round", numbers::round),
    ("slice", slice),
    ("sort", sort),
    ("sum", sum),
    ("tojson", tojson),
    ("trim", trim),
    ("truncate", truncate),
    ("unique", unique),
    ("urlize", |_, _, _| Err(unavailable("urlize"))),
    ("wordwrap", words::wrap),
    ("xmlattr", xml_attributes),
];

/// A filter without arguments: its value, what it may use.
type PlainFilter = fn(&Value, &Arc<Meter>) -> R<Value>;

/// Filters without arguments: name, the name in errors about arguments, what it does.
const PLAIN_FILTERS: [(&str, &str, PlainFilter); 21] = [
    ("abs", "abs", numbers::abs),
    ("capitalize", "filter", |v, m| text_filter(v, m, strings::capitalize)),
    ("count", "length", length),
    ("e", "escape", strings::escape),
    ("escape", "escape", strings::escape),
    ("first", "first", first),
    // Escapes markup, too.
    ("forceescape", "forceescape", |v, m| strings::escape(&m.markup(v.clone(), false)?, m)),
    ("items", "items", items),
    ("last", "last", last),
    ("length", "length", length),
    ("list", "list", |v, m| m.list(m.iterate(v)?)),
    ("lower", "filter", |v, m| text_filter(v, m, str::to_lowercase)),
    // Jinja has an argument that does nothing.
    ("pprint", "pprint", pretty::pprint),
    ("reverse", "reverse", reverse),
    ("safe", "safe", |v, m| m.markup(to_text(v, m)?, true)),
    ("string", "string", to_text),
    ("striptags", "striptags", words::strip_tags),
    ("title", "filter", |v, m| text_filter(&m.markup(v.clone(), false)?, m, title)),
    ("upper", "filter", |v, m| text_filter(v, m, str::to_uppercase)),
    ("urlencode", "urlencode", urlencode),
    ("wordcount", "wordcount", words::count),
];

/// The filter that the lowered template puts behind whatever the engine captures.
pub(super) const CAPTURED: &str = "__py_captured";

/// Adds the filters.
pub(super) fn install(env: &mut Environment<'_>) {
    for (name, filter) in FILTERS {
        env.add_filter(name, move |state: &mut State, args: Args| -> R<Value> {
            let (value, arguments) = split(&args.into_values())?;
            filter(&value, arguments, &Meter::of(state)?)
        });
    }
    for (name, called, filter) in PLAIN_FILTERS {
        env.add_filter(name, move |state: &mut State, args: Args| -> R<Value> {
            let (value, arguments) = split(&args.into_values())?;
            let [] = arguments.bind(called, [])?;
            filter(&value, &Meter::of(state)?)
        });
    }
    // What a capture of the engine holds, with its marks; see `lower`.
    env.add_filter(CAPTURED, |state: &mut State, value: Value| -> R<Value> { captured(&value, &*Meter::of(state)?) });
    env.add_filter("map", |state: &mut State, args: Args| map(state, &args.into_values()));
    env.add_filter("select", |state: &mut State, args: Args| select(state, &args.into_values(), false, true));
    env.add_filter("reject", |state: &mut State, args: Args| select(state, &args.into_values(), false, false));
    env.add_filter("selectattr", |state: &mut State, args: Args| select(state, &args.into_values(), true, true));
    env.add_filter("rejectattr", |state: &mut State, args: Args| select(state, &args.into_values(), true, false));
}

/// Names of all filters.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let others = ["map", "select", "reject", "selectattr", "rejectattr"];
    FILTERS.iter().map(|(n, _)| *n).chain(PLAIN_FILTERS.iter().map(|(n, ..)| *n)).chain(others)
}

pub(super) fn split(args: &[Value]) -> R<(Value, Arguments)> {
    let (value, rest) = args.split_first().ok_or_else(|| fault("a filter without a value"))?;
    Ok((value.clone(), Arguments::new(rest)?))
}

pub(super) fn truth(value: Option<Value>) -> bool {
    value.is_some_and(|v| v.is_true())
}

/// The text that the engine captured, as a value.
pub(super) fn captured(value: &Value, meter: &Meter) -> R<Value> {
    let Some(encoded) = value.as_str() else { return Ok(value.clone()) };
    meter.room(encoded.len())?;
    let marked = marks::read(encoded.to_owned());
    Ok(marks::value(marked.text, marked.content, false))
}

fn unavailable(name: &str) -> minijinja::Error {
    fault(format!("the filter '{name}' is not available in chat templates"))
}

fn text_filter(value: &Value, meter: &Arc<Meter>, f: fn(&str) -> String) -> R<Value> {
    let text = to_text(value, meter)?;
    meter.markup(strings::mapped(text_in(&text), meter, f)?, text_in(&text).is_markup())
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
    Ok(methods::attribute(value, str_of(&name).unwrap_or_default()).unwrap_or_default())
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
    meter.lazy(rows, "do_batch")
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
    meter.lazy(rows, "do_slice")
}

fn center(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [width] = arguments.bind("center", ["width"])?;
    let positional = vec![width.unwrap_or_else(|| Value::from(80))];
    let text = to_text(value, meter)?;
    strings::call(text_in(&text), "center", Arguments { positional, named: Vec::new() }, meter)
}

/// `len(value)`.
pub(super) fn len(value: &Value) -> R<usize> {
    Ok(match view(value) {
        View::Undefined => 0,
        View::Str(s) => s.str().chars().count(),
        View::List(l) | View::Tuple(l) => l.items.len(),
        View::Dict(d) => d.entries.len(),
        View::Range(r) => r.len,
        _ => return Err(fault(format!("object of type '{}' has no len()", type_name(value)))),
    })
}

fn length(value: &Value, meter: &Arc<Meter>) -> R<Value> {
    meter.work(str_of(value).map_or(0, str::len))?;
    Ok(int(len(value)? as i128))
}

fn default(value: &Value, arguments: Arguments, _: &Arc<Meter>) -> R<Value> {
    let [other, boolean] = arguments.bind("default", ["default_value", "boolean"])?;
    if value.is_undefined() || truth(boolean) && !value.is_true() {
        return Ok(other.unwrap_or_else(|| Value::from("")));
    }
    Ok(value.clone())
}

fn xml_attributes(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [space] = arguments.bind("xmlattr", ["autospace"])?;
    let View::Dict(dict) = view(value) else {
        defined(value)?;
        return Err(fault(format!("'{}' object has no attribute 'items'", type_name(value))));
    };
    let mut sink = Sink::new(meter);
    let space = space.is_none_or(|s| s.is_true());
    for (key, value) in dict.entries.iter().filter(|(_, v)| !v.is_none() && !v.is_undefined()) {
        let name = marks::text(key).ok_or_else(|| fault("an attribute's name must be text"))?;
        if name.str().contains(|c| is_space(c) || matches!(c, '/' | '>' | '=')) {
            return Err(fault(format!("Invalid character in attribute name: '{}'", name.str())));
        }
        sink.push(if space || sink.text().len() > 0 { " " } else { "" })?;
        sink.push_escaped(name)?;
        sink.push("=\"")?;
        sink.push_escaped(text_in(&to_text(value, meter)?))?;
        sink.push("\"")?;
    }
    Ok(sink.finish())
}

fn first(value: &Value, meter: &Arc<Meter>) -> R<Value> {
    if let View::Lazy(lazy) = view(value) {
        return Ok(lazy.take(1).first().cloned().unwrap_or_default());
    }
    Ok(meter.iterate(value)?.into_iter().next().unwrap_or_default())
}

fn last(value: &Value, meter: &Arc<Meter>) -> R<Value> {
    if let View::Lazy(_) = view(value) {
        return Err(fault("'generator' object is not reversible"));
    }
    // From the end, Python takes items of the text; from the start, its characters.
    let markup = matches!(view(value), View::Str(text) if text.is_markup());
    meter.markup(meter.iterate(value)?.pop().unwrap_or_default(), markup)
}

fn items(value: &Value, meter: &Arc<Meter>) -> R<Value> {
    let pairs = if value.is_undefined() { Vec::new() } else { meter.iterate(&methods::pairs(value, meter)?)? };
    meter.lazy(pairs, "do_items")
}

fn format(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let pattern = to_text(value, meter)?;
    match (arguments.positional.is_empty(), arguments.named.is_empty()) {
        (false, false) => Err(fault("can't handle positional and keyword arguments at the same time")),
        (_, true) => printf::percent(text_in(&pattern), &meter.tuple(arguments.positional)?, meter),
        _ => printf::percent(text_in(&pattern), &methods::dict(arguments, meter)?, meter),
    }
}

fn reverse(value: &Value, meter: &Arc<Meter>) -> R<Value> {
    if let View::Str(s) = view(value) {
        let mut sink = Sink::new(meter);
        let runs: Vec<_> = s.runs().collect();
        for (run, content) in runs.into_iter().rev() {
            meter.room(run.len())?;
            sink.push_as(&run.chars().rev().collect::<String>(), content)?;
        }
        return Ok(sink.finish_as(s.is_markup()));
    }
    let mut items = meter.iterate(value)?;
    items.reverse();
    match view(value) {
        View::Lazy(_) | View::Undefined => meter.list(items),
        _ => meter.lazy(items, "reversed"),
    }
}

fn trim(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [chars] = arguments.bind("trim", ["chars"])?;
    let text = to_text(value, meter)?;
    let text = text_in(&text);
    let chars = chars.filter(|c| !c.is_none());
    let rest = strings::strip(text.str(), chars.as_ref().and_then(str_of), true, true, meter)?;
    meter.text(text.part(rest))
}

fn replace(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [old, new, times] = arguments.bind("replace", ["old", "new", "count"])?;
    let (Some(old), Some(new)) = (old, new) else {
        return Err(fault("replace() missing required arguments: 'old' and 'new'"));
    };
    let times = times.as_ref().and_then(as_int).and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let (text, old, new) = (to_text(value, meter)?, to_text(&old, meter)?, to_text(&new, meter)?);
    strings::replace(text_in(&text), text_in(&old).str(), text_in(&new), times, meter)
}

/// Words begin after whitespace, hyphens and opening brackets.
fn title(text: &str) -> String {
    strings::titled(text, |c| is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<'))
}

fn truncate(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [length, kill, end, leeway] = arguments.bind("truncate", ["length", "killwords", "end", "leeway"])?;
    let end = end.map_or_else(|| Ok(Value::from("...")), |e| to_text(&e, meter))?;
    let (length, leeway) = (count(length, "truncate")?.unwrap_or(255), count(leeway, "truncate")?.unwrap_or(5));
    let keep =
        length.checked_sub(text_in(&end).str().chars().count()).ok_or_else(|| fault("truncate: the end is longer"))?;
    meter.heavy(str_of(value).map_or(0, str::len))?;
    if len(value)? <= length.saturating_add(leeway) {
        return Ok(value.clone());
    }
    let View::Str(text) = view(value) else {
        return Err(fault(format!("truncate wants a str, not {}", type_name(value))));
    };
    let cut = ops::text_slice(text.str(), None, Some(keep as i128));
    let cut = if truth(kill) { cut } else { cut.rsplit_once(' ').map_or(cut, |(head, _)| head) };
    ops::arithmetic("+", &meter.text(text.part(cut))?, &end, meter)
}

fn indent(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [width, first, blank] = arguments.bind("indent", ["width", "first", "blank"])?;
    let mut prefix = Sink::new(meter);
    match width.as_ref().and_then(marks::text) {
        Some(text) => prefix.push_text(text)?,
        None => prefix.repeat(Text::plain(" "), count(width, "indent")?.unwrap_or(4))?,
    }
    let View::Str(text) = view(value) else {
        defined(value)?;
        return Err(fault(format!("indent needs a str, not {}", type_name(value))));
    };
    let (first, blank) = (truth(first), truth(blank));
    let mut sink = Sink::new(meter);
    meter.heavy(text.len())?;
    let mut lines = strings::lines(text.str(), false);
    // Jinja adds a newline, which makes a last line that is empty count.
    if text.len() == 0 || strings::lines(text.str(), true).last().is_some_and(|l| l.ends_with(strings::is_line_end)) {
        lines.push("");
    }
    for (i, line) in lines.into_iter().enumerate() {
        sink.push(if i > 0 { "\n" } else { "" })?;
        if if i == 0 { first } else { blank || !line.is_empty() } {
            sink.push_text(prefix.text())?;
        }
        sink.push_text(text.part(line))?;
    }
    Ok(sink.finish_as(text.is_markup()))
}

fn urlencode(value: &Value, meter: &Arc<Meter>) -> R<Value> {
    let quote = |value: &Value, query: bool, sink: &mut Sink| -> R<()> {
        for (run, content) in text_in(&to_text(value, meter)?).runs() {
            for byte in run.bytes() {
                match byte {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                        sink.push_char(byte.into(), content)?;
                    }
                    b'/' if !query => sink.push_as("/", content)?,
                    b' ' if query => sink.push_as("+", content)?,
                    other => sink.push_as(&format!("%{other:02X}"), content)?,
                }
            }
        }
        Ok(())
    };
    let mut sink = Sink::new(meter);
    let pairs = match view(value) {
        View::Dict(_) => methods::pairs(value, meter)?,
        View::List(_) | View::Tuple(_) | View::Lazy(_) => value.clone(),
        _ => {
            quote(value, false, &mut sink)?;
            return Ok(sink.finish());
        }
    };
    for (i, pair) in meter.iterate(&pairs)?.iter().enumerate() {
        sink.push(if i > 0 { "&" } else { "" })?;
        let Ok([key, value]) = <[Value; 2]>::try_from(meter.iterate(pair)?) else {
            return Err(fault("urlencode wants pairs of a key and a value"));
        };
        quote(&key, true, &mut sink)?;
        sink.push("=")?;
        quote(&value, true, &mut sink)?;
    }
    Ok(sink.finish())
}

fn tojson(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [ascii, indent, separators, sort_keys] =
        arguments.bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let indent = match indent.filter(|v| !v.is_none()) {
        None => None,
        Some(text) if str_of(&text).is_some() => Some(text),
        width => {
            let mut prefix = Sink::new(meter);
            prefix.repeat(Text::plain(" "), count(width, "tojson")?.unwrap_or(0))?;
            Some(prefix.finish())
        }
    };
    let mut style = JsonStyle { ascii: truth(ascii), indent, sort_keys: truth(sort_keys), ..JsonStyle::default() };
    if style.indent.is_some() {
        style.item_separator = Value::from(",");
    }
    if let Some(separators) = separators.filter(|v| !v.is_none()) {
        let [item, key] = <[Value; 2]>::try_from(meter.iterate(&separators)?)
            .map_err(|_| fault("tojson: separators are two texts"))?;
        (style.item_separator, style.key_separator) = (to_text(&item, meter)?, to_text(&key, meter)?);
    }
    let mut sink = Sink::new(meter);
    print::json(value, &style, 0, meter, &mut sink)?;
    Ok(sink.finish())
}
