//! Submitting a request: prompt and options are checked on the calling thread.

use super::abilities::Abilities;
use super::answer_grammars::Rules;
use super::answer_rules;
use super::delivery::Destination;
use super::guide::Guide;
use super::host_logits::{Host, Seat};
use super::host_thread::{only_tokens, with_text};
use super::text_queue::Encoded;
use super::{
    Command, Engine, NewRequest, Outbox, Permit, Prompt, Request, RequestOptions, Settings, Sink, TextOptions,
};
use crate::error::{Error, Result, Status, Unit, copied};
use crate::limits;
use crate::model::embedding::normalize;
use crate::os::floats::LibraryFloats;
use crate::os::shortage;
use crate::sampling::{DryBreakers, SamplingParams};
use crate::text::{EncodeLimits, StopFilter};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

impl Engine {
    /// Submits a prompt. Never waits for a step. With [`RequestOptions::defer`], errors of template and tokenizer and a
    /// prompt that is too long become a failed terminal event.
    ///
    /// # Errors
    /// `Argument` for options or an empty prompt, `Context` when the prompt exceeds the context length, `QueueFull`,
    /// `Template`, `Memory`, `Closed`; `Unsupported` on an engine opened for text only and for a model that generates nothing; for
    /// [`RequestOptions::embed`] also why the model has no embeddings, as of [`Engine::embedding`].
    pub fn submit(&self, prompt: &Prompt, options: &RequestOptions, sink: Sink) -> Result<Request> {
        self.submit_to(prompt, options, Destination { sink, events: self.shared.dispatch.completions.clone() })
    }

    /// As [`Engine::submit`].
    pub(super) fn submit_to(&self, prompt: &Prompt, options: &RequestOptions, to: Destination) -> Result<Request> {
        let abilities = self.abilities()?;
        self.open_or_closed()?;
        shortage::forget();
        abilities.check(prompt, options)?;
        let with_tools = prompt.with_tools(options)?;
        let prompt = with_tools.as_ref().unwrap_or(prompt);
        let rules = answer_rules::of(&self.text, prompt, options)?;
        let submitted = Instant::now();
        let context = self.info.context_length as usize;
        let deadline = NewRequest::deadline_of(options, submitted);
        let mut expired = false;
        let mut go_on = || {
            self.open_or_closed()?;
            expired = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if expired {
                Err(Error::new(Status::Aborted, "the deadline passed while the prompt was encoded"))
            } else {
                Ok(())
            }
        };
        let _floats = LibraryFloats::enter();
        let mut prepare =
            || self.text.prepare(prompt, TextOptions::default(), &mut EncodeLimits::new(context, &mut go_on));
        let prepared = match options.defer {
            true => Ok(Encoded::default()),
            false if only_tokens(prompt) => prepare(),
            false => with_text(prepare),
        };
        let Encoded { tokens, text } = match prepared {
            Err(_) if expired => Encoded::default(),
            encoded => encoded?,
        };
        self.text.warn_of_two_begins(&tokens, &self.shared);
        let mut request = Box::new(self.new_request(prompt, options, tokens, submitted, to, rules.is_some())?);
        let rules = match rules {
            None => None,
            Some(rules) => {
                let ends = request.eos_tokens.iter().chain(&request.stop_tokens).copied().collect();
                let (vocab, fingerprint) = (self.info.vocab_size as usize, self.tokens_fingerprint()?);
                Some(Rules { rules, ends, vocab, fingerprint })
            }
        };
        let (delivery, host) = (request.delivery.clone(), request.host.as_ref().map(|seat| seat.0.clone()));
        if !options.defer {
            delivery.read_with(self.text.answer_reader(prompt, &text, options, delivery.id));
        }
        // Checked before sending, since a command that was sent cannot be taken back.
        shortage::check("a request")?;
        request.permit = Some(Permit::for_request(&self.shared.pending, self.pending_max(), &delivery)?);
        let sent = match (options.defer, rules) {
            (true, rules) => self.defer(request, prompt, options, rules),
            // The engine thread ends it like any other.
            (false, _) if expired => self.shared.mailbox.send(Command::Defer(request)),
            (false, Some(rules)) => self.defer_rules(request, text, rules),
            (false, None) => self.shared.mailbox.send(Command::Submit(request)),
        };
        sent.inspect_err(|_| delivery.withdraw())?;
        Ok(Request { delivery, shared: self.shared.clone(), detached: false, host })
    }

