//! The grammar of calls: how a format writes them, with the names and schemas of the tools.

use super::Tool;
use super::spelling::{self, Piece};
use super::tagged;
use super::values::{Dialect, Values};
use crate::constrain::answer::{ArgumentSyntax, CallSyntax};
use crate::constrain::{TokenTrie, schema};
use crate::error::Result;
use serde_json::{Value, json};
use std::fmt::Write;

/// Space before the first call: what stands between reasoning and calls.
const SPACE: &str = r"/[ \t\r\n]{1,4}/";

/// A part of a call as its syntax has it.
#[derive(Clone, Debug, PartialEq)]
enum Slot<'a> {
    Text(&'a str),
    Name,
    Arguments,
    Index,
    Id,
}

/// The slots of a call.
fn slots(call: &str) -> Vec<Slot<'_>> {
    let known =
        [("{name}", Slot::Name), ("{arguments}", Slot::Arguments), ("{index}", Slot::Index), ("{id}", Slot::Id)];
    let mut slots = Vec::new();
    let mut rest = call;
    loop {
        let next = known.iter().filter_map(|(text, slot)| Some((rest.find(text)?, text.len(), slot)));
        let Some((at, len, slot)) = next.min_by_key(|(at, ..)| *at) else {
            slots.push(Slot::Text(rest));
            return slots;
        };
        slots.push(Slot::Text(rest.get(..at).unwrap_or("")));
        slots.push(slot.clone());
        rest = rest.get(at + len..).unwrap_or("");
    }
}

/// A tool's name as it stands in a call.
pub(super) fn written_name(syntax: &CallSyntax, name: &str) -> String {
    if syntax.call.contains("\"name\": \"{name}\"") { inside_quotes(name) } else { name.to_owned() }
}

/// A text as it stands within the quotes of JSON.
fn inside_quotes(text: &str) -> String {
    let quoted = serde_json::to_string(text).unwrap_or_default();
    quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or("").to_owned()
}

/// The schema of a tool's arguments, which are an object. Without any there are no arguments.
pub(super) fn parameters(tool: &Tool) -> Value {
    let mut schema = match &tool.parameters {
        Value::Null => json!({"properties": {}, "additionalProperties": false}),
        given => given.clone(),
    };
    if let Value::Object(map) = &mut schema {
        map.entry("type").or_insert_with(|| "object".into());
    }
    schema
}

