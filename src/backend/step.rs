//! The input of one step: plain integers, handed to the device before its operations.

/// Page tables of one layer group in a step; see [`Ragged`].
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// Page frames, one sequence's table after the other.
    pub pages: Vec<u32>,
    /// First entry of each sequence.
    pub starts: Vec<u32>,
}

/// The input of one step.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// `[rows]`: token ids; on a device that samples also [`super::FROM_LAST_STEP`] ones.
    pub tokens: Vec<u32>,
    /// `[rows]`: absolute positions; the rows of a sequence are adjacent and ascend by one.
    pub positions: Vec<u32>,
    /// `[rows]`: index of the sequence within the step.
    pub sequences: Vec<u32>,
    /// Rows whose logits are wanted, ascending.
    pub logits_indices: Vec<u32>,
    /// Page tables, for each layer group.
    pub tables: Vec<Tables>,
}

impl Step {
    /// Empties it for the next step and keeps the memory.
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

    /// The rows as attention over the pages of a layer group sees them.
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

/// The rows of a step as attention sees them. Row `r` is the token at `positions[r]` of sequence `sequences[r]`; rows
/// of a sequence are adjacent and their positions ascend by one.
#[derive(Clone, Copy, Debug)]
pub struct Ragged<'a> {
    /// Whose tables these are, among the step's.
    pub group: usize,
    /// `[rows]`: absolute position of each token.
    pub positions: &'a [u32],
    /// `[rows]`: index into `table_starts`.
    pub sequences: &'a [u32],
    /// Page frames of all sequences, one table after the other: the frame of position p is at p / page_tokens.
    pub tables: &'a [u32],
    /// `[sequences]`: first entry of each sequence's table.
    pub table_starts: &'a [u32],
}
