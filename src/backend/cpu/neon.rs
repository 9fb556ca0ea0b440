//! The Arm NEON tier, supported by every 64-bit Arm processor: the portable source with fused multiply-add.
//!
//! Eight lanes are two registers. Tiles of two rows by four outputs use 16 of the 32 registers as accumulators.

use super::kernels::Kernels;
use super::{Tier, portable};

/// The NEON tier.
pub static KERNELS: Kernels = portable::table::<true, 4>(Tier::Neon);
