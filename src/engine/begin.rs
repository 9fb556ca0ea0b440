//! Tokens that begin a sequence. The tokenizer puts them before raw text; a text that begins with them already, as a
//! rendered chat does, gets none a second time. A prompt that has two all the same (token ids may say anything) is told in
//! the log.

use super::api::LogLevel;
use super::{Shared, prompt::TextKit};
use crate::text::Tokenizer;

/// Text of which a tokenizer makes at least a token.
const PROBES: [&str; 3] = ["a", "0", "."];

/// What a tokenizer puts before a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct BeginTokens(Vec<u32>);

impl BeginTokens {
    /// Those of a tokenizer.
    pub fn of(tokenizer: &Tokenizer) -> BeginTokens {
        let before = PROBES.iter().find_map(|probe| {
            let own = tokenizer.encode(probe, false, false).ok().filter(|own| !own.is_empty())?;
            let all = tokenizer.encode(probe, true, false).ok()?;
            let at = all.windows(own.len()).position(|window| window == own)?;
            all.get(..at).map(<[u32]>::to_vec)
        });
        BeginTokens(before.unwrap_or_default())
    }

    /// The first two.
    fn pair(&self) -> Option<&[u32]> {
        self.0.get(..2)
    }

    /// The first one.
    pub fn first(&self) -> Option<u32> {
        self.0.first().copied()
    }

    /// Of the tokens of a text with these before it, removes what the text itself begins with.
    pub fn put_once(&self, ids: &mut Vec<u32>) {
        let Some(own) = ids.strip_prefix(self.0.as_slice()) else { return };
        let doubled = |n: &usize| self.0.get(*n..).is_some_and(|end| own.starts_with(end));
        let begun = own.first().is_some_and(|&id| self.first() == Some(id));
        let keep = if begun { Some(0) } else { (0..self.0.len()).find(doubled) };
        if let Some(keep) = keep {
            ids.drain(keep..self.0.len());
        }
    }
}

impl Shared {
    /// Tells of a prompt that begins twice.
    pub fn warn_of_two_begins(&self, text: &TextKit, ids: &[u32]) {
        if let [first, second, ..] = ids
            && text.begins.contains(first)
            && text.begins.contains(second)
            // Two that the tokenizer itself puts there are meant so.
            && text.before.pair().is_none_or(|own| !ids.starts_with(own))
        {
            self.log(LogLevel::Warn, || {
                let which = match first == second {
                    true => format!("the begin token {first} twice"),
                    false => format!("two begin tokens, {first} and {second}"),
                };
                format!("a prompt has {which}; answers are worse for it: give one, or leave it to the tokenizer")
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_text_begins_with_is_put_once() {
        let two = BeginTokens(vec![1, 2]);
        let once = |ids: &[u32]| {
            let mut ids = ids.to_vec();
            two.put_once(&mut ids);
            ids
        };
        assert_eq!(once(&[1, 2, 9, 1]), [1, 2, 9, 1]);
        assert_eq!(once(&[1, 2]), [1, 2]);
        assert_eq!(once(&[1, 2, 1, 2, 9]), [1, 2, 9]);
        // A part of them: the end of what comes before, or a beginning of the text's own.
        assert_eq!(once(&[1, 2, 2, 9]), [1, 2, 9]);
        assert_eq!(once(&[1, 2, 1, 9]), [1, 9]);
        assert_eq!(once(&[9, 1, 2]), [9, 1, 2]);
        let mut ids = vec![1, 1];
        BeginTokens::default().put_once(&mut ids);
        assert_eq!(ids, [1, 1]);
    }
}
