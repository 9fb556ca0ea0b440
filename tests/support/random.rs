//! Seeded numbers for random workloads.

/// A generator; the number is its seed.
pub struct Random(pub u64);

impl Random {
    fn step(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.number(n as u64) as usize
    }

    /// As [`Random::below`].
    pub fn number(&mut self, n: u64) -> u64 {
        (self.step() >> 33) % n
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    pub fn word(&mut self) -> u32 {
        (self.step() >> 32) as u32
    }

    /// A number in [-1, 1).
    pub fn next(&mut self) -> f32 {
        (self.word() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    /// `n` numbers in [-1, 1).
    pub fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }
}

/// The seed of this run: that of ASTRAI_TEST_SEED, or always the same. Printed, so that a failure can be repeated.
pub fn seed() -> u64 {
    let seed = std::env::var("ASTRAI_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20260101);
    println!("ASTRAI_TEST_SEED={seed}");
    seed
}

/// Long runs multiply the random workloads.
pub fn rounds() -> u64 {
    std::env::var("ASTRAI_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1).max(1)
}
