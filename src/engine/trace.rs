//! Watching the engine step by step, for measurements: what ran, and what the pages were used for.
//!
//! Called by the engine thread; without a [`Trace`] it costs one comparison a step.

use super::table::Table;
use crate::cache::SequenceHandle;
use crate::scheduler::{BatchPlan, PageOwner, Scheduler};
use std::time::Duration;

/// Called on the engine thread after each step, which waits for it: copy what is wanted and return.
pub type TraceFn = Box<dyn FnMut(&StepTrace) + Send>;

/// Who watches, and how closely.
pub struct Trace {
    /// The watcher.
    pub call: TraceFn,
    /// Fill in [`StepTrace::pages`]; costs time for every page frame.
    pub pages: bool,
}

/// One step.
#[derive(Clone, Debug, Default)]
pub struct StepTrace {
    /// Number of the step, from 1.
    pub step: u64,
    /// What ran, in the order of the batch.
    pub rows: Vec<TraceRow>,
    /// Page frames sequences own, over all layer groups.
    pub pages_used: usize,
    /// Page frames only the prefix tree owns.
    pub pages_cached: usize,
    /// Page frames nobody owns.
    pub pages_free: usize,
    /// Token places of the used page frames.
    pub token_places: usize,
    /// Of these, places that hold a token.
    pub tokens_held: usize,
    /// Each page frame of the first layer group; empty unless asked for.
    pub pages: Vec<PageUse>,
    /// What the engine's thread spent: plan, submit and hand on, with waits for a device that works on its own left out. Where the
    /// CPU computes, that is in it.
    pub host: Duration,
}

/// Adjacent tokens of one request in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceRow {
    /// [`super::Request::id`]; 0 for a row nobody uses, which `static` batching computes.
    pub request_id: u64,
    /// Position of the first token.
    pub first: usize,
    /// Tokens.
    pub count: usize,
    /// Prompt rather than newly sampled.
    pub prefill: bool,
}

/// Who has a page frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PageUse {
    /// Nobody.
    #[default]
    Free,
    /// The prefix tree or pins alone.
    Cached,
    /// A request, by id.
    Used(u64),
    /// Several requests.
    Shared,
}

/// The engine thread's side.
pub(super) struct Tracer {
    trace: Trace,
    /// Reused for each step.
    step: StepTrace,
}

impl Tracer {
    pub fn new(trace: Trace) -> Tracer {
        Tracer { trace, step: StepTrace::default() }
    }

    /// Notes what is about to run or has run; before requests that end are forgotten.
    pub fn rows(&mut self, plan: &BatchPlan, scheduler: &Scheduler, active: &Table) {
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

    /// The step is over, or as far as the host has to do with it.
    pub fn call(&mut self, scheduler: &Scheduler, page_tokens: usize, host: Duration) {
        let step = &mut self.step;
        step.host = host;
        (step.pages_used, step.pages_cached, step.pages_free) = scheduler.pages();
        step.token_places = step.pages_used * page_tokens;
        step.tokens_held = step.token_places.saturating_sub(scheduler.empty_places());
        (self.trace.call)(step);
    }
}

/// The id of a sequence's request; 0 when it has ended.
fn id(active: &Table, handle: SequenceHandle) -> u64 {
    active.get(handle).map_or(0, |a| a.request.delivery.id)
}
