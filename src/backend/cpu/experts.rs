//! Routed experts on the CPU: choose experts, then for each gather its rows, run three products and add.
//!
//! Experts run in ascending order, so a token's contributions are added in the same order in every batch.

use super::reserve::grow;
use super::{CpuBackend, Experts, Linear, MaxBatchShape, Memory, Operations, Tensor};
use crate::backend::Routing;
use crate::error::Result;

/// Lists used in a step, kept between steps to reuse their memory.
#[derive(Default)]
pub(super) struct Routes {
    /// The routing of one row: (expert, probability).
    probabilities: Vec<(usize, f32)>,
    /// The routing of all rows: (expert, row, weight), sorted by expert and row before use.
    chosen: Vec<(u32, u32, f32)>,
    /// Rows routed to one expert.
    ids: Vec<u32>,
}

impl Routes {
    /// Reserves the lists for steps up to `l`.
    pub fn reserve(&mut self, l: &MaxBatchShape) -> Result<()> {
        grow("the choice of experts", &mut self.probabilities, l.experts)?;
        grow("the choice of experts", &mut self.chosen, l.rows * l.chosen)?;
        grow("the choice of experts", &mut self.ids, if l.experts == 0 { 0 } else { l.rows })
    }

    /// Bytes that [`Routes::reserve`] reserves.
    pub fn bytes(l: &MaxBatchShape) -> u64 {
        let row = l.chosen * size_of::<(u32, u32, f32)>() + if l.experts == 0 { 0 } else { size_of::<u32>() };
        (l.experts * size_of::<(usize, f32)>() + l.rows * row) as u64
    }
}

/// Floats for the rows of one expert: its input, and the outputs of gate and up.
pub fn row_floats(l: &MaxBatchShape) -> usize {
    if l.experts == 0 { 0 } else { l.rows.saturating_mul(l.hidden + 2 * l.expert_inner) }
}

/// The tensor of these; made anew where the backend was not reserved for that many.
fn rows_of_expert(backend: &mut CpuBackend, floats: usize) -> Tensor {
    match backend.expert_rows {
        Some(rows) if backend.buffers[rows.buffer as usize].floats().len() >= floats => rows,
        _ => {
            let rows = backend.alloc(floats, "experts").unwrap_or_else(|error| panic!("{error}"));
            *backend.expert_rows.insert(rows)
        }
    }
}

/// The experts of one row and their weights, from its router logits: the most probable `routing.chosen` experts in
/// descending order.
pub fn route(logits: &[f32], routing: Routing, chosen: &mut Vec<(usize, f32)>) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = logits.iter().map(|l| (l - max).exp()).sum();
    chosen.clear();
    chosen.extend(logits.iter().enumerate().map(|(i, l)| (i, (l - max).exp() / total)));
    // Equal probabilities are ordered by index, so that an unstable sort, which needs no memory, suffices.
    chosen.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    chosen.truncate(routing.chosen);
    if routing.renormalise {
        let sum: f32 = chosen.iter().map(|c| c.1).sum();
        chosen.iter_mut().for_each(|c| c.1 /= sum);
    }
}

/// See [`Operations::experts`].
pub fn run(backend: &mut CpuBackend, args: Experts, rows: usize) {
    let count = args.experts.len();
    let mut routes = std::mem::take(&mut backend.routes);
    let Routes { probabilities, chosen, ids } = &mut routes;
    chosen.clear();
    for row in 0..rows {
        route(backend.floats(args.logits.at(row * count), count), args.routing, probabilities);
        chosen.extend(probabilities.iter().map(|&(expert, weight)| (expert as u32, row as u32, weight)));
    }
    chosen.sort_unstable_by_key(|&(expert, row, _)| (expert, row));
    for members in chosen.chunk_by(|a, b| a.0 == b.0) {
        let expert = &args.experts[members[0].0 as usize];
        let (n, hidden, inner) = (members.len(), expert.down.out_features, expert.gate.out_features);
        let input = rows_of_expert(backend, n * (hidden + 2 * inner));
        let gate = input.at(n * hidden);
        let up = gate.at(n * inner);
        ids.clear();
        ids.extend(members.iter().map(|m| m.1));
        backend.gather_rows(args.x, ids, hidden, input);
        let product = |weight, out| Linear { weight, bias: None, out, accumulate: false };
        backend.gated(input, n, product(expert.gate, gate), product(expert.up, up));
        backend.linear(gate, n, &[product(expert.down, input)]);
        for (i, &(_, row, weight)) in members.iter().enumerate() {
            backend.add_scaled(args.out.at(row as usize * hidden), input.at(i * hidden), weight, hidden);
        }
    }
    backend.routes = routes;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_probable_are_chosen_and_renormalised() {
        let mut chosen = Vec::new();
        let logits = [0.0, 2.0, 1.0, 2.0];
        route(&logits, Routing { chosen: 2, renormalise: true }, &mut chosen);
        assert_eq!(chosen, [(1, 0.5), (3, 0.5)]);
        route(&logits, Routing { chosen: 1, renormalise: false }, &mut chosen);
        let total = 1.0 + 1f32.exp() + 2.0 * 2f32.exp();
        assert_eq!(chosen[0].0, 1);
        assert!((chosen[0].1 - 2f32.exp() / total).abs() < 1e-6);
    }
}
