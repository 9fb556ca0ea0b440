//! Jinja's tests: what follows `is`.

use super::marks::str_of;
use super::meter::{Meter, R, fault};
use super::value::{View, as_int, defined, hashable, type_name, view};
use super::{filters, ops, print};
use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, State, Value};

/// Tests that compare two values: the operator and their names.
const COMPARISONS: [(&str, &[&str]); 7] = [
    ("==", &["==", "eq", "equalto"]),
    ("!=", &["!=", "ne"]),
    (">", &[">", "gt", "greaterthan"]),
    (">=", &[">=", "ge"]),
    ("<", &["<", "lt", "lessthan"]),
    ("<=", &["<=", "le"]),
    ("in", &["in"]),
];

/// A test of one value.
type Check = fn(&Value) -> bool;

/// Tests of one value.
const KINDS: [(&str, Check); 17] = [
    ("defined", |v| !v.is_undefined()),
    ("undefined", Value::is_undefined),
    ("none", Value::is_none),
    ("boolean", |v| matches!(view(v), View::Bool(_))),
    ("true", |v| matches!(view(v), View::Bool(true))),
    ("false", |v| matches!(view(v), View::Bool(false))),
    ("integer", |v| matches!(view(v), View::Int(_) | View::Big(_))),
    ("float", |v| matches!(view(v), View::Float(_))),
    ("number", |v| matches!(view(v), View::Int(_) | View::Big(_) | View::Float(_) | View::Bool(_))),
    ("string", |v| matches!(view(v), View::Str(_))),
    ("mapping", |v| matches!(view(v), View::Dict(_))),
    // Undefined values too have a length and are iterable.
    ("sequence", |v| filters::len(v).is_ok()),
    ("iterable", |v| filters::len(v).is_ok() || matches!(view(v), View::Lazy(_))),
    ("callable", callable),
    ("escaped", |v| matches!(view(v), View::Str(text) if text.is_markup())),
    ("odd", |v| odd(v) == Some(true)),
    ("even", |v| odd(v) == Some(false)),
];

fn odd(value: &Value) -> Option<bool> {
    match view(value) {
        View::Big(big) => Some(big.is_odd()),
        _ => as_int(value).map(|i| i % 2 != 0),
    }
}

fn callable(value: &Value) -> bool {
    // Undefined is callable in Python: calling it is what fails.
    value.is_undefined()
        || matches!(view(value), View::Other)
            && (value.kind() == ValueKind::Plain || !super::value::is_namespace(value))
}

/// Adds the tests.
pub(super) fn install(env: &mut Environment<'_>) {
    for (sign, name) in COMPARISONS.iter().flat_map(|(sign, names)| names.iter().map(move |name| (*sign, *name))) {
        env.add_test(name, move |state: &mut State, args: Rest<Value>| match &args[..] {
            [a, b] => ops::compare(sign, a, b, &*Meter::of(state)?),
            _ => Err(fault(format!("the test '{name}' takes one argument"))),
        });
    }
    for (name, check) in KINDS {
        env.add_test(name, move |args: Rest<Value>| -> R<bool> {
            let [value] = &args[..] else { return Err(fault(format!("the test '{name}' takes no argument"))) };
            if matches!(name, "odd" | "even") {
                defined(value)?;
                if !matches!(view(value), View::Int(_) | View::Big(_) | View::Float(_) | View::Bool(_)) {
                    return Err(fault(format!("'{name}' wants a number, not {}", type_name(value))));
                }
            }
            Ok(check(value))
        });
    }
    env.add_test("divisibleby", |state: &mut State, value: Value, by: Value| {
        let meter = Meter::of(state)?;
        ops::equal(&ops::arithmetic("%", &value, &by, &meter)?, &Value::from(0), &meter)
    });
    env.add_test("sameas", |state: &mut State, a: Value, b: Value| -> R<bool> {
        let scalar = !matches!(view(&a), View::List(_) | View::Tuple(_) | View::Dict(_) | View::Other);
        let alike = std::mem::discriminant(&view(&a)) == std::mem::discriminant(&view(&b));
        Ok(alike && if scalar { ops::equal(&a, &b, &*Meter::of(state)?)? } else { ops::same(&a, &b) })
    });
    for (name, upper) in [("upper", true), ("lower", false)] {
        env.add_test(name, move |state: &mut State, value: Value| -> R<bool> {
            let text = print::to_text(&value, &Meter::of(state)?)?;
            let text = print::text_in(&text).str();
            let (lowers, uppers) = (text.chars().any(char::is_lowercase), text.chars().any(char::is_uppercase));
            Ok(if upper { uppers && !lowers } else { lowers && !uppers })
        });
    }
    env.add_test("filter", |name: Value| -> R<bool> {
        hashable(&name)?;
        Ok(filters::names().any(|n| Some(n) == str_of(&name)))
    });
    env.add_test("test", |name: Value| -> R<bool> {
        hashable(&name)?;
        Ok(names().any(|n| Some(n) == str_of(&name)))
    });
}

/// Names of all tests.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let others = ["divisibleby", "sameas", "upper", "lower", "filter", "test"];
    COMPARISONS.iter().flat_map(|(_, names)| names.iter().copied()).chain(KINDS.iter().map(|(n, _)| *n)).chain(others)
}
