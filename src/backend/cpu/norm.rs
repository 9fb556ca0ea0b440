//! Norms of rows, and of heads inside them.

use super::*;

/// The vectors of a norm while tasks read them.
struct Vectors {
    gain: Option<StoredWeight>,
    bias: Option<StoredWeight>,
}

impl CpuBackend {
    fn norm_vectors(&self, norm: &Norm) -> Vectors {
        let of = |vector: Option<Weight>| vector.map(|v| self.weights[v.id as usize].clone());
        Vectors { gain: of(norm.gain), bias: of(norm.bias) }
    }

    /// See [`Operations::norm`].
    pub(super) fn norm_rows(&mut self, x: Tensor, norm: &Norm, width: usize, rows: usize, out: Tensor) {
        let (kernels, vectors) = (self.kernels, self.norm_vectors(norm));
        let from = Shared(self.floats(x, rows * width).as_ptr().cast_mut());
        let to = self.shared(out, rows * width);
        let same = x == out;
        self.ranges(rows, 1, width * 4, &|range, _| {
            for row in range {
                let part = row * width..(row + 1) * width;
                // SAFETY: each row belongs to one task; input and output are identical or do not overlap.
                let y = unsafe { to.slice(part.clone()) };
                if !same {
                    // SAFETY: as above; no task writes the input.
                    y.copy_from_slice(unsafe { from.read(part) });
                }
                vectors.apply(kernels, norm, y);
            }
        });
    }

    /// See [`Operations::norm_heads`].
    pub(super) fn norm_each_head(&mut self, x: Heads, norm: &Norm, rows: usize) {
        if rows == 0 {
            return;
        }
        let (kernels, vectors) = (self.kernels, self.norm_vectors(norm));
        let data = self.shared(x.tensor, x.span(rows));
        self.ranges(rows, 1, x.heads * x.dim * 4, &|range, _| {
            for (row, head) in range.flat_map(|row| (0..x.heads).map(move |head| (row, head))) {
                // SAFETY: inside the span; each row belongs to one task, and its heads do not overlap.
                vectors.apply(kernels, norm, unsafe { data.slice(x.at(row, head)) });
            }
        });
    }
}

impl Vectors {
    /// Norms one row.
    fn apply(&self, kernels: &Kernels, norm: &Norm, row: &mut [f32]) {
        // SAFETY: `CpuBackend::new`, which alone makes backends, checked the tier.
        unsafe {
            if norm.centred {
                (kernels.centre)(row);
            }
            (kernels.rms_norm)(row, self.gain.as_ref().map(StoredWeight::elements), norm.eps);
        }
        if let Some(bias) = self.bias.as_ref().map(StoredWeight::elements) {
            row.iter_mut().enumerate().for_each(|(i, y)| *y += bias.get(i));
        }
    }
}
