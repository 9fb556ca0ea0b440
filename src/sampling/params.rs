//! What a request asks of the sampler.

use super::philox::uniform;
use super::{SamplingKind, SamplingRequest};
use crate::error::{Error, Result, Unit};
use crate::limits;

/// The random number of a position that says whether its draw has XTC; number 0 is the draw's own.
const XTC_DRAW: u32 = 1;

/// Sampling parameters of one request, all defaults resolved. The default is greedy.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 = greedy: the highest logit after penalties and bias, of equals the lowest id.
    pub temperature: f32,
    /// Draw among the k highest logits only, of equals the lowest ids; 0 = all.
    pub top_k: u32,
    /// Draw from the smallest set of the likeliest tokens whose probability reaches this; the one that crosses is in.
    pub top_p: f32,
    /// Draw from tokens at least this fraction as probable as the best.
    pub min_p: f32,
    /// How often the draw of a token leaves out the top choices; 0 = never.
    pub xtc_probability: f32,
    /// What is a top choice: a token that after truncation is at least so probable. The least likely of them stays.
    pub xtc_threshold: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output; 1 = none.
    pub repetition_penalty: f32,
    /// Subtracted from logits of tokens seen in the output; 0 = none.
    pub presence_penalty: f32,
    /// Subtracted from logits for each occurrence in the output; 0 = none.
    pub frequency_penalty: f32,
    /// DRY: subtracted from the logit of a token that would go on with a repetition of the allowed length; 0 = none.
    pub dry_multiplier: f32,
    /// What the penalty is multiplied by for each token that the repetition is longer.
    pub dry_base: f32,
    /// The least length of a repetition, in tokens, that has a penalty.
    pub dry_allowed_length: u32,
    /// Tokens of prompt and output that are looked at for repetitions; -1 = all, 0 = none.
    pub dry_penalty_last_n: i32,
    /// Names the random stream.
    pub seed: u64,
    /// Added to logits after the penalties, by token id; minus infinity forbids a token. Repeated ids add up.
    pub bias: Vec<(u32, f32)>,
    /// `Some(0)`: log probability of each sampled token; `Some(k)`: also the k best.
    pub logprobs: Option<u32>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        SamplingParams {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            xtc_probability: 0.0,
            xtc_threshold: limits::XTC_THRESHOLD_DEFAULT,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            dry_multiplier: 0.0,
            dry_base: limits::DRY_BASE_DEFAULT,
            dry_allowed_length: limits::DRY_ALLOWED_LENGTH_DEFAULT,
            dry_penalty_last_n: -1,
            seed: 0,
            bias: Vec::new(),
            logprobs: None,
        }
    }
}

impl SamplingParams {
    /// Checks every value against its range and ids against the model's vocabulary size.
    pub fn validate(&self, vocab: usize) -> Result<()> {
        check("temperature", self.temperature, "0 (greedy) or above", |x| x >= 0.0)?;
        check("top_p", self.top_p, "above 0 and at most 1", |x| x > 0.0 && x <= 1.0)?;
        check("min_p", self.min_p, "between 0 and 1", |x| (0.0..=1.0).contains(&x))?;
        check("xtc_probability", self.xtc_probability, "between 0 and 1", |x| (0.0..=1.0).contains(&x))?;
        check("xtc_threshold", self.xtc_threshold, "above 0 and at most 1; above 0.5 means none", |x| {
            x > 0.0 && x <= 1.0
        })?;
        check("repetition_penalty", self.repetition_penalty, "above 0; 1 means none", |x| x > 0.0)?;
        check("presence_penalty", self.presence_penalty, "a finite number; 0 means none", |_| true)?;
        check("frequency_penalty", self.frequency_penalty, "a finite number; 0 means none", |_| true)?;
        check("dry_multiplier", self.dry_multiplier, "0 (none) or above", |x| x >= 0.0)?;
        check("dry_base", self.dry_base, "1 or above", |x| x >= 1.0)?;
        if self.dry_penalty_last_n < -1 {
            let message = format!(
                "dry_penalty_last_n is {}; it must be 0 or more, or -1 for all tokens",
                self.dry_penalty_last_n
            );
            return Err(Error::argument(message).about("dry_penalty_last_n"));
        }
        self.validate_bias(vocab)?;
        let most = limits::TOP_LOGPROBS_MAX.min(vocab);
        match self.logprobs {
            Some(k) if k as usize > most => {
                let message = format!("logprobs is {k}; at most {most} are possible with this model");
                Err(Error::argument(message).about("logprobs").numbers(Unit::Count, u64::from(k), most as u64))
            }
            _ => Ok(()),
        }
    }

    fn validate_bias(&self, vocab: usize) -> Result<()> {
        let (count, most) = (self.bias.len(), limits::BIASES_MAX);
        if count > most {
            let message = format!("{count} logit biases; at most {most} are allowed");
            return Err(Error::argument(message).about("bias").numbers(Unit::Count, count as u64, most as u64));
        }
        for &(token, bias) in &self.bias {
            if token as usize >= vocab {
                let message = format!("logit bias for token {token}; the vocabulary ends at {vocab}");
                return Err(Error::argument(message).about("bias"));
            }
            if bias.is_nan() || bias == f32::INFINITY {
                let message = format!(
                    "logit bias of token {token} is {bias}; a finite number, or minus infinity to forbid it, is expected"
                );
                return Err(Error::argument(message).about("bias"));
            }
        }
        Ok(())
    }

