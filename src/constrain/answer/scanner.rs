//! Looks for delimiters in a text that is still being written.
//!
//! A candidate is a place where a delimiter may have begun, with the state that its automaton is in. The match that begins
//! first wins; of those that begin at one place the longest, then an opening one, then the first by name. Text before the
//! first candidate can belong to no delimiter. Of two candidates in the same state of the same automaton the later one can
//! never win, so that there are at most as many as states, and in practice one or two.

use super::pattern::{DEAD, Pattern, State};
use crate::limits::{DELIMITER_BYTES_MAX, DELIMITER_CANDIDATES_MAX};

/// The delimiters that matter in a region, in the order of their precedence.
#[derive(Debug)]
pub(super) struct Watched {
    /// Indices of patterns.
    patterns: Vec<usize>,
    /// Whether one may begin with a byte.
    begins: [bool; 256],
    /// Whether one matches no text at all at the beginning of an answer.
    empty: bool,
}

impl Watched {
    pub(super) fn new(patterns: Vec<usize>, all: &[Pattern]) -> Watched {
        let mut begins = [false; 256];
        let mut empty = false;
        for pattern in patterns.iter().filter_map(|&index| all.get(index)) {
            for at_start in [true, false] {
                let start = pattern.start(at_start);
                empty |= pattern.accepts(start);
                for byte in 0..=255u8 {
                    begins[usize::from(byte)] |= pattern.next(start, byte) != DEAD;
                }
            }
        }
        Watched { patterns, begins, empty }
    }
}

/// A delimiter that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Found {
    /// Index of its pattern.
    pub(super) pattern: usize,
    /// First byte, counted from the beginning of the text.
    pub(super) start: usize,
    /// Byte after the last.
    pub(super) end: usize,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    /// Place of the pattern in [`Watched::patterns`].
    rank: usize,
    start: usize,
    /// [`DEAD`]: whether it matched is decided.
    state: State,
    /// End of the longest match so far.
    matched: Option<usize>,
}

/// The candidates of one region.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    /// In the order of their beginnings.
    candidates: Vec<Candidate>,
    /// Steps of automata so far.
    steps: u64,
}

impl Scanner {
    /// Forgets all candidates.
    pub(super) fn clear(&mut self) {
        self.candidates.clear();
    }

    /// The first byte that may belong to a delimiter.
    pub(super) fn held_from(&self) -> Option<usize> {
        self.candidates.first().map(|candidate| candidate.start)
    }

    /// Steps of automata so far: what the work of a parser is measured by.
    #[cfg(test)]
    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// Goes one byte on, which is at `at`. `may_begin`: a delimiter may begin with it.
    pub(super) fn step(&mut self, watched: &Watched, all: &[Pattern], byte: u8, at: usize, may_begin: bool) {
        if may_begin && (watched.begins[usize::from(byte)] || watched.empty && at == 0) {
            for (rank, &index) in watched.patterns.iter().enumerate() {
                let Some(pattern) = all.get(index) else { continue };
                let state = pattern.start(at == 0);
                let matched = pattern.accepts(state).then_some(at);
                self.steps += 1;
                let alive = pattern.next(state, byte) != DEAD || matched.is_some();
                if alive && self.candidates.len() < DELIMITER_CANDIDATES_MAX {
                    self.candidates.push(Candidate { rank, start: at, state, matched });
                }
            }
        }
        if self.candidates.is_empty() {
            return;
        }
        for candidate in &mut self.candidates {
            let pattern = watched.patterns.get(candidate.rank).and_then(|&index| all.get(index));
            let (Some(pattern), true) = (pattern, candidate.state != DEAD) else { continue };
            self.steps += 1;
            candidate.state = pattern.next(candidate.state, byte);
            if pattern.accepts(candidate.state) {
                candidate.matched = Some(at + 1);
            }
            if !pattern.grows(candidate.state) || at + 1 - candidate.start >= DELIMITER_BYTES_MAX {
                candidate.state = DEAD;
            }
        }
        self.drop_hopeless();
    }

