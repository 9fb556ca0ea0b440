//! A regular expression as a finite automaton that is made while it runs, and that says how far it has read.
//!
//! The automata are `regex-automata`'s; the loops over the text are here, because the crate's own read to the end of a text
//! without a word: which of two alternatives matches may depend on what stands 64 MiB further on, again for every match
//! (`a+b|a`). What they read is told ([`Tell`]), so that a text may be given up, and an encoding ended.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use regex_automata::hybrid::dfa;
use regex_automata::hybrid::regex::{Cache, Regex};
use regex_automata::nfa::thompson;
use regex_automata::{Anchored, Input};

use super::expression::{SearchEvent, Tell};
use crate::error::{Error, Result};
use crate::limits::{AUTOMATON_BYTES_MAX, AUTOMATON_CACHE_BYTES, SEARCH_PIECE_BYTES};

/// An expression without look-around.
#[derive(Debug)]
pub(super) struct Automaton {
    /// Large beside the other kinds of expressions.
    regex: Box<Regex>,
    /// What searches have made of it and do not use now.
    caches: Mutex<Vec<Cache>>,
}

impl Automaton {
    /// `pattern`: in the syntax of the `regex` crate.
    pub(super) fn new(pattern: &str) -> std::result::Result<Automaton, String> {
        let cache = dfa::Config::new().cache_capacity(AUTOMATON_CACHE_BYTES).skip_cache_capacity_check(true);
        let size = thompson::Config::new().nfa_size_limit(Some(AUTOMATON_BYTES_MAX));
        let regex = Regex::builder().thompson(size).dfa(cache).build(pattern).map_err(|e| {
            use std::error::Error as _;
            e.source().map_or_else(|| e.to_string(), |cause| format!("{e}: {cause}"))
        })?;
        Ok(Automaton { regex: Box::new(regex), caches: Mutex::default() })
    }

    /// Whether it matches somewhere in a short text.
    pub(super) fn is_match(&self, text: &str) -> bool {
        self.search(text).find(0, &mut |_| Ok(())).is_ok_and(|found| found.is_some())
    }

    /// A search in one text.
    pub(super) fn search<'a>(&'a self, text: &'a str) -> Search<'a> {
        let free = self.caches.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let cache = free.unwrap_or_else(|| self.regex.create_cache());
        Search { automaton: self, cache: Some(cache), text, read: 0 }
    }
}

/// A search in a text, with memory for what it makes of the automaton.
pub(super) struct Search<'a> {
    automaton: &'a Automaton,
    /// None: given back.
    cache: Option<Cache>,
    text: &'a str,
    /// Bytes that were read and not told.
    read: usize,
}

/// Which matches are looked for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Where {
    /// Those that begin at the place.
    Here,
    /// The first one from there on.
    Onwards,
}

impl Search<'_> {
    /// The first match from `at` on, a border of characters.
    pub(super) fn find(&mut self, at: usize, tell: &mut Tell) -> Result<Option<Range<usize>>> {
        // Most words begin where the one before has ended.
        if let Some(end) = self.end(at, Where::Here, tell)? {
            return Ok(Some(at..end));
        }
        let Some(end) = self.end(at, Where::Onwards, tell)? else { return Ok(None) };
        Ok(Some(self.start(at..end, tell)?..end))
    }

    /// Where the match that is looked for from `at` on ends. Automata know of a match one byte later.
    pub(super) fn end(&mut self, at: usize, place: Where, tell: &mut Tell) -> Result<Option<usize>> {
        let forward = self.automaton.regex.forward();
        let Some(cache) = self.cache.as_mut().map(Cache::forward_mut) else { return Ok(None) };
        let anchored = if place == Where::Here { Anchored::Yes } else { Anchored::No };
        let input = Input::new(self.text).range(at..).anchored(anchored);
        let mut state = forward.start_state_forward(cache, &input).map_err(failed)?;
        let mut end = None;
        for (index, &byte) in self.text.as_bytes().iter().enumerate().skip(at) {
            state = forward.next_state(cache, state, byte).map_err(failed)?;
            self.read += 1;
            if state.is_tagged() {
                if state.is_match() {
                    end = Some(index);
                } else if state.is_dead() {
                    return Ok(end);
                } else if state.is_quit() {
                    return Err(failed("it quits"));
                }
            }
            if self.read >= SEARCH_PIECE_BYTES {
                tell(SearchEvent::Read(std::mem::take(&mut self.read)))?;
            }
        }
        let last = forward.next_eoi_state(cache, state).map_err(failed)?;
        Ok(if last.is_match() { Some(self.text.len()) } else { end })
    }

    /// Where a match that ends at the end of a range begins, if that is in it.
    fn start(&mut self, range: Range<usize>, tell: &mut Tell) -> Result<usize> {
        let reverse = self.automaton.regex.reverse();
        let none = || Error::internal("a match of an expression of the tokenizer has no beginning");
        let Some(cache) = self.cache.as_mut().map(Cache::reverse_mut) else { return Err(none()) };
        let input = Input::new(self.text).range(range.clone()).anchored(Anchored::Yes);
        let mut state = reverse.start_state_reverse(cache, &input).map_err(failed)?;
        let mut start = None;
        let bytes = self.text.as_bytes();
        for index in range.clone().rev() {
            state = reverse.next_state(cache, state, bytes[index]).map_err(failed)?;
            self.read += 1;
            if state.is_match() {
                start = Some(index + 1);
            } else if state.is_dead() {
                return start.ok_or_else(none);
            } else if state.is_quit() {
                return Err(failed("it quits"));
            }
            if self.read >= SEARCH_PIECE_BYTES {
                tell(SearchEvent::Read(std::mem::take(&mut self.read)))?;
            }
        }
        let last = match range.start.checked_sub(1) {
            Some(before) => reverse.next_state(cache, state, bytes[before]),
            None => reverse.next_eoi_state(cache, state),
        };
        if last.map_err(failed)?.is_match() {
            start = Some(range.start);
        }
        start.ok_or_else(none)
    }

    /// Tells the rest of what was read.
    pub(super) fn finish(mut self, tell: &mut Tell) -> Result<()> {
        tell(SearchEvent::Read(std::mem::take(&mut self.read)))
    }
}

impl Drop for Search<'_> {
    fn drop(&mut self) {
        let mut free = self.automaton.caches.lock().unwrap_or_else(PoisonError::into_inner);
        free.extend(self.cache.take());
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::internal(format!("an expression of the tokenizer failed: {error}"))
}
