//! Registers of f32 lanes, over which the kernels of the x86-64 tiers are written once.
//!
//! [`Register`] is implemented for the registers of AVX2 and of AVX-512; [`Vector`], a part of it, also for arrays, by
//! which tests run the code around the tile unit on any processor. A method is one instruction, or a few. It must be
//! inlined into a function compiled with these instructions, or every method would be a call: the kernels are
//! `#[inline(always)]`, and a tier calls them from its own functions with `#[target_feature]`.

use std::arch::x86_64::*;
use std::ops::Range;

/// A register of f32.
///
/// # Safety
/// Of an implementation: a method reads or writes [`Vector::LANES`] elements behind a pointer, and none beyond.
/// Of a call, for all methods: the processor supports the instructions of the implementation, and these elements may be
/// read, or written. They need no alignment.
pub unsafe trait Vector: Copy {
    /// f32 per register.
    const LANES: usize;

    /// All lanes zero.
    unsafe fn zero() -> Self;
    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self;
    /// Loads f32.
    unsafe fn load(from: *const f32) -> Self;
    /// Loads bf16 as f32.
    unsafe fn load_bf16(from: *const u16) -> Self;
    /// Loads i32, rounded to f32.
    unsafe fn load_i32(from: *const i32) -> Self;
    /// Stores f32.
    unsafe fn store(v: Self, to: *mut f32);
    /// `a + b`.
    unsafe fn add(a: Self, b: Self) -> Self;
    /// `a * b`.
    unsafe fn mul(a: Self, b: Self) -> Self;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self, b: Self, c: Self) -> Self;
}

/// A [`Vector`] with everything that the kernels of attention and of matrix products need.
///
/// # Safety
/// As [`Vector`].
pub unsafe trait Register: Vector {
    /// The same register as integers.
    type Int: Copy;
    /// A truth value per lane.
    type Mask: Copy;
    /// Accumulators that fit the registers of the processor beside the operands of a multiplication.
    const SUMS: usize;

    /// `a - b`.
    unsafe fn sub(a: Self, b: Self) -> Self;
    /// The larger of `a` and `b`; `b` if either is NaN.
    unsafe fn max(a: Self, b: Self) -> Self;
    /// Lane 0.
    unsafe fn first(v: Self) -> f32;
    /// The sum of the lanes, added as a fixed tree: lanes half a register apart, then a quarter, and so on.
    unsafe fn sum(v: Self) -> f32;
    /// The largest lane.
    unsafe fn largest(v: Self) -> f32;
    /// For `e^x`, x <= 0: `x` not below the smallest that has a result, the integer `n` nearest to `x / ln 2`, and what
    /// [`Register::scale`] takes to multiply by `2^n`. NaN stays NaN.
    unsafe fn exponent(x: Self) -> [Self; 3];
    /// `p * 2^n`, with the third result of [`Register::exponent`].
    unsafe fn scale(p: Self, power: Self) -> Self;

    /// Whether `first + lane` is in `range`, for each lane.
    unsafe fn inside(range: &Range<usize>, first: usize) -> Self::Mask;
    /// The lanes of `a` where the mask is set, those of `b` elsewhere.
    unsafe fn select(mask: Self::Mask, a: Self, b: Self) -> Self;
    /// `mask`, also set where `v` is NaN.
    unsafe fn or_nan(mask: Self::Mask, v: Self) -> Self::Mask;
    /// Whether the mask is set in any lane.
    unsafe fn any(mask: Self::Mask) -> bool;

