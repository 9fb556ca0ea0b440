//! Requests whose tokens the host chooses.
//!
//! After a forward pass the logits of such a request are read out, and its row leaves the steps until the host has answered, on
//! whichever thread it likes: with a token, or with logits from which one is sampled there. The answer goes to the engine thread as a
//! command. Nobody waits for the host: its request is paused as one whose events nobody reads, what it is given is a copy, and the lock here
//! is held for no longer than it takes to look. A turn is memory of its own, which the engine thread takes for it.

use super::{lock, wait_until};
use crate::constrain::is_set;
use crate::error::{Error, Result, copied, filled};
use crate::sampling::math::Portable;
use crate::sampling::{
    AllowedTokens, LogitAdjustment, NO_FINITE_LOGIT, NO_TOKEN, Sampler, SamplingKind, SamplingParams, SamplingRequest,
};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

/// The logits of a request's next token, as [`super::Request::logits`] gives them.
#[derive(Clone, Debug, PartialEq)]
pub enum HostLogits {
    /// `[vocab]`: the logits, for the host to change.
    Ready(Vec<f32>),
    /// They were not there in time.
    Timeout,
    /// The request has ended.
    End,
}

/// What a host makes of logits.
#[derive(Clone, Copy, Debug)]
pub enum Choice<'a> {
    /// This token.
    Token(u32),
    /// The one that is sampled from these logits, with the request's options.
    Sample(&'a [f32]),
}

/// A token that the host chose, for the engine thread.
#[derive(Debug, PartialEq)]
pub(super) struct Chosen {
    pub token: u32,
    /// By the raw logits; NaN when none was asked for.
    pub logprob: f32,
    pub top_tokens: Vec<u32>,
    pub top_logprobs: Vec<f32>,
}

/// Where a request and its host stand.
#[derive(Debug)]
enum Phase {
    /// The engine has it.
    Computing,
    /// The host has it.
    Ready(Arc<Turn>),
    /// The host is choosing.
    Choosing,
    Ended,
}

/// What a token is chosen from.
#[derive(Debug)]
pub(super) struct Turn {
    /// The raw logits.
    pub logits: Vec<f32>,
    pub adjustments: Vec<LogitAdjustment>,
    /// Of a constraint: what may be sampled. Empty: all.
    pub mask: Vec<u32>,
    /// The vocabulary's own.
    pub allowed: Arc<AllowedTokens>,
    /// Of the token in its sequence.
    pub position: u64,
}

impl Turn {
    /// Room for the logits of a vocabulary, to be read.
    ///
    /// # Errors
    /// `Memory`.
    pub fn new(vocab: usize, allowed: &Arc<AllowedTokens>, position: u64) -> Result<Turn> {
        let logits = filled("the logits of a request", vocab, 0.0)?;
        Ok(Turn { logits, adjustments: Vec::new(), mask: Vec::new(), allowed: allowed.clone(), position })
    }
}

/// A request's host, seen from both sides.
#[derive(Debug)]
pub(super) struct Host {
    phase: Mutex<Phase>,
    changed: Condvar,
    params: SamplingParams,
}

impl Host {
    pub fn new(params: &SamplingParams) -> Host {
        Host { phase: Mutex::new(Phase::Computing), changed: Condvar::new(), params: params.clone() }
    }

    /// Gives the host its turn, unless the request has ended. Engine thread only.
    pub fn give(&self, turn: Turn) {
        let mut phase = lock(&self.phase);
        if !matches!(*phase, Phase::Ended) {
            *phase = Phase::Ready(Arc::new(turn));
            self.changed.notify_all();
        }
    }

    /// The request has ended: nobody waits for logits any more.
    pub fn end(&self) {
        let before = std::mem::replace(&mut *lock(&self.phase), Phase::Ended);
        self.changed.notify_all();
        drop(before);
    }

    /// Waits until the host has its turn.
    ///
    /// # Errors
    /// `Memory`.
    pub fn logits(&self, deadline: Option<Instant>) -> Result<HostLogits> {
        let mut phase = lock(&self.phase);
        loop {
            match &*phase {
                Phase::Ready(turn) => {
                    let turn = turn.clone();
                    drop(phase);
                    return Ok(HostLogits::Ready(copied("the logits of a request", &turn.logits)?));
                }
                Phase::Ended => return Ok(HostLogits::End),
                Phase::Computing | Phase::Choosing => {}
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(HostLogits::Timeout);
            }
            (phase, _) = wait_until(&self.changed, phase, deadline);
        }
    }

    /// Whether it is the host's turn.
    pub fn has_turn(&self) -> bool {
        matches!(*lock(&self.phase), Phase::Ready(_))
    }

    /// What the host has chosen; `None` when the request has ended. An error leaves the turn with the host.
    ///
    /// # Errors
    /// `Argument` when it is not the host's turn, for a token that may not follow, for logits of another vocabulary, and where none of
    /// them can be sampled; `Memory`.
    pub fn choose(&self, choice: Choice) -> Result<Option<Chosen>> {
        let turn = {
            let mut phase = lock(&self.phase);
            match std::mem::replace(&mut *phase, Phase::Choosing) {
                Phase::Ready(turn) => turn,
                Phase::Ended => {
                    *phase = Phase::Ended;
                    return Ok(None);
                }
                before => {
                    *phase = before;
                    let message = "there is nothing to choose from: the logits of the next token are not there yet";
                    return Err(Error::argument(message).about("request"));
                }
            }
        };
        let chosen = chosen(&turn, &self.params, choice);
        let mut phase = lock(&self.phase);
        if matches!(*phase, Phase::Ended) {
            return Ok(None);
        }
        *phase = if chosen.is_ok() { Phase::Computing } else { Phase::Ready(turn) };
        drop(phase);
        // Another thread may wait for the turn that this one has not taken.
        self.changed.notify_all();
        chosen.map(Some)
    }
}

