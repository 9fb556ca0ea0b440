//! How the integers and the scale of a group are chosen.
//!
//! Plain loops over arrays of one group: a compiler makes vector instructions of them, and because no operation is
//! contracted or reordered, every machine makes the same bytes. All functions are inlined, so that a caller compiled for a
//! wider instruction set ([`crate::backend`] has one) gets them in it; loops count, since adapters of iterators may stay calls.
//!
//! **8 bits** are rounded with the best of four scales: the least bf16 with which the largest weight is not clipped, and the three
//! below it. Clipping few weights a little costs less than what the finer steps gain: the squared error falls by 8%.
//!
//! **4 bits** are searched: for some sizes that the group's largest weight could have in the table of values, the nearest
//! value of every weight is found and the sum of squared errors with the best scale for them; the scale with the least error
//! is rounded to bf16, and the codes are chosen anew for what it became. A negative scale turns the table around, whose two
//! ends differ. All weights count alike: which inputs are large is not known here.
//!
//! A group with a weight that is not finite gets a scale that is not a number: products do not hide it.

#![allow(clippy::needless_range_loop, reason = "see above")]

use super::Q4_VALUES;

/// Added to a number below 2^22 in magnitude, it leaves the nearest integer in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;
/// Accumulators of a sum over a group; their number is part of the result.
const LANES: usize = 8;
/// What the weight of largest magnitude is in the table of 4-bit values, before the nearest is taken: beyond its ends the
/// largest weight is clipped for the others' sake. With sixteen sizes instead of eight, the squared error falls by 1.5%.
const SIZES: [f32; 8] = [-138.0, -126.0, -114.0, -103.0, 122.0, 110.0, 98.0, 86.0];

/// Scales that are tried for 8 bits. A fifth one below gains nothing; the one next above the first would gain another 4%.
const SCALES: u32 = 4;

/// Where a weight between two values goes to the upper one, in integers: above this.
const STEPS: [i8; 15] = {
    let mut steps = [0; 15];
    let mut i = 0;
    while i < 15 {
        steps[i] = ((Q4_VALUES[i] as i16 + Q4_VALUES[i + 1] as i16).div_euclid(2)) as i8;
        i += 1;
    }
    steps
};

/// The same as numbers.
const MIDDLES: [f32; 15] = {
    let mut middles = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        middles[i] = (Q4_VALUES[i] as f32 + Q4_VALUES[i + 1] as f32) / 2.0;
        i += 1;
    }
    middles
};

/// The weight of largest magnitude; not a number when any is not finite.
#[inline(always)]
fn extreme<const N: usize>(weights: &[f32; N]) -> f32 {
    let (mut low, mut high, mut poison) = ([0f32; LANES], [0f32; LANES], [0f32; LANES]);
    for first in (0..N).step_by(LANES) {
        for i in 0..LANES {
            let w = weights[first + i];
            low[i] = if w < low[i] { w } else { low[i] };
            high[i] = if w > high[i] { w } else { high[i] };
            poison[i] += w * 0.0;
        }
    }
    let low = low.iter().fold(0.0, |m: f32, &w| if w < m { w } else { m });
    let high = high.iter().fold(0.0, |m: f32, &w| if w > m { w } else { m });
    let poison: f32 = poison.iter().sum();
    poison + if high > -low { high } else { low }
}

/// The nearest integer in [-127, 127].
#[inline(always)]
fn integer(x: f32) -> i8 {
    let x = if x > 127.0 { 127.0 } else { x };
    let x = if x < -127.0 { -127.0 } else { x };
    (x + ROUND).to_bits() as u8 as i8
}

/// The value nearest to an integer.
#[inline(always)]
fn nearest(wanted: i8) -> i8 {
    let mut value = Q4_VALUES[0];
    for i in 0..STEPS.len() {
        // The masked difference: a choice between two values would not become vector instructions.
        let rise = (Q4_VALUES[i + 1] as i16 - Q4_VALUES[i] as i16) as i8;
        value = value.wrapping_add(-((wanted > STEPS[i]) as i8) & rise);
    }
    value
}

