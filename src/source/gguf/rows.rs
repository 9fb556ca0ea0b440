//! Rows of a stored tensor as f32, for what is made of tensors here.

use crate::dtype::DType;
use crate::encoding::blocks;
use crate::error::{Error, Result};
use crate::source::TensorInfo;

/// Rows of a stored tensor.
pub struct Rows<'a> {
    dtype: DType,
    bytes: &'a [u8],
    row_bytes: usize,
}

impl<'a> Rows<'a> {
    /// Those of a tensor with these bytes, whose rows have `row` elements.
    ///
    /// # Errors
    /// `Internal` where a row is no whole blocks.
    pub fn new(info: &TensorInfo, bytes: &'a [u8], row: usize) -> Result<Rows<'a>> {
        let row_bytes = info.dtype.bytes(row).ok_or_else(|| Error::internal("a row that is no whole blocks"))?;
        Ok(Rows { dtype: info.dtype, bytes, row_bytes })
    }

    /// Widens a row.
    ///
    /// # Errors
    /// `Internal` for a row that is not there, or a type that is no weight's.
    pub fn row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        let begin = row * self.row_bytes;
        let bytes = self.bytes.get(begin..begin + self.row_bytes);
        let bytes = bytes.ok_or_else(|| Error::internal("a tensor with fewer bytes than it says"))?;
        match self.dtype {
            DType::F32 => each(bytes, out, f32::from_le_bytes),
            DType::Bf16 => each(bytes, out, |b| half::bf16::from_le_bytes(b).to_f32()),
            DType::F16 => each(bytes, out, |b| half::f16::from_le_bytes(b).to_f32()),
            DType::Blocks(format) => blocks::widen(format, bytes, out),
            other => return Err(Error::internal(format!("a matrix of {other}"))),
        }
        Ok(())
    }
}

fn each<const N: usize>(bytes: &[u8], out: &mut [f32], of: impl Fn([u8; N]) -> f32) {
    out.iter_mut().zip(bytes.as_chunks().0).for_each(|(out, &bytes)| *out = of(bytes));
}
