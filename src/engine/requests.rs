//! The requests of the engine thread, from their command to their terminal event.
//!
//! A request is *deferred* while its prompt is being prepared, *active* while it has a sequence in the scheduler. Every
//! way of ending one is here: it gives its sequence back, counts it, and sends the terminal event, once (law 4).

use super::active::{Active, History};
use super::command::ReadyPrompt;
use super::delivery::Piece;
use super::drafting::Drafting;
use super::guide::Verdict;
use super::host_logits::Chosen;
use super::stats::Counters;
use super::table::Table;
use super::{End, FinishReason, LogLevel, NewRequest, Outbox, Shared, TraceEvent, panicked};
use crate::cache::SequenceHandle;
use crate::error::{Error, Result, copied};
use crate::os::shortage;
use crate::scheduler::{Journal, Row, Scheduler};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// All requests that have been accepted and have not ended.
pub(super) struct Requests {
    shared: Arc<Shared>,
    pub active: Table,
    /// Requests whose prompts are being prepared, by id, which is the order of their submits.
    deferred: BTreeMap<u64, Box<NewRequest>>,
    /// The request that [`Requests::submit`] is working on. It is not in `active` yet; if that panics, it is failed from
    /// here.
    admitting: Option<Arc<Outbox>>,
    pub counters: Counters,
    /// Of an engine that speculates.
    pub drafting: Option<Drafting>,
    /// Constrained requests whose guides compute.
    guided: Vec<SequenceHandle>,
    /// Ends, for a trace.
    pub ends: Journal<TraceEvent>,
    /// Set by a panic or a device failure: the error that every request gets. No step runs any more.
    dead: Option<Error>,
}

impl Requests {
    /// No requests.
    pub fn new(shared: Arc<Shared>, drafting: Option<Drafting>) -> Requests {
        Requests {
            shared,
            active: Table::default(),
            deferred: BTreeMap::new(),
            admitting: None,
            counters: Counters::default(),
            drafting,
            guided: Vec::new(),
            ends: Journal::default(),
            dead: None,
        }
    }

    /// Why the engine is dead, if it is.
    pub fn dead(&self) -> Option<&Error> {
        self.dead.as_ref()
    }

