//! Speculation in an engine: who has drafts, how many rows they may take, and what that has saved.
//!
//! Before a step is scheduled, requests that wait for their next token alone are offered drafts of what follows, as far as
//! trying them is worth it: a drafted row costs what one more row of a step has cost so far, and saves a step for one of those that
//! run with the probability that it is what will be sampled. A full batch drafts nothing by this rule, as a row costs as much there as a token.

use super::active::Active;
use super::new_request::NewRequest;
use super::table::Table;
use super::{DraftFn, Speculation};
use crate::cache::SequenceHandle;
use crate::error::{Result, reserved};
use crate::limits;
use crate::os::shortage;
use crate::scheduler::{Row, Scheduler, Sequence};
use crate::speculation::{Drafter, SharedTexts, StepTime};
use std::time::Duration;

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
    times: StepTime,
    /// Time that drafts have saved, in microseconds.
    saved: f64,
    /// The drafts of one sequence; reused.
    drafts: Vec<u32>,
    /// Most positions of a step whose logits are sampled together.
    logits_rows: usize,
    /// Sequences that waited for their next token when drafts were offered last.
    streams: usize,
}

/// The part of a request in speculation.
pub(super) struct RequestDrafts {
    /// `None` where the host drafts.
    drafter: Option<Drafter>,
    /// Most drafts of a step.
    most: usize,
    /// Those that a constraint lets follow; reused.
    pub masked: Vec<u32>,
}

impl RequestDrafts {
    /// Whether the next token is guessed rather than not, so that it pays to know the one before it first.
    pub fn is_confident(&self) -> bool {
        self.drafter.as_ref().is_none_or(Drafter::is_confident)
    }
}

impl Drafting {
    /// That of an engine with these options; `None` where they ask for none.
    ///
    /// # Errors
    /// `Memory`.
    pub fn new(options: Speculation, draft_fn: Option<DraftFn>, logits_rows: usize) -> Result<Option<Drafting>> {
        if !options.is_on() && draft_fn.is_none() {
            return Ok(None);
        }
        let others = match options.shared_texts {
            true => Some(SharedTexts::new(limits::DRAFT_SHARED_TOKENS)?),
            false => None,
        };
        let drafts = reserved("drafts", limits::DRAFT_TOKENS_MAX)?;
        Ok(Some(Drafting {
            options,
            draft_fn,
            others,
            times: StepTime::default(),
            saved: 0.0,
            drafts,
            logits_rows,
            streams: 0,
        }))
    }

    /// The part of a request that was just admitted; `None` where it has none. Without memory for it the request goes without.
    pub fn admit(&self, request: &NewRequest) -> Option<RequestDrafts> {
        let most = request.draft_tokens.map_or(self.options.draft_tokens_or_default(), |most| most as usize);
        let text = request.prompt.len() + request.max_tokens;
        // A penalty of repetitions wants none; a host has to see each token before the next is asked for.
        let drafts = request.host.is_none() && request.params.dry_multiplier == 0.0;
        if most == 0 || !drafts || request.max_tokens < 2 || text > limits::DRAFT_TEXT_MAX {
            return None;
        }
        let drafter = match self.draft_fn {
            Some(_) => None,
            None => Some(Drafter::new(text).inspect_err(|_| shortage::forget()).ok()?),
        };
        let masked = reserved("drafts", limits::DRAFT_TOKENS_MAX).ok()?;
        Some(RequestDrafts { drafter, most: most.min(limits::DRAFT_TOKENS_MAX), masked })
    }

    /// A request has ended.
    pub fn retire(&mut self, active: &Active, text: &[u32]) {
        if let (Some(others), Some(_)) = (&mut self.others, &active.drafts) {
            others.keep(&text[active.request.prompt.len().saturating_sub(LEAD_TOKENS).min(text.len())..]);
        }
    }

    /// Offers drafts to the sequences that run.
    pub fn offer(&mut self, requests: &mut Table, scheduler: &mut Scheduler) {
        let mut texts = limits::DRAFT_TEXT_TOKENS;
        if let Some(others) = &mut self.others {
            texts -= others.read(texts / 2);
        }
        let waits = |h: &SequenceHandle| scheduler.get(*h).is_some_and(|s| s.can_run() && s.pending() == 1);
        let streams = scheduler.running().filter(waits).count();
        self.streams = streams;
        let least = self.times.worth(streams);
        let mut room = self.logits_rows.saturating_sub(streams);
        for at in 0.. {
            let Some(handle) = scheduler.running().nth(at) else { break };
            let Some(active) = requests.get_mut(handle) else { continue };
            let left = active.request.max_tokens - active.generated.min(active.request.max_tokens);
            let guided = active.request.guide.is_some();
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
            if guided {
                // It was offered drafts with their masks.
                room = room.saturating_sub(sequence.drafts.len());
                continue;
            }
            room -= self.drafts.len();
            scheduler.offer_drafts(handle, &self.drafts);
        }
    }

    /// What may follow `token`, the newest of a constrained request, which is not in its sequence before its mask is there.
    pub fn after(&mut self, active: &mut Active, token: u32, sequence: &Sequence) -> &[u32] {
        self.drafts.clear();
        let left = active.request.max_tokens.saturating_sub(active.generated + 1);
        let Some(own) = &mut active.drafts else { return &[] };
        let streams = self.streams.max(1);
        let most = own.most.min(left).min(self.logits_rows.saturating_sub(streams) / streams);
        let text = &sequence.tokens[..sequence.known()];
        if let Some(drafter) = &mut own.drafter {
            let all_read = drafter.read(text, sequence.prompt_len, limits::DRAFT_TEXT_TOKENS, self.others.as_ref());
            let least = self.times.worth(streams).max(LEAST_UNDER_CONSTRAINT);
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
        if rows.iter().any(|row| row.prefill) {
            return;
        }
        self.times.observe(tokens, micros);
        let drafted: usize = rows.iter().map(|row| row.drafts).sum();
        if drafted > 0 {
            self.saved += self.times.saved(rows.len(), drafted, accepted as usize);
        }
    }

    /// Microseconds saved so far.
    pub fn saved_us(&self) -> u64 {
        self.saved.max(0.0) as u64
    }
}
