//! Speculation in an engine: who has drafts, how many rows they may take, and what that has saved.
//!
//! Before a step is scheduled, requests that wait for their next token alone are offered drafts of what follows, as far as
//! trying them is worth it: a drafted row costs what one more row of a step has cost so far, and saves a step for one of those that
//! run with the probability that it is what will be sampled. A full batch drafts nothing by this rule, as a row costs as much there
//! as a token.

use super::active::Active;
use super::draft_model::{DraftModel, Wanted};
use super::new_request::NewRequest;
use super::request_drafts::{OfModel, RequestDrafts};
use super::table::Table;
use super::{DraftFn, EngineOptions, ModelRunner, Speculation};
use crate::cache::SequenceHandle;
use crate::error::{Result, reserved};
use crate::limits;
use crate::os::shortage;
use crate::scheduler::{Row, Scheduler, Sequence};
use crate::speculation::{Drafter, SharedTexts, StepTime};
use std::time::{Duration, Instant};

/// Tokens of the prompt that are kept with an answer for others: an answer may begin as one before it did after the same words.
const LEAD_TOKENS: usize = 16;
/// Drafts under a constraint are at least so likely: each takes a mask.
const LEAST_UNDER_CONSTRAINT: f32 = 0.3;

/// The speculation of an engine that has it.
pub(super) struct Drafting {
    options: Speculation,
    /// Drafts in place of the engine.
    draft_fn: Option<DraftFn>,
    /// Texts of requests that have ended.
    others: Option<SharedTexts>,
    /// Drafts where texts have none; `None` too when it has failed.
    model: Option<Box<DraftModel>>,
    /// What is asked of it in a step, of which the first are used; and the time that it took, in microseconds.
    wanted: Vec<Wanted>,
    model_us: f64,
    times: StepTime,
    /// Time that drafts have saved, in microseconds.
    saved: f64,
    most_saved: f64,
    /// The drafts of one sequence; reused.
    drafts: Vec<u32>,
    /// Most positions of a step whose logits are sampled together.
    logits_rows: usize,
    /// Sequences that ran when drafts were offered last, and how many drafts there was room for.
    streams: usize,
    room: usize,
}

impl Drafting {
    /// That of an engine with these options; `None` where they ask for none.
    ///
    /// # Errors
    /// `Memory`.
    pub fn new(
        options: &mut EngineOptions,
        model: Option<Box<DraftModel>>,
        runner: &ModelRunner,
    ) -> Result<Option<Drafting>> {
        if !options.drafts() {
            return Ok(None);
        }
        let (draft_fn, options) = (options.draft_fn.take(), options.speculation);
        let others = match options.shared_texts {
            true => Some(SharedTexts::new(limits::DRAFT_SHARED_TOKENS)?),
            false => None,
        };
        let drafts = reserved("drafts", limits::DRAFT_TOKENS_MAX)?;
        let mut wanted = Vec::new();
        if model.is_some() {
            let sequences = runner.scheduler.capacity().running_max;
            wanted = reserved("what is asked of a draft model", sequences)?;
            for _ in 0..sequences {
                let drafts = reserved("drafts", limits::DRAFT_TOKENS_MAX)?;
                wanted.push(Wanted { of: None, most: 0, drafts });
            }
        }
        let logits_rows = runner.model.logits_rows_max();
        Ok(Some(Drafting {
            options,
            draft_fn,
            others,
            model,
            wanted,
            model_us: 0.0,
            times: StepTime::default(),
            saved: 0.0,
            most_saved: 0.0,
            drafts,
            logits_rows,
            streams: 0,
            room: 0,
        }))
    }

