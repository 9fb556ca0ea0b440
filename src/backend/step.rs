//! The input of one step: arrays of integers, copied to the device before the step's operations.

/// Page tables of one layer group in a step; see [`Ragged`].
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// Page frame numbers: the page tables of all sequences, concatenated.
    pub pages: Vec<u32>,
    /// `[sequences]`: index in `pages` of the first entry of each sequence's table.
    pub starts: Vec<u32>,
}

/// The input of one step.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// `[rows]`: token ids, or references to rows of the last step if the device samples ([`super::FROM_LAST_STEP`]).
    pub tokens: Vec<u32>,
    /// `[rows]`: absolute positions. The rows of a sequence are adjacent, with consecutive positions.
    pub positions: Vec<u32>,
    /// `[rows]`: index of the sequence within the step.
    pub sequences: Vec<u32>,
    /// Rows whose logits are needed, ascending.
    pub logits_indices: Vec<u32>,
    /// One entry for each layer group.
    pub tables: Vec<Tables>,
}

impl Step {
    /// Clears all lists and keeps their capacity.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.sequences.clear();
        self.logits_indices.clear();
        for t in &mut self.tables {
            t.pages.clear();
            t.starts.clear();
        }
    }

    /// The rows together with the page tables of one layer group.
    pub fn ragged(&self, group: usize) -> Ragged<'_> {
        let t = &self.tables[group];
        Ragged {
            group,
            positions: &self.positions,
            sequences: &self.sequences,
            tables: &t.pages,
            table_starts: &t.starts,
        }
    }
}

/// The rows of a step with the page tables of one layer group, as input of attention. Row `r` is the token at
/// `positions[r]` of sequence `sequences[r]`; the rows of a sequence are adjacent, with consecutive positions.
#[derive(Clone, Copy, Debug)]
pub struct Ragged<'a> {
    /// Index of the layer group.
    pub group: usize,
    /// `[rows]`: absolute position of each token.
    pub positions: &'a [u32],
    /// `[rows]`: index into `table_starts`.
    pub sequences: &'a [u32],
    /// Page tables of all sequences, concatenated: entry `p / page_tokens` is the frame of position `p`.
    pub tables: &'a [u32],
    /// `[sequences]`: index in `tables` of the first entry of each sequence's table.
    pub table_starts: &'a [u32],
}
