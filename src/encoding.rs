//! Block formats of quantized weights: how a matrix of small integers lies in memory, and how it is made.
//!
//! A matrix `[out_features, in_features]` is cut into **panels** of [`PANEL`] outputs and **groups** of [`Scheme::group`] inputs. Every
//! output has one scale for each group; a weight is `scale * integer`, both exact in f32. A panel is
//!
//! ```text
//! scales  [groups][PANEL]            bf16, little endian; padded with zeros to 64 bytes
//! codes   Q8: [groups][group / 4][PANEL][4]   u8: integer + 128
//!         Q4: [groups][group / 8][PANEL][4]   u8: low half the code of input i, high half that of input i + 4
//! ```
//!
//! so that sixteen outputs fill a vector register and four inputs fill one lane of an 8-bit dot product; panels follow
//! one another, each a multiple of 64 bytes. Outputs beyond `out_features` have zero scales; codes of inputs beyond `in_features` are arbitrary and
//! meet zero inputs. Q4 codes are indices
//! into [`Q4_VALUES`].
//!
//! Scales are rounded to bf16 before the integers are chosen, so their short mantissa costs little. [`quantize`] says how both are
//! found.

pub mod blocks;
pub mod f8;
mod quantize;
mod quantizer;
mod widen;

pub use quantizer::Quantizer;
pub use widen::widen;

use crate::dtype::DType;
use std::fmt;

/// Another number whenever the same weights would give other bytes: what is kept in files then is made anew.
pub const VERSION: u32 = 3;

/// Outputs of a panel.
pub const PANEL: usize = 16;

/// Integers of the sixteen Q4 codes, ascending, in [-127, 127]: those with the least squared error for groups of 32 weights
/// that are three quarters normal and one quarter Laplacian, under the search of [`quantize`]; `tools/fit_q4_values.py`
/// finds them.
pub const Q4_VALUES: [i8; 16] = [-127, -99, -76, -59, -44, -31, -19, -8, 2, 12, 23, 34, 47, 63, 81, 105];

/// How a quantized matrix is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// 8-bit integers in groups of 32: 8.5 bits a weight.
    Q8,
    /// 4-bit codes in groups of 32: 4.5 bits a weight.
    Q4,
}

/// How the elements of a weight are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Row by row, as in a checkpoint.
    Stored(DType),
    /// In panels.
    Quantized(Scheme),
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scheme::Q8 => "q8",
            Scheme::Q4 => "q4",
        })
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Encoding::Stored(dtype) => dtype.fmt(f),
            Encoding::Quantized(scheme) => scheme.fmt(f),
        }
    }
}

impl Scheme {
    /// Inputs that share a scale.
    pub const fn group(self) -> usize {
        blocks::GROUP
    }

    /// Groups of a row of `in_features` inputs.
    pub const fn groups(self, in_features: usize) -> usize {
        in_features.div_ceil(self.group())
    }

    /// Bytes of a panel's scales.
    pub const fn scale_bytes(self, in_features: usize) -> usize {
        (self.groups(in_features) * PANEL * 2).next_multiple_of(64)
    }

    /// Bytes of one group of a panel's codes.
    pub const fn code_bytes(self) -> usize {
        match self {
            Scheme::Q8 => self.group() * PANEL,
            Scheme::Q4 => self.group() * PANEL / 2,
        }
    }

    /// Bytes of a panel.
    pub const fn panel_bytes(self, in_features: usize) -> usize {
        self.scale_bytes(in_features) + self.groups(in_features) * self.code_bytes()
    }

    /// Bytes of a matrix; `None` when that overflows.
    pub fn bytes(self, out_features: usize, in_features: usize) -> Option<usize> {
        let codes = self.groups(in_features).checked_mul(self.code_bytes())?;
        codes.checked_add(self.scale_bytes(in_features))?.checked_mul(out_features.div_ceil(PANEL))
    }

    /// Where the code of input `i` of output `out` of a panel lies: byte, counted from the panel's first, and shift.
    pub const fn code_at(self, in_features: usize, out: usize, i: usize) -> (usize, u32) {
        let (group, i) = (i / self.group(), i % self.group());
        let start = self.scale_bytes(in_features) + group * self.code_bytes();
        match self {
            Scheme::Q8 => (start + (i / 4 * PANEL + out) * 4 + i % 4, 0),
            Scheme::Q4 => (start + (i / 8 * PANEL + out) * 4 + i % 4, i as u32 % 8 / 4 * 4),
        }
    }

