//! The engine thread's side of [`super::trace`].

use super::table::Table;
use super::{PageUse, StepTrace, Trace, TraceRow};
use crate::cache::SequenceHandle;
use crate::scheduler::{Batch, PageOwner, Scheduler};
use std::time::Duration;

/// The engine thread's state of the trace.
pub(super) struct Tracer {
    trace: Trace,
    /// The record, reused for each step.
    step: StepTrace,
}

impl Tracer {
    pub fn new(trace: Trace) -> Tracer {
        Tracer { trace, step: StepTrace::default() }
    }

    /// Records the rows and the page use of a step. Called before the step's requests can end, as their ids are looked
    /// up in `active`.
    pub fn rows(&mut self, plan: &Batch, scheduler: &Scheduler, active: &Table) {
        self.step.step += 1;
        self.step.rows.clear();
        for row in &plan.rows {
            self.step.rows.push(TraceRow {
                request_id: id(active, row.sequence),
                first: row.first,
                count: row.count,
                prefill: scheduler.get(row.sequence).is_some_and(|s| row.is_prefill(s)),
            });
        }
        if self.trace.pages {
            let pages = &mut self.step.pages;
            pages.clear();
            scheduler.page_owners(0, |page, owner| {
                let owner = match owner {
                    PageOwner::Tree | PageOwner::Pin => PageUse::Cached,
                    PageOwner::Sequence(handle) => PageUse::Used(id(active, handle)),
                };
                let page = page as usize;
                if page >= pages.len() {
                    pages.resize(page + 1, PageUse::Free);
                }
                pages[page] = match (pages[page], owner) {
                    (PageUse::Used(_) | PageUse::Shared, PageUse::Used(_)) => PageUse::Shared,
                    (used @ (PageUse::Used(_) | PageUse::Shared), PageUse::Cached) => used,
                    _ => owner,
                };
            });
        }
    }

    /// Completes the record and calls the callback. `host`: the engine thread's time for the step.
    pub fn call(&mut self, scheduler: &Scheduler, page_tokens: usize, in_flight: usize, host: Duration) {
        let step = &mut self.step;
        step.in_flight = in_flight;
        step.host = host;
        (step.pages_used, step.pages_cached, step.pages_free) = scheduler.pages();
        step.token_places = step.pages_used * page_tokens;
        step.tokens_held = step.token_places.saturating_sub(scheduler.empty_places());
        (self.trace.call)(step);
    }
}

/// The id of a sequence's request; 0 when there is no active one.
fn id(active: &Table, handle: SequenceHandle) -> u64 {
    active.get(handle).map_or(0, |a| a.request.delivery.id)
}
