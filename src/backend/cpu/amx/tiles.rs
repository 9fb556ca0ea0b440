//! The tile unit: eight registers of up to 16 rows of 64 bytes, and the products of two of them.
//!
//! Products are written once over [`Tiles`], which has exactly the operations they need. [`Hardware`] is one instruction for
//! each; `Emulated`, which tests use, computes what Intel's manual says they do, so that the logic around them is tested on
//! machines without them.
//!
//! A value of the trait is one configuration: tiles have their shapes from [`Tiles::configure`] on, and the unit is released
//! when the value is dropped, also by a panic. A thread has one at a time. Tiles are not declared to the compiler, which
//! uses none of its own accord: nothing else may touch them in between.

use std::arch::asm;

/// Most rows of a tile.
pub const ROWS: usize = 16;
/// Most bytes of a row.
pub const ROW: usize = 64;
/// Tiles of the unit.
const COUNT: usize = 8;

/// Rows of a tile and bytes of each; a tile that is not used has none.
#[derive(Clone, Copy, Default)]
pub struct Shape {
    /// At most [`ROWS`].
    pub rows: usize,
    /// At most [`ROW`], a multiple of 4.
    pub bytes: usize,
}

impl Shape {
    /// The whole register.
    pub const WHOLE: Shape = Shape { rows: ROWS, bytes: ROW };
}

/// A configured tile unit. Tiles are numbered 0 to 7.
pub trait Tiles {
    /// Gives the tiles their shapes; they are zero.
    ///
    /// # Safety
    /// The unit exists, the process may use it, and this thread has not configured it.
    unsafe fn configure(shapes: [Shape; COUNT]) -> Self;

    /// Sets a tile to zero.
    fn zero<const C: usize>(&mut self);

    /// Reads a tile whose rows are `stride` bytes apart.
    ///
    /// # Safety
    /// The rows of the tile's shape may be read.
    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize);

    /// Writes a tile, rows [`ROW`] bytes apart.
    ///
    /// # Safety
    /// The rows of the tile's shape may be written.
    unsafe fn store<const T: usize>(&mut self, to: *mut u8);

    /// `c[m][n] += a[m] . b[n]` with a `[m][k]` bf16, b `[k / 2][n][2]` bf16, c `[m][n]` f32. The even and the odd elements
    /// are summed apart, in ascending order and with one rounding for a product and its sum; then both sums are added, and
    /// their sum to c. Subnormal numbers are zero. An element depends on one row of a, one column of b and itself.
    fn dot_bf16<const C: usize, const A: usize, const B: usize>(&mut self);

    /// `c[m][n] += a[m] . b[n]` with a `[m][k]` i8, b `[k / 4][n][4]` i8, c `[m][n]` i32.
    fn dot_int8<const C: usize, const A: usize, const B: usize>(&mut self);
}

/// The unit of this processor.
pub struct Hardware(());

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

const _: () = assert!(size_of::<Config>() == 64);

// Every block of assembly may read and write memory as far as the compiler knows, so none moves across another, nor across
// the writes that prepare what a tile reads.
impl Tiles for Hardware {
    #[inline(always)]
    unsafe fn configure(shapes: [Shape; COUNT]) -> Hardware {
        let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], bytes: [0; 16], rows: [0; 16] };
        for (t, shape) in shapes.into_iter().enumerate() {
            (config.bytes[t], config.rows[t]) = (shape.bytes as u16, shape.rows as u8);
        }
        // SAFETY: 64 bytes are read; the unit may be used, by the caller's promise.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, preserves_flags)) };
        Hardware(())
    }

    #[inline(always)]
    fn zero<const C: usize>(&mut self) {
        // SAFETY: the unit is configured.
        unsafe { asm!("tilezero tmm{}", const C, options(nostack, preserves_flags)) };
    }

    #[inline(always)]
    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize) {
        // SAFETY: the unit is configured, and the rows may be read, by the caller's promise.
        unsafe {
            asm!("tileloadd tmm{}, [{} + {}*1]", const T, in(reg) from, in(reg) stride, options(nostack, preserves_flags))
        };
    }

    #[inline(always)]
    unsafe fn store<const T: usize>(&mut self, to: *mut u8) {
        // SAFETY: the unit is configured, and the rows may be written, by the caller's promise.
        unsafe {
            asm!("tilestored [{} + {}*1], tmm{}", in(reg) to, in(reg) ROW, const T, options(nostack, preserves_flags))
        };
    }

    #[inline(always)]
    fn dot_bf16<const C: usize, const A: usize, const B: usize>(&mut self) {
        // SAFETY: the unit is configured.
        unsafe { asm!("tdpbf16ps tmm{}, tmm{}, tmm{}", const C, const A, const B, options(nostack, preserves_flags)) };
    }

    #[inline(always)]
    fn dot_int8<const C: usize, const A: usize, const B: usize>(&mut self) {
        // SAFETY: the unit is configured.
        unsafe { asm!("tdpbssd tmm{}, tmm{}, tmm{}", const C, const A, const B, options(nostack, preserves_flags)) };
    }
}

