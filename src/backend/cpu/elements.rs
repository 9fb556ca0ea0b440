//! Operations on elements, split among tasks.

use super::*;

impl CpuBackend {
    /// Applies `f` to all parts of a tensor, in parallel.
    pub(super) fn each_part(&mut self, x: Tensor, elements: usize, f: &(dyn Fn(&mut [f32]) + Sync)) {
        let x = self.shared(x, elements);
        self.ranges(elements.div_ceil(ELEMENTS_PER_TASK), 1, ELEMENTS_PER_TASK * 4, &|range, _| {
            let part = range.start * ELEMENTS_PER_TASK..elements.min(range.end * ELEMENTS_PER_TASK);
            // SAFETY: the parts are disjoint and inside the tensor.
            f(unsafe { x.slice(part) });
        });
    }

    /// Applies `f` to corresponding parts of two tensors, in parallel. The tensors must not overlap.
    pub(super) fn each_pair(&mut self, x: Tensor, y: Tensor, elements: usize, f: &(dyn Fn(&mut [f32], &[f32]) + Sync)) {
        let y = Shared(self.floats(y, elements).as_ptr().cast_mut());
        let x = self.shared(x, elements);
        self.ranges(elements.div_ceil(ELEMENTS_PER_TASK), 1, ELEMENTS_PER_TASK * 4, &|range, _| {
            let part = range.start * ELEMENTS_PER_TASK..elements.min(range.end * ELEMENTS_PER_TASK);
            // SAFETY: the parts are disjoint and inside both tensors, which do not overlap.
            unsafe { f(x.slice(part.clone()), y.read(part)) };
        });
    }

    /// `gate[i] = activation(gate[i]) * up[i]` over `elements`.
    pub(super) fn gate(&mut self, gate: Tensor, up: Tensor, activation: Activation, elements: usize) {
        let kernels = self.kernels;
        // SAFETY: the tier was checked by `new`.
        self.each_pair(gate, up, elements, &|g, u| unsafe { (kernels.gate)(g, u, activation) });
    }

    /// See [`Operations::gate_mul`].
    pub(super) fn multiply_gates(&mut self, x: Tensor, dim: usize, gate: Heads, gating: Gating, rows: usize) {
        if rows == 0 {
            return;
        }
        let (kernels, width) = (self.kernels, gate.heads * dim);
        let gates = Shared(self.floats(gate.tensor, gate.span(rows)).as_ptr().cast_mut());
        let x = self.shared(x, rows * width);
        self.ranges(rows, 1, width * 4, &|range, _| {
            for (row, head) in range.flat_map(|row| (0..gate.heads).map(move |head| (row, head))) {
                let at = row * width + head * dim;
                // SAFETY: inside both tensors, which do not overlap; each row belongs to one task.
                let (x, gate) = unsafe { (x.slice(at..at + dim), gates.read(gate.at(row, head))) };
                match gate {
                    &[gate] => {
                        let sigmoid = 1.0 / (1.0 + portable::exp::<true>(-gate));
                        let factor = match gating {
                            Gating::Sigmoid => sigmoid,
                            Gating::Silu => gate * sigmoid,
                            Gating::Plain => gate,
                        };
                        x.iter_mut().for_each(|x| *x *= factor);
                    }
                    gate => {
                        if gating != Gating::Plain {
                            // SAFETY: the tier was checked by `new`.
                            unsafe { (kernels.sigmoid_mul)(x, gate) };
                        }
                        if gating != Gating::Sigmoid {
                            x.iter_mut().zip(gate).for_each(|(x, gate)| *x *= gate);
                        }
                    }
                }
            }
        });
    }
}
