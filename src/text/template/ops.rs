//! Python's operators: arithmetic, comparison, membership, items, attributes and slices.

use super::functions::Macro;
use super::marks::{Text, str_of};
use super::meter::{Meter, R, Sink, fault};
use super::value::{Dict, Items, Range, View, as_int, defined, hashable, int, is_namespace, type_name, view};
use super::{methods, printf};
use minijinja::value::Object;
use minijinja::{Error, Value};
use std::cmp::Ordering;
use std::sync::Arc;

/// `left operator right`.
pub(super) fn arithmetic(operator: &str, left: &Value, right: &Value, meter: &Arc<Meter>) -> R<Value> {
    defined(left)?;
    if let ("%", View::Str(format)) = (operator, view(left)) {
        return printf::percent(format, right, meter);
    }
    defined(right)?;
    match (operator, view(left), view(right)) {
        ("+", View::Str(a), View::Str(b)) => {
            let mut sink = Sink::new(meter);
            let markup = a.is_markup() || b.is_markup();
            for text in [a, b] {
                if markup { sink.push_escaped(text)? } else { sink.push_text(text)? }
            }
            return Ok(sink.finish_as(markup));
        }
        ("+", View::List(a), View::List(b)) | ("+", View::Tuple(a), View::Tuple(b)) => {
            meter.room((a.items.len() + b.items.len()) * size_of::<Value>())?;
            return a.alike([&a.items[..], &b.items].concat(), meter);
        }
        ("*", View::Str(s), View::Int(_) | View::Bool(_)) => return repeat_text(s, right, meter),
        ("*", View::Int(_) | View::Bool(_), View::Str(s)) => return repeat_text(s, left, meter),
        ("*", View::List(l) | View::Tuple(l), View::Int(_) | View::Bool(_)) => return repeat_items(l, right, meter),
        ("*", View::Int(_) | View::Bool(_), View::List(l) | View::Tuple(l)) => return repeat_items(l, left, meter),
        _ => {}
    }
    match (as_int(left), as_int(right), view(left), view(right)) {
        (Some(a), Some(b), ..) => return integers(operator, a, b),
        // Whole numbers stay exact, or fail.
        (Some(_), _, _, View::Big(_)) | (_, Some(_), View::Big(_), _) | (_, _, View::Big(_), View::Big(_)) => {
            return Err(too_large());
        }
        _ => {}
    }
    match (as_float(left), as_float(right)) {
        (Some(a), Some(b)) => floats(operator, a, b).map(Value::from),
        _ => Err(unsupported(operator, left, right)),
    }
}

fn repetitions(n: &Value) -> usize {
    as_int(n).map_or(0, |n| usize::try_from(n.max(0)).unwrap_or(usize::MAX))
}

fn repeat_text(text: Text, n: &Value, meter: &Arc<Meter>) -> R<Value> {
    let mut sink = Sink::new(meter);
    sink.repeat(text, if text.len() == 0 { 0 } else { repetitions(n) })?;
    Ok(sink.finish_as(text.is_markup()))
}

fn repeat_items(list: &Items, n: &Value, meter: &Arc<Meter>) -> R<Value> {
    let times = if list.items.is_empty() { 0 } else { repetitions(n) };
    meter.room(list.items.len().saturating_mul(times).saturating_mul(size_of::<Value>()))?;
    let mut items = Vec::new();
    for _ in 0..times {
        items.extend_from_slice(&list.items);
    }
    list.alike(items, meter)
}

fn unsupported(operator: &str, left: &Value, right: &Value) -> Error {
    let (l, r) = (type_name(left), type_name(right));
    if let ("+", View::Str(_) | View::List(_) | View::Tuple(_)) = (operator, view(left)) {
        return fault(format!("can only concatenate {l} (not \"{r}\") to {l}"));
    }
    fault(format!("unsupported operand type(s) for {operator}: '{l}' and '{r}'"))
}

/// The number as a float, for `int`, `bool` and `float`.
#[allow(clippy::cast_precision_loss, reason = "Python's int to float conversion rounds the same way")]
pub(super) fn as_float(value: &Value) -> Option<f64> {
    match view(value) {
        View::Float(f) => Some(f),
        View::Big(big) => Some(big.to_float()),
        _ => as_int(value).map(|i| i as f64),
    }
}