impl Drop for Hardware {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the unit is configured.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags)) };
    }
}

#[cfg(test)]
pub use emulated::Emulated;

#[cfg(test)]
mod emulated {
    use super::{COUNT, ROW, ROWS, Shape, Tiles};
    use crate::backend::cpu::kernels::bf16_to_f32;

    #[derive(Clone, Copy)]
    struct Tile {
        shape: Shape,
        bytes: [[u8; ROW]; ROWS],
    }

    /// The unit as Intel's Software Developer's Manual describes it, operation by operation. It also checks what would be a
    /// fault: tiles without a shape, and shapes that do not fit each other.
    pub struct Emulated([Tile; COUNT]);

    impl Tile {
        fn word(&self, row: usize, column: usize) -> [u8; 4] {
            std::array::from_fn(|i| self.bytes[row][column * 4 + i])
        }

        fn bf16(&self, row: usize, i: usize) -> f32 {
            flush(bf16_to_f32(u16::from_le_bytes([self.bytes[row][i * 2], self.bytes[row][i * 2 + 1]])))
        }
    }

    fn flush(value: f32) -> f32 {
        if value.is_subnormal() { 0f32.copysign(value) } else { value }
    }

    fn check(c: &Tile, a: &Tile, b: &Tile) {
        for tile in [c, a, b] {
            assert!(tile.shape.rows > 0 && tile.shape.bytes > 0, "a tile that was not configured");
        }
        assert_eq!(c.shape.rows, a.shape.rows);
        assert_eq!(c.shape.bytes, b.shape.bytes);
        assert_eq!(a.shape.bytes, b.shape.rows * 4);
    }

    impl Tiles for Emulated {
        unsafe fn configure(shapes: [Shape; COUNT]) -> Emulated {
            for shape in shapes {
                assert!(shape.rows <= ROWS && shape.bytes <= ROW && shape.bytes % 4 == 0);
                assert_eq!(shape.rows == 0, shape.bytes == 0, "the instruction refuses a shape that is half empty");
            }
            Emulated(shapes.map(|shape| Tile { shape, bytes: [[0; ROW]; ROWS] }))
        }

        fn zero<const C: usize>(&mut self) {
            assert!(self.0[C].shape.rows > 0, "a tile that was not configured");
            self.0[C].bytes = [[0; ROW]; ROWS];
        }

        unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize) {
            let tile = &mut self.0[T];
            assert!(tile.shape.rows > 0, "a tile that was not configured");
            tile.bytes = [[0; ROW]; ROWS];
            for row in 0..tile.shape.rows {
                // SAFETY: the caller's promise.
                let from = unsafe { std::slice::from_raw_parts(from.add(row * stride), tile.shape.bytes) };
                tile.bytes[row][..tile.shape.bytes].copy_from_slice(from);
            }
        }

        unsafe fn store<const T: usize>(&mut self, to: *mut u8) {
            let tile = &self.0[T];
            for row in 0..tile.shape.rows {
                // SAFETY: the caller's promise.
                let to = unsafe { std::slice::from_raw_parts_mut(to.add(row * ROW), tile.shape.bytes) };
                to.copy_from_slice(&tile.bytes[row][..tile.shape.bytes]);
            }
        }

        fn dot_bf16<const C: usize, const A: usize, const B: usize>(&mut self) {
            let (a, b) = (self.0[A], self.0[B]);
            let c = &mut self.0[C];
            check(c, &a, &b);
            for m in 0..c.shape.rows {
                for n in 0..c.shape.bytes / 4 {
                    let mut sums = [0f32; 2];
                    for k in 0..a.shape.bytes / 4 {
                        for (half, sum) in sums.iter_mut().enumerate() {
                            *sum = flush(a.bf16(m, 2 * k + half).mul_add(b.bf16(k, 2 * n + half), *sum));
                        }
                    }
                    let sum = flush(flush(f32::from_le_bytes(c.word(m, n))) + flush(sums[0] + sums[1]));
                    c.bytes[m][n * 4..n * 4 + 4].copy_from_slice(&sum.to_le_bytes());
                }
            }
        }

        fn dot_int8<const C: usize, const A: usize, const B: usize>(&mut self) {
            let (a, b) = (self.0[A], self.0[B]);
            let c = &mut self.0[C];
            check(c, &a, &b);
            for m in 0..c.shape.rows {
                for n in 0..c.shape.bytes / 4 {
                    let mut sum = i32::from_le_bytes(c.word(m, n));
                    for k in 0..a.shape.bytes / 4 {
                        for (a, b) in a.word(m, k).into_iter().zip(b.word(k, n)) {
                            sum = sum.wrapping_add(a as i8 as i32 * b as i8 as i32);
                        }
                    }
                    c.bytes[m][n * 4..n * 4 + 4].copy_from_slice(&sum.to_le_bytes());
                }
            }
        }
    }
}
