//! Stored weights as f32.

use super::{blocks, f8};
use crate::dtype::DType;

/// The elements of rows of `in_features` weights as f32, as many as `out` has. The caller has checked that the type
/// [is a weight's](DType::is_weight) and that `bytes` are those rows.
#[inline(always)]
pub fn widen(dtype: DType, bytes: &[u8], in_features: usize, out: &mut [f32]) {
    match dtype {
        DType::F32 => each(bytes, out, f32::from_le_bytes),
        DType::Bf16 => each(bytes, out, |x| f32::from_bits(u32::from(u16::from_le_bytes(x)) << 16)),
        DType::F16 => each(bytes, out, |x| half::f16::from_le_bytes(x).to_f32()),
        DType::Blocks(format) => blocks::widen(format, bytes, out),
        DType::ScaledF8(group) => {
            let rows = f8::Rows { bytes, in_features, group };
            out.chunks_exact_mut(in_features.max(1)).enumerate().for_each(|(row, out)| rows.widen(row, 0, out));
        }
        other => unreachable!("{other} is no weight's type"),
    }
}

#[inline(always)]
fn each<const N: usize>(bytes: &[u8], out: &mut [f32], of: impl Fn([u8; N]) -> f32) {
    out.iter_mut().zip(bytes.as_chunks().0).for_each(|(out, &bytes)| *out = of(bytes));
}
