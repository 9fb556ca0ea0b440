//! Stop strings over a stream of text pieces.
//!
//! One Knuth-Morris-Pratt matcher per stop string, stepped byte by byte: its state is the length of the longest
//! beginning of the stop that ends the text so far. The longest of these states is exactly what may still become a
//! stop, so that much is held back and no more. A stop is UTF-8 and starts at a first byte, so the text is never cut
//! inside a character.
//!
//! Invariants: what was released contains no stop and no part of the one that ended the text; `held` is at most as
//! long as the longest stop.

use crate::error::{Error, Result};

/// Finds the first stop string to be completed, holding back only what could still become one.
#[derive(Clone, Debug)]
pub struct StopFilter {
    matchers: Vec<Matcher>,
    /// Text not released yet.
    held: String,
    stopped: bool,
}

#[derive(Clone, Debug)]
struct Matcher {
    stop: Vec<u8>,
    /// `fallback[n]`: the longest proper beginning of the stop that also ends its first `n + 1` bytes.
    fallback: Vec<usize>,
    /// Bytes of the stop that end the text so far; below `stop.len()`.
    matched: usize,
}

impl Matcher {
    fn new(stop: &str) -> Matcher {
        let stop = stop.as_bytes().to_vec();
        let mut matcher = Matcher { fallback: Vec::with_capacity(stop.len()), stop, matched: 0 };
        // The table is what the matcher, run over its own stop from the second byte on, goes through.
        for at in 0..matcher.stop.len() {
            if at > 0 {
                let byte = matcher.stop[at];
                matcher.step(byte);
            }
            matcher.fallback.push(matcher.matched);
        }
        matcher.matched = 0;
        matcher
    }

    /// Takes the next byte of the text; true when the stop ends here.
    fn step(&mut self, byte: u8) -> bool {
        while self.matched > 0 && self.stop[self.matched] != byte {
            self.matched = self.fallback[self.matched - 1];
        }
        if self.stop[self.matched] == byte {
            self.matched += 1;
        }
        self.matched == self.stop.len()
    }
}

impl StopFilter {
    /// A filter for these stop strings; an empty one stops nothing and is left out.
    pub fn new(stops: Vec<String>) -> StopFilter {
        let matchers = stops.iter().filter(|stop| !stop.is_empty()).map(|stop| Matcher::new(stop)).collect();
        StopFilter { matchers, held: String::new(), stopped: false }
    }

    /// True when there is no stop string to look for.
    pub fn is_empty(&self) -> bool {
        self.matchers.is_empty()
    }

    /// The most bytes that it holds back.
    pub fn held_max(&self) -> usize {
        self.matchers.iter().map(|matcher| matcher.stop.len()).max().unwrap_or(0)
    }

    /// Makes room for pieces of so many bytes.
    ///
    /// # Errors
    /// `Memory`.
    pub fn reserve(&mut self, bytes: usize) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let bytes = bytes.saturating_add(self.held_max());
        self.held.try_reserve(bytes).map_err(|_| Error::memory("the text of a request", bytes as u64))
    }

    /// Takes the next piece of text and appends to `out` what became certain. True when a stop was completed: `out`
    /// then got the text before it, and the stop and everything after it are gone. The stop that ends first counts;
    /// of several that end together, the longest.
    pub fn push(&mut self, text: &str, out: &mut String) -> bool {
        if self.stopped {
            return true;
        }
        if self.is_empty() {
            out.push_str(text);
            return false;
        }
        let held_before = self.held.len();
        self.held.push_str(text);
        for (at, byte) in text.bytes().enumerate() {
            let mut completed = 0;
            for matcher in &mut self.matchers {
                if matcher.step(byte) {
                    completed = completed.max(matcher.stop.len());
                }
            }
            if completed > 0 {
                let end = (held_before + at + 1).saturating_sub(completed);
                out.push_str(self.held.get(..end).unwrap_or_default());
                self.held.clear();
                self.stopped = true;
                return true;
            }
        }
        let keep = self.matchers.iter().map(|matcher| matcher.matched).max().unwrap_or(0);
        let certain = self.held.len() - keep;
        out.push_str(self.held.get(..certain).unwrap_or_default());
        self.held.drain(..certain);
        false
    }

    /// The text is over: appends what was held back. Nothing after a stop.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
        for matcher in &mut self.matchers {
            matcher.matched = 0;
        }
    }
}

