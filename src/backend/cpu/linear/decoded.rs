//! Products of weights in blocks ([`crate::encoding::blocks`]) in the registers of a tier.
//!
//! Sixteen rows of the matrix are decoded to a [`Tile`]: integers in the order in which an 8-bit dot product takes them, as the
//! panels of [`crate::encoding`] have them, with f32 scales and minima. Then it is multiplied with all rows of the input, while it
//! is in the cache. A format is thus one function, and a product one per instruction set. For a single row of input, decoding is most
//! of the work.
//!
//! The dot product of a part is an exact integer, so every instruction set gives the same bits:
//! `sum = fma(integer dot product, scale * input scale, sum)`, then, with minima, `sum = fma(minimum, -input sum, sum)`, where the
//! input sum is the scale of the input's group times the sum of the part's codes.

#![allow(clippy::needless_range_loop, reason = "indices that are constant once unrolled keep sums in registers")]

use super::panels::Dot;
use super::tile::{ROWS, put};
use super::{Int8Rows, LinearArgs, aligned, negative_sum};
use crate::backend::cpu::vector::{Register, Vector, transpose, transpose8};
use crate::dtype::BlockFormat;
use crate::encoding::PANEL;
use crate::encoding::blocks::{Block, Bytes, GROUP, Parts};
use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::ops::Range;

/// Weights of a row that are decoded before they are put in order.
const CHUNK: usize = 256;
/// Inputs that [`Interleave::interleave`] puts in order at once: two groups.
const PAIR: usize = 2 * GROUP;
/// Bytes of a group's integers.
pub const GROUP_BYTES: usize = GROUP * PANEL;

/// Sixteen rows of weights in blocks, decoded.
#[derive(Clone, Copy)]
pub struct Tile<'a> {
    /// `[groups][GROUP / 4][PANEL][4]`: integers, each exclusive-or the flip that was asked for.
    pub codes: &'a [u8],
    /// `[parts][PANEL]`.
    pub scales: &'a [f32],
    /// `[parts][PANEL]`; empty without minima.
    pub minima: &'a [f32],
}

/// Order of a tile's integers.
pub trait Interleave {
    /// Writes sixteen rows of 64 bytes as `[16][PANEL][4]`: four bytes of each row, then the next four. Every byte is
    /// exclusive-or `flip`.
    ///
    /// # Safety
    /// The rows, `stride` bytes apart, may be read, 1024 bytes written, and the processor supports the instructions.
    unsafe fn interleave(rows: *const i8, stride: usize, flip: u8, to: *mut u8);
}

impl Interleave for __m512 {
    #[inline(always)]
    unsafe fn interleave(rows: *const i8, stride: usize, flip: u8, to: *mut u8) {
        // SAFETY: same contract.
        unsafe { interleave512(rows, stride, flip, to) }
    }
}

impl Interleave for __m256 {
    #[inline(always)]
    unsafe fn interleave(rows: *const i8, stride: usize, flip: u8, to: *mut u8) {
        // SAFETY: same contract.
        unsafe { interleave256(rows, stride, flip, to) }
    }
}

/// See [`Interleave::interleave`]. A function of its own, so that it is compiled once and not for every format.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn interleave512(rows: *const i8, stride: usize, flip: u8, to: *mut u8) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let flip = _mm512_set1_epi8(flip as i8);
        let mut all = [_mm512_setzero_ps(); 16];
        for row in 0..16 {
            let bytes = _mm512_loadu_si512(rows.add(row * stride).cast());
            all[row] = _mm512_castsi512_ps(_mm512_xor_si512(bytes, flip));
        }
        let columns = transpose(all);
        for i in 0..16 {
            _mm512_storeu_ps(to.add(i * 64).cast(), columns[i]);
        }
    }
}

/// As [`interleave512`].
#[inline(never)]
#[target_feature(enable = "avx2")]
unsafe fn interleave256(rows: *const i8, stride: usize, flip: u8, to: *mut u8) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let flip = _mm256_set1_epi8(flip as i8);
        for (half, column) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let from = rows.add(half * 8 * stride + column * 32);
            let mut all = [_mm256_setzero_ps(); 8];
            for row in 0..8 {
                let bytes = _mm256_loadu_si256(from.add(row * stride).cast());
                all[row] = _mm256_castsi256_ps(_mm256_xor_si256(bytes, flip));
            }
            let columns = transpose8(all);
            for i in 0..8 {
                _mm256_storeu_ps(to.add((column * 8 + i) * 64 + half * 32).cast(), columns[i]);
            }
        }
    }
}

/// [`Bytes`] in a register of AVX2.
#[derive(Clone, Copy)]
pub struct Register32(__m256i);

