//! The engine thread's side of [`super::trace`].

use super::table::Table;
use super::{
    DetailOptions, FrameOwner, PageUse, StepTrace, Trace, TraceDetail, TraceEvent, TraceNode, TraceOwner, TracePlace,
    TraceRequest, TraceRow,
};
use crate::cache::SequenceHandle;
use crate::error::Result;
use crate::limits;
use crate::scheduler::{Batch, Journal, Note, PageOwner, Scheduler, Sequence};
use std::time::{Duration, Instant};

/// The engine thread's state of the trace.
pub(super) struct Tracer {
    trace: Trace,
    /// The record, reused for each step.
    step: StepTrace,
    /// The detail while it is not in the record. Its events are those since it was last given.
    detail: Box<TraceDetail>,
    /// When the detail was last given.
    given: Option<Instant>,
}

impl Tracer {
    pub fn new(trace: Trace) -> Tracer {
        Tracer { trace, step: StepTrace::default(), detail: Box::default(), given: None }
    }

    /// The trace of an engine was set or taken away: what it needs of the scheduler and of ends is kept from now on, or no more.
    ///
    /// # Errors
    /// `Memory`.
    pub fn prepare(this: Option<&Tracer>, scheduler: &mut Scheduler, ends: &mut Journal<TraceEvent>) -> Result<()> {
        let keep = this.is_some_and(|tracer| tracer.trace.detail.is_some());
        scheduler.journal().keep(keep)?;
        ends.keep(keep)
    }

    /// Takes what happened up to now. Called after a step was scheduled, whose cleanup has removed those that have ended.
    pub fn scheduled(&mut self, scheduler: &mut Scheduler, ends: &mut Journal<TraceEvent>) {
        if self.trace.detail.is_none() {
            return;
        }
        let TraceDetail { events, events_lost, .. } = &mut *self.detail;
        let mut add = |event| match events.len() < limits::TRACE_EVENTS_MAX {
            true => events.push(event),
            false => *events_lost += 1,
        };
        // Sequences that compute a pin have no request.
        let lost = scheduler.journal().take(|note| match note {
            Note::Admitted { tag: 0, .. } | Note::Preempted { tag: 0, .. } => {}
            Note::Admitted { tag, tokens, reused } => add(TraceEvent::Admitted { request_id: tag, tokens, reused }),
            Note::Preempted { tag, computed, kept } => add(TraceEvent::Preempted { request_id: tag, computed, kept }),
        });
        let lost = lost + ends.take(&mut add);
        self.detail.events_lost += lost;
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
                drafts: row.drafts,
                prefill: row.prefill,
            });
        }
        if self.trace.pages {
            let pages = &mut self.step.pages;
            pages.clear();
            scheduler.page_owners(0, |owned| {
                let owner = match owned.owner {
                    PageOwner::Tree(_) | PageOwner::Pin(_) => PageUse::Cached,
                    PageOwner::Sequence(handle) => PageUse::Used(id(active, handle)),
                };
                let page = owned.page as usize;
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
    pub fn call(&mut self, scheduler: &Scheduler, in_flight: usize, host: Duration) {
        let step = &mut self.step;
        step.in_flight = in_flight;
        step.host = host;
        let due =
            |detail: DetailOptions| detail.every.is_zero() || self.given.is_none_or(|at| at.elapsed() >= detail.every);
        if self.trace.detail.is_some_and(due) {
            self.give_detail(scheduler);
        }
        self.finish(scheduler);
    }

    /// There is nothing to compute: a record without rows, if there is to be one.
    pub fn rest(&mut self, scheduler: &Scheduler) {
        if self.trace.detail.is_some() {
            self.step.rows.clear();
            (self.step.in_flight, self.step.host) = (0, Duration::ZERO);
            self.give_detail(scheduler);
            self.finish(scheduler);
        }
    }

    fn finish(&mut self, scheduler: &Scheduler) {
        let step = &mut self.step;
        (step.pages_used, step.pages_cached, step.pages_free) = scheduler.pages();
        step.token_places = step.pages_used * scheduler.capacity().page_tokens;
        step.tokens_held = step.token_places.saturating_sub(scheduler.empty_places());
        (self.trace.call)(step);
        if let Some(mut detail) = self.step.detail.take() {
            detail.events.clear();
            detail.events_lost = 0;
            self.detail = detail;
        }
    }

    /// Fills the detail in, and puts it into the record.
    fn give_detail(&mut self, scheduler: &Scheduler) {
        let tokens = self.trace.detail.is_some_and(|detail| detail.tokens);
        let mut detail = std::mem::take(&mut self.detail);
        detail.token_ids.clear();
        detail.requests.clear();
        for sequence in scheduler.sequences().filter(|s| s.tag != 0) {
            let known = if tokens { &sequence.tokens[..sequence.known()] } else { &[] };
            let token_ids = detail.token_ids.len()..detail.token_ids.len() + known.len();
            detail.token_ids.extend_from_slice(known);
            detail.requests.push(TraceRequest { token_ids, ..request(sequence) });
        }
        detail.nodes.clear();
        for node in scheduler.tree_nodes() {
            let known = if tokens { node.tokens } else { &[] };
            let token_ids = detail.token_ids.len()..detail.token_ids.len() + known.len();
            detail.token_ids.extend_from_slice(known);
            let (id, parent, hits) = (node.id, node.parent, node.hits);
            detail.nodes.push(TraceNode { id, parent, tokens: node.tokens.len() as u32, hits, token_ids });
        }
        let groups = &scheduler.capacity().groups;
        detail.groups.resize_with(groups.len(), Default::default);
        for (group, (to, capacity)) in detail.groups.iter_mut().zip(groups).enumerate() {
            to.frames = capacity.frames;
            to.owners.clear();
            scheduler.page_owners(group, |owned| {
                let owner = match owned.owner {
                    PageOwner::Tree(node) => TraceOwner::Tree(node),
                    PageOwner::Pin(place) => TraceOwner::Pin(place as u32),
                    PageOwner::Sequence(handle) => owner_of(scheduler.get(handle)),
                };
                to.owners.push(FrameOwner { frame: owned.page, owner, index: owned.index as u32 });
            });
        }
        self.given = Some(Instant::now());
        self.step.detail = Some(detail);
    }
}

/// The id of a sequence's request; 0 when there is no active one.
fn id(active: &Table, handle: SequenceHandle) -> u64 {
    active.get(handle).map_or(0, |a| a.request.delivery.id)
}

/// A sequence as the owner of its pages.
fn owner_of(sequence: Option<&Sequence>) -> TraceOwner {
    let pin = sequence.and_then(|s| s.pin);
    pin.map_or(TraceOwner::Request(sequence.map_or(0, |s| s.tag)), |pin| TraceOwner::Pin(pin.index() as u32))
}

fn request(sequence: &Sequence) -> TraceRequest {
    let place = match (sequence.finished, sequence.is_running()) {
        (true, _) => TracePlace::Ended,
        (false, true) => TracePlace::Running,
        (false, false) => TracePlace::Waiting,
    };
    TraceRequest {
        id: sequence.tag,
        place,
        paused: sequence.paused,
        prompt_tokens: sequence.prompt_len,
        tokens: sequence.tokens.len(),
        computed: sequence.computed,
        reused: sequence.cached_tokens.unwrap_or(0),
        preemptions: sequence.preemptions,
        token_ids: 0..0,
    }
}

#[cfg(test)]
mod tests;
