//! The layout of weights on the device, and their size there.
//!
//! | what | form |
//! |---|---|
//! | a vector: gain or bias | f32 |
//! | a matrix, computing in bf16 | bf16, rows of [`pitch`] elements, zeros after the last input |
//! | a matrix, computing in f32 | f32, as in the checkpoint |
//! | a matrix in blocks, computing in bf16 | its rows as [`put_blocks`] has them |
//! | a matrix in blocks, computing in f32 | f32: blocks are decoded while they are uploaded |
//! | a quantized matrix | its panels ([`crate::encoding`]), unchanged |
//!
//! A matrix with one row may also be used as a vector, and is stored in both forms.

use crate::backend::cpu::Compute;
use crate::dtype::{BlockFormat, DType};
use crate::encoding::Encoding;

/// Distance between rows of a bf16 matrix or of a product's input, in elements: a multiple of the kernels' step.
pub const fn pitch(in_features: usize) -> usize {
    in_features.next_multiple_of(64)
}

/// Alignment of a row of blocks in bytes: what kernels read at once.
const BLOCK_ROW_ALIGNMENT: usize = 16;

/// Bytes of a row of blocks on the device; `None` when that overflows or is not whole blocks.
pub fn block_row_bytes(format: BlockFormat, in_features: usize) -> Option<usize> {
    DType::Blocks(format).bytes(in_features)?.checked_next_multiple_of(BLOCK_ROW_ALIGNMENT)
}

/// Writes a row of blocks as kernels read it: all blocks without their odd bytes, then the odd bytes of all blocks, then zeros. The
/// odd bytes are the `bytes % 4` of a block that hold its scale, at its end in blocks of 256 weights, else at its start; so all
/// words are aligned.
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "nothing is uploaded"))]
pub fn put_blocks(format: BlockFormat, row: &[u8], to: &mut [u8]) {
    let (bytes, odd) = (format.bytes(), format.bytes() % 4);
    let at = if format.weights() == 256 { bytes - odd } else { 0 };
    let blocks = row.len() / bytes;
    let (bodies, rest) = to.split_at_mut(blocks * (bytes - odd));
    let (odds, zeros) = rest.split_at_mut(blocks * odd);
    for (index, (block, body)) in row.chunks_exact(bytes).zip(bodies.chunks_exact_mut(bytes - odd)).enumerate() {
        let (before, from) = block.split_at(at);
        let (scale, after) = from.split_at(odd);
        odds[index * odd..(index + 1) * odd].copy_from_slice(scale);
        body[..at].copy_from_slice(before);
        body[at..].copy_from_slice(after);
    }
    zeros.fill(0);
}

/// Alignment of every weight in bytes.
const ALIGNMENT: usize = 256;

/// Bytes of a weight on the device; `u64::MAX` when that overflows.
pub fn weight_bytes(encoding: Encoding, out_features: usize, in_features: usize, compute: Compute) -> u64 {
    let bytes = match encoding {
        Encoding::Quantized(scheme) => scheme.bytes(out_features, in_features),
        Encoding::Stored(DType::Blocks(format)) if compute == Compute::Bf16 => {
            block_row_bytes(format, in_features).and_then(|row| row.checked_mul(out_features))
        }
        Encoding::Stored(_) => {
            let matrix = match compute {
                Compute::Bf16 => out_features.checked_mul(pitch(in_features)).and_then(|n| n.checked_mul(2)),
                Compute::F32 => out_features.checked_mul(in_features).and_then(|n| n.checked_mul(4)),
            };
            let vector = if out_features == 1 { in_features * 4 } else { 0 };
            matrix.and_then(|matrix| matrix.next_multiple_of(ALIGNMENT).checked_add(vector))
        }
    };
    bytes.and_then(|bytes| bytes.checked_next_multiple_of(ALIGNMENT)).map_or(u64::MAX, |bytes| bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::Scheme;

    #[test]
    fn sizes_count_padding_and_both_forms_of_one_row() {
        let bf16 = Encoding::Stored(DType::Bf16);
        assert_eq!(weight_bytes(bf16, 100, 65, Compute::Bf16), 100 * 128 * 2);
        assert_eq!(weight_bytes(bf16, 100, 64, Compute::F32), 100 * 64 * 4);
        assert_eq!(weight_bytes(bf16, 1, 64, Compute::Bf16), 256 + 256);
        assert_eq!(weight_bytes(Encoding::Quantized(Scheme::Q4), 16, 32, Compute::Bf16), 512);
        let blocks = |format| Encoding::Stored(DType::Blocks(format));
        assert_eq!(
            weight_bytes(blocks(BlockFormat::Q6K), 100, 256, Compute::Bf16),
            (100u64 * 224).next_multiple_of(256)
        );
        assert_eq!(weight_bytes(blocks(BlockFormat::Q4_0), 100, 64, Compute::F32), 100 * 64 * 4);
        assert_eq!(weight_bytes(blocks(BlockFormat::Q4_0), 100, 33, Compute::Bf16), u64::MAX);
        assert_eq!(weight_bytes(bf16, usize::MAX / 64, 64, Compute::Bf16), u64::MAX);
    }
}
