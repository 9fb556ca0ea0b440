//! A delimiter: literals or a regular expression, as a finite automaton whose every state says whether it accepts, and
//! whether more text can still change that.
//!
//! The automaton is made once, when the template is read: every state of `regex-automata`'s lazy automaton is visited
//! and written into a table. A table needs no memory while it runs, and states from which no match can be reached are
//! known, so that text is held back only where it may be the beginning of a delimiter.

use std::collections::HashMap;

use regex_automata::hybrid::LazyStateID;
use regex_automata::hybrid::dfa::{self, Cache, DFA};
use regex_automata::nfa::thompson;
use regex_automata::{Anchored, Input};
use regex_syntax::hir::{Hir, Look};

use crate::error::{Error, Result};
use crate::limits::{AUTOMATON_BYTES_MAX, DELIMITER_STATES_MAX};

/// A state of a [`Pattern`]'s automaton.
pub(in crate::constrain) type State = u16;

/// The state from which no match can be reached.
pub(in crate::constrain) const DEAD: State = 0;

/// A compiled delimiter.
#[derive(Debug)]
pub(in crate::constrain) struct Pattern {
    /// The next state, by state and class of the byte.
    table: Vec<State>,
    /// Class of each byte.
    classes: [u8; 256],
    /// Number of classes.
    stride: usize,
    /// By state: whether the text so far is a match, and whether a longer one may follow.
    accepts: Vec<bool>,
    grows: Vec<bool>,
    /// States before any text: at the beginning of an answer, and elsewhere.
    at_start: State,
    elsewhere: State,
    /// For the values of named groups; None: there are none.
    captures: Option<fancy_regex::Regex>,
    /// What it was made of, if literals.
    literals: Vec<String>,
    /// The expression that it was made of.
    source: String,
}

impl Pattern {
    /// Any of some literals; the longest where several match.
    pub(super) fn literals(at: &str, literals: Vec<String>) -> Result<Pattern> {
        let mut longest_first: Vec<&str> = literals.iter().map(String::as_str).collect();
        longest_first.sort_by_key(|literal| std::cmp::Reverse(literal.len()));
        let escaped: Vec<String> = longest_first.into_iter().map(regex_syntax::escape).collect();
        let source = escaped.join("|");
        let hir = parse(at, &source)?;
        Ok(Pattern { literals, source, ..Pattern::new(at, &hir)? })
    }

    /// A regular expression in Python's syntax; a dot matches every character.
    pub(super) fn expression(at: &str, expression: &str) -> Result<Pattern> {
        let expression = from_python(expression);
        let hir = parse(at, &expression)?;
        let mut pattern = Pattern::new(at, &hir)?;
        if hir.properties().explicit_captures_len() > 0 {
            pattern.captures = Some(whole_match(at, &expression)?);
        }
        pattern.source = expression;
        Ok(pattern)
    }

    /// The automaton of any text that ends with the first match of an expression in Python's syntax.
    pub(in crate::constrain) fn search(at: &str, expression: &str) -> Result<Pattern> {
        let expression = from_python(expression);
        parse(at, &expression)?;
        let anywhere = format!(r"(?s-u:.)*?(?:{expression})");
        let builder =
            regex_syntax::ParserBuilder::new().dot_matches_new_line(true).utf8(false).build().parse(&anywhere);
        Pattern::new(at, &builder.map_err(|error| refused(at, &error))?)
    }

    /// The expression that it was made of.
    pub(in crate::constrain) fn source(&self) -> &str {
        &self.source
    }

    fn new(at: &str, hir: &Hir) -> Result<Pattern> {
        let pattern = Explorer::explore(at, hir)?;
        if pattern.accepts[usize::from(pattern.elsewhere)] {
            return Err(Error::format(format!("{at} matches the empty text anywhere")));
        }
        Ok(pattern)
    }

    /// Names of its groups.
    pub(super) fn groups(&self) -> impl Iterator<Item = &str> {
        self.captures.iter().flat_map(|regex| regex.capture_names().flatten())
    }

    /// The literals that it was made of; none for an expression.
    pub(in crate::constrain) fn literal_texts(&self) -> &[String] {
        &self.literals
    }

