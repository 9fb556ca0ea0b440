//! Element types of stored tensors.

use std::fmt;
use std::num::NonZeroU32;

/// Element type of a tensor in a checkpoint, a page or a buffer. Kernels know the first three, blocks and scaled 8-bit floats; the others exist so
/// that every tensor of a checkpoint can be listed, checked and, where a family says so, ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// The upper half of binary32.
    Bf16,
    /// IEEE binary16.
    F16,
    /// IEEE binary64.
    F64,
    /// Two binary32: a complex number.
    C64,
    /// 8-bit float, 4 exponent bits.
    F8E4m3,
    /// 8-bit float, 5 exponent bits.
    F8E5m2,
    /// 8-bit power of two.
    F8E8m0,
    /// 8-bit float, 4 exponent bits, no infinities and one zero.
    F8E4m3Fnuz,
    /// 8-bit float, 5 exponent bits, no infinities and one zero.
    F8E5m2Fnuz,
    /// 6-bit float, 2 exponent bits.
    F6E2m3,
    /// 6-bit float, 3 exponent bits.
    F6E3m2,
    /// 4-bit float.
    F4,
    /// A byte that is 0 or 1.
    Bool,
    /// Unsigned byte.
    U8,
    /// Signed byte.
    I8,
    /// Unsigned 16-bit integer.
    U16,
    /// Signed 16-bit integer.
    I16,
    /// Unsigned 32-bit integer.
    U32,
    /// Signed 32-bit integer.
    I32,
    /// Unsigned 64-bit integer.
    U64,
    /// Signed 64-bit integer.
    I64,
    /// Blocks of quantized weights as GGUF files have them.
    Blocks(BlockFormat),
    /// Rows of [`DType::F8E4m3`] with an f32 scale for each group of so many, as [`crate::encoding::f8`] lays them out.
    ScaledF8(NonZeroU32),
}

/// Formats of blocks in GGUF files. A block is some consecutive weights of a row; a weight is `scale * integer - minimum`, and
/// each part of a block has a scale and a minimum of its own. [`crate::encoding::blocks`] decodes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockFormat {
    /// 4 bits and a scale for 32 weights.
    Q4_0,
    /// 4 bits, a scale and a minimum for 32 weights.
    Q4_1,
    /// 5 bits and a scale for 32 weights.
    Q5_0,
    /// 5 bits, a scale and a minimum for 32 weights.
    Q5_1,
    /// 8 bits and a scale for 32 weights.
    Q8_0,
    /// 2 bits, scales and minima of 4 bits for 16 weights, 256 in a block.
    Q2K,
    /// 3 bits, scales of 6 bits for 16 weights, 256 in a block.
    Q3K,
    /// 4 bits, scales and minima of 6 bits for 32 weights, 256 in a block.
    Q4K,
    /// 5 bits, scales and minima of 6 bits for 32 weights, 256 in a block.
    Q5K,
    /// 6 bits, scales of 8 bits for 16 weights, 256 in a block.
    Q6K,
    /// Codes of 4 bits into a table, and a scale for 32 weights.
    Iq4Nl,
    /// The same codes, scales of 6 bits for 32 weights, 256 in a block.
    Iq4Xs,
    /// 4-bit floats and a power of two for 32 weights.
    Mxfp4,
}

impl BlockFormat {
    /// All formats.
    pub const ALL: [BlockFormat; 13] = [
        BlockFormat::Q4_0,
        BlockFormat::Q4_1,
        BlockFormat::Q5_0,
        BlockFormat::Q5_1,
        BlockFormat::Q8_0,
        BlockFormat::Q2K,
        BlockFormat::Q3K,
        BlockFormat::Q4K,
        BlockFormat::Q5K,
        BlockFormat::Q6K,
        BlockFormat::Iq4Nl,
        BlockFormat::Iq4Xs,
        BlockFormat::Mxfp4,
    ];

    /// Weights and bytes of a block, and its name in the format's documentation.
    const fn facts(self) -> (usize, usize, &'static str) {
        match self {
            BlockFormat::Q4_0 => (32, 18, "q4_0"),
            BlockFormat::Q4_1 => (32, 20, "q4_1"),
            BlockFormat::Q5_0 => (32, 22, "q5_0"),
            BlockFormat::Q5_1 => (32, 24, "q5_1"),
            BlockFormat::Q8_0 => (32, 34, "q8_0"),
            BlockFormat::Q2K => (256, 84, "q2_k"),
            BlockFormat::Q3K => (256, 110, "q3_k"),
            BlockFormat::Q4K => (256, 144, "q4_k"),
            BlockFormat::Q5K => (256, 176, "q5_k"),
            BlockFormat::Q6K => (256, 210, "q6_k"),
            BlockFormat::Iq4Nl => (32, 18, "iq4_nl"),
            BlockFormat::Iq4Xs => (256, 136, "iq4_xs"),
            BlockFormat::Mxfp4 => (32, 17, "mxfp4"),
        }
    }

    /// Weights of a block.
    pub const fn weights(self) -> usize {
        self.facts().0
    }

