//! The AMX tier, with the tile unit of Intel server processors since Sapphire Rapids: products of bf16 weights, and of
//! quantized weights with many rows. Everything else runs the AVX-512 functions, supported by every processor with AMX.
//!
//! The operating system must permit a process to use tiles ([`permit`]); the permission is requested when an engine
//! opens on this tier. Choosing another tier avoids the request.

mod bf16;
mod int8;
mod lanes;
#[cfg(test)]
mod tests;
mod tiles;

use super::kernels::{Elements, Kernels, with_features};
use super::linear::{Input, LinearArgs, Matrix, aligned};
use super::{Tier, avx512};
use crate::os::tiles as system;
use std::arch::x86_64::*;
use std::io;
use std::ops::Range;
use tiles::Hardware;

/// The AMX tier.
pub static KERNELS: Kernels = Kernels { tier: Tier::Amx, to_bf16, linear, ..avx512::TABLE };

/// Whether the processor supports the tier and the system saves the tile registers. Has no side effects.
pub fn present() -> bool {
    /// Feature bits of CPUID leaf 7, in edx: AMX-BF16, AMX-TILE and AMX-INT8.
    const FEATURES: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    /// Register state bits enabled by the system (XCR0): tile configuration and tile data.
    const STATE: u64 = 1 << 17 | 1 << 18;
    // SAFETY: a processor with AVX-512 has XGETBV, and the system lets programs use it.
    avx512::present()
        && __cpuid_count(7, 0).edx & FEATURES == FEATURES
        && unsafe { _xgetbv(0) } & STATE == STATE
        && system::known()
}

/// Requests the system's permission to use tiles in this process; an error if it is refused.
pub fn permit() -> io::Result<()> {
    system::permit()
}

with_features! { "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx2,fma";
    fn to_bf16(x: &[f32], row: usize, out: *mut u16) { bf16::arrange(x, row, out) }

    // Opening a backend on this tier obtained the permission to use tiles.
    fn linear(args: &LinearArgs, range: Range<usize>, scratch: &mut Vec<f32>) {
        match (args.weight, args.x) {
            (Matrix::Stored(Elements::Bf16(w)), Input::Bf16(x)) => {
                bf16::product::<Hardware, __m512>(args, bf16::Stored(w, args.in_features), x, range, scratch)
            }
            (Matrix::F8(rows), Input::Bf16(x)) => bf16::product::<Hardware, __m512>(args, rows, x, range, scratch),
            (Matrix::Panels(scheme, bytes), Input::Int8(x)) if args.rows >= int8::ROWS_MIN => {
                int8::panels::<Hardware, __m512>(args, scheme, bytes, x, range, scratch)
            }
            (Matrix::Blocks(format, bytes), Input::Int8(x)) if args.rows >= int8::ROWS_MIN => {
                int8::blocks::<Hardware, __m512, __m512>(args, (format, bytes), x, range, scratch)
            }
            _ => (avx512::TABLE.linear)(args, range, scratch),
        }
    }
}

/// Prefetch of the weights that are read next.
struct Ahead {
    next: *const u8,
    /// Cache lines per step.
    lines: usize,
}

impl Ahead {
    /// Prefetches the lines of one step into the second-level cache.
    #[inline(always)]
    fn step(&mut self) {
        for _ in 0..self.lines {
            // SAFETY: a prefetch accepts any address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.next.cast()) };
            self.next = self.next.wrapping_add(64);
        }
    }
}
