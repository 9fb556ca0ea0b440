//! Filters that follow attributes, sort, group and select.

use super::arguments::Arguments;
use super::filters::{split, truth};
use super::marks::{self, Text, str_of};
use super::meter::{Meter, R, Sink, fault};
use super::value::{DictBuilder, View, defined, hashable, int, type_name, view};
use super::{ops, print, strings};
use minijinja::{State, Value};
use std::sync::Arc;

/// An attribute path: `a.b.0`.
pub(super) fn path(attribute: &Value) -> Vec<Value> {
    match view(attribute) {
        View::None | View::Undefined => Vec::new(),
        View::Str(s) => s.str().split('.').map(|p| p.parse().map_or_else(|_| Value::from(p), int)).collect(),
        _ => vec![attribute.clone()],
    }
}

pub(super) fn follow(value: &Value, path: &[Value], default: Option<&Value>, meter: &Arc<Meter>) -> R<Value> {
    let mut value = value.clone();
    for part in path {
        value = ops::item(&value, part, meter)?;
        if let (true, Some(default)) = (value.is_undefined(), default) {
            value = default.clone();
        }
    }
    Ok(value)
}

pub(super) fn ignore_case(value: Value, case_sensitive: bool, meter: &Arc<Meter>) -> R<Value> {
    match marks::text(&value) {
        Some(s) if !case_sensitive => strings::mapped(Text::plain(s.str()), meter, str::to_lowercase),
        _ => Ok(value),
    }
}

/// A stable merge sort that stops at the first error.
pub(super) fn merge_sort<T: Clone>(items: &mut [T], meter: &Meter, less: &mut impl FnMut(&T, &T) -> R<bool>) -> R<()> {
    if items.len() < 2 {
        return Ok(());
    }
    meter.step()?;
    meter.room(size_of_val(items))?;
    let (left, right) = items.split_at_mut(items.len() / 2);
    merge_sort(left, meter, less)?;
    merge_sort(right, meter, less)?;
    let (left, right) = (left.to_vec(), right.to_vec());
    let (mut l, mut r) = (left.into_iter().peekable(), right.into_iter().peekable());
    for slot in items.iter_mut() {
        let from_right = match (l.peek(), r.peek()) {
            (Some(a), Some(b)) => less(b, a)?,
            (None, _) => true,
            _ => false,
        };
        if let Some(item) = if from_right { r.next() } else { l.next() } {
            *slot = item;
        }
    }
    Ok(())
}

/// Sorts by keys; equal ones keep their order, also in reverse.
pub(super) fn sorted(mut keyed: Vec<(Value, Value)>, reverse: bool, meter: &Arc<Meter>) -> R<Vec<(Value, Value)>> {
    merge_sort(&mut keyed, meter, &mut |a, b| {
        if reverse { ops::less(&b.0, &a.0, meter) } else { ops::less(&a.0, &b.0, meter) }
    })?;
    Ok(keyed)
}

pub(super) fn sort(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [reverse, case, attribute] = arguments.bind("sort", ["reverse", "case_sensitive", "attribute"])?;
    let case = truth(case);
    let paths: Vec<Vec<Value>> = match attribute.as_ref().and_then(str_of) {
        Some(s) => s.split(',').map(|p| path(&Value::from(p))).collect(),
        None => vec![path(&attribute.unwrap_or_default())],
    };
    let mut keyed = Vec::new();
    for item in meter.iterate(value)? {
        let keys = paths.iter().map(|p| ignore_case(follow(&item, p, None, meter)?, case, meter));
        keyed.push((meter.list_of(keys)?, item));
    }
    meter.list(sorted(keyed, truth(reverse), meter)?.into_iter().map(|(_, v)| v).collect())
}

pub(super) fn dictsort(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [case, by, reverse] = arguments.bind("dictsort", ["case_sensitive", "by", "reverse"])?;
    let by_value = match by.as_ref().map(str_of) {
        None | Some(Some("key")) => false,
        Some(Some("value")) => true,
        _ => return Err(fault("You can only sort by either \"key\" or \"value\"")),
    };
    let View::Dict(d) = view(value) else {
        defined(value)?;
        return Err(fault(format!("'{}' object has no attribute 'items'", type_name(value))));
    };
    let case = truth(case);
    let mut keyed = Vec::new();
    for (k, v) in &d.entries {
        let key = ignore_case(if by_value { v } else { k }.clone(), case, meter)?;
        keyed.push((key, meter.tuple(vec![k.clone(), v.clone()])?));
    }
    meter.list(sorted(keyed, truth(reverse), meter)?.into_iter().map(|(_, v)| v).collect())
}

pub(super) fn extreme(value: &Value, arguments: Arguments, meter: &Arc<Meter>, largest: bool) -> R<Value> {
    let [case, attribute] = arguments.bind("min", ["case_sensitive", "attribute"])?;
    let (case, path) = (truth(case), path(&attribute.unwrap_or_default()));
    let mut best: Option<(Value, Value)> = None;
    for item in meter.iterate(value)? {
        let key = ignore_case(follow(&item, &path, None, meter)?, case, meter)?;
        let better = match &best {
            None => true,
            Some((k, _)) if largest => ops::less(k, &key, meter)?,
            Some((k, _)) => ops::less(&key, k, meter)?,
        };
        if better {
            best = Some((key, item));
        }
    }
    Ok(best.map(|(_, item)| item).unwrap_or_default())
}

