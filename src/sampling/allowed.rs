//! The token ids that may be sampled.

use crate::error::{Error, Result, filled, reserved};

/// The ids a tokenizer names. Models pad their vocabulary beyond it, and an id without a name has no text: it is never
/// sampled. Kept as a length with holes because that is what real vocabularies are.
#[derive(Clone, Debug, PartialEq)]
pub struct AllowedTokens {
    end: usize,
    /// Ids below `end` that are not allowed, ascending.
    holes: Vec<u32>,
}

impl AllowedTokens {
    /// Every id below `end` but for the `holes`, which are ascending.
    pub fn new(end: usize, holes: Vec<u32>) -> AllowedTokens {
        AllowedTokens { end, holes }
    }

    /// Every id below `vocab`, which is at least 1.
    pub fn all(vocab: usize) -> AllowedTokens {
        AllowedTokens { end: vocab.max(1), holes: Vec::new() }
    }

    /// Those of `ids` that are below `vocab`; order and repetition do not matter. None at all is an error.
    pub fn from_ids(vocab: usize, ids: impl IntoIterator<Item = u32>) -> Result<AllowedTokens> {
        let what = "the ids that may be sampled";
        let mut named = filled(what, vocab, false)?;
        for id in ids {
            if let Some(named) = named.get_mut(id as usize) {
                *named = true;
            }
        }
        let Some(last) = named.iter().rposition(|named| *named) else {
            let message = format!(
                "the tokenizer names no id below the model's vocabulary size {vocab}; it belongs to another model"
            );
            return Err(Error::format(message));
        };
        let unnamed = || (0u32..).zip(&named[..last]).filter(|(_, named)| !**named).map(|(id, _)| id);
        let mut holes = reserved(what, unnamed().count())?;
        holes.extend(unnamed());
        Ok(AllowedTokens { end: last + 1, holes })
    }

    /// Whether `id` may be sampled.
    pub fn contains(&self, id: u32) -> bool {
        (id as usize) < self.end && self.holes.binary_search(&id).is_err()
    }

    /// One past the highest allowed id.
    pub fn end(&self) -> usize {
        self.end
    }

    /// Ids below [`AllowedTokens::end`] that are not allowed, ascending.
    pub fn holes(&self) -> &[u32] {
        &self.holes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_and_holes() {
        let allowed = AllowedTokens::from_ids(10, [5, 0, 1, 3, 5, 99]).expect("some");
        assert_eq!((allowed.end(), allowed.holes()), (6, [2, 4].as_slice()));
        let members: Vec<u32> = (0..12).filter(|&id| allowed.contains(id)).collect();
        assert_eq!(members, [0, 1, 3, 5]);
        assert!(AllowedTokens::from_ids(10, [10]).is_err());
        assert_eq!(AllowedTokens::from_ids(4, 0..9).expect("some"), AllowedTokens::all(4));
    }
}