/// The processor supports AVX2.
#[derive(Clone, Copy)]
pub struct Avx2(());

/// Defines methods of [`Bytes`] for [`Register32`]; what their bodies read and write are slices of the length.
macro_rules! with_avx2 {
    ($(fn $name:ident$(<$(const $bits:ident: i32)?>)?($($args:tt)*) -> $out:ty { $($body:tt)* })*) => {$(
        #[inline(always)]
        fn $name$(<$(const $bits: i32)?>)?($($args)*) -> $out {
            // SAFETY: a value, or the proof that one is made with, exists where the processor supports AVX2 alone.
            unsafe { $($body)* }
        }
    )*};
}

impl Bytes for Register32 {
    type Proof = Avx2;

    with_avx2! {
        fn load(_: Avx2, from: &[u8]) -> Self { Register32(_mm256_loadu_si256(from[..32].as_ptr().cast())) }
        fn nibbles(_: Avx2, from: &[u8]) -> Self {
            let bytes = _mm_loadu_si128(from[..16].as_ptr().cast());
            Register32(_mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes)).and(15)
        }
        fn spread(_: Avx2, bits: u32) -> Self {
            let byte = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
            let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
            let bits = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(bits as i32), byte), bit);
            Register32(_mm256_and_si256(_mm256_cmpeq_epi8(bits, bit), _mm256_set1_epi8(1)))
        }
        fn and(self, mask: u8) -> Self { Register32(_mm256_and_si256(self.0, _mm256_set1_epi8(mask as i8))) }
        fn or(self, other: Self) -> Self { Register32(_mm256_or_si256(self.0, other.0)) }
        fn shr<const BITS: i32>(self) -> Self { Register32(_mm256_srli_epi16::<BITS>(self.0)).and(0xff >> BITS) }
        fn shl<const BITS: i32>(self) -> Self { Register32(_mm256_slli_epi16::<BITS>(self.0)).and(0xff << BITS) }
        fn minus(self, number: u8) -> Self { Register32(_mm256_sub_epi8(self.0, _mm256_set1_epi8(number as i8))) }
        fn lookup(self, table: &[i8; 16]) -> Self {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            Register32(_mm256_shuffle_epi8(table, self.0))
        }
        fn store(self, to: &mut [i8]) -> () { _mm256_storeu_si256(to[..32].as_mut_ptr().cast(), self.0) }
    }
}

/// Weight rows in blocks.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// All rows of the matrix.
    pub bytes: &'a [u8],
    /// Weights of a row.
    pub in_features: usize,
}

impl<'a> Rows<'a> {
    fn row_bytes<B: Block>(&self) -> usize {
        self.in_features / B::FORMAT.weights() * B::FORMAT.bytes()
    }

    /// Decodes the rows `range`, at most sixteen; further ones are zeros. Meanwhile prefetches the rows that follow.
    ///
    /// # Safety
    /// The processor supports the instructions of `V`, and AVX2.
    #[inline(always)]
    pub unsafe fn decode<'s, B: Block, V: Interleave>(
        &self,
        range: Range<usize>,
        flip: u8,
        scratch: &'s mut Vec<f32>,
    ) -> Tile<'s> {
        let (weights, block_bytes, row_bytes) = (B::FORMAT.weights(), B::FORMAT.bytes(), self.row_bytes::<B>());
        let (count, parts) = (range.len().min(PANEL), self.in_features / B::PART);
        let minima = if B::MINIMA { parts * PANEL } else { 0 };
        let code_bytes = self.in_features.div_ceil(PAIR) * PAIR * PANEL;
        let memory = aligned(scratch, code_bytes + (parts * PANEL + minima) * 4);
        let (codes, floats) = memory.split_at_mut(code_bytes);
        // SAFETY: code bytes are a multiple of 64, so the floats are aligned; all bytes are initialized.
        let floats = unsafe { floats.align_to_mut::<f32>().1 };
        let (scales, minima) = floats.split_at_mut(parts * PANEL);
        if count < PANEL {
            scales.fill(0.0);
            minima.fill(0.0);
        }
        let from = &self.bytes[range.start * row_bytes..(range.start + count) * row_bytes];
        let mut ahead = from.as_ptr_range().end;
        let mut staged = Staged([0; CHUNK * PANEL]);
        let mut decoded = Parts::ZERO;
        for first in (0..self.in_features).step_by(CHUNK) {
            let len = CHUNK.min(self.in_features - first);
            // Of what follows, as many bytes as are read here.
            let lines = (len / weights * block_bytes).div_ceil(64);
            for out in 0..count {
                for _ in 0..lines {
                    // SAFETY: a prefetch accepts any address.
                    unsafe { _mm_prefetch::<_MM_HINT_T1>(ahead.cast()) };
                    ahead = ahead.wrapping_add(64);
                }
                let row = &from[out * row_bytes..][first / weights * block_bytes..][..len / weights * block_bytes];
                let staged = &mut staged.0[out * CHUNK..][..CHUNK];
                for (i, block) in row.chunks_exact(block_bytes).enumerate() {
                    // The caller guarantees the instructions.
                    B::decode::<Register32>(Avx2(()), block, &mut staged[i * weights..], &mut decoded);
                    let part = (first + i * weights) / B::PART;
                    for p in 0..weights / B::PART {
                        scales[(part + p) * PANEL + out] = decoded.scales[p];
                        if B::MINIMA {
                            minima[(part + p) * PANEL + out] = decoded.minima[p];
                        }
                    }
                }
            }
            for (pair, to) in codes[first * PANEL..].chunks_exact_mut(PAIR * PANEL).take(len.div_ceil(PAIR)).enumerate()
            {
                // SAFETY: sixteen rows of `CHUNK` bytes, of which 64 from a multiple of 64 on; 1024 bytes are written.
                unsafe { V::interleave(staged.0.as_ptr().add(pair * PAIR), CHUNK, flip, to.as_mut_ptr()) };
            }
        }
        Tile { codes, scales, minima }
    }
}