    /// Drops candidates that did not match, and those that an earlier one in the same state makes pointless.
    fn drop_hopeless(&mut self) {
        let mut kept = 0;
        for index in 0..self.candidates.len() {
            let mut candidate = self.candidates[index];
            let same = |earlier: &&mut Candidate| {
                candidate.state != DEAD && earlier.rank == candidate.rank && earlier.state == candidate.state
            };
            if let Some(earlier) = self.candidates[..kept].iter_mut().find(same) {
                if earlier.matched.is_some() {
                    continue;
                }
                // What it has matched may still count, if the earlier one matches nothing.
                candidate.state = DEAD;
            }
            if candidate.state != DEAD || candidate.matched.is_some() {
                self.candidates[kept] = candidate;
                kept += 1;
            }
        }
        self.candidates.truncate(kept);
    }

    /// The first delimiter, if no text to come can change it.
    pub(super) fn found(&self, watched: &Watched) -> Option<Found> {
        let first = self.candidates.first()?.start;
        let here = || self.candidates.iter().take_while(|candidate| candidate.start == first);
        if here().any(|candidate| candidate.state != DEAD) {
            return None;
        }
        self.best(here(), watched)
    }

    /// The first delimiter when no more text comes.
    pub(super) fn found_at_end(&mut self, watched: &Watched) -> Option<Found> {
        self.candidates.retain(|candidate| candidate.matched.is_some());
        let first = self.candidates.first()?.start;
        self.best(self.candidates.iter().take_while(|candidate| candidate.start == first), watched)
    }

    fn best<'a>(&self, candidates: impl Iterator<Item = &'a Candidate>, watched: &Watched) -> Option<Found> {
        let matched = candidates.filter_map(|candidate| Some((candidate.matched?, candidate)));
        let (end, best) = matched.min_by_key(|(end, candidate)| (std::cmp::Reverse(*end), candidate.rank))?;
        Some(Found { pattern: *watched.patterns.get(best.rank)?, start: best.start, end })
    }

    /// Goes on without a delimiter that was found and is none.
    pub(super) fn reject(&mut self, found: Found, watched: &Watched) {
        let rank = watched.patterns.iter().position(|&pattern| pattern == found.pattern);
        self.candidates.retain(|candidate| candidate.start != found.start || Some(candidate.rank) != rank);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(patterns: &[Pattern], text: &str) -> (Vec<Found>, u64) {
        let watched = Watched::new((0..patterns.len()).collect(), patterns);
        let mut scanner = Scanner::default();
        let (mut found, mut at) = (Vec::new(), 0);
        while at < text.len() {
            scanner.step(&watched, patterns, text.as_bytes()[at], at, text.is_char_boundary(at));
            at += 1;
            let next = scanner
                .found(&watched)
                .or_else(|| if at == text.len() { scanner.found_at_end(&watched) } else { None });
            if let Some(next) = next {
                scanner.clear();
                at = next.end;
                found.push(next);
            }
        }
        (found, scanner.steps())
    }

    fn expressions(list: &[&str]) -> Vec<Pattern> {
        list.iter().map(|expression| Pattern::expression("x", expression).unwrap()).collect()
    }

    #[test]
    fn the_first_then_the_longest_then_the_first_by_order_wins() {
        let patterns = expressions(&["<a>", r"\s*<a>b?", "<a>b"]);
        let at = |pattern, start, end| Found { pattern, start, end };
        assert_eq!(scan(&patterns, "x  <a>").0, [at(1, 1, 6)]);
        assert_eq!(scan(&patterns, "<a>b<a>c").0, [at(1, 0, 4), at(0, 4, 7)]);
        assert_eq!(scan(&patterns, "<<a>").0, [at(0, 1, 4)]);
    }

    #[test]
    fn a_delimiter_begins_inside_of_one_that_was_none() {
        let patterns = expressions(&["<<<x", "<y"]);
        assert_eq!(scan(&patterns, "<<<<x <<y").0.iter().map(|f| f.start).collect::<Vec<_>>(), [1, 7]);
    }

    #[test]
    fn work_grows_with_the_text_and_not_with_its_square() {
        let patterns = expressions(&[r"\s*<a>", r"<b>.*?</b>", "(?:<|<<)+c"]);
        for piece in [" ", "<", "<b>", "<b>x</b", "< "] {
            let steps = |bytes: usize| scan(&patterns, &piece.repeat(bytes / piece.len())).1;
            let (short, long) = (steps(20_000), steps(80_000));
            assert!(long < 5 * short && long < 12 * 80_000, "{piece:?}: {short} steps, then {long}");
        }
    }
}
