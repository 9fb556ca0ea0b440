//! Texts of an engine's requests that have ended, for those that come after: two automata, of which one grows while the other is as
//! it was, so that the oldest half is forgotten at once when there is no more room.

use super::automaton::{Cursor, Piece, SuffixAutomaton};
use crate::error::{Result, reserved};
use crate::limits::DRAFT_TOKENS_MAX;
use std::collections::VecDeque;

/// Stands between two texts; no vocabulary has it.
const BETWEEN: u32 = u32::MAX;

/// Half of the texts.
#[derive(Debug)]
struct Half {
    text: Vec<u32>,
    automaton: SuffixAutomaton,
    /// Counts how often this half began anew.
    generation: u32,
}

impl Half {
    fn new(most: usize) -> Result<Half> {
        let what = "the texts of ended requests";
        Ok(Half { text: reserved(what, most)?, automaton: SuffixAutomaton::new(most)?, generation: 0 })
    }

    fn begin_anew(&mut self) {
        self.text.clear();
        self.automaton.clear();
        self.generation = self.generation.wrapping_add(1);
    }
}

/// How far a request's text has been found in each half, and the half's generation then.
#[derive(Clone, Copy, Debug, Default)]
pub struct SharedCursor([(Cursor, u32); 2]);

/// The texts of ended requests.
#[derive(Debug)]
pub struct SharedTexts {
    halves: [Half; 2],
    /// Which half grows.
    growing: usize,
    /// Tokens of a half.
    most: usize,
    /// What is to be added, in memory of a half.
    waiting: VecDeque<u32>,
}

impl SharedTexts {
    /// No texts; with memory for `tokens`, of which at least half are kept.
    ///
    /// # Errors
    /// `Memory`.
    pub fn new(tokens: usize) -> Result<SharedTexts> {
        let most = (tokens / 2).max(1);
        let halves = [Half::new(most)?, Half::new(most)?];
        let waiting: Vec<u32> = reserved("the texts of ended requests", most)?;
        Ok(SharedTexts { halves, growing: 0, most, waiting: waiting.into() })
    }

    /// Keeps the text of a request that has ended, to be read in pieces by [`SharedTexts::read`]. Where too much waits to be read, it is
    /// left.
    pub fn keep(&mut self, text: &[u32]) {
        if !text.is_empty() && self.waiting.len() + text.len() < self.most {
            self.waiting.extend(text);
            self.waiting.push_back(BETWEEN);
        }
    }

    /// Reads up to `most` tokens of the texts that were kept; returns how many.
    pub fn read(&mut self, most: usize) -> usize {
        let mut read = 0;
        while read < most
            && let Some(token) = self.waiting.pop_front()
        {
            self.push(token);
            read += 1;
        }
        read
    }

    fn push(&mut self, token: u32) {
        if self.halves[self.growing].automaton.is_full() {
            self.growing = 1 - self.growing;
            self.halves[self.growing].begin_anew();
        }
        let half = &mut self.halves[self.growing];
        half.text.push(token);
        half.automaton.push(token);
    }

    /// The cursor of a text whose next token this is.
    pub fn follow(&self, SharedCursor(mut cursors): SharedCursor, token: u32) -> SharedCursor {
        for (half, (cursor, generation)) in self.halves.iter().zip(&mut cursors) {
            let own = if *generation == half.generation { *cursor } else { Cursor::default() };
            (*cursor, *generation) = (half.automaton.follow(own, token), half.generation);
        }
        SharedCursor(cursors)
    }

    /// The longest piece that a text ends with, and what follows it there.
    pub fn found(&self, SharedCursor(cursors): SharedCursor) -> (usize, &[u32]) {
        let halves = self.halves.iter().zip(cursors);
        let fresh = halves.filter(|(half, (_, generation))| half.generation == *generation);
        let pieces = fresh.map(|(half, (cursor, _))| (half.automaton.piece(cursor), half));
        let found = pieces.filter(|(piece, _)| piece.len > 0).map(|(Piece { end, len }, half)| {
            let rest = &half.text[end + 1..half.text.len().min(end + 1 + DRAFT_TOKENS_MAX)];
            (len, rest.split(|&token| token == BETWEEN).next().unwrap_or_default())
        });
        found.max_by_key(|(len, rest)| (*len, !rest.is_empty())).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(texts: &mut SharedTexts, text: &[u32]) {
        texts.keep(text);
        while texts.read(3) > 0 {}
    }

    fn found(texts: &SharedTexts, text: &[u32]) -> (usize, Vec<u32>) {
        let cursor = text.iter().fold(SharedCursor::default(), |cursor, &token| texts.follow(cursor, token));
        let (len, rest) = texts.found(cursor);
        (len, rest.to_vec())
    }

    #[test]
    fn the_rest_of_an_earlier_text_is_found_and_ends_with_it() {
        let mut texts = SharedTexts::new(100).unwrap();
        read_all(&mut texts, &[1, 2, 3, 4, 5]);
        read_all(&mut texts, &[7, 2, 3, 9]);
        assert_eq!(found(&texts, &[8, 1, 2, 3]), (3, vec![4, 5]));
        assert_eq!(found(&texts, &[7, 2, 3]), (3, vec![9]));
        assert_eq!(found(&texts, &[3, 9]), (2, vec![]));
        assert_eq!(found(&texts, &[6]), (0, vec![]));
    }

    #[test]
    fn the_older_half_is_forgotten_for_new_texts() {
        let mut texts = SharedTexts::new(20).unwrap();
        for first in 0..10 {
            let text: Vec<u32> = (0..4).map(|i| first * 10 + i).collect();
            read_all(&mut texts, &text);
            assert_eq!(found(&texts, &text[..2]), (2, text[2..].to_vec()));
        }
        assert_eq!(found(&texts, &[0, 1]), (0, vec![]), "the first is gone");
        // Of what is longer than a half nothing is kept.
        texts.keep(&[1; 11]);
        assert_eq!(texts.read(100), 0);
    }

    #[test]
    fn a_cursor_of_a_half_that_began_anew_begins_anew() {
        let mut texts = SharedTexts::new(8).unwrap();
        read_all(&mut texts, &[1, 2]);
        let cursor = texts.follow(SharedCursor::default(), 1);
        for _ in 0..6 {
            read_all(&mut texts, &[5, 6]);
        }
        assert_eq!(texts.found(cursor).0, 0);
        assert_eq!(texts.found(texts.follow(cursor, 5)), (1, &[6][..]));
    }
}
