//! Drafts for one request: what followed the longest repetition at the end of its text, in the text itself or in those of others.
//!
//! Whether such guesses are any good is seen without trying them: each token that the request gets is compared with what would have
//! been guessed. So nothing is drafted where there is nothing to copy, and long drafts where much is.

use super::automaton::{Piece, SuffixAutomaton};
use super::reliability::Reliability;
use super::shared::{SharedCursor, SharedTexts};
use crate::error::{Result, reserved};

/// The drafts of a request.
#[derive(Debug)]
pub struct Drafter {
    /// Whether repetitions of its own text are drafted from.
    from_own: bool,
    text: Vec<u32>,
    own: SuffixAutomaton,
    own_reliability: Reliability,
    others: SharedCursor,
    others_reliability: Reliability,
}

impl Drafter {
    /// Bytes of the drafter of a text of `most` tokens.
    pub fn bytes(most: usize) -> u64 {
        SuffixAutomaton::bytes(most) + 4 * most as u64
    }

    /// For a text of at most `most` tokens, from which itself it drafts if `from_own`; of what is beyond nothing is drafted.
    ///
    /// # Errors
    /// `Memory`.
    pub fn new(most: usize, from_own: bool) -> Result<Drafter> {
        Ok(Drafter {
            from_own,
            text: reserved("the text of a request", most)?,
            own: SuffixAutomaton::new(most)?,
            own_reliability: Reliability::default(),
            others: SharedCursor::default(),
            others_reliability: Reliability::default(),
        })
    }

    /// Tokens that were read.
    pub fn len(&self) -> usize {
        self.own.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.own.is_empty()
    }

    /// Reads up to `most` further tokens of the request's text, of which the first `given` were not generated; true when it has read
    /// all of them.
    pub fn read(&mut self, text: &[u32], given: usize, most: usize, others: Option<&SharedTexts>) -> bool {
        let from = self.own.len();
        for (at, &token) in text.iter().enumerate().skip(from).take(most) {
            self.push(token, at >= given, others);
        }
        self.own.len() == text.len()
    }

    /// Reads the next token of the text.
    pub fn push(&mut self, token: u32, generated: bool, others: Option<&SharedTexts>) {
        if self.own.is_full() {
            return;
        }
        let Piece { end, len } = self.own.repeated();
        if generated && len > 0 {
            self.own_reliability.observe(len, self.text[end + 1] == token);
        }
        self.own.push(token);
        self.text.push(token);
        if let Some(others) = others {
            let (len, rest) = others.found(self.others);
            if generated && len > 0 {
                self.others_reliability.observe(len, rest.first() == Some(&token));
            }
            self.others = others.follow(self.others, token);
        }
    }

    /// What may follow the text, which was read: up to `most` tokens, as far as all of them together are what follows with a
    /// probability of at least `least`.
    pub fn draft(&self, others: Option<&SharedTexts>, least: f32, most: usize, to: &mut Vec<u32>) {
        to.clear();
        let text = &self.text;
        let own = self.own.repeated();
        let (others_len, rest) = others.map_or((0, &[][..]), |others| others.found(self.others));
        let own_first = self.own_probability();
        let others_first = self.others_reliability.probability(others_len);
        let from_others = others_first > own_first && !rest.is_empty();
        let (len, reliability) = match from_others {
            true => (others_len, &self.others_reliability),
            false => (if self.from_own { own.len } else { 0 }, &self.own_reliability),
        };
        let mut probability = 1.0;
        for step in 0..most {
            // A repetition that went on is so much longer.
            probability *= reliability.probability(if len == 0 { 0 } else { len + step });
            if probability < least.max(f32::MIN_POSITIVE) {
                break;
            }
            let next = match (from_others, own.end + 1 + step) {
                (true, _) => rest.get(step),
                // What repeats itself goes on with its own draft.
                (false, at) => text.get(at).or_else(|| to.get(at - text.len())),
            };
            let Some(&next) = next else { break };
            to.push(next);
        }
    }

    /// How probable it is that the next token is the one that would be drafted.
    pub fn probability(&self, others: Option<&SharedTexts>) -> f32 {
        let len = others.map_or(0, |others| others.found(self.others).0);
        self.own_probability().max(self.others_reliability.probability(len))
    }

    fn own_probability(&self) -> f32 {
        if self.from_own { self.own_reliability.probability(self.own.repeated().len) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u32], given: usize) -> Drafter {
        let mut drafter = Drafter::new(text.len() + 8, true).unwrap();
        while !drafter.read(text, given, 3, None) {}
        drafter
    }

    fn drafted(drafter: &Drafter, least: f32) -> Vec<u32> {
        let mut to = Vec::new();
        drafter.draft(None, least, 5, &mut to);
        to
    }

    #[test]
    fn what_is_copied_is_drafted_at_length() {
        let given: Vec<u32> = (0..40).collect();
        let text: Vec<u32> = given.iter().copied().chain(10..30).collect();
        let drafter = read(&text, given.len());
        assert!(drafter.probability(None) > 0.5);
        assert_eq!(drafted(&drafter, 0.5), [30, 31, 32, 33, 34]);
        // The same words given: nobody knows yet whether the answer copies them.
        assert!(drafted(&read(&text, text.len()), 0.5).len() < 5);
    }

    #[test]
    fn nothing_is_drafted_where_guesses_fail() {
        // "1 2" is followed by another token each time.
        let mut text: Vec<u32> = vec![1, 2];
        (10..60).for_each(|other| text.extend([other, 1, 2]));
        let drafter = read(&text, 2);
        assert!(drafted(&drafter, 0.1).is_empty());
        assert!(drafter.probability(None) < 0.5);
    }

    #[test]
    fn a_loop_goes_on_in_its_own_draft() {
        let text: Vec<u32> = (0..40).map(|i| i % 2).collect();
        assert_eq!(drafted(&read(&text, 0), 0.2), [0, 1, 0, 1, 0]);
    }

    #[test]
    fn texts_of_others_are_drafted_from_where_they_are_longer() {
        let mut others = SharedTexts::new(200).unwrap();
        let text: Vec<u32> = (0..60).collect();
        others.keep(&text);
        others.read(1000);
        let mut drafter = Drafter::new(100, true).unwrap();
        assert!(drafter.read(&text[..30], 1, 1000, Some(&others)));
        let mut to = Vec::new();
        drafter.draft(Some(&others), 0.2, 4, &mut to);
        assert_eq!(to, [30, 31, 32, 33]);
        drafter.draft(None, 0.2, 4, &mut to);
        assert!(to.is_empty());
        assert!(drafter.probability(Some(&others)) > drafter.probability(None));
        // What repeats itself is no draft where others alone are asked.
        let text = [1, 2, 3, 1, 2, 3, 1, 2];
        let mut alone = Drafter::new(100, false).unwrap();
        assert!(alone.read(&text, 1, 1000, None));
        alone.draft(None, 0.0, 4, &mut to);
        assert!(to.is_empty());
    }

    #[test]
    fn an_empty_text_has_no_draft() {
        let drafter = Drafter::new(4, true).unwrap();
        assert!(drafted(&drafter, 0.0).is_empty());
        assert!(Drafter::bytes(1000) > 50_000);
    }
}
