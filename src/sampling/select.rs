//! The k largest of a row without sorting it.
//!
//! A value and its id make one integer key that orders as wanted: larger values first, of equals the lower id.

/// Orders like (value, lower id first). The value is not NaN.
#[inline]
pub fn key(value: f32, id: u32) -> u64 {
    // Adding 0 makes -0 and 0 equal; then the usual map of floats to integers of the same order.
    let bits = (value + 0.0).to_bits();
    let ordered = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    u64::from(ordered) << 32 | u64::from(!id)
}

/// The id in a key.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "the id is the lower half")]
pub fn id(key: u64) -> u32 {
    !(key as u32)
}

/// The value in a key.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "the value is the upper half")]
pub fn value(key: u64) -> f32 {
    let ordered = (key >> 32) as u32;
    f32::from_bits(if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered })
}

/// Leaves the k largest of `keys` in `out`, in no particular order; all, when there are fewer. `out` is a scratch
/// buffer with room for all keys. About one comparison for each key that does not matter.
pub fn largest(keys: impl Iterator<Item = u64>, k: usize, out: &mut Vec<u64>) {
    out.clear();
    if k == 0 {
        return;
    }
    let full = k.saturating_mul(2).max(256);
    let mut least = 0;
    for key in keys {
        if key < least {
            continue;
        }
        out.push(key);
        if out.len() == full {
            least = keep_largest(out, k);
        }
    }
    keep_largest(out, k);
}

/// Keeps the k largest (k > 0), in no particular order, and returns the least of them, 0 when there were fewer than k.
pub fn keep_largest(keys: &mut Vec<u64>, k: usize) -> u64 {
    if keys.len() < k {
        return 0;
    }
    let (_, least, _) = keys.select_nth_unstable_by(k - 1, |a, b| b.cmp(a));
    let least = *least;
    keys.truncate(k);
    least
}

/// Sorts the `front` largest keys to the front, largest first, and returns how many that are.
pub fn sort_front(keys: &mut [u64], front: usize) -> usize {
    let front = front.min(keys.len());
    if front > 0 && front < keys.len() {
        keys.select_nth_unstable_by(front - 1, |a, b| b.cmp(a));
    }
    if let Some(front) = keys.get_mut(..front) {
        front.sort_unstable_by(|a, b| b.cmp(a));
    }
    front
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_by_value_then_lower_id() {
        let ascending = [
            key(f32::NEG_INFINITY, 0),
            key(-3.0, 1),
            key(-1e-40, 2),
            key(0.0, 9),
            key(-0.0, 8),
            key(1e-40, 3),
            key(2.5, 7),
            key(2.5, 6),
            key(f32::MAX, u32::MAX),
        ];
        assert!(ascending.is_sorted_by(|a, b| a < b), "{ascending:x?}");
        assert_eq!((id(key(-1.5, 77)), id(key(1.5, u32::MAX))), (77, u32::MAX));
    }

    #[test]
    fn the_largest_are_those_of_a_sort() {
        let keys: Vec<u64> = (0..3000u64).map(|i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20).collect();
        let mut sorted = keys.clone();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        let mut out = Vec::new();
        for k in [0, 1, 2, 127, 128, 129, 1500, 2999, 3000, 5000] {
            largest(keys.iter().copied(), k, &mut out);
            let count = sort_front(&mut out, usize::MAX);
            assert_eq!(out, sorted[..k.min(3000)], "k {k}");
            assert_eq!(count, k.min(3000));
        }
        let mut some = keys;
        assert_eq!(sort_front(&mut some, 10), 10);
        assert_eq!(some[..10], sorted[..10]);
    }
}