/// The Lark grammar of one call or, with `parallel`, of several. `free`: whether a tool's arguments may be any.
///
/// # Errors
/// `Unsupported` with the tool's name for a schema that the format cannot express.
pub(super) fn grammar(
    vocabulary: &TokenTrie,
    syntax: &CallSyntax,
    tools: &[&Tool],
    free: impl Fn(&Tool) -> bool,
    parallel: bool,
) -> Result<String> {
    let spelled = |text: &str| spelling::pieces(vocabulary, text);
    let symbols = |text: &str| spelling::symbols(&spelled(text));
    let all = slots(&syntax.call);
    let name_at = all.iter().position(|slot| *slot == Slot::Name).unwrap_or(0);
    let (before, after) = all.split_at_checked(name_at).unwrap_or((&[], &[]));
    let mut lark = String::new();
    let _ = writeln!(lark, "INDEX: /[0-9]{{1,3}}/\nID: /[a-zA-Z0-9]{{9}}/\nSPACE: {SPACE}");
    // Text is joined up to the name, as it is after it: the lexer does not go back from a longer text to one that it begins with.
    let begin = |first: &str| {
        let texts = before.iter().filter_map(|slot| if let Slot::Text(text) = slot { Some(*text) } else { None });
        let mut pieces = Vec::new();
        std::iter::once(first).chain(texts).flat_map(spelled).for_each(|piece| spelling::push(&mut pieces, piece));
        spelling::symbols(&pieces)
    };
    let messages = syntax.messages.as_ref();
    match messages {
        // In a message of its own each call begins as the first does.
        Some(messages) => {
            let begin = begin(&messages.next);
            let before = if parallel { format!("({begin} ended)* ") } else { String::new() };
            let _ = writeln!(lark, "start: {before}{begin} last");
        }
        None => {
            let more = if parallel { format!("({} ended)*", begin(&syntax.separator)) } else { String::new() };
            let _ = writeln!(lark, "start: SPACE? {} ended {more} {}", begin(&syntax.open), symbols(&syntax.close));
        }
    }
    let any = |rule: &str| (0..tools.len()).map(|index| format!("{rule}_{index}")).collect::<Vec<_>>().join(" | ");
    let _ = writeln!(lark, "ended: {}", any("tool"));
    if messages.is_some() {
        let _ = writeln!(lark, "last: {}", any("last"));
    }
    for (index, tool) in tools.iter().enumerate() {
        let mut line = String::new();
        // Text is joined, so that one name is no beginning of another.
        let mut text: Vec<Piece> = Vec::new();
        let flush = |text: &mut Vec<Piece>, line: &mut String, symbol: &str| {
            let _ = write!(line, " {} {symbol}", spelling::symbols(&std::mem::take(text)));
        };
        for slot in after {
            match slot {
                Slot::Text(part) => spelled(part).into_iter().for_each(|piece| spelling::push(&mut text, piece)),
                Slot::Name => spelling::push_text(&mut text, &written_name(syntax, &tool.name)),
                Slot::Index => flush(&mut text, &mut line, "INDEX"),
                Slot::Id => flush(&mut text, &mut line, "ID"),
                Slot::Arguments => flush(&mut text, &mut line, &format!("args_{index}")),
            }
        }
        if messages.is_some() {
            // The token that ends the last message may be one that ends the answer.
            let special = text.pop_if(|piece| matches!(piece, Piece::Special(..)));
            let rest = spelling::symbols(&text);
            let maybe =
                special.as_slice().iter().map(|piece| format!("{}?", spelling::symbols(std::slice::from_ref(piece))));
            let _ = writeln!(lark, "last_{index}:{line} {rest} {}", maybe.collect::<String>());
            text.extend(special);
        }
        flush(&mut text, &mut line, "");
        let _ = writeln!(lark, "tool_{index}:{line}");
        arguments(vocabulary, syntax, tool, index, free(tool), &mut lark)?;
    }
    Ok(lark)
}

/// Appends the rule `args_{index}` and those that it needs.
fn arguments(
    vocabulary: &TokenTrie,
    syntax: &CallSyntax,
    tool: &Tool,
    index: usize,
    free: bool,
    lark: &mut String,
) -> Result<()> {
    let schema = if free { json!({"type": "object"}) } else { parameters(tool) };
    match &syntax.arguments {
        ArgumentSyntax::Json => {
            let _ = writeln!(lark, "args_{index}: %json {}", schema::bounded(schema));
        }
        ArgumentSyntax::BareJson { quote } => {
            let dialect = Dialect::Bare { quote: spelling::pieces(vocabulary, quote), text: quote.clone() };
            let mut values = Values::new(&schema, dialect, &tool.name, index);
            let root = values.value(&schema, "")?;
            let _ = writeln!(lark, "args_{index}: {root}\n{}", values.rules());
        }
        ArgumentSyntax::Python => {
            let mut values = Values::new(&schema, Dialect::Python, &tool.name, index);
            let pairs = values.pairs(&schema, "", true)?;
            let _ = writeln!(lark, "args_{index}: {pairs}\n{}", values.rules());
        }
        ArgumentSyntax::Tagged { argument, without } => {
            let closing = syntax.call.split("{arguments}").nth(1).unwrap_or("");
            tagged::arguments(vocabulary, (argument, closing, without), tool, &schema, index, lark)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_slots() {
        assert_eq!(
            slots("<a>{name}:{index}={arguments}</a>"),
            [
                Slot::Text("<a>"),
                Slot::Name,
                Slot::Text(":"),
                Slot::Index,
                Slot::Text("="),
                Slot::Arguments,
                Slot::Text("</a>")
            ]
        );
        assert_eq!(slots("x"), [Slot::Text("x")]);
    }
}