fn chosen(turn: &Turn, params: &SamplingParams, choice: Choice) -> Result<Chosen> {
    let vocab = turn.logits.len();
    let mut sampler = Sampler::new(vocab)?;
    let own = (!turn.mask.is_empty()).then_some(turn.mask.as_slice());
    let token = match choice {
        Choice::Token(token) => {
            let allowed = own.is_none_or(|mask| is_set(mask, token));
            let message = match () {
                () if token as usize >= vocab => format!("token {token} is not below the vocabulary size {vocab}"),
                () if !turn.allowed.contains(token) => {
                    format!("token {token} stands for nothing in this model's vocabulary")
                }
                () if !allowed => format!("token {token} cannot follow under the request's constraint"),
                () => String::new(),
            };
            if !message.is_empty() {
                return Err(Error::argument(message).about("token"));
            }
            token
        }
        Choice::Sample(logits) => {
            if logits.len() != vocab {
                let message = format!("{} logits; there are {vocab}", logits.len());
                return Err(Error::argument(message).about("logits"));
            }
            let request = SamplingRequest { logprobs: -1, ..params.request(turn.position, turn.adjustments.len()) };
            let sampled = sampler.sample(
                &Portable,
                logits,
                &turn.allowed,
                &request,
                (&turn.adjustments, own),
                Default::default(),
            );
            if [NO_TOKEN, NO_FINITE_LOGIT].contains(&sampled.token) {
                let message = "no token can be sampled from these logits: none is finite where the vocabulary, the constraint and the \
                               biases allow it";
                return Err(Error::argument(message).about("logits"));
            }
            sampled.token
        }
    };
    let Some(count) = params.logprobs else {
        return Ok(Chosen { token, logprob: f32::NAN, top_tokens: Vec::new(), top_logprobs: Vec::new() });
    };
    // The best of the raw logits are found beside whatever is sampled of them: here the token itself.
    let logprob = sampler.logprob(&Portable, &turn.logits, token);
    let request = SamplingRequest { kind: SamplingKind::Sample, logprobs: count as i32, ..SamplingRequest::default() };
    let (mut top_tokens, mut top_logprobs) =
        (filled("top tokens", count as usize, 0)?, filled("top tokens", count as usize, 0.0)?);
    let all = AllowedTokens::all(vocab);
    sampler.sample(&Portable, &turn.logits, &all, &request, (&[], None), (&mut top_tokens, &mut top_logprobs));
    Ok(Chosen { token, logprob, top_tokens, top_logprobs })
}

/// The engine's side of a request's host. When it is dropped, the request has ended, however that came.
pub(super) struct Seat(pub Arc<Host>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;

    fn turn(mask: Vec<u32>) -> Turn {
        let allowed = Arc::new(AllowedTokens::all(8));
        Turn { logits: vec![0.0, 3.0, 1.0, -1.0, 2.0, f32::NAN, 0.5, 0.25], mask, ..Turn::new(8, &allowed, 5).unwrap() }
    }

    #[test]
    fn a_turn_is_taken_once() {
        let host = Host::new(&SamplingParams { logprobs: Some(2), ..SamplingParams::default() });
        assert_eq!(host.choose(Choice::Token(1)).unwrap_err().status, Status::Argument);
        assert_eq!(host.logits(Some(Instant::now())).unwrap(), HostLogits::Timeout);
        host.give(turn(Vec::new()));
        let HostLogits::Ready(mut logits) = host.logits(None).unwrap() else { panic!("they are there") };
        logits[1] = f32::NEG_INFINITY;
        let chosen = host.choose(Choice::Sample(&logits)).unwrap().unwrap();
        // Log probabilities are those of the model.
        assert_eq!((chosen.token, chosen.top_tokens.as_slice()), (4, &[1, 4][..]));
        assert_eq!(chosen.logprob, chosen.top_logprobs[1]);
        assert!(host.choose(Choice::Token(1)).is_err());
        host.give(turn(Vec::new()));
        host.end();
        assert_eq!(host.logits(None).unwrap(), HostLogits::End);
        assert_eq!(host.choose(Choice::Token(1)).unwrap(), None);
        host.give(turn(Vec::new()));
        assert_eq!(host.logits(None).unwrap(), HostLogits::End);
    }

    #[test]
    fn what_cannot_be_chosen_leaves_the_turn_with_the_host() {
        let host = Host::new(&SamplingParams::default());
        host.give(turn(vec![0b1001]));
        for (choice, subject) in [
            (Choice::Token(8), "token"),
            (Choice::Token(1), "token"),
            (Choice::Sample(&[0.0; 7]), "logits"),
            (Choice::Sample(&[f32::NEG_INFINITY; 8]), "logits"),
        ] {
            let error = host.choose(choice).unwrap_err();
            assert_eq!((error.status, error.subject.as_str()), (Status::Argument, subject), "{choice:?}");
        }
        assert_eq!(host.choose(Choice::Token(3)).unwrap().unwrap().token, 3);
        host.give(turn(vec![0b1001]));
        assert_eq!(
            host.choose(Choice::Sample(&turn(Vec::new()).logits)).unwrap().unwrap().token,
            0,
            "of the mask the best"
        );
    }
}
