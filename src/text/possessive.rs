//! Possessive repetitions (`x?+`, `x++`, `x*+`) without backtracking.
//!
//! Some published tokenizers write GPT-4's pattern as tiktoken does, with repetitions that give nothing back. A finite automaton
//! has no such thing, but where what follows cannot use what would be given back, the ordinary repetition matches the same:
//! when the rest of the alternative may be empty (the longest run is tried first, and the rest always succeeds), and when
//! the next character must be one that the repetition does not take.

use super::expression::some;
use fancy_regex::Expr;
use regex_syntax::hir::{Class, HirKind};

/// The pattern with ordinary repetitions in place of its possessive ones; none when there are none, or when that could match
/// something else.
pub(super) fn without(pattern: &str) -> Option<String> {
    let plain = written_plainly(pattern)?;
    let expected = unwrapped(&Expr::parse_tree(pattern).ok()?.expr)?;
    // What was cut out of the text is what was taken out of the tree.
    (Expr::parse_tree(&plain).ok()?.expr == expected).then_some(plain)
}

/// The text without the marks; none when there are none.
fn written_plainly(pattern: &str) -> Option<String> {
    let mut plain = String::with_capacity(pattern.len());
    let (mut depth, mut repeats, mut found) = (0usize, false, false);
    let mut characters = pattern.chars();
    while let Some(c) = characters.next() {
        let in_class = depth > 0;
        if c == '+' && repeats && !in_class {
            (repeats, found) = (false, true);
            continue;
        }
        plain.push(c);
        repeats = !in_class && matches!(c, '?' | '*' | '+' | '}');
        match c {
            '\\' => {
                plain.extend(characters.next());
                // The braces of `\p{L}` count nothing.
                if characters.as_str().starts_with('{') {
                    plain.extend(characters.by_ref().take_while(|&c| c != '}'));
                    plain.push('}');
                }
            }
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    found.then_some(plain)
}

/// The expression with its atomic repetitions as ordinary ones, if none of them gives back what the rest could use.
fn unwrapped(expr: &Expr) -> Option<Expr> {
    match expr {
        Expr::Alt(parts) => parts.iter().map(unwrapped).collect::<Option<Vec<_>>>().map(Expr::Alt),
        Expr::Concat(parts) => {
            let plain = parts.iter().enumerate().map(|(at, part)| unwrapped_part(part, parts.get(at + 1..)?));
            plain.collect::<Option<Vec<_>>>().map(Expr::Concat)
        }
        alone => unwrapped_part(alone, &[]),
    }
}

fn unwrapped_part(part: &Expr, rest: &[Expr]) -> Option<Expr> {
    let Expr::AtomicGroup(inner) = part else { return has_no_atomic(part).then(|| part.clone()) };
    let Expr::Repeat { child, .. } = inner.as_ref() else { return None };
    let own = class(child)?;
    let harmless = rest.iter().all(may_be_empty) || disjoint(&own, &first_class(rest.first()?)?);
    harmless.then(|| inner.as_ref().clone())
}

fn has_no_atomic(expr: &Expr) -> bool {
    !some(expr, &|expr| matches!(expr, Expr::AtomicGroup(_) | Expr::Conditional { .. }).then_some(true))
}

fn may_be_empty(expr: &Expr) -> bool {
    match expr {
        Expr::Repeat { lo, .. } => *lo == 0,
        Expr::AtomicGroup(inner) => may_be_empty(inner),
        other => matches!(other, Expr::Empty),
    }
}

/// A set of characters, as a class is written, of an expression that matches one.
fn class(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Delegate { inner, size: 1, casei: false } => Some(inner.clone()),
        Expr::Literal { val, casei: false } if val.chars().count() == 1 => Some(fancy_regex::escape(val).into_owned()),
        _ => None,
    }
}

/// What an expression that is not empty begins with.
fn first_class(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Repeat { child, lo: 1.., .. } => class(child),
        Expr::AtomicGroup(inner) => first_class(inner),
        single => class(single),
    }
}

/// Whether no character is in both classes.
fn disjoint(a: &str, b: &str) -> bool {
    let both = regex_syntax::parse(&format!("[{a}&&{b}]"));
    both.is_ok_and(|hir| match hir.kind() {
        HirKind::Class(Class::Unicode(class)) => class.ranges().is_empty(),
        HirKind::Class(Class::Bytes(class)) => class.ranges().is_empty(),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmless_ones_are_written_plainly() {
        let pattern = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s+$|\s*[\r\n]|\s+(?!\S)|\s+";
        let plain = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+$|\s*[\r\n]|\s+(?!\S)|\s+";
        assert_eq!(without(pattern).as_deref(), Some(plain));
        assert_eq!(without(r"a++b").as_deref(), Some("a+b"));
        assert_eq!(without(r"[a+]++").as_deref(), Some("[a+]+"));
    }

    #[test]
    fn others_stay() {
        for pattern in [
            r"a+b",
            r"a++a",
            r"\w++b",
            r"(?:a++)a",
            r"(a++b)+",
            r"(?>a+)b",
            r"[+*]+",
            r"\++",
            r"(?:ab)++c",
            r"\s++(?!\S)",
        ] {
            assert_eq!(without(pattern), None, "{pattern}");
        }
    }
}