    /// The integer of input `i` of output `out` of a panel.
    pub fn integer(self, panel: &[u8], in_features: usize, out: usize, i: usize) -> i32 {
        let (byte, shift) = self.code_at(in_features, out, i);
        match self {
            Scheme::Q8 => panel[byte] as i32 - 128,
            Scheme::Q4 => Q4_VALUES[(panel[byte] >> shift & 15) as usize] as i32,
        }
    }

    /// The scale of a group of output `out` of a panel.
    pub fn scale(self, panel: &[u8], out: usize, group: usize) -> f32 {
        let at = (group * PANEL + out) * 2;
        f32::from_bits((panel[at] as u32 | (panel[at + 1] as u32) << 8) << 16)
    }

    /// Quantizes up to [`PANEL`] rows of `in_features` weights each into one panel, which must have [`Scheme::panel_bytes`].
    #[inline(always)]
    pub fn quantize(self, rows: &[f32], in_features: usize, panel: &mut [u8]) {
        let (scales, codes) = panel.split_at_mut(self.scale_bytes(in_features));
        scales.fill(0);
        codes.fill(self.zero());
        for (out, row) in rows.chunks_exact(in_features.max(1)).take(PANEL).enumerate() {
            let groups = row.chunks(self.group()).zip(codes.chunks_exact_mut(self.code_bytes()));
            for ((weights, codes), scales) in groups.zip(scales.chunks_exact_mut(PANEL * 2)) {
                let scale = match self {
                    Scheme::Q8 => q8_group(weights, codes, out),
                    Scheme::Q4 => q4_group(weights, codes, out),
                };
                scales[out * 2..out * 2 + 2].copy_from_slice(&((scale.to_bits() >> 16) as u16).to_le_bytes());
            }
        }
    }

    /// The byte of codes whose scale is zero.
    const fn zero(self) -> u8 {
        match self {
            Scheme::Q8 => 128,
            Scheme::Q4 => 0x88,
        }
    }
}

/// Writes the codes of one output's group, and gives its scale.
#[inline(always)]
fn q8_group(weights: &[f32], codes: &mut [u8], out: usize) -> f32 {
    let (mut whole, mut integers) = ([0f32; 32], [0i8; 32]);
    whole[..weights.len()].copy_from_slice(weights);
    let scale = quantize::q8(&whole, &mut integers);
    for (from, to) in integers.chunks_exact(4).zip(codes.chunks_exact_mut(PANEL * 4)) {
        for (to, &integer) in to[out * 4..out * 4 + 4].iter_mut().zip(from) {
            *to = integer as u8 ^ 128;
        }
    }
    scale
}

