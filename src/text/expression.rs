//! Regular expressions of a tokenizer file, with a bound on the time of each search.
//!
//! Four kinds:
//!
//! - a text that stands for itself;
//! - without look-around, back-references and the like: a finite automaton ([`mod@super::automaton`]; possessive repetitions
//!   that make no difference are none: [`mod@super::possessive`]);
//! - those that end in `|\s+(?!\S)|\s+`, as nearly every published byte-level tokenizer does: the same automaton for
//!   `|\s+`, and the run of spaces gives its last one to the word that follows. Exactly what the look-ahead says, without
//!   the backtracking;
//! - the rest backtracks, which may take exponential time. The steps of each match are counted and its text is limited
//!   ([`BACKTRACKING_BYTES_MAX`]), both with an error of their own: the `tokenizers` crate stops looking instead, and
//!   gives other tokens.
//!
//! Even an automaton may read the rest of the text for every match. So all of them tell what they have read or tried
//! ([`SearchEvent::Read`]), and whoever asked bounds it for a whole text ([`Effort`]) and looks in between whether it is still wanted.

use std::ops::Range;

use fancy_regex::{Assertion, Expr, Regex, RegexBuilder};

use super::automaton::{Automaton, Where};
use super::{ceil_boundary, floor_boundary, possessive};
use crate::error::{Error, Result, Unit};
use crate::limits::{
    AUTOMATON_CACHE_BYTES, BACKTRACKING_BYTES_MAX, BACKTRACKS_MAX, BACKTRACKS_TRIED, SEARCH_EFFORT_FACTOR,
    SEARCH_PIECE_BYTES,
};

/// The end of a pattern that needs no backtracking.
const TRAILING_SPACES: &str = r"\s+(?!\S)|\s+";

/// What a search tells.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SearchEvent<T = Range<usize>> {
    /// A match; they come in order.
    Match(T),
    /// So many bytes were read, some of them not for the first time, or as many backtracks made.
    Read(usize),
}

/// Takes what a search tells, and may end it.
pub(crate) type Tell<'a> = dyn FnMut(SearchEvent) -> Result<()> + 'a;

/// What the searches in one text have read, with a limit that grows with the text.
pub(crate) struct Effort {
    read: usize,
    most: usize,
}

impl Effort {
    /// For a text of so many bytes. `free`: for any text, however short.
    pub(crate) fn new(text_bytes: usize, free: usize) -> Effort {
        Effort { read: 0, most: text_bytes.saturating_mul(SEARCH_EFFORT_FACTOR).saturating_add(free) }
    }

    /// # Errors
    /// [`crate::error::Status::Unsupported`] when it is too much.
    pub(crate) fn add(&mut self, read: usize) -> Result<()> {
        self.read = self.read.saturating_add(read);
        if self.read <= self.most {
            return Ok(());
        }
        let (read, most) = (self.read, self.most);
        let message = format!(
            "the expressions of the tokenizer have read or tried {read} bytes of this text, its parts many times over; at most {most} \
             are supported for a text of its length: such expressions, or such a text, are not those of a language model"
        );
        Err(Error::unsupported(message).numbers(Unit::Count, read as u64, most as u64))
    }
}

/// A compiled expression.
#[derive(Debug)]
pub(crate) enum Expression {
    /// Not empty.
    Literal(String),
    Linear(Automaton),
    /// `all` ends in `\s+` where the file has [`TRAILING_SPACES`]; `others` is what comes before that.
    TrailingSpaces {
        all: Automaton,
        others: Option<Automaton>,
    },
    /// The same expression with ever higher limits of backtracks: what a match takes is not known otherwise.
    Backtracking(Vec<(usize, Regex)>),
}

impl Expression {
    /// Compiles a pattern. `part` is where it stands, for errors.
    ///
    /// # Errors
    /// [`crate::error::Status::Format`] when it is none.
    pub(crate) fn new(pattern: &str, part: &str) -> Result<Expression> {
        Expression::limited(pattern, part, BACKTRACKS_MAX)
    }