#[allow(clippy::cast_precision_loss, reason = "Python's int to float conversion rounds the same way")]
fn integers(operator: &str, a: i128, b: i128) -> R<Value> {
    let floor_mod = || -> Option<(i128, i128)> {
        let (q, r) = (a.checked_div(b)?, a.checked_rem(b)?);
        if r != 0 && (r < 0) != (b < 0) { Some((q - 1, r + b)) } else { Some((q, r)) }
    };
    let result = match operator {
        "+" => a.checked_add(b),
        "-" => a.checked_sub(b),
        "*" => a.checked_mul(b),
        "**" => return power(a, b),
        _ if b == 0 => {
            return Err(fault(if operator == "%" { "integer modulo by zero" } else { "division by zero" }));
        }
        "/" => return Ok(Value::from(a as f64 / b as f64)),
        "//" => floor_mod().map(|(q, _)| q),
        _ => floor_mod().map(|(_, r)| r),
    };
    result.map(int).ok_or_else(too_large)
}

pub(super) fn too_large() -> Error {
    fault("an integer of more than 127 bits")
}

#[allow(clippy::cast_precision_loss, reason = "a negative power is a float")]
fn power(a: i128, b: i128) -> R<Value> {
    match a {
        0 if b < 0 => Err(fault("0.0 cannot be raised to a negative power")),
        _ if b < 0 => Ok(Value::from((a as f64).powf(b as f64))),
        0 | 1 => Ok(int(if b == 0 { 1 } else { a })),
        -1 => Ok(int(if b % 2 == 0 { 1 } else { -1 })),
        _ => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)).map(int).ok_or_else(too_large),
    }
}

fn floats(operator: &str, a: f64, b: f64) -> R<f64> {
    Ok(match operator {
        "+" => a + b,
        "-" => a - b,
        "*" => a * b,
        "**" if a == 0.0 && b < 0.0 => return Err(fault("0.0 cannot be raised to a negative power")),
        "**" if a < 0.0 && b.fract() != 0.0 => return Err(fault("a complex number")),
        "**" => a.powf(b),
        "/" | "//" if b == 0.0 => return Err(fault("float division by zero")),
        _ if b == 0.0 => return Err(fault("float modulo by zero")),
        "/" => a / b,
        "//" => {
            let quotient = (a - float_modulo(a, b)) / b;
            let floor = quotient.floor();
            if quotient - floor > 0.5 { floor + 1.0 } else { floor }
        }
        _ => float_modulo(a, b),
    })
}

fn float_modulo(a: f64, b: f64) -> f64 {
    let remainder = a % b;
    if remainder == 0.0 {
        0.0f64.copysign(b)
    } else if (remainder < 0.0) != (b < 0.0) {
        remainder + b
    } else {
        remainder
    }
}

/// `-value` or `+value`.
pub(super) fn signed(value: &Value, minus: bool) -> R<Value> {
    defined(value)?;
    match (view(value), as_int(value)) {
        (_, Some(i)) => if minus { i.checked_neg() } else { Some(i) }.map(int).ok_or_else(too_large),
        (View::Float(f), _) => Ok(Value::from(if minus { -f } else { f })),
        (View::Big(big), _) => Ok(big.with_sign(big.is_negative() != minus)),
        _ => Err(fault(format!("bad operand type for unary sign: '{}'", type_name(value)))),
    }
}

