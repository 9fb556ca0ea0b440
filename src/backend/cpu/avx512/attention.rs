//! Attention of the AVX-512 tier: bf16 dot products for bf16 pages, 16-bit integer ones for 8-bit pages.

#![allow(clippy::needless_range_loop, reason = "indices that are constant once unrolled keep sums in registers")]

use crate::backend::cpu::attention::lanes;
use crate::backend::cpu::attention::tile::{Block, Exponentials, GROUPS, Int8, Pairs, Query};
use crate::backend::cpu::attention::{AttentionArgs, AttentionKernels};
use crate::backend::cpu::avx2;
use crate::backend::cpu::kernels::with_features;
use crate::backend::cpu::kv::PageLayout;
use crate::backend::cpu::vector::methods;
use crate::dtype::DType;
use std::arch::x86_64::*;
use std::mem::transmute;
use std::ops::Range;

/// The attention functions of the tier.
pub const ATTENTION: AttentionKernels = AttentionKernels { attend, ..avx2::ATTENTION };

with_features! { "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni";
    fn attend(args: &AttentionArgs, scratch: &mut Vec<f32>) {
        // This tier's pages of lanes are bf16 or 8-bit only.
        match (args.pages.layout, args.pages.shape.dtype) {
            (PageLayout::Lanes, DType::Bf16) => lanes::attend::<Bf16>(args, scratch),
            (PageLayout::Lanes, _) => lanes::attend::<Int8<__m512>>(args, scratch),
            _ => (avx2::ATTENTION.attend)(args, scratch),
        }
    }
}

/// bf16 pages: queries and weights are rounded to bf16, and the sum of weights is that of the rounded ones.
struct Bf16;

impl Pairs for Bf16 {
    type V = __m512;
    type Stored = __m512i;
    type Factors = __m512i;
    type Sum = __m512;
    const BYTES: usize = 64;
    const WORDS: usize = 1;

    methods! {
        fn load(from: *const u8) -> __m512i { _mm512_loadu_si512(from.cast()) }
        fn half(pairs: __m512i, second: bool) -> __m512i { Int8::<__m512>::half(pairs, second) }
        fn factors(from: *const u32) -> __m512i { _mm512_set1_epi32(*from as i32) }
        fn zero() -> __m512 { _mm512_setzero_ps() }
        fn dot(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
            _mm512_dpbf16_ps(sum, transmute::<__m512i, __m512bh>(a), transmute::<__m512i, __m512bh>(b))
        }
        fn float(sum: __m512) -> __m512 { sum }
    }

    #[inline(always)]
    unsafe fn pack(q: &[f32], out: &mut [u32]) -> f32 {
        for (q, out) in q.chunks(32).zip(out.chunks_mut(16)) {
            let mask = |n: usize| ((1u64 << n.min(16)) - 1) as __mmask16;
            // SAFETY: masked to the elements that exist; both types are 64 bytes in which every bit pattern is valid.
            unsafe {
                let low = _mm512_maskz_loadu_ps(mask(q.len()), q.as_ptr());
                let high = _mm512_maskz_loadu_ps(mask(q.len().saturating_sub(16)), q.as_ptr().wrapping_add(16));
                let both = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                _mm512_mask_storeu_epi32(out.as_mut_ptr().cast(), mask(out.len()), both);
            }
        }
        1.0
    }

    #[inline(always)]
    unsafe fn weigh(all: &mut Exponentials<__m512>, query: &mut Query, _: &Block, _: &Range<usize>) -> __m512 {
        // SAFETY: the processor supports the instructions; both types are 32 bytes in which every bit pattern is valid,
        // and the weights of a group are 8 words.
        unsafe {
            let mut sum = _mm512_setzero_ps();
            for g in 0..GROUPS {
                let rounded = transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(all[g]));
                _mm256_storeu_si256(query.weights[g * 8..g * 8 + 8].as_mut_ptr().cast(), rounded);
                let widened = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(rounded));
                sum = _mm512_add_ps(sum, _mm512_castsi512_ps(widened));
            }
            sum
        }
    }
}
