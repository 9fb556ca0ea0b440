//! The tile unit: eight registers of up to 16 rows of 64 bytes, and the product of two of them.
//!
//! Matrix products are written once over [`Tiles`], which has exactly the operations they need. [`Hardware`] executes
//! one instruction per operation; `Emulated`, used in tests, computes what Intel's manual specifies, so that the
//! surrounding code is tested on machines without AMX.
//!
//! A value of the trait is one configuration of the unit: tiles have their shapes from [`Tiles::configure`] on, and the
//! unit is released when the value is dropped, also during a panic. A thread may have only one at a time. The compiler
//! does not know which tiles the assembly uses; it never uses tiles itself, and no other code may use them while the
//! value lives.

use std::arch::asm;

/// Most rows of a tile.
pub const ROWS: usize = 16;
/// Most bytes of a row.
pub const ROW: usize = 64;
/// Number of tiles.
const COUNT: usize = 8;

/// Rows of a tile and bytes per row; both are 0 for an unused tile.
#[derive(Clone, Copy, Default)]
pub struct Shape {
    /// At most [`ROWS`].
    pub rows: usize,
    /// At most [`ROW`], a multiple of 4.
    pub bytes: usize,
}

impl Shape {
    /// All rows and bytes of a register.
    pub const WHOLE: Shape = Shape { rows: ROWS, bytes: ROW };
}

/// A configured tile unit. Tiles are numbered 0 to 7.
pub trait Tiles {
    /// Configures the shapes of the tiles and sets all tiles to zero.
    ///
    /// # Safety
    /// The processor supports AMX, the process may use it, and this thread has no other configuration.
    unsafe fn configure(shapes: [Shape; COUNT]) -> Self;

    /// Sets a tile to zero.
    fn zero<const C: usize>(&mut self);

    /// Loads a tile whose rows are `stride` bytes apart in memory.
    ///
    /// # Safety
    /// The rows of the tile's shape may be read.
    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize);

    /// Stores a tile with rows [`ROW`] bytes apart.
    ///
    /// # Safety
    /// The rows of the tile's shape may be written.
    unsafe fn store<const T: usize>(&mut self, to: *mut u8);

    /// `c[m][n] += a[m] . b[n]` with a `[m][k]` bf16, b `[k / 2][n][2]` bf16, c `[m][n]` f32. Products of even and of
    /// odd elements are accumulated separately, in ascending order with fused multiply-add; then both sums are added,
    /// and the result is added to c. Subnormal numbers count as zero. An element depends only on one row of a, one
    /// column of b and its own old value.
    fn dot_bf16<const C: usize, const A: usize, const B: usize>(&mut self);

    /// `c[m][n] += a[m] . b[n]` with a `[m][k]` i8, b `[k / 4][n][4]` i8, c `[m][n]` i32.
    fn dot_int8<const C: usize, const A: usize, const B: usize>(&mut self);
}

/// The tile unit of this processor.
pub struct Hardware(());

/// Operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

const _: () = assert!(size_of::<Config>() == 64);

// To the compiler, every assembly block may read and write any memory, so it does not reorder them among each other,
// nor with the writes that prepare the memory that a tile is loaded from.
impl Tiles for Hardware {
    #[inline(always)]
    unsafe fn configure(shapes: [Shape; COUNT]) -> Hardware {
        let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], bytes: [0; 16], rows: [0; 16] };
        for (t, shape) in shapes.into_iter().enumerate() {
            (config.bytes[t], config.rows[t]) = (shape.bytes as u16, shape.rows as u8);
        }
        // SAFETY: 64 bytes are read; the process may use the unit, as the caller guarantees.
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
        // SAFETY: the unit is configured, and the rows may be read, as the caller guarantees.
        unsafe {
            asm!("tileloadd tmm{}, [{} + {}*1]", const T, in(reg) from, in(reg) stride, options(nostack, preserves_flags))
        };
    }

    #[inline(always)]
    unsafe fn store<const T: usize>(&mut self, to: *mut u8) {
        // SAFETY: the unit is configured, and the rows may be written, as the caller guarantees.
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

    /// The unit as specified in Intel's Software Developer's Manual. Also checks for what would fault: tiles without a
    /// shape, and operands whose shapes do not match.
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
                // SAFETY: guaranteed by the caller.
                let from = unsafe { std::slice::from_raw_parts(from.add(row * stride), tile.shape.bytes) };
                tile.bytes[row][..tile.shape.bytes].copy_from_slice(from);
            }
        }

        unsafe fn store<const T: usize>(&mut self, to: *mut u8) {
            let tile = &self.0[T];
            for row in 0..tile.shape.rows {
                // SAFETY: guaranteed by the caller.
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