/// Scale and integers of a group.
#[inline(always)]
pub(super) fn q8(weights: &[f32; 32], integers: &mut [i8; 32]) -> f32 {
    let largest = bf16_away_from_zero(extreme(weights).abs() / 127.0);
    let (mut least, mut scale) = (f32::INFINITY, largest);
    for below in 0..SCALES {
        // The scales next below, in bf16; of a normal number they stay above half of it.
        let bits = largest.to_bits();
        let tried = f32::from_bits(if bits >= 0x0080_0000 { bits - (below << 16) } else { bits });
        let divisor = if tried > 0.0 { tried } else { 1.0 };
        let mut errors = [0f32; LANES];
        for first in (0..32).step_by(LANES) {
            for i in 0..LANES {
                let error = weights[first + i] - integer(weights[first + i] / divisor) as f32 * tried;
                errors[i] += error * error;
            }
        }
        let error: f32 = errors.iter().sum();
        if error < least {
            (least, scale) = (error, tried);
        }
    }
    let divisor = if scale > 0.0 { scale } else { 1.0 };
    for i in 0..32 {
        integers[i] = integer(weights[i] / divisor);
    }
    scale
}

/// Scale and codes of a group.
#[inline(always)]
pub(super) fn q4(weights: &[f32; 32], codes: &mut [u8; 32]) -> f32 {
    let extreme = extreme(weights);
    let mut shares = [0f32; 32];
    let divisor = if extreme == 0.0 { 1.0 } else { extreme };
    for i in 0..32 {
        shares[i] = weights[i] / divisor;
    }
    let scale = bf16_nearest(extreme * best_scale(&shares));
    let divisor = if scale == 0.0 { 1.0 } else { scale };
    for i in 0..32 {
        shares[i] = weights[i] / divisor;
    }
    let mut counts = [0i32; 32];
    for middle in MIDDLES {
        for i in 0..32 {
            counts[i] += (shares[i] > middle) as i32;
        }
    }
    for i in 0..32 {
        codes[i] = counts[i] as u8;
    }
    scale
}

/// The scale, in units of the largest weight, with the least sum of squared errors.
#[inline(always)]
fn best_scale(shares: &[f32; 32]) -> f32 {
    // All sizes at once: loops that short would be unrolled before they could be made vector instructions.
    let mut wanted = [0i8; 32 * SIZES.len()];
    for size in 0..SIZES.len() {
        for i in 0..32 {
            wanted[size * 32 + i] = integer(shares[i] * SIZES[size]);
        }
    }
    let mut values = [0i8; 32 * SIZES.len()];
    for i in 0..values.len() {
        values[i] = nearest(wanted[i]);
    }
    let (mut best, mut scale) = (0.0, 0.0);
    for size in 0..SIZES.len() {
        let (mut products, mut squares) = ([0f32; LANES], [0i32; LANES]);
        for first in (0..32).step_by(LANES) {
            for i in 0..LANES {
                let value = values[size * 32 + first + i] as i32;
                products[i] += shares[first + i] * value as f32;
                squares[i] += value * value;
            }
        }
        let (product, square) = (products.iter().sum::<f32>(), squares.iter().sum::<i32>() as f32);
        // The squared error is the sum of squares less this.
        let gain = product * product / square;
        if gain > best {
            (best, scale) = (gain, product / square);
        }
    }
    scale
}

/// The bf16 at or next above `value` in magnitude; the largest finite one when there is none.
#[inline(always)]
fn bf16_away_from_zero(value: f32) -> f32 {
    if value.is_nan() {
        return value;
    }
    let up = f32::from_bits(value.to_bits().wrapping_add(0xffff) & 0xffff_0000);
    if up.is_finite() { up } else { f32::from_bits(0x7f7f_0000 | value.to_bits() & 0x8000_0000) }
}

/// The bf16 nearest to a number, the even one of two; the largest finite one when it is beyond that.
#[inline(always)]
fn bf16_nearest(value: f32) -> f32 {
    if value.is_nan() {
        return value;
    }
    let bits = value.to_bits();
    let near = f32::from_bits(bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000);
    if near.is_finite() { near } else { f32::from_bits(0x7f7f_0000 | bits & 0x8000_0000) }
}
