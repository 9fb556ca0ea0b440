//! A suffix automaton: where the end of a text occurred in it before, and how long that repetition is.
//!
//! It has a state for each set of places at which the same pieces of the text end. A token is added in constant time on average,
//! and the longest repetition that ends at the newest token is known after each. All of its memory is taken at the beginning.

use crate::error::{Result, filled, reserved};

const NONE: u32 = u32::MAX;
const ROOT: u32 = 0;
/// States on the way up whose last place is brought up to date with each token. Those further up are short pieces, which occur
/// everywhere.
const RECENT: usize = 8;

#[derive(Clone, Copy, Debug)]
struct State {
    /// Length of its longest piece.
    len: u32,
    /// The state of the longest suffix that also ends elsewhere.
    link: u32,
    /// One of the places at which its pieces end.
    end: u32,
    first_edge: u32,
}

#[derive(Clone, Copy, Debug)]
struct Edge {
    from: u32,
    token: u32,
    to: u32,
    /// The next edge of the same state.
    next: u32,
}

/// A piece of a text: `len` tokens up to and with the one at `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Place of its last token.
    pub end: usize,
    /// Tokens.
    pub len: usize,
}

/// How far another text has been found in an automaton's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    state: u32,
    len: u32,
}

/// The automaton of a text that grows up to a length.
#[derive(Debug)]
pub struct SuffixAutomaton {
    states: Vec<State>,
    edges: Vec<Edge>,
    /// Edges by state and token: open addressing, an edge's index plus one.
    places: Vec<u32>,
    /// Tokens of the text, and their most.
    len: usize,
    most: usize,
    /// The state of the whole text.
    last: u32,
    /// The longest suffix that occurred before, and where it did.
    repeated: Piece,
}

impl SuffixAutomaton {
    /// Bytes of an automaton of `most` tokens.
    pub fn bytes(most: usize) -> u64 {
        let (states, edges, places) = sizes(most);
        let bytes = states * size_of::<State>() + edges * size_of::<Edge>() + places * size_of::<u32>();
        bytes as u64
    }

    /// The automaton of the empty text, with memory for `most` tokens.
    ///
    /// # Errors
    /// `Memory`.
    pub fn new(most: usize) -> Result<SuffixAutomaton> {
        let ((states, edges, places), what) = (sizes(most), "the repetitions of a text");
        let mut states: Vec<State> = reserved(what, states)?;
        states.push(State { len: 0, link: NONE, end: 0, first_edge: NONE });
        Ok(SuffixAutomaton {
            states,
            edges: reserved(what, edges)?,
            places: filled(what, places, 0)?,
            len: 0,
            most,
            last: ROOT,
            repeated: Piece::default(),
        })
    }

    /// The empty text again, with the same memory.
    pub fn clear(&mut self) {
        self.states.truncate(1);
        self.states[0].first_edge = NONE;
        self.edges.clear();
        self.places.fill(0);
        (self.len, self.last, self.repeated) = (0, ROOT, Piece::default());
    }

    /// Tokens of the text.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the text is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it has no room for another token.
    pub fn is_full(&self) -> bool {
        self.len == self.most
    }

    /// The longest suffix of the text that also ends before its end, and where: of length 0 when there is none.
    pub fn repeated(&self) -> Piece {
        self.repeated
    }

    /// Appends a token; does nothing when it is full.
    pub fn push(&mut self, token: u32) {
        if self.is_full() {
            return;
        }
        let (at, before) = (self.len as u32, self.last);
        self.len += 1;
        let new = self.add_state(State { len: at + 1, link: ROOT, end: at, first_edge: NONE });
        let mut up = before;
        while up != NONE && self.find(up, token).is_none() {
            self.add_edge(up, token, new);
            up = self.state(up).link;
        }
        if up != NONE {
            let link = self.piece_state(up, token);
            self.states[new as usize].link = link;
        }
        self.last = new;
        let link = self.state(new).link;
        let found = self.state(link);
        self.repeated = Piece { end: found.end as usize, len: found.len as usize };
        let mut up = link;
        for _ in 0..RECENT {
            if up == ROOT || up == NONE {
                break;
            }
            self.states[up as usize].end = at;
            up = self.state(up).link;
        }
    }

