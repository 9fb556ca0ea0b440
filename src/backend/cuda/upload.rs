//! Weights on their way to the device: written to pinned memory in the form they have there, and copied while the next piece is
//! written. Small weights share allocations, which the driver would else make 2 MiB large each.

use super::driver::{Device, check};
use super::memory::{Buffer, Event, Pinned};
use crate::error::Result;
use cudarc::driver::sys;
use std::ops::Range;
use std::sync::Arc;

/// Bytes written at a time.
const PIECE_BYTES: usize = 16 << 20;
/// Bytes of an allocation that weights share.
const BLOCK_BYTES: usize = 64 << 20;
/// Weights from this size on have an allocation of their own.
const OWN_BYTES: usize = 8 << 20;
const ALIGNMENT: usize = 256;

/// Device memory of the weights: allocated, never freed one by one.
#[derive(Default)]
pub struct Arena {
    /// Allocations of one weight each.
    large: Vec<Buffer>,
    /// Allocations that weights share; the last one has room.
    blocks: Vec<Buffer>,
    used: usize,
}

impl Arena {
    /// The address of `bytes` bytes for `what`, aligned.
    pub fn alloc(&mut self, device: &Arc<Device>, bytes: usize, what: &str) -> Result<u64> {
        if bytes >= OWN_BYTES {
            self.large.push(Buffer::new(device, bytes, what)?);
            return Ok(self.large[self.large.len() - 1].address);
        }
        let start = self.used.next_multiple_of(ALIGNMENT);
        match self.blocks.last() {
            Some(block) if start + bytes <= block.bytes => {
                self.used = start + bytes;
                Ok(block.address + start as u64)
            }
            _ => {
                // The first is small, so that small models stay small.
                let grown = self.blocks.last().map_or(1 << 20, |last| last.bytes * 4).min(BLOCK_BYTES);
                let block = Buffer::new(device, grown.max(bytes), what)?;
                let address = block.address;
                self.blocks.push(block);
                self.used = bytes;
                Ok(address)
            }
        }
    }
}

/// Copies to the device through two pieces of pinned memory in turns.
pub struct Uploader {
    device: Arc<Device>,
    pieces: [(Pinned, Event); 2],
    turn: usize,
}

impl Uploader {
    pub fn new(device: &Arc<Device>) -> Result<Uploader> {
        let piece = || Ok((Pinned::zeroed(device, PIECE_BYTES, "weights on their way")?, Event::new(device, true)?));
        Ok(Uploader { device: device.clone(), pieces: [piece()?, piece()?], turn: 0 })
    }

    /// Submits `rows` rows of `row_bytes` to `address`, where that much was allocated; `write` fills the bytes of some of them.
    /// What it reads from may be let go when this returns.
    pub fn rows(
        &mut self,
        address: u64,
        rows: usize,
        row_bytes: usize,
        mut write: impl FnMut(Range<usize>, &mut [u8]),
    ) -> Result<()> {
        let step = (PIECE_BYTES / row_bytes.max(1)).max(1);
        for first in (0..rows).step_by(step) {
            let some = first..rows.min(first + step);
            // A row that is longer than a piece is not possible: widths have a limit.
            let bytes = some.len() * row_bytes;
            assert!(bytes <= PIECE_BYTES, "a row of {row_bytes} bytes");
            let (pinned, copied) = &mut self.pieces[self.turn];
            copied.wait()?;
            write(some.clone(), &mut pinned.bytes_mut()[..bytes]);
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
