//! Rows of a stored tensor as f32, for what is made of tensors here.

use crate::dtype::DType;
use crate::encoding::widen;
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
    /// `Internal` where a row is no whole blocks, or the type no weight's.
    pub fn new(info: &TensorInfo, bytes: &'a [u8], row: usize) -> Result<Rows<'a>> {
        let row_bytes = info.dtype.bytes(row).filter(|_| info.dtype.is_weight());
        let wrong = || Error::internal(format!("rows of {row} elements of {}", info.dtype));
        Ok(Rows { dtype: info.dtype, bytes, row_bytes: row_bytes.ok_or_else(wrong)? })
    }

    /// Widens a row.
    ///
    /// # Errors
    /// `Internal` for a row that is not there.
    pub fn row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        let begin = row * self.row_bytes;
        let bytes = self.bytes.get(begin..begin + self.row_bytes);
        let bytes = bytes.ok_or_else(|| Error::internal("a tensor with fewer bytes than it says"))?;
        widen(self.dtype, bytes, out.len(), out);
        Ok(())
    }
}