pub(super) fn unique(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [case, attribute] = arguments.bind("unique", ["case_sensitive", "attribute"])?;
    let (case, path) = (truth(case), path(&attribute.unwrap_or_default()));
    let mut seen = DictBuilder::new(meter)?;
    let mut out = Vec::new();
    for item in meter.iterate(value)? {
        let key = ignore_case(follow(&item, &path, None, meter)?, case, meter)?;
        hashable(&key)?;
        if seen.insert_new(key, meter)? {
            out.push(item);
        }
    }
    meter.lazy(out, "do_unique")
}

pub(super) fn sum(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [attribute, start] = arguments.bind("sum", ["attribute", "start"])?;
    let path = path(&attribute.unwrap_or_default());
    let mut total = start.unwrap_or_else(|| Value::from(0));
    if str_of(&total).is_some() {
        return Err(fault("sum() can't sum strings [use ''.join(seq) instead]"));
    }
    for item in meter.iterate(value)? {
        let item = follow(&item, &path, None, meter)?;
        total = ops::arithmetic("+", &total, &item, meter)?;
    }
    Ok(total)
}

pub(super) fn groupby(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [attribute, default, case] = arguments.bind("groupby", ["attribute", "default", "case_sensitive"])?;
    let (path, case) = (path(&attribute.unwrap_or_default()), truth(case));
    let default = default.filter(|d| !d.is_none());
    let mut keyed = Vec::new();
    for item in meter.iterate(value)? {
        let key = follow(&item, &path, default.as_ref(), meter)?;
        keyed.push((ignore_case(key, case, meter)?, item));
    }
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for (key, item) in sorted(keyed, false, meter)? {
        match groups.last_mut() {
            Some((last, members)) if ops::equal(last, &key, meter)? => members.push(item),
            _ => groups.push((key, vec![item])),
        }
    }
    let mut out = Vec::new();
    for (_, members) in groups {
        let key = follow(members.first().unwrap_or(&Value::UNDEFINED), &path, default.as_ref(), meter)?;
        out.push(meter.group(key, meter.list(members)?)?);
    }
    meter.list(out)
}

pub(super) fn join(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [separator, attribute] = arguments.bind("join", ["d", "attribute"])?;
    let separator = separator.map_or_else(|| Ok(Value::from("")), |s| print::to_text(&s, meter))?;
    let path = path(&attribute.unwrap_or_default());
    let mut sink = Sink::new(meter);
    for (i, item) in meter.iterate(value)?.iter().enumerate() {
        if i > 0 {
            sink.push_text(print::text_in(&separator))?;
        }
        print::display(&follow(item, &path, None, meter)?, &mut sink)?;
    }
    Ok(sink.finish())
}

/// Arguments for the engine again.
pub(super) fn packed(value: Value, arguments: &Arguments) -> Vec<Value> {
    let mut args = vec![value];
    args.extend_from_slice(&arguments.positional);
    if !arguments.named.is_empty() {
        let named = arguments.named.iter().cloned().map(super::functions::carried);
        args.push(Value::from(named.collect::<minijinja::value::Kwargs>()));
    }
    args
}

/// What a lazy filter goes through. Anything false, None above all, is empty.
fn source(value: &Value, meter: &Meter) -> R<Vec<Value>> {
    if value.is_true() { meter.iterate(value) } else { Ok(Vec::new()) }
}

pub(super) fn map(state: &mut State, args: &[Value]) -> R<Value> {
    let meter = Meter::of(state)?;
    let (value, mut arguments) = split(args)?;
    let mut out = Vec::new();
    let items = source(&value, &meter)?;
    if arguments.positional.is_empty() && arguments.named.iter().any(|(n, _)| str_of(n) == Some("attribute")) {
        let [attribute, default] = arguments.bind("map", ["attribute", "default"])?;
        let (path, default) = (path(&attribute.unwrap_or_default()), default.filter(|d| !d.is_none()));
        for item in items {
            out.push(follow(&item, &path, default.as_ref(), &meter)?);
        }
        return meter.lazy(out, "sync_do_map");
    }
    if !items.is_empty() && arguments.positional.is_empty() {
        return Err(fault("map requires a filter argument"));
    }
    let name = if items.is_empty() { Value::from("") } else { arguments.positional.remove(0) };
    let name = str_of(&name).unwrap_or_default();
    for item in items {
        meter.step()?;
        out.push(state.apply_filter(name, &packed(item, &arguments))?);
    }
    meter.lazy(out, "sync_do_map")
}

pub(super) fn select(state: &mut State, args: &[Value], by_attribute: bool, keep: bool) -> R<Value> {
    let meter = Meter::of(state)?;
    let (value, mut arguments) = split(args)?;
    let origin = match (by_attribute, keep) {
        (false, true) => "sync_do_select",
        (false, false) => "sync_do_reject",
        (true, true) => "sync_do_selectattr",
        (true, false) => "sync_do_rejectattr",
    };
    let items = source(&value, &meter)?;
    if items.is_empty() {
        return meter.lazy(items, origin);
    }
    let mut path_to = Vec::new();
    if by_attribute {
        if arguments.positional.is_empty() {
            return Err(fault("Missing parameter for attribute name"));
        }
        path_to = path(&arguments.positional.remove(0));
    }
    let test = if arguments.positional.is_empty() { None } else { Some(arguments.positional.remove(0)) };
    let mut out = Vec::new();
    for item in items {
        meter.step()?;
        let subject = follow(&item, &path_to, None, &meter)?;
        let passed = match &test {
            Some(test) => state.perform_test(str_of(test).unwrap_or_default(), &packed(subject, &arguments))?,
            None => subject.is_true(),
        };
        if passed == keep {
            out.push(item);
        }
    }
    meter.lazy(out, origin)
}
