//! The upload of weights: written to pinned memory in their device layout, one piece while the previous one is being
//! copied. They share one allocation, because each of the driver's takes at least 2 MiB.

use super::driver::{Device, check};
use super::memory::{Buffer, Event, Pinned};
use crate::error::Result;
use crate::os::pool::Pool;
use crate::os::thread::{ThreadOptions, physical_cores};
use cudarc::driver::sys;
use std::ops::Range;
use std::sync::Arc;

/// Bytes per piece.
const PIECE_BYTES: usize = 16 << 20;
const ALIGNMENT: usize = 256;

/// Device memory for weights; they are freed all together. One allocation of the planned size holds all of them,
/// without waste between them.
pub struct Arena {
    /// Total bytes of the weights to come; 0 once the block for them is allocated.
    expected: u64,
    blocks: Vec<Buffer>,
    /// Bytes used of the last block.
    used: usize,
}

impl Arena {
    /// For weights of `expected` bytes in total, each a multiple of the alignment.
    pub fn new(expected: u64) -> Arena {
        Arena { expected, blocks: Vec::new(), used: 0 }
    }

    /// Allocates `bytes` bytes, aligned; `what` names the purpose in errors.
    pub fn alloc(&mut self, device: &Arc<Device>, bytes: usize, what: &str) -> Result<u64> {
        let start = self.used.next_multiple_of(ALIGNMENT);
        match self.blocks.last() {
            Some(block) if start + bytes <= block.bytes => {
                self.used = start + bytes;
                Ok(block.address + start as u64)
            }
            _ => {
                // Weights beyond the expected total get blocks of their own.
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

/// Maximum threads that write a piece; more are no faster, being bound by memory.
const THREADS_MAX: usize = 8;
/// Minimum bytes per task of a thread.
const PART_BYTES: usize = 1 << 20;

/// Copies to the device through two pinned pieces in turns. Several threads write a piece, each some of its rows: a
/// single thread is slower than the bus, especially if it waits for a disk.
pub struct Uploader {
    device: Arc<Device>,
    pieces: [(Pinned, Event); 2],
    turn: usize,
    pool: Pool,
}

impl Uploader {
    pub fn new(device: &Arc<Device>) -> Result<Uploader> {
        let piece = || Ok((Pinned::zeroed(device, PIECE_BYTES, "weights on their way")?, Event::new(device, true)?));
        let threads = physical_cores().min(THREADS_MAX);
        let pool = Pool::new(threads, ThreadOptions::default())?;
        Ok(Uploader { device: device.clone(), pieces: [piece()?, piece()?], turn: 0, pool })
    }

    /// Uploads `rows` rows of `row_bytes` bytes to `address`, where that much was allocated; `write` writes a range of
    /// rows to a buffer. When this returns, the source is not needed any more, but the last copies may be in flight.
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
            // No row is longer than a piece: widths are limited.
            let bytes = some.len() * row_bytes;
            assert!(bytes <= PIECE_BYTES, "a row of {row_bytes} bytes");
            let (pinned, copied) = &mut self.pieces[self.turn];
            copied.wait()?;
            let part = (PART_BYTES / row_bytes.max(1)).max(1);
            self.pool.run_parts(&mut pinned.bytes_mut()[..bytes], (part * row_bytes).max(1), &|index, to, _| {
                let rows = index * part..some.len().min((index + 1) * part);
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