    /// The part of a request that was just admitted; `None` where it has none. Without memory for it the request goes without.
    pub fn admit(&mut self, handle: SequenceHandle, request: &NewRequest) -> Option<RequestDrafts> {
        let most = request.draft_tokens.map_or(usize::MAX, |most| most as usize);
        let most = most.min(self.options.draft_tokens_or_default()).min(limits::DRAFT_TOKENS_MAX);
        let prompt = request.prompt.len();
        // A penalty of repetitions wants none; a host has to see each token before the next is asked for.
        let drafts = request.host.is_none() && request.params.dry_multiplier == 0.0;
        if most == 0 || !drafts || request.max_tokens < 2 {
            return None;
        }
        let by_host = self.draft_fn.is_some();
        let reads = self.options.is_on() && !by_host && prompt < limits::DRAFT_TEXT_MAX;
        let text =
            prompt.saturating_add(request.max_tokens.min(limits::DRAFT_ANSWER_TOKENS)).min(limits::DRAFT_TEXT_MAX);
        let follows =
            |model: &DraftModel| !by_host && request.guide.is_none() && prompt + request.max_tokens <= model.text_max();
        // Here, so that no later step takes memory for it.
        let text_max = prompt + request.max_tokens;
        let model = self.model.as_mut().filter(|model| follows(model)).and_then(|model| {
            let begun = shortage::apart(|| model.follow(handle, &request.prompt, text_max));
            begun.ok().map(|()| OfModel::default())
        });
        // What is refused here the request can do without.
        let made = shortage::apart(|| {
            let drafter = if reads { Some(Drafter::new(text, self.options.own_text)?) } else { None };
            let masked = reserved("drafts", limits::DRAFT_TOKENS_MAX)?;
            shortage::check("drafts").map(|()| (drafter, masked))
        });
        let (drafter, masked) = made.ok()?;
        Some(RequestDrafts { drafter, model, by_host, most, promising: by_host, masked })
    }

    /// The calling thread is the engine's.
    pub fn attach(&mut self) {
        if let Some(model) = &mut self.model {
            model.attach();
        }
    }

    /// A request has ended.
    pub fn retire(&mut self, active: &Active, text: &[u32]) {
        if let (Some(model), Some(_)) = (&mut self.model, active.drafts.as_ref().and_then(|own| own.model)) {
            model.retire(active.handle);
        }
        if let (Some(others), Some(_)) = (&mut self.others, &active.drafts) {
            others.keep(&text[active.request.prompt.len().saturating_sub(LEAD_TOKENS).min(text.len())..]);
        }
    }

    /// Offers drafts to the sequences that run.
    ///
    /// # Errors
    /// Of the draft model, without which it goes on.
    pub fn offer(&mut self, requests: &mut Table, scheduler: &mut Scheduler) -> Result<()> {
        let mut texts = limits::DRAFT_TEXT_TOKENS;
        if let Some(others) = &mut self.others {
            texts -= others.read(texts / 2);
        }
        let waits = |h: &SequenceHandle| scheduler.get(*h).is_some_and(|s| s.can_run() && s.pending() == 1);
        let streams = scheduler.running().filter(waits).count();
        self.streams = scheduler.running().count();
        let least = self.worth(streams, 0.0);
        // Streams share the steps of a draft model.
        let model_step = self.model.as_ref().map_or(0.0, |model| model.step_us()) / streams.max(1) as f64;
        let least_of_model = self.worth(streams, model_step);
        // Whoever runs may have a row of logits in the step.
        self.room = self.logits_rows.saturating_sub(self.streams);
        let (mut room, mut wanted) = (self.room, 0);
        for at in 0.. {
            let Some(handle) = scheduler.running().nth(at) else { break };
            let Some(active) = requests.get_mut(handle) else { continue };
            let left = active.request.max_tokens - active.generated.min(active.request.max_tokens);
            let guided = active.request.guide.is_some();
            if scheduler.is_unsettled(handle) {
                continue;
            }
            let (Some(own), Some(sequence)) = (&mut active.drafts, scheduler.get(handle)) else { continue };
            let text = &sequence.tokens[..sequence.known()];
            let most = own.most.min(room).min(left.saturating_sub(1)).min(scheduler.drafts_max(handle));
            self.drafts.clear();
            if let Some(drafter) = &mut own.drafter {
                let before = drafter.len();
                let all_read = drafter.read(text, sequence.prompt_len, texts, self.others.as_ref());
                texts -= drafter.len() - before;
                if all_read && most > 0 && least < 1.0 && !guided {
                    drafter.draft(self.others.as_ref(), least, most, &mut self.drafts);
                }
            } else if let Some(draft_fn) = self.draft_fn.as_ref().filter(|_| most > 0 && !guided) {
                draft_fn(text, &mut self.drafts);
                self.drafts.truncate(most);
            }
            // As far as is known of a text whose newest token may not be.
            let text_probability = own.drafter.as_ref().map_or(0.0, |own| own.probability(self.others.as_ref()));
            let model_probability = own.model.as_ref().map_or(0.0, |of| of.acceptance.probability());
            let worth = [(text_probability, least), (model_probability, least_of_model)];
            own.promising = own.by_host || room > 0 && worth.iter().any(|&(found, least)| found >= least.max(0.5));
            if let Some(of_model) = &mut own.model {
                of_model.look(sequence);
                let drafts = if self.drafts.is_empty() { of_model.drafts(least_of_model, most) } else { 0 };
                let text_max = active.request.prompt.len() + active.request.max_tokens;
                let follows = |model: &mut Box<DraftModel>| model.follow(handle, text, text_max).is_ok();
                if drafts > 0
                    && let Some(asked) = self.wanted.get_mut(wanted)
                    && self.model.as_mut().is_some_and(follows)
                {
                    of_model.asked = true;
                    (asked.of, asked.most) = (Some(handle), drafts);
                    asked.drafts.clear();
                    (wanted, room) = (wanted + 1, room - drafts);
                    continue;
                }
            }
            if guided {
                // It was offered drafts with their masks.
                room = room.saturating_sub(sequence.drafts.len());
                continue;
            }
            room -= self.drafts.len();
            scheduler.offer_drafts(handle, &self.drafts);
        }
        if wanted == 0 {
            return Ok(());
        }
        let (begin, wanted) = (Instant::now(), &mut self.wanted[..wanted]);
        let done = self.model.as_mut().map_or(Ok(()), |model| model.draft(wanted));
        self.model_us += begin.elapsed().as_secs_f64() * 1e6;
        if done.is_err() {
            self.model = None;
            return done;
        }
        let offers = wanted.iter().filter_map(|asked| Some((asked.of?, &asked.drafts)));
        offers.for_each(|(handle, drafts)| scheduler.offer_drafts(handle, drafts));
        Ok(())
    }

