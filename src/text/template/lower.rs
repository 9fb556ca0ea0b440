//! A template as its author wrote it, to one the engine runs with Python's meaning.
//!
//! The engine (minijinja) parses, scopes and runs the result. What it cannot do as Jinja does, or cannot bound, is
//! spelled out here as calls of the functions in [`super::functions`]: operators, comparisons, items, slices and
//! literals (a template that doubles a text forty times would otherwise exhaust the memory inside one instruction),
//! and text between tags becomes printed constants, with the whitespace Jinja leaves. `generation` blocks become
//! scopes; macros are wrapped, for Python's rules of calling. Lines stay where they were, for the engine's messages.

mod expressions;

use super::filters::CAPTURED;
use super::lexer::{Kind, Token, tokenize};
use super::meter::{Meter, R, fault};
use crate::limits;
use minijinja::Error;
use std::fmt::Write;
use std::sync::Arc;

/// Most `elif`s of one `if`.
const ELIF_MAX: usize = 100;
/// Deepest nesting of blocks.
const BLOCK_DEPTH_MAX: usize = 50;
/// Names the lowered template uses.
pub(super) const RESERVED: &str = "__py_";

/// The lowered template; an error carries the line it is about.
pub(super) fn lower(source: &str) -> Result<String, (u32, Error)> {
    let tokens = tokenize(source)?;
    let mut lowerer = Lowerer {
        tokens,
        at: 0,
        out: String::new(),
        line: 1,
        macros: Vec::new(),
        optional: 0,
        depth: 0,
        is_call: false,
        meter: Meter::new(limits::TEMPLATE_FUEL, None),
    };
    match lowerer.block(&[], "") {
        Ok(_) => Ok(lowerer.out),
        Err(error) => Err((lowerer.token_line(), error)),
    }
}

/// The special names a macro may read, and the letters that tell of them.
const SPECIAL: [(&str, char); 3] = [("varargs", 'v'), ("kwargs", 'k'), ("caller", 'c')];

/// Which of [`SPECIAL`] a macro reads.
type Special = [bool; SPECIAL.len()];

/// A macro's parameter and its default.
type Parameter = (String, Option<String>);

struct Lowerer {
    tokens: Vec<Token>,
    at: usize,
    out: String,
    /// Line of the end of `out`.
    line: u32,
    macros: Vec<Special>,
    /// Inside how many `if`s: there an unknown filter fails only when it is reached.
    optional: usize,
    depth: usize,
    /// The expression read last is a call.
    is_call: bool,
    meter: Arc<Meter>,
}

/// Text as a literal of the engine.
fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

impl Lowerer {
    // ---- tokens ----

