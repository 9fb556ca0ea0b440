//! Tokens that begin a sequence (BOS). The tokenizer puts them before raw text, but not a second time before text that
//! already begins with them, as a rendered chat does. A prompt that still begins with two of them (its token ids are
//! not checked) gets a warning in the log.

use crate::text::Tokenizer;

/// Short texts of which every tokenizer makes at least one token from at least one.
const PROBES: [&str; 3] = ["a", "0", "."];

/// The tokens that a tokenizer puts before a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct BeginTokens(Vec<u32>);

impl BeginTokens {
    /// Finds them by encoding a probe with and without special tokens.
    pub fn of(tokenizer: &Tokenizer) -> BeginTokens {
        let before = PROBES.iter().find_map(|probe| {
            let own = tokenizer.encode(probe, false, false).ok().filter(|own| !own.is_empty())?;
            let all = tokenizer.encode(probe, true, false).ok()?;
            let at = all.windows(own.len()).position(|window| window == own)?;
            all.get(..at).map(<[u32]>::to_vec)
        });
        BeginTokens(before.unwrap_or_default())
    }

    /// The first two of them, if there are at least two.
    pub fn pair(&self) -> Option<&[u32]> {
        self.0.get(..2)
    }

    /// The first of them.
    pub fn first(&self) -> Option<u32> {
        self.0.first().copied()
    }

    /// `ids` are these tokens followed by those of a text. Removes from these what the text itself begins with.
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
        // Partial overlaps: the text begins with the end of these tokens, or only with the first of them.
        assert_eq!(once(&[1, 2, 2, 9]), [1, 2, 9]);
        assert_eq!(once(&[1, 2, 1, 9]), [1, 9]);
        assert_eq!(once(&[9, 1, 2]), [9, 1, 2]);
        let mut ids = vec![1, 1];
        BeginTokens::default().put_once(&mut ids);
        assert_eq!(ids, [1, 1]);
    }
}
