//! 8-bit floats with scales: how the codes of a checkpoint and the scales beside them lie in memory.
//!
//! A row of `in_features` weights is
//!
//! ```text
//! codes   [in_features]                     u8: sign, 4 bits of exponent, 3 of fraction (E4M3: no infinities)
//! scales  [in_features / group, rounded up] f32, little endian
//! ```
//!
//! and a weight is `scale * code`, rounded once to f32. Where a code is no number, or a scale is not finite, the scale
//! of the group is no number, so that products need not look at codes. Checkpoints have a scale for a block of rows and columns, for a row or for
//! a whole matrix; here each row has those of its blocks, so that any rows of a matrix can be taken by themselves.

use std::ops::Range;

/// Inputs that share a scale: a parameter of the element type, since checkpoints differ.
pub type Group = std::num::NonZeroU32;

/// Every finite scale is below this in magnitude: [`factor`] is finite then.
pub const SCALE_END: f32 = 128.0;
/// Two to the power of the difference between the exponents' biases, 127 and 7.
const BIAS: f32 = f32::from_bits((127 + 127 - 7) << 23);

/// Whether a code stands for no number.
pub const fn is_nan(code: u8) -> bool {
    code & 0x7f == 0x7f
}

/// What [`shifted`] codes are multiplied with.
#[inline(always)]
pub fn factor(scale: f32) -> f32 {
    scale * BIAS
}

/// A code as the sign, the low exponent and the high fraction of a binary32: its number, less by a power of two, also where that is
/// not normal.
#[inline(always)]
pub fn shifted(code: u8) -> f32 {
    f32::from_bits(((i32::from(code) << 24 >> 4) & 0x87f0_0000u32 as i32) as u32)
}

/// A matrix of such rows.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// All of them.
    pub bytes: &'a [u8],
    /// Weights of each.
    pub in_features: usize,
    /// Inputs that share a scale.
    pub group: Group,
}

impl Rows<'_> {
    /// The bytes of consecutive rows.
    #[inline(always)]
    pub fn byte_range(&self, rows: Range<usize>) -> Range<usize> {
        let scales = self.in_features.div_ceil(self.group.get() as usize);
        let row = self.in_features + scales * size_of::<f32>();
        rows.start * row..rows.end * row
    }

    /// The weights of a row from `first` on, as many as `out` has. Beyond the row it panics.
    #[inline(always)]
    pub fn widen(&self, row: usize, mut first: usize, mut out: &mut [f32]) {
        let group = self.group.get() as usize;
        let (codes, scales) = self.bytes[self.byte_range(row..row + 1)].split_at(self.in_features);
        let scales = scales.as_chunks::<4>().0;
        while !out.is_empty() {
            let (some, rest) = out.split_at_mut(out.len().min(group - first % group));
            let (factor, end) = (factor(f32::from_le_bytes(scales[first / group])), first + some.len());
            some.iter_mut().zip(&codes[first..end]).for_each(|(out, &code)| *out = shifted(code) * factor);
            (first, out) = (end, rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;

    /// By the definition of the format.
    fn defined(code: u8) -> f64 {
        let (exponent, fraction) = (i32::from(code >> 3 & 15), f64::from(code & 7) / 8.0);
        let magnitude = match (exponent, code & 7) {
            (15, 7) => f64::NAN,
            (0, _) => fraction * 2f64.powi(-6),
            _ => (1.0 + fraction) * 2f64.powi(exponent - 7),
        };
        if code < 128 { magnitude } else { -magnitude }
    }

    #[test]
    fn every_code_is_the_number_it_is_defined_to_be() {
        for code in (0..=255).filter(|code| !is_nan(*code)) {
            for scale in [1.0, 0.75, -1e-30, 127.9] {
                let (got, want) = (shifted(code) * factor(scale), (defined(code) * f64::from(scale)) as f32);
                assert_eq!(got.to_bits(), want.to_bits(), "{code}: {got}, {want}");
            }
        }
        assert!([0x7f, 0xff].into_iter().all(|code| is_nan(code) && defined(code).is_nan()));
        assert_eq!((shifted(0x7e) * factor(1.0), shifted(0x01) * factor(1.0)), (448.0, 0.001_953_125));
        assert!((shifted(0) * factor(f32::NAN)).is_nan());
    }

    #[test]
    fn a_row_has_a_scale_for_each_group_and_one_for_the_rest() {
        let group = Group::new(4).unwrap();
        let mut row: Vec<u8> = (0..10).map(|i| 0x38 + i).collect();
        [1.0f32, 0.5, -2.0].iter().for_each(|scale| row.extend(scale.to_le_bytes()));
        assert_eq!(DType::ScaledF8(group).bytes(10), Some(row.len()));
        let both = [vec![0; row.len()], row].concat();
        let rows = Rows { bytes: &both, in_features: 10, group };
        for first in 0..10 {
            for end in first..=10 {
                let mut out = vec![0.0; end - first];
                rows.widen(1, first, &mut out);
                for (i, out) in (first..end).zip(out) {
                    assert_eq!(f64::from(out), defined(0x38 + i as u8) * [1.0, 0.5, -2.0][i / 4]);
                }
            }
        }
        assert_eq!(DType::ScaledF8(Group::MIN).bytes(usize::MAX), None);
    }
}
