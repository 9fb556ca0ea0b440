//! Whole numbers of more than 127 bits: exact where they are read, printed and compared; what would compute with them fails.

use super::meter::{Meter, R};
use super::value::int;
use crate::limits;
use minijinja::Value;
use minijinja::value::Object;
use std::cmp::Ordering;
use std::sync::Arc;

/// A whole number of more than 127 bits.
#[derive(Debug)]
pub(super) struct Big {
    negative: bool,
    /// Decimal, without leading zeros.
    digits: String,
}

impl Object for Big {
    super::meter::plain_object!();

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }
}

impl Big {
    /// Its decimal digits, with a sign if it is negative.
    pub(super) fn to_text(&self) -> String {
        format!("{}{}", if self.negative { "-" } else { "" }, self.digits)
    }

    /// Its decimal digits without a sign.
    pub(super) fn magnitude(&self) -> &str {
        &self.digits
    }

    pub(super) fn is_negative(&self) -> bool {
        self.negative
    }

    pub(super) fn is_odd(&self) -> bool {
        self.digits.ends_with(['1', '3', '5', '7', '9'])
    }

    /// The nearest float; infinite beyond the largest.
    pub(super) fn to_float(&self) -> f64 {
        self.to_text().parse().unwrap_or(f64::NAN)
    }

    /// The number with the other sign, or without one.
    pub(super) fn with_sign(&self, negative: bool) -> Value {
        Value::from_object(Big { negative, digits: self.digits.clone() })
    }

    pub(super) fn compare(&self, other: &Big) -> Ordering {
        let magnitude = (self.digits.len(), &self.digits).cmp(&(other.digits.len(), &other.digits));
        match (self.negative, other.negative) {
            (false, false) => magnitude,
            (true, true) => magnitude.reverse(),
            _ => self.beyond(),
        }
    }

    /// How it compares to any number that is not big.
    pub(super) fn beyond(&self) -> Ordering {
        if self.negative { Ordering::Less } else { Ordering::Greater }
    }
}

/// A whole number from decimal digits with an optional sign; `None` for anything else, or for more digits than Python
/// reads ([`limits::TEMPLATE_DIGITS_MAX`]).
pub(super) fn whole(text: &str, meter: &Meter) -> R<Option<Value>> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let fine = !digits.is_empty() && digits.len() <= limits::TEMPLATE_DIGITS_MAX;
    if !fine || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    if let Ok(small) = text.parse::<i128>() {
        return Ok(Some(int(small)));
    }
    let digits = digits.trim_start_matches('0');
    meter.charge(digits.len())?;
    Ok(Some(Value::from_object(Big { negative, digits: digits.to_owned() })))
}
