//! The function table of an instruction set tier, and the argument types its functions share.
//!
//! A tier is one value of [`Kernels`]. The backend ([`super::CpuBackend`]) splits work into tasks and calls these
//! functions; every tier has the same signatures and is tested against [`super::reference`]. Law 1: a function computes
//! each output element from its own row in an order that depends on nothing but the weight's shape.

use super::attention::AttentionKernels;
use super::linear::{Form, LinearArgs};
use super::{Compute, Tier};
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

/// See [`Kernels::to_int8`].
pub type ToInt8 = unsafe fn(x: &[f32], group: usize, codes: &mut [i8], scales: &mut [f32], corrections: &mut [i32]);

/// For tiers without bf16 inputs.
///
/// # Safety
/// None.
pub unsafe fn no_bf16(_: &[f32], _: usize, _: *mut u16) {
    unreachable!("this tier asked for no bf16 input");
}

/// The functions of a tier.
pub struct Kernels {
    /// The tier.
    pub tier: Tier,
    /// The form of input that a weight is multiplied with.
    pub form: fn(weight: Encoding, compute: Compute) -> Form,
    /// Writes row `row` of an input rounded to bf16, to nearest even, in the tier's own arrangement. Tiers whose `form` never
    /// asks for it have [`no_bf16`].
    ///
    /// # Safety
    /// `out` has [`crate::backend::scratch_elements`] of 4 bytes, nobody else writes this row, and the tier's instructions
    /// exist.
    pub to_bf16: unsafe fn(x: &[f32], row: usize, out: *mut u16),
    /// A row quantized in groups of `group`: codes, zero beyond the end of `x`, and each group's scale and correction
    /// ([`super::linear::Int8Rows`]). A group with a NaN or an infinity gets a scale that makes its products NaN.
    ///
    /// # Safety
    /// The tier's instructions exist.
    pub to_int8: ToInt8,
    /// Outputs `range` of a product; it begins at a multiple of [`crate::encoding::PANEL`] and ends at one or at the last
    /// output. Scratch is the thread's own and may be resized.
    ///
    /// # Safety
    /// The output pointer covers `[rows, out_stride]`, the range's columns are this task's alone, and the tier's
    /// instructions exist on this processor.
    pub linear: unsafe fn(args: &LinearArgs, range: Range<usize>, scratch: &mut Vec<f32>),
    /// Attention and the layout of its pages.
    pub attention: AttentionKernels,
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
