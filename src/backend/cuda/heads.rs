//! Products for each head with a part of one matrix: launch parameters.

use super::attention::HeadsArg;
use super::forms::pitch;
use super::kernels::{Shape, arg};
use super::state::{CudaBackend, Format};
use crate::backend::HeadProducts;
use crate::error::Error;

/// Rows of input of a block. Must match `kernels/heads.cu`.
const ROWS: usize = 8;

/// Must match `HeadProducts` of the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
struct HeadProductsArg {
    weight: u64,
    pitch: i64,
    x: HeadsArg,
    out: HeadsArg,
    first: i32,
    stride: i32,
    count: i32,
    width: i32,
    transposed: i32,
    rows: i32,
}

impl CudaBackend {
    /// See [`crate::backend::Operations::head_products`].
    pub(super) fn products_of_heads(&mut self, p: &HeadProducts, rows: usize) {
        if rows == 0 {
            return;
        }
        let (in_features, out_features) = p.features();
        assert!(p.x.heads == p.out.heads && p.x.dim >= in_features, "inputs are in heads of at least their width");
        assert_eq!(p.out.dim - out_features, p.x.dim - in_features, "results are as wide as inputs make them");
        assert_ne!(p.x.tensor.buffer, p.out.tensor.buffer, "inputs and outputs are tensors apart");
        let last = (p.x.heads - 1) * p.stride + p.first + p.count;
        assert!(last <= p.weight.out_features, "{last} rows of a matrix of {}", p.weight.out_features);
        let (stored, width) = (self.stored(p.weight), p.weight.in_features);
        let (function, pitch) = match stored.format {
            Format::Bf16 => (self.kernels.head_products_bf16, pitch(width)),
            Format::F32 => (self.kernels.head_products_f32, width),
            format => return self.note(Err(Error::internal(format!("products of heads with weights in {format:?}")))),
        };
        let args = HeadProductsArg {
            weight: stored.matrix,
            pitch: pitch as i64,
            x: self.heads_arg(p.x, rows),
            out: self.heads_arg(p.out, rows),
            first: p.first as i32,
            stride: p.stride as i32,
            count: p.count as i32,
            width: width as i32,
            transposed: i32::from(p.transposed),
            rows: rows as i32,
        };
        let shape = Shape { grid: [rows.div_ceil(ROWS), p.x.heads, 1], block: 128, shared: 0 };
        // SAFETY: the one parameter of these kernels; both places and the rows of the matrix were checked.
        unsafe { self.submit(function, shape, &mut [arg(&args)]) };
        self.wrote(p.out.tensor);
    }
}
