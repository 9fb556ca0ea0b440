//! The upload of a step's integers: one block of words, written to pinned memory and copied to the device.
//!
//! The device has one copy at a fixed address, so that a captured graph finds the next step's integers there. Steps
//! with at most one row per sequence use a smaller layout, at an address of their own, so that they copy few bytes. The
//! host has several copies and uses them in turns: it writes the next step's while the transfers of earlier ones are
//! still in flight.

use super::driver::{Device, check};
use super::memory::{Buffer, Event, Pinned};
use crate::backend::{MaxBatchShape, Step};
use crate::error::{Error, Result};
use cudarc::driver::sys;
use std::sync::Arc;

/// Number of pinned copies: uploads that may be in flight at once.
const IN_FLIGHT: usize = 3;

/// The start of each array, in words.
#[derive(Clone, Copy, Debug, Default)]
struct StagingLayout {
    rows: usize,
    sequences: usize,
    positions: usize,
    sequence_of: usize,
    units: usize,
    logits_indices: usize,
    runs: usize,
    starts: usize,
    tables: usize,
    /// Capacity of the page tables of one layer group, in entries.
    table_entries: usize,
    groups: usize,
}

impl StagingLayout {
    /// The layout for steps of up to `rows` rows.
    fn of(l: &MaxBatchShape, rows: usize) -> StagingLayout {
        let sequences = l.sequences.max(1);
        let runs = 6 * rows;
        let starts = runs + 2 * sequences;
        let tables = starts + l.groups * sequences;
        let pages = l.positions.div_ceil(l.page_tokens.max(1)).saturating_add(1);
        StagingLayout {
            rows,
            sequences,
            positions: rows,
            sequence_of: 2 * rows,
            units: 3 * rows,
            logits_indices: 5 * rows,
            runs,
            starts,
            tables,
            table_entries: sequences.saturating_mul(pages),
            groups: l.groups,
        }
    }

    fn words(&self) -> usize {
        self.groups.saturating_mul(self.table_entries).saturating_add(self.tables)
    }
}

/// The layouts for steps with at most one row per sequence, and for all steps.
fn layouts(max_shape: &MaxBatchShape) -> [StagingLayout; 2] {
    [max_shape.sequences.max(1), max_shape.rows].map(|rows| StagingLayout::of(max_shape, rows))
}

/// Bytes of device memory.
pub fn bytes(max_shape: &MaxBatchShape) -> u64 {
    let words = layouts(max_shape).iter().map(|l| l.words() as u64).fold(0, u64::saturating_add);
    words.saturating_mul(4)
}

/// The units of a step, as attention needs them for its launches. A unit is a run of adjacent rows of one sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Units {
    /// Number of units with one row; they come first.
    pub single: usize,
    /// The row index of the last of these; and the maximum number of key spans among them, rounded up to a power of
    /// two, so that a recorded step can serve others.
    pub single_last_row: usize,
    pub single_spans: usize,
    /// Number of units with several rows, and the maximum number of rows among them.
    pub several: usize,
    pub several_rows_max: usize,
}

/// The integers of the current step on the device, and their staging memory on the host.
pub struct Inputs {
    device: Arc<Device>,
    layouts: [StagingLayout; 2],
    /// The layout of the current step, and the word at which it begins on the device.
    layout: StagingLayout,
    start: usize,
    there: Buffer,
    here: Vec<(Pinned, Event)>,
    turn: usize,
    pub units: Units,
    /// Sequences of the current step.
    pub runs: usize,
    /// Number of rows of the current step; set before its upload.
    pub rows: usize,
}

impl Inputs {
    /// Allocates memory for the largest step.
    pub fn new(device: &Arc<Device>, max_shape: &MaxBatchShape, blocking: bool) -> Result<Inputs> {
        let layouts = layouts(max_shape);
        let what = "the rows and page tables of a step";
        let words = layouts[0].words().checked_add(layouts[1].words());
        let bytes = words.and_then(|words| words.checked_mul(4)).ok_or_else(|| Error::memory(what, u64::MAX))?;
        let one = || Ok((Pinned::zeroed(device, bytes, what)?, Event::new(device, blocking)?));
        Ok(Inputs {
            device: device.clone(),
            layout: layouts[0],
            layouts,
            start: 0,
            there: Buffer::zeroed(device, bytes, what)?,
            here: (0..IN_FLIGHT).map(|_| one()).collect::<Result<_>>()?,
            turn: 0,
            units: Units::default(),
            runs: 0,
            rows: 0,
        })
    }