    /// Bytes of a block.
    pub const fn bytes(self) -> usize {
        self.facts().1
    }

    /// Weights that share a scale and a minimum: 16 or 32.
    pub const fn part(self) -> usize {
        match self {
            BlockFormat::Q2K | BlockFormat::Q3K | BlockFormat::Q6K => 16,
            _ => 32,
        }
    }

    /// Whether weights have minima.
    pub const fn has_minima(self) -> bool {
        use BlockFormat::{Q2K, Q4_1, Q4K, Q5_1, Q5K};
        matches!(self, Q4_1 | Q5_1 | Q2K | Q4K | Q5K)
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        self.facts().2
    }
}

/// Every element type with the name the safetensors format gives it.
const SAFETENSORS_NAMES: [(DType, &str); 22] = [
    (DType::F32, "F32"),
    (DType::Bf16, "BF16"),
    (DType::F16, "F16"),
    (DType::F64, "F64"),
    (DType::C64, "C64"),
    (DType::F8E4m3, "F8_E4M3"),
    (DType::F8E5m2, "F8_E5M2"),
    (DType::F8E8m0, "F8_E8M0"),
    (DType::F8E4m3Fnuz, "F8_E4M3FNUZ"),
    (DType::F8E5m2Fnuz, "F8_E5M2FNUZ"),
    (DType::F6E2m3, "F6_E2M3"),
    (DType::F6E3m2, "F6_E3M2"),
    (DType::F4, "F4"),
    (DType::Bool, "BOOL"),
    (DType::U8, "U8"),
    (DType::I8, "I8"),
    (DType::U16, "U16"),
    (DType::I16, "I16"),
    (DType::U32, "U32"),
    (DType::I32, "I32"),
    (DType::U64, "U64"),
    (DType::I64, "I64"),
];

impl DType {
    /// Size of one element in bits, with its share of scales, rounded up.
    pub const fn bits(self) -> usize {
        match self {
            DType::F4 => 4,
            DType::F6E2m3 | DType::F6E3m2 => 6,
            DType::Bool | DType::U8 | DType::I8 => 8,
            DType::F8E4m3 | DType::F8E5m2 | DType::F8E8m0 | DType::F8E4m3Fnuz | DType::F8E5m2Fnuz => 8,
            DType::Bf16 | DType::F16 | DType::U16 | DType::I16 => 16,
            DType::F32 | DType::U32 | DType::I32 => 32,
            DType::F64 | DType::C64 | DType::U64 | DType::I64 => 64,
            DType::Blocks(format) => (format.bytes() * 8).div_ceil(format.weights()),
            DType::ScaledF8(group) => 8 + 32usize.div_ceil(group.get() as usize),
        }
    }

    /// Size of one element in bytes, which is also its alignment; types smaller than a byte, which kernels do not read, blocks and
    /// rows with scales count as one.
    pub const fn size(self) -> usize {
        match self {
            DType::Blocks(_) | DType::ScaledF8(_) => 1,
            _ => self.bits().div_ceil(8),
        }
    }

    /// Bytes of `elements` consecutive elements of a row, of all where it has scales; `None` where they are no whole blocks, or too
    /// many.
    pub const fn bytes(self, elements: usize) -> Option<usize> {
        match self {
            DType::Blocks(format) if !elements.is_multiple_of(format.weights()) => None,
            DType::Blocks(format) => (elements / format.weights()).checked_mul(format.bytes()),
            DType::ScaledF8(group) => match elements.div_ceil(group.get() as usize).checked_mul(4) {
                Some(scales) => elements.checked_add(scales),
                None => None,
            },
            _ => elements.checked_mul(self.size()),
        }
    }

    /// Whether kernels compute with weights of this type.
    pub const fn is_weight(self) -> bool {
        matches!(self, DType::F32 | DType::Bf16 | DType::F16 | DType::Blocks(_) | DType::ScaledF8(_))
    }

    /// The type a safetensors header means by `name`.
    pub fn from_safetensors(name: &str) -> Option<DType> {
        SAFETENSORS_NAMES.iter().find(|(_, known)| *known == name).map(|(dtype, _)| *dtype)
    }

    /// What a safetensors header calls it.
    pub fn safetensors_name(self) -> &'static str {
        SAFETENSORS_NAMES.iter().find(|(dtype, _)| *dtype == self).map_or("?", |(_, name)| name)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DType::Blocks(format) => f.write_str(format.name()),
            DType::ScaledF8(_) => DType::F8E4m3.fmt(f),
            _ => f.write_str(&self.safetensors_name().to_ascii_lowercase()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_round_trips() {
        for (dtype, name) in SAFETENSORS_NAMES {
            assert_eq!(DType::from_safetensors(name), Some(dtype));
            assert_eq!(dtype.to_string(), name.to_ascii_lowercase());
        }
        assert_eq!(DType::from_safetensors("f32"), None);
        assert_eq!((DType::Bf16.size(), DType::F32.size(), DType::F4.size()), (2, 4, 1));
    }
}
