//! Decoded integers, which are row by row, for dot products whose lanes are rows.

#![allow(clippy::needless_range_loop, reason = "indices that are constant once unrolled keep values in registers")]

use super::super::panels::Dot;
use crate::backend::cpu::vector::{Register, transpose, transpose8};
use crate::encoding::PANEL;
use crate::encoding::blocks::{GROUP, PARTS_MAX};
use std::arch::x86_64::*;

/// What a register does with integers that are not in the order of its lanes.
///
/// # Safety
/// Of calls, for all methods: the processor supports the instructions.
pub trait Order: Register {
    /// Writes sixteen rows of 64 bytes as `[16][PANEL][4]`: four bytes of each row, then the next four.
    ///
    /// # Safety
    /// Also, the rows, `stride` bytes apart, may be read, and 1024 bytes written.
    unsafe fn interleave(rows: *const u8, stride: usize, to: *mut u8);

    /// The dot products of the parts of [`super::CHUNK`] weights and inputs, in their order: eight, or sixteen in two registers.
    ///
    /// # Safety
    /// Also, as many bytes may be read.
    unsafe fn dots<D: Dot<V = Self>, const PART: usize>(weights: *const u8, inputs: *const u8) -> [__m256i; 2];
}

impl Order for __m512 {
    #[inline(always)]
    unsafe fn interleave(rows: *const u8, stride: usize, to: *mut u8) {
        // SAFETY: same contract.
        unsafe { interleave512(rows, stride, to) }
    }

    #[inline(always)]
    unsafe fn dots<D: Dot<V = Self>, const PART: usize>(weights: *const u8, inputs: *const u8) -> [__m256i; 2] {
        // SAFETY: same contract; a chunk is four registers of bytes.
        unsafe {
            let mut pairs = [Self::int(0); 4];
            for i in 0..4 {
                pairs[i] =
                    D::dot(Self::int(0), Self::load_bytes(weights.add(i * 64)), Self::load_bytes(inputs.add(i * 64)));
            }
            let [a, b, c, d] = pairs;
            let low = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let high = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            // Quarter `q` has the sums of the halves `q` of all pairs of groups.
            let halves = _mm512_add_epi32(_mm512_unpacklo_epi64(low, high), _mm512_unpackhi_epi64(low, high));
            if PART == GROUP {
                // Of each group the first half, then of each the second.
                let order = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
                let halves = _mm512_permutexvar_epi32(order, halves);
                let second = _mm512_extracti64x4_epi64::<1>(halves);
                [_mm256_add_epi32(_mm512_castsi512_si256(halves), second); 2]
            } else {
                let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
                let parts = _mm512_permutexvar_epi32(order, halves);
                [_mm512_castsi512_si256(parts), _mm512_extracti64x4_epi64::<1>(parts)]
            }
        }
    }
}

impl Order for __m256 {
    #[inline(always)]
    unsafe fn interleave(rows: *const u8, stride: usize, to: *mut u8) {
        // SAFETY: same contract.
        unsafe { interleave256(rows, stride, to) }
    }

    #[inline(always)]
    unsafe fn dots<D: Dot<V = Self>, const PART: usize>(weights: *const u8, inputs: *const u8) -> [__m256i; 2] {
        // SAFETY: same contract; a chunk is eight registers of bytes.
        unsafe {
            let mut halves = [Self::int(0); 2];
            for i in 0..2 {
                let mut groups = [Self::int(0); 4];
                for g in 0..4 {
                    let at = (i * 4 + g) * 32;
                    groups[g] =
                        D::dot(Self::int(0), Self::load_bytes(weights.add(at)), Self::load_bytes(inputs.add(at)));
                }
                let [a, b, c, d] = groups;
                let low = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
                let high = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
                // Of four groups the sums of their first halves, then of their second halves.
                halves[i] = _mm256_add_epi32(_mm256_unpacklo_epi64(low, high), _mm256_unpackhi_epi64(low, high));
            }
            let [a, b] = halves;
            if PART == GROUP {
                let first = _mm256_permute2x128_si256::<0x20>(a, b);
                [_mm256_add_epi32(first, _mm256_permute2x128_si256::<0x31>(a, b)); 2]
            } else {
                let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
                [_mm256_permutevar8x32_epi32(a, order), _mm256_permutevar8x32_epi32(b, order)]
            }
        }
    }
}

/// See [`Order::interleave`]. A function of its own, so that it is compiled once and not for every format.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn interleave512(rows: *const u8, stride: usize, to: *mut u8) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let mut all = [_mm512_setzero_ps(); 16];
        for row in 0..16 {
            all[row] = _mm512_loadu_ps(rows.add(row * stride).cast());
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
unsafe fn interleave256(rows: *const u8, stride: usize, to: *mut u8) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        for (half, column) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let from = rows.add(half * 8 * stride + column * 32);
            let mut all = [_mm256_setzero_ps(); 8];
            for row in 0..8 {
                all[row] = _mm256_loadu_ps(from.add(row * stride).cast());
            }
            let columns = transpose8(all);
            for i in 0..8 {
                _mm256_storeu_ps(to.add((column * 8 + i) * 64 + half * 32).cast(), columns[i]);
            }
        }
    }
}

/// Writes numbers of sixteen rows' parts as `[parts][PANEL]`.
///
/// # Safety
/// The processor supports AVX2.
#[target_feature(enable = "avx2")]
pub unsafe fn by_part(from: [&[f32; PARTS_MAX]; PANEL], to: &mut [f32]) {
    for (p, to) in to.chunks_mut(8 * PANEL).enumerate() {
        for half in 0..2 {
            // SAFETY: eight of sixteen rows, eight of sixteen parts; both halves of as many parts as are asked for.
            unsafe {
                let mut all = [_mm256_setzero_ps(); 8];
                for row in 0..8 {
                    all[row] = _mm256_loadu_ps(from[half * 8 + row][p * 8..].as_ptr());
                }
                let columns = transpose8(all);
                for i in 0..to.len() / PANEL {
                    _mm256_storeu_ps(to[i * PANEL + half * 8..].as_mut_ptr(), columns[i]);
                }
            }
        }
    }
}
