//! Embeddings: the hidden states of a step's rows go to the requests that want them, which end with their last one.

use super::{End, EngineState, FinishReason};
use crate::error::Result;
use crate::limits;
use std::time::Instant;

/// Adds the hidden states of the step that was submitted to the embeddings that they are of, and ends the requests whose prompt is
/// computed. The work of the step began at `begun`. To be called after the step's tokens are sampled. Where some are wanted, it waits for the step, and says so.
///
/// # Errors
/// `Device`.
pub(super) fn pool(state: &mut EngineState, begun: Instant) -> Result<bool> {
    let (mut start, mut any) = (0, false);
    for index in 0..state.runner.batch.rows.len() {
        let row = state.runner.batch.rows[index];
        let (runner, computed) = (&mut state.runner, row.first..row.first + row.count);
        let first_row = start;
        start += row.count;
        let Some(active) = state.requests.active.get_mut(row.sequence) else { continue };
        let (Some(embedding), Some(pooled)) = (&active.request.embedding, &mut active.pooled) else { continue };
        let embedder = &embedding.embedder;
        loop {
            let wanted = embedder.wanted(pooled, &computed);
            let rows = wanted.len().min(limits::EMBEDDING_ROWS);
            if rows == 0 {
                break;
            }
            runner.states.resize(rows * embedder.hidden(), 0.0);
            let first = first_row + wanted.start - row.first;
            runner.model.read_hidden(&mut *runner.backend, first, rows, &mut runner.states)?;
            embedder.add(pooled, &runner.states);
            any = true;
        }
        if computed.end < active.request.prompt.len() {
            continue;
        }
        // Its steps are accounted for when they are finished, this one after the end of the request.
        active.prefill += begun.elapsed();
        let end = match embedder.finish(pooled) {
            Ok(vector) => {
                active.vector = vector;
                End::Finished(FinishReason::Length)
            }
            Err(error) => End::Failed(error),
        };
        state.end(row.sequence, end);
    }
    Ok(any)
}
