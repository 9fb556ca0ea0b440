//! Attention over pages and the store of keys and values: launch parameters, and which kernel handles which rows.

use super::forms::pitch;
use super::kernels::{Function, Shape, arg, attention_shared};
use super::state::CudaBackend;
use crate::backend::cpu::Compute;
use crate::backend::{Attention, FrameContent, Heads, KvPages, KvShape, Placement};
use crate::dtype::DType;
use crate::error::{Error, Result};

/// Keys per span of split attention; the spans' results are merged in order. Must match `kernels/attention.cuh`.
pub const SPAN_KEYS: usize = 256;

/// Widest heads that attention over pages of 16 or 8 bits has kernels for, in elements; and widest keys where values are the beginnings
/// of keys.
const HEAD_DIM_MAX: usize = 512;
const LATENT_DIM_MAX: usize = 576;

/// Must match `Pages` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PagesArg {
    start: u64,
    frame_bytes: i64,
    layer_bytes: i64,
    layer: i32,
    page_tokens: i32,
    kv_heads: i32,
    k_dim: i32,
    v_dim: i32,
    element: i32,
    latent: i32,
}

/// Must match `Heads` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct HeadsArg {
    start: u64,
    row_stride: i64,
    head_stride: i64,
    heads: i32,
    dim: i32,
}

/// Must match `PlaceHeads` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PlaceArg {
    q: HeadsArg,
    k: HeadsArg,
    v: HeadsArg,
    q_gain: u64,
    k_gain: u64,
    angles: u64,
    rotary_start: i32,
    rotary_dims: i32,
    interleaved: i32,
    norm_last: i32,
    eps: f32,
    store: i32,
    pages: PagesArg,
    positions: u64,
    sequences: u64,
    tables: u64,
    table_starts: u64,
    rows: i32,
}

/// Must match `Attention` of the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
struct AttentionArg {
    q: u64,
    q_row_stride: i64,
    q_head_stride: i64,
    out: u64,
    parts: u64,
    spans_max: i32,
    heads: i32,
    scale: f32,
    window: i32,
    pages: PagesArg,
    units: u64,
    positions: u64,
    sequences: u64,
    tables: u64,
    table_starts: u64,
    soft_cap: f32,
    rounded_pitch: i32,
    rounded: u64,
    sinks: u64,
    rows: i32,
}

/// Warps per block of `place_heads`; each handles one head.
const PLACE_WARPS: usize = 4;

/// Checks that there are kernels for pages of this shape.
///
/// # Errors
/// `Unsupported`.
pub fn kv_check(shape: &KvShape) -> Result<()> {
    if shape.content == FrameContent::State {
        return Ok(());
    }
    let multiple = if shape.dtype == DType::I8 { 16 } else { 8 };
    let (widest, dims) = (shape.k_dim.max(shape.v_dim), [shape.k_dim, shape.v_dim]);
    let most = if shape.latent() { LATENT_DIM_MAX } else { HEAD_DIM_MAX };
    let narrow = widest <= most && shape.v_dim <= HEAD_DIM_MAX;
    let fits = shape.dtype == DType::F32 || (narrow && dims.iter().all(|d| d.is_multiple_of(multiple)));
    if fits {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "the CUDA backend has no kernel for heads of {widest} elements with {} pages: multiples of {multiple} up to {most} \
         are possible; choose the device cpu, or kv = f32",
        shape.dtype
    ))
    .about("kv"))
}

impl CudaBackend {
    fn pages_arg(&self, pages: KvPages, layer: usize) -> PagesArg {
        let group = &self.groups[pages.0 as usize];
        let s = &group.shape;
        assert!(layer < s.layers, "layer {layer} of {}", s.layers);
        let layer_bytes = s.token_bytes() * s.kv_heads * s.page_tokens;
        PagesArg {
            start: group.buffer.address,
            frame_bytes: (layer_bytes * s.layers) as i64,
            layer_bytes: layer_bytes as i64,
            layer: layer as i32,
            page_tokens: s.page_tokens as i32,
            kv_heads: s.kv_heads as i32,
            k_dim: s.k_dim as i32,
            v_dim: s.v_dim as i32,
            element: s.dtype.size() as i32,
            latent: i32::from(s.latent()),
        }
    }

    pub(super) fn heads_arg(&self, heads: Heads, rows: usize) -> HeadsArg {
        HeadsArg {
            start: self.place(heads.tensor, heads.span(rows)),
            row_stride: heads.row_stride as i64,
            head_stride: heads.head_stride as i64,
            heads: heads.heads as i32,
            dim: heads.dim as i32,
        }
    }

