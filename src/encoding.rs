//! Block formats of quantized weights: how a matrix of small integers lies in memory, and how it is made.
//!
//! A matrix `[outs, ins]` is cut into **panels** of [`PANEL`] outputs and **groups** of [`Scheme::group`] inputs. Every
//! output has one scale for each group; a weight is `scale * integer`, both exact in f32. A panel is
//!
//! ```text
//! scales  [groups][PANEL]            bf16, little endian; padded with zeros to 64 bytes
//! codes   Q8: [groups][group / 4][PANEL][4]   u8: integer + 128
//!         Q4: [groups][group / 8][PANEL][4]   u8: low half the code of input i, high half that of input i + 4
//! ```
//!
//! so that sixteen outputs fill a vector register and four inputs fill one lane of an 8-bit dot product; panels follow
//! one another, each a multiple of 64 bytes. Inputs beyond `ins` and outputs beyond `outs` are zero. Q4 codes are indices
//! into [`Q4_VALUES`].
//!
//! Scales are bf16 rounded away from zero before the integers are chosen, so their short mantissa costs nothing: no weight
//! is clipped, and there is none too small for them.

use crate::dtype::DType;
use std::fmt;

/// Outputs of a panel.
pub const PANEL: usize = 16;

/// Integers of the sixteen Q4 codes, ascending, in [-127, 127].
pub const Q4_VALUES: [i8; 16] = [-127, -104, -84, -67, -51, -36, -22, -10, 2, 14, 26, 39, 54, 71, 90, 114];