    /// The state before any text. `at_start`: at the beginning of the answer.
    pub(in crate::constrain) fn start(&self, at_start: bool) -> State {
        if at_start { self.at_start } else { self.elsewhere }
    }

    /// The state after a byte.
    pub(in crate::constrain) fn next(&self, state: State, byte: u8) -> State {
        let class = usize::from(self.classes[usize::from(byte)]);
        self.table.get(usize::from(state) * self.stride + class).copied().unwrap_or(DEAD)
    }

    /// Whether the text up to a state is a match.
    pub(in crate::constrain) fn accepts(&self, state: State) -> bool {
        self.accepts.get(usize::from(state)).copied().unwrap_or(false)
    }

    /// Whether a longer match may follow a state.
    pub(super) fn grows(&self, state: State) -> bool {
        self.grows.get(usize::from(state)).copied().unwrap_or(false)
    }

    /// Whether `text` is a match, or begins one.
    pub(super) fn may_begin_with(&self, text: &str) -> bool {
        let mut state = self.elsewhere;
        for byte in text.bytes() {
            state = self.next(state, byte);
            if self.accepts(state) {
                return true;
            }
        }
        state != DEAD
    }

    /// The values of the named groups in a match.
    pub(super) fn captured(&self, matched: &str) -> Vec<(String, String)> {
        let Some(regex) = &self.captures else { return Vec::new() };
        let Ok(Some(found)) = regex.captures(matched) else { return Vec::new() };
        let value = |name: &str| Some((name.to_owned(), found.name(name)?.as_str().to_owned()));
        regex.capture_names().flatten().filter_map(value).collect()
    }
}

/// Visits all states of an automaton.
struct Explorer {
    dfa: DFA,
    cache: Cache,
    /// Number of each state in the table; [`DEAD`] is not among them.
    numbers: HashMap<LazyStateID, State>,
    /// Those found, in the order of their numbers from 1 on.
    found: Vec<LazyStateID>,
}

impl Explorer {
    fn explore(at: &str, hir: &Hir) -> Result<Pattern> {
        let too_large = || {
            Error::unsupported(format!(
                "{at}: its automaton has more than {DELIMITER_STATES_MAX} states; write it simpler"
            ))
        };
        let failed = |e: &dyn std::fmt::Display| Error::unsupported(format!("{at} cannot be compiled: {e}"));
        let size = thompson::Config::new().nfa_size_limit(Some(AUTOMATON_BYTES_MAX));
        let nfa = thompson::Compiler::new().configure(size).build_from_hir(hir).map_err(|e| failed(&e))?;
        let config = dfa::Config::new().cache_capacity(AUTOMATON_BYTES_MAX).skip_cache_capacity_check(true);
        let dfa = DFA::builder().configure(config).build_from_nfa(nfa).map_err(|e| failed(&e))?;
        let cache = dfa.create_cache();
        let mut explorer = Explorer { dfa, cache, numbers: HashMap::new(), found: Vec::new() };
        let mut start = |text: &str, from: usize| {
            let input = Input::new(text).range(from..).anchored(Anchored::Yes);
            let state = explorer.dfa.start_state_forward(&mut explorer.cache, &input).map_err(|e| failed(&e))?;
            Ok::<State, Error>(explorer.number(state))
        };
        let (at_start, elsewhere) = (start("", 0)?, start("x", 1)?);

        let classes = *explorer.dfa.byte_classes();
        let bytes: Vec<u8> = classes.representatives(0..=255).filter_map(|unit| unit.as_u8()).collect();
        let mut of_byte = [0; 256];
        for byte in 0..=255u8 {
            let class = bytes.iter().position(|&b| classes.get(b) == classes.get(byte)).unwrap_or(0);
            of_byte[usize::from(byte)] = u8::try_from(class).unwrap_or(0);
        }
        let stride = bytes.len();
        let mut table = vec![DEAD; stride];
        let mut accepts = vec![false];
        let mut at_state = 0;
        while let Some(&state) = explorer.found.get(at_state) {
            at_state += 1;
            // Matches are known one byte late.
            let mut accepted = false;
            for &byte in &bytes {
                let next = explorer.dfa.next_state(&mut explorer.cache, state, byte).map_err(|e| failed(&e))?;
                if next.is_quit() {
                    return Err(failed(&"it quits"));
                }
                accepted |= next.is_match();
                table.push(explorer.number(next));
            }
            accepts.push(accepted);
            if explorer.found.len() >= DELIMITER_STATES_MAX || explorer.cache.clear_count() > 0 {
                return Err(too_large());
            }
        }
        let mut pattern = Pattern {
            table,
            classes: of_byte,
            stride,
            grows: Vec::new(),
            accepts,
            at_start,
            elsewhere,
            captures: None,
            literals: Vec::new(),
            source: String::new(),
        };
        pattern.bury();
        Ok(pattern)
    }

