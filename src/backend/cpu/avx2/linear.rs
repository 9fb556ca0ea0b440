//! Matrix products with AVX2 and FMA: stored weights are widened to f32 in registers and multiplied with f32 inputs,
//! quantized weights by one of three dot products.

use super::super::kernels::{Elements, with_features};
use super::super::linear::decoded;
use super::super::linear::eight::{Codes, few_rows};
use super::super::linear::panels::{Dot, panels};
use super::super::linear::stored::{Products, column};
use super::super::linear::{Input, LinearArgs, Matrix, widened};
use crate::backend::cpu::vector::{Vector, methods};
use std::arch::x86_64::*;
use std::ops::Range;

with_features! { "avx2,fma,f16c";
    /// See [`super::Kernels::linear`].
    pub(super) fn linear(args: &LinearArgs, range: Range<usize>, scratch: &mut Vec<f32>) {
        linear_with::<Plain>(args, range, scratch)
    }

    fn linear_stored(args: &LinearArgs, range: Range<usize>) {
        match (args.weight, args.x) {
            (Matrix::Stored(Elements::F32(w)), Input::F32(x)) => stored::<F32>(args, w, x, range),
            (Matrix::Stored(Elements::Bf16(w)), Input::F32(x)) => stored::<Bf16>(args, w, x, range),
            (Matrix::Stored(Elements::F16(w)), Input::F32(x)) => stored::<F16>(args, w, x, range),
            _ => unreachable!("inputs come in the form that the table asks for"),
        }
    }
}
with_features! { "avx2,fma,f16c,avx512vnni,avx512vl";
    /// [`linear`] with the 256-bit 8-bit dot products of AVX-512 VNNI.
    pub(super) fn linear_vnni(args: &LinearArgs, range: Range<usize>, scratch: &mut Vec<f32>) {
        linear_with::<Vnni>(args, range, scratch)
    }
}
with_features! { "avx2,fma,f16c,avxvnni";
    /// [`linear`] with the 8-bit dot products of AVX-VNNI.
    pub(super) fn linear_avx_vnni(args: &LinearArgs, range: Range<usize>, scratch: &mut Vec<f32>) {
        linear_with::<AvxVnni>(args, range, scratch)
    }
}

/// # Safety
/// As [`linear`], and the processor supports the instructions of `D`.
#[inline(always)]
unsafe fn linear_with<D: Dot<V = __m256>>(args: &LinearArgs, range: Range<usize>, scratch: &mut Vec<f32>) {
    // SAFETY: same contract.
    unsafe {
        match (args.weight, args.x) {
            (Matrix::Panels(scheme, bytes), Input::Int8(x)) => panels::<D, 2>(args, scheme, bytes, x, range),
            (Matrix::Blocks(format, bytes), Input::Int8(x)) => {
                decoded::product::<D, 2>(args, (format, bytes), x, range, scratch)
            }
            (Matrix::F8(rows), Input::F32(x)) if few_rows::<Widened<F32>>(args, rows, x, &range) => {}
            (Matrix::Blocks(..) | Matrix::F8(_), Input::F32(_)) => widened(super::TABLE.linear, args, range, scratch),
            _ => linear_stored(args, range),
        }
    }
}

/// # Safety
/// As [`linear`].
#[inline(always)]
unsafe fn stored<W: Widen>(args: &LinearArgs, w: &[W::Stored], x: &[f32], range: Range<usize>) {
    let mut first = range.start;
    while first < range.end {
        // SAFETY: same contract, part of the range.
        first += unsafe {
            match range.end - first {
                // With four rows, 12 accumulators, 3 weights and 1 input use all 16 registers.
                3.. => column::<Widened<W>, 3, 1>(args, w, x, first),
                _ => column::<Widened<W>, 1, 1>(args, w, x, first),
            }
        };
    }
}

/// Conversion of stored elements to f32.
trait Widen {
    type Stored: Copy;

    /// Loads eight elements.
    ///
    /// # Safety
    /// Eight elements may be read from `at`, and the processor supports AVX2 and F16C.
    unsafe fn eight(at: *const Self::Stored) -> __m256;
}

struct F32;
struct Bf16;
struct F16;

impl Widen for F32 {
    type Stored = f32;
    methods! { fn eight(at: *const f32) -> __m256 { __m256::load(at) } }
}

impl Widen for Bf16 {
    type Stored = u16;
    methods! { fn eight(at: *const u16) -> __m256 { __m256::load_bf16(at) } }
}

impl Widen for F16 {
    type Stored = u16;
    methods! { fn eight(at: *const u16) -> __m256 { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) } }
}

/// Products of weights widened to f32.
struct Widened<W>(W);

impl<W: Widen> Products for Widened<W> {
    type V = __m256;
    type Weight = W::Stored;
    type Input = f32;
    type Wide = __m256;
    const STEP: usize = 8;

    fn at(in_features: usize, row: usize, i: usize) -> usize {
        row * in_features + i
    }

    methods! {
        fn weights(from: *const W::Stored) -> __m256 { W::eight(from) }
        fn some_weights(from: *const W::Stored, count: usize) -> __m256 {
            // Zero is a value of every stored type.
            let mut all: [W::Stored; 8] = std::mem::zeroed();
            std::ptr::copy_nonoverlapping(from, all.as_mut_ptr(), count);
            W::eight(all.as_ptr())
        }
        fn inputs(from: *const f32) -> __m256 { __m256::load(from) }
        fn some_inputs(from: *const f32, count: usize) -> __m256 { Widened::<F32>::some_weights(from, count) }
        fn dot(sum: __m256, x: __m256, w: __m256) -> __m256 { _mm256_fmadd_ps(x, w, sum) }
    }
}

impl Codes for Widened<F32> {
    methods! {
        fn codes(from: *const u8, factor: f32) -> __m256 {
            let codes = _mm256_slli_epi32::<24>(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast())));
            let shifted = _mm256_and_si256(_mm256_srai_epi32::<4>(codes), _mm256_set1_epi32(0x87f0_0000u32 as i32));
            _mm256_mul_ps(_mm256_castsi256_ps(shifted), _mm256_set1_ps(factor))
        }
    }
}

/// AVX2 alone. Its instruction adds pairs of u8 x i8 products with saturation to 16 bits, which biased weights could
/// exceed. Instead the magnitudes of weights are multiplied with inputs that take over the weights' signs: both are at
/// most 127, so a pair of products fits 16 bits.
struct Plain;
/// AVX-512 VNNI on 256-bit registers.
struct Vnni;
/// AVX-VNNI.
struct AvxVnni;

impl Dot for Plain {
    type V = __m256;
    const BIAS: u8 = 0;

    methods! {
        fn dot(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }
}

impl Dot for Vnni {
    type V = __m256;
    const BIAS: u8 = 128;
    methods! { fn dot(sum: __m256i, w: __m256i, x: __m256i) -> __m256i { _mm256_dpbusd_epi32(sum, w, x) } }
}

impl Dot for AvxVnni {
    type V = __m256;
    const BIAS: u8 = 128;
    methods! { fn dot(sum: __m256i, w: __m256i, x: __m256i) -> __m256i { _mm256_dpbusd_avx_epi32(sum, w, x) } }
}
