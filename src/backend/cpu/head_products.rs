//! Products for each head with a part of one matrix; see [`HeadProducts`].

use super::linear::Matrix;
use super::*;
use crate::backend::HeadProducts;

/// Rows of a task, whose results stay in the first-level cache while the matrix passes.
const ROWS: usize = 16;

/// One head and some rows of [`HeadProducts`].
pub struct HeadArgs<'a> {
    /// The matrix of all heads.
    pub weight: Matrix<'a>,
    /// Elements of a row of it.
    pub width: usize,
    /// Rows of the head.
    pub weight_rows: Range<usize>,
    /// Inputs are multiplied with rows, not with columns.
    pub transposed: bool,
    /// Inputs of the first row of `x`, from the head's first element on.
    pub x: &'a [f32],
    /// Elements from one row of inputs to the next.
    pub x_stride: usize,
    /// Inputs of a row.
    pub in_features: usize,
    /// Rows of `x`.
    pub rows: usize,
    /// Results of the first row.
    pub out: *mut f32,
    /// Elements from one row of results to the next.
    pub out_stride: usize,
    /// Results of a row.
    pub out_features: usize,
}

impl HeadArgs<'_> {
    /// The inputs of a row.
    #[inline(always)]
    pub fn input(&self, row: usize) -> &[f32] {
        &self.x[row * self.x_stride..row * self.x_stride + self.in_features]
    }

    /// The results of a row.
    ///
    /// # Safety
    /// `out` covers the rows, which no other task accesses while the slice lives.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "the output is disjoint from everything the arguments borrow")]
    pub unsafe fn result(&self, row: usize) -> &mut [f32] {
        // SAFETY: guaranteed by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.out.add(row * self.out_stride), self.out_features) }
    }
}