    /// What the model can do.
    ///
    /// # Errors
    /// `Unsupported` on an engine opened for text only.
    pub(super) fn abilities(&self) -> Result<&Abilities> {
        let text_only = || Error::unsupported("the engine was opened for text only; open it with weights to generate");
        self.abilities.as_ref().ok_or_else(text_only)
    }

    /// Numbers of an embedding, and whether its norm is 1.
    ///
    /// # Errors
    /// `Unsupported` on an engine opened for text only; else why the model has no embeddings.
    pub fn embedding(&self) -> Result<(usize, bool)> {
        let embedder = self.abilities()?.embedder()?;
        Ok((embedder.len(), embedder.normalizes()))
    }

    /// Leaves the first `dimensions` numbers of an embedding, divided by their norm where the model's have the norm 1, as models
    /// trained for it allow (Matryoshka representation learning, arXiv:2205.13147).
    ///
    /// # Errors
    /// `Argument` when it has not so many, or for 0; as of [`Engine::embedding`].
    pub fn shorten_embedding(&self, embedding: &mut Vec<f32>, dimensions: usize) -> Result<()> {
        let (len, normalized) = self.embedding()?;
        if dimensions == 0 || dimensions > len {
            let message = format!("dimensions is {dimensions}; embeddings of this model have 1 to {len}");
            let error = Error::argument(message).about("dimensions");
            return Err(error.numbers(Unit::Count, dimensions as u64, len as u64));
        }
        if dimensions < embedding.len() {
            embedding.truncate(dimensions);
            if normalized {
                normalize(embedding);
            }
        }
        Ok(())
    }

    /// Validates the options and fills in the model's defaults. `ruled`: the guide is made from the rules of the answer, later.
    pub(super) fn new_request(
        &self,
        prompt: &Prompt,
        options: &RequestOptions,
        tokens: Vec<u32>,
        submitted: Instant,
        to: Destination,
        ruled: bool,
    ) -> Result<NewRequest> {
        let (d, none) = (&self.defaults, Settings::default());
        let settings = options.settings.as_deref().unwrap_or(&none);
        let embedding = self.abilities()?.embedding(options)?;
        let params = SamplingParams {
            temperature: options.temperature.unwrap_or(d.temperature_or_greedy()),
            top_k: options.top_k.or(d.top_k).unwrap_or(0),
            top_p: options.top_p.or(d.top_p).unwrap_or(1.0),
            min_p: options.min_p.or(d.min_p).unwrap_or(0.0),
            repetition_penalty: options.repetition_penalty.or(d.repetition_penalty).unwrap_or(1.0),
            presence_penalty: options.presence_penalty.unwrap_or(0.0),
            frequency_penalty: options.frequency_penalty.unwrap_or(0.0),
            xtc_probability: options.xtc_probability.unwrap_or(0.0),
            xtc_threshold: options.xtc_threshold.unwrap_or(limits::XTC_THRESHOLD_DEFAULT),
            dry_multiplier: options.dry_multiplier.unwrap_or(0.0),
            dry_base: options.dry_base.unwrap_or(limits::DRY_BASE_DEFAULT),
            dry_allowed_length: options.dry_allowed_length.unwrap_or(limits::DRY_ALLOWED_LENGTH_DEFAULT),
            dry_penalty_last_n: options.dry_penalty_last_n.unwrap_or(-1),
            seed: options.seed.unwrap_or_else(random_seed),
            bias: copied("biases", &settings.bias)?,
            logprobs: options.logprobs,
        };
        params.validate(self.info.vocab_size as usize)?;
        let host = options.host_logits.then(|| Seat(Arc::new(Host::new(&params))));
        if options.queue_tokens as usize > limits::QUEUE_TOKENS_MAX {
            let (asked, most) = (options.queue_tokens, limits::QUEUE_TOKENS_MAX);
            let error = Error::argument(format!("option queue_tokens is {asked}, the limit is {most}"));
            return Err(error.about("queue_tokens").numbers(Unit::Tokens, asked.into(), most as u64));
        }
        if let Some(asked) = options.draft_tokens.filter(|&asked| asked as usize > limits::DRAFT_TOKENS_MAX) {
            let most = limits::DRAFT_TOKENS_MAX;
            let error = Error::argument(format!("option draft_tokens is {asked}, the limit is {most}"));
            return Err(error.about("draft_tokens").numbers(Unit::Tokens, asked.into(), most as u64));
        }
        check_stops(settings, self.info.vocab_size)?;
        let dry_breakers = if params.uses_dry() { self.dry_breakers(settings)? } else { Arc::default() };
        if !settings.stops.is_empty() {
            self.text.tokenizer()?;
        }
        let room = self.info.context_length as usize - tokens.len();
        let wanted = options.max_tokens.or(d.max_new_tokens).map_or(limits::GENERATED_TOKENS_MAX, |n| n as usize);
        let id = self.shared.ids.fetch_add(1, Ordering::Relaxed);
        let limit = options.queue_tokens_or_default();
        let eos_tokens = if options.ignore_eos { Vec::new() } else { d.eos_tokens.clone() };
        let stop_tokens = self.stop_tokens(settings);
        let guide = match &settings.constraint {
            _ if ruled => {
                self.ready_guides()?;
                None
            }
            None => None,
            Some(constraint) => {
                self.ready_guides()?;
                let ends: Vec<u32> = eos_tokens.iter().chain(&stop_tokens).copied().collect();
                let tokens = self.tokens_fingerprint()?;
                Some(Guide::new(constraint, self.info.vocab_size as usize, tokens, &ends)?)
            }
        };
        Ok(NewRequest {
            delivery: Arc::new(Outbox::new(id, options.tag, limit, to, self.shared.dispatch.clone())),
            permit: None,
            prompt: tokens,
            params,
            stream: if embedding.is_none() { self.text.stream(prompt, options) } else { None },
            stops: StopFilter::new(settings.stops.clone()),
            chat: self.text.format(prompt).is_some(),
            eos_tokens,
            stop_tokens,
            dry_breakers,
            guide,
            host,
            draft_tokens: options.draft_tokens,
            max_tokens: if embedding.is_none() { wanted.min(room) } else { 0 },
            embedding,
            prompt_logprobs: options.prompt_logprobs,
            priority: options.priority,
            deadline: NewRequest::deadline_of(options, submitted),
            submitted,
        })
    }

