//! Maximum and softmax sums over a logits row: fixed order, no library exponential, so that results are the same on
//! every system, and loops the compiler vectorises. A logit that is not finite counts as minus infinity everywhere.

/// Independent accumulators; element i goes to lane i mod 16.
const LANES: usize = 16;

/// Non-finite values become minus infinity.
#[inline]
pub fn finite_or_least(x: f32) -> f32 {
    if x.is_finite() { x } else { f32::NEG_INFINITY }
}

/// The largest finite value, or minus infinity when there is none.
pub fn max(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            let x = finite_or_least(x);
            *lane = if x > *lane { x } else { *lane };
        }
    }
    lanes.into_iter().chain(rest.iter().map(|&x| finite_or_least(x))).fold(f32::NEG_INFINITY, f32::max)
}

/// Id of the largest finite value, of equals the lowest; `None` when there is none. One pass.
pub fn argmax(row: &[f32]) -> Option<u32> {
    const BLOCK: usize = 1024;
    let (mut best, mut at) = (f32::NEG_INFINITY, None);
    for (block, values) in row.chunks(BLOCK).enumerate() {
        let top = max(values);
        if top > best {
            (best, at) = (top, Some(block));
        }
    }
    let start = at? * BLOCK;
    let offset = row.get(start..)?.iter().position(|&x| x == best)?;
    u32::try_from(start + offset).ok()
}

/// Sum over the row of exp((x - max) / temperature), in double precision.
pub fn sum_exp(row: &[f32], max: f32, temperature: f32) -> f64 {
    let mut lanes = [0f64; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        add(&mut lanes, &chunk.map(|x| weight(x, max, temperature)));
    }
    add(&mut lanes, &last_weights(rest, max, temperature));
    sum_lanes(lanes)
}

/// Writes exp((x - max) / temperature) of each value and returns their sum, equal to that of [`sum_exp`].
pub fn weights(row: &[f32], max: f32, temperature: f32, out: &mut [f32]) -> f64 {
    let mut lanes = [0f64; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    let (out_chunks, out_rest) = out.as_chunks_mut::<LANES>();
    for (chunk, out) in chunks.iter().zip(out_chunks) {
        *out = chunk.map(|x| weight(x, max, temperature));
        add(&mut lanes, out);
    }
    let last = last_weights(rest, max, temperature);
    for (out, weight) in out_rest.iter_mut().zip(last) {
        *out = weight;
    }
    add(&mut lanes, &last);
    sum_lanes(lanes)
}

/// Weights of the values after the last whole chunk, then zeros.
fn last_weights(rest: &[f32], max: f32, temperature: f32) -> [f32; LANES] {
    let mut last = [0.0; LANES];
    for (out, &x) in last.iter_mut().zip(rest) {
        *out = weight(x, max, temperature);
    }
    last
}

fn add(lanes: &mut [f64; LANES], values: &[f32; LANES]) {
    for (lane, &value) in lanes.iter_mut().zip(values) {
        *lane += f64::from(value);
    }
}

fn sum_lanes(mut lanes: [f64; LANES]) -> f64 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// exp((x - max) / temperature), 0 for a value that is not finite. Needs x <= max < infinity and temperature > 0.
#[inline]
pub fn weight(x: f32, max: f32, temperature: f32) -> f32 {
    exp_nonpositive((finite_or_least(x) - max) / temperature)
}

/// Below this exp is 0: the results stay normal numbers, whatever the processor does with others.
const EXP_LEAST: f32 = -87.0;

/// e^x for x <= 0, within 2e-7 relative; 0 below [`EXP_LEAST`]. Cephes' `expf`: x = n ln 2 + r, a polynomial in r.
#[inline]
#[allow(clippy::excessive_precision, reason = "the published coefficients")]
pub fn exp_nonpositive(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to a whole number and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x >= EXP_LEAST { x } else { EXP_LEAST };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * 0.693_359_375) + n * 2.121_944_4e-4;
    let mut poly = 1.987_569_15e-4;
    for coefficient in [1.398_199_95e-3, 8.333_451_9e-3, 4.166_579_6e-2, 1.666_666_55e-1, 0.5] {
        poly = poly * r + coefficient;
    }
    let value = poly * (r * r) + r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    let value = value * f32::from_bits(exponent << 23);
    if x >= EXP_LEAST { value } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_everywhere() {
        assert_eq!(exp_nonpositive(0.0), 1.0);
        let mut worst = 0f64;
        for i in 0..=870_000 {
            let x = -(i as f32) * 1e-4;
            let (ours, exact) = (f64::from(exp_nonpositive(x)), f64::from(x).exp());
            if x >= EXP_LEAST {
                worst = worst.max((ours / exact - 1.0).abs());
            }
        }
        assert!(worst < 2e-7, "worst {worst}");
        for x in [-87.1, -100.0, -1e30, f32::NEG_INFINITY] {
            assert_eq!(exp_nonpositive(x), 0.0);
        }
    }

    #[test]
    fn argmax_takes_the_first_of_equals_and_skips_the_rest() {
        assert_eq!(argmax(&[]), None);
        assert_eq!(argmax(&[f32::NAN, f32::NEG_INFINITY, f32::INFINITY]), None);
        assert_eq!(argmax(&[f32::NAN, -3.0, f32::INFINITY]), Some(1));
        assert_eq!(argmax(&[-0.0, 0.0]), Some(0));
        for len in [1, 15, 16, 17, 1023, 1024, 1025, 5000] {
            let mut row = vec![-1.0; len];
            assert_eq!(argmax(&row), Some(0));
            row[len - 1] = 2.0;
            assert_eq!(argmax(&row), Some(len as u32 - 1));
            row[len / 2] = 2.0;
            assert_eq!(argmax(&row), Some(len as u32 / 2));
        }
    }

    #[test]
    fn sums_agree_and_ignore_what_is_not_finite() {
        let mut row: Vec<f32> = (0..1001).map(|i| (i as f32 * 0.37).sin() * 5.0).collect();
        row[3] = f32::NAN;
        row[5] = f32::INFINITY;
        row[700] = f32::NEG_INFINITY;
        let (top, mut out) = (max(&row), vec![0.0; row.len()]);
        let sum = weights(&row, top, 0.7, &mut out);
        assert_eq!(sum, sum_exp(&row, top, 0.7));
        let exact: f64 =
            row.iter().filter(|x| x.is_finite()).map(|&x| (f64::from(x - top) / 0.7f32 as f64).exp()).sum();
        assert!((sum / exact - 1.0).abs() < 1e-6, "{sum} {exact}");
        assert_eq!((out[3], out[5], out[700]), (0.0, 0.0, 0.0));
    }
}