/// As [`q8_group`].
#[inline(always)]
fn q4_group(weights: &[f32], codes: &mut [u8], out: usize) -> f32 {
    let (mut whole, mut chosen) = ([0f32; 32], [0u8; 32]);
    whole[..weights.len()].copy_from_slice(weights);
    let scale = quantize::q4(&whole, &mut chosen);
    for (from, to) in chosen.chunks_exact(8).zip(codes.chunks_exact_mut(PANEL * 4)) {
        for (to, i) in to[out * 4..out * 4 + 4].iter_mut().zip(0..) {
            *to = from[i] | from[i + 4] << 4;
        }
    }
    scale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(n: usize) -> Vec<f32> {
        let mut state = 7u64;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * 1e-3
            })
            .collect()
    }

    #[test]
    fn every_code_has_a_place_of_its_own_inside_the_panel() {
        for scheme in [Scheme::Q8, Scheme::Q4] {
            for in_features in [1, 31, 32, 33, 64, 100] {
                let mut seen = std::collections::HashSet::new();
                for out in 0..PANEL {
                    for i in 0..in_features {
                        let at = scheme.code_at(in_features, out, i);
                        assert!(
                            at.0 >= scheme.scale_bytes(in_features) && at.0 < scheme.panel_bytes(in_features),
                            "{scheme:?} {at:?}"
                        );
                        assert!(seen.insert(at), "{scheme:?}: input {i} of output {out} shares its place");
                    }
                }
                assert_eq!(scheme.panel_bytes(in_features) % 64, 0);
            }
        }
    }

    #[test]
    fn quantized_weights_are_close() {
        for scheme in [Scheme::Q8, Scheme::Q4] {
            for (out_features, in_features) in [(16, 64), (5, 100), (1, 1), (16, 33)] {
                let w = weights(out_features * in_features);
                let mut panel = vec![1u8; scheme.panel_bytes(in_features)];
                scheme.quantize(&w, in_features, &mut panel);
                for (out, row) in w.chunks(in_features).enumerate() {
                    for (i, w) in row.iter().enumerate() {
                        let scale = scheme.scale(&panel, out, i / scheme.group());
                        let integer = scheme.integer(&panel, in_features, out, i) as f32;
                        // The nearest there is, and so within half of the widest gap unless it lies beyond the ends.
                        let step = if scheme == Scheme::Q8 { 0.51 } else { 14.0 };
                        let error = (w / scale - integer).abs();
                        let clipped = match scheme {
                            Scheme::Q8 => (w / scale).abs() > 127.0 && error < 3.1,
                            Scheme::Q4 => (w / scale).abs() > 105.0 && error < 36.0,
                        };
                        assert!(error <= step || clipped, "{scheme:?} {out} {i}: {integer} for {}", w / scale);
                        let nearest = Q4_VALUES.iter().all(|v| (w / scale - *v as f32).abs() >= error - 1e-3);
                        assert!(scheme == Scheme::Q8 || nearest, "{integer} for {}", w / scale);
                    }
                }
                for out in out_features..PANEL {
                    assert_eq!(scheme.scale(&panel, out, 0), 0.0, "outputs beyond the last are zero");
                }
            }
        }
    }

    /// Files keep panels: if this fails, [`VERSION`] has to change, and this hash with it.
    #[test]
    fn the_version_stands_for_these_bytes() {
        let hash = |scheme: Scheme| {
            let mut panel = vec![1u8; scheme.panel_bytes(100)];
            scheme.quantize(&weights(12 * 100), 100, &mut panel);
            // Codes beyond the last input are arbitrary, but always the same.
            xxhash_rust::xxh3::xxh3_64(&panel)
        };
        assert_eq!((VERSION, hash(Scheme::Q8), hash(Scheme::Q4)), (3, 4401630503193725953, 2129196892510038363));
    }

    /// Against the error that any scale could give, tried one by one.
    #[test]
    fn the_search_finds_nearly_the_best_scale() {
        let (mut found, mut least) = (0.0, 0.0);
        for group in weights(32 * 200).chunks(32) {
            let mut panel = vec![0u8; Scheme::Q4.panel_bytes(32)];
            Scheme::Q4.quantize(group, 32, &mut panel);
            let error = |scale: f32| -> f32 {
                let nearest =
                    |w: f32| Q4_VALUES.iter().map(|v| (w - scale * *v as f32).powi(2)).fold(f32::MAX, f32::min);
                group.iter().map(|w| nearest(*w)).sum()
            };
            let largest = group.iter().fold(0.0, |m: f32, w| m.max(w.abs()));
            let all = (60..160).flat_map(|size| [1.0, -1.0].map(|sign| error(sign * largest / size as f32)));
            least += all.fold(f32::MAX, f32::min);
            found += error(Scheme::Q4.scale(&panel, 0, 0));
        }
        assert!(found < 1.06 * least, "{found}, but {least} was possible");
    }

    /// Against rounding with the scale that clips nothing.
    #[test]
    fn the_search_finds_better_scales_for_8_bits() {
        let (mut found, mut unclipped) = (0.0, 0.0);
        for group in weights(32 * 200).chunks(32) {
            let mut panel = vec![0u8; Scheme::Q8.panel_bytes(32)];
            Scheme::Q8.quantize(group, 32, &mut panel);
            let error = |scale: f32| -> f32 {
                group.iter().map(|w| (w - (w / scale).round().clamp(-127.0, 127.0) * scale).powi(2)).sum()
            };
            let largest = group.iter().fold(0.0, |m: f32, w| m.max(w.abs()));
            unclipped += error(largest / 127.0);
            found += error(Scheme::Q8.scale(&panel, 0, 0));
        }
        assert!(found < 0.97 * unclipped, "{found}, and {unclipped} without the search");
    }

    #[test]
    fn what_is_not_finite_is_not_hidden() {
        for scheme in [Scheme::Q8, Scheme::Q4] {
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut row = weights(70);
                row[67] = value;
                let mut panel = vec![0u8; scheme.panel_bytes(70)];
                scheme.quantize(&row, 70, &mut panel);
                assert!(scheme.scale(&panel, 0, 67 / scheme.group()).is_nan(), "{scheme:?} {value}");
                assert!(scheme.scale(&panel, 0, 0).is_finite());
            }
        }
    }

    #[test]
    fn zeros_tiny_and_huge_weights_stay_finite() {
        for scheme in [Scheme::Q8, Scheme::Q4] {
            for value in [0.0, 1e-36, 1e-20, 3e38, -3e38] {
                let mut panel = vec![0u8; scheme.panel_bytes(32)];
                scheme.quantize(&[value; 32], 32, &mut panel);
                let got = scheme.scale(&panel, 0, 0) * scheme.integer(&panel, 32, 0, 0) as f32;
                assert!((got - value).abs() <= value.abs() * 0.02, "{scheme:?}: {got} for {value}");
            }
        }
    }
}
