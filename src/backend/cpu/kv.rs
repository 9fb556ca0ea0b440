//! KV pages of the CPU backend: memory layout, storing keys and values, and views for the attention kernels.
//!
//! A frame is `[layers][kv_heads]` of head blocks, each `[K | V]` and, for 8-bit pages, `[K scales | V scales]` with
//! one f32 per token. Of latent pages values are the beginnings of keys: there is `[K]`, and `[K scales]`. The layout of
//! elements within K and V is chosen by the tier ([`PageLayout`]);
//! [`Cache::read_page`] copies page frames as raw bytes.

#![allow(clippy::needless_range_loop, reason = "indices that are constant once unrolled keep sums in registers")]

use super::kernels::{Elements, bf16_to_f32, f32_to_bf16};
use super::memory::Buffer;
use super::*;
use crate::dtype::DType;

/// Tokens per group in [`PageLayout::Lanes`]: the number of 32-bit lanes of the widest register.
pub const GROUP: usize = 16;
/// Largest `k_dim` of 8-bit [`PageLayout::Lanes`] pages: 512 products of at most 127 * 32,767 fit an i32.
const LANES_I8_DIM_MAX: usize = 512;

/// Layout of the elements of a head within a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageLayout {
    /// `[tokens][dim]`, for keys and values alike.
    Rows,
    /// Keys `[tokens / 16][k_dim / 2][16 tokens][2]`, values `[tokens / 2][v_dim][2 tokens]`. The lanes of a register
    /// are different tokens when scores are computed, and different elements when values are added, so that no sum
    /// crosses lanes.
    Lanes,
}

impl PageLayout {
    /// [`PageLayout::Lanes`] if the shape allows it, otherwise [`PageLayout::Rows`].
    pub fn lanes_where_possible(s: &KvShape) -> PageLayout {
        let type_fits = match s.dtype {
            DType::Bf16 => true,
            DType::I8 => s.k_dim <= LANES_I8_DIM_MAX,
            _ => false,
        };
        let fits = !s.latent()
            && s.page_tokens.is_multiple_of(GROUP)
            && s.k_dim.is_multiple_of(2)
            && s.v_dim.is_multiple_of(16);
        if type_fits && fits { PageLayout::Lanes } else { PageLayout::Rows }
    }
}

/// Read access to the pages of one layer.
#[derive(Clone, Copy)]
pub struct PageView<'a> {
    /// All frames of the layer group.
    pub bytes: &'a [u8],
    /// Shape of the pages.
    pub shape: KvShape,
    /// Layout of elements within a head block.
    pub layout: PageLayout,
    /// Index of the layer within the group.
    pub layer: usize,
}

impl<'a> PageView<'a> {
    /// The block of a KV head in a frame.
    pub fn head(&self, frame: u32, head: usize) -> HeadBlock<'a> {
        let len = head_bytes(&self.shape);
        let start = head_offset(&self.shape, self.layer, frame, head);
        HeadBlock { bytes: &self.bytes[start..start + len], shape: self.shape, layout: self.layout }
    }
}

/// Bytes of a head block.
fn head_bytes(s: &KvShape) -> usize {
    s.page_tokens * s.token_bytes()
}

/// Offset of a head block in the group's buffer, in bytes.
fn head_offset(s: &KvShape, layer: usize, frame: u32, head: usize) -> usize {
    ((frame as usize * s.layers + layer) * s.kv_heads + head) * head_bytes(s)
}

/// Keys and values of one KV head in one page.
pub struct HeadBlock<'a> {
    bytes: &'a [u8],
    shape: KvShape,
    layout: PageLayout,
}

impl<'a> HeadBlock<'a> {
    /// Pointer to the keys of tokens `16 * group..16 * group + 16`, in [`PageLayout::Lanes`].
    pub fn key_group(&self, group: usize) -> *const u8 {
        self.bytes[group * GROUP * self.shape.k_dim * self.shape.dtype.size()..].as_ptr()
    }

    /// Pointer to the values of tokens `16 * group..16 * group + 16`, in [`PageLayout::Lanes`].
    pub fn value_group(&self, group: usize) -> *const u8 {
        let s = &self.shape;
        self.bytes[(s.page_tokens * s.k_dim + group * GROUP * s.v_dim) * s.dtype.size()..].as_ptr()
    }

