//! Philox4x32-10: random numbers as a pure function of a key and a counter.
//!
//! Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011), the generator of cuRAND and
//! PyTorch on GPUs, which keeps the door open for drawing there. The `rand` family has no keeper of it; it is twenty
//! lines, held to the paper's published answers.

/// One block of four words.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        }
        let [a, b, c, d] = counter;
        let (low_a, high_a) = halves(0xD251_1F53 * u64::from(a));
        let (low_c, high_c) = halves(0xCD9E_8D57 * u64::from(c));
        counter = [high_c ^ b ^ key[0], low_c, high_a ^ d ^ key[1], low_a];
    }
    counter
}

/// Low and high word.
#[allow(clippy::cast_possible_truncation, reason = "cutting in halves is the point")]
const fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}

/// The uniform number in [0, 1), a multiple of 2^-53, of one draw: the `draw`-th at absolute `position` of the
/// `choice`-th answer to a request with `seed`. No other state exists.
pub fn uniform(seed: u64, choice: u32, position: u64, draw: u32) -> f64 {
    let (seed_low, seed_high) = halves(seed);
    let (position_low, position_high) = halves(position);
    let [a, b, ..] = philox4x32([position_low, position_high, choice, draw], [seed_low, seed_high]);
    let bits = (u64::from(a) << 21) | u64::from(b >> 11);
    bits as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_answers() {
        // Random123's kat_vectors, lines "philox4x32 10".
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32(counter, key), expected);
        }
    }

    #[test]
    fn uniforms_are_pinned() {
        // The first block above: a = 0x6627e8d5, b = 0xe169c58d.
        let bits = (0x6627_e8d5_u64 << 21) | (0xe169_c58d_u64 >> 11);
        assert_eq!(uniform(0, 0, 0, 0), bits as f64 / 2f64.powi(53));
        let distinct = [uniform(1, 0, 0, 0), uniform(0, 1, 0, 0), uniform(0, 0, 1, 0), uniform(0, 0, 0, 1)];
        let distinct =
            [distinct, [uniform(1 << 32, 0, 0, 0), uniform(0, 0, 1 << 32, 0), uniform(0, 0, 0, 0), 1.0]].concat();
        for (i, x) in distinct.iter().enumerate() {
            assert!(distinct[..i].iter().all(|y| x != y));
        }
    }

    #[test]
    fn positions_fill_the_unit_interval_evenly() {
        const DRAWS: u64 = 100_000;
        let mut bins = [0u32; 100];
        for position in 0..DRAWS {
            let u = uniform(7, 0, position, 0);
            assert!((0.0..1.0).contains(&u));
            bins[(u * 100.0) as usize] += 1;
        }
        let chi2: f64 = bins.iter().map(|&n| (f64::from(n) - 1000.0).powi(2) / 1000.0).sum();
        // 99 degrees of freedom: mean 99, standard deviation 14.
        assert!((50.0..160.0).contains(&chi2), "chi2 {chi2}");
    }
}
