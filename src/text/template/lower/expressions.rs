//! Expressions: Jinja's grammar in, calls of the functions in [`super::super::functions`] out.

use super::super::filters::CAPTURED;
use super::super::lexer::Kind;
use super::super::meter::{R, fault};
use super::super::{checks, filters, methods};
use super::{Lowerer, SPECIAL, literal};
use minijinja::Error;
use std::fmt::Write;

/// Most `.a[b](c)|d` after one value.
const POSTFIX_MAX: usize = 100;

impl Lowerer {
    /// An expression, or several with commas: a tuple.
    pub(super) fn tuple(&mut self, conditional: bool) -> R<String> {
        self.tuple_in(conditional, false)
    }

    fn tuple_in(&mut self, conditional: bool, parentheses: bool) -> R<String> {
        let mut items = Vec::new();
        let mut tuple = false;
        loop {
            if matches!(self.kind(), Kind::PrintEnd | Kind::TagEnd) || self.is_op(")") {
                break;
            }
            if !conditional && self.is_name("recursive") {
                break;
            }
            items.push(if conditional { self.expression()? } else { self.or()? });
            if !self.skip_op(",") {
                break;
            }
            tuple = true;
        }
        if items.is_empty() && !parentheses {
            return Err(self.unexpected("an expression"));
        }
        let text = items.join(", ");
        if tuple || items.is_empty() {
            self.is_call = false;
        }
        Ok(if tuple || items.is_empty() { format!("__py_tuple({text})") } else { text })
    }

    pub(super) fn expression(&mut self) -> R<String> {
        self.meter.stack()?;
        let mut text = self.or()?;
        let mut open = 0;
        // `a if b else c if d else e`: what follows an else goes into its own parentheses.
        let mut out = String::new();
        while self.skip_name("if") {
            let test = self.or()?;
            if self.skip_name("else") {
                let _ = write!(out, "({text} if {test} else ");
                open += 1;
                text = self.or()?;
            } else {
                text = format!("({text} if {test})");
            }
            self.is_call = false;
        }
        out.push_str(&text);
        out.extend(std::iter::repeat_n(')', open));
        Ok(out)
    }

    /// A chain of one connective, as a balanced tree: the engine's depth stays small.
    fn chain(&mut self, word: &str, part: fn(&mut Self) -> R<String>) -> R<String> {
        let mut parts = vec![part(self)?];
        while self.skip_name(word) {
            parts.push(part(self)?);
            self.is_call = false;
        }
        while parts.len() > 1 {
            parts = parts
                .chunks(2)
                .map(|pair| match pair {
                    [a, b] => format!("({a} {word} {b})"),
                    _ => pair.concat(),
                })
                .collect();
        }
        Ok(parts.concat())
    }

    fn or(&mut self) -> R<String> {
        self.chain("or", Self::and)
    }

    fn and(&mut self) -> R<String> {
        self.chain("and", Self::not)
    }

    fn not(&mut self) -> R<String> {
        self.meter.stack()?;
        if self.skip_name("not") {
            let text = format!("(not {})", self.not()?);
            self.is_call = false;
            return Ok(text);
        }
        self.compare()
    }

    /// Operators of one precedence, from left to right, as one call.
    fn operators(
        &mut self,
        function: &str,
        operator: impl Fn(&mut Self) -> Option<&'static str>,
        part: fn(&mut Self) -> R<String>,
    ) -> R<String> {
        let mut text = part(self)?;
        let mut any = false;
        while let Some(operator) = operator(self) {
            any = true;
            let _ = write!(text, ", \"{operator}\", {}", part(self)?);
            self.is_call = false;
        }
        Ok(if any { format!("{function}({text})") } else { text })
    }

    fn compare(&mut self) -> R<String> {
        let sign = |p: &mut Self| {
            let sign = match p.kind() {
                Kind::Operator(o @ ("==" | "!=" | "<" | "<=" | ">" | ">=")) => o,
                Kind::Name(n) if n == "in" => "in",
                Kind::Name(n) if n == "not" && matches!(p.look(1), Kind::Name(n) if n == "in") => {
                    p.skip();
                    "not in"
                }
                _ => return None,
            };
            p.skip();
            Some(sign)
        };
        self.operators("__py_compare", sign, Self::sum)
    }