    /// Pointer to the scales of the keys (or values) of tokens `16 * group..16 * group + 16` in 8-bit pages; unaligned.
    pub fn scale_group(&self, values: bool, group: usize) -> *const f32 {
        self.bytes[scale_offset(&self.shape, values, group * GROUP)..].as_ptr().cast()
    }

    /// The keys (or values) of `tokens` tokens from `first` on; `None` unless the layout is [`PageLayout::Rows`], the
    /// type has no scales, and they are adjacent.
    pub fn rows(&self, values: bool, first: usize, tokens: usize) -> Option<Elements<'a>> {
        let s = &self.shape;
        if self.layout != PageLayout::Rows || s.dtype == DType::I8 || values && s.latent() {
            return None;
        }
        let (base, dim) = if values { (s.page_tokens * s.k_dim, s.v_dim) } else { (0, s.k_dim) };
        let size = s.dtype.size();
        Elements::new(&self.bytes[(base + first * dim) * size..(base + (first + tokens) * dim) * size], s.dtype)
    }

    /// Reads the key (or value) of a token as f32, for any layout and type.
    pub fn read(&self, values: bool, token: usize, out: &mut [f32]) {
        let s = &self.shape;
        let scale = if s.dtype == DType::I8 {
            let at = scale_offset(s, values, token);
            f32::from_ne_bytes(self.bytes[at..at + 4].try_into().expect("four bytes"))
        } else {
            1.0
        };
        let half = |at: usize| u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]);
        match s.dtype {
            DType::F32 => self.fill(values, token, out, |at| {
                f32::from_ne_bytes(self.bytes[at..at + 4].try_into().expect("four bytes"))
            }),
            DType::Bf16 => self.fill(values, token, out, |at| bf16_to_f32(half(at))),
            DType::F16 => self.fill(values, token, out, |at| half::f16::from_bits(half(at)).to_f32()),
            _ => self.fill(values, token, out, |at| self.bytes[at] as i8 as f32 * scale),
        }
    }

    /// Sets `out` to what `read` gives for the offset of each element of a token's key (or value), in bytes.
    #[inline(always)]
    fn fill(&self, values: bool, token: usize, out: &mut [f32], read: impl Fn(usize) -> f32) {
        for (d, out) in out.iter_mut().enumerate() {
            *out = read(element_offset(&self.shape, self.layout, values, token, d) * self.shape.dtype.size());
        }
    }
}

/// Offset of the scale of a token's key (or value) in a head block, in bytes.
#[inline(always)]
fn scale_offset(s: &KvShape, values: bool, token: usize) -> usize {
    let elements = s.page_tokens * s.stored().0 * s.dtype.size();
    elements + 4 * (token + if values && !s.latent() { s.page_tokens } else { 0 })
}

/// Offset of element `d` of a token's key (or value) in a head block, in elements.
#[inline(always)]
fn element_offset(s: &KvShape, layout: PageLayout, values: bool, token: usize, d: usize) -> usize {
    match (layout, values) {
        (PageLayout::Rows, false) => token * s.k_dim + d,
        (PageLayout::Rows, true) if s.latent() => token * s.k_dim + d,
        (PageLayout::Rows, true) => s.page_tokens * s.k_dim + token * s.v_dim + d,
        (PageLayout::Lanes, false) => token / GROUP * GROUP * s.k_dim + d / 2 * 2 * GROUP + token % GROUP * 2 + d % 2,
        (PageLayout::Lanes, true) => s.page_tokens * s.k_dim + token / 2 * 2 * s.v_dim + 2 * d + token % 2,
    }
}

/// The pages of one layer group.
pub(super) struct Group {
    /// Shape.
    pub shape: KvShape,
    /// Layout of elements within a head block.
    pub layout: PageLayout,
    /// All frames.
    pub buffer: Buffer,
}

impl Group {
    /// Byte range of a frame, over all layers. Fails unless `len` is the size of a frame and the frame exists.
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
    /// See [`Cache::kv_pages`].
    pub(super) fn make_pages(&mut self, shape: KvShape) -> Result<KvPages> {
        let what = "KV pages";
        if !matches!(shape.dtype, DType::F32 | DType::Bf16 | DType::F16 | DType::I8) {
            return Err(Error::unsupported(format!("KV pages of {} are not supported on the CPU", shape.dtype)));
        }
        let bytes = shape.frame_bytes().and_then(|b| b.checked_mul(shape.frames));
        let bytes = bytes.ok_or_else(|| Error::memory(what, u64::MAX))?;
        let layout = (self.kernels.attention.layout)(&shape);
        self.groups.push(Group { shape, layout, buffer: Buffer::zeroed(bytes, what)? });
        Ok(KvPages((self.groups.len() - 1) as u32))
    }

