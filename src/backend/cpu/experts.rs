//! Routed experts on the CPU: choose, gather the rows of each expert, three products, add.
//!
//! Experts run in ascending order, so a token's contributions are added in that order whoever its neighbours are.

use super::{Backend, CpuBackend, Experts, Linear};
use crate::backend::Routing;

/// The experts a row chose, with their weights.
pub fn route(logits: &[f32], routing: Routing, chosen: &mut Vec<(usize, f32)>) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = logits.iter().map(|l| (l - max).exp()).sum();
    chosen.clear();
    chosen.extend(logits.iter().enumerate().map(|(i, l)| (i, (l - max).exp() / total)));
    // Ties go to the lower index.
    chosen.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    chosen.truncate(routing.chosen);
    if routing.renormalise {
        let sum: f32 = chosen.iter().map(|c| c.1).sum();
        chosen.iter_mut().for_each(|c| c.1 /= sum);
    }
}

/// See [`Backend::experts`].
pub fn run(backend: &mut CpuBackend, args: Experts, rows: usize) {
    let count = args.experts.len();
    let logits = backend.floats(args.logits, rows * count).to_vec();
    let mut members: Vec<Vec<(u32, f32)>> = vec![Vec::new(); count];
    let mut chosen = Vec::new();
    for row in 0..rows {
        route(&logits[row * count..(row + 1) * count], args.routing, &mut chosen);
        for &(expert, weight) in &chosen {
            members[expert].push((row as u32, weight));
        }
    }
    for (expert, members) in args.experts.iter().zip(&members) {
        if members.is_empty() {
            continue;
        }
        let (n, hidden, inner) = (members.len(), expert.down.outs, expert.gate.outs);
        let input = args.scratch;
        let gate = input.at(n * hidden);
        let up = gate.at(n * inner);
        let ids: Vec<u32> = members.iter().map(|m| m.0).collect();
        backend.gather(args.x, &ids, hidden, input);
        let product = |weight, out| Linear { weight, bias: None, out, accumulate: false };
        backend.gated(input, n, product(expert.gate, gate), product(expert.up, up), args.products);
        backend.linear(gate, n, &[product(expert.down, input)], args.products);
        for (i, &(row, weight)) in members.iter().enumerate() {
            backend.add_scaled(args.out.at(row as usize * hidden), input.at(i * hidden), weight, hidden);
        }
    }
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
