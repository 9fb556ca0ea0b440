//! Attention of the AVX2 tier: f32 arithmetic for bf16 pages, 16-bit integer dot products for 8-bit pages.

#![allow(clippy::needless_range_loop, reason = "indices that are constant once unrolled keep sums in registers")]

use crate::backend::cpu::attention::lanes;
use crate::backend::cpu::attention::tile::{Block, Exponentials, Int8, Pairs, Query};
use crate::backend::cpu::attention::{AttentionArgs, AttentionKernels, BLOCK, running};
use crate::backend::cpu::kernels::with_features;
use crate::backend::cpu::kv::{PageLayout, StoreBlock};
use crate::backend::cpu::portable;
use crate::backend::cpu::vector::{Vector, methods};
use crate::dtype::DType;
use std::arch::x86_64::*;
use std::ops::Range;

/// The attention functions of the tier.
pub const ATTENTION: AttentionKernels =
    AttentionKernels { layout: PageLayout::lanes_where_possible, attend, attend_f32: attend, store_group, combine };

with_features! { "avx2,fma";
    fn attend(args: &AttentionArgs, scratch: &mut Vec<f32>) {
        // This tier's pages of lanes are bf16 or 8-bit only.
        match (args.pages.layout, args.pages.shape.dtype) {
            (PageLayout::Lanes, DType::Bf16) => lanes::attend::<Bf16>(args, scratch),
            (PageLayout::Lanes, _) => lanes::attend::<Int8<__m256>>(args, scratch),
            _ => portable::attention_any::<true>(args, scratch),
        }
    }
    fn combine(args: &AttentionArgs, parts: &[f32], scratch: &mut Vec<f32>) {
        running::combine::<true>(args, parts, scratch)
    }
    fn store_group(block: &StoreBlock, values: bool, token: usize, from: &[f32], stride: usize) {
        block.store_group(values, token, from, stride)
    }
}

/// bf16 pages: queries and weights stay f32.
struct Bf16;

impl Pairs for Bf16 {
    type V = __m256;
    type Stored = [__m256; 2];
    type Factors = [__m256; 2];
    type Sum = __m256;
    const BYTES: usize = 32;
    const WORDS: usize = 2;

    methods! {
        fn load(from: *const u8) -> [__m256; 2] {
            let both = _mm256_loadu_si256(from.cast());
            let second = _mm256_and_si256(both, _mm256_set1_epi32(0xffff_0000_u32 as i32));
            [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(both)), _mm256_castsi256_ps(second)]
        }
        fn half(pairs: [__m256; 2], second: bool) -> [__m256; 2] {
            if second { [__m256::zero(), pairs[1]] } else { [pairs[0], __m256::zero()] }
        }
        fn factors(from: *const u32) -> [__m256; 2] {
            [_mm256_broadcast_ss(&*from.cast()), _mm256_broadcast_ss(&*from.add(1).cast())]
        }
        fn zero() -> __m256 { _mm256_setzero_ps() }
        fn dot(sum: __m256, a: [__m256; 2], b: [__m256; 2]) -> __m256 {
            _mm256_fmadd_ps(a[1], b[1], _mm256_fmadd_ps(a[0], b[0], sum))
        }
        fn float(sum: __m256) -> __m256 { sum }
    }

    #[inline(always)]
    unsafe fn pack(q: &[f32], out: &mut [u32]) -> f32 {
        out.iter_mut().zip(q).for_each(|(out, q)| *out = q.to_bits());
        1.0
    }

    #[inline(always)]
    unsafe fn weigh(all: &mut Exponentials<__m256>, query: &mut Query, _: &Block, _: &Range<usize>) -> __m256 {
        // SAFETY: the processor supports the instructions, and a query has `BLOCK` words of weights.
        unsafe {
            let mut sum = _mm256_setzero_ps();
            for i in 0..BLOCK / 8 {
                sum = _mm256_add_ps(sum, all[i]);
                __m256::store(all[i], query.weights[i * 8..(i + 1) * 8].as_mut_ptr().cast());
            }
            sum
        }
    }
}