    /// See [`crate::backend::Operations::place_heads`].
    pub(super) fn place_rows(&mut self, p: &Placement) {
        let (inputs, rows) = (self.inputs(), self.inputs().rows);
        let (tables, table_starts) = inputs.tables(p.pages.0 as usize);
        let stored = |heads: HeadsArg| HeadsArg { heads: if p.store { heads.heads } else { 0 }, ..heads };
        let apart = p.store && !self.groups[p.pages.0 as usize].shape.latent();
        let gains = p.norms.map_or([0; 2], |gains| gains.map(|gain| self.vector(gain)));
        let args = PlaceArg {
            q: self.heads_arg(p.q, rows),
            k: stored(self.heads_arg(p.k, rows)),
            // The values of latent attention are in the keys.
            v: HeadsArg { heads: if apart { p.v.heads as i32 } else { 0 }, ..self.heads_arg(p.v, rows) },
            q_gain: gains[0],
            k_gain: gains[1],
            angles: p.rotary.map_or(0, |rotary| self.place(rotary.angles, rows * rotary.dims)),
            rotary_start: p.rotary.map_or(0, |rotary| rotary.start as i32),
            rotary_dims: p.rotary.map_or(0, |rotary| rotary.dims as i32),
            interleaved: p.rotary.map_or(0, |rotary| i32::from(rotary.interleaved)),
            norm_last: i32::from(p.norm_last),
            eps: p.eps,
            store: i32::from(p.store),
            pages: self.pages_arg(p.pages, p.layer),
            positions: inputs.positions(),
            sequences: inputs.sequences(),
            tables,
            table_starts,
            rows: rows as i32,
        };
        let function = match args.pages.element {
            1 => self.kernels.place_heads_i8,
            2 => self.kernels.place_heads_bf16,
            _ => self.kernels.place_heads_f32,
        };
        let kv_heads = if p.store { p.k.heads } else { 0 } + if apart { p.v.heads } else { 0 };
        let jobs = rows * (p.q.heads + kv_heads);
        let widest = p.q.dim.max(p.k.dim).max(p.v.dim);
        // Four warps with heads of the maximum width fit into the default limit of shared memory.
        let shape = Shape {
            grid: [jobs.div_ceil(PLACE_WARPS), 1, 1],
            block: PLACE_WARPS * 32,
            shared: PLACE_WARPS * widest * 4,
        };
        // SAFETY: the one parameter of these kernels; all places were checked, and page tables name frames of the group.
        unsafe { self.submit(function, shape, &mut [arg(&args)]) };
        self.wrote(p.q.tensor);
        if p.store {
            self.wrote(p.k.tensor);
        }
    }

