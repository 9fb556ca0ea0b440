//! The types of a GGUF file's tensors, by number.

use crate::dtype::{BlockFormat, DType};

/// A type that has a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// One that can be listed and, where kernels have it, computed with.
    Read(DType),
    /// One that exists, by its name.
    Named(&'static str),
}

/// Numbers with what they stand for: `enum ggml_type` of ggml.h.
const TYPES: [(u32, Known); 38] = [
    (0, Known::Read(DType::F32)),
    (1, Known::Read(DType::F16)),
    (2, Known::Read(DType::Blocks(BlockFormat::Q4_0))),
    (3, Known::Read(DType::Blocks(BlockFormat::Q4_1))),
    (6, Known::Read(DType::Blocks(BlockFormat::Q5_0))),
    (7, Known::Read(DType::Blocks(BlockFormat::Q5_1))),
    (8, Known::Read(DType::Blocks(BlockFormat::Q8_0))),
    (9, Known::Named("Q8_1")),
    (10, Known::Read(DType::Blocks(BlockFormat::Q2K))),
    (11, Known::Read(DType::Blocks(BlockFormat::Q3K))),
    (12, Known::Read(DType::Blocks(BlockFormat::Q4K))),
    (13, Known::Read(DType::Blocks(BlockFormat::Q5K))),
    (14, Known::Read(DType::Blocks(BlockFormat::Q6K))),
    (15, Known::Named("Q8_K")),
    (16, Known::Named("IQ2_XXS")),
    (17, Known::Named("IQ2_XS")),
    (18, Known::Named("IQ3_XXS")),
    (19, Known::Named("IQ1_S")),
    (20, Known::Read(DType::Blocks(BlockFormat::Iq4Nl))),
    (21, Known::Named("IQ3_S")),
    (22, Known::Named("IQ2_S")),
    (23, Known::Read(DType::Blocks(BlockFormat::Iq4Xs))),
    (24, Known::Read(DType::I8)),
    (25, Known::Read(DType::I16)),
    (26, Known::Read(DType::I32)),
    (27, Known::Read(DType::I64)),
    (28, Known::Read(DType::F64)),
    (29, Known::Named("IQ1_M")),
    (30, Known::Read(DType::Bf16)),
    (31, Known::Named("Q4_0_4_4")),
    (32, Known::Named("Q4_0_4_8")),
    (33, Known::Named("Q4_0_8_8")),
    (34, Known::Named("TQ1_0")),
    (35, Known::Named("TQ2_0")),
    (39, Known::Read(DType::Blocks(BlockFormat::Mxfp4))),
    (40, Known::Named("NVFP4")),
    (41, Known::Named("Q1_0")),
    (42, Known::Named("Q2_0")),
];

/// The type of this number.
pub fn known(number: u32) -> Option<Known> {
    TYPES.iter().find(|(known, _)| *known == number).map(|(_, known)| *known)
}