    fn token_line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(0, |t| t.line)
    }

    fn kind(&self) -> &Kind {
        self.look(0)
    }

    fn look(&self, ahead: usize) -> &Kind {
        self.tokens.get(self.at + ahead).map_or(&Kind::End, |t| &t.kind)
    }

    fn skip(&mut self) {
        self.at += 1;
    }

    fn is_op(&self, op: &str) -> bool {
        matches!(self.kind(), Kind::Operator(o) if *o == op)
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.kind(), Kind::Name(n) if n == name)
    }

    fn skip_op(&mut self, op: &str) -> bool {
        let yes = self.is_op(op);
        self.at += usize::from(yes);
        yes
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let yes = self.is_name(name);
        self.at += usize::from(yes);
        yes
    }

    fn expect_op(&mut self, op: &str) -> R<()> {
        if self.skip_op(op) { Ok(()) } else { Err(self.unexpected(&format!("'{op}'"))) }
    }

    fn expect(&mut self, kind: &Kind, what: &str) -> R<()> {
        if self.kind() == kind {
            self.skip();
            return Ok(());
        }
        Err(self.unexpected(what))
    }

    fn name(&mut self) -> R<String> {
        if let Kind::Name(name) = self.kind() {
            if name.starts_with(RESERVED) {
                return Err(fault(format!("names cannot begin with {RESERVED}")));
            }
            let name = name.clone();
            self.skip();
            return Ok(name);
        }
        Err(self.unexpected("a name"))
    }

    fn unexpected(&self, expected: &str) -> Error {
        let found = match self.kind() {
            Kind::Data(_) => "text".to_owned(),
            Kind::PrintBegin => "'{{'".to_owned(),
            Kind::PrintEnd => "end of print statement".to_owned(),
            Kind::TagBegin => "'{%'".to_owned(),
            Kind::TagEnd => "end of statement block".to_owned(),
            Kind::Name(n) => format!("'{n}'"),
            Kind::Str(_) => "a string".to_owned(),
            Kind::Int(_) | Kind::Float(_) => "a number".to_owned(),
            Kind::Operator(o) => format!("'{o}'"),
            Kind::End => "the end of the template".to_owned(),
        };
        fault(format!("expected {expected}, found {found}"))
    }

    // ---- statements ----

    /// Writes a tag that stands on this line of the source.
    fn emit(&mut self, begin: &str, line: u32, content: &str, end: &str) {
        self.out.push_str(begin);
        while self.line < line {
            self.out.push('\n');
            self.line += 1;
        }
        self.out.push(' ');
        self.out.push_str(content);
        self.out.push(' ');
        self.out.push_str(end);
    }

    fn tag(&mut self, line: u32, content: &str) {
        self.emit("{%", line, content, "%}");
    }

    /// Statements up to a tag named in `ends`, which is passed over up to its name; the name is returned.
    fn block(&mut self, ends: &[&'static str], of: &str) -> R<&'static str> {
        self.meter.stack()?;
        if self.depth > BLOCK_DEPTH_MAX {
            return Err(fault(format!("blocks nest deeper than {BLOCK_DEPTH_MAX}")));
        }
        loop {
            let line = self.token_line();
            match self.kind() {
                Kind::End if ends.is_empty() => return Ok(""),
                Kind::End => {
                    let ends = ends.iter().map(|e| format!("'{e}'")).collect::<Vec<_>>().join(" or ");
                    return Err(fault(format!("Unexpected end of template: '{of}' needs {ends}")));
                }
                Kind::Data(data) => {
                    let data = literal(data);
                    self.skip();
                    self.emit("{{", line, &data, "}}");
                }
                Kind::PrintBegin => {
                    self.skip();
                    let expr = self.tuple(true)?;
                    self.expect(&Kind::PrintEnd, "'}}'")?;
                    self.emit("{{", line, &expr, "}}");
                }
                _ => {
                    self.expect(&Kind::TagBegin, "a tag")?;
                    if let Some(end) = ends.iter().find(|e| self.is_name(e)) {
                        self.skip();
                        return Ok(end);
                    }
                    self.statement(line)?;
                    self.expect(&Kind::TagEnd, "'%}'")?;
                }
            }
        }
    }

    /// The end of the opening tag, then statements up to one of `ends`.
    fn body(&mut self, ends: &[&'static str], of: &str) -> R<&'static str> {
        self.skip_op(":");
        self.expect(&Kind::TagEnd, "'%}'")?;
        self.depth += 1;
        let end = self.block(ends, of);
        self.depth -= 1;
        end
    }

    /// An opening tag, its body and its closing tag.
    fn enclosed(&mut self, line: u32, open: &str, end: &'static str, of: &str, close: &str) -> R<()> {
        self.tag(line, open);
        self.body(&[end], of)?;
        self.tag(line, close);
        Ok(())
    }

    fn statement(&mut self, line: u32) -> R<()> {
        let tag = self.name()?;
        match tag.as_str() {
            "if" => {
                self.optional += 1;
                let result = self.if_statement(line);
                self.optional -= 1;
                result
            }
            "for" => self.for_statement(line),
            "set" => self.set_statement(line),
            "macro" => self.macro_statement(line),
            "call" => self.call_statement(line),
            "filter" => {
                let mut content = format!("filter {CAPTURED}|");
                self.filter(&mut content)?;
                while self.skip_op("|") {
                    content.push('|');
                    self.filter(&mut content)?;
                }
                self.enclosed(line, &content, "endfilter", "filter", "endfilter")
            }
            "with" => {
                // All values are computed before any name is set: one assignment of a tuple.
                let (mut targets, mut values) = (Vec::new(), Vec::new());
                while *self.kind() != Kind::TagEnd {
                    if !targets.is_empty() {
                        self.expect_op(",")?;
                    }
                    let (target, tuple) = self.target(false)?;
                    self.expect_op("=")?;
                    targets.push(if tuple { format!("({target})") } else { target });
                    values.push(self.expression()?);
                }
                let content = match (&targets[..], &values[..]) {
                    ([], _) => "with".to_owned(),
                    ([target], [value]) => format!("with {target} = {value}"),
                    _ => format!("with ({}) = __py_tuple({})", targets.join(", "), values.join(", ")),
                };
                self.enclosed(line, &content, "endwith", "with", "endwith")
            }
            "generation" => self.enclosed(line, "with", "endgeneration", "generation", "endwith"),
            "autoescape" => {
                // Nothing here is HTML: escaping that is not off is nothing a chat template can mean.
                let value = self.expression()?;
                if value != "false" {
                    self.emit("{{", line, "__py_unavailable(\"autoescape\")", "}}");
                }
                self.enclosed(line, "with", "endautoescape", "autoescape", "endwith")
            }
            "block" => {
                let name = self.name()?;
                while self.skip_name("scoped") || self.skip_name("required") {}
                self.enclosed(line, "with", "endblock", "block", "endwith")?;
                self.skip_name(&name);
                Ok(())
            }
            "break" | "continue" => {
                self.tag(line, &tag);
                Ok(())
            }
            "print" => {
                let expr = self.tuple(true)?;
                self.emit("{{", line, &expr, "}}");
                Ok(())
            }
            "include" | "import" | "from" | "extends" => {
                while !matches!(self.kind(), Kind::TagEnd | Kind::End) {
                    self.skip();
                }
                self.emit("{{", line, &format!("__py_unavailable(\"{tag}\")"), "}}");
                Ok(())
            }
            other => Err(fault(format!("Encountered unknown tag '{other}'."))),
        }
    }

    fn if_statement(&mut self, line: u32) -> R<()> {
        let mut word = "if";
        for _ in 0..=ELIF_MAX {
            let test = self.tuple(false)?;
            self.tag(line, &format!("{word} {test}"));
            match self.body(&["elif", "else", "endif"], "if")? {
                "elif" => word = "elif",
                "else" => return self.enclosed(line, "else", "endif", "if", "endif"),
                _ => {
                    self.tag(line, "endif");
                    return Ok(());
                }
            }
        }
        Err(fault(format!("more than {ELIF_MAX} elifs")))
    }

    fn for_statement(&mut self, line: u32) -> R<()> {
        let (target, tuple) = self.target(false)?;
        if !self.skip_name("in") {
            return Err(self.unexpected("'in'"));
        }
        let items = self.tuple(false)?;
        let mut content = format!("for {target} in __py_iterate({items}, {tuple})");
        if self.skip_name("if") {
            let _ = write!(content, " if {}", self.expression()?);
        }
        if self.skip_name("recursive") {
            content.push_str(" recursive");
        }
        self.tag(line, &content);
        if self.body(&["endfor", "else"], "for")? == "else" {
            return self.enclosed(line, "else", "endfor", "for", "endfor");
        }
        self.tag(line, "endfor");
        Ok(())
    }

    fn set_statement(&mut self, line: u32) -> R<()> {
        let (target, tuple) = self.target(true)?;
        let attribute = target.split_once('.').map(|(_, name)| name.to_owned());
        if self.skip_op("=") {
            let mut value = self.tuple(true)?;
            if let Some(name) = attribute {
                value = format!("__py_assigned(\"{name}\", {value})");
            } else if tuple {
                value = format!("__py_iterate({value}, false)");
            }
            self.tag(line, &format!("set {target} = {value}"));
            return Ok(());
        }
        if attribute.is_some_and(|name| name.starts_with('_')) {
            return Err(fault("a namespace cannot store a name that begins with an underscore"));
        }
        let mut content = format!("set {target}|{CAPTURED}");
        while self.skip_op("|") {
            content.push('|');
            self.filter(&mut content)?;
        }
        self.enclosed(line, &content, "endset", "set", "endset")
    }

    fn pop_macro(&mut self) -> Special {
        let special = self.macros.pop().unwrap_or_default();
        if let Some(outer) = self.macros.last_mut() {
            outer.iter_mut().zip(special).for_each(|(outer, used)| *outer |= used);
        }
        special
    }

    fn macro_statement(&mut self, line: u32) -> R<()> {
        let name = self.name()?;
        let (_, parameters) = self.signature()?;
        // The special names are parameters of the engine's macro; which are needed shows in the body.
        let before = std::mem::take(&mut self.out);
        let line_before = self.line;
        self.line = self.line.max(line);
        self.macros.push(Special::default());
        let result = self.body(&["endmacro"], "macro");
        let special = self.pop_macro();
        let body = std::mem::replace(&mut self.out, before);
        let line_after = std::mem::replace(&mut self.line, line_before);
        result?;
        let names: Vec<&str> = parameters.iter().map(|(name, _)| name.as_str()).collect();
        let mut extra = names.join(", ");
        let mut flags = String::new();
        for ((special, flag), used) in SPECIAL.into_iter().zip(special) {
            if used && !names.contains(&special) {
                flags.push(flag);
                if flag != 'c' {
                    let comma = if extra.is_empty() { "" } else { ", " };
                    let _ = write!(extra, "{comma}{special}=none");
                }
            }
        }
        self.tag(line, &format!("macro {name}({extra})"));
        // A default may use the parameters before it, and stands in only for an argument that is not there.
        for (parameter, default) in &parameters {
            if let Some(default) = default {
                let unset = format!("if {parameter} is __py_unset");
                let _ = write!(self.out, "{{% {unset} %}}{{% set {parameter} = {default} %}}{{% endif %}}");
            }
        }
        self.out.push_str(&body);
        self.line = line_after.max(self.line);
        self.tag(line, "endmacro");
        let sign = |default: &Option<String>| if default.is_some() { "=" } else { "" };
        let names: String = parameters.iter().map(|(p, d)| format!(", \"{p}{}\"", sign(d))).collect();
        self.tag(line, &format!("set {name} = __py_macro({name}, \"{name}\", \"{flags}\"{names})"));
        Ok(())
    }

    fn call_statement(&mut self, line: u32) -> R<()> {
        let signature = if self.is_op("(") { format!("({})", self.signature()?.0) } else { String::new() };
        let callee = self.expression()?;
        if !self.is_call {
            return Err(fault("expected call"));
        }
        self.enclosed(line, &format!("call{signature} {callee}"), "endcall", "call", "endcall")
    }

    /// The parameters of a macro: as they are written, and by name with their defaults.
    fn signature(&mut self) -> R<(String, Vec<Parameter>)> {
        self.expect_op("(")?;
        let mut text = String::new();
        let mut parameters: Vec<Parameter> = Vec::new();
        while !self.skip_op(")") {
            if !parameters.is_empty() {
                self.expect_op(",")?;
                text.push_str(", ");
            }
            let name = self.name()?;
            text.push_str(&name);
            let default = if self.skip_op("=") { Some(self.expression()?) } else { None };
            if let Some(default) = &default {
                let _ = write!(text, "={default}");
            } else if parameters.iter().any(|(_, default)| default.is_some()) {
                return Err(fault("non-default argument follows default argument"));
            }
            parameters.push((name, default));
        }
        Ok((text, parameters))
    }

    /// What `set`, `for` and `with` assign to, and whether it is a tuple.
    fn target(&mut self, namespace: bool) -> R<(String, bool)> {
        self.meter.stack()?;
        let mut targets = Vec::new();
        let mut tuple = false;
        loop {
            if self.skip_op("(") {
                let (inner, nested) = self.target(namespace)?;
                self.expect_op(")")?;
                if nested && !self.is_op(",") && targets.is_empty() {
                    return Ok((inner, true));
                }
                targets.push(format!("({inner})"));
            } else {
                let mut name = self.name()?;
                if matches!(name.as_str(), "true" | "false" | "none" | "True" | "False" | "None") {
                    return Err(fault("can't assign to a constant"));
                }
                if namespace && self.skip_op(".") {
                    name = format!("{name}.{}", self.name()?);
                }
                targets.push(name);
            }
            if !self.skip_op(",") {
                break;
            }
            tuple = true;
            if self.is_name("in") || self.is_op("=") || self.is_op(")") || *self.kind() == Kind::TagEnd {
                break;
            }
        }
        let comma = if tuple && targets.len() == 1 { "," } else { "" };
        Ok((targets.join(", ") + comma, tuple))
    }
}