    fn number(&mut self, state: LazyStateID) -> State {
        if state.is_dead() {
            return DEAD;
        }
        let next = State::try_from(self.found.len() + 1).unwrap_or(DEAD);
        *self.numbers.entry(state).or_insert_with(|| {
            self.found.push(state);
            next
        })
    }
}

impl Pattern {
    /// Replaces states from which no match can be reached by [`DEAD`], and finds those after which one can grow.
    fn bury(&mut self) {
        let row = |table: &[State], state: usize| state * self.stride..((state + 1) * self.stride).min(table.len());
        let mut before: Vec<Vec<usize>> = vec![Vec::new(); self.accepts.len()];
        for state in 0..self.accepts.len() {
            for &next in &self.table[row(&self.table, state)] {
                if before[usize::from(next)].last() != Some(&state) {
                    before[usize::from(next)].push(state);
                }
            }
        }
        let mut alive = self.accepts.clone();
        let mut open: Vec<usize> = (0..alive.len()).filter(|&state| alive[state]).collect();
        while let Some(state) = open.pop() {
            for &earlier in &before[state] {
                if !alive[earlier] {
                    alive[earlier] = true;
                    open.push(earlier);
                }
            }
        }
        for next in &mut self.table {
            if !alive[usize::from(*next)] {
                *next = DEAD;
            }
        }
        let grows = |state| self.table[row(&self.table, state)].iter().any(|&next| next != DEAD);
        self.grows = (0..self.accepts.len()).map(grows).collect();
    }
}

/// Parses an expression, and refuses by name what no automaton of this kind can do.
fn parse(at: &str, expression: &str) -> Result<Hir> {
    let parsed = regex_syntax::ParserBuilder::new().dot_matches_new_line(true).build().parse(expression);
    let hir = parsed.map_err(|error| refused(at, &error))?;
    let allowed = [Look::Start, Look::End];
    if let Some(look) = hir.properties().look_set().iter().find(|look| !allowed.contains(look)) {
        let what = match look {
            Look::StartLF | Look::EndLF | Look::StartCRLF | Look::EndCRLF => "beginnings and ends of lines",
            _ => "word boundaries",
        };
        return Err(Error::unsupported(format!("{at}: {what} are not supported in delimiters")));
    }
    Ok(hir)
}

fn refused(at: &str, error: &regex_syntax::Error) -> Error {
    use regex_syntax::ast::ErrorKind;
    let kind = match error {
        regex_syntax::Error::Parse(error) => Some(error.kind()),
        _ => None,
    };
    match kind {
        Some(ErrorKind::UnsupportedLookAround) => {
            Error::unsupported(format!("{at}: look-around, (?=…), (?!…), (?<=…) or (?<!…), is not supported"))
        }
        Some(ErrorKind::UnsupportedBackreference) => {
            Error::unsupported(format!("{at}: back-references are not supported"))
        }
        _ => Error::format(format!("{at} is no regular expression: {}", last_line(&error.to_string()))),
    }
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or(text).trim_start_matches("error: ")
}

/// The expression for the groups of a match that an automaton found.
fn whole_match(at: &str, expression: &str) -> Result<fancy_regex::Regex> {
    searching(at, &format!(r"\A(?:{expression})\z"))
}

/// An expression that looks for matches in a text that is whole: anchors, and the arguments of a call.
pub(super) fn search_expression(at: &str, expression: &str) -> Result<fancy_regex::Regex> {
    let expression = from_python(expression);
    parse(at, &expression)?;
    searching(at, &expression)
}

fn searching(at: &str, expression: &str) -> Result<fancy_regex::Regex> {
    let size =
        fancy_regex::RegexBuilder::new(&format!("(?s:{expression})")).delegate_size_limit(AUTOMATON_BYTES_MAX).build();
    size.map_err(|e| Error::format(format!("{at} is no regular expression: {e}")))
}