    /// The state of the longest piece of `from` with `token` after it, apart from longer ones that end there too.
    fn piece_state(&mut self, from: u32, token: u32) -> u32 {
        let Some(to) = self.find(from, token).map(|edge| self.edges[edge].to) else { return ROOT };
        let len = self.state(from).len + 1;
        if self.state(to).len == len {
            return to;
        }
        let apart = self.add_state(State { len, first_edge: NONE, ..self.state(to) });
        let mut edge = self.state(to).first_edge;
        while edge != NONE {
            let Edge { token, to, next, .. } = self.edges[edge as usize];
            self.add_edge(apart, token, to);
            edge = next;
        }
        let mut up = from;
        while up != NONE
            && let Some(edge) = self.find(up, token).filter(|&edge| self.edges[edge].to == to)
        {
            self.edges[edge].to = apart;
            up = self.state(up).link;
        }
        self.states[to as usize].link = apart;
        apart
    }

    /// The cursor of another text whose next token this is: the longest piece of this text that the other now ends with.
    pub fn follow(&self, cursor: Cursor, token: u32) -> Cursor {
        let Cursor { mut state, mut len } = self.settled(cursor);
        loop {
            if let Some(edge) = self.find(state, token) {
                return self.settled(Cursor { state: self.edges[edge].to, len: len + 1 });
            }
            if state == ROOT {
                return Cursor::default();
            }
            state = self.state(state).link;
            len = self.state(state).len;
        }
    }

    /// The piece of this text at a cursor.
    pub fn piece(&self, cursor: Cursor) -> Piece {
        let Cursor { state, len } = self.settled(cursor);
        Piece { end: self.state(state).end as usize, len: len as usize }
    }

    /// States may have been parted since: a piece belongs to the highest that is long enough for it.
    fn settled(&self, mut cursor: Cursor) -> Cursor {
        while cursor.state != ROOT && self.state(self.state(cursor.state).link).len >= cursor.len {
            cursor.state = self.state(cursor.state).link;
        }
        cursor
    }

    fn state(&self, index: u32) -> State {
        self.states[index as usize]
    }

    fn add_state(&mut self, state: State) -> u32 {
        debug_assert!(self.states.len() < self.states.capacity(), "states are bounded");
        self.states.push(state);
        self.states.len() as u32 - 1
    }

    fn add_edge(&mut self, from: u32, token: u32, to: u32) {
        debug_assert!(self.edges.len() < self.edges.capacity(), "edges are bounded");
        let place = self.place(from, token);
        self.edges.push(Edge { from, token, to, next: self.state(from).first_edge });
        self.places[place] = self.edges.len() as u32;
        self.states[from as usize].first_edge = self.edges.len() as u32 - 1;
    }

    /// The index of an edge.
    fn find(&self, from: u32, token: u32) -> Option<usize> {
        (self.places[self.place(from, token)] as usize).checked_sub(1)
    }

    /// Where an edge is in the table, or belongs.
    fn place(&self, from: u32, token: u32) -> usize {
        let mask = self.places.len() - 1;
        let key = (u64::from(from) << 32 | u64::from(token)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut place = (key >> 32) as usize & mask;
        loop {
            let Some(edge) = (self.places[place] as usize).checked_sub(1) else { return place };
            let Edge { from: f, token: t, .. } = self.edges[edge];
            if (f, t) == (from, token) {
                return place;
            }
            place = (place + 1) & mask;
        }
    }
}

/// States, edges and places in the table of a text of `most` tokens: a text of n tokens has at most 2n states and 3n edges.
fn sizes(most: usize) -> (usize, usize, usize) {
    let (states, edges) = (2 * most + 2, 3 * most + 3);
    (states, edges, (edges + edges / 3 + 1).next_power_of_two())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deterministic numbers.
    fn random(seed: u64) -> impl FnMut(usize) -> usize {
        let mut state = seed;
        move |below| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        }
    }