    /// See [`Cache::read_page`].
    pub(super) fn read_frame(&mut self, pages: KvPages, frame: u32, out: &mut [u8]) -> Result<()> {
        let group = &self.groups[pages.0 as usize];
        out.copy_from_slice(&group.buffer.bytes()[group.frame(frame, out.len())?]);
        Ok(())
    }

    /// See [`Cache::write_page`].
    pub(super) fn write_frame(&mut self, pages: KvPages, frame: u32, bytes: &[u8]) -> Result<()> {
        let group = &mut self.groups[pages.0 as usize];
        let range = group.frame(frame, bytes.len())?;
        group.buffer.bytes_mut()[range].copy_from_slice(bytes);
        Ok(())
    }
}

/// Write access to the pages of a layer, for rows of keys and values.
pub(super) struct StoreRows {
    blocks: Shared<u8>,
    limit: usize,
    shape: KvShape,
    layout: PageLayout,
    layer: usize,
    k: Heads,
    v: Heads,
    store_group: StoreGroup,
}

/// [`StoreBlock::store_group`], compiled with a tier's instructions.
///
/// # Safety
/// As [`StoreBlock::store_group`]; the processor supports the tier's instructions.
pub type StoreGroup = unsafe fn(block: &StoreBlock, values: bool, token: usize, from: &[f32], stride: usize);

/// The [`StoreGroup`] of a tier that uses [`PageLayout::Rows`]; panics.
pub fn no_group(_: &StoreBlock, _: bool, _: usize, _: &[f32], _: usize) {
    unreachable!("pages of rows are stored row by row");
}

impl StoreRows {
    /// For keys `k` and values `v`; panics if their shape is not that of the pages.
    pub fn new(group: &mut Group, kernels: &Kernels, layer: usize, k: Heads, v: Heads) -> StoreRows {
        let shape = group.shape;
        assert!(k.heads == shape.kv_heads && v.heads == shape.kv_heads && k.dim == shape.k_dim && v.dim == shape.v_dim);
        let (limit, layout) = (group.buffer.bytes().len(), group.layout);
        let store_group = kernels.attention.store_group;
        StoreRows { blocks: Shared(group.buffer.as_mut_ptr()), limit, shape, layout, layer, k, v, store_group }
    }

    /// Stores the keys and values of the rows `range`, for all heads.
    ///
    /// # Safety
    /// `k_data` and `v_data` point to the start of the heads' tensors and cover the rows, which are not written
    /// meanwhile; no other task stores the same tokens of the same sequences.
    pub unsafe fn rows(&self, ragged: Ragged, range: Range<usize>, k_data: Shared<f32>, v_data: Shared<f32>) {
        let shape = self.shape;
        let mut row = range.start;
        while row < range.end {
            let position = ragged.positions[row] as usize;
            let page = ragged.table_starts[ragged.sequences[row] as usize] as usize + position / shape.page_tokens;
            let (frame, token) = (ragged.tables[page], position % shape.page_tokens);
            // Rows of a sequence are adjacent, so if the last row of a group belongs to it, all do.
            let whole = self.layout == PageLayout::Lanes
                && token.is_multiple_of(GROUP)
                && row + GROUP <= range.end
                && ragged.sequences[row] == ragged.sequences[row + GROUP - 1];
            let count = if whole { GROUP } else { 1 };
            for head in 0..shape.kv_heads {
                let start = head_offset(&shape, self.layer, frame, head);
                assert!(start + head_bytes(&shape) <= self.limit, "frame {frame} is outside the pages");
                let block = StoreBlock { start: self.blocks.start().wrapping_add(start), shape, layout: self.layout };
                let vectors = [(false, &self.k, k_data), (true, &self.v, v_data)];
                for (values, heads, data) in vectors.into_iter().take(shape.stored().1) {
                    let from = heads.at(row, head).start..heads.at(row + count - 1, head).end;
                    // SAFETY: guaranteed by the caller; the block was just checked.
                    unsafe {
                        match whole {
                            true => (self.store_group)(&block, values, token, data.slice(from), heads.row_stride),
                            false => block.store(values, token, data.slice(from)),
                        }
                    }
                }
            }
            row += count;
        }
    }
}

