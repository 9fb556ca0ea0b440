//! The AVX-512 tier, with bf16 and VNNI dot products: Intel since Cooper Lake (Ice Lake lacks bf16), AMD since Zen 4.
//!
//! bf16 weights are used in place in the mapped file and multiplied with inputs rounded to bf16; quantized weights are
//! multiplied with quantized inputs. Everything else runs the AVX2 functions.

mod attention;
mod linear;

use super::kernels::{Kernels, sampling_kernels, with_features};
use super::linear::stored::Products;
use super::linear::{Form, plain_form};
use super::recurrent::RecurrenceArgs;
use super::{Compute, Tier, avx2, portable};
use crate::dtype::DType;
use crate::encoding::Encoding;

/// The AVX-512 tier.
pub static KERNELS: Kernels = TABLE;

/// The same table, for the AMX tier, which takes functions from it.
pub(super) const TABLE: Kernels = Kernels {
    tier: Tier::Avx512,
    form,
    to_bf16,
    linear: linear::linear,
    attention: attention::ATTENTION,
    recurrence,
    sampling: sampling_kernels!(#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]),
    ..avx2::TABLE
};

/// Whether this processor supports the tier's instructions.
pub fn present() -> bool {
    avx2::present()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bf16")
        && is_x86_feature_detected!("avx512vnni")
}

fn form(weight: Encoding, compute: Compute) -> Form {
    match (weight, compute) {
        (Encoding::Stored(DType::Bf16 | DType::ScaledF8(_)), Compute::Bf16) => Form::Bf16,
        _ => plain_form(weight, compute),
    }
}

with_features! { "avx512f,avx512bw,avx512vl,avx2,fma";
    fn recurrence(args: &RecurrenceArgs, scratch: &mut Vec<f32>) { portable::recurrence_any::<true, 4>(args, scratch) }
    fn to_bf16(x: &[f32], row: usize, out: *mut u16) {
        for (i, part) in x.chunks(32).enumerate() {
            // The row's block lies in the scratch, and these 32 elements of it belong to this row.
            let out = std::slice::from_raw_parts_mut(out.add(linear::Bf16::at(x.len(), row, i * 32)), 32);
            portable::to_bf16_any(part, out);
            out[part.len()..].fill(0);
        }
    }
}