impl CpuBackend {
    /// See [`Operations::head_products`].
    pub(super) fn products_of_heads(&mut self, p: &HeadProducts, rows: usize) {
        if rows == 0 {
            return;
        }
        let (x, out, width) = (p.x, p.out, p.weight.in_features);
        let (in_features, out_features) = p.features();
        let beyond = x.dim - in_features;
        assert!(x.heads == out.heads && out.dim == out_features + beyond, "results are as wide as inputs make them");
        assert_ne!(x.tensor.buffer, out.tensor.buffer, "inputs and outputs are tensors apart");
        let last = (x.heads - 1) * p.stride + p.first + p.count;
        assert!(last <= p.weight.out_features, "{last} rows of a matrix of {}", p.weight.out_features);
        let weight = self.weights[p.weight.id as usize].clone();
        let from = Shared(self.floats(x.tensor, x.span(rows)).as_ptr().cast_mut());
        let to = self.shared(out.tensor, out.span(rows));
        let kernels = self.kernels;
        let pieces = rows.div_ceil(ROWS);
        self.ranges(x.heads * pieces, 1, ROWS.min(rows) * p.count * width, &|range, scratch| {
            for (head, piece) in range.map(|item| (item / pieces, item % pieces)) {
                let piece = piece * ROWS..rows.min((piece + 1) * ROWS);
                let inputs = x.at(piece.start, head).start..x.at(piece.end - 1, head).end;
                let args = HeadArgs {
                    weight: weight.matrix(),
                    width,
                    weight_rows: head * p.stride + p.first..head * p.stride + p.first + p.count,
                    transposed: p.transposed,
                    // SAFETY: inside the span; input and output are tensors apart, and no task writes an input.
                    x: unsafe { from.read(inputs) },
                    x_stride: x.row_stride,
                    in_features,
                    rows: piece.len(),
                    // SAFETY: inside the span.
                    out: unsafe { to.start().add(out.at(piece.start, head).start) },
                    out_stride: out.row_stride,
                    out_features,
                };
                // SAFETY: `out` covers the rows, and each head of them is one task's; `new` checked the tier.
                unsafe { (kernels.head_product)(&args, scratch) };
                for row in piece {
                    let (x, out) = (x.at(row, head), out.at(row, head));
                    // SAFETY: as above.
                    unsafe {
                        let beyond = from.read(x.start + in_features..x.end);
                        to.slice(out.start + out_features..out.end).copy_from_slice(beyond);
                    }
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::aligned::AlignedBytes;
    use std::sync::Arc;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as f32 / 32_768.0 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    fn weight(b: &mut CpuBackend, values: &[f32], dtype: DType, [rows, width]: [usize; 2]) -> Weight {
        let bytes: Vec<u8> = match dtype {
            DType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            DType::Bf16 => values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
        };
        let mut held = AlignedBytes::zeroed(bytes.len()).unwrap();
        held.as_mut_slice().copy_from_slice(&bytes);
        b.weight(Arc::new(held), Encoding::Stored(dtype), rows, width).unwrap()
    }

    /// Heads, rows of each that are not multiplied, those that are, width, elements beyond.
    const SHAPES: [[usize; 5]; 4] = [[1, 0, 1, 1, 0], [3, 2, 5, 14, 6], [4, 0, 16, 33, 8], [2, 7, 24, 64, 1]];

    fn run(tier: Tier, threads: usize, shape: [usize; 5], dtype: DType, transposed: bool, rows: usize) -> Vec<f32> {
        let [heads, others, count, width, beyond] = shape;
        let mut b = CpuBackend::new(tier, Compute::F32, threads, ThreadOptions::default()).unwrap();
        let stride = others + count;
        let values = numbers(heads * stride * width, 7);
        let weight = weight(&mut b, &values, dtype, [heads * stride, width]);
        let (ins, outs) = if transposed { (count, width) } else { (width, count) };
        let view = |tensor, dim: usize| Heads { tensor, row_stride: heads * dim + 3, head_stride: dim, heads, dim };
        let x = view(b.alloc(rows * (heads * (ins + beyond) + 3), "x").unwrap(), ins + beyond);
        let out = view(b.alloc(rows * (heads * (outs + beyond) + 3), "out").unwrap(), outs + beyond);
        let inputs = numbers(x.span(rows), 11);
        b.floats_mut(x.tensor, inputs.len()).copy_from_slice(&inputs);
        let products = HeadProducts { weight, first: others, stride, count, transposed, x, out };
        b.head_products(&products, rows);
        (0..rows * heads)
            .flat_map(|i| b.floats(out.tensor, out.span(rows))[out.at(i / heads, i % heads)].to_vec())
            .collect()
    }

    /// In f64, of the very numbers that are stored.
    fn wanted(shape: [usize; 5], dtype: DType, transposed: bool, rows: usize) -> Vec<f64> {
        let [heads, others, count, width, beyond] = shape;
        let stored = |v: f32| match dtype {
            DType::F32 => v,
            DType::Bf16 => half::bf16::from_f32(v).to_f32(),
            _ => half::f16::from_f32(v).to_f32(),
        };
        let values = numbers(heads * (others + count) * width, 7);
        let (ins, outs) = if transposed { (count, width) } else { (width, count) };
        let row_stride = heads * (ins + beyond) + 3;
        let inputs = numbers((rows - 1) * row_stride + heads * (ins + beyond), 11);
        let mut all = Vec::new();
        for (row, head) in (0..rows).flat_map(|row| (0..heads).map(move |head| (row, head))) {
            let x = &inputs[row * row_stride + head * (ins + beyond)..][..ins + beyond];
            let at = |r: usize, c: usize| f64::from(stored(values[(head * (others + count) + others + r) * width + c]));
            let weight = |o: usize, i: usize| if transposed { at(i, o) } else { at(o, i) };
            all.extend((0..outs).map(|o| (0..ins).map(|i| weight(o, i) * f64::from(x[i])).sum::<f64>()));
            all.extend(x[ins..].iter().map(|x| f64::from(*x)));
        }
        all
    }

    #[test]
    fn products_of_heads_agree_with_sums_in_f64() {
        for tier in tiers() {
            for (shape, dtype) in
                SHAPES.into_iter().flat_map(|s| [DType::F32, DType::Bf16, DType::F16].map(|dtype| (s, dtype)))
            {
                for (transposed, rows) in [(false, 1), (true, 1), (false, 5), (true, 37)] {
                    let got = run(tier, 2, shape, dtype, transposed, rows);
                    let want = wanted(shape, dtype, transposed, rows);
                    assert_eq!(got.len(), want.len());
                    for (got, want) in got.iter().zip(&want) {
                        // Sums of at most 64 products below 1.
                        assert!((f64::from(*got) - want).abs() < 1e-5, "{tier:?} {shape:?} {dtype} {transposed}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_neighbours_or_on_threads() {
        for tier in tiers() {
            for (shape, transposed) in SHAPES.into_iter().flat_map(|s| [(s, false), (s, true)]) {
                let all = run(tier, 1, shape, DType::Bf16, transposed, 37);
                for (threads, rows) in [(3, 37), (1, 1), (2, 17)] {
                    let some = run(tier, threads, shape, DType::Bf16, transposed, rows);
                    let same = all.iter().zip(&some).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{tier:?} {shape:?}, {rows} rows on {threads} threads");
                }
            }
        }
    }
}
