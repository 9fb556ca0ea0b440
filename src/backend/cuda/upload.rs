//! Weights on their way to the device: written to pinned memory in the form they have there, and copied while the next piece is
//! written. They share an allocation: the driver would make one for each of them 2 MiB large at least.

use super::driver::{Device, check};
use super::memory::{Buffer, Event, Pinned};
use crate::backend::cpu::pool::Pool;
use crate::error::Result;
use crate::os::thread::{ThreadOptions, physical_cores};
use cudarc::driver::sys;
use std::ops::Range;
use std::sync::Arc;

/// Bytes written at a time.
const PIECE_BYTES: usize = 16 << 20;
const ALIGNMENT: usize = 256;

/// Device memory of the weights: allocated, never freed one by one.
///
/// One allocation has room for all of them, so that they take what the plan said and no rest of a block.
pub struct Arena {
    /// Bytes of all weights that are expected.
    expected: u64,
    blocks: Vec<Buffer>,
    /// Of the last block.
    used: usize,
}

impl Arena {
    /// For weights of so many bytes together, each a multiple of the alignment.
    pub fn new(expected: u64) -> Arena {
        Arena { expected, blocks: Vec::new(), used: 0 }
    }

    /// The address of `bytes` bytes for `what`, aligned.
    pub fn alloc(&mut self, device: &Arc<Device>, bytes: usize, what: &str) -> Result<u64> {
        let start = self.used.next_multiple_of(ALIGNMENT);
        match self.blocks.last() {
            Some(block) if start + bytes <= block.bytes => {
                self.used = start + bytes;
                Ok(block.address + start as u64)
            }
            _ => {
                // What was not expected gets memory of its own.
                let expected = usize::try_from(std::mem::take(&mut self.expected)).unwrap_or(usize::MAX);
                let block = Buffer::new(device, expected.max(bytes), what)?;
                let address = block.address;
                self.blocks.push(block);
                self.used = bytes;
                Ok(address)
            }
        }
    }
}

/// Threads that write a piece at most: more than these are no faster than memory.
const THREADS_MAX: usize = 8;
/// Rows are handed to threads in parts of so many bytes at least.
const PART_BYTES: usize = 1 << 20;

/// Copies to the device through two pieces of pinned memory in turns. Several threads write a piece, each some of its rows: one
/// alone is slower than the bus, all the more where it waits for a disk.
pub struct Uploader {
    device: Arc<Device>,
    pieces: [(Pinned, Event); 2],
    turn: usize,
    pool: Pool,
}

/// The piece, for threads that write different rows of it.
struct Piece(*mut u8);

// SAFETY: tasks write disjoint rows.
unsafe impl Sync for Piece {}

impl Piece {
    /// The bytes `range`. A method, so that closures capture the whole `Piece`.
    ///
    /// # Safety
    /// They lie in the piece, and no other task has any of them.
    #[allow(clippy::mut_from_ref, reason = "each task has its own bytes")]
    unsafe fn bytes(&self, range: Range<usize>) -> &mut [u8] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(range.start), range.len()) }
    }
}

impl Uploader {
    pub fn new(device: &Arc<Device>) -> Result<Uploader> {
        let piece = || Ok((Pinned::zeroed(device, PIECE_BYTES, "weights on their way")?, Event::new(device, true)?));
        let threads = physical_cores().min(THREADS_MAX);
        let pool = Pool::new(threads, ThreadOptions::default())?;
        Ok(Uploader { device: device.clone(), pieces: [piece()?, piece()?], turn: 0, pool })
    }

    /// Submits `rows` rows of `row_bytes` to `address`, where that much was allocated; `write` fills the bytes of some of them.
    /// What it reads from may be let go when this returns.
    pub fn rows(
        &mut self,
        address: u64,
        rows: usize,
        row_bytes: usize,
        write: impl Fn(Range<usize>, &mut [u8]) + Sync,
    ) -> Result<()> {
        let step = (PIECE_BYTES / row_bytes.max(1)).max(1);
        for first in (0..rows).step_by(step) {
            let some = first..rows.min(first + step);
            // A row that is longer than a piece is not possible: widths have a limit.
            let bytes = some.len() * row_bytes;
            assert!(bytes <= PIECE_BYTES, "a row of {row_bytes} bytes");
            let (pinned, copied) = &mut self.pieces[self.turn];
            copied.wait()?;
            let piece = Piece(pinned.bytes_mut()[..bytes].as_mut_ptr());
            let part = (PART_BYTES / row_bytes.max(1)).max(1);
            self.pool.run(some.len().div_ceil(part), &|index, _| {
                let rows = index * part..some.len().min((index + 1) * part);
                // SAFETY: rows of the piece, which no other task has.
                let to = unsafe { piece.bytes(rows.start * row_bytes..rows.end * row_bytes) };
                write(first + rows.start..first + rows.end, to);
            });
            let _entered = self.device.enter()?;
            let from = pinned.bytes().as_ptr();
            // SAFETY: both sides have `bytes`; the piece is not written again before its event.
            let answer = unsafe {
                sys::cuMemcpyHtoDAsync_v2(address + (first * row_bytes) as u64, from.cast(), bytes, self.device.stream)
            };
            check(answer, "copy weights to the device")?;
            copied.record()?;
            self.turn = 1 - self.turn;
        }
        Ok(())
    }
}