/// How a quantized matrix is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// 8-bit integers in groups of 64: 8.25 bits a weight.
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
        match self {
            Scheme::Q8 => 64,
            Scheme::Q4 => 32,
        }
    }

    /// Groups of a row of `ins` inputs.
    pub const fn groups(self, ins: usize) -> usize {
        ins.div_ceil(self.group())
    }

    /// Bytes of a panel's scales.
    pub const fn scale_bytes(self, ins: usize) -> usize {
        (self.groups(ins) * PANEL * 2).next_multiple_of(64)
    }

    /// Bytes of one group of a panel's codes.
    pub const fn code_bytes(self) -> usize {
        match self {
            Scheme::Q8 => self.group() * PANEL,
            Scheme::Q4 => self.group() * PANEL / 2,
        }
    }

    /// Bytes of a panel.
    pub const fn panel_bytes(self, ins: usize) -> usize {
        self.scale_bytes(ins) + self.groups(ins) * self.code_bytes()
    }

    /// Bytes of a matrix; `None` when that overflows.
    pub fn bytes(self, outs: usize, ins: usize) -> Option<usize> {
        let codes = self.groups(ins).checked_mul(self.code_bytes())?;
        codes.checked_add(self.scale_bytes(ins))?.checked_mul(outs.div_ceil(PANEL))
    }

    /// Where the code of input `i` of output `out` of a panel lies: byte, counted from the panel's first, and shift.
    pub const fn code_at(self, ins: usize, out: usize, i: usize) -> (usize, u32) {
        let (group, i) = (i / self.group(), i % self.group());
        let start = self.scale_bytes(ins) + group * self.code_bytes();
        match self {
            Scheme::Q8 => (start + (i / 4 * PANEL + out) * 4 + i % 4, 0),
            Scheme::Q4 => (start + (i / 8 * PANEL + out) * 4 + i % 4, i as u32 % 8 / 4 * 4),
        }
    }

    /// The integer of input `i` of output `out` of a panel.
    pub fn integer(self, panel: &[u8], ins: usize, out: usize, i: usize) -> i32 {
        let (byte, shift) = self.code_at(ins, out, i);
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

    /// Quantizes up to [`PANEL`] rows of `ins` weights each into one panel, which must have [`Scheme::panel_bytes`].
    pub fn quantize(self, rows: &[f32], ins: usize, panel: &mut [u8]) {
        panel[..self.scale_bytes(ins)].fill(0);
        panel[self.scale_bytes(ins)..].fill(self.zero());
        let mut codes = [0u8; 64];
        for (out, row) in rows.chunks_exact(ins).take(PANEL).enumerate() {
            for (group, weights) in row.chunks(self.group()).enumerate() {
                let scale = match self {
                    Scheme::Q8 => quantize_q8(weights, &mut codes),
                    Scheme::Q4 => quantize_q4(weights, &mut codes),
                };
                let at = (group * PANEL + out) * 2;
                panel[at..at + 2].copy_from_slice(&((scale.to_bits() >> 16) as u16).to_le_bytes());
                for (i, &code) in codes[..weights.len()].iter().enumerate() {
                    let (byte, shift) = self.code_at(ins, out, group * self.group() + i);
                    panel[byte] = panel[byte] & !(self.mask() << shift) | code << shift;
                }
            }
        }
    }

    const fn mask(self) -> u8 {
        match self {
            Scheme::Q8 => 255,
            Scheme::Q4 => 15,
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

/// The bf16 at or next above `value` in magnitude; the largest finite one when there is none.
fn bf16_away_from_zero(value: f32) -> f32 {
    let up = f32::from_bits(value.to_bits().wrapping_add(0xffff) & 0xffff_0000);
    if up.is_finite() { up } else { f32::from_bits(0x7f7f_0000 | value.to_bits() & 0x8000_0000) }
}

fn largest(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0, |m: f32, w| m.max(w.abs()))
}

/// Codes of one group, and their scale.
fn quantize_q8(weights: &[f32], codes: &mut [u8]) -> f32 {
    let scale = bf16_away_from_zero(largest(weights) / 127.0);
    let divisor = if scale > 0.0 { scale } else { 1.0 };
    for (code, w) in codes.iter_mut().zip(weights) {
        *code = ((w / divisor).round_ties_even().clamp(-127.0, 127.0) as i32 + 128) as u8;
    }
    scale
}

/// The index of the nearest Q4 value.
fn nearest(x: f32) -> u8 {
    let mut best = 0;
    for (i, v) in Q4_VALUES.iter().enumerate() {
        if (x - *v as f32).abs() < (x - Q4_VALUES[best] as f32).abs() {
            best = i;
        }
    }
    best as u8
}

/// Codes of one group, and their scale. The weight of largest magnitude becomes the value of largest magnitude.
fn quantize_q4(weights: &[f32], codes: &mut [u8]) -> f32 {
    let extreme = weights.iter().fold(0.0, |m: f32, &w| if w.abs() > m.abs() { w } else { m });
    let scale = bf16_away_from_zero(extreme / Q4_VALUES[0] as f32);
    let divisor = if scale != 0.0 { scale } else { 1.0 };
    for (code, w) in codes.iter_mut().zip(weights) {
        *code = nearest(w / divisor);
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
            for ins in [1, 31, 32, 33, 64, 100] {
                let mut seen = std::collections::HashSet::new();
                for out in 0..PANEL {
                    for i in 0..ins {
                        let at = scheme.code_at(ins, out, i);
                        assert!(at.0 >= scheme.scale_bytes(ins) && at.0 < scheme.panel_bytes(ins), "{scheme:?} {at:?}");
                        assert!(seen.insert(at), "{scheme:?}: input {i} of output {out} shares its place");
                    }
                }
                assert_eq!(scheme.panel_bytes(ins) % 64, 0);
            }
        }
    }

    #[test]
    fn quantized_weights_are_within_half_a_step() {
        for scheme in [Scheme::Q8, Scheme::Q4] {
            for (outs, ins) in [(16, 64), (5, 100), (1, 1), (16, 33)] {
                let w = weights(outs * ins);
                let mut panel = vec![1u8; scheme.panel_bytes(ins)];
                scheme.quantize(&w, ins, &mut panel);
                for (out, row) in w.chunks(ins).enumerate() {
                    for (i, w) in row.iter().enumerate() {
                        let scale = scheme.scale(&panel, out, i / scheme.group());
                        let got = scale * scheme.integer(&panel, ins, out, i) as f32;
                        // The widest gap between Q4 values is 24, and one end is closer to zero than the other.
                        let step = if scheme == Scheme::Q8 { 0.51 } else { 13.1 };
                        assert!((got - w).abs() <= scale.abs() * step, "{scheme:?} {out} {i}: {got} for {w}");
                    }
                }
                for out in outs..PANEL {
                    assert_eq!(scheme.scale(&panel, out, 0), 0.0, "outputs beyond the last are zero");
                }
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