/// Write access to one head block.
pub struct StoreBlock {
    start: *mut u8,
    shape: KvShape,
    layout: PageLayout,
}

impl StoreBlock {
    /// Stores the key (or value) of a token.
    ///
    /// # Safety
    /// `start` points to a head block of the shape, aligned for its type, and no other task accesses the elements of
    /// this token.
    unsafe fn store(&self, values: bool, token: usize, from: &[f32]) {
        // SAFETY: `element_offset` and `scale_offset` stay inside a head block of the shape; the rest is guaranteed by
        // the caller.
        unsafe {
            match self.shape.dtype {
                DType::F32 => self.put(values, token, from, |v| v),
                DType::Bf16 => self.put(values, token, from, f32_to_bf16),
                DType::F16 => self.put(values, token, from, |v| half::f16::from_f32(v).to_bits()),
                DType::I8 => {
                    let inverse = self.put_scale(values, token, from);
                    self.put(values, token, from, |v| quantize(v, inverse));
                }
                other => unreachable!("pages of {other} are refused when they are made"),
            }
        }
    }

    /// Stores the keys (or values) of [`GROUP`] tokens, from `token` on, read from rows `stride` elements apart.
    /// Inlined, so that each tier compiles it with its own instructions.
    ///
    /// # Safety
    /// As [`StoreBlock::store`] for all of these tokens; the layout is [`PageLayout::Lanes`].
    #[inline(always)]
    pub unsafe fn store_group(&self, values: bool, token: usize, from: &[f32], stride: usize) {
        let dim = if values { self.shape.v_dim } else { self.shape.k_dim };
        // SAFETY: as in `store`.
        unsafe {
            if self.shape.dtype == DType::Bf16 {
                return self.put_group(values, token, dim, from, stride, |_, v| f32_to_bf16(v));
            }
            let mut inverse = [0.0; GROUP];
            for t in 0..GROUP {
                inverse[t] = self.put_scale(values, token + t, &from[t * stride..t * stride + dim]);
            }
            self.put_group(values, token, dim, from, stride, |t, v| quantize(v, inverse[t]));
        }
    }

    /// Stores the scale of a token's key (or value); returns its inverse, the factor that quantizes elements.
    ///
    /// # Safety
    /// As [`StoreBlock::store`].
    #[inline(always)]
    unsafe fn put_scale(&self, values: bool, token: usize, row: &[f32]) -> f32 {
        let (scale, inverse) = scale_of(row);
        // SAFETY: inside the head block; the rest is guaranteed by the caller.
        unsafe { self.start.add(scale_offset(&self.shape, values, token)).cast::<f32>().write_unaligned(scale) };
        inverse
    }

    /// Stores a group of tokens in tiles of 16 tokens by 16 elements.
    ///
    /// # Safety
    /// As [`StoreBlock::store_group`], for pages of `T`.
    #[inline(always)]
    unsafe fn put_group<T: Copy + Default>(
        &self,
        values: bool,
        token: usize,
        dim: usize,
        from: &[f32],
        stride: usize,
        convert: impl Fn(usize, f32) -> T,
    ) {
        let mut tile = [[T::default(); GROUP]; GROUP];
        for at in (0..dim).step_by(GROUP) {
            let count = GROUP.min(dim - at);
            for (t, tile) in tile.iter_mut().enumerate() {
                let from = &from[t * stride + at..t * stride + at + count];
                if let Ok(from) = <&[f32; GROUP]>::try_from(from) {
                    for d in 0..GROUP {
                        tile[d] = convert(t, from[d]);
                    }
                } else {
                    tile.iter_mut().zip(from).for_each(|(to, v)| *to = convert(t, *v));
                }
            }
            // SAFETY: the keys of a group, and its values, are `GROUP * dim` contiguous elements, stored in pairs.
            unsafe {
                let base = self.start.cast::<T>().add(element_offset(&self.shape, self.layout, values, token, 0));
                // The common count is passed as a constant, which removes the bounds checks from the loops over a tile.
                match (values, count) {
                    (true, GROUP) => write_values(base, &tile, dim, at, GROUP),
                    (true, count) => write_values(base, &tile, dim, at, count),
                    (false, GROUP) => write_keys(base, &tile, at, GROUP),
                    (false, count) => write_keys(base, &tile, at, count),
                }
            }
        }
    }

