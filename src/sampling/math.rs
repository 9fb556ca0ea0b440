//! Maximum and softmax sums over a logits row: fixed order, no library exponential, so that results are the same on
//! every system, and loops the compiler vectorises. A logit that is not finite counts as minus infinity everywhere.

/// Independent accumulators; element i goes to lane i mod 16.
const LANES: usize = 16;

/// Logits of a block, of which the largest is noted in the first pass over a row.
pub const BLOCK: usize = 128;

/// The passes over a row of logits. A device compiles them for its processor's vectors: no operation is fused or reordered, so
/// every implementor gives the same bits as [`Portable`].
pub trait RowPasses: Sync {
    /// The largest finite value of each [`BLOCK`] of the row, or minus infinity.
    fn block_maxima(&self, row: &[f32], maxima: &mut [f32]) {
        block_maxima(row, maxima);
    }

    /// See [`weights`].
    fn weights(&self, row: &[f32], max: f32, temperature: f32, out: &mut [f32]) -> f64 {
        weights(row, max, temperature, out)
    }

    /// See [`sum_exp`].
    fn sum_exp(&self, row: &[f32], max: f32, temperature: f32) -> f64 {
        sum_exp(row, max, temperature)
    }

    /// See [`sum_at_least`].
    fn sum_at_least(&self, row: &[f32], weights: &[f32], least: f32) -> f64 {
        sum_at_least(row, weights, least)
    }
}

/// The passes as the target's baseline has them.
pub struct Portable;

impl RowPasses for Portable {}

/// See [`RowPasses::block_maxima`].
#[inline(always)]
pub fn block_maxima(row: &[f32], maxima: &mut [f32]) {
    let (blocks, rest) = row.as_chunks::<BLOCK>();
    for (block, out) in blocks.iter().zip(&mut *maxima) {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for chunk in block.as_chunks::<LANES>().0 {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                let x = finite_or_least(x);
                *lane = if x > *lane { x } else { *lane };
            }
        }
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                lanes[i] = if lanes[i + half] > lanes[i] { lanes[i + half] } else { lanes[i] };
            }
            half /= 2;
        }
        *out = lanes[0];
    }
    if let Some(out) = maxima.get_mut(blocks.len()).filter(|_| !rest.is_empty()) {
        *out = max(rest);
    }
}

/// The sum of the weights whose logits are at least `least`, in an order of its own.
#[inline(always)]
pub fn sum_at_least(row: &[f32], weights: &[f32], least: f32) -> f64 {
    let mut lanes = [0f64; LANES];
    let ((chunks, rest), (weight_chunks, weight_rest)) = (row.as_chunks::<LANES>(), weights.as_chunks::<LANES>());
    for (chunk, weights) in chunks.iter().zip(weight_chunks) {
        for ((lane, &x), &weight) in lanes.iter_mut().zip(chunk).zip(weights) {
            *lane += f64::from(if x >= least { weight } else { 0.0 });
        }
    }
    for ((lane, &x), &weight) in lanes.iter_mut().zip(rest).zip(weight_rest) {
        *lane += f64::from(if x >= least { weight } else { 0.0 });
    }
    sum_lanes(lanes)
}

/// Non-finite values become minus infinity.
#[inline(always)]
pub fn finite_or_least(x: f32) -> f32 {
    if x.is_finite() { x } else { f32::NEG_INFINITY }
}

/// The largest finite value, or minus infinity when there is none.
#[inline(always)]
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

/// Sum over the row of exp((x - max) / temperature), in double precision.
#[inline(always)]
pub fn sum_exp(row: &[f32], max: f32, temperature: f32) -> f64 {
    let mut lanes = [0f64; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        let mut values = [0.0; LANES];
        for (value, &x) in values.iter_mut().zip(chunk) {
            *value = weight(x, max, temperature);
        }
        add(&mut lanes, &values);
    }
    add(&mut lanes, &last_weights(rest, max, temperature));
    sum_lanes(lanes)
}

/// Writes exp((x - max) / temperature) of each value and returns their sum, equal to that of [`sum_exp`].
#[inline(always)]
pub fn weights(row: &[f32], max: f32, temperature: f32, out: &mut [f32]) -> f64 {
    let mut lanes = [0f64; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    let (out_chunks, out_rest) = out.as_chunks_mut::<LANES>();
    for (chunk, out) in chunks.iter().zip(out_chunks) {
        for (out, &x) in out.iter_mut().zip(chunk) {
            *out = weight(x, max, temperature);
        }
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
#[inline(always)]
fn last_weights(rest: &[f32], max: f32, temperature: f32) -> [f32; LANES] {
    let mut last = [0.0; LANES];
    for (out, &x) in last.iter_mut().zip(rest) {
        *out = weight(x, max, temperature);
    }
    last
}

#[inline(always)]
fn add(lanes: &mut [f64; LANES], values: &[f32; LANES]) {
    for (lane, &value) in lanes.iter_mut().zip(values) {
        *lane += f64::from(value);
    }
}

#[inline(always)]
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
#[inline(always)]
pub fn weight(x: f32, max: f32, temperature: f32) -> f32 {
    exp_nonpositive((finite_or_least(x) - max) / temperature)
}

/// Below this exp is 0: the results stay normal numbers, whatever the processor does with others.
const EXP_LEAST: f32 = -87.0;

/// e^x for x <= 0, within 2e-7 relative; 0 below [`EXP_LEAST`]. Cephes' `expf`: x = n ln 2 + r, a polynomial in r.
#[allow(clippy::excessive_precision, reason = "the published coefficients")]
#[inline(always)]
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