    fn longest_repeated(text: &[u32]) -> usize {
        let occurs = |len: usize| (len..text.len()).any(|end| text[end - len..end] == text[text.len() - len..]);
        (1..text.len()).take_while(|&len| occurs(len)).last().unwrap_or(0)
    }

    #[test]
    fn the_longest_repetition_is_known_after_every_token() {
        for seed in 0..200 {
            let mut next = random(seed);
            let (vocab, most) = (1 + next(5), 1 + next(120));
            let mut automaton = SuffixAutomaton::new(most).unwrap();
            let mut text = Vec::new();
            for _ in 0..most {
                // Often what came before.
                let copied = text.len() > 8 && next(3) > 0;
                let token = if copied { text[text.len() - 7] } else { next(vocab) as u32 };
                text.push(token);
                automaton.push(token);
                let Piece { end, len } = automaton.repeated();
                assert_eq!(len, longest_repeated(&text), "seed {seed}: {text:?}");
                if len > 0 {
                    assert!(end + 1 < text.len(), "seed {seed}: it ends before the end");
                    assert_eq!(text[end + 1 - len..=end], text[text.len() - len..], "seed {seed}: {text:?}");
                }
            }
            assert!(automaton.is_full());
            automaton.push(0);
            assert_eq!(automaton.len(), most, "a full one takes no more");
        }
    }

    #[test]
    fn a_cursor_finds_the_longest_piece_while_the_text_grows() {
        for seed in 0..200 {
            let mut next = random(1000 + seed);
            let (vocab, most) = (1 + next(4), 2 + next(80));
            let mut automaton = SuffixAutomaton::new(most).unwrap();
            let (mut text, mut other, mut cursor) = (Vec::new(), Vec::new(), Cursor::default());
            for _ in 0..200 {
                if text.len() < most && next(2) == 0 {
                    text.push(next(vocab) as u32);
                    automaton.push(text[text.len() - 1]);
                }
                other.push(next(vocab + 1) as u32);
                cursor = automaton.follow(cursor, other[other.len() - 1]);
                let Piece { end, len } = automaton.piece(cursor);
                assert!(len <= other.len() && len <= text.len());
                if len > 0 {
                    assert_eq!(text[end + 1 - len..=end], other[other.len() - len..], "seed {seed}");
                }
            }
            // In a text that stands still it is the longest there is.
            for _ in 0..100 {
                other.push(next(vocab + 1) as u32);
                cursor = automaton.follow(cursor, other[other.len() - 1]);
            }
            let found = |len: usize| text.windows(len).any(|piece| *piece == other[other.len() - len..]);
            let longest = (1..=text.len().min(other.len())).take_while(|&len| found(len)).last().unwrap_or(0);
            assert_eq!(automaton.piece(cursor).len, longest, "seed {seed}: {text:?} {other:?}");
        }
    }

    #[test]
    fn recent_places_come_first() {
        let mut automaton = SuffixAutomaton::new(16).unwrap();
        [1, 2, 3, 9, 1, 2, 4, 9, 1, 2].into_iter().for_each(|token| automaton.push(token));
        // "9 1 2" ended at 5, "1 2" also at 1.
        assert_eq!(automaton.repeated(), Piece { end: 5, len: 3 });
    }

    #[test]
    fn memory_is_taken_at_the_beginning() {
        // The text with the most states, and the one with the most edges.
        for text in
            [[1].into_iter().chain([2; 999]).collect::<Vec<u32>>(), (0..1000).map(|i| i % 7 * (i % 5)).collect()]
        {
            let mut automaton = SuffixAutomaton::new(text.len()).unwrap();
            let before = (automaton.states.capacity(), automaton.edges.capacity());
            text.iter().for_each(|&token| automaton.push(token));
            assert_eq!((automaton.states.capacity(), automaton.edges.capacity()), before);
        }
    }
}