    /// See [`crate::backend::Operations::attention`].
    pub(super) fn attend(&mut self, attention: Attention) {
        let Attention { q, out, pages, layer, scale, window, bidirectional, softcap, sinks } = attention;
        let rows = self.inputs().rows;
        let pages_arg = self.pages_arg(pages, layer);
        let shape = self.groups[pages.0 as usize].shape;
        let width = q.heads * shape.v_dim;
        let to = self.place(out, rows * width);
        let heads = self.heads_arg(q, rows);
        self.wrote(out);
        let rounded = if self.options.compute == Compute::Bf16 { self.round_into(out, rows, width) } else { 0 };
        let inputs = self.inputs();
        let (tables, table_starts) = inputs.tables(pages.0 as usize);
        let args = AttentionArg {
            q: heads.start,
            q_row_stride: heads.row_stride,
            q_head_stride: heads.head_stride,
            out: to,
            parts: 0,
            spans_max: 0,
            heads: heads.heads,
            scale,
            window: window.map_or(0, |w| i32::try_from(w).unwrap_or(i32::MAX)),
            pages: pages_arg,
            units: 0,
            positions: inputs.positions(),
            sequences: inputs.sequences(),
            tables,
            table_starts,
            soft_cap: softcap.unwrap_or(0.0),
            rounded_pitch: pitch(width) as i32,
            rounded,
            sinks: sinks.map_or(0, |sinks| self.vector(sinks)),
            rows: if bidirectional { rows as i32 } else { 0 },
        };
        if shape.dtype == DType::F32 {
            let shape = Shape { grid: [rows, q.heads, 1], block: 128, shared: (64 + shape.v_dim) * 4 };
            // SAFETY: the one parameter of the kernel; all places were checked, tables name frames of the group.
            return unsafe { self.submit(self.kernels.attention_f32, shape, &mut [arg(&args)]) };
        }
        let units = inputs.units;
        let group = q.heads / shape.kv_heads;
        let shared = |dim, queries, split| attention_shared(shape.dtype == DType::I8, dim, queries, split);
        let dim = match shape.k_dim.max(shape.v_dim).next_multiple_of(64) {
            wide if wide > HEAD_DIM_MAX => LATENT_DIM_MAX,
            dim => dim.next_power_of_two(),
        };
        let split = self.spans_to_split(q.heads, shape.kv_heads, shape.v_dim);
        let first = self.inputs().unit(0);
        let single = AttentionArg { units: first, ..args };
        match split {
            Some(spans) => {
                let parts = self.scratch().parts.address;
                let single = AttentionArg { parts, spans_max: spans as i32, ..single };
                let grid = [units.single, shape.kv_heads * group.div_ceil(16), spans];
                // SAFETY: as above; the parts have room for these spans, as `spans_to_split` found.
                unsafe { self.submit_attention(shape.dtype, dim, 16, grid, shared(dim, 16, true), single) };
                let merge = Shape { grid: [units.single, 1, q.heads], block: 128, shared: 0 };
                // SAFETY: as above.
                unsafe { self.submit(self.kernels.attention_merge, merge, &mut [arg(&single)]) };
            }
            None => {
                let grid = [units.single, shape.kv_heads * group.div_ceil(16), 1];
                // SAFETY: as above.
                unsafe { self.submit_attention(shape.dtype, dim, 16, grid, shared(dim, 16, false), single) };
            }
        }
        let queries = units.several_rows_max * group;
        let several = AttentionArg { units: self.inputs().unit(units.single), ..args };
        // Heads of more than 256 elements have kernels of 16 queries only.
        let many = dim <= 256 && self.attention_kernel(shape.dtype, dim, 64).fits(shared(dim, 64, false));
        let block = if many { 64 } else { 16 };
        let grid = [units.several, shape.kv_heads * queries.div_ceil(block), 1];
        // SAFETY: as above.
        unsafe { self.submit_attention(shape.dtype, dim, block, grid, shared(dim, block, false), several) };
    }

    /// The number of spans into which the keys of single-row units are split; `None` to process them whole: they are
    /// short, or the rows alone fill the device, or the partial results do not fit into the buffer.
    fn spans_to_split(&mut self, heads: usize, kv_heads: usize, v_dim: usize) -> Option<usize> {
        let units = self.inputs().units;
        let spans = units.single_spans;
        let busy = units.single * kv_heads >= 4 * self.device.info.processors as usize;
        if units.single == 0 || spans == 1 || busy {
            return None;
        }
        let bytes = (units.single_last_row + 1) * heads * spans * (2 + v_dim) * 4;
        (bytes <= self.scratch().parts.bytes).then_some(spans)
    }

    fn attention_kernel(&self, dtype: DType, dim: usize, queries: usize) -> Function {
        let k = &self.kernels;
        match (dtype == DType::I8, dim, queries) {
            (false, 64, 16) => k.attention_bf16_64x16,
            (false, 64, _) => k.attention_bf16_64x64,
            (false, 128, 16) => k.attention_bf16_128x16,
            (false, 128, _) => k.attention_bf16_128x64,
            (false, 256, 16) => k.attention_bf16_256x16,
            (false, 256, _) => k.attention_bf16_256x64,
            (false, LATENT_DIM_MAX, _) => k.attention_bf16_576x16,
            (false, ..) => k.attention_bf16_512x16,
            (true, 64, 16) => k.attention_i8_64x16,
            (true, 64, _) => k.attention_i8_64x64,
            (true, 128, 16) => k.attention_i8_128x16,
            (true, 128, _) => k.attention_i8_128x64,
            (true, 256, 16) => k.attention_i8_256x16,
            (true, 256, _) => k.attention_i8_256x64,
            (true, LATENT_DIM_MAX, _) => k.attention_i8_576x16,
            (true, ..) => k.attention_i8_512x16,
        }
    }

    /// # Safety
    /// All memory that `args` names has the sizes it says; `dim` is at least the heads' width.
    unsafe fn submit_attention(
        &mut self,
        dtype: DType,
        dim: usize,
        queries: usize,
        grid: [usize; 3],
        shared: usize,
        args: AttentionArg,
    ) {
        let function = self.attention_kernel(dtype, dim, queries);
        // SAFETY: the one parameter of the kernels; the caller's promise.
        unsafe { self.submit(function, Shape { grid, block: 128, shared }, &mut [arg(&args)]) };
    }
}
