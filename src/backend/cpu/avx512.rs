//! AVX-512 with bf16 and VNNI dot products: Intel since Cooper Lake (Ice Lake lacks bf16), AMD since Zen 4.

mod attention;

use super::Tier;
use super::avx2;
use super::kernels::Kernels;

/// The AVX-512 tier.
pub static KERNELS: Kernels = Kernels { tier: Tier::Avx512, attention: attention::ATTENTION, ..avx2::TABLE };

/// Whether this processor has the tier's instructions.
pub fn present() -> bool {
    avx2::present()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bf16")
        && is_x86_feature_detected!("avx512vnni")
}