    fn arithmetic(&mut self, operators: &[&'static str], part: fn(&mut Self) -> R<String>) -> R<String> {
        self.operators("__py_math", |p| operators.iter().find(|o| p.skip_op(o)).copied(), part)
    }

    fn sum(&mut self) -> R<String> {
        self.arithmetic(&["+", "-"], Self::concat)
    }

    fn concat(&mut self) -> R<String> {
        let mut text = self.product()?;
        if !self.is_op("~") {
            return Ok(text);
        }
        while self.skip_op("~") {
            let _ = write!(text, ", {}", self.product()?);
        }
        self.is_call = false;
        Ok(format!("__py_concat({text})"))
    }

    fn product(&mut self) -> R<String> {
        self.arithmetic(&["*", "/", "//", "%"], Self::power)
    }

    fn power(&mut self) -> R<String> {
        self.arithmetic(&["**"], |p| p.unary(true))
    }

    fn unary(&mut self, with_filters: bool) -> R<String> {
        self.meter.stack()?;
        let mut text = if let Some(function) = self.sign() {
            let text = format!("{function}({})", self.unary(false)?);
            self.is_call = false;
            text
        } else {
            self.primary()?
        };
        let mut count = 0;
        self.postfix(&mut text, &mut count)?;
        if !with_filters {
            return Ok(text);
        }
        loop {
            count += 1;
            if count > POSTFIX_MAX {
                return Err(too_many());
            }
            if self.skip_op("|") {
                text.push('|');
                self.filter(&mut text)?;
                self.is_call = false;
            } else if self.skip_name("is") {
                text = self.test(&text)?;
                self.is_call = false;
            } else if self.is_op("(") {
                text.push_str(&self.call()?);
            } else {
                return Ok(text);
            }
        }
    }

    /// The function that the sign before a value is.
    fn sign(&mut self) -> Option<&'static str> {
        let minus = self.skip_op("-");
        if minus { Some("__py_negative") } else { self.skip_op("+").then_some("__py_positive") }
    }

    fn primary(&mut self) -> R<String> {
        // In parentheses it stays what it is; see `tuple_in`.
        let inner = self.is_op("(");
        let text = self.primary_text()?;
        if !inner {
            self.is_call = false;
        }
        Ok(text)
    }

    fn primary_text(&mut self) -> R<String> {
        match self.kind() {
            Kind::Name(name) => match name.as_str() {
                "true" | "True" | "false" | "False" | "none" | "None" => {
                    let constant = name.to_lowercase();
                    self.skip();
                    Ok(constant)
                }
                _ => {
                    let name = self.name()?;
                    if let Some(used) = self.macros.last_mut() {
                        used.iter_mut().zip(SPECIAL).for_each(|(used, (special, _))| *used |= name == special);
                    }
                    Ok(name)
                }
            },
            Kind::Str(_) => {
                let mut text = String::new();
                while let Kind::Str(part) = self.kind() {
                    text.push_str(part);
                    self.skip();
                }
                Ok(literal(&text))
            }
            Kind::Int(i) => {
                let text = format!("({i})");
                self.skip();
                Ok(text)
            }
            Kind::Float(f) => {
                let text = format!("({f:?})");
                self.skip();
                Ok(text)
            }
            Kind::Operator("(") => {
                self.skip();
                let text = self.tuple_in(true, true)?;
                self.expect_op(")")?;
                Ok(format!("({text})"))
            }
            Kind::Operator("[") => {
                self.skip();
                let items = self.listed("]", Self::expression)?;
                Ok(format!("__py_list({})", items.join(", ")))
            }
            Kind::Operator("{") => {
                self.skip();
                let pairs = self.listed("}", |p| {
                    let key = p.expression()?;
                    p.expect_op(":")?;
                    Ok(format!("{key}, {}", p.expression()?))
                })?;
                Ok(format!("__py_dict({})", pairs.join(", ")))
            }
            _ => Err(self.unexpected("an expression")),
        }
    }

