//! AMX, the tile unit of Intel's server processors since Sapphire Rapids: products of bf16 weights, and those of quantized
//! ones with many rows. Everything else runs the AVX-512 functions, which every processor with tiles has.
//!
//! The kernel must permit a process to use tiles ([`permit`]); this is asked for when an engine opens on this tier, and can
//! be avoided by choosing another one.

mod bf16;
mod int8;
mod lanes;
#[cfg(test)]
mod tests;
mod tiles;

use super::kernels::{Elements, Kernels};
use super::linear::{Input, LinearArgs, Matrix};
use super::{Tier, avx512};
use crate::os::tiles as system;
use lanes::{LANES, Lanes};
use std::arch::x86_64::*;
use std::io;
use std::ops::Range;
use tiles::Hardware;

/// The AMX tier.
pub static KERNELS: Kernels = Kernels { tier: Tier::Amx, to_bf16, linear, ..avx512::TABLE };

/// Whether this processor has the tier's instructions, and the system keeps its registers. Changes nothing.
pub fn present() -> bool {
    /// Feature bits of leaf 7, in edx: AMX-BF16, AMX-TILE and AMX-INT8.
    const FEATURES: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    /// State bits that the system has enabled: tile configuration and data.
    const STATE: u64 = 1 << 17 | 1 << 18;
    // SAFETY: a processor with AVX-512 has XGETBV, and the system lets programs use it.
    avx512::present()
        && __cpuid_count(7, 0).edx & FEATURES == FEATURES
        && unsafe { _xgetbv(0) } & STATE == STATE
        && system::known()
}

/// Asks the system to let this process use tiles.
pub fn permit() -> io::Result<()> {
    system::permit()
}

/// # Safety
/// See [`Kernels::to_bf16`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
unsafe fn to_bf16(x: &[f32], row: usize, out: *mut u16) {
    // SAFETY: same contract.
    unsafe { bf16::arrange(x, row, out) };
}

/// # Safety
/// See [`Kernels::linear`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx2,fma")]
unsafe fn linear(args: &LinearArgs, range: Range<usize>, scratch: &mut Vec<f32>) {
    // SAFETY: same contract; a backend on this tier was permitted to use tiles.
    unsafe {
        match (args.weight, args.x) {
            (Matrix::Stored(Elements::Bf16(w)), Input::Bf16(x)) => {
                bf16::product::<Hardware, __m512>(args, w, x, range, scratch)
            }
            (Matrix::Panels(scheme, bytes), Input::Int8(x)) if args.rows >= int8::ROWS_MIN => {
                int8::product::<Hardware, __m512>(args, scheme, bytes, x, range, scratch)
            }
            _ => (avx512::TABLE.linear)(args, range, scratch),
        }
    }
}

/// `bytes` bytes of the scratch, aligned to 64.
#[inline(always)]
fn aligned(scratch: &mut Vec<f32>, bytes: usize) -> &mut [u8] {
    scratch.resize(scratch.len().max((bytes + 64).div_ceil(4)), 0.0);
    let start = scratch.as_ptr().addr().next_multiple_of(64) - scratch.as_ptr().addr();
    // SAFETY: the vector has 64 bytes more than asked for; every byte is initialised, and any is a valid f32.
    unsafe { std::slice::from_raw_parts_mut(scratch.as_mut_ptr().cast::<u8>().add(start), bytes) }
}

/// What comes next from memory.
struct Ahead {
    next: *const u8,
    /// Cache lines for each step.
    lines: usize,
}

impl Ahead {
    /// Brings a step's lines into the second-level cache.
    #[inline(always)]
    fn step(&mut self) {
        for _ in 0..self.lines {
            // SAFETY: a prefetch may be of any address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.next.cast()) };
            self.next = self.next.wrapping_add(64);
        }
    }
}

/// Writes the results of a row from output `out_features.start` on: sixteen, as far as they are below `out_features.end`.
///
/// # Safety
/// As [`LinearArgs::put_all`].
#[inline(always)]
unsafe fn put<L: Lanes>(args: &LinearArgs, row: usize, out_features: Range<usize>, values: L) {
    // SAFETY: the caller's promise; the fast path writes sixteen outputs that exist.
    unsafe {
        if out_features.len() >= LANES && args.bias.is_none() {
            let place = args.out.add(row * args.out_stride + out_features.start);
            let values = if args.accumulate { L::load(place).add(values) } else { values };
            values.store(place);
        } else {
            let mut all = [0.0; LANES];
            values.store(all.as_mut_ptr());
            args.put_all(row, out_features.start, out_features.end, &all);
        }
    }
}