    /// As [`Expression::new`], with a limit of its own for the backtracks of each match.
    pub(crate) fn limited(pattern: &str, part: &str, limit: usize) -> Result<Expression> {
        let unusable =
            |e: &dyn std::fmt::Display| Error::format(format!("a pattern of `{part}` cannot be compiled: {e}"));
        let plain = possessive::without(pattern);
        let pattern = plain.as_deref().unwrap_or(pattern);
        if let Some(expression) = trailing_spaces(pattern) {
            return Ok(expression);
        }
        let tree = Expr::parse_tree(pattern).map_err(|e| unusable(&e))?;
        if let Some(plain) = without_backtracks(&tree.expr) {
            return Ok(Expression::Linear(Automaton::new(&plain).map_err(|e| unusable(&e))?));
        }
        if continues(&tree.expr) {
            return Err(unusable(&"it asks where the match before has ended, which is not supported"));
        }
        let limits = BACKTRACKS_TRIED.into_iter().filter(|&few| few < limit).chain([limit]);
        let regexes = limits.map(|limit| {
            let regex = RegexBuilder::new(pattern).backtrack_limit(limit).build();
            regex.map(|regex| (limit, regex)).map_err(|e| unusable(&e))
        });
        Ok(Expression::Backtracking(regexes.collect::<Result<_>>()?))
    }

    /// An expression for this text and nothing else.
    pub(crate) fn literal(text: &str, part: &str) -> Result<Expression> {
        match text.is_empty() {
            true => Expression::new("", part),
            false => Ok(Expression::Literal(text.to_owned())),
        }
    }

    /// Tells of the matches in `text`, in order, and of what is read meanwhile.
    pub(crate) fn each(&self, text: &str, tell: &mut Tell) -> Result<()> {
        match self {
            Expression::Literal(literal) => literals(literal, text, tell),
            Expression::Linear(automaton) => {
                let mut search = automaton.search(text);
                one_by_one(text, tell, |at, tell| search.find(at, tell))?;
                search.finish(tell)
            }
            Expression::TrailingSpaces { all, others } => trailing(all, others.as_ref(), text, tell),
            Expression::Backtracking(_) if text.len() > BACKTRACKING_BYTES_MAX => Err(too_long(text.len())),
            Expression::Backtracking(regexes) => {
                one_by_one(text, tell, |at, tell| backtracking(regexes, text, at, tell))
            }
        }
    }

    /// Memory that one search takes and keeps for later ones, in bytes at most.
    pub(crate) fn search_bytes(&self) -> usize {
        // Lists grow by doubling, in both directions of the text.
        let automata = match self {
            Expression::Literal(_) => 0,
            Expression::Linear(_) => 1,
            Expression::TrailingSpaces { others, .. } => 1 + usize::from(others.is_some()),
            Expression::Backtracking(regexes) => regexes.len(),
        };
        4 * AUTOMATON_CACHE_BYTES * automata
    }

    /// Whether it may match nothing, so that a match takes no text.
    pub(crate) fn may_be_empty(&self) -> bool {
        match self {
            Expression::Literal(_) | Expression::TrailingSpaces { .. } => false,
            Expression::Linear(automaton) => automaton.is_match(""),
            Expression::Backtracking(_) => true,
        }
    }
}

/// Finds one match after another as `regex` does: an empty one next to the match before is none.
fn one_by_one(
    text: &str,
    tell: &mut Tell,
    mut find: impl FnMut(usize, &mut Tell) -> Result<Option<Range<usize>>>,
) -> Result<()> {
    let (mut at, mut last) = (0, None);
    while at <= text.len() {
        let Some(found) = find(at, tell)? else { break };
        at = found.end;
        if found.is_empty() {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
            if last == Some(found.end) {
                continue;
            }
        }
        last = Some(found.end);
        tell(SearchEvent::Match(found))?;
    }
    Ok(())
}

/// The matches of a text that stands for itself.
fn literals(literal: &str, text: &str, tell: &mut Tell) -> Result<()> {
    let mut at = 0;
    while at < text.len() {
        let end =
            ceil_boundary(text, at.saturating_add(SEARCH_PIECE_BYTES).saturating_add(literal.len()).min(text.len()));
        match text[at..end].find(literal) {
            Some(before) => {
                let found = at + before..at + before + literal.len();
                tell(SearchEvent::Read(found.end - at))?;
                at = found.end;
                tell(SearchEvent::Match(found))?;
            }
            None if end == text.len() => return tell(SearchEvent::Read(end - at)),
            None => {
                // One that begins before this would have ended.
                let next = floor_boundary(text, end - literal.len() + 1).max(at + 1);
                let next = ceil_boundary(text, next);
                tell(SearchEvent::Read(next - at))?;
                at = next;
            }
        }
    }
    Ok(())
}

