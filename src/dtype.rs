//! Element types of stored tensors.

use std::fmt;

/// Element type of a tensor in a checkpoint, a page or a buffer. Kernels know the first three; the others exist so
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
    /// Size of one element in bits.
    pub const fn bits(self) -> usize {
        match self {
            DType::F4 => 4,
            DType::F6E2m3 | DType::F6E3m2 => 6,
            DType::Bool | DType::U8 | DType::I8 => 8,
            DType::F8E4m3 | DType::F8E5m2 | DType::F8E8m0 | DType::F8E4m3Fnuz | DType::F8E5m2Fnuz => 8,
            DType::Bf16 | DType::F16 | DType::U16 | DType::I16 => 16,
            DType::F32 | DType::U32 | DType::I32 => 32,
            DType::F64 | DType::C64 | DType::U64 | DType::I64 => 64,
        }
    }

    /// Size of one element in bytes; types smaller than a byte, which kernels do not read, count as one.
    pub const fn size(self) -> usize {
        self.bits().div_ceil(8)
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
        f.write_str(&self.safetensors_name().to_ascii_lowercase())
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
