//! The function table of an instruction set tier, and the argument types its functions share.
//!
//! A tier is one value of [`Kernels`]. The backend ([`super::CpuBackend`]) splits work into tasks and calls these
//! functions; every tier has the same signatures and is tested against [`super::reference`]. Law 1: a function computes
//! each output element from its own row in an order that depends on nothing but the weight's shape.

use super::linear::{Form, LinearArgs};
use super::{Compute, Tier};
use crate::backend::KvShape;
use crate::dtype::DType;
use crate::encoding::Encoding;
use std::ops::Range;

/// The elements of a matrix as stored.
#[derive(Clone, Copy)]
pub enum Elements<'a> {
    /// f32.
    F32(&'a [f32]),
    /// bf16 bits.
    Bf16(&'a [u16]),
    /// f16 bits.
    F16(&'a [u16]),
}

impl<'a> Elements<'a> {
    /// A view of `bytes`, which must be aligned for the type and hold whole elements; `None` also for types no
    /// kernel reads.
    pub fn new(bytes: &'a [u8], dtype: DType) -> Option<Self> {
        // SAFETY: every bit pattern is a valid f32 or u16; `align_to` yields the aligned middle, and we demand that
        // it is everything.
        unsafe {
            match dtype {
                DType::F32 => whole(bytes.align_to::<f32>()).map(Elements::F32),
                DType::Bf16 => whole(bytes.align_to::<u16>()).map(Elements::Bf16),
                DType::F16 => whole(bytes.align_to::<u16>()).map(Elements::F16),
                _ => None,
            }
        }
    }

    /// Element `index` as f32.
    #[inline(always)]
    pub fn get(&self, index: usize) -> f32 {
        match self {
            Elements::F32(e) => e[index],
            Elements::Bf16(e) => bf16_to_f32(e[index]),
            Elements::F16(e) => half::f16::from_bits(e[index]).to_f32(),
        }
    }

    /// Elements of `range`.
    pub fn slice(&self, range: Range<usize>) -> Elements<'a> {
        match self {
            Elements::F32(e) => Elements::F32(&e[range]),
            Elements::Bf16(e) => Elements::Bf16(&e[range]),
            Elements::F16(e) => Elements::F16(&e[range]),
        }
    }

    /// Number of elements.
    #[allow(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        match self {
            Elements::F32(e) => e.len(),
            Elements::Bf16(e) | Elements::F16(e) => e.len(),
        }
    }
}

fn whole<'a, T>((head, middle, tail): (&'a [u8], &'a [T], &'a [u8])) -> Option<&'a [T]> {
    (head.is_empty() && tail.is_empty()).then_some(middle)
}

/// bf16 bits to f32; exact.
#[inline(always)]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits((bits as u32) << 16)
}

/// f32 to bf16 bits, to nearest even; NaN stays NaN.
#[inline(always)]
pub fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

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

/// Attention of some adjacent rows of one sequence for the query heads of one KV head.
pub struct AttentionArgs<'a> {
    /// All queries; row `r`, head `h` at `r * q_row_stride + h * q_head_stride`.
    pub q: &'a [f32],
    /// Elements from a query row to the next.
    pub q_row_stride: usize,
    /// Elements from a query head to the next.
    pub q_head_stride: usize,
    /// Output `[rows, heads, v_dim]`.
    pub out: *mut f32,
    /// Elements from an output row to the next.
    pub out_stride: usize,
    /// Rows of this task.
    pub rows: Range<usize>,
    /// Position of the first of them.
    pub first_position: usize,
    /// Query heads that share the KV head.
    pub q_heads: Range<usize>,
    /// The KV head.
    pub kv_head: usize,
    /// Page table of the sequence.
    pub table: &'a [u32],
    /// The layer's pages.
    pub pages: PageView<'a>,
    /// Factor on the scores.
    pub scale: f32,
    /// Keys visible to a query.
    pub window: Option<u32>,
}

impl AttentionArgs<'_> {
    /// Positions visible to the row at `position`.
    #[inline(always)]
    pub fn visible(&self, position: usize) -> Range<usize> {
        let first = self.window.map_or(0, |w| (position + 1).saturating_sub(w as usize));
        first..position + 1
    }

    /// The query of a row and head.
    #[inline(always)]
    pub fn query(&self, row: usize, head: usize) -> &[f32] {
        let start = row * self.q_row_stride + head * self.q_head_stride;
        &self.q[start..start + self.pages.shape.k_dim]
    }

    /// Where the result of a row and head goes.
    ///
    /// # Safety
    /// The row and head are this task's, `out` covers them, and nobody else uses them meanwhile.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "the output is disjoint from everything the arguments borrow")]
    pub unsafe fn result(&self, row: usize, head: usize) -> &mut [f32] {
        let v_dim = self.pages.shape.v_dim;
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.out.add(row * self.out_stride + head * v_dim), v_dim) }
    }
}

/// The functions of a tier.
pub struct Kernels {
    /// The tier.
    pub tier: Tier,
    /// The form of input that a weight is multiplied with.
    pub form: fn(weight: Encoding, compute: Compute) -> Form,
    /// A row rounded to bf16, to nearest even.
    ///
    /// # Safety
    /// The tier's instructions exist.
    pub to_bf16: unsafe fn(x: &[f32], out: &mut [u16]),
    /// A row quantized in groups of `group`: codes, zero beyond the end of `x`, and each group's scale and correction
    /// ([`super::linear::Int8Rows`]). A group with a NaN or an infinity gets a scale that makes its products NaN.
    ///
    /// # Safety
    /// The tier's instructions exist.
    pub to_int8: unsafe fn(x: &[f32], group: usize, codes: &mut [i8], scales: &mut [f32], corrections: &mut [i32]),
    /// Outputs `range` of a product; it begins at a multiple of [`crate::encoding::PANEL`] and ends at one or at the last
    /// output. Scratch is the thread's own and may be resized.
    ///
    /// # Safety
    /// The output pointer covers `[rows, out_stride]`, the range's columns are this task's alone, and the tier's
    /// instructions exist on this processor.
    pub linear: unsafe fn(args: &LinearArgs, range: Range<usize>, scratch: &mut Vec<f32>),
    /// One attention task.
    ///
    /// # Safety
    /// The output pointer covers the rows, these rows' heads are this task's alone, and the tier's instructions exist.
    pub attention: unsafe fn(args: &AttentionArgs, scratch: &mut Vec<f32>),
    /// `x = x / sqrt(mean(x^2) + eps) * gain` of one row, in place.
    ///
    /// # Safety
    /// The tier's instructions exist.
    pub rms_norm: unsafe fn(x: &mut [f32], gain: Elements, eps: f32),
    /// `gate = silu(gate) * up`.
    ///
    /// # Safety
    /// The tier's instructions exist.
    pub silu_mul: unsafe fn(gate: &mut [f32], up: &[f32]),
    /// `x = x * sigmoid(gate)`.
    ///
    /// # Safety
    /// The tier's instructions exist.
    pub sigmoid_mul: unsafe fn(x: &mut [f32], gate: &[f32]),
}
