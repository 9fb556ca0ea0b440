//! Regular expressions of a tokenizer file, with a bound on the time of each search.
//!
//! Three kinds:
//!
//! - without look-around, back-references and the like: a finite automaton, linear in the text (possessive repetitions that
//!   make no difference are none: [`mod@super::possessive`]);
//! - those that end in `|\s+(?!\S)|\s+`, as nearly every published byte-level tokenizer does: the same automaton for
//!   `|\s+`, and the run of spaces gives its last one to the word that follows. Exactly what the look-ahead says, without
//!   the backtracking;
//! - the rest backtracks, which may take exponential time. Its steps are counted and its text is limited
//!   ([`BACKTRACKING_BYTES_MAX`]), both with an error of their own: the `tokenizers` crate stops looking instead, and
//!   gives other tokens.

use std::ops::Range;

use fancy_regex::{Assertion, Expr, Regex, RegexBuilder};

use super::possessive;
use crate::error::{Error, Result, Unit};
use crate::limits::{BACKTRACKING_BYTES_MAX, BACKTRACKS_MAX};

/// The end of a pattern that needs no backtracking.
const TRAILING_SPACES: &str = r"\s+(?!\S)|\s+";

/// A compiled expression.
#[derive(Debug)]
pub(crate) struct Expression {
    regex: Regex,
    kind: Kind,
    /// Backtracks of a match, at most.
    backtracks: usize,
}

#[derive(Debug)]
enum Kind {
    Linear,
    /// `regex` ends in `\s+` where the file has [`TRAILING_SPACES`]; `others` is what comes before that, at the start of
    /// a text only.
    TrailingSpaces {
        others: Option<Regex>,
    },
    Backtracking,
}

impl Expression {
    /// Compiles a pattern. `part` is where it stands, for errors.
    ///
    /// # Errors
    /// [`crate::error::Status::Format`] when it is none.
    pub(crate) fn new(pattern: &str, part: &str) -> Result<Expression> {
        Expression::limited(pattern, part, BACKTRACKS_MAX)
    }

    /// As [`Expression::new`], with a limit of its own for each match.
    pub(crate) fn limited(pattern: &str, part: &str, limit: usize) -> Result<Expression> {
        let unusable = |e| Error::format(format!("a pattern of `{part}` cannot be compiled: {e}"));
        let plain = possessive::without(pattern);
        let pattern = plain.as_deref().unwrap_or(pattern);
        if let Some(expression) = trailing_spaces(pattern) {
            return Ok(expression);
        }
        let kind = match Expr::parse_tree(pattern) {
            Ok(tree) if !backtracks(&tree.expr) => Kind::Linear,
            _ => Kind::Backtracking,
        };
        let regex = RegexBuilder::new(pattern).backtrack_limit(limit).build().map_err(unusable)?;
        Ok(Expression { regex, kind, backtracks: limit })
    }

    /// An expression for this text and nothing else.
    pub(crate) fn literal(text: &str, part: &str) -> Result<Expression> {
        Expression::new(&fancy_regex::escape(text), part)
    }

    /// The matches in `text`, in order; after an error there are no more.
    pub(crate) fn matches<'a>(&'a self, text: &'a str) -> Box<dyn Iterator<Item = Result<Range<usize>>> + 'a> {
        match &self.kind {
            Kind::Backtracking if text.len() > BACKTRACKING_BYTES_MAX => {
                Box::new(std::iter::once(Err(too_long(text.len()))))
            }
            Kind::TrailingSpaces { others } => {
                Box::new(Trailing { regex: &self.regex, others: others.as_ref(), text, at: 0 })
            }
            _ => Box::new(
                self.regex
                    .find_iter(text)
                    .map(|found| found.map(|m| m.range()).map_err(|e| gave_up(&e, self.backtracks))),
            ),
        }
    }

    /// The fewest bytes of a match; 0 when it may be empty.
    pub(crate) fn may_be_empty(&self) -> bool {
        self.regex.is_match("").unwrap_or(true) || self.kind_backtracks()
    }

    fn kind_backtracks(&self) -> bool {
        matches!(self.kind, Kind::Backtracking)
    }
}

fn too_long(bytes: usize) -> Error {
    let message = format!(
        "the tokenizer looks for words with an expression that backtracks, which this library runs on at most \
         {BACKTRACKING_BYTES_MAX} bytes without a special token; the text has {bytes}: send it in shorter parts"
    );
    Error::unsupported(message).numbers(Unit::Bytes, bytes as u64, BACKTRACKING_BYTES_MAX as u64)
}

fn gave_up(error: &fancy_regex::Error, most: usize) -> Error {
    Error::unsupported(format!(
        "an expression of the tokenizer gave up on this text ({error}); its limit is {most} backtracks a match"
    ))
    .numbers(Unit::Count, most as u64 + 1, most as u64)
}

