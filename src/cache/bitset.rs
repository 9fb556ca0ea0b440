//! A set of small integers that finds its lowest member in a few instructions: bitmasks over bitmasks, 64 to one.
//!
//! Invariant: bit i of a word of level n + 1 is set exactly when word i of level n is not zero. Two levels hold 4,096
//! members, three 262,144, four 16 million, so every operation touches at most that many words.

use crate::error::{Result, filled};

/// A set of integers below a fixed capacity.
#[derive(Clone, Debug)]
pub struct BitSet {
    /// The members first, then summaries, each 64 times smaller; the last has one word.
    levels: Vec<Vec<u64>>,
    capacity: usize,
    len: usize,
}

impl BitSet {
    /// The set of all integers below `capacity`.
    ///
    /// # Errors
    /// `Memory`.
    pub fn full(capacity: usize) -> Result<BitSet> {
        let mut levels = Vec::new();
        let mut members = capacity;
        loop {
            let words = members.div_ceil(64).max(1);
            let mut level = filled("a bit set", words, u64::MAX)?;
            if !members.is_multiple_of(64) || members == 0 {
                level[words - 1] = (1u64 << (members % 64)) - 1;
            }
            levels.push(level);
            if words == 1 {
                return Ok(BitSet { levels, capacity, len: capacity });
            }
            members = words;
        }
    }

    /// Members.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `index` is a member.
    pub fn contains(&self, index: usize) -> bool {
        index < self.capacity && self.levels[0][index / 64] >> (index % 64) & 1 == 1
    }

    /// Removes and returns the lowest member.
    pub fn take_first(&mut self) -> Option<usize> {
        if self.len == 0 {
            return None;
        }
        let mut index = 0;
        for level in self.levels.iter().rev() {
            index = index * 64 + level[index].trailing_zeros() as usize;
        }
        self.remove(index);
        Some(index)
    }

    /// Removes `index`; false when it was no member.
    pub fn remove(&mut self, index: usize) -> bool {
        if !self.contains(index) {
            return false;
        }
        self.len -= 1;
        let mut at = index;
        for level in &mut self.levels {
            level[at / 64] &= !(1 << (at % 64));
            if level[at / 64] != 0 {
                break;
            }
            at /= 64;
        }
        true
    }

    /// Adds `index`; false when it was a member already or is beyond the capacity.
    pub fn insert(&mut self, index: usize) -> bool {
        if index >= self.capacity || self.contains(index) {
            return false;
        }
        self.len += 1;
        let mut at = index;
        for level in &mut self.levels {
            let before = level[at / 64];
            level[at / 64] |= 1 << (at % 64);
            if before != 0 {
                break;
            }
            at /= 64;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn behaves_like_a_sorted_set_at_every_edge() {
        for capacity in [0, 1, 63, 64, 65, 4095, 4096, 4097, 300_000] {
            let mut set = BitSet::full(capacity).unwrap();
            let mut model: BTreeSet<usize> = (0..capacity).collect();
            let mut state = capacity as u64 + 1;
            for _ in 0..2000 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let index = (state >> 33) as usize % (capacity + 1);
                match state >> 60 & 3 {
                    0 => assert_eq!(set.take_first(), model.pop_first()),
                    1 => assert_eq!(set.remove(index), model.remove(&index)),
                    _ => assert_eq!(set.insert(index), index < capacity && model.insert(index)),
                }
                assert_eq!(set.len(), model.len());
                assert_eq!(set.contains(index), model.contains(&index));
            }
            while let Some(first) = model.pop_first() {
                assert_eq!(set.take_first(), Some(first), "capacity {capacity}");
            }
            assert!(set.is_empty() && set.take_first().is_none());
        }
    }
}