/// Sixteen rows of decoded integers.
#[repr(align(64))]
struct Staged([i8; CHUNK * PANEL]);

/// [`Rows::decode`] for a format that is known at run time, as a tier compiles it: a product is compiled once for all formats, and
/// each format once for all products.
///
/// # Safety
/// Of calls: the processor supports the tier's instructions.
pub type Decode = for<'s> unsafe fn(BlockFormat, Rows, Range<usize>, u8, &'s mut Vec<f32>) -> Tile<'s>;

/// Defines a [`Decode`] with some instructions.
macro_rules! decode {
    ($features:literal, $register:ty) => {{
        #[target_feature(enable = $features)]
        unsafe fn decode<'s>(
            format: $crate::dtype::BlockFormat,
            rows: $crate::backend::cpu::linear::decoded::Rows,
            range: std::ops::Range<usize>,
            flip: u8,
            scratch: &'s mut Vec<f32>,
        ) -> $crate::backend::cpu::linear::decoded::Tile<'s> {
            #[target_feature(enable = $features)]
            fn of<'s, B: $crate::encoding::blocks::Block>(
                rows: $crate::backend::cpu::linear::decoded::Rows,
                range: std::ops::Range<usize>,
                flip: u8,
                scratch: &'s mut Vec<f32>,
            ) -> $crate::backend::cpu::linear::decoded::Tile<'s> {
                // SAFETY: who may call this has the instructions.
                unsafe { rows.decode::<B, $register>(range, flip, scratch) }
            }
            $crate::encoding::blocks::with_block!(format, B => of::<B>(rows, range, flip, scratch))
        }
        decode
    }};
}
pub(in crate::backend::cpu) use decode;

/// Computes the outputs `range` of a matrix in blocks. `R` is the number of registers with a lane for each output of a panel.
///
/// # Safety
/// As [`super::super::kernels::Kernels::linear`]; the processor supports the instructions of `D` and of `decode`.
#[inline(always)]
pub unsafe fn product<D: Dot, const R: usize>(
    decode: Decode,
    args: &LinearArgs,
    (format, bytes): (BlockFormat, &[u8]),
    x: Int8Rows,
    range: Range<usize>,
    scratch: &mut Vec<f32>,
) {
    let rows = Rows { bytes, in_features: args.in_features };
    for first in range.clone().step_by(PANEL) {
        let outs = first..range.end.min(first + PANEL);
        // SAFETY: same contract, part of the range.
        unsafe {
            let tile = decode(format, rows, outs.clone(), D::BIAS, scratch);
            match (format.part(), format.has_minima()) {
                (GROUP, false) => all_rows::<D, R, GROUP, false>(args, tile, x, outs),
                (GROUP, true) => all_rows::<D, R, GROUP, true>(args, tile, x, outs),
                (_, false) => all_rows::<D, R, { GROUP / 2 }, false>(args, tile, x, outs),
                (_, true) => all_rows::<D, R, { GROUP / 2 }, true>(args, tile, x, outs),
            }
        }
    }
}