/// The second kind of the module's list, if the pattern is of it.
fn trailing_spaces(pattern: &str) -> Option<Expression> {
    let before = pattern.strip_suffix(TRAILING_SPACES)?;
    let (all, others) = match before {
        "" => (r"\s+".to_owned(), None),
        _ => {
            let before = before.strip_suffix('|')?;
            let tree = Expr::parse_tree(before).ok()?;
            // What looks at its surroundings would see others in `others`.
            if backtracks(&tree.expr) || asserts(&tree.expr) {
                return None;
            }
            let others = Regex::new(&format!(r"\A(?:{before})")).ok()?;
            if others.is_match("").ok()? {
                return None;
            }
            (format!(r"{before}|\s+"), Some(others))
        }
    };
    let regex = Regex::new(&all).ok()?;
    Some(Expression { regex, kind: Kind::TrailingSpaces { others }, backtracks: BACKTRACKS_MAX })
}

/// Whether an expression is more than a finite automaton can do.
fn backtracks(expr: &Expr) -> bool {
    match expr {
        Expr::Empty | Expr::Any { .. } | Expr::Literal { .. } | Expr::Delegate { .. } => false,
        Expr::Assertion(a) => !matches!(
            a,
            Assertion::StartText | Assertion::EndText | Assertion::StartLine { .. } | Assertion::EndLine { .. }
        ),
        Expr::Concat(parts) | Expr::Alt(parts) => parts.iter().any(backtracks),
        Expr::Group(inner) => backtracks(inner),
        Expr::Repeat { child, .. } => backtracks(child),
        _ => true,
    }
}

/// Whether an expression without backtracking looks at what is around a match.
fn asserts(expr: &Expr) -> bool {
    match expr {
        Expr::Assertion(_) => true,
        Expr::Concat(parts) | Expr::Alt(parts) => parts.iter().any(asserts),
        Expr::Group(inner) => asserts(inner),
        Expr::Repeat { child, .. } => asserts(child),
        _ => false,
    }
}

/// The matches of a pattern with [`TRAILING_SPACES`]. None of them is empty.
struct Trailing<'a> {
    regex: &'a Regex,
    others: Option<&'a Regex>,
    text: &'a str,
    at: usize,
}

impl Iterator for Trailing<'_> {
    type Item = Result<Range<usize>>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = match self.regex.find_from_pos(self.text, self.at) {
            Ok(found) => found?.range(),
            Err(e) => return Some(Err(gave_up(&e, BACKTRACKS_MAX))),
        };
        let mut end = found.end;
        let run = &self.text[found.clone()];
        // A run of spaces before something else keeps its last space for that, if it has two.
        let last = run.chars().next_back().map_or(0, char::len_utf8);
        let is_run = end < self.text.len() && last < run.len() && run.chars().all(char::is_whitespace);
        let by_spaces = || match self.others {
            Some(others) => !others.is_match(&self.text[found.start..]).unwrap_or(false),
            None => true,
        };
        if is_run && by_spaces() {
            end -= last;
        }
        self.at = end;
        Some(Ok(found.start..end))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::Random;
    use super::*;
    use crate::error::Status;

    const PATTERNS: &[&str] = &[
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"[!-/:-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"\s+(?!\S)|\s+",
        r" ?[^(\s|[.,!?…。，、।۔،])]+",
        r"\p{N}{1,3}",
        r"(?=[A-Z])",
        r"(?i:[sdmt])|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        r"\d{1,3}(?=(?:\d{3})*\b)",
    ];

    #[test]
    fn the_rewritten_patterns_match_what_the_original_ones_do() {
        let mut random = Random(7);
        let pieces = [
            " ", " ", "\n", "\r\n", "\t", "\u{a0}", "\u{3000}", "a", "Bc", "é", "語", "12", "'s", "'ll", "!?", "/",
            "  ",
        ];
        for pattern in PATTERNS {
            let expression = Expression::new(pattern, "test").unwrap();
            // What the engine that backtracks finds for the pattern as it stands.
            let original = Regex::new(pattern).unwrap();
            for _ in 0..4_000 {
                let text: String = (0..random.below(14)).map(|_| pieces[random.below(pieces.len())]).collect();
                let found: Vec<_> = expression.matches(&text).map(Result::unwrap).collect();
                let expected: Vec<_> = original.find_iter(&text).map(|m| m.unwrap().range()).collect();
                assert_eq!(found, expected, "{pattern}: {text:?}");
            }
        }
    }

    #[test]
    fn long_runs_of_spaces_cost_no_backtracks() {
        let expression = Expression::new(PATTERNS[1], "test").unwrap();
        let text = format!("{}x", " ".repeat(3_000_000));
        let found: Vec<_> = expression.matches(&text).map(Result::unwrap).collect();
        assert_eq!(found, [0..2_999_999, 2_999_999..3_000_001]);
    }

    #[test]
    fn what_backtracks_without_end_is_an_error() {
        let expression = Expression::new(r"(?:(a+)+)\1b", "test").unwrap();
        let error = expression.matches(&"a".repeat(5_000)).find_map(Result::err).unwrap();
        assert_eq!((error.status, error.available), (Status::Unsupported, BACKTRACKS_MAX as u64));
        let long = "a".repeat(BACKTRACKING_BYTES_MAX + 1);
        let error = expression.matches(&long).find_map(Result::err).unwrap();
        assert_eq!((error.status, error.needed), (Status::Unsupported, BACKTRACKING_BYTES_MAX as u64 + 1));
    }
}
