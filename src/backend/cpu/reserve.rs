//! Memory that steps need beside their tensors: scratch of each thread, lists and partial results. It is sized for the
//! largest step and reserved before the first ([`Memory::reserve`]), so that steps do not
//! allocate and lack of memory is an error of opening an engine.
//!
//! [`scratch_bytes`] and the reservation both use [`ReserveSizes`], so that a memory plan and the engine opened from it
//! agree. The sizes are upper bounds over all tiers except the reference, which alone stores the scores of all keys of
//! a query. A backend without a reservation works too: its lists grow on demand, and attention is not split into spans.

use super::attention::running::Running;
use super::attention::{BLOCK, CutSizes, queries_max};
use super::experts::{self, Routes};
use super::linear::converted_bytes;
use super::memory::Buffer;
use super::recurrent::{self, Run};
use super::sampling::SamplingState;
use super::{CpuBackend, MaxBatchShape, Memory, Step, Tier};
use crate::encoding::PANEL;
use crate::error::{Error, Result};

/// Bytes that [`Memory::reserve`] will reserve with `threads` threads on `tier`.
pub fn scratch_bytes(tier: Tier, threads: usize, max_shape: &MaxBatchShape) -> u64 {
    ReserveSizes::of(tier, threads, max_shape).bytes()
}

struct ReserveSizes {
    threads: usize,
    /// Floats of scratch per thread.
    scratch: usize,
    /// Entries of the candidate lists of all threads ([`super::best`]).
    best: usize,
    cut: CutSizes,
    /// Bytes of the converted inputs of a product.
    converted: usize,
    /// Bytes of the lists of routed experts, and floats of the rows of one.
    routes: u64,
    expert_rows: usize,
    /// Sequences of operations on states.
    runs: usize,
    /// Bytes that sampling needs.
    sampling: u64,
}

impl ReserveSizes {
    fn of(tier: Tier, threads: usize, l: &MaxBatchShape) -> ReserveSizes {
        // Sixteen weight rows as f32, or 32 as bf16 in whole tiles of 32 columns, plus room to align them.
        let product = PANEL.saturating_mul(l.in_features.next_multiple_of(32)) + 16;
        let queries = queries_max(l.heads_per_kv);
        // Two running states, then either a block of widened keys and values or the packed queries with their factors.
        let form = (BLOCK * (l.k_dim + l.v_dim)).max(queries * (l.k_dim + 1));
        let attention = 2 * Running::floats(queries, l.v_dim) + form + 16;
        let scores = if tier == Tier::Reference { l.k_dim + l.v_dim + l.positions.max(l.rows) } else { 0 };
        let states = if l.conv_kernel == 0 { 0 } else { recurrent::scratch_floats(l.conv_kernel, l.state_dim, l.rows) };
        ReserveSizes {
            threads,
            scratch: product.max(attention).max(scores).max(states),
            runs: if l.conv_kernel == 0 { 0 } else { l.sequences },
            best: threads.saturating_mul(l.best),
            cut: CutSizes::of(threads, l),
            converted: converted_bytes(l.rows.max(l.logits_rows), l.in_features),
            routes: Routes::bytes(l),
            expert_rows: experts::row_floats(l),
            sampling: SamplingState::bytes(threads, l),
        }
    }

    fn bytes(&self) -> u64 {
        let scratch = self.threads.saturating_mul(self.scratch).saturating_mul(size_of::<f32>());
        let best = self.best.saturating_mul(size_of::<(f32, u32)>());
        let rows = self.expert_rows.saturating_mul(size_of::<f32>()).saturating_add(self.converted);
        let runs = self.runs.saturating_mul(size_of::<Run>());
        [scratch as u64, best as u64, rows as u64, runs as u64, self.cut.bytes(), self.routes, self.sampling]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

impl CpuBackend {
    /// See [`Memory::reserve`].
    pub(super) fn reserve_scratch(&mut self, max_shape: &MaxBatchShape) -> Result<()> {
        let sizes = ReserveSizes::of(self.tier(), self.threads(), max_shape);
        for scratch in &mut self.scratch {
            grow("the scratch of a thread", scratch.0.get_mut(), sizes.scratch)?;
        }
        grow("the largest logits", &mut self.best, sizes.best)?;
        grow("the sequences of a step", &mut self.runs, sizes.runs)?;
        self.cut.reserve(&sizes.cut)?;
        self.routes.reserve(max_shape)?;
        self.converted = Some(Buffer::zeroed(sizes.converted, "inputs of products")?);
        self.expert_rows = match sizes.expert_rows {
            0 => None,
            floats => Some(self.alloc(floats, "experts")?),
        };
        self.step = Step::with_capacity(max_shape)?;
        let threads = self.threads();
        self.sampling.reserve(threads, max_shape)?;
        self.reserved = sizes.bytes();
        Ok(())
    }
}

/// Clears `list` and gives it capacity for `count` entries; `Memory` if that cannot be allocated.
pub(super) fn grow<T>(what: &str, list: &mut Vec<T>, count: usize) -> Result<()> {
    list.clear();
    let bytes = (count as u64).saturating_mul(size_of::<T>() as u64);
    list.try_reserve_exact(count).map_err(|_| Error::memory(what, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Compute;
    use crate::error::{Status, Unit};
    use crate::limits;
    use crate::os::thread::ThreadOptions;

    #[test]
    fn memory_that_is_not_there_is_an_error_and_partial_results_have_a_bound() {
        let mut backend = CpuBackend::new(Tier::Portable, Compute::F32, 2, ThreadOptions::default()).unwrap();
        let usual = MaxBatchShape {
            rows: 16,
            positions: 2048,
            in_features: 512,
            heads_per_kv: 4,
            v_dim: 64,
            ..MaxBatchShape::default()
        };
        for max_shape in [MaxBatchShape { best: 1 << 55, ..usual }, MaxBatchShape { in_features: 1 << 55, ..usual }] {
            let error = backend.reserve(&max_shape).unwrap_err();
            assert_eq!((error.status, error.unit), (Status::Memory, Unit::Bytes), "{error}");
            assert!(error.needed >= 1 << 57);
        }
        backend.reserve(&usual).unwrap();
        assert_eq!(backend.reserved().scratch, scratch_bytes(Tier::Portable, 2, &usual));
        let bytes = |positions| scratch_bytes(Tier::Portable, 2, &MaxBatchShape { positions, ..usual });
        assert!(bytes(1) < bytes(2048), "longer sequences are cut");
        assert!(bytes(limits::CONTEXT_MAX) - bytes(1) <= 2 * limits::ATTENTION_PARTS_BYTES as u64);
    }
}