    /// Things with commas between them, up to `end`.
    fn listed(&mut self, end: &str, item: fn(&mut Self) -> R<String>) -> R<Vec<String>> {
        let mut items = Vec::new();
        while !self.skip_op(end) {
            if !items.is_empty() {
                self.expect_op(",")?;
                if self.skip_op(end) {
                    break;
                }
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn postfix(&mut self, text: &mut String, count: &mut usize) -> R<()> {
        loop {
            *count += 1;
            if *count > POSTFIX_MAX {
                return Err(too_many());
            }
            if self.skip_op(".") {
                self.is_call = false;
                if let Kind::Int(i) = self.kind() {
                    *text = format!("__py_item({text}, {i})");
                    self.skip();
                    continue;
                }
                let name = self.name()?;
                if matches!(name.as_str(), "cycle" | "changed") && self.is_op("(") {
                    let call = self.call()?;
                    let arguments = call.strip_prefix('(').and_then(|c| c.strip_suffix(')')).unwrap_or_default();
                    let comma = if arguments.is_empty() { "" } else { ", " };
                    *text = format!("__py_loop({text}, \"{name}\"{comma}{arguments})");
                    self.is_call = true;
                    continue;
                }
                if (methods::is_method_name(&name) || name.starts_with("__")) && !self.is_op("(") {
                    *text = format!("__py_attribute({text}, \"{name}\")");
                } else {
                    let _ = write!(text, ".{name}");
                }
            } else if self.skip_op("[") {
                *text = self.subscript(text)?;
                self.is_call = false;
            } else if self.is_op("(") {
                let call = self.call()?;
                match call.strip_prefix('(').and_then(|c| c.strip_suffix(')')) {
                    Some(items) if text == "loop" => {
                        *text = format!("(loop(__py_iterate({items}, false))|{CAPTURED})");
                    }
                    _ => text.push_str(&call),
                }
            } else {
                return Ok(());
            }
        }
    }

    fn subscript(&mut self, of: &str) -> R<String> {
        let mut parts = ["none".to_owned(), "none".to_owned(), "none".to_owned()];
        if !self.is_op(":") {
            let first = self.expression()?;
            if !self.is_op(":") {
                let mut items = vec![first];
                while self.skip_op(",") && !self.is_op("]") {
                    items.push(self.expression()?);
                }
                self.expect_op("]")?;
                let key = items.join(", ");
                let key = if items.len() > 1 { format!("__py_tuple({key})") } else { key };
                return Ok(format!("__py_item({of}, {key})"));
            }
            parts[0] = first;
        }
        for part in parts.iter_mut().skip(1) {
            if self.skip_op(":") && !self.is_op(":") && !self.is_op("]") {
                *part = self.expression()?;
            }
        }
        self.expect_op("]")?;
        Ok(format!("__py_slice({of}, {})", parts.join(", ")))
    }

    /// Arguments in parentheses.
    fn call(&mut self) -> R<String> {
        self.expect_op("(")?;
        let arguments = self.listed(")", |p| {
            if p.skip_op("*") {
                return Ok(format!("*__py_iterate({}, false)", p.expression()?));
            }
            if p.skip_op("**") {
                return Ok(format!("**__py_named({})", p.expression()?));
            }
            if let Kind::Operator("=") = p.look(1)
                && let Kind::Name(_) = p.kind()
            {
                let name = p.name()?;
                p.skip();
                return Ok(format!("{name}={}", p.expression()?));
            }
            p.expression()
        })?;
        self.is_call = true;
        Ok(format!("({})", arguments.join(", ")))
    }

    fn dotted_name(&mut self) -> R<String> {
        let mut name = self.name()?;
        while self.skip_op(".") {
            let _ = write!(name, ".{}", self.name()?);
        }
        Ok(name)
    }

    pub(super) fn filter(&mut self, text: &mut String) -> R<()> {
        let name = self.dotted_name()?;
        if self.optional == 0 && !filters::names().any(|n| n == name) {
            return Err(fault(format!("No filter named '{name}'.")));
        }
        text.push_str(&name);
        if self.is_op("(") {
            text.push_str(&self.call()?);
        }
        Ok(())
    }

    fn test(&mut self, subject: &str) -> R<String> {
        let negated = self.skip_name("not");
        let name = self.dotted_name()?;
        if self.optional == 0 && !checks::names().any(|n| n == name) {
            return Err(fault(format!("No test named '{name}'.")));
        }
        let operand = match self.kind() {
            Kind::Name(n) => !matches!(n.as_str(), "else" | "or" | "and"),
            Kind::Str(_) | Kind::Int(_) | Kind::Float(_) | Kind::Operator("[" | "{") => true,
            _ => false,
        };
        let mut arguments = String::new();
        if self.is_op("(") {
            arguments = self.call()?;
        } else if operand {
            if self.is_name("is") {
                return Err(fault("You cannot chain multiple tests with is"));
            }
            let mut argument = self.primary()?;
            self.postfix(&mut argument, &mut 0)?;
            arguments = format!("({argument})");
        }
        let not = if negated { "not " } else { "" };
        Ok(format!("({not}{subject} is {name}{arguments})"))
    }
}

fn too_many() -> Error {
    fault(format!("more than {POSTFIX_MAX} attributes, items, calls and filters after one value"))
}
