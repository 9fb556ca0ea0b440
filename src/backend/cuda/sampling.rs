//! Sampling on the device: the upload of requests, the launches, and the download of results.

use super::driver::{Device, check};
use super::kernels::{Shape, arg};
use super::memory::{Buffer, Event, Pinned};
use super::ops::rows_shape;
use super::state::CudaBackend;
use crate::backend::{MaxBatchShape, Tensor, Ticket};
use crate::error::{Error, Result};
use crate::limits;
use crate::sampling::{
    LogitAdjustment, SamplingOutput, SamplingRequest, SamplingRequests, adjustments_max, mask_words,
};
use cudarc::driver::sys;
use std::sync::Arc;

/// Logits per block of the top-k search; must match `kernels/sampling.cu`.
const CHUNK: usize = 4096;
/// Entries per row of `top_ids`.
const TOPS: usize = limits::TOP_LOGPROBS_MAX;
/// Pinned copies for uploads of requests (`UP`) and downloads of results (`DOWN`): the number of steps that may be in
/// flight.
const UP: usize = 3;
const DOWN: usize = 2;

/// Must match `Sampling` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sampling {
    logits: u64,
    stride: i64,
    vocab: i32,
    limit: i32,
    holes: u64,
    masks: u64,
    requests: u64,
    adjustments: u64,
    keys: u64,
    values: u64,
    ids: u64,
    count: i32,
    tops: i32,
    tokens: u64,
    logprobs: u64,
    top_ids: u64,
    top_logprobs: u64,
}

/// Sizes of the device buffers, in bytes.
struct SamplingSizes {
    requests: usize,
    adjustments: usize,
    keys: usize,
    best: usize,
    /// Tokens and their log probabilities, then ids and log probabilities of the most probable tokens.
    results: usize,
    holes: usize,
    masks: usize,
}

impl SamplingSizes {
    fn of(l: &MaxBatchShape) -> SamplingSizes {
        let rows = |bytes: usize| l.logits_rows.saturating_mul(bytes);
        SamplingSizes {
            requests: rows(size_of::<SamplingRequest>()),
            adjustments: adjustments_max(l.vocab).saturating_mul(size_of::<LogitAdjustment>()),
            keys: rows(l.vocab.div_ceil(CHUNK).saturating_mul(limits::BEST_LOGITS_MAX * 8)),
            best: rows(limits::BEST_LOGITS_MAX * 8),
            results: rows(8 + TOPS * 8),
            holes: l.vocab.div_ceil(32) * 4,
            masks: rows(mask_words(l.vocab).saturating_mul(4)),
        }
    }

    fn bytes(&self) -> u64 {
        let all = [self.requests, self.adjustments, self.keys, self.best, self.results, self.holes, self.masks];
        all.into_iter().map(|bytes| bytes as u64).fold(0, u64::saturating_add)
    }
}

/// Bytes of device memory.
pub fn bytes(max_shape: &MaxBatchShape) -> u64 {
    SamplingSizes::of(max_shape).bytes()
}

/// Results being copied to the host.
struct Down {
    pinned: Pinned,
    copied: Event,
    rows: usize,
    tops: bool,
}

/// Device and host memory for sampling.
pub struct SamplingScratch {
    device: Arc<Device>,
    rows_max: usize,
    requests: Buffer,
    adjustments: Buffer,
    keys: Buffer,
    /// `[2, rows, BEST_LOGITS_MAX]` words: logits, then ids.
    best: Buffer,
    results: Buffer,
    holes: Buffer,
    any_holes: bool,
    masks: Buffer,
    limit: usize,
    up: Vec<(Pinned, Event)>,
    turn: usize,
    down: Vec<Down>,
    down_turn: usize,
    /// Rows of the step's requests, and whether any asks for the most probable tokens.
    rows: usize,
    tops: bool,
    /// Whether any row samples from a top-k list, and so needs more than its largest logit.
    lists: bool,
}

