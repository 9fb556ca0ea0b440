//! The beginning of a step: padding, the upload of its input, and whether its operations are submitted or replayed.

use super::graphs::Kind;
use super::state::CudaBackend;
use crate::backend::{FrameContent, NO_STATE, Step, Tables};
use crate::sampling::SamplingRequest;

/// The number of rows to which a step of `rows` rows of different sequences is padded, so that more steps share a recording.
fn padded(rows: usize) -> usize {
    match rows {
        0..=8 => rows.next_power_of_two(),
        9..=64 => rows.next_multiple_of(8),
        65..=256 => rows.next_multiple_of(32),
        _ => rows.next_multiple_of(64),
    }
}

/// Whether the rows are one of each sequence, and a token is sampled for every one: a step that may be recorded.
fn only_decodes(step: &Step) -> bool {
    let rows = step.tokens.len();
    let each = step.tables.first().is_some_and(|tables| tables.starts.len() == rows);
    rows > 0 && each && step.logits_indices.len() == rows && step.sampling.rows.len() == rows
}

impl CudaBackend {
    /// See [`crate::backend::Steps::begin`].
    pub(super) fn begin_step(&mut self) {
        self.asked_whole = self.step.sampling.rows.len() == self.step.logits_indices.len();
        let recordable = only_decodes(&self.step);
        if recordable {
            self.pad();
        }
        let inputs = self.inputs.as_mut().expect("reserved before the first step");
        // Also for a step that will not run because an earlier one, whose error was not reported yet, failed.
        inputs.rows = self.step.tokens.len();
        if self.failure.is_some() {
            return;
        }
        let uploaded = inputs.upload(&self.step);
        self.note(uploaded);
        if self.asked_whole {
            self.upload_requests();
        }
        if recordable && self.failure.is_none() {
            let (inputs, lists) = (self.inputs(), self.scratch.as_ref().is_some_and(|s| s.sampling.needs_lists()));
            let kind = Kind { rows: inputs.rows, spans: inputs.units.single_spans, lists };
            // Rounded copies of an earlier step are not there when a graph runs.
            self.forget_rounded();
            self.graphs.begin(kind);
        }
    }

    /// Uploads what is asked of the rows of logits.
    pub(super) fn upload_requests(&mut self) {
        if let (None, Some(scratch)) = (&self.failure, &mut self.scratch) {
            let uploaded = scratch.sampling.upload(&self.step.sampling);
            self.note(uploaded);
        }
    }

    /// Adds idle rows, whose only page is the extra frame after the last. Where the page lists have no room there is no
    /// padding: sequences that share pages may list more than were reserved.
    fn pad(&mut self) {
        let most = self.scratch().rows_max;
        let step = &mut self.step;
        let rows = step.tokens.len();
        let padded = padded(rows).min(most);
        let room = |tables: &mut Tables| tables.pages.try_reserve(2 * padded.saturating_sub(rows)).is_ok();
        if !step.tables.iter_mut().all(room) {
            return;
        }
        for row in rows..padded {
            step.tokens.push(0);
            step.positions.push(0);
            step.sequences.push(row as u32);
            step.logits_indices.push(row as u32);
            for (tables, group) in step.tables.iter_mut().zip(&self.groups) {
                tables.starts.push(tables.pages.len() as u32);
                if group.shape.content == FrameContent::State {
                    tables.pages.push(NO_STATE);
                }
                tables.pages.push(group.shape.frames as u32);
            }
            step.sampling.rows.push(SamplingRequest::default());
        }
    }
}
