//! Methods of Python's types, as a sandboxed template may call them, and which attributes exist.

use super::arguments::Arguments;
use super::meter::{Meter, R, fault};
use super::value::{DictBuilder, Method, View, as_int, defined, hashable, int, type_name, view};
use super::{ops, strings};
use minijinja::Value;
use std::sync::Arc;

const DICT: [&str; 5] = ["get", "items", "keys", "values", "copy"];
const LIST: [&str; 3] = ["index", "count", "copy"];
const TUPLE: [&str; 2] = ["index", "count"];
const INT: [&str; 4] = ["bit_length", "bit_count", "is_integer", "conjugate"];
/// Attributes of numbers that are no methods.
const NUMBER: [&str; 4] = ["real", "imag", "numerator", "denominator"];
const FLOAT: [&str; 2] = ["is_integer", "conjugate"];
/// Methods that change their object; the sandbox hands out something undefined instead.
const UNSAFE_DICT: [&str; 5] = ["clear", "pop", "popitem", "setdefault", "update"];
const UNSAFE_LIST: [&str; 8] = ["append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"];

/// Whether some type has a method of this name, so that `x.name` may not be the item of that name.
pub(super) fn is_method_name(name: &str) -> bool {
    let others = [&DICT[..], &LIST, &TUPLE, &INT, &NUMBER, &FLOAT, &UNSAFE_DICT, &UNSAFE_LIST];
    strings::is_method(name) || others.iter().any(|names| names.contains(&name))
}

/// Whether values of this type have a method of this name.
fn has(value: &Value, name: &str) -> bool {
    match view(value) {
        View::Str(_) => strings::is_method(name),
        View::Dict(_) => DICT.contains(&name),
        View::List(_) => LIST.contains(&name),
        View::Tuple(_) | View::Range(_) => TUPLE.contains(&name),
        View::Int(_) | View::Bool(_) => INT.contains(&name),
        View::Float(_) => FLOAT.contains(&name),
        _ => false,
    }
}

/// Whether the sandbox keeps this method from templates.
fn is_unsafe(value: &Value, name: &str) -> bool {
    match view(value) {
        View::Dict(_) => UNSAFE_DICT.contains(&name),
        View::List(_) => UNSAFE_LIST.contains(&name),
        _ => false,
    }
}

/// The attribute Python finds before it looks for an item; undefined where the sandbox forbids it.
pub(super) fn attribute(value: &Value, name: &str) -> Option<Value> {
    if is_unsafe(value, name) {
        return Some(Value::UNDEFINED);
    }
    if NUMBER.contains(&name) {
        return part_of_number(value, name);
    }
    has(value, name).then(|| Value::from_object(Method { object: value.clone(), name: name.to_owned() }))
}

fn part_of_number(value: &Value, name: &str) -> Option<Value> {
    match (view(value), name) {
        (View::Int(i), "real" | "numerator") => Some(int(i)),
        (View::Bool(b), "real" | "numerator") => Some(int(i128::from(b))),
        (View::Big(_), "real" | "numerator") => Some(value.clone()),
        (View::Int(_) | View::Bool(_) | View::Big(_), _) => Some(int(i128::from(name == "denominator"))),
        (View::Float(f), "real") => Some(Value::from(f)),
        (View::Float(_), "imag") => Some(Value::from(0.0)),
        _ => None,
    }
}

/// Calls a method if the value's type has it; `None` if not.
pub(super) fn try_call(value: &Value, name: &str, args: &[Value], meter: &Arc<Meter>) -> Option<R<Value>> {
    if has(value, name) {
        return Some(Arguments::new(args).and_then(|arguments| call(value, name, arguments, meter)));
    }
    let kind = type_name(value);
    is_unsafe(value, name).then(|| Err(fault(format!("'{name}' changes the {kind}; chat templates cannot call it"))))
}

/// Calls a method.
pub(super) fn call(value: &Value, name: &str, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    match view(value) {
        View::Str(s) => strings::call(s, name, arguments, meter),
        View::Dict(_) => dict_method(value, name, arguments, meter),
        View::List(_) | View::Tuple(_) | View::Range(_) if name != "copy" => {
            let [wanted] = arguments.bind(name, ["value"])?;
            let wanted = wanted.ok_or_else(|| fault(format!("{name}() takes exactly one argument (0 given)")))?;
            let mut count = 0;
            for (i, item) in meter.iterate(value)?.iter().enumerate() {
                if ops::equal(item, &wanted, meter)? {
                    if name == "index" {
                        return Ok(int(i as i128));
                    }
                    count += 1;
                }
            }
            if name == "count" { Ok(int(count)) } else { Err(fault("the value is not in the list")) }
        }
        View::Float(f) if name == "is_integer" => Ok(Value::from(f.fract() == 0.0)),
        View::Int(_) | View::Bool(_) if name == "is_integer" => Ok(Value::from(true)),
        View::Int(_) | View::Bool(_) if name.starts_with("bit") => {
            let n = as_int(value).unwrap_or(0).unsigned_abs();
            Ok(Value::from(if name == "bit_length" { 128 - n.leading_zeros() } else { n.count_ones() }))
        }
        View::Bool(b) => Ok(int(i128::from(b))),
        _ => Ok(value.clone()),
    }
}

fn dict_method(value: &Value, name: &str, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let View::Dict(d) = view(value) else { return Ok(Value::UNDEFINED) };
    if name == "get" {
        let [key, default] = arguments.bind("get", ["key", "default"])?;
        let key = key.ok_or_else(|| fault("get expected at least 1 argument, got 0"))?;
        return Ok(d.get(&key, meter)?.or(default).unwrap_or_else(|| Value::from(())));
    }
    let [] = arguments.bind(name, [])?;
    meter.room(d.entries.len() * size_of::<Value>())?;
    match name {
        "keys" => meter.view(d.entries.iter().map(|(k, _)| k.clone()).collect(), "dict_keys"),
        "values" => meter.view(d.entries.iter().map(|(_, v)| v.clone()).collect(), "dict_values"),
        "items" => meter.view(meter.iterate(&pairs(value, meter)?)?, "dict_items"),
        _ => Ok(value.clone()),
    }
}

/// The entries of a dict, as a list of pairs.
pub(super) fn pairs(dict: &Value, meter: &Arc<Meter>) -> R<Value> {
    let View::Dict(d) = view(dict) else {
        defined(dict)?;
        return Err(fault(format!("Can only get item pairs from a mapping, not from '{}'", type_name(dict))));
    };
    meter.list_of(d.entries.iter().map(|(k, v)| meter.tuple(vec![k.clone(), v.clone()])))
}

/// `dict(...)`: from a mapping or pairs, and named arguments.
pub(super) fn dict(arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let mut builder = DictBuilder::new(meter)?;
    if arguments.positional.len() > 1 {
        return Err(fault("dict expected at most 1 argument"));
    }
    for source in &arguments.positional {
        let entries = if let View::Dict(_) = view(source) { pairs(source, meter)? } else { source.clone() };
        for pair in meter.iterate(&entries)? {
            let Ok([k, v]) = <[Value; 2]>::try_from(meter.iterate(&pair)?) else {
                return Err(fault("dictionary update sequence element is not a pair"));
            };
            hashable(&k)?;
            builder.insert(k, v, meter)?;
        }
    }
    for (name, value) in arguments.named {
        builder.insert(name, value, meter)?;
    }
    Ok(builder.finish())
}