    /// All 32-bit lanes `x`.
    unsafe fn int(x: i32) -> Self::Int;
    /// Loads a register of bytes: 4 per f32 lane.
    unsafe fn load_bytes(from: *const u8) -> Self::Int;
    /// Loads 2 signed bytes per f32 lane, widened to 16 bits.
    unsafe fn load_i8(from: *const u8) -> Self::Int;
    /// Loads 16 bytes and repeats them in every 128 bits.
    unsafe fn load_table(from: *const u8) -> Self::Int;
    /// Bitwise and.
    unsafe fn and(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Bitwise exclusive or.
    unsafe fn xor(a: Self::Int, b: Self::Int) -> Self::Int;
    /// The bytes of a table of [`Register::load_table`] at the indices 0 to 15 in the low, and in the high half of each byte.
    unsafe fn lookup(table: Self::Int, indices: Self::Int) -> [Self::Int; 2];
    /// `sum + a.0 * b.0 + a.1 * b.1` of 16-bit pairs, in each 32-bit lane.
    unsafe fn dot_i16(sum: Self::Int, a: Self::Int, b: Self::Int) -> Self::Int;
    /// `a + b` of 32-bit integers.
    unsafe fn add_int(a: Self::Int, b: Self::Int) -> Self::Int;
    /// 32-bit integers, rounded to f32.
    unsafe fn float(v: Self::Int) -> Self;
    /// Rounds 16 f32 to 16-bit integers, and stores them. Their magnitudes are below 2^15, or the result is arbitrary.
    unsafe fn store_i16(v: &[Self], to: *mut u32);
}

/// Defines methods of these traits and of those built on them. Their contract is that of [`Vector`].
macro_rules! methods {
    ($(fn $name:ident($($args:tt)*) $(-> $out:ty)? { $($body:tt)* })*) => {$(
        #[inline(always)]
        #[allow(unused_unsafe, reason = "some bodies have no unsafe operation")]
        unsafe fn $name($($args)*) $(-> $out)? {
            // SAFETY: guaranteed by the caller, as the trait requires.
            unsafe { $($body)* }
        }
    )*};
}
pub(super) use methods;

/// Added to a number below 2^22, leaves the nearest integer in the low bits of the mantissa.
const ROUND: f32 = 12_582_912.0;

// SAFETY: every load and store is of 256 bits, and those of 16-bit elements are of 128.
unsafe impl Vector for __m256 {
    const LANES: usize = 8;

    methods! {
        fn zero() -> Self { _mm256_setzero_ps() }
        fn splat(x: f32) -> Self { _mm256_set1_ps(x) }
        fn load(from: *const f32) -> Self { _mm256_loadu_ps(from) }
        fn load_bf16(from: *const u16) -> Self {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
        fn load_i32(from: *const i32) -> Self { _mm256_cvtepi32_ps(_mm256_loadu_si256(from.cast())) }
        fn store(v: Self, to: *mut f32) { _mm256_storeu_ps(to, v) }
        fn add(a: Self, b: Self) -> Self { _mm256_add_ps(a, b) }
        fn mul(a: Self, b: Self) -> Self { _mm256_mul_ps(a, b) }
        fn fma(a: Self, b: Self, c: Self) -> Self { _mm256_fmadd_ps(a, b, c) }
    }
}

// SAFETY: as above; `store_i16` writes 16 integers.
unsafe impl Register for __m256 {
    type Int = __m256i;
    type Mask = __m256;
    const SUMS: usize = 8;

    methods! {
        fn sub(a: Self, b: Self) -> Self { _mm256_sub_ps(a, b) }
        fn max(a: Self, b: Self) -> Self { _mm256_max_ps(a, b) }
        fn first(v: Self) -> f32 { _mm256_cvtss_f32(v) }
        fn sum(v: Self) -> f32 {
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
        fn largest(v: Self) -> f32 {
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        }
        // Smaller x give about 1e-38.
        fn exponent(x: Self) -> [Self; 3] {
            let x = _mm256_max_ps(_mm256_set1_ps(-87.3), x);
            let n = _mm256_fmadd_ps(x, _mm256_set1_ps(std::f32::consts::LOG2_E), _mm256_set1_ps(ROUND));
            let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(n));
            let power = _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(0x3f80_0000)));
            [x, _mm256_sub_ps(n, _mm256_set1_ps(ROUND)), power]
        }
        fn scale(p: Self, power: Self) -> Self { _mm256_mul_ps(p, power) }

        fn inside(range: &Range<usize>, first: usize) -> __m256 {
            let lane = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(first as i32));
            let from = _mm256_cmpgt_epi32(_mm256_set1_epi32(range.start as i32), lane);
            let to = _mm256_cmpgt_epi32(_mm256_set1_epi32(range.end as i32), lane);
            _mm256_castsi256_ps(_mm256_andnot_si256(from, to))
        }
        fn select(mask: __m256, a: Self, b: Self) -> Self { _mm256_blendv_ps(b, a, mask) }
        fn or_nan(mask: __m256, v: Self) -> __m256 { _mm256_or_ps(mask, _mm256_cmp_ps::<_CMP_UNORD_Q>(v, v)) }
        fn any(mask: __m256) -> bool { _mm256_movemask_ps(mask) != 0 }