    /// Whether there are none, active or deferred.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty() && self.deferred.is_empty()
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.active.next_deadline().into_iter().chain(self.deferred_deadlines()).min()
    }

    fn deferred_deadlines(&self) -> impl Iterator<Item = Instant> {
        self.deferred.values().filter_map(|request| request.deadline)
    }

    /// Publishes a new snapshot of the statistics.
    pub fn publish(&mut self, scheduler: &Scheduler) {
        let log_dropped = self.shared.dispatch.logs_dropped();
        let saved = self.drafting.as_mut().map_or(0, Drafting::saved_us);
        self.counters.publish(scheduler, self.deferred.len(), log_dropped, saved, &self.shared.stats);
    }

    /// Gives a request a sequence, or ends it.
    pub fn submit(&mut self, request: NewRequest, scheduler: &mut Scheduler) {
        let delivery = request.delivery.clone();
        self.admitting = Some(delivery.clone());
        if let Err(error) = self.admit(request, scheduler) {
            self.counters.ended(delivery.fail(error));
        }
        self.admitting = None;
    }

    fn admit(&mut self, mut request: NewRequest, scheduler: &mut Scheduler) -> Result<()> {
        if let Some(why) = &self.dead {
            return Err(why.clone());
        }
        // The scheduler's copy grows with the generated tokens; the request keeps its own for prompt logprobs and
        // usage.
        let prompt = copied("a prompt", &request.prompt)?;
        let computes = request.embedding.as_ref().map(|embedding| embedding.computes);
        let logits_from = match computes {
            Some(_) => prompt.len(),
            None if request.prompt_logprobs => 0,
            None => prompt.len() - 1,
        };
        let len_max = prompt.len() + request.max_tokens;
        self.counters.took_in(prompt.len());
        let nothing_to_do = request.max_tokens == 0 && !request.prompt_logprobs && computes.is_none();
        if nothing_to_do {
            request.stream = None;
        }
        if request.guide.is_some() {
            let most = self.active.len() + 1;
            let refused = |_| Error::memory("constrained requests", (most * size_of::<SequenceHandle>()) as u64);
            self.guided.try_reserve(most.saturating_sub(self.guided.len())).map_err(refused)?;
        }
        let handle = scheduler.submit(prompt, len_max, logits_from, request.priority)?;
        scheduler.set_tag(handle, request.delivery.id);
        scheduler.set_computes(handle, computes.unwrap_or_default());
        let entered = Active::new(request, handle).and_then(|active| {
            self.active.reserve(handle)?;
            self.active.insert(active);
            Ok(())
        });
        entered.inspect_err(|_| scheduler.finish(handle))?;
        // An answer that may only be empty, without an end token to say so.
        let verdict = self.active.get(handle).and_then(|active| Some(active.request.guide.as_ref()?.verdict()));
        if let Err(error) = shortage::check("a request") {
            self.end(handle, End::Failed(error), scheduler);
        } else if let Some(Verdict::Failed(error)) = verdict {
            self.end(handle, End::Failed(error), scheduler);
        } else if matches!(verdict, Some(Verdict::Over)) {
            self.end(handle, End::Finished(FinishReason::Stop), scheduler);
        } else if nothing_to_do {
            self.end(handle, End::Finished(FinishReason::Length), scheduler);
        }
        Ok(())
    }

    /// Takes a request whose prompt is being prepared.
    pub fn defer(&mut self, request: Box<NewRequest>) {
        self.deferred.insert(request.delivery.id, request);
        if let Some(why) = self.dead.clone() {
            self.end_deferred_where(|_| true, || End::Failed(why.clone()));
        }
    }

    /// Submits a deferred request whose prompt is ready, or fails it with the error. Does nothing when the request has ended.
    pub fn prepared(&mut self, id: u64, prompt: Result<ReadyPrompt>, scheduler: &mut Scheduler) {
        let Some(mut request) = self.deferred.remove(&id) else { return };
        match prompt {
            Ok(prompt) => {
                request.max_tokens = request.max_tokens.min(prompt.room);
                request.prompt = prompt.tokens;
                if prompt.answer.is_some() {
                    request.delivery.read_with(prompt.answer);
                }
                request.guide = request.guide.take().or(prompt.guide);
                self.submit(*request, scheduler);
            }
            Err(error) => self.counters.ended(request.finish(End::Failed(error))),
        }
    }

    /// Ends the request with this id.
    pub fn cancel(&mut self, id: u64, reason: FinishReason, scheduler: &mut Scheduler) {
        self.end_deferred_where(|r| r.delivery.id == id, || End::Cancelled(reason));
        if let Some(handle) = self.active.find(id) {
            self.end(handle, End::Cancelled(reason), scheduler);
        }
    }

    /// The queue of the request with this id was read: it may continue, unless its host has to choose.
    pub fn resume(&mut self, id: u64, scheduler: &mut Scheduler) {
        if let Some(handle) =
            self.active.find(id).filter(|&handle| self.active.get(handle).is_some_and(|a| !a.with_host))
        {
            scheduler.set_paused(handle, false);
        }
    }

    /// Ends the request of a sequence: gives the sequence back to the scheduler and sends the terminal event. Does
    /// nothing when the request has ended.
    pub fn end(&mut self, handle: SequenceHandle, end: End, scheduler: &mut Scheduler) {
        let Some(active) = self.active.get_mut(handle) else { return };
        let sequence = scheduler.get(handle);
        let history = sequence.map_or_else(History::default, |s| History {
            preemptions: s.preemptions,
            cached: s.cached_tokens.unwrap_or(0),
            drafted: s.drafted,
            accepted: s.accepted,
        });
        if let (Some(drafting), Some(sequence)) = (&mut self.drafting, sequence) {
            drafting.retire(active, &sequence.tokens[..sequence.known()]);
        }
        scheduler.finish(handle);
        let (request_id, finish) = (active.request.delivery.id, end.reason());
        let (prompt_tokens, generated_tokens) = (active.request.prompt.len(), active.generated);
        self.ends.push(|| TraceEvent::Ended { request_id, finish, prompt_tokens, generated_tokens });
        self.counters.ended(active.finish(end, history));
        if let Some(guide) = active.request.guide.take() {
            self.guided.retain(|other| *other != handle);
            self.shared.guides.retire(guide);
        }
        // Removed last: if something above panics, the request is still in the table and gets its terminal event.
        self.active.remove(handle);
    }

    /// Takes the next token of a request, which comes without text. `appended`: a place for it is in the sequence.
    ///
    /// # Errors
    /// `Memory`; those of the scheduler.
    pub fn take_token(
        &mut self,
        handle: SequenceHandle,
        token: Piece,
        appended: bool,
        scheduler: &mut Scheduler,
    ) -> Result<()> {
        let Some(active) = self.active.get_mut(handle) else { return Ok(()) };
        let (id, guided) = (token.token, active.request.guide.is_some());
        if appended {
            active.ahead -= 1;
            scheduler.know(handle, id);
        } else if !guided {
            scheduler.append(handle, id)?;
        }
        self.counters.generated();
        let (finish, full) = active.accept(token)?;
        match finish {
            None if guided && scheduler.next_draft(handle) == Some(id) => {
                active.request.guide.iter().for_each(|guide| guide.accept_draft());
                scheduler.append(handle, id)?;
            }
            // Whether the answer is complete is known after its last token.
            None | Some(FinishReason::Length) if guided => {
                scheduler.hold(handle);
                self.ask_guide(handle, id, finish, scheduler);
            }
            None => {}
            Some(reason) => self.end(handle, End::Finished(reason), scheduler),
        }
        if full {
            scheduler.set_paused(handle, true);
        }
        Ok(())
    }

    /// Takes the token that the host has chosen for the request with this id.
    pub fn chosen(&mut self, id: u64, chosen: &Chosen, scheduler: &mut Scheduler) {
        let Some(handle) = self.active.find(id) else { return };
        if let Some(active) = self.active.get_mut(handle) {
            active.with_host = false;
        }
        scheduler.set_paused(handle, false);
        let Chosen { token, logprob, top_tokens, top_logprobs } = chosen;
        let logprob = (!logprob.is_nan()).then_some(*logprob);
        let piece = Piece { token: *token, text: "", special_name: None, logprob, top_tokens, top_logprobs };
        if let Err(error) = self.take_token(handle, piece, false, scheduler) {
            self.end(handle, End::Failed(error), scheduler);
        }
    }

    /// Asks the guide of a request for what may follow `token`, its newest, and says how the request ends then, if it does.
    fn ask_guide(&mut self, handle: SequenceHandle, token: u32, ending: Option<FinishReason>, scheduler: &Scheduler) {
        let Some(active) = self.active.get_mut(handle) else { return };
        (active.held, active.ending) = (Some(token), ending);
        let drafts = match (&mut self.drafting, scheduler.get(handle), ending) {
            (Some(drafting), Some(sequence), None) => drafting.after(active, token, sequence),
            _ => &[],
        };
        let Some(guide) = &active.request.guide else { return };
        self.shared.guides.push(guide, token, drafts);
        self.guided.push(handle);
    }

    /// Goes on with the requests whose guides have become ready; how many still wait.
    pub fn settle_guides(&mut self, scheduler: &mut Scheduler) -> usize {
        let mut at = 0;
        while let Some(&handle) = self.guided.get(at) {
            match self.active.get_mut(handle) {
                Some(active) if active.request.guide.as_ref().is_some_and(|guide| !guide.is_ready()) => at += 1,
                _ => {
                    self.guided.swap_remove(at);
                    if let Some(end) = self.settle_guide(handle, scheduler) {
                        self.end(handle, end, scheduler);
                    }
                }
            }
        }
        at
    }

    /// How a request ends whose guide is ready; `None` when it goes on, or has ended.
    fn settle_guide(&mut self, handle: SequenceHandle, scheduler: &mut Scheduler) -> Option<End> {
        let active = self.active.get_mut(handle)?;
        let (token, ending) = (active.held.take()?, active.ending.take());
        match (active.request.guide.as_ref()?.verdict(), ending) {
            (Verdict::Failed(error), None) => Some(End::Failed(error)),
            (_, Some(reason)) => Some(End::Finished(reason)),
            (Verdict::Over, None) => Some(End::Finished(FinishReason::Stop)),
            (Verdict::GoesOn, None) => {
                if let Err(error) = scheduler.append(handle, token) {
                    return Some(End::Failed(error));
                }
                if let (Some(guide), Some(own)) = (&active.request.guide, &mut active.drafts) {
                    own.masked.clear();
                    guide.write_drafts(&mut own.masked);
                    scheduler.offer_drafts(handle, &own.masked);
                }
                None
            }
        }
    }

    /// Ends all requests.
    pub fn end_all(&mut self, end: impl Fn() -> End, scheduler: &mut Scheduler) {
        self.end_deferred_where(|_| true, &end);
        for index in 0..self.active.end() {
            if let Some(handle) = self.active.at(index) {
                self.end(handle, end(), scheduler);
            }
        }
    }

    /// Ends requests whose deadline has passed.
    pub fn expire(&mut self, scheduler: &mut Scheduler) {
        let now = Instant::now();
        if self.deferred_deadlines().any(|d| d <= now) {
            let expired = |r: &NewRequest| r.deadline.is_some_and(|d| d <= now);
            self.end_deferred_where(expired, || End::Cancelled(FinishReason::Deadline));
        }
        while let Some(handle) = self.active.expired(now) {
            self.end(handle, End::Cancelled(FinishReason::Deadline), scheduler);
        }
    }

    /// Marks the engine dead: fails all requests, that being admitted included, with `why`; later ones are refused with
    /// the same error.
    pub fn mark_dead(&mut self, why: &Error, scheduler: &mut Scheduler) {
        self.dead = Some(why.clone());
        if let Some(delivery) = self.admitting.take() {
            self.counters.ended(delivery.fail(why.clone()));
        }
        self.end_all(|| End::Failed(why.clone()), scheduler);
    }

    fn end_deferred_where(&mut self, which: impl Fn(&NewRequest) -> bool, end: impl Fn() -> End) {
        let (deferred, counters) = (&mut self.deferred, &mut self.counters);
        if !deferred.values().any(|request| which(request)) {
            return;
        }
        // First, so that the text thread has dropped a prompt before its request's terminal event can be read.
        self.shared.texts.forget(|id| deferred.get(&id).is_some_and(|request| which(request)));
        deferred.retain(|_, request| {
            let ends = which(request);
            if ends {
                counters.ended(request.finish(end()));
            }
            !ends
        });
    }

    /// If the request of a sequence has its first row: records its admission and reserves the memory its output will
    /// need. A request whose memory is refused fails. `vocab`: the model's vocabulary size.
    pub fn note_admission(&mut self, handle: SequenceHandle, now: Instant, vocab: usize, scheduler: &mut Scheduler) {
        let Some(active) = self.active.get_mut(handle).filter(|a| a.admitted.is_none()) else { return };
        active.admitted = Some(now);
        let cached = scheduler.get(handle).and_then(|sequence| sequence.cached_tokens).unwrap_or(0);
        active.request.delivery.admit(active.request.prompt.len(), cached);
        self.counters.queued(now.duration_since(active.request.submitted));
        active.drafts = self.drafting.as_mut().and_then(|drafting| drafting.admit(handle, &active.request));
        let tokens = scheduler.reserve(handle, active.request.max_tokens);
        let reserved = tokens.and_then(|()| active.reserve(vocab)).and_then(|()| shortage::check("a request"));
        if let Err(error) = reserved {
            self.end(handle, End::Failed(error), scheduler);
            // Clears the note of the refusal, so that the next request is checked for its own memory only.
            shortage::forget();
        }
    }

    /// Offers drafts for the next step, in an engine that speculates.
    pub fn offer_drafts(&mut self, scheduler: &mut Scheduler) {
        let Some(drafting) = &mut self.drafting else { return };
        if let Err(error) = drafting.offer(&mut self.active, scheduler) {
            self.shared.log(LogLevel::Warn, || format!("the draft model is not used any more: {}", error.message));
        }
    }

    /// Counts a finished step, of whose drafts so many were accepted. Adds its time to the phase times, split between prefill and decode in proportion to their
    /// tokens, and to the prefill time of each request with a prefill row. `tokens`: tokens of all rows.
    pub fn account(&mut self, rows: &[Row], tokens: usize, time: Duration, accepted: u64) {
        if let Some(drafting) = &mut self.drafting {
            drafting.finished(rows, tokens, time, accepted);
        }
        let is_prefill = |r: &&Row| r.prefill;
        let prefill: usize = rows.iter().filter(is_prefill).map(|r| r.count).sum();
        let share = time.mul_f64(prefill as f64 / tokens.max(1) as f64);
        self.counters.stepped(share, time - share);
        for row in rows.iter().filter(is_prefill) {
            if let Some(active) = self.active.get_mut(row.sequence) {
                active.prefill += time;
            }
        }
    }

    /// The engine thread ends: sends the terminal event of every request that has none.
    pub fn abandon(&mut self) {
        for active in self.active.drain() {
            // Empty unless `mark_dead` itself panicked.
            active.request.delivery.fail(panicked());
        }
        for request in self.deferred.values_mut() {
            request.finish(End::Failed(panicked()));
        }
    }
}
