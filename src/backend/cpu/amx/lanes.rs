//! Vectors of sixteen f32, for processing the contents of a tile.
//!
//! [`Lanes`] is implemented with AVX-512, which every processor with tiles supports, and for tests in plain Rust.
//! Methods must be inlined into a function compiled with these instructions; otherwise every method would be a call.

#![allow(clippy::needless_range_loop, reason = "indices that are constant once unrolled keep sums in registers")]

#[cfg(test)]
use crate::backend::cpu::kernels::bf16_to_f32;
use crate::backend::cpu::vector::{Register, Vector, methods, transpose};
use crate::encoding::Q4_VALUES;
use std::arch::x86_64::*;

/// Lanes per vector.
pub const LANES: usize = 16;

/// Sixteen f32. For all methods, the processor must support the instructions of the implementation.
pub trait Lanes: Vector {
    /// Transposes a 16 x 16 matrix.
    ///
    /// # Safety
    /// The processor supports the instructions.
    unsafe fn transpose(rows: [Self; LANES]) -> [Self; LANES];

    /// Converts 64 bytes of integer + 128 to signed bytes.
    ///
    /// # Safety
    /// 64 bytes may be read, and as many written.
    unsafe fn unpack_q8(from: *const u8, to: *mut u8);

    /// Expands 64 bytes of 4-bit codes to the values of their low halves, followed by those of their high halves.
    ///
    /// # Safety
    /// 64 bytes may be read, and 128 written.
    unsafe fn unpack_q4(from: *const u8, to: *mut u8);
}

impl Lanes for __m512 {
    methods! {
        fn transpose(rows: [Self; LANES]) -> [Self; LANES] { transpose(rows) }
        fn unpack_q8(from: *const u8, to: *mut u8) {
            _mm512_storeu_si512(to.cast(), Self::xor(Self::load_bytes(from), _mm512_set1_epi8(-128)));
        }
        fn unpack_q4(from: *const u8, to: *mut u8) {
            let values = Self::lookup(Self::load_table(Q4_VALUES.as_ptr().cast()), Self::load_bytes(from));
            _mm512_storeu_si512(to.cast(), values[0]);
            _mm512_storeu_si512(to.add(64).cast(), values[1]);
        }
    }
}

// SAFETY: arrays of as many elements.
#[cfg(test)]
unsafe impl Vector for [f32; LANES] {
    const LANES: usize = LANES;

    unsafe fn zero() -> Self {
        [0.0; LANES]
    }

    unsafe fn splat(x: f32) -> Self {
        [x; LANES]
    }

    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: guaranteed by the caller; so below.
        std::array::from_fn(|i| unsafe { *from.add(i) })
    }

    unsafe fn load_bf16(from: *const u16) -> Self {
        // SAFETY: as above.
        std::array::from_fn(|i| bf16_to_f32(unsafe { *from.add(i) }))
    }

    unsafe fn store(v: Self, to: *mut f32) {
        // SAFETY: as above.
        (0..LANES).for_each(|i| unsafe { *to.add(i) = v[i] });
    }

    unsafe fn load_i32(from: *const i32) -> Self {
        // SAFETY: as above.
        std::array::from_fn(|i| unsafe { *from.add(i) } as f32)
    }

    unsafe fn add(a: Self, b: Self) -> Self {
        std::array::from_fn(|i| a[i] + b[i])
    }

    unsafe fn mul(a: Self, b: Self) -> Self {
        std::array::from_fn(|i| a[i] * b[i])
    }

    unsafe fn fma(a: Self, b: Self, c: Self) -> Self {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
}

#[cfg(test)]
impl Lanes for [f32; LANES] {
    unsafe fn transpose(rows: [Self; LANES]) -> [Self; LANES] {
        std::array::from_fn(|i| std::array::from_fn(|j| rows[j][i]))
    }

    unsafe fn unpack_q8(from: *const u8, to: *mut u8) {
        // SAFETY: as above.
        (0..64).for_each(|i| unsafe { *to.add(i) = *from.add(i) ^ 128 });
    }

    unsafe fn unpack_q4(from: *const u8, to: *mut u8) {
        for i in 0..64 {
            // SAFETY: as above.
            unsafe {
                let both = *from.add(i);
                *to.add(i) = Q4_VALUES[(both & 15) as usize] as u8;
                *to.add(64 + i) = Q4_VALUES[(both >> 4) as usize] as u8;
            }
        }
    }
}
