//! Seeded random numbers for workloads: the same on every machine.

/// A stream of random numbers (splitmix64).
pub struct Random(u64);

impl Random {
    /// The stream of a seed and a purpose, so that lengths do not change when prompts do.
    pub fn new(seed: u64, purpose: u64) -> Random {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ purpose.rotate_left(32));
        random.next();
        random
    }

    /// 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    /// A number above 0 and at most 1.
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// An exponentially distributed number.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * self.unit().ln()
    }

    /// Random token ids below `vocab`.
    pub fn tokens(&mut self, count: usize, vocab: u32) -> Vec<u32> {
        (0..count).map(|_| (self.next() % u64::from(vocab.max(1))) as u32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_numbers_have_their_mean_and_spread() {
        let mut random = Random::new(7, 1);
        let values: Vec<f64> = (0..100_000).map(|_| random.exponential(64.0)).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let above = values.iter().filter(|v| **v > 128.0).count() as f64 / values.len() as f64;
        assert!((mean - 64.0).abs() < 1.0, "{mean}");
        assert!((above - (-2.0f64).exp()).abs() < 0.01, "{above}");
        assert!(values.iter().all(|v| *v >= 0.0 && v.is_finite()));
    }

    #[test]
    fn purposes_and_seeds_have_streams_of_their_own() {
        let first = |seed, purpose| Random::new(seed, purpose).next();
        assert_eq!(first(1, 1), first(1, 1));
        assert_ne!(first(1, 1), first(1, 2));
        assert_ne!(first(1, 1), first(2, 1));
        assert!(Random::new(3, 3).tokens(1000, 7).iter().all(|t| *t < 7));
    }
}