impl SamplingScratch {
    pub fn new(device: &Arc<Device>, max_shape: &MaxBatchShape, blocking: bool) -> Result<SamplingScratch> {
        let (s, what) = (SamplingSizes::of(max_shape), "what is sampled of a step");
        let buffer = |bytes: usize| Buffer::zeroed(device, bytes, what);
        let up =
            || Ok((Pinned::zeroed(device, s.requests + s.adjustments + s.masks, what)?, Event::new(device, blocking)?));
        let down = || {
            let (pinned, copied) = (Pinned::zeroed(device, s.results, what)?, Event::new(device, blocking)?);
            Ok(Down { pinned, copied, rows: 0, tops: false })
        };
        Ok(SamplingScratch {
            device: device.clone(),
            rows_max: max_shape.logits_rows,
            requests: buffer(s.requests)?,
            adjustments: buffer(s.adjustments)?,
            keys: buffer(s.keys)?,
            best: buffer(s.best)?,
            results: buffer(s.results)?,
            holes: buffer(s.holes)?,
            any_holes: false,
            masks: buffer(s.masks)?,
            limit: max_shape.vocab,
            up: (0..UP).map(|_| up()).collect::<Result<_>>()?,
            turn: 0,
            down: (0..DOWN).map(|_| down()).collect::<Result<_>>()?,
            down_turn: 0,
            rows: 0,
            tops: false,
            lists: false,
        })
    }

    /// See [`crate::backend::Sampling::set_vocabulary_mask`].
    pub fn set_vocabulary_mask(&mut self, limit: usize, holes: &[u32]) -> Result<()> {
        self.limit = limit;
        self.any_holes = !holes.is_empty();
        let mut bits = crate::error::filled("the tokens that may be sampled", self.holes.bytes / 4, 0u32)?;
        for &hole in holes {
            if let Some(word) = bits.get_mut(hole as usize / 32) {
                *word |= 1 << (hole % 32);
            }
        }
        let bytes: Vec<u8> = bits.iter().flat_map(|w| w.to_ne_bytes()).collect();
        self.holes.write(0, &bytes)
    }

    /// Device address of the tokens that the last step sampled.
    pub fn tokens(&self) -> u64 {
        self.results.address
    }

    /// Number of rows of the step's requests.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether any row of the step samples from a list of its largest logits, on which its launches depend.
    pub fn needs_lists(&self) -> bool {
        self.lists
    }

    /// Submits the upload of the step's requests.
    pub fn upload(&mut self, requests: &SamplingRequests) -> Result<()> {
        let (rows, adjustments, masks) = (requests.rows.len(), requests.adjustments.len(), requests.masks.len());
        let fits =
            adjustments * size_of::<LogitAdjustment>() <= self.adjustments.bytes && masks * 4 <= self.masks.bytes;
        if rows > self.rows_max || !fits {
            let message =
                format!("{rows} requests with {adjustments} changes of logits and {masks} words of masks are too many");
            return Err(Error::internal(message));
        }
        self.rows = rows;
        self.tops = requests.rows.iter().any(|d| d.logprobs > 0);
        self.lists = requests.rows.iter().any(|d| d.temperature > 0.0 && d.top_k > 0);
        self.turn = (self.turn + 1) % self.up.len();
        let (pinned, copied) = &mut self.up[self.turn];
        copied.wait()?;
        let (second, third) = (self.requests.bytes, self.requests.bytes + self.adjustments.bytes);
        let parts = [
            (&self.requests, 0, as_bytes(&requests.rows)),
            (&self.adjustments, second, as_bytes(&requests.adjustments)),
            (&self.masks, third, as_bytes(&requests.masks)),
        ];
        let _entered = self.device.enter()?;
        for (to, at, bytes) in parts {
            if bytes.is_empty() {
                continue;
            }
            pinned.bytes_mut()[at..at + bytes.len()].copy_from_slice(bytes);
            let from = pinned.bytes()[at..].as_ptr();
            // SAFETY: both sides have that many bytes; the pinned ones are not written before the event recorded after
            // the copy.
            let answer = unsafe { sys::cuMemcpyHtoDAsync_v2(to.address, from.cast(), bytes.len(), self.device.stream) };
            check(answer, "copy a step's requests")?;
        }
        copied.record()
    }

    /// Submits the download of `rows` rows of results. The ticket is for [`SamplingScratch::take`].
    pub fn copy_out(&mut self, rows: usize) -> (Ticket, Result<()>) {
        self.down_turn = (self.down_turn + 1) % self.down.len();
        let ticket = Ticket(self.down_turn as u32);
        let (rows_max, tops) = (self.rows_max, self.tops);
        let down = &mut self.down[self.down_turn];
        (down.rows, down.tops) = (rows, tops);
        // Tokens and their log probabilities are adjacent. The other two arrays begin at fixed offsets, those of the
        // largest step.
        let parts = [(0, rows_max * 8), (8, rows * TOPS * 4), (8 + TOPS * 4, rows * TOPS * 4)];
        let parts = match (rows, tops) {
            (0, _) => &parts[..0],
            (_, false) => &parts[..1],
            (_, true) => &parts[..],
        };
        let mut submit = || {
            let _entered = self.device.enter()?;
            for (row_bytes, bytes) in parts {
                let at = row_bytes * rows_max;
                let to = down.pinned.bytes_mut()[at..at + bytes].as_mut_ptr();
                let from = self.results.address + at as u64;
                // SAFETY: both sides have the size of all results; the host reads after the event.
                let answer = unsafe { sys::cuMemcpyDtoHAsync_v2(to.cast(), from, *bytes, self.device.stream) };
                check(answer, "copy sampled tokens")?;
            }
            // Also if nothing was sampled: waiting for the ticket waits for the step.
            down.copied.record()
        };
        (ticket, submit())
    }

