//! A second, smaller model that drafts for the engine's own.
//!
//! It has an engine's inside to itself: scheduler, pages, device. Each request that drafts with it has a sequence there, with the same
//! tokens; what was drafted and not accepted is taken back. Before a step of the engine it goes through its own steps: one for what it
//! has not seen of the texts, and one for each further draft, all requests together.

use super::model_runner::ModelRunner;
use crate::cache::{Keep, SequenceHandle};
use crate::error::{Error, Result, reserved};
use crate::sampling::SamplingParams;
use crate::scheduler::Computes;
use std::time::{Duration, Instant};

/// A step counts for so much less in the mean after each later one.
const FADING: f64 = 0.9;

/// What is asked of the draft model for one request, and what it drafted.
pub(super) struct Wanted {
    /// The request's sequence in the engine.
    pub of: Option<SequenceHandle>,
    /// Most drafts.
    pub most: usize,
    pub drafts: Vec<u32>,
}

/// The sequence of a request here.
struct Twin {
    of: SequenceHandle,
    own: SequenceHandle,
}

/// A model that drafts.
pub(super) struct DraftModel {
    runner: ModelRunner,
    /// Of the engine's model: the tokenizers agree below the smaller of both.
    vocab: u32,
    twins: Vec<Twin>,
    /// Mean time of a step, in microseconds; 0 before the first.
    step_us: f64,
}

impl DraftModel {
    /// Drafts by this runner for up to `running_max` sequences of a model with `vocab` tokens.
    ///
    /// # Errors
    /// `Unsupported` for a model whose states cannot be taken back; `Memory`.
    pub fn new(runner: ModelRunner, running_max: usize, vocab: u32) -> Result<DraftModel> {
        if runner.scheduler.capacity().groups.iter().any(|group| group.keep == Keep::State) {
            let message = "the draft model has layers that keep a state, which cannot be taken back; use one with attention alone";
            return Err(Error::unsupported(message).about("draft_model"));
        }
        let vocab = vocab.min(runner.model.vocab() as u32);
        Ok(DraftModel { runner, vocab, twins: reserved("the sequences of a draft model", running_max)?, step_us: 0.0 })
    }

    /// The calling thread is the engine's.
    pub fn attach(&mut self) {
        self.runner.backend.attach();
    }

    /// Mean time of a step, in microseconds.
    pub fn step_us(&self) -> f64 {
        self.step_us
    }

    /// Tokens of its longest sequence.
    pub fn text_max(&self) -> usize {
        self.runner.scheduler.capacity().pages() * self.runner.page_tokens
    }

    /// A request of the engine has ended.
    pub fn retire(&mut self, of: SequenceHandle) {
        if let Some(at) = self.twins.iter().position(|twin| twin.of == of) {
            self.runner.scheduler.finish(self.twins.swap_remove(at).own);
        }
    }

    /// A request has this text now, and may have up to `text_max` tokens.
    ///
    /// # Errors
    /// `Memory`, `QueueFull`; `Argument` for a token that this model does not know: the request has no drafts.
    pub fn follow(&mut self, of: SequenceHandle, text: &[u32], text_max: usize) -> Result<()> {
        if text.iter().any(|&token| token >= self.vocab) {
            return Err(Error::argument("a token that the draft model does not know"));
        }
        let scheduler = &mut self.runner.scheduler;
        if let Some(twin) = self.twins.iter().find(|twin| twin.of == of) {
            return scheduler.replace_text(twin.own, text);
        }
        if self.twins.len() == self.twins.capacity() {
            // More have drafted than run at a time: the first may not come back soon.
            scheduler.finish(self.twins.remove(0).own);
        }
        let mut copy = reserved("the text of a request", text_max)?;
        copy.extend_from_slice(text);
        let own = scheduler.submit(copy, text_max, text.len() - 1, 0)?;
        scheduler.set_computes(own, Computes::Alone);
        self.twins.push(Twin { of, own });
        Ok(())
    }

    /// Drafts what is wanted, of requests that it [follows](DraftModel::follow), each up to its most. Of a text that is far ahead it
    /// computes a part, without drafts.
    ///
    /// # Errors
    /// `Device`, `Memory`.
    pub fn draft(&mut self, wanted: &mut [Wanted]) -> Result<()> {
        for twin in &self.twins {
            let asked = wanted.iter().any(|wanted| wanted.of == Some(twin.of));
            self.runner.scheduler.set_paused(twin.own, !asked);
        }
        let rounds = wanted.iter().map(|wanted| wanted.most).max().unwrap_or(0);
        for round in 0..rounds {
            let begin = Instant::now();
            if !self.step(wanted)? {
                break;
            }
            let us = begin.elapsed().max(Duration::from_nanos(1)).as_secs_f64() * 1e6;
            // The first one computes what the texts got meanwhile, a prompt perhaps.
            if round > 0 {
                self.step_us = if self.step_us == 0.0 { us } else { self.step_us * FADING + us * (1.0 - FADING) };
            }
            if round == 0 {
                self.pause_all_behind();
            }
        }
        Ok(())
    }

    /// Texts that the first round has not reached the end of wait for the next call.
    fn pause_all_behind(&mut self) {
        for twin in &self.twins {
            if self.runner.scheduler.get(twin.own).is_some_and(|s| s.pending() > 1 || !s.is_running()) {
                self.runner.scheduler.set_paused(twin.own, true);
            }
        }
    }

    /// One step of all that are not paused; false when there is none.
    fn step(&mut self, wanted: &mut [Wanted]) -> Result<bool> {
        let runner = &mut self.runner;
        runner.schedule(&mut None, &mut Default::default())?;
        if runner.batch.rows.is_empty() {
            return Ok(false);
        }
        let greedy = SamplingParams::default();
        let sampling = &mut runner.backend.step().sampling;
        sampling.rows.extend(runner.logits_positions.iter().map(|at| greedy.request(at.position as u64 + 1, 0)));
        runner.model.begin(&mut *runner.backend);
        for layer in 0..runner.model.layers() {
            runner.model.layer(&mut *runner.backend, layer);
        }
        for row in &runner.batch.rows {
            runner.scheduler.computed(row);
        }
        runner.sample_all();
        let ticket = runner.backend.copy_out();
        runner.backend.wait_sampled(ticket, &mut runner.sampled)?;
        for (at, &token) in runner.logits_positions.iter().zip(&runner.sampled.tokens) {
            let twin = self.twins.iter().find(|twin| twin.own == at.sequence);
            let asked = twin.and_then(|twin| wanted.iter_mut().find(|wanted| wanted.of == Some(twin.of)));
            let Some(asked) = asked.filter(|_| token < self.vocab) else {
                runner.scheduler.set_paused(at.sequence, true);
                continue;
            };
            asked.drafts.push(token);
            runner.scheduler.append(at.sequence, token)?;
            if asked.drafts.len() >= asked.most {
                runner.scheduler.set_paused(at.sequence, true);
            }
        }
        Ok(true)
    }
}