    fn at(&self, word: usize) -> u64 {
        self.there.address + (self.start + word) as u64 * 4
    }

    /// Device addresses of the `[rows]` tokens, positions and sequence numbers.
    pub fn tokens(&self) -> u64 {
        self.at(0)
    }

    pub fn positions(&self) -> u64 {
        self.at(self.layout.positions)
    }

    pub fn sequences(&self) -> u64 {
        self.at(self.layout.sequence_of)
    }

    /// Device address of the `index`-th unit, two words: its first row and its number of rows, as in
    /// `kernels/attention.cuh`.
    pub fn unit(&self, index: usize) -> u64 {
        self.at(self.layout.units + 2 * index)
    }

    /// Device address of the `index`-th entry of the list of rows whose logits are computed.
    pub fn logits_indices(&self, index: usize) -> u64 {
        self.at(self.layout.logits_indices + index)
    }

    /// Device address of the rows of each sequence, two words: the first and their number.
    pub fn runs(&self) -> u64 {
        self.at(self.layout.runs)
    }

    /// Device addresses of a layer group's page tables, and of the index at which each sequence's table begins.
    pub fn tables(&self, group: usize) -> (u64, u64) {
        let l = &self.layout;
        (self.at(l.tables + group * l.table_entries), self.at(l.starts + group * l.sequences))
    }

    /// Writes the step to pinned memory and submits its copy.
    pub fn upload(&mut self, step: &Step) -> Result<()> {
        let small = step.tokens.len().max(step.logits_indices.len()) <= self.layouts[0].rows;
        let l = self.layouts[usize::from(!small)];
        (self.layout, self.start) = (l, if small { 0 } else { self.layouts[0].words() });
        let start = self.start;
        let (rows, longest) = (step.tokens.len(), step.tables.iter().map(|t| t.pages.len()).max().unwrap_or(0));
        let sequences = step.tables.iter().map(|t| t.starts.len()).max().unwrap_or(0);
        if rows.max(step.logits_indices.len()) > l.rows
            || sequences > l.sequences
            || longest > l.table_entries
            || step.tables.len() > l.groups
        {
            return Err(Error::internal(format!(
                "a step of {rows} rows, {sequences} sequences and {longest} pages of tables; room is for {}, {} and {}",
                l.rows, l.sequences, l.table_entries
            )));
        }
        self.turn = (self.turn + 1) % self.here.len();
        let (pinned, copied) = &mut self.here[self.turn];
        // Wait for the last copy that used this memory.
        copied.wait()?;
        let words = &mut pinned.words_mut()[start..];
        words[..rows].copy_from_slice(&step.tokens);
        words[l.positions..l.positions + rows].copy_from_slice(&step.positions);
        words[l.sequence_of..l.sequence_of + rows].copy_from_slice(&step.sequences);
        words[l.logits_indices..l.logits_indices + step.logits_indices.len()].copy_from_slice(&step.logits_indices);
        self.units = write_units(step, &mut words[l.units..l.units + 2 * rows]);
        self.runs = write_runs(step, &mut words[l.runs..l.starts]);
        for (group, tables) in step.tables.iter().enumerate() {
            let at = l.starts + group * l.sequences;
            words[at..at + tables.starts.len()].copy_from_slice(&tables.starts);
            let at = l.tables + group * l.table_entries;
            words[at..at + tables.pages.len()].copy_from_slice(&tables.pages);
        }
        // One copy from the beginning to the used part of the first group's tables, then one for each other group's
        // tables.
        for (group, tables) in step.tables.iter().enumerate() {
            let at = l.tables + group * l.table_entries;
            let from = if group == 0 { 0 } else { at };
            copy(&self.device, &self.there, pinned, start + from..start + at + tables.pages.len())?;
        }
        copied.record()
    }
}

