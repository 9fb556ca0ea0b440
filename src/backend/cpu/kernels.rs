//! The function table of an instruction set tier, and the argument types its functions share.
//!
//! A tier is one value of [`Kernels`]. The backend ([`super::CpuBackend`]) splits work into tasks and calls these
//! functions; every tier is tested against [`super::reference`]. Law 1 of [`crate::backend`]: a function computes each
//! output element from its own row, in an order that depends only on the shape of the weight.

use super::attention::AttentionKernels;
use super::head_products::HeadArgs;
use super::linear::{Form, Int8RowMut, LinearArgs};
use super::recurrent::{ConvArgs, RecurrenceArgs};
use super::{Compute, Tier};
use crate::backend::Activation;
use crate::dtype::DType;
use crate::encoding::Encoding;
use std::ops::Range;

/// Elements of a weight in their stored type.
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
    /// A view of `bytes`. `None` if they are not aligned for the type, are not a whole number of elements, or have a
    /// type that no kernel reads.
    pub fn new(bytes: &'a [u8], dtype: DType) -> Option<Self> {
        // SAFETY: every bit pattern is a valid f32 or u16; `align_to` yields the aligned middle, and `whole` requires
        // that it is everything.
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

    /// The elements of `range`.
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

/// f32 to bf16 bits, rounded to nearest even; NaN stays NaN.
#[inline(always)]
pub fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// See [`Kernels::to_int8`].
pub type ToInt8 = unsafe fn(x: &[f32], row: Int8RowMut);

/// [`Kernels::to_bf16`] of tiers without bf16 inputs; panics.
///
/// # Safety
/// No requirements.
pub unsafe fn no_bf16(_: &[f32], _: usize, _: *mut u16) {
    unreachable!("this tier asked for no bf16 input");
}

/// The passes over a row of logits ([`crate::sampling::math`]) as a tier compiles them: the same bits in all.
pub struct SamplingKernels {
    /// See [`crate::sampling::math::block_maxima`].
    ///
    /// # Safety
    /// The processor supports the tier's instructions; so below.
    pub block_maxima: unsafe fn(row: &[f32], maxima: &mut [f32]),
    /// See [`crate::sampling::math::weights`].
    pub weights: unsafe fn(row: &[f32], max: f32, temperature: f32, out: &mut [f32]) -> f64,
    /// See [`crate::sampling::math::sum_exp`].
    pub sum_exp: unsafe fn(row: &[f32], max: f32, temperature: f32) -> f64,
    /// See [`crate::sampling::math::sum_at_least`].
    pub sum_at_least: unsafe fn(row: &[f32], weights: &[f32], least: f32) -> f64,
}

/// Compiles functions of a table with the instructions of a tier. Their contract is that of the table, and that the
/// processor supports the instructions.
#[cfg(target_arch = "x86_64")]
macro_rules! with_features {
    ($features:literal; $($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),*) { $body:expr })*) => {$(
        $(#[$doc])*
        #[target_feature(enable = $features)]
        #[allow(unused_unsafe, reason = "some bodies are safe")]
        $vis unsafe fn $name($($arg: $type),*) {
            // SAFETY: guaranteed by the caller, as the table requires.
            unsafe { $body }
        }
    )*};
}
#[cfg(target_arch = "x86_64")]
pub(super) use with_features;