/// Multiplies all rows of the input with a tile, four at a time.
///
/// # Safety
/// As [`product`] for these outputs.
#[inline(always)]
unsafe fn all_rows<D: Dot, const R: usize, const PART: usize, const MINIMA: bool>(
    args: &LinearArgs,
    tile: Tile,
    x: Int8Rows,
    out_features: Range<usize>,
) {
    let column = Column::<D, R, PART, MINIMA> { args, tile, x, out_features, dot: PhantomData };
    for row in (0..args.rows).step_by(ROWS) {
        // SAFETY: same contract, some of the rows.
        unsafe {
            match args.rows - row {
                1 => column.run::<1>(row),
                2 => column.run::<2>(row),
                3 => column.run::<3>(row),
                _ => column.run::<ROWS>(row),
            }
        }
    }
}

/// The outputs of a tile, in `R` registers; its parts are of `PART` inputs.
struct Column<'a, D, const R: usize, const PART: usize, const MINIMA: bool> {
    args: &'a LinearArgs<'a>,
    tile: Tile<'a>,
    x: Int8Rows<'a>,
    out_features: Range<usize>,
    dot: PhantomData<D>,
}

impl<D: Dot, const R: usize, const PART: usize, const MINIMA: bool> Column<'_, D, R, PART, MINIMA> {
    /// Computes `MR` rows, from `row` on.
    ///
    /// # Safety
    /// As [`product`] for these rows.
    #[inline(always)]
    unsafe fn run<const MR: usize>(&self, row: usize) {
        let (x, groups, lanes) = (self.x, self.x.groups, D::V::LANES);
        let (parts, steps) = (GROUP / PART, PART / 4);
        assert!(R * lanes == PANEL && self.tile.codes.len() >= groups * GROUP_BYTES);
        assert!(self.tile.scales.len() >= groups * parts * PANEL);
        assert!(!MINIMA || self.tile.minima.len() >= groups * parts * PANEL);
        let inputs = x.codes[row * groups * GROUP..][..MR * groups * GROUP].as_ptr();
        let input_scales = x.scales[row * groups..][..MR * groups].as_ptr();
        // Of groups, or of halves of groups.
        let all = if parts == 1 { x.corrections } else { x.half_corrections };
        let corrections = all[row * groups * parts..][..MR * groups * parts].as_ptr();
        let (codes, scales, minima) = (self.tile.codes.as_ptr(), self.tile.scales.as_ptr(), self.tile.minima.as_ptr());
        // SAFETY: all loads are inside the tile and the slices above; the processor supports `D`.
        unsafe {
            let mut sums = [[D::V::zero(); R]; MR];
            for g in 0..groups {
                for p in 0..parts {
                    let part = g * parts + p;
                    // Of few rows, even and odd steps are added apart: one sum would wait for itself.
                    let mut products = [[[D::V::int(0); R]; MR]; 2];
                    if D::BIAS != 0 {
                        for m in 0..MR {
                            products[0][m] = [D::V::int(*corrections.add(m * groups * parts + part)); R];
                        }
                    }
                    for step in 0..steps {
                        let apart = if MR <= 2 { step % 2 } else { 0 };
                        let at = codes.add((g * GROUP / 4 + p * steps + step) * 4 * PANEL);
                        let mut w = [D::V::int(0); R];
                        for n in 0..R {
                            w[n] = D::V::load_bytes(at.add(n * lanes * 4));
                        }
                        for m in 0..MR {
                            let four = inputs.add((m * groups + g) * GROUP + p * PART + step * 4);
                            let four = D::V::int(four.cast::<i32>().read_unaligned());
                            for n in 0..R {
                                products[apart][m][n] = D::dot(products[apart][m][n], w[n], four);
                            }
                        }
                    }
                    for n in 0..R {
                        let scale = D::V::load(scales.add(part * PANEL + n * lanes));
                        for m in 0..MR {
                            let dot = match MR {
                                1 | 2 => D::V::add_int(products[0][m][n], products[1][m][n]),
                                _ => products[0][m][n],
                            };
                            let factor = D::V::mul(scale, D::V::splat(*input_scales.add(m * groups + g)));
                            sums[m][n] = D::V::fma(D::V::float(dot), factor, sums[m][n]);
                        }
                    }
                    if MINIMA {
                        for m in 0..MR {
                            let correction = *corrections.add(m * groups * parts + part);
                            let sum = negative_sum(correction, *input_scales.add(m * groups + g));
                            for n in 0..R {
                                let minimum = D::V::load(minima.add(part * PANEL + n * lanes));
                                sums[m][n] = D::V::fma(minimum, D::V::splat(sum), sums[m][n]);
                            }
                        }
                    }
                }
            }
            for m in 0..MR {
                put(self.args, row + m, self.out_features.clone(), &sums[m]);
            }
        }
    }
}