    /// The sequence breakers of a request with DRY. Without a tokenizer there are none, unless some are named.
    fn dry_breakers(&self, settings: &Settings) -> Result<Arc<DryBreakers>> {
        let default = limits::DRY_BREAKERS_DEFAULT.map(str::to_owned);
        let texts = settings.dry_breakers.as_deref();
        if self.text.tokenizer.is_none() && texts.is_none_or(<[String]>::is_empty) {
            return Ok(Arc::default());
        }
        let texts = texts.unwrap_or(&default);
        self.text.breakers.get(texts, self.text.tokenizer()?, self.info.vocab_size as usize)
    }

    /// The stop tokens of settings, including the special tokens that its stop strings name: these have no text that a
    /// stop string could match.
    fn stop_tokens(&self, settings: &Settings) -> Vec<u32> {
        let special = |name: &String| {
            let tokenizer = self.text.tokenizer.as_ref()?;
            tokenizer.id(name).filter(|&id| tokenizer.is_special(id))
        };
        settings.stop_tokens.iter().copied().chain(settings.stops.iter().filter_map(special)).collect()
    }
}

/// Checks stop strings and stop tokens against their limits and the vocabulary.
fn check_stops(settings: &Settings, vocab: u32) -> Result<()> {
    let too_many = |what: &str, n: usize, max: usize| {
        let error = Error::argument(format!("{n} {what}, the limit is {max}")).about(what);
        if n > max { Err(error.numbers(Unit::Count, n as u64, max as u64)) } else { Ok(()) }
    };
    too_many("stop strings", settings.stops.len(), limits::STOPS_MAX)?;
    too_many("stop tokens", settings.stop_tokens.len(), limits::STOP_TOKENS_MAX)?;
    if settings.stops.iter().any(|s| s.is_empty()) {
        return Err(Error::argument("a stop string is empty").about("stop strings"));
    }
    if let Some(long) = settings.stops.iter().find(|s| s.len() > limits::STOP_BYTES_MAX) {
        too_many("bytes of a stop string", long.len(), limits::STOP_BYTES_MAX)?;
    }
    match settings.stop_tokens.iter().find(|&&t| t >= vocab) {
        Some(t) => {
            Err(Error::argument(format!("stop token {t} is not below the vocabulary size {vocab}"))
                .about("stop tokens"))
        }
        None => Ok(()),
    }
}

/// A random seed: the keys of the standard library's hasher come from the system's random source.
fn random_seed() -> u64 {
    RandomState::new().hash_one(Instant::now())
}