    /// How likely a draft has to be to be tried that takes this time, in microseconds, to make.
    fn worth(&self, streams: usize, takes: f64) -> f32 {
        if self.options.always { 0.0 } else { self.times.worth(streams, takes) }
    }

    /// What may follow `token`, the newest of a constrained request, which is not in its sequence before its mask is there.
    pub fn after(&mut self, active: &mut Active, token: u32, sequence: &Sequence) -> &[u32] {
        self.drafts.clear();
        let left = active.request.max_tokens.saturating_sub(active.generated + 1);
        let Some(own) = &mut active.drafts else { return &[] };
        let streams = self.streams.max(1);
        let most = own.most.min(left).min(self.room / streams);
        let text = &sequence.tokens[..sequence.known()];
        if let Some(drafter) = &mut own.drafter {
            let all_read = drafter.read(text, sequence.prompt_len, limits::DRAFT_TEXT_TOKENS, self.others.as_ref());
            let least = self.worth(streams, 0.0).max(LEAST_UNDER_CONSTRAINT);
            if all_read {
                drafter.push(token, true, self.others.as_ref());
                drafter.draft(self.others.as_ref(), least, most, &mut self.drafts);
            }
        } else if let Some(draft_fn) = &self.draft_fn {
            draft_fn(&[text, &[token]].concat(), &mut self.drafts);
            self.drafts.truncate(most);
        }
        &self.drafts
    }

    /// A step of these rows took this time, and so many of its drafts were accepted.
    pub fn finished(&mut self, rows: &[Row], tokens: usize, time: Duration, accepted: u64) {
        let micros = time.as_secs_f64() * 1e6;
        self.saved -= std::mem::take(&mut self.model_us);
        if rows.iter().any(|row| row.prefill) {
            return;
        }
        self.times.observe(tokens, micros);
        let drafted: usize = rows.iter().map(|row| row.drafts).sum();
        if drafted > 0 {
            self.saved += self.times.saved(rows.len(), drafted, accepted as usize);
        }
    }

    /// Microseconds saved so far, by the highest account: a counter does not fall.
    pub fn saved_us(&mut self) -> u64 {
        self.most_saved = self.most_saved.max(self.saved);
        self.most_saved as u64
    }
}