/// Whether one of the items is what is looked for. The first error ends the search.
pub(super) fn any<T>(items: impl IntoIterator<Item = T>, mut is: impl FnMut(T) -> R<bool>) -> R<bool> {
    for item in items {
        if is(item)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `a == b`.
pub(super) fn equal(a: &Value, b: &Value, meter: &Meter) -> R<bool> {
    meter.step()?;
    Ok(match (view(a), view(b)) {
        (View::Undefined, View::Undefined) | (View::None, View::None) => true,
        (View::Str(a), View::Str(b)) => {
            if a.len() == b.len() {
                meter.work(a.len())?;
            }
            a.str() == b.str()
        }
        (View::List(a), View::List(b)) | (View::Tuple(a), View::Tuple(b)) => {
            let mut pairs = a.items.iter().zip(&b.items);
            std::ptr::eq(a, b) || a.items.len() == b.items.len() && !any(&mut pairs, |(x, y)| Ok(!equal(x, y, meter)?))?
        }
        (View::Dict(a), View::Dict(b)) => {
            let differs = |(key, x): &(Value, Value)| match b.get(key, meter)? {
                Some(y) => Ok(!equal(x, &y, meter)?),
                None => Ok(true),
            };
            std::ptr::eq(a, b) || a.entries.len() == b.entries.len() && !any(&a.entries, differs)?
        }
        (View::Range(a), View::Range(b)) => {
            a.len == b.len && (a.len == 0 || a.start == b.start) && (a.len <= 1 || a.step == b.step)
        }
        (View::Other, View::Other) | (View::Lazy(_), View::Lazy(_)) => same(a, b),
        _ => numeric_order(a, b) == Some(Ordering::Equal),
    })
}

/// Whether two values are one object.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    fn one<T: Object + 'static>(a: &Value, b: &Value) -> bool {
        matches!((a.downcast_object_ref::<T>(), b.downcast_object_ref::<T>()), (Some(a), Some(b)) if std::ptr::eq(a, b))
    }
    one::<Items>(a, b)
        || one::<super::value::Lazy>(a, b)
        || one::<Dict>(a, b)
        || one::<Macro>(a, b)
        || (is_namespace(a) && is_namespace(b) && a == b)
}

#[allow(clippy::cast_possible_truncation, reason = "guarded by the comparison with the rounded value")]
#[allow(clippy::cast_precision_loss, reason = "the exact comparison follows")]
fn numeric_order(a: &Value, b: &Value) -> Option<Ordering> {
    let mixed = |i: i128, f: f64| match (i as f64).partial_cmp(&f) {
        Some(Ordering::Equal) => Some(i.cmp(&(f as i128))),
        other => other,
    };
    match (as_int(a), as_int(b), view(a), view(b)) {
        (Some(a), Some(b), ..) => Some(a.cmp(&b)),
        (Some(a), _, _, View::Float(b)) => mixed(a, b),
        (_, Some(b), View::Float(a), _) => mixed(b, a).map(Ordering::reverse),
        (_, _, View::Float(a), View::Float(b)) => a.partial_cmp(&b),
        (_, _, View::Big(a), View::Big(b)) => Some(a.compare(b)),
        (Some(_), _, _, View::Big(b)) => Some(b.beyond().reverse()),
        (_, Some(_), View::Big(a), _) => Some(a.beyond()),
        (_, _, View::Big(a), View::Float(b)) if !b.is_nan() => a.to_float().partial_cmp(&b),
        (_, _, View::Float(a), View::Big(b)) if !a.is_nan() => a.partial_cmp(&b.to_float()),
        _ => None,
    }
}

/// The order of two values, `None` where neither is less nor equal (NaN).
fn order(a: &Value, b: &Value, sign: &str, meter: &Meter) -> R<Option<Ordering>> {
    meter.step()?;
    defined(a)?;
    defined(b)?;
    match (view(a), view(b)) {
        (View::Str(a), View::Str(b)) => {
            meter.work(a.len().min(b.len()))?;
            Ok(Some(a.str().cmp(b.str())))
        }
        (View::List(x), View::List(y)) | (View::Tuple(x), View::Tuple(y)) => {
            for (x, y) in x.items.iter().zip(&y.items) {
                if !equal(x, y, meter)? {
                    return order(x, y, sign, meter);
                }
            }
            Ok(Some(x.items.len().cmp(&y.items.len())))
        }
        _ if as_float(a).is_some() && as_float(b).is_some() => Ok(numeric_order(a, b)),
        _ => {
            let (a, b) = (type_name(a), type_name(b));
            Err(fault(format!("'{sign}' not supported between instances of '{a}' and '{b}'")))
        }
    }
}

