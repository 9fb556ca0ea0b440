//! The `pprint` filter: Python's `pprint.pformat`, which breaks what is wider than a line.

use super::lexer::is_space;
use super::marks::Text;
use super::meter::{Meter, R, Sink};
use super::print::repr;
use super::value::{DictBuilder, View, view};
use super::{selection, strings};
use minijinja::Value;
use std::sync::Arc;

/// Characters of a line.
const WIDTH: usize = 80;

/// `value|pprint`.
pub(super) fn pprint(value: &Value, meter: &Arc<Meter>) -> R<Value> {
    let mut printer = Printer { sink: Sink::new(meter), meter };
    printer.value(&sorted_by_key(value, meter)?, 0, 0, true)?;
    Ok(printer.sink.finish())
}

/// The same value with the keys of its dicts in order.
fn sorted_by_key(value: &Value, meter: &Arc<Meter>) -> R<Value> {
    match view(value) {
        View::List(list) | View::Tuple(list) => list.mapped(|v| sorted_by_key(v, meter), meter),
        View::Dict(dict) => {
            let keyed = selection::sorted(dict.entries.clone(), false, meter).unwrap_or_else(|_| dict.entries.clone());
            let mut sorted = DictBuilder::new(meter)?;
            for (k, v) in keyed {
                sorted.insert(k, sorted_by_key(&v, meter)?, meter)?;
            }
            Ok(sorted.finish())
        }
        _ => Ok(value.clone()),
    }
}

fn width(text: Text) -> usize {
    text.str().chars().count()
}

struct Printer<'a> {
    sink: Sink,
    meter: &'a Arc<Meter>,
}

impl Printer<'_> {
    /// `repr` of a value.
    fn repr(&self, value: &Value) -> R<Sink> {
        let mut text = Sink::new(self.meter);
        repr(value, &mut text)?;
        Ok(text)
    }

    /// A value that begins in column `indent` and is followed by `allowance` characters; `outer`: it is inside nothing.
    fn value(&mut self, value: &Value, indent: usize, allowance: usize, outer: bool) -> R<()> {
        self.meter.stack()?;
        let whole = self.repr(value)?;
        if width(whole.text()) <= WIDTH.saturating_sub(indent + allowance) {
            return self.sink.push_text(whole.text());
        }
        match view(value) {
            View::Dict(dict) => {
                self.sink.push("{")?;
                for (i, (key, value)) in dict.entries.iter().enumerate() {
                    self.next_line(i, indent + 1)?;
                    let key = self.repr(key)?;
                    self.sink.push_text(key.text())?;
                    self.sink.push(": ")?;
                    let after = if i + 1 == dict.entries.len() { allowance + 1 } else { 1 };
                    self.value(value, indent + 1 + width(key.text()) + 2, after, false)?;
                }
                self.sink.push("}")
            }
            View::List(list) if list.view_name().is_none() => self.items(&list.items, ["[", "]"], indent, allowance),
            View::Tuple(list) => {
                let end = if list.items.len() == 1 { ",)" } else { ")" };
                self.items(&list.items, ["(", end], indent, allowance)
            }
            View::Str(text) if text.len() > 0 && !text.is_markup() => self.text(text, indent, allowance, outer),
            _ => self.sink.push_text(whole.text()),
        }
    }

    fn items(&mut self, items: &[Value], [begin, end]: [&str; 2], indent: usize, allowance: usize) -> R<()> {
        self.sink.push(begin)?;
        for (i, item) in items.iter().enumerate() {
            self.next_line(i, indent + 1)?;
            let after = if i + 1 == items.len() { allowance + end.len() } else { 1 };
            self.value(item, indent + 1, after, false)?;
        }
        self.sink.push(end)
    }

    /// What stands between two items.
    fn next_line(&mut self, index: usize, indent: usize) -> R<()> {
        if index == 0 {
            return Ok(());
        }
        self.sink.push(",\n")?;
        self.sink.repeat(Text::plain(" "), indent)
    }

    /// A text in several literals: one for each of its lines, or for as many words as fit.
    fn text(&mut self, text: Text, indent: usize, allowance: usize, outer: bool) -> R<()> {
        // Alone it gets parentheses.
        let (indent, allowance) = if outer { (indent + 1, allowance + 1) } else { (indent, allowance) };
        let room = WIDTH.saturating_sub(indent);
        self.meter.heavy(text.len())?;
        let lines = strings::lines(text.str(), true);
        let mut literals = Vec::new();
        for (i, line) in lines.iter().enumerate() {
            let last = i + 1 == lines.len();
            let whole = self.literal(text.part(line))?;
            if width(whole.text()) <= if last { room.saturating_sub(allowance) } else { room } {
                literals.push(whole);
                continue;
            }
            let ends = word_ends(line);
            let (mut start, mut end) = (0, 0);
            for (j, next) in ends.iter().enumerate() {
                let room = if last && j + 1 == ends.len() { room.saturating_sub(allowance) } else { room };
                let candidate = self.literal(text.part(line.get(start..*next).unwrap_or_default()))?;
                if width(candidate.text()) > room && end > start {
                    literals.push(self.literal(text.part(line.get(start..end).unwrap_or_default()))?);
                    start = end;
                }
                end = *next;
            }
            if end > start {
                literals.push(self.literal(text.part(line.get(start..end).unwrap_or_default()))?);
            }
        }
        let several = literals.len() > 1;
        self.sink.push(if outer && several { "(" } else { "" })?;
        for (i, literal) in literals.iter().enumerate() {
            if i > 0 {
                self.sink.push("\n")?;
                self.sink.repeat(Text::plain(" "), indent)?;
            }
            self.sink.push_text(literal.text())?;
        }
        self.sink.push(if outer && several { ")" } else { "" })
    }

    fn literal(&self, text: Text) -> R<Sink> {
        self.repr(&self.meter.text(text)?)
    }
}

/// Where the words of a line end, each with the spaces behind it.
fn word_ends(line: &str) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut spaces = false;
    for (at, c) in line.char_indices() {
        if spaces && !is_space(c) {
            ends.push(at);
        }
        spaces = is_space(c);
    }
    ends.push(line.len());
    ends
}
