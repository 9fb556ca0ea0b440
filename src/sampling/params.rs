//! What a request asks of the sampler.

use super::{SamplingKind, SamplingRequest};
use crate::error::{Error, Result, Unit};
use crate::limits;

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
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output; 1 = none.
    pub repetition_penalty: f32,
    /// Subtracted from logits of tokens seen in the output; 0 = none.
    pub presence_penalty: f32,
    /// Subtracted from logits for each occurrence in the output; 0 = none.
    pub frequency_penalty: f32,
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
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
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
        check("repetition_penalty", self.repetition_penalty, "above 0; 1 means none", |x| x > 0.0)?;
        check("presence_penalty", self.presence_penalty, "a finite number; 0 means none", |_| true)?;
        check("frequency_penalty", self.frequency_penalty, "a finite number; 0 means none", |_| true)?;
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
            ..SamplingRequest::default()
        }
    }

    /// Whether the tokens of the prompt and of the output must be counted.
    pub fn uses_counts(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
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
        let cases: [(&str, Change); 19] = [
            ("temperature", |p| p.temperature = f32::NAN),
            ("temperature", |p| p.temperature = -0.1),
            ("temperature", |p| p.temperature = f32::INFINITY),
            ("top_p", |p| p.top_p = 0.0),
            ("top_p", |p| p.top_p = 1.01),
            ("top_p", |p| p.top_p = f32::NAN),
            ("min_p", |p| p.min_p = -0.1),
            ("min_p", |p| p.min_p = 1.1),
            ("min_p", |p| p.min_p = f32::NAN),
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