        fn int(x: i32) -> __m256i { _mm256_set1_epi32(x) }
        fn load_bytes(from: *const u8) -> __m256i { _mm256_loadu_si256(from.cast()) }
        fn load_i8(from: *const u8) -> __m256i { _mm256_cvtepi8_epi16(_mm_loadu_si128(from.cast())) }
        fn load_table(from: *const u8) -> __m256i { _mm256_broadcastsi128_si256(_mm_loadu_si128(from.cast())) }
        fn and(a: __m256i, b: __m256i) -> __m256i { _mm256_and_si256(a, b) }
        fn xor(a: __m256i, b: __m256i) -> __m256i { _mm256_xor_si256(a, b) }
        fn lookup(table: __m256i, indices: __m256i) -> [__m256i; 2] {
            let low = _mm256_set1_epi8(15);
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(indices), low);
            [_mm256_shuffle_epi8(table, _mm256_and_si256(indices, low)), _mm256_shuffle_epi8(table, high)]
        }
        fn dot_i16(sum: __m256i, a: __m256i, b: __m256i) -> __m256i { _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)) }
        fn add_int(a: __m256i, b: __m256i) -> __m256i { _mm256_add_epi32(a, b) }
        fn float(v: __m256i) -> Self { _mm256_cvtepi32_ps(v) }
        fn store_i16(v: &[Self], to: *mut u32) {
            let packed = _mm256_packs_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
            // The pack instruction works within 128-bit halves; the permutation restores the order of quarters.
            _mm256_storeu_si256(to.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(packed));
        }
    }
}

// SAFETY: every load and store is of 512 bits, and those of 16-bit elements are of 256.
unsafe impl Vector for __m512 {
    const LANES: usize = 16;

    methods! {
        fn zero() -> Self { _mm512_setzero_ps() }
        fn splat(x: f32) -> Self { _mm512_set1_ps(x) }
        fn load(from: *const f32) -> Self { _mm512_loadu_ps(from) }
        fn load_bf16(from: *const u16) -> Self {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
        fn load_i32(from: *const i32) -> Self { _mm512_cvtepi32_ps(_mm512_loadu_si512(from.cast())) }
        fn store(v: Self, to: *mut f32) { _mm512_storeu_ps(to, v) }
        fn add(a: Self, b: Self) -> Self { _mm512_add_ps(a, b) }
        fn mul(a: Self, b: Self) -> Self { _mm512_mul_ps(a, b) }
        fn fma(a: Self, b: Self, c: Self) -> Self { _mm512_fmadd_ps(a, b, c) }
    }
}

// SAFETY: as above; `store_i16` writes 16 integers.
unsafe impl Register for __m512 {
    type Int = __m512i;
    type Mask = __mmask16;
    const SUMS: usize = 20;

    methods! {
        fn sub(a: Self, b: Self) -> Self { _mm512_sub_ps(a, b) }
        fn max(a: Self, b: Self) -> Self { _mm512_max_ps(a, b) }
        fn first(v: Self) -> f32 { _mm512_cvtss_f32(v) }
        fn sum(v: Self) -> f32 { _mm512_reduce_add_ps(v) }
        fn largest(v: Self) -> f32 { _mm512_reduce_max_ps(v) }
        // -inf gives 0.
        fn exponent(x: Self) -> [Self; 3] {
            let x = _mm512_max_ps(_mm512_set1_ps(-104.0), x);
            let n = _mm512_roundscale_ps::<0>(_mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E)));
            [x, n, n]
        }
        fn scale(p: Self, power: Self) -> Self { _mm512_scalef_ps(p, power) }

        fn inside(range: &Range<usize>, first: usize) -> __mmask16 {
            let [from, to] = [range.start, range.end].map(|at| at.saturating_sub(first).min(16));
            ((1u32 << to) - (1u32 << from).min(1 << to)) as __mmask16
        }
        fn select(mask: __mmask16, a: Self, b: Self) -> Self { _mm512_mask_blend_ps(mask, b, a) }
        fn or_nan(mask: __mmask16, v: Self) -> __mmask16 { mask | _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v) }
        fn any(mask: __mmask16) -> bool { mask != 0 }

        fn int(x: i32) -> __m512i { _mm512_set1_epi32(x) }
        fn load_bytes(from: *const u8) -> __m512i { _mm512_loadu_si512(from.cast()) }
        fn load_i8(from: *const u8) -> __m512i { _mm512_cvtepi8_epi16(_mm256_loadu_si256(from.cast())) }
        fn load_table(from: *const u8) -> __m512i { _mm512_broadcast_i32x4(_mm_loadu_si128(from.cast())) }
        fn and(a: __m512i, b: __m512i) -> __m512i { _mm512_and_si512(a, b) }
        fn xor(a: __m512i, b: __m512i) -> __m512i { _mm512_xor_si512(a, b) }
        fn lookup(table: __m512i, indices: __m512i) -> [__m512i; 2] {
            let low = _mm512_set1_epi8(15);
            let high = _mm512_and_si512(_mm512_srli_epi16::<4>(indices), low);
            [_mm512_shuffle_epi8(table, _mm512_and_si512(indices, low)), _mm512_shuffle_epi8(table, high)]
        }
        fn dot_i16(sum: __m512i, a: __m512i, b: __m512i) -> __m512i { _mm512_dpwssd_epi32(sum, a, b) }
        fn add_int(a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(a, b) }
        fn float(v: __m512i) -> Self { _mm512_cvtepi32_ps(v) }
        fn store_i16(v: &[Self], to: *mut u32) {
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(v[0])));
        }
    }
}