    /// # Safety
    /// As [`StoreBlock::store`], for pages of `T`.
    #[inline(always)]
    unsafe fn put<T>(&self, values: bool, token: usize, from: &[f32], convert: impl Fn(f32) -> T) {
        let s = &self.shape;
        // SAFETY: guaranteed by the caller; all these elements belong to this token.
        unsafe {
            let base = self.start.cast::<T>().add(element_offset(s, self.layout, values, token, 0));
            match (self.layout, values) {
                (PageLayout::Rows, _) => from.iter().enumerate().for_each(|(d, &v)| base.add(d).write(convert(v))),
                (PageLayout::Lanes, true) => {
                    from.iter().enumerate().for_each(|(d, &v)| base.add(2 * d).write(convert(v)))
                }
                (PageLayout::Lanes, false) => from.chunks_exact(2).enumerate().for_each(|(pair, v)| {
                    base.add(pair * 2 * GROUP).cast::<[T; 2]>().write([convert(v[0]), convert(v[1])]);
                }),
            }
        }
    }
}

/// Writes elements `at..at + count` of the values of a group's tokens.
///
/// # Safety
/// `base` points to the group's `GROUP * dim` values.
#[inline(always)]
unsafe fn write_values<T: Copy>(base: *mut T, tile: &[[T; GROUP]; GROUP], dim: usize, at: usize, count: usize) {
    for pair in 0..GROUP / 2 {
        // SAFETY: guaranteed by the caller.
        let to = unsafe { base.add((pair * dim + at) * 2).cast::<[T; 2]>() };
        for d in 0..count {
            // SAFETY: as above.
            unsafe { to.add(d).write([tile[2 * pair][d], tile[2 * pair + 1][d]]) };
        }
    }
}

/// Writes elements `at..at + count` of the keys of a group's tokens; `count` is even.
///
/// # Safety
/// `base` points to the group's keys, which have at least `at + count` elements each.
#[inline(always)]
unsafe fn write_keys<T: Copy>(base: *mut T, tile: &[[T; GROUP]; GROUP], at: usize, count: usize) {
    for pair in 0..count / 2 {
        // SAFETY: guaranteed by the caller.
        let to = unsafe { base.add((at / 2 + pair) * GROUP * 2).cast::<[T; 2]>() };
        for (t, tile) in tile.iter().enumerate() {
            // SAFETY: as above.
            unsafe { to.add(t).write([tile[2 * pair], tile[2 * pair + 1]]) };
        }
    }
}

/// Quantizes an element to the nearest integer, ties to even. The result for NaN is arbitrary: the scale is NaN then.
#[inline(always)]
fn quantize(v: f32, inverse: f32) -> i8 {
    // Adding this constant leaves the nearest integer in the low mantissa bits, without a function call on processors
    // that lack a rounding instruction.
    (v * inverse + 12_582_912.0).to_bits() as i8
}

/// The scale of an 8-bit key (or value) and its inverse. The scale is not finite if an element is not finite.
#[inline(always)]
fn scale_of(row: &[f32]) -> (f32, f32) {
    let max = row.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    // 0 if all elements are finite, otherwise NaN.
    let finite = row.iter().fold(0.0f32, |sum, v| sum + v * 0.0);
    let scale = max / 127.0 + finite;
    (scale, if max > 0.0 { 127.0 / max } else { 0.0 })
}

/// A [`PageView`] without a lifetime, to be shared with tasks.
#[derive(Clone, Copy)]
pub(super) struct SendPages(*const u8, usize, KvShape, PageLayout, usize);

// SAFETY: only used for reading, while the operation borrows the backend.
unsafe impl Send for SendPages {}
// SAFETY: as above.
unsafe impl Sync for SendPages {}

impl SendPages {
    /// The pages of a layer.
    pub fn new(group: &Group, layer: usize) -> SendPages {
        let bytes = group.buffer.bytes();
        SendPages(bytes.as_ptr(), bytes.len(), group.shape, group.layout, layer)
    }

    /// # Safety
    /// The buffer lives and is not written while the view is in use.
    pub unsafe fn view<'a>(self) -> PageView<'a> {
        // SAFETY: guaranteed by the caller.
        let bytes = unsafe { std::slice::from_raw_parts(self.0, self.1) };
        PageView { bytes, shape: self.2, layout: self.3, layer: self.4 }
    }
}
