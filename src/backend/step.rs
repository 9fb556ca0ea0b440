//! The input of one step: what the host tells the device before the step's operations.

use super::memory::MaxBatchShape;
use crate::error::{Result, reserved};
use crate::sampling::SamplingRequests;

/// No frame: the state of a sequence of which nothing is computed yet.
pub const NO_STATE: u32 = u32::MAX;

/// Page tables of one layer group in a step; see [`Ragged`].
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// Page frame numbers: the page tables of all sequences, concatenated. A group of states has two entries for each sequence:
    /// the frame that is read, or [`NO_STATE`], and the one that is written.
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
    /// One entry for each layer group, in the order in which their pages were made.
    pub tables: Vec<Tables>,
    /// What is asked of the rows of logits, one request for each: of all `logits_indices` when the step begins, or, where they
    /// are more than can be asked for at once, of those that the next [`super::Sampling::sample`] computes.
    pub sampling: SamplingRequests,
}

impl Step {
    /// An empty step with room for the largest one. Only its page lists may have to grow: sequences that share pages can
    /// list more pages than exist.
    ///
    /// # Errors
    /// `Memory`.
    pub fn with_capacity(max_shape: &MaxBatchShape) -> Result<Step> {
        let (rows, sequences) = (max_shape.rows, max_shape.sequences);
        let tokens = || reserved("the tokens of a step", rows);
        let pages_each = max_shape.positions.div_ceil(max_shape.page_tokens.max(1)).max(2);
        let pages = sequences.saturating_mul(pages_each).min(max_shape.table_pages).saturating_add(2 * sequences);
        let tables = || {
            let what = "the page tables of a step";
            Ok(Tables { pages: reserved(what, pages)?, starts: reserved(what, sequences)? })
        };
        Ok(Step {
            tokens: tokens()?,
            positions: tokens()?,
            sequences: tokens()?,
            logits_indices: tokens()?,
            tables: (0..max_shape.groups).map(|_| tables()).collect::<Result<_>>()?,
            sampling: SamplingRequests::new(max_shape.logits_rows, max_shape.vocab)?,
        })
    }

    /// Clears all lists and keeps their capacity.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.sequences.clear();
        self.logits_indices.clear();
        self.sampling.clear();
        for t in &mut self.tables {
            t.pages.clear();
            t.starts.clear();
        }
    }

    /// The rows together with the page tables of one layer group.
    pub fn ragged(&self, group: usize) -> Ragged<'_> {
        let t = &self.tables[group];
        Ragged { positions: &self.positions, sequences: &self.sequences, tables: &t.pages, table_starts: &t.starts }
    }
}

/// The rows of a step with the page tables of one layer group, as input of attention. Row `r` is the token at
/// `positions[r]` of sequence `sequences[r]`; the rows of a sequence are adjacent, with consecutive positions.
#[derive(Clone, Copy, Debug)]
pub struct Ragged<'a> {
    /// `[rows]`: absolute position of each token.
    pub positions: &'a [u32],
    /// `[rows]`: index into `table_starts`.
    pub sequences: &'a [u32],
    /// Page tables of all sequences, concatenated: entry `p / page_tokens` is the frame of position `p`.
    pub tables: &'a [u32],
    /// `[sequences]`: index in `tables` of the first entry of each sequence's table.
    pub table_starts: &'a [u32],
}

/// Flag in [`Step::tokens`]: an entry with this bit set holds, in its other bits, the index of a row of logits
/// of the last step; the device replaces it by the token sampled for that row.
pub const FROM_LAST_STEP: u32 = 1 << 31;

/// The steps of a device.
pub trait Steps {
    /// The input of the next step, for the host to fill. After [`Steps::begin`] it is that of the step being submitted, which the
    /// device may have padded with rows whose results nobody looks at.
    fn step(&mut self) -> &mut Step;

    /// Begins the step that was filled in: the operations until the next call are those of this step.
    fn begin(&mut self);

    /// Steps that may be in flight at once: with 1, a step is computed by the calls that submit it, and its samples are there when
    /// they return; with more, the next step may take its tokens from the last one ([`FROM_LAST_STEP`]).
    fn steps_in_flight(&self) -> usize;
}