#[cfg(test)]
#[expect(clippy::print_stdout, reason = "a failing test names its seed")]
mod tests {
    use super::*;
    use crate::text::fixtures::Random;

    /// The definition: the shortest beginning of the text that ends with a stop, without the longest stop it ends with.
    fn expected(text: &str, stops: &[String]) -> (String, bool) {
        for (at, c) in text.char_indices() {
            let so_far = &text[..at + c.len_utf8()];
            let longest = stops.iter().filter(|s| !s.is_empty() && so_far.ends_with(*s)).map(String::len).max();
            if let Some(longest) = longest {
                return (so_far[..so_far.len() - longest].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    fn stops(of: &[&str]) -> Vec<String> {
        of.iter().map(|s| s.to_string()).collect()
    }

    #[test]
    fn a_stop_split_over_pieces_leaks_nothing() {
        let mut filter = StopFilter::new(stops(&["\nUser:"]));
        let mut out = String::new();
        assert!(!filter.push("Hello\n", &mut out));
        assert_eq!(out, "Hello");
        assert!(!filter.push("Us", &mut out));
        assert!(!filter.push("er", &mut out));
        assert_eq!(out, "Hello");
        assert!(filter.push(": and more", &mut out));
        assert_eq!(out, "Hello");
        assert!(filter.push("ignored", &mut out));
        filter.finish(&mut out);
        assert_eq!(out, "Hello");
    }

    #[test]
    fn what_did_not_become_a_stop_is_released_at_once() {
        let mut filter = StopFilter::new(stops(&["aab"]));
        let mut out = String::new();
        assert!(!filter.push("aa", &mut out));
        assert_eq!(out, "");
        assert!(!filter.push("a", &mut out));
        assert_eq!(out, "a");
        assert!(!filter.push("c", &mut out));
        assert_eq!(out, "aaac");
        assert!(!filter.push("a", &mut out));
        filter.finish(&mut out);
        assert_eq!(out, "aaaca");
    }

    #[test]
    fn the_first_to_end_wins_and_the_longest_of_those() {
        let mut out = String::new();
        assert!(StopFilter::new(stops(&["abcd", "bc"])).push("xabcd", &mut out));
        assert_eq!(out, "xa");
        out.clear();
        assert!(StopFilter::new(stops(&["c", "abc"])).push("xabc", &mut out));
        assert_eq!(out, "x");
    }

    #[test]
    fn no_stop_strings_pass_everything() {
        let mut filter = StopFilter::new(stops(&["", ""]));
        assert!(filter.is_empty());
        let mut out = String::new();
        assert!(!filter.push("", &mut out) && !filter.push("all of it", &mut out));
        assert_eq!(out, "all of it");
    }

    #[test]
    fn any_stops_over_any_pieces_as_the_definition_says() {
        let seed = 0x5709_u64;
        println!("seed {seed:#x}");
        let mut random = Random(seed);
        const LETTERS: [char; 5] = ['a', 'b', 'é', 'è', '語'];
        for round in 0..20_000 {
            let letters = 1 + random.below(LETTERS.len());
            let mut word = |longest: usize| -> String {
                (0..random.below(longest + 1)).map(|_| LETTERS[random.below(letters)]).collect()
            };
            let text = word(24);
            let list: Vec<String> = (0..3).map(|_| word(5)).collect();
            let mut filter = StopFilter::new(list.clone());
            let (mut out, mut stopped, mut rest) = (String::new(), false, text.as_str());
            while !rest.is_empty() && !stopped {
                let cut = rest.char_indices().map(|(at, _)| at).chain([rest.len()]).nth(random.below(4));
                let (piece, after) = rest.split_at(cut.unwrap_or(rest.len()));
                stopped = filter.push(piece, &mut out);
                let longest = list.iter().map(String::len).max().unwrap_or(0);
                assert!(filter.held.len() <= longest.saturating_sub(1), "round {round}");
                rest = after;
            }
            filter.finish(&mut out);
            assert_eq!((out, stopped), expected(&text, &list), "round {round}: {text:?} {list:?}");
        }
    }
}
