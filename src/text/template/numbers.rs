//! Filters over numbers: `int`, `float`, `round`, `abs`.

use super::arguments::Arguments;
use super::lexer::is_space;
use super::meter::{Meter, R, fault};
use super::value::{View, as_int, defined, int, type_name, view};
use super::{big, ops};
use minijinja::Value;
use std::sync::Arc;

/// `value|abs`.
pub(super) fn abs(value: &Value, _: &Arc<Meter>) -> R<Value> {
    let negative = matches!(view(value), View::Float(f) if f.is_sign_negative())
        || as_int(value).is_some_and(|i| i < 0)
        || matches!(view(value), View::Big(big) if big.is_negative());
    ops::signed(value, negative)
}

/// Text as Python's `float` reads it.
fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim_matches(is_space);
    let digits = |c: char| c.is_ascii_digit();
    let plain = text.replace('_', "");
    // Rust reads the same syntax; underscores only between digits.
    let bad = text.starts_with('_') || text.ends_with('_') || text.contains("__");
    if bad || !(text.contains(digits) || text.to_lowercase().contains("inf") || text.to_lowercase().contains("nan")) {
        return None;
    }
    plain.parse().ok()
}

/// Text as Python's `int` reads it.
fn parse_int(text: &str, base: u32) -> Option<i128> {
    let text = text.trim_matches(is_space).to_lowercase();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(&text)),
    };
    let prefixes = [("0x", 16), ("0o", 8), ("0b", 2)];
    let found = prefixes.iter().find(|(p, b)| digits.starts_with(p) && (base == 0 || base == *b));
    let (digits, base) = match found {
        Some((prefix, b)) => (digits.strip_prefix(prefix)?.trim_start_matches('_'), *b),
        None => (digits, if base == 0 { 10 } else { base }),
    };
    if digits.starts_with(['_', '+', '-']) || digits.ends_with('_') || digits.contains("__") {
        return None;
    }
    i128::from_str_radix(&digits.replace('_', ""), base).ok().map(|n| sign * n)
}

#[allow(clippy::cast_possible_truncation, reason = "within the range checked here")]
fn truncated(f: f64) -> Option<i128> {
    (f.is_finite() && f.abs() < 1e38).then(|| f.trunc() as i128)
}

/// `value|int(default, base)`.
pub(super) fn int_filter(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [default, base] = arguments.bind("int", ["default", "base"])?;
    defined(value)?;
    let base = base.as_ref().and_then(as_int).and_then(|b| u32::try_from(b).ok()).filter(|b| *b <= 36 && *b != 1);
    let found = match view(value) {
        View::Str(s) => {
            meter.heavy(s.len())?;
            let text = s.str().trim_matches(is_space);
            if let (10, Some(found)) = (base.unwrap_or(10), big::whole(text, meter)?) {
                return Ok(found);
            }
            parse_int(text, base.unwrap_or(10)).or_else(|| parse_float(text).and_then(truncated))
        }
        View::Big(_) => return Ok(value.clone()),
        View::Float(f) => truncated(f),
        _ => as_int(value),
    };
    Ok(found.map(int).or(default).unwrap_or_else(|| Value::from(0)))
}

/// `value|float(default)`.
pub(super) fn float(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [default] = arguments.bind("float", ["default"])?;
    defined(value)?;
    let found = match view(value) {
        View::Str(s) => {
            meter.heavy(s.len())?;
            parse_float(s.str())
        }
        _ => ops::as_float(value),
    };
    Ok(found.map(Value::from).or(default).unwrap_or_else(|| Value::from(0.0)))
}

/// `value|round(precision, method)`.
pub(super) fn round(value: &Value, arguments: Arguments, _: &Arc<Meter>) -> R<Value> {
    let [precision, method] = arguments.bind("round", ["precision", "method"])?;
    defined(value)?;
    let digits = precision.as_ref().and_then(as_int).unwrap_or(0).clamp(-400, 400);
    let digits = i32::try_from(digits).unwrap_or(0);
    let wrong = || fault(format!("type {} doesn't define __round__ method", type_name(value)));
    let f = ops::as_float(value).ok_or_else(wrong)?;
    let scale = 10f64.powi(digits);
    if let (View::Big(_), None | Some("common")) = (view(value), method.as_ref().and_then(super::marks::str_of)) {
        return if digits >= 0 { Ok(value.clone()) } else { Err(ops::too_large()) };
    }
    match method.as_ref().map(|m| super::marks::str_of(m).unwrap_or_default()) {
        None | Some("common") => match as_int(value) {
            Some(i) => Ok(int(round_int(i, digits))),
            None => Ok(Value::from(round_float(f, digits))),
        },
        Some("ceil") => Ok(Value::from((f * scale).ceil() / scale)),
        Some("floor") => Ok(Value::from((f * scale).floor() / scale)),
        Some(_) => Err(fault("method must be common, ceil or floor")),
    }
}

/// Half to even, in decimal, as `round` does.
fn round_float(f: f64, digits: i32) -> f64 {
    if !f.is_finite() {
        return f;
    }
    if let Ok(places) = usize::try_from(digits) {
        // Correctly rounded decimal digits, ties to even; reading them back is exact.
        return format!("{f:.places$}").parse().unwrap_or(f);
    }
    let scale = 10f64.powi(-digits);
    (f / scale).round_ties_even() * scale
}

fn round_int(i: i128, digits: i32) -> i128 {
    let Some(scale) = u32::try_from(-digits).ok().and_then(|d| 10i128.checked_pow(d)) else {
        return if digits >= 0 { i } else { 0 };
    };
    let (low, rest) = (i.div_euclid(scale), i.rem_euclid(scale));
    let up = rest * 2 > scale || rest * 2 == scale && low % 2 != 0;
    (low + i128::from(up)).saturating_mul(scale)
}

/// `value|filesizeformat(binary)`.
pub(super) fn file_size(value: &Value, arguments: Arguments, meter: &Arc<Meter>) -> R<Value> {
    let [binary] = arguments.bind("filesizeformat", ["binary"])?;
    let binary = binary.is_some_and(|b| b.is_true());
    defined(value)?;
    let bytes = match view(value) {
        View::Str(s) => parse_float(s.str()),
        _ => ops::as_float(value),
    };
    let bytes = bytes.ok_or_else(|| fault(format!("could not convert {} to float", type_name(value))))?;
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    if bytes == 1.0 {
        return meter.plain("1 Byte");
    }
    if bytes < base {
        return meter.plain(&format!("{} Bytes", bytes.trunc()));
    }
    let units = ["k", "M", "G", "T", "P", "E", "Z", "Y"];
    let mut unit = base;
    let mut name = "";
    for prefix in units {
        unit *= base;
        name = prefix;
        if bytes < unit {
            break;
        }
    }
    let name = if binary { format!("{}iB", name.to_uppercase()) } else { format!("{name}B") };
    meter.plain(&format!("{:.1} {name}", base * bytes / unit))
}