/// Transposes a 16 x 16 matrix: 4 x 4 squares within each 128-bit quarter, then the quarters.
///
/// # Safety
/// The processor supports AVX-512.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "indices that are constant once unrolled keep values in registers")]
pub unsafe fn transpose(rows: [__m512; 16]) -> [__m512; 16] {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let (mut pairs, mut fours, mut out) = (rows, rows, rows);
        for i in (0..16).step_by(2) {
            pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
            pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
        }
        for i in (0..16).step_by(4) {
            for k in 0..2 {
                let (a, b) = (_mm512_castps_pd(pairs[i + k]), _mm512_castps_pd(pairs[i + k + 2]));
                fours[i + 2 * k] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                fours[i + 2 * k + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
            }
        }
        for k in 0..4 {
            // Quarters 0 and 2 (then 1 and 3) of rows k, k + 4, and of rows k + 8, k + 12.
            let even = _mm512_shuffle_f32x4::<0x88>(fours[k], fours[k + 4]);
            let more_even = _mm512_shuffle_f32x4::<0x88>(fours[k + 8], fours[k + 12]);
            let odd = _mm512_shuffle_f32x4::<0xdd>(fours[k], fours[k + 4]);
            let more_odd = _mm512_shuffle_f32x4::<0xdd>(fours[k + 8], fours[k + 12]);
            out[k] = _mm512_shuffle_f32x4::<0x88>(even, more_even);
            out[k + 4] = _mm512_shuffle_f32x4::<0x88>(odd, more_odd);
            out[k + 8] = _mm512_shuffle_f32x4::<0xdd>(even, more_even);
            out[k + 12] = _mm512_shuffle_f32x4::<0xdd>(odd, more_odd);
        }
        out
    }
}

/// Transposes an 8 x 8 matrix: 4 x 4 squares within each half, then the halves.
///
/// # Safety
/// The processor supports AVX2.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "indices that are constant once unrolled keep values in registers")]
pub unsafe fn transpose8(rows: [__m256; 8]) -> [__m256; 8] {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let (mut pairs, mut fours, mut out) = (rows, rows, rows);
        for i in (0..8).step_by(2) {
            pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
            pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
        }
        for i in (0..8).step_by(4) {
            for k in 0..2 {
                let (a, b) = (_mm256_castps_pd(pairs[i + k]), _mm256_castps_pd(pairs[i + k + 2]));
                fours[i + 2 * k] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
                fours[i + 2 * k + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
            }
        }
        for k in 0..4 {
            out[k] = _mm256_permute2f128_ps::<0x20>(fours[k], fours[k + 4]);
            out[k + 4] = _mm256_permute2f128_ps::<0x31>(fours[k], fours[k + 4]);
        }
        out
    }
}

/// `e^x` for x <= 0, with a relative error below 2e-7 unless the result is nearly 0 ([`Register::exponent`]); NaN stays
/// NaN. x = n ln 2 + r, and a polynomial in r; coefficients from Cephes `expf`, as in [`super::portable::exp`].
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub unsafe fn exp<V: Register>(x: V) -> V {
    // SAFETY: same contract.
    unsafe {
        let [x, n, power] = V::exponent(x);
        let r = V::fma(n, V::splat(-0.693_359_4), x);
        let r = V::fma(n, V::splat(2.121_944_4e-4), r);
        let mut p = V::splat(1.987_569_1e-4);
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.500_000_06] {
            p = V::fma(p, r, V::splat(c));
        }
        V::scale(V::fma(V::mul(p, r), r, V::add(r, V::splat(1.0))), power)
    }
}
