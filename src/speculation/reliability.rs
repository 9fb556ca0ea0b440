//! How often what followed a repetition before follows it again, by the length of the repetition.

/// Classes of lengths: 1, 2, up to 4, 8, 16, 32, and longer ones.
const CLASSES: usize = 7;
/// What is assumed of each class at first: of texts in general, a little less than what was seen there.
const ASSUMED: [f32; CLASSES] = [0.1, 0.2, 0.4, 0.55, 0.7, 0.8, 0.85];
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