/// `a < b`.
pub(super) fn less(a: &Value, b: &Value, meter: &Meter) -> R<bool> {
    Ok(order(a, b, "<", meter)? == Some(Ordering::Less))
}

/// One comparison.
pub(super) fn compare(sign: &str, a: &Value, b: &Value, meter: &Meter) -> R<bool> {
    use Ordering::{Equal, Greater, Less};
    Ok(match sign {
        "==" => equal(a, b, meter)?,
        "!=" => !equal(a, b, meter)?,
        "in" => contains(b, a, meter)?,
        "not in" => !contains(b, a, meter)?,
        _ => match order(a, b, sign, meter)? {
            None => false,
            Some(Less) => sign.starts_with('<'),
            Some(Greater) => sign.starts_with('>'),
            Some(Equal) => sign.ends_with('='),
        },
    })
}

/// `item in container`.
pub(super) fn contains(container: &Value, item: &Value, meter: &Meter) -> R<bool> {
    match view(container) {
        View::Undefined => Ok(false),
        View::Str(s) => match view(item) {
            View::Str(part) => {
                meter.heavy(s.len())?;
                Ok(s.str().contains(part.str()))
            }
            _ => {
                defined(item)?;
                let name = type_name(item);
                Err(fault(format!("'in <string>' requires string as left operand, not {name}")))
            }
        },
        View::List(l) | View::Tuple(l) => any(&l.items, |x| equal(x, item, meter)),
        View::Dict(d) => Ok(d.get(item, meter)?.is_some()),
        View::Lazy(l) => {
            while let [x] = l.take(1) {
                if equal(x, item, meter)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        View::Range(r) => {
            let Some(offset) = integral(item).and_then(|i| i.checked_sub(r.start)) else { return Ok(false) };
            let (n, rest) = (offset.checked_div(r.step), offset.checked_rem(r.step));
            Ok(rest == Some(0) && n.and_then(|n| usize::try_from(n).ok()).is_some_and(|n| n < r.len))
        }
        _ => Err(fault(format!("argument of type '{}' is not iterable", type_name(container)))),
    }
}

#[allow(clippy::cast_possible_truncation, reason = "only floats without a fraction, within 2^63")]
fn integral(value: &Value) -> Option<i128> {
    match view(value) {
        View::Float(f) if f.fract() == 0.0 && f.abs() < 9.2e18 => Some(f as i128),
        _ => as_int(value),
    }
}

/// Place of a Python index in something of `len` items.
fn place(index: i128, len: usize) -> Option<usize> {
    let from_start = if index < 0 { index + len as i128 } else { index };
    usize::try_from(from_start).ok().filter(|i| *i < len)
}

/// `value[key]`: an item, or the attribute of that name, or undefined.
pub(super) fn item(value: &Value, key: &Value, meter: &Arc<Meter>) -> R<Value> {
    defined(value)?;
    let index = as_int(key);
    let found = match view(value) {
        View::List(l) | View::Tuple(l) => {
            index.and_then(|i| place(i, l.items.len())).and_then(|i| l.items.get(i).cloned())
        }
        View::Str(s) => match index {
            Some(i) => character(s, i, meter)?,
            None => None,
        },
        View::Range(r) => index.and_then(|i| place(i, r.len)).map(|i| r.at(i)),
        // Keys that cannot be hashed are a TypeError in Python, which becomes undefined.
        View::Dict(_) if hashable(key).is_err() => None,
        View::Dict(d) => d.get(key, meter)?,
        View::Other => value.get_item(key).ok().filter(|v| !v.is_undefined()),
        _ => None,
    };
    match (found, str_of(key)) {
        (Some(found), _) => Ok(found),
        (None, Some(name)) => {
            let named = value.downcast_object_ref::<Items>().and_then(|items| items.named(name));
            Ok(named.or_else(|| methods::attribute(value, name)).unwrap_or_default())
        }
        (None, None) => Ok(Value::UNDEFINED),
    }
}

fn character(text: Text, index: i128, meter: &Meter) -> R<Option<Value>> {
    let s = text.str();
    if s.is_ascii() {
        meter.work(s.len())?;
        return Ok(place(index, s.len()).map(|i| super::marks::value_of(text.slice(i..i + 1))));
    }
    meter.heavy(s.len())?;
    let found = place(index, s.chars().count()).and_then(|i| s.char_indices().nth(i));
    Ok(found.map(|(at, c)| super::marks::value_of(text.slice(at..at + c.len_utf8()))))
}

/// `value.name`: a method or attribute, or the item of that name, or undefined.
pub(super) fn attribute(value: &Value, name: &str) -> R<Value> {
    defined(value)?;
    match methods::attribute(value, name) {
        Some(found) => Ok(found),
        None => value.get_attr(name).or(Ok(Value::UNDEFINED)),
    }
}

/// `value[start:stop:step]`.
pub(super) fn slice(value: &Value, limits: [&Value; 3], meter: &Arc<Meter>) -> R<Value> {
    defined(value)?;
    let mut numbers = [None; 3];
    for (number, limit) in numbers.iter_mut().zip(limits) {
        *number = match (limit.is_none(), as_int(limit)) {
            (true, _) => None,
            (_, Some(i)) => Some(i),
            // A TypeError in Python, which becomes undefined.
            _ => return Ok(Value::UNDEFINED),
        };
    }
    match view(value) {
        View::List(l) | View::Tuple(l) => l.alike(sliced(&l.items, numbers, meter)?, meter),
        View::Range(r) => {
            let (from, to, step) = bounds(r.len, numbers)?;
            // All of these are within the range's own bounds, or one step beyond.
            let at = |i: i128| i64::try_from(r.start + i * r.step).map_err(|_| too_large());
            let stride = step.checked_mul(r.step).and_then(|s| i64::try_from(s).ok()).ok_or_else(too_large)?;
            Ok(Value::from_object(Range::new(at(from)?, at(to)?, stride)?))
        }
        View::Str(s) => {
            meter.heavy(s.len())?;
            if numbers[2].is_none_or(|step| step == 1) {
                return meter.text(s.part(text_slice(s.str(), numbers[0], numbers[1])));
            }
            meter.room(s.len() * 24)?;
            let chars: Vec<(char, bool)> = s.chars().collect();
            let mut sink = Sink::new(meter);
            for (c, content) in sliced(&chars, numbers, meter)? {
                sink.push_char(c, content)?;
            }
            Ok(sink.finish_as(s.is_markup()))
        }
        _ => Ok(Value::UNDEFINED),
    }
}

/// `text[start:stop]`, counted in characters.
pub(super) fn text_slice(text: &str, start: Option<i128>, stop: Option<i128>) -> &str {
    let len = text.chars().count();
    let (start, stop, _) = bounds(len, [start, stop, None]).unwrap_or((0, 0, 1));
    let byte = |n: i128| {
        let n = usize::try_from(n).unwrap_or(0);
        text.char_indices().nth(n).map_or(text.len(), |(i, _)| i)
    };
    if start >= stop { "" } else { text.get(byte(start)..byte(stop)).unwrap_or_default() }
}

/// Python's `slice.indices`.
fn bounds(len: usize, [start, stop, step]: [Option<i128>; 3]) -> R<(i128, i128, i128)> {
    let len = len as i128;
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(fault("slice step cannot be zero"));
    }
    let (low, high) = if step < 0 { (-1, len - 1) } else { (0, len) };
    let clamp = |bound: Option<i128>, default: i128| match bound {
        None => default,
        Some(b) => (if b < 0 { b.saturating_add(len) } else { b }).clamp(low, high),
    };
    let (first, last) = if step < 0 { (high, low) } else { (low, high) };
    Ok((clamp(start, first), clamp(stop, last), step))
}

fn sliced<T: Clone>(items: &[T], numbers: [Option<i128>; 3], meter: &Meter) -> R<Vec<T>> {
    let (mut at, stop, step) = bounds(items.len(), numbers)?;
    let mut out = Vec::new();
    meter.room(size_of_val(items))?;
    while if step > 0 { at < stop } else { at > stop } {
        out.extend(usize::try_from(at).ok().and_then(|i| items.get(i)).cloned());
        at = at.saturating_add(step);
    }
    Ok(out)
}