/// Submits the copy of a range of words to the same offset on the device.
fn copy(device: &Device, to: &Buffer, from: &Pinned, words: std::ops::Range<usize>) -> Result<()> {
    let bytes = &from.bytes()[words.start * 4..words.end * 4];
    if bytes.is_empty() {
        return Ok(());
    }
    let _entered = device.enter()?;
    // SAFETY: both sides have the layout's size, and the pinned memory is not written before the event recorded after
    // this copy.
    let answer = unsafe {
        sys::cuMemcpyHtoDAsync_v2(
            to.address + words.start as u64 * 4,
            bytes.as_ptr().cast(),
            bytes.len(),
            device.stream,
        )
    };
    check(answer, "copy a step's input")
}

/// Maximum rows of a unit: their queries are counted in a grid dimension that is limited to 65,535.
const UNIT_ROWS_MAX: usize = 1024;

/// Divides the rows into units and writes them, those with one row first.
fn write_units(step: &Step, words: &mut [u32]) -> Units {
    let mut units = Units::default();
    let each = |single: bool, write: &mut dyn FnMut(usize, usize)| {
        let mut first = 0;
        for run in step.sequences.chunk_by(|a, b| a == b) {
            for unit in run.chunks(UNIT_ROWS_MAX) {
                if (unit.len() == 1) == single {
                    write(first, unit.len());
                }
                first += unit.len();
            }
        }
    };
    let mut at = 0;
    let mut put = |first: usize, rows: usize| {
        (words[at], words[at + 1]) = (first as u32, rows as u32);
        at += 2;
    };
    each(true, &mut |first, rows| {
        put(first, rows);
        units.single += 1;
        units.single_last_row = first;
        let spans = step.positions[first] as usize / super::attention::SPAN_KEYS + 1;
        units.single_spans = units.single_spans.max(spans.next_power_of_two());
    });
    each(false, &mut |first, rows| {
        put(first, rows);
        units.several += 1;
        units.several_rows_max = units.several_rows_max.max(rows);
    });
    units
}

/// Writes the rows of each sequence; returns how many sequences there are.
fn write_runs(step: &Step, words: &mut [u32]) -> usize {
    let mut first = 0;
    let runs = step.sequences.chunk_by(|a, b| a == b);
    let written = runs.zip(words.as_chunks_mut::<2>().0).map(|(run, words)| {
        *words = [first, run.len() as u32];
        first += run.len() as u32;
    });
    written.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_one_row_come_first() {
        let step = Step {
            tokens: vec![0; 7],
            positions: vec![4, 0, 1, 2, 700, 7, 8],
            sequences: vec![0, 1, 1, 1, 2, 3, 3],
            ..Step::default()
        };
        let mut words = [9; 14];
        let units = write_units(&step, &mut words);
        let expected = Units { single: 2, single_last_row: 4, single_spans: 4, several: 2, several_rows_max: 3 };
        assert_eq!(units, expected);
        assert_eq!(words, [0, 1, 4, 1, 1, 3, 5, 2, 9, 9, 9, 9, 9, 9]);
        let mut words = [9; 10];
        assert_eq!((write_runs(&step, &mut words), words), (4, [0, 1, 1, 3, 4, 1, 5, 2, 9, 9]));
    }

    #[test]
    fn a_long_run_is_several_units_its_last_row_perhaps_one_of_its_own() {
        let rows = 2 * UNIT_ROWS_MAX + 1;
        let step = Step {
            tokens: vec![0; rows],
            positions: (0..rows as u32).collect(),
            sequences: vec![0; rows],
            ..Step::default()
        };
        let mut words = vec![9; 2 * rows];
        let units = write_units(&step, &mut words);
        let spans = ((rows - 1) / super::super::attention::SPAN_KEYS + 1).next_power_of_two();
        let expected = Units {
            single: 1,
            single_last_row: rows - 1,
            single_spans: spans,
            several: 2,
            several_rows_max: UNIT_ROWS_MAX,
        };
        assert_eq!(units, expected);
        let (unit, last) = (UNIT_ROWS_MAX as u32, rows as u32 - 1);
        assert_eq!(words[..6], [last, 1, 0, unit, unit, unit]);
    }
}
