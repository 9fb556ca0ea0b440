//! How often what followed a repetition before follows it again, by the length of the repetition.

/// Classes of lengths: 1, 2, up to 4, 8, 16, 32, and longer ones.
const CLASSES: usize = 7;
/// What is assumed of each class at first: of texts in general, a little less than what was seen there.
const ASSUMED: [f32; CLASSES] = [0.1, 0.2, 0.4, 0.55, 0.7, 0.8, 0.85];
/// What is assumed of a model at first.
const ASSUMED_OF_MODEL: f32 = 0.7;
/// What is assumed counts as so many observations.
const ASSUMED_WEIGHT: f32 = 3.0;
/// An observation counts for so much less after each later one.
const FADING: f32 = 0.96;

/// What was observed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reliability {
    hits: [f32; CLASSES],
    trials: [f32; CLASSES],
}

impl Reliability {
    /// The token after a repetition of this length was, or was not, the one that had followed before.
    pub fn observe(&mut self, len: usize, hit: bool) {
        let class = class(len);
        self.hits[class] = self.hits[class] * FADING + f32::from(u8::from(hit));
        self.trials[class] = self.trials[class] * FADING + 1.0;
    }

    /// The probability that it is, after a repetition of this length.
    pub fn probability(&self, len: usize) -> f32 {
        if len == 0 {
            return 0.0;
        }
        let class = class(len);
        (self.hits[class] + ASSUMED_WEIGHT * ASSUMED[class]) / (self.trials[class] + ASSUMED_WEIGHT)
    }
}

/// How often the drafts of a model were what was sampled.
#[derive(Clone, Copy, Debug, Default)]
pub struct Acceptance {
    hits: f32,
    trials: f32,
}

impl Acceptance {
    /// Of `drafted` tokens in a row the first `accepted` were.
    pub fn observe(&mut self, drafted: usize, accepted: usize) {
        for index in 0..(accepted + 1).min(drafted) {
            self.hits = self.hits * FADING + f32::from(u8::from(index < accepted));
            self.trials = self.trials * FADING + 1.0;
        }
    }

    /// The probability that the next one is.
    pub fn probability(&self) -> f32 {
        (self.hits + ASSUMED_WEIGHT * ASSUMED_OF_MODEL) / (self.trials + ASSUMED_WEIGHT)
    }

    /// How many drafts, up to `most`, are all of them accepted with a probability of at least `least`.
    pub fn drafts(&self, least: f32, most: usize) -> usize {
        let mut all = 1.0;
        (0..most)
            .take_while(|_| {
                all *= self.probability();
                all >= least.max(f32::MIN_POSITIVE)
            })
            .count()
    }
}

fn class(len: usize) -> usize {
    (usize::BITS - len.saturating_sub(1).leading_zeros()).min(CLASSES as u32 - 1) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_classed_by_powers_of_two() {
        let classes: Vec<usize> = [1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 1000].map(class).to_vec();
        assert_eq!(classes, [0, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]);
    }

    #[test]
    fn a_model_drafts_as_far_as_it_is_right() {
        let mut acceptance = Acceptance::default();
        assert_eq!(acceptance.drafts(0.3, 9), 3);
        (0..40).for_each(|_| acceptance.observe(4, 4));
        assert_eq!(acceptance.drafts(0.3, 9), 9);
        // The first refusal ends a row: what is behind it says nothing.
        (0..40).for_each(|_| acceptance.observe(4, 1));
        assert!((0.4..0.6).contains(&acceptance.probability()), "{}", acceptance.probability());
        (0..40).for_each(|_| acceptance.observe(1, 0));
        assert_eq!(acceptance.drafts(0.3, 9), 0);
    }

    #[test]
    fn what_is_seen_replaces_what_was_assumed() {
        let mut reliability = Reliability::default();
        assert_eq!(reliability.probability(0), 0.0);
        let before = reliability.probability(6);
        (0..50).for_each(|_| reliability.observe(7, true));
        assert!(reliability.probability(6) > 0.9 && reliability.probability(5) > before);
        // A change is noticed within some tens of tokens.
        (0..50).for_each(|_| reliability.observe(6, false));
        assert!(reliability.probability(6) < 0.2);
        assert_eq!(reliability.probability(40), Reliability::default().probability(40), "others are as they were");
    }
}