/// [`SamplingKernels`] compiled with some instructions.
macro_rules! sampling_kernels {
    ($(#[$features:meta])?) => {{
        use crate::sampling::math;
        $(#[$features])?
        unsafe fn block_maxima(row: &[f32], maxima: &mut [f32]) { math::block_maxima(row, maxima) }
        $(#[$features])?
        unsafe fn weights(row: &[f32], max: f32, temperature: f32, out: &mut [f32]) -> f64 {
            math::weights(row, max, temperature, out)
        }
        $(#[$features])?
        unsafe fn sum_exp(row: &[f32], max: f32, temperature: f32) -> f64 { math::sum_exp(row, max, temperature) }
        $(#[$features])?
        unsafe fn sum_at_least(row: &[f32], weights: &[f32], least: f32) -> f64 { math::sum_at_least(row, weights, least) }
        $crate::backend::cpu::kernels::SamplingKernels { block_maxima, weights, sum_exp, sum_at_least }
    }};
}
pub(super) use sampling_kernels;

/// The function table of a tier.
pub struct Kernels {
    /// The tier.
    pub tier: Tier,
    /// The type of input that a weight is multiplied with.
    pub form: fn(weight: Encoding, compute: Compute) -> Form,
    /// Rounds `x` to bf16, to nearest even, and writes it as row `row` of the input in the tier's own arrangement.
    /// Tiers whose `form` never returns [`Form::Bf16`] have [`no_bf16`].
    ///
    /// # Safety
    /// `out` has the bytes of [`converted_bytes`](super::linear::converted_bytes), no other task writes this row, and the
    /// processor supports the tier's instructions.
    pub to_bf16: unsafe fn(x: &[f32], row: usize, out: *mut u16),
    /// Quantizes a row in groups of [`GROUP`](crate::encoding::blocks::GROUP) elements: codes (zero beyond the end of `x`), and the scale
    /// and corrections of each group ([`super::linear::Int8Rows`]). A group with a NaN or an infinity gets a scale that makes its
    /// products NaN.
    ///
    /// # Safety
    /// The processor supports the tier's instructions.
    pub to_int8: ToInt8,
    /// Computes the outputs `range` of a matrix product. The range starts at a multiple of [`crate::encoding::PANEL`]
    /// and ends at one or at the last output. `scratch` belongs to the calling thread and may be resized.
    ///
    /// # Safety
    /// The output pointer covers `[rows, out_stride]`, no other task accesses the columns of the range, and the
    /// processor supports the tier's instructions.
    pub linear: unsafe fn(args: &LinearArgs, range: Range<usize>, scratch: &mut Vec<f32>),
    /// Attention functions and page layout.
    pub attention: AttentionKernels,
    /// Passes over a row of logits.
    pub sampling: SamplingKernels,
    /// RMS norm of one row, in place: `x = x / sqrt(mean(x^2) + eps) * gain`.
    ///
    /// # Safety
    /// The processor supports the tier's instructions.
    pub rms_norm: unsafe fn(x: &mut [f32], gain: Option<Elements>, eps: f32),
    /// Takes its mean from each element of a row. The sum is one of lanes, as in `rms_norm`.
    ///
    /// # Safety
    /// The processor supports the tier's instructions.
    pub centre: unsafe fn(x: &mut [f32]),
    /// A product of one head and some rows; a result is one sum, or of transposed ones has its terms added in ascending order.
    /// `scratch` belongs to the calling thread and may be resized.
    ///
    /// # Safety
    /// The output pointer covers the rows, no other task accesses them, and the processor supports the tier's instructions.
    pub head_product: unsafe fn(args: &HeadArgs, scratch: &mut Vec<f32>),
    /// `gate = activation(gate) * up`, element by element.
    ///
    /// # Safety
    /// The processor supports the tier's instructions.
    pub gate: unsafe fn(gate: &mut [f32], up: &[f32], activation: Activation),
    /// `x = activation(x)`, element by element.
    ///
    /// # Safety
    /// The processor supports the tier's instructions.
    pub activate: unsafe fn(x: &mut [f32], activation: Activation),
    /// `x = cap * tanh(x / cap)`, element by element.
    ///
    /// # Safety
    /// The processor supports the tier's instructions.
    pub softcap: unsafe fn(x: &mut [f32], cap: f32),
    /// Some channels of a convolution over the tokens of a sequence. `scratch` belongs to the calling thread and may be resized.
    ///
    /// # Safety
    /// The rows of `args` exist, no other task accesses those that are written, and the processor supports the tier's
    /// instructions.
    pub conv: unsafe fn(args: &ConvArgs, scratch: &mut Vec<f32>),
    /// A head of a recurrence over the tokens of a sequence. `scratch` belongs to the calling thread and may be resized.
    ///
    /// # Safety
    /// As of `conv`; results are apart from inputs.
    pub recurrence: unsafe fn(args: &RecurrenceArgs, scratch: &mut Vec<f32>),
    /// `x = x * sigmoid(gate)`, element by element.
    ///
    /// # Safety
    /// The processor supports the tier's instructions.
    pub sigmoid_mul: unsafe fn(x: &mut [f32], gate: &[f32]),
}
