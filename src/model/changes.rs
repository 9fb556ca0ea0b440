//! What is made of parts of tensors while they are loaded, in memory of its own. Called by [`super::loader`], which has checked
//! the shapes.

use crate::dtype::{BlockFormat, DType};
use crate::error::{Error, Result};
use crate::os::aligned::AlignedBytes;

/// Columns copied together, so that the rows they become lie in the cache.
const TILE: usize = 64;
/// Weights of a block of 4-bit floats, bytes of their codes, and bytes of the block with its scale.
const BLOCK: usize = BlockFormat::Mxfp4.weights();
const CODES: usize = BLOCK / 2;
const BLOCK_BYTES: usize = BlockFormat::Mxfp4.bytes();

fn room(bytes: usize) -> Result<AlignedBytes> {
    AlignedBytes::zeroed(bytes).ok_or_else(|| Error::memory("weights in another order", bytes as u64))
}

fn too_short() -> Error {
    Error::internal("a part of a tensor is shorter than its shape says")
}

/// The elements of a vector, each with one more, as f32.
pub(super) fn plus_one(bytes: &[u8], dtype: DType) -> Result<AlignedBytes> {
    let refused = || Error::internal(format!("a vector of {dtype} to be added to"));
    let size = dtype.bytes(1).ok_or_else(refused)?;
    let mut out = room(bytes.len() / size * size_of::<f32>())?;
    for (out, element) in out.as_mut_slice().chunks_exact_mut(size_of::<f32>()).zip(bytes.chunks_exact(size)) {
        let value = match *element {
            [a, b] if dtype == DType::Bf16 => half::bf16::from_le_bytes([a, b]).to_f32(),
            [a, b] => half::f16::from_le_bytes([a, b]).to_f32(),
            [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
            _ => return Err(refused()),
        };
        out.copy_from_slice(&(1.0 + value).to_le_bytes());
    }
    Ok(out)
}

/// Of a matrix of rows of `width` elements of `size` bytes, the columns `first`, `first + step` and so on, `count` of them, as
/// rows.
pub(super) fn columns(
    bytes: &[u8],
    size: usize,
    width: usize,
    (first, step, count): (usize, usize, usize),
) -> Result<AlignedBytes> {
    let in_features = bytes.len() / (width * size).max(1);
    let mut out = room(count * in_features * size)?;
    let made = out.as_mut_slice();
    for column in 0..count.div_ceil(TILE) {
        for (i, row) in bytes.chunks_exact((width * size).max(1)).enumerate() {
            for column in column * TILE..count.min((column + 1) * TILE) {
                let at = (first + column * step) * size;
                let to = (column * in_features + i) * size;
                let (Some(to), Some(from)) = (made.get_mut(to..to + size), row.get(at..at + size)) else {
                    return Err(too_short());
                };
                to.copy_from_slice(from);
            }
        }
    }
    Ok(out)
}

/// Of a matrix of 4-bit floats, `codes` in pairs of neighbours and a scale for each [`BLOCK`] of a row, the rows `first`,
/// `first + step` and so on, `count` of them, as blocks of [`BlockFormat::Mxfp4`].
pub(super) fn mxfp4(
    codes: &[u8],
    scales: &[u8],
    in_features: usize,
    (first, step, count): (usize, usize, usize),
) -> Result<AlignedBytes> {
    let blocks = in_features / BLOCK;
    let mut out = room(count * blocks * BLOCK_BYTES)?;
    for (index, made) in out.as_mut_slice().chunks_exact_mut((blocks * BLOCK_BYTES).max(1)).enumerate() {
        let row = first + index * step;
        let codes = codes.get(row * blocks * CODES..(row + 1) * blocks * CODES).ok_or_else(too_short)?;
        let scales = scales.get(row * blocks..(row + 1) * blocks).ok_or_else(too_short)?;
        let made = made.as_chunks_mut::<BLOCK_BYTES>().0.iter_mut();
        for ((made, codes), scale) in made.zip(codes.as_chunks::<CODES>().0).zip(scales) {
            let [of_block, halves @ ..] = made;
            *of_block = *scale;
            // Here the halves of a byte are neighbours, there elements half a block apart.
            let (low, high) = codes.split_at(CODES / 2);
            for (((first, second), low), high) in pairs(halves).zip(low).zip(high) {
                *first = low & 15 | high << 4;
                *second = low >> 4 | high & 0xf0;
            }
        }
    }
    Ok(out)
}

/// Neighbours.
fn pairs(bytes: &mut [u8; CODES]) -> impl Iterator<Item = (&mut u8, &mut u8)> {
    bytes.as_chunks_mut::<2>().0.iter_mut().map(|[first, second]| (first, second))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::blocks;

    #[test]
    fn columns_become_rows() {
        // Two rows of five, in bytes; every second column from the second on.
        let bytes: Vec<u8> = (0..10).collect();
        assert_eq!(columns(&bytes, 1, 5, (1, 2, 2)).unwrap().as_slice(), [1, 6, 3, 8]);
        assert_eq!(columns(&bytes[..8], 2, 2, (0, 1, 2)).unwrap().as_slice(), [0, 1, 4, 5, 2, 3, 6, 7]);
        let many: Vec<u8> = (0..200).collect();
        let made = columns(&many, 1, 100, (0, 1, 100)).unwrap();
        assert!(made.as_slice().chunks(2).enumerate().all(|(i, pair)| pair == [i as u8, 100 + i as u8]));
        assert!(columns(&bytes, 1, 5, (1, 2, 3)).is_err(), "there is no sixth");
    }

    /// The values of the sixteen codes: bits of sign, two of an exponent, one of a fraction.
    const VALUES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

    #[test]
    fn four_bit_floats_keep_their_values() {
        let (rows, in_features) = (4, 64);
        let codes: Vec<u8> = (0..rows * in_features / 2).map(|i| (i * 37 + i / 16) as u8).collect();
        let scales = [127, 120, 130, 0, 1, 2, 127, 128];
        let made = mxfp4(&codes, &scales, in_features, (1, 2, 2)).unwrap();
        let mut got = vec![0.0; 2 * in_features];
        blocks::widen(BlockFormat::Mxfp4, made.as_slice(), &mut got);
        for (at, got) in got.iter().enumerate() {
            let from = (1 + 2 * (at / in_features)) * in_features + at % in_features;
            let code = codes[from / 2] >> (4 * (from % 2)) & 15;
            let sign = if code < 8 { 1.0 } else { -1.0 };
            let power = 2f64.powi(i32::from(scales[from / BLOCK]) - 127) as f32;
            assert_eq!(*got, sign * VALUES[usize::from(code & 7)] * power, "element {at}");
        }
        assert!(mxfp4(&codes, &scales, in_features, (1, 2, 3)).is_err(), "there are four rows");
    }
}