    /// Waits for the results of a ticket and copies them out.
    pub fn take(&mut self, ticket: Ticket, to: &mut SamplingOutput) -> Result<()> {
        let rows_max = self.rows_max;
        let down = &mut self.down[ticket.0 as usize];
        down.copied.wait()?;
        let words = down.pinned.words();
        let part = |row_words: usize, count: usize| &words[row_words * rows_max..row_words * rows_max + count];
        let floats = |to: &mut Vec<f32>, from: &[u32]| {
            to.clear();
            to.extend(from.iter().map(|&bits| f32::from_bits(bits)));
        };
        to.tokens.clear();
        to.tokens.extend_from_slice(part(0, down.rows));
        floats(&mut to.logprobs, part(1, down.rows));
        let tops = if down.tops { down.rows * TOPS } else { 0 };
        to.top_tokens.clear();
        to.top_tokens.extend_from_slice(part(2, tops));
        floats(&mut to.top_logprobs, part(2 + TOPS, tops));
        Ok(())
    }

    /// The parameters of a search for the `count` largest logits of each row; checks the buffers' sizes.
    fn search(&self, logits: u64, rows: usize, stride: usize, limit: usize, count: usize) -> Sampling {
        assert!(rows <= self.rows_max && (1..=limits::BEST_LOGITS_MAX).contains(&count), "{rows} rows of {count}");
        assert!(rows * limit.div_ceil(CHUNK) * count * 8 <= self.keys.bytes, "{rows} rows of {limit} logits");
        Sampling {
            logits,
            stride: stride as i64,
            vocab: stride as i32,
            limit: limit as i32,
            keys: self.keys.address,
            values: self.best.address,
            ids: self.best.address + (rows * count * 4) as u64,
            count: count as i32,
            ..Sampling::default()
        }
    }
}

impl CudaBackend {
    /// See [`crate::backend::Sampling::sample`].
    pub(super) fn sample_rows(&mut self, logits: Tensor, rows: usize, vocab: usize) {
        let logits = self.place(logits, rows * vocab);
        let d = &self.scratch().sampling;
        assert!(rows == d.rows, "{rows} rows of logits for {} requests", d.rows);
        let count = if d.lists { limits::BEST_LOGITS_MAX } else { 1 };
        let at = |row_bytes: usize| d.results.address + (row_bytes * d.rows_max) as u64;
        let args = Sampling {
            holes: if d.any_holes { d.holes.address } else { 0 },
            masks: d.masks.address,
            requests: d.requests.address,
            adjustments: d.adjustments.address,
            tops: TOPS as i32,
            tokens: at(0),
            logprobs: at(4),
            top_ids: at(8),
            top_logprobs: at(8 + TOPS * 4),
            ..d.search(logits, rows, vocab, d.limit.min(vocab), count)
        };
        let k = &self.kernels;
        let chunks = Shape { grid: [(args.limit as usize).div_ceil(CHUNK), rows, 1], ..rows_shape(rows) };
        let wide = Shape { block: 512, ..rows_shape(rows) };
        let launches = [
            (k.adjust_logits, rows_shape(rows)),
            (k.best_in_chunks, chunks),
            (k.best_of_chunks, rows_shape(rows)),
            (k.sample_rows, wide),
            (k.logprob_rows, wide),
        ];
        for (function, shape) in launches {
            // SAFETY: the one parameter of these kernels; all it names has room for these rows, as was checked.
            unsafe { self.submit(function, shape, &mut [arg(&args)]) };
        }
    }
}

fn as_bytes<T: Copy>(values: &[T]) -> &[u8] {
    // SAFETY: plain numbers without padding, looked at as bytes.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The structures have the sizes that the kernels expect, and no padding.
    #[test]
    fn structures_are_those_of_the_kernels() {
        assert_eq!((size_of::<SamplingRequest>(), size_of::<LogitAdjustment>(), size_of::<Sampling>()), (72, 20, 120));
    }
}
