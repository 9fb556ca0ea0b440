//! `strftime_now`: the local time in words.

use super::marks::str_of;
use super::meter::{Meter, R, fault};
use crate::os::clock::{LocalTime, local_now};
use minijinja::value::Object;
use minijinja::{State, Value};
use std::fmt::Write;

/// Where a fixed time is among the rendering's variables.
pub(super) const NOW: &str = "__py_now";

/// A fixed time.
#[derive(Debug)]
pub(super) struct Fixed(pub(super) LocalTime);

impl Object for Fixed {}

const DAYS: &str = "Sunday Monday Tuesday Wednesday Thursday Friday Saturday";
const MONTHS: &str = "January February March April May June July August September October November December";

/// `strftime_now(format)`.
pub(super) fn strftime_now(state: &mut State, format: &Value) -> R<Value> {
    let fixed = state.lookup(NOW).and_then(|v| v.downcast_object::<Fixed>());
    let now = match fixed {
        Some(fixed) => fixed.0,
        None => local_now().ok_or_else(|| fault("the system does not tell the local time"))?,
    };
    let format = str_of(format).ok_or_else(|| fault("strftime_now() argument 'format' must be str"))?;
    let meter = Meter::of(state)?;
    meter.room(format.len() * 16)?;
    meter.plain(&strftime(format, &now))
}

/// C's `strftime` in the C locale, with the `-` flag of the GNU library. An unknown directive stays as it is.
pub(super) fn strftime(format: &str, t: &LocalTime) -> String {
    let mut out = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push_str(rest.get(..at).unwrap_or_default());
        let tail = rest.get(at + 1..).unwrap_or_default();
        let (plain, directive) = match tail.strip_prefix('-') {
            Some(after) => (true, after),
            None => (false, tail),
        };
        let Some(c) = directive.chars().next() else {
            out.push_str(rest.get(at..).unwrap_or_default());
            return out;
        };
        one(c, plain, t, &mut out);
        rest = directive.get(c.len_utf8()..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

fn one(c: char, plain: bool, t: &LocalTime, out: &mut String) {
    let number = |value: u32, width: usize, fill: char, out: &mut String| {
        let text = value.to_string();
        if !plain {
            out.extend(std::iter::repeat_n(fill, width.saturating_sub(text.len())));
        }
        out.push_str(&text);
    };
    let name = |names: &'static str, index: u32| names.split(' ').nth(index as usize).unwrap_or("?");
    let short = |name: &'static str| name.get(..3).unwrap_or(name);
    let day = name(DAYS, t.weekday());
    let month = name(MONTHS, t.month.saturating_sub(1));
    let hour12 = if t.hour.is_multiple_of(12) { 12 } else { t.hour % 12 };
    match c {
        'Y' => number(t.year.unsigned_abs(), 4, '0', out),
        'C' => number(t.year.unsigned_abs() / 100, 2, '0', out),
        'y' => number(t.year.unsigned_abs() % 100, 2, '0', out),
        'm' => number(t.month, 2, '0', out),
        'd' => number(t.day, 2, '0', out),
        'e' => number(t.day, 2, ' ', out),
        'H' => number(t.hour, 2, '0', out),
        'k' => number(t.hour, 2, ' ', out),
        'I' => number(hour12, 2, '0', out),
        'l' => number(hour12, 2, ' ', out),
        'M' => number(t.minute, 2, '0', out),
        'S' => number(t.second, 2, '0', out),
        'f' => out.push_str("000000"),
        'j' => number(t.yearday() + 1, 3, '0', out),
        'w' => number(t.weekday(), 1, '0', out),
        'u' => number((t.weekday() + 6) % 7 + 1, 1, '0', out),
        'U' => number((t.yearday() + 7 - t.weekday()) / 7, 2, '0', out),
        'W' => number((t.yearday() + 7 - (t.weekday() + 6) % 7) / 7, 2, '0', out),
        'A' => out.push_str(day),
        'a' => out.push_str(short(day)),
        'B' => out.push_str(month),
        'b' | 'h' => out.push_str(short(month)),
        'p' => out.push_str(if t.hour < 12 { "AM" } else { "PM" }),
        'P' => out.push_str(if t.hour < 12 { "am" } else { "pm" }),
        'n' => out.push('\n'),
        't' => out.push('\t'),
        '%' => out.push('%'),
        'D' | 'x' => out.push_str(&strftime("%m/%d/%y", t)),
        'F' => out.push_str(&strftime("%Y-%m-%d", t)),
        'T' | 'X' => out.push_str(&strftime("%H:%M:%S", t)),
        'R' => out.push_str(&strftime("%H:%M", t)),
        'r' => out.push_str(&strftime("%I:%M:%S %p", t)),
        'c' => out.push_str(&strftime("%a %b %e %H:%M:%S %Y", t)),
        // Python's local time without a zone has none to print.
        'z' | 'Z' => {}
        other => {
            let _ = write!(out, "%{}{other}", if plain { "-" } else { "" });
        }
    }
}