/// Python's syntax as this crate's: `\Z`, escapes of characters that need none, and brackets within a class.
fn from_python(expression: &str) -> String {
    let mut out = String::with_capacity(expression.len());
    let mut chars = expression.chars().peekable();
    // None: outside of a class; else the number of characters in it so far.
    let mut class: Option<usize> = None;
    while let Some(c) = chars.next() {
        class = class.map(|count| count + 1);
        match c {
            '\\' => match chars.next() {
                Some('Z') => out.push_str(r"\z"),
                Some(plain @ ('<' | '>' | ' ' | '"' | '\'' | '/' | '`' | ',' | ';' | ':' | '=' | '!' | '@' | '%')) => {
                    out.push(plain);
                }
                Some(other) => out.extend(['\\', other]),
                None => out.push('\\'),
            },
            '[' if class.is_some() => out.push_str(r"\["),
            '[' => {
                class = Some(0);
                out.push('[');
                if chars.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
            }
            // First in a class it stands for itself.
            ']' if class == Some(1) => out.push_str(r"\]"),
            ']' => {
                class = None;
                out.push(']');
            }
            '&' | '~' if class.is_some() => out.extend(['\\', c]),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(pattern: &Pattern, text: &str) -> (bool, bool, bool) {
        let state = text.bytes().fold(pattern.start(false), |state, byte| pattern.next(state, byte));
        (state == DEAD, pattern.accepts(state), pattern.grows(state))
    }

    #[test]
    fn states_know_whether_they_match_and_whether_more_may_follow() {
        let literal = Pattern::literals("x", vec!["</a>".into(), "</a>b".into(), "é".into()]).unwrap();
        assert_eq!(run(&literal, "</"), (false, false, true));
        assert_eq!(run(&literal, "</a>"), (false, true, true));
        assert_eq!(run(&literal, "</a>b"), (false, true, false));
        assert_eq!(run(&literal, "</b"), (true, false, false));
        assert_eq!(run(&literal, "é"), (false, true, false));
        let lazy = Pattern::expression("x", r"<\|c\|>.*?<\|m\|>").unwrap();
        assert_eq!(run(&lazy, "<|c|>to=x\n <|m"), (false, false, true));
        assert_eq!(run(&lazy, "<|c|>to=x\n <|m|>"), (false, true, false));
        let spaces = Pattern::expression("x", r"</t>\s*|$").unwrap();
        assert_eq!(run(&spaces, "</t> \u{2003}"), (false, true, true));
        assert_eq!(run(&spaces, ""), (false, false, true));
    }

    #[test]
    fn groups_have_values() {
        let pattern = Pattern::expression("x", r"\<f=(?P<name>[^>\n]+)>(?P<id>\d+)?").unwrap();
        assert_eq!(pattern.groups().collect::<Vec<_>>(), ["name", "id"]);
        assert_eq!(pattern.captured("<f=get>"), [("name".to_owned(), "get".to_owned())]);
    }

    #[test]
    fn what_no_automaton_can_do_is_refused_by_name() {
        let message = |expression| Pattern::expression("fields.x.open_pattern", expression).unwrap_err().to_string();
        for (expression, named) in [
            (r"(?=[\s\S]*?</think>)", "look-around"),
            (r"(?<!a)b", "look-around"),
            (r"(a)\1", "back-references"),
            (r"\bcall", "word boundaries"),
            (r"(?m)^x", "lines"),
            (r"x*", "empty text"),
            (r"(", "unclosed group"),
            (r"[\p{L}]{900}", "cannot be compiled"),
        ] {
            let message = message(expression);
            assert!(message.contains(named) && message.contains("fields.x.open_pattern"), "{expression}: {message}");
        }
        let many = Pattern::expression("x", r"(?:a|b)*a(?:a|b){14}c").unwrap_err().to_string();
        assert!(many.contains("states"), "{many}");
    }

    #[test]
    fn pythons_syntax_is_read() {
        assert_eq!(from_python(r"[^[\]]\Z\<"), r"[^\[\]]\z<");
        assert_eq!(from_python(r"[]a&&b]"), r"[\]a\&\&b]");
    }
}
