//! [`Bytes`] with the instructions of AVX2.

use crate::encoding::blocks::Bytes;
use std::arch::x86_64::*;

/// [`Bytes`] in a register of AVX2. What is stored is exclusive-or `BIAS`.
#[derive(Clone, Copy)]
pub struct Register32<const BIAS: u8>(__m256i);

/// The processor supports AVX2 and F16C.
#[derive(Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    /// # Safety
    /// It does.
    #[inline(always)]
    pub unsafe fn proof() -> Avx2 {
        Avx2(())
    }

    /// f16 as f32.
    #[inline(always)]
    pub fn widened(self, halves: [u16; 8]) -> [f32; 8] {
        let mut wide = [0.0; 8];
        // SAFETY: the proof says that the processor has the instructions; both have eight elements.
        unsafe { _mm256_storeu_ps(wide.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(halves.as_ptr().cast()))) };
        wide
    }
}

/// Defines methods of [`Bytes`] for [`Register32`]; what their bodies read and write are slices of the length.
macro_rules! with_avx2 {
    ($(fn $name:ident$(<$(const $bits:ident: i32)?>)?($($args:tt)*) -> $out:ty { $($body:tt)* })*) => {$(
        #[inline(always)]
        fn $name$(<$(const $bits: i32)?>)?($($args)*) -> $out {
            // SAFETY: a value, or the proof that one is made with, exists where the processor supports the instructions alone.
            unsafe { $($body)* }
        }
    )*};
}

impl<const BIAS: u8> Bytes for Register32<BIAS> {
    type Proof = Avx2;

    with_avx2! {
        fn load(_: Avx2, from: &[u8]) -> Self { Register32(_mm256_loadu_si256(from[..32].as_ptr().cast())) }
        fn nibbles(_: Avx2, from: &[u8]) -> Self {
            let bytes = _mm_loadu_si128(from[..16].as_ptr().cast());
            Register32(_mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes)).and(15)
        }
        fn half(_: Avx2, from: &[u8], at: usize) -> f32 {
            let bits = u16::from_le_bytes([from[at], from[at + 1]]);
            _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits.into())))
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
        fn store(self, to: &mut [i8]) -> () {
            let flipped = _mm256_xor_si256(self.0, _mm256_set1_epi8(BIAS as i8));
            _mm256_storeu_si256(to[..32].as_mut_ptr().cast(), flipped)
        }
    }
}