/// The next match of an expression that backtracks, with as few backtracks as it needs.
fn backtracking(regexes: &[(usize, Regex)], text: &str, at: usize, tell: &mut Tell) -> Result<Option<Range<usize>>> {
    let mut failed = Error::internal("an expression has no limit");
    for (limit, regex) in regexes {
        match regex.find_from_pos(text, at) {
            Ok(found) => {
                let found = found.map(|m| m.range());
                let beyond = found.as_ref().map_or(text.len(), |m| m.end).saturating_sub(at);
                tell(SearchEvent::Read(beyond.max(*limit)))?;
                return Ok(found);
            }
            Err(e) => failed = gave_up(&e, *limit),
        }
        tell(SearchEvent::Read(*limit))?;
    }
    Err(failed)
}

/// The matches of a pattern with [`TRAILING_SPACES`]. None of them is empty.
fn trailing(all: &Automaton, others: Option<&Automaton>, text: &str, tell: &mut Tell) -> Result<()> {
    let mut search = all.search(text);
    let mut others = others.map(|others| others.search(text));
    let mut at = 0;
    while let Some(mut found) = search.find(at, tell)? {
        let run = &text[found.clone()];
        // A run of spaces before something else keeps its last space for that, if it has two.
        let last = run.chars().next_back().map_or(0, char::len_utf8);
        if found.end < text.len() && last < run.len() && run.chars().all(char::is_whitespace) {
            let by_others = match &mut others {
                Some(others) => others.end(found.start, Where::Here, tell)?.is_some(),
                None => false,
            };
            if !by_others {
                found.end -= last;
            }
        }
        at = found.end;
        tell(SearchEvent::Match(found))?;
    }
    if let Some(others) = others {
        others.finish(tell)?;
    }
    search.finish(tell)
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

/// The third kind of the module's list, if the pattern is of it.
fn trailing_spaces(pattern: &str) -> Option<Expression> {
    let before = pattern.strip_suffix(TRAILING_SPACES)?;
    let (all, others) = match before {
        "" => (r"\s+".to_owned(), None),
        _ => {
            let before = before.strip_suffix('|')?;
            let tree = Expr::parse_tree(before).ok()?;
            // What looks at its surroundings would see the space that is given away.
            if asserts(&tree.expr) {
                return None;
            }
            let others = Automaton::new(&without_backtracks(&tree.expr)?).ok()?;
            if others.is_match("") {
                return None;
            }
            (format!(r"{before}|\s+"), Some(others))
        }
    };
    let all = Expr::parse_tree(&all).ok()?;
    let all = Automaton::new(&without_backtracks(&all.expr)?).ok()?;
    Some(Expression::TrailingSpaces { all, others })
}

/// An expression that a finite automaton can do, in the syntax of the `regex` crate.
fn without_backtracks(expr: &Expr) -> Option<String> {
    if backtracks(expr) {
        return None;
    }
    let mut plain = String::new();
    expr.to_str(&mut plain, 0);
    Some(plain)
}

/// Whether `is` says so of the expression, or of one inside it; where it says nothing, what is inside decides.
pub(super) fn some(expr: &Expr, is: &dyn Fn(&Expr) -> Option<bool>) -> bool {
    is(expr).unwrap_or_else(|| match expr {
        Expr::Concat(parts) | Expr::Alt(parts) => parts.iter().any(|part| some(part, is)),
        Expr::Group(inner) | Expr::AtomicGroup(inner) | Expr::LookAround(inner, _) => some(inner, is),
        Expr::Repeat { child, .. } => some(child, is),
        Expr::Conditional { condition, true_branch, false_branch } => {
            [condition, true_branch, false_branch].into_iter().any(|branch| some(branch, is))
        }
        _ => false,
    })
}

/// Whether an expression is more than a finite automaton can do.
fn backtracks(expr: &Expr) -> bool {
    use Assertion::{EndLine, EndText, StartLine, StartText};
    some(expr, &|expr| match expr {
        Expr::Empty | Expr::Any { .. } | Expr::Literal { .. } | Expr::Delegate { .. } => Some(false),
        Expr::Assertion(a) => Some(!matches!(a, StartText | EndText | StartLine { .. } | EndLine { .. })),
        Expr::Concat(_) | Expr::Alt(_) | Expr::Group(_) | Expr::Repeat { .. } => None,
        _ => Some(true),
    })
}

/// Whether an expression without backtracking looks at what is around a match.
fn asserts(expr: &Expr) -> bool {
    some(expr, &|expr| match expr {
        Expr::Assertion(_) => Some(true),
        Expr::Concat(_) | Expr::Alt(_) | Expr::Group(_) | Expr::Repeat { .. } => None,
        _ => Some(false),
    })
}

/// Whether an expression has `\G`.
fn continues(expr: &Expr) -> bool {
    some(expr, &|expr| matches!(expr, Expr::ContinueFromPreviousMatchEnd).then_some(true))
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
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n/]*+|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        r"\s*",
        r"a?$|(?m:^) ",
        r"a+b|a|é+\n",
        r"",
    ];

    /// Those of published models, which read a text a few times at most.
    const LONG: [usize; 8] = [0, 1, 2, 3, 4, 6, 8, 10];

    /// All matches, and what was read.
    fn found(expression: &Expression, text: &str) -> Result<(Vec<Range<usize>>, usize)> {
        let (mut matches, mut all) = (Vec::new(), 0);
        expression.each(text, &mut |found| {
            match found {
                SearchEvent::Match(range) => matches.push(range),
                SearchEvent::Read(read) => all += read,
            }
            Ok(())
        })?;
        Ok((matches, all))
    }

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
                let (found, _) = found(&expression, &text).unwrap();
                let expected: Vec<_> = original.find_iter(&text).map(|m| m.unwrap().range()).collect();
                assert_eq!(found, expected, "{pattern}: {text:?}");
            }
        }
    }

    #[test]
    fn published_patterns_read_a_long_text_a_few_times() {
        let mut random = Random(3);
        let words = [" the", "The", "\n\n", "  ", " 1234", "'ll", "語言", "é", "!?", "\r\n", " été", "HTTPServer", "."];
        let text: String = (0..40_000).map(|_| words[random.below(words.len())]).collect();
        for index in LONG {
            let expression = Expression::new(PATTERNS[index], "test").unwrap();
            assert!(!matches!(expression, Expression::Backtracking(_)), "{}", PATTERNS[index]);
            let (matches, read) = found(&expression, &text).unwrap();
            assert!(matches.len() > 1000 && read < 4 * text.len(), "{}: {read}", PATTERNS[index]);
        }
    }

    #[test]
    fn a_text_that_stands_for_itself_is_found_wherever_it_stands() {
        let mut random = Random(11);
        for literal in ["a", "ab", "aba", "é", "éa", "語語", " "] {
            let (literal, regex) = (Expression::literal(literal, "test").unwrap(), Regex::new(literal).unwrap());
            for _ in 0..50 {
                let pieces = ["a", "b", "é", "語", " ", "x", "xxxxxxxxxxxxxxxx"];
                let text: String = (0..random.below(6000)).map(|_| pieces[random.below(7)]).collect();
                let expected: Vec<_> = regex.find_iter(&text).map(|m| m.unwrap().range()).collect();
                let (matches, read) = found(&literal, &text).unwrap();
                assert_eq!(matches, expected);
                assert!((text.len()..2 * text.len() + 1).contains(&(read + 1)), "{read} of {}", text.len());
            }
        }
        // All positions of a border between two searches.
        for before in SEARCH_PIECE_BYTES - 9..SEARCH_PIECE_BYTES + 9 {
            let text = format!("{}語a{}", "é".repeat(before / 2) + &"x".repeat(before % 2), "x".repeat(20));
            let (matches, _) = found(&Expression::literal("語a", "test").unwrap(), &text).unwrap();
            assert_eq!((matches.len(), &matches[0]), (1, &(before..before + 4)));
        }
    }

    #[test]
    fn what_asks_for_the_match_before_is_refused() {
        let error = Expression::new(r"(?:\Ga|b)(?!c)", "test").unwrap_err();
        assert_eq!(error.status, Status::Format, "{error}");
    }

    #[test]
    fn long_runs_of_spaces_cost_no_backtracks() {
        let expression = Expression::new(PATTERNS[1], "test").unwrap();
        let text = format!("{}x", " ".repeat(3_000_000));
        let (found, read) = found(&expression, &text).unwrap();
        assert!(read < 5 * text.len(), "{read}");
        assert_eq!(found, [0..2_999_999, 2_999_999..3_000_001]);
    }

    #[test]
    fn what_backtracks_without_end_is_an_error() {
        let expression = Expression::new(r"(?:(a+)+)\1b", "test").unwrap();
        let error = found(&expression, &"a".repeat(5_000)).unwrap_err();
        assert_eq!((error.status, error.available), (Status::Unsupported, BACKTRACKS_MAX as u64));
        let long = "a".repeat(BACKTRACKING_BYTES_MAX + 1);
        let error = found(&expression, &long).unwrap_err();
        assert_eq!((error.status, error.needed), (Status::Unsupported, BACKTRACKING_BYTES_MAX as u64 + 1));
    }
}
