//! KV pages of the CPU backend: where keys and values lie, how they are stored and how kernels see them.
//!
//! The layout is this file's own affair: page frames are copied raw ([`Backend::read_page`]). Called by the backend and,
//! through [`PageView`], by the attention kernels.

use super::kernels::{Elements, f32_to_bf16};
use super::memory::Buffer;
use super::*;

/// The pages of one layer: `[frames][layers][K | V][kv_heads][page_tokens][dim]`.
#[derive(Clone, Copy)]
pub struct PageView<'a> {
    /// All frames of the group.
    pub bytes: &'a [u8],
    /// Shape.
    pub shape: KvShape,
    /// Layer.
    pub layer: usize,
}

impl<'a> PageView<'a> {
    /// Keys `[page_tokens, k_dim]` of a head.
    pub fn keys(&self, frame: u32, head: usize) -> Elements<'a> {
        let s = &self.shape;
        self.block(kv_offset(s, self.layer, frame, head, false), s.page_tokens * s.k_dim)
    }

    /// Values `[page_tokens, v_dim]` of a head.
    pub fn values(&self, frame: u32, head: usize) -> Elements<'a> {
        let s = &self.shape;
        self.block(kv_offset(s, self.layer, frame, head, true), s.page_tokens * s.v_dim)
    }

    fn block(&self, offset: usize, elements: usize) -> Elements<'a> {
        let size = self.shape.dtype.size();
        let bytes = &self.bytes[offset * size..(offset + elements) * size];
        Elements::new(bytes, self.shape.dtype).expect("pages are aligned to 64 bytes")
    }
}

/// First element, counted from the group's first, of a head's keys or values in a frame.
pub fn kv_offset(s: &KvShape, layer: usize, frame: u32, head: usize, values: bool) -> usize {
    let per_layer = s.kv_heads * s.page_tokens * (s.k_dim + s.v_dim);
    let start = (frame as usize * s.layers + layer) * per_layer;
    if values {
        start + s.page_tokens * (s.kv_heads * s.k_dim + head * s.v_dim)
    } else {
        start + head * s.page_tokens * s.k_dim
    }
}

/// The pages of one layer group.
pub(super) struct Group {
    /// Shape.
    pub shape: KvShape,
    /// All frames.
    pub buffer: Buffer,
}

impl Group {
    /// The bytes of a frame: all its layers lie together ([`kv_offset`]).
    fn frame(&self, frame: u32, len: usize) -> Result<Range<usize>> {
        let bytes = self.shape.frame_bytes().unwrap_or(0);
        if len != bytes || frame as usize >= self.shape.frames {
            return Err(Error::internal(format!(
                "frame {frame} of {} was asked for with {len} bytes; a frame has {bytes}",
                self.shape.frames
            )));
        }
        let start = frame as usize * bytes;
        Ok(start..start + bytes)
    }
}

impl CpuBackend {
    /// See [`Backend::kv_pages`].
    pub(super) fn make_pages(&mut self, shape: KvShape) -> Result<KvPages> {
        let what = "KV pages";
        if !matches!(shape.dtype, DType::F32 | DType::Bf16 | DType::F16) {
            return Err(Error::unsupported(format!("KV pages of {} are not supported on the CPU", shape.dtype)));
        }
        let bytes = shape.frame_bytes().and_then(|b| b.checked_mul(shape.frames));
        let bytes = bytes.ok_or_else(|| Error::memory(what, u64::MAX))?;
        self.groups.push(Group { shape, buffer: Buffer::zeroed(bytes, what)? });
        Ok(KvPages((self.groups.len() - 1) as u32))
    }

    /// See [`Backend::read_page`].
    pub(super) fn read_frame(&mut self, pages: KvPages, frame: u32, out: &mut [u8]) -> Result<()> {
        let group = &self.groups[pages.0 as usize];
        out.copy_from_slice(&group.buffer.bytes()[group.frame(frame, out.len())?]);
        Ok(())
    }

    /// See [`Backend::write_page`].
    pub(super) fn write_frame(&mut self, pages: KvPages, frame: u32, bytes: &[u8]) -> Result<()> {
        let group = &mut self.groups[pages.0 as usize];
        let range = group.frame(frame, bytes.len())?;
        group.buffer.bytes_mut()[range].copy_from_slice(bytes);
        Ok(())
    }

    /// See [`Backend::store_kv`].
    pub(super) fn store_rows(&mut self, pages: KvPages, layer: usize, k: Heads, v: Heads, ragged: Ragged) {
        let group = &mut self.groups[pages.0 as usize];
        let shape = group.shape;
        let bytes = group.buffer.as_mut_ptr();
        let limit = group.buffer.bytes().len() / shape.dtype.size();
        for (row, (&position, &sequence)) in ragged.positions.iter().zip(ragged.sequences).enumerate() {
            let page = ragged.table_starts[sequence as usize] as usize + position as usize / shape.page_tokens;
            let frame = ragged.tables[page];
            let token = position as usize % shape.page_tokens;
            for (heads, values) in [(k, false), (v, true)] {
                for head in 0..heads.heads {
                    let offset = kv_offset(&shape, layer, frame, head, values) + token * heads.dim;
                    assert!(offset + heads.dim <= limit, "frame {frame} is outside the pages");
                    let from = heads.tensor.at(row * heads.row_stride + head * heads.head_stride);
                    let from = &self.buffers[from.buffer as usize].floats()[from.offset..from.offset + heads.dim];
                    // SAFETY: the offset was just checked, elements are aligned, and no task is running.
                    unsafe { store(from, bytes, offset, shape.dtype) };
                }
            }
        }
    }
}

/// A [`PageView`] without its lifetime, for tasks.
#[derive(Clone, Copy)]
pub(super) struct SendPages(pub *const u8, pub usize, pub usize);

// SAFETY: only read through, while the backend is borrowed by the operation.
unsafe impl Send for SendPages {}
// SAFETY: as above.
unsafe impl Sync for SendPages {}

impl SendPages {
    /// # Safety
    /// The buffer lives and is not written while the view is used.
    pub unsafe fn view<'a>(self, shape: KvShape) -> PageView<'a> {
        // SAFETY: the caller's promise.
        PageView { bytes: unsafe { std::slice::from_raw_parts(self.0, self.1) }, shape, layer: self.2 }
    }
}

/// Writes `from` as `dtype` at element `offset` of `base`.
///
/// # Safety
/// The elements lie inside the allocation, which is aligned for the type and has no other user meanwhile.
unsafe fn store(from: &[f32], base: *mut u8, offset: usize, dtype: DType) {
    // SAFETY: the caller's promise.
    unsafe {
        match dtype {
            DType::F32 => {
                std::slice::from_raw_parts_mut(base.cast::<f32>().add(offset), from.len()).copy_from_slice(from)
            }
            DType::Bf16 => {
                let to = std::slice::from_raw_parts_mut(base.cast::<u16>().add(offset), from.len());
                to.iter_mut().zip(from).for_each(|(t, &f)| *t = f32_to_bf16(f));
            }
            DType::F16 => {
                let to = std::slice::from_raw_parts_mut(base.cast::<u16>().add(offset), from.len());
                to.iter_mut().zip(from).for_each(|(t, &f)| *t = half::f16::from_f32(f).to_bits());
            }
            other => unreachable!("pages of {other} are refused when they are made"),
        }
    }
}
