//! The operations between the projections and attention: norm and rotary embedding of queries and keys, and storing
//! keys and values in pages, in one pass over each row while it is in the first-level cache.

use super::kv::StoreRows;
use super::*;
use crate::backend::Placement;

impl CpuBackend {
    /// See [`Operations::place_heads`].
    pub(super) fn place_rows(&mut self, placement: &Placement, ragged: Ragged) {
        let rows = ragged.positions.len();
        if rows == 0 {
            return;
        }
        let Placement { q, k, v, rotary, .. } = *placement;
        let angles = rotary.map(|r| (r, Shared(self.floats(r.angles, rows * r.dims).as_ptr().cast_mut())));
        let norms = placement.norms.map(|pair| pair.map(|gain| self.weights[gain.id as usize].clone()));
        let gains = norms.as_ref().map_or([None, None], |[q, k]| [Some(q.elements()), Some(k.elements())]);
        let [q_data, k_data, v_data] = [q, k, v].map(|h| self.shared(h.tensor, h.span(rows)));
        let group = &mut self.groups[placement.pages.0 as usize];
        let store = placement.store.then(|| StoreRows::new(group, self.kernels, placement.layer, k, v));
        let both = [(q, q_data, gains[0]), (k, k_data, gains[1])];
        let placed = &both[..if placement.store { 2 } else { 1 }];
        let (kernels, eps, norm_last) = (self.kernels, placement.eps, placement.norm_last);
        let work = ((q.heads + k.heads) * q.dim + v.heads * v.dim) * 4;
        self.ranges(rows, 1, work, &|range, _| {
            for row in range.clone() {
                // SAFETY: inside the checked tensor, which no task writes.
                let angles = angles.map(|(r, angles)| (r, unsafe { angles.read(row * r.dims..(row + 1) * r.dims) }));
                for &(heads, data, gain) in placed {
                    let norm = |head: &mut [f32]| {
                        if let Some(gain) = gain {
                            // SAFETY: the tier was checked by `new`.
                            unsafe { (kernels.rms_norm)(head, Some(gain), eps) };
                        }
                    };
                    for head in 0..heads.heads {
                        // SAFETY: inside the span; each row belongs to one task, and its heads do not overlap.
                        let head = unsafe { data.slice(heads.at(row, head)) };
                        if !norm_last {
                            norm(head);
                        }
                        if let Some((rotary, angles)) = angles {
                            let turned = &mut head[rotary.start..rotary.start + rotary.dims];
                            rotary::rotate(turned, angles, rotary.interleaved);
                        }
                        if norm_last {
                            norm(head);
                        }
                    }
                }
            }
            if let Some(store) = &store {
                // SAFETY: the keys of these rows are final, no task writes values, and each row is a different token.
                unsafe { store.rows(ragged, range, k_data, v_data) };
            }
        });
    }
}