    /// Asks for the token at absolute `position` of a sequence that has so many adjustments; the first one's index is the
    /// caller's to set.
    // By itself the compiler looks at the number of log probabilities only where there is one; inlined it looks at what is not there
    // first, to no effect, which valgrind reports.
    #[inline(never)]
    pub fn request(&self, position: u64, adjustments: usize) -> SamplingRequest {
        SamplingRequest {
            seed: self.seed,
            position,
            temperature: self.temperature,
            top_p: self.top_p,
            min_p: self.min_p,
            top_k: i32::try_from(self.top_k).unwrap_or(i32::MAX),
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logprobs: self.logprobs.map_or(-1, |n| n.min(limits::TOP_LOGPROBS_MAX as u32) as i32),
            first_adjustment: 0,
            adjustments: adjustments as i32,
            kind: SamplingKind::Sample,
            xtc_threshold: if self.leaves_out_top_choices(position) { self.xtc_threshold } else { 0.0 },
            ..SamplingRequest::default()
        }
    }

    /// Whether the draw at a position is one that has XTC. Above a half there are no two tokens that are as probable as that.
    fn leaves_out_top_choices(&self, position: u64) -> bool {
        self.xtc_probability > 0.0
            && self.xtc_threshold <= 0.5
            && uniform(self.seed, 0, position, XTC_DRAW) < f64::from(self.xtc_probability)
    }

    /// Whether the tokens of the prompt and of the output must be counted.
    pub fn uses_counts(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }

    /// Whether repetitions have a penalty.
    pub fn uses_dry(&self) -> bool {
        self.dry_multiplier > 0.0 && self.dry_penalty_last_n != 0
    }

    /// Whether a token must be known before the next one can be sampled.
    pub fn uses_history(&self) -> bool {
        self.uses_counts() || self.uses_dry()
    }
}

fn check(name: &str, value: f32, range: &str, allowed: fn(f32) -> bool) -> Result<()> {
    if value.is_finite() && allowed(value) {
        return Ok(());
    }
    Err(Error::argument(format!("{name} is {value}; it must be {range}")).about(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_are_refused_by_name() {
        type Change = fn(&mut SamplingParams);
        let cases: [(&str, Change); 27] = [
            ("temperature", |p| p.temperature = f32::NAN),
            ("temperature", |p| p.temperature = -0.1),
            ("temperature", |p| p.temperature = f32::INFINITY),
            ("top_p", |p| p.top_p = 0.0),
            ("top_p", |p| p.top_p = 1.01),
            ("top_p", |p| p.top_p = f32::NAN),
            ("min_p", |p| p.min_p = -0.1),
            ("min_p", |p| p.min_p = 1.1),
            ("min_p", |p| p.min_p = f32::NAN),
            ("xtc_probability", |p| p.xtc_probability = -0.1),
            ("xtc_probability", |p| p.xtc_probability = f32::NAN),
            ("xtc_threshold", |p| p.xtc_threshold = 0.0),
            ("xtc_threshold", |p| p.xtc_threshold = 1.5),
            ("dry_multiplier", |p| p.dry_multiplier = -1.0),
            ("dry_base", |p| p.dry_base = 0.5),
            ("dry_base", |p| p.dry_base = f32::INFINITY),
            ("dry_penalty_last_n", |p| p.dry_penalty_last_n = -2),
            ("repetition_penalty", |p| p.repetition_penalty = 0.0),
            ("repetition_penalty", |p| p.repetition_penalty = f32::INFINITY),
            ("presence_penalty", |p| p.presence_penalty = f32::NAN),
            ("frequency_penalty", |p| p.frequency_penalty = f32::NEG_INFINITY),
            ("bias", |p| p.bias = vec![(100, 1.0)]),
            ("bias", |p| p.bias = vec![(1, f32::NAN)]),
            ("bias", |p| p.bias = vec![(1, f32::INFINITY)]),
            ("bias", |p| p.bias = vec![(1, 1.0); limits::BIASES_MAX + 1]),
            ("logprobs", |p| p.logprobs = Some(101)),
            ("logprobs", |p| p.logprobs = Some(u32::MAX)),
        ];
        for (name, change) in cases {
            let mut params = SamplingParams::default();
            change(&mut params);
            let error = params.validate(100).expect_err(name);
            assert_eq!((error.status, error.subject.as_str()), (crate::Status::Argument, name), "{error}");
        }
    }

    #[test]
    fn the_edges_are_allowed() {
        let params = SamplingParams {
            top_p: 1e-9,
            min_p: 1.0,
            bias: vec![(99, f32::NEG_INFINITY)],
            logprobs: Some(100),
            presence_penalty: -2.0,
            ..SamplingParams::default()
        };
        assert_eq!(params.validate(100), Ok(()));
        assert!(params.uses_counts());
        assert_eq!(SamplingParams::default().validate(1), Ok(()));
        assert!(!SamplingParams::default().uses_counts());
    }
}
