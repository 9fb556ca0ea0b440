//! Routed experts on the CPU: choose experts, then for each gather its rows, run three products and add.
//!
//! Experts run in ascending order, so a token's contributions are added in the same order in every batch.

use super::kernels::Elements;
use super::reserve::grow;
use super::{CpuBackend, Experts, Linear, MaxBatchShape, Memory, Operations, StoredWeight, Tensor};
use crate::backend::{RouterGroups, RouterScore, Routing};
use crate::error::Result;
use std::cmp::Ordering;

/// Lists used in a step, kept between steps to reuse their memory.
#[derive(Default)]
pub(super) struct Routes {
    /// The routing of one row.
    scored: Scored,
    /// The routing of all rows: (expert, row, weight), sorted by expert and row before use.
    chosen: Vec<(u32, u32, f32)>,
    /// Rows routed to one expert.
    ids: Vec<u32>,
}

impl Routes {
    /// Reserves the lists for steps up to `l`.
    pub fn reserve(&mut self, l: &MaxBatchShape) -> Result<()> {
        grow("the choice of experts", &mut self.scored.experts, l.experts)?;
        grow("the choice of experts", &mut self.scored.groups, l.experts)?;
        grow("the choice of experts", &mut self.chosen, l.rows * l.chosen)?;
        grow("the choice of experts", &mut self.ids, if l.experts == 0 { 0 } else { l.rows })
    }

    /// Bytes that [`Routes::reserve`] reserves.
    pub fn bytes(l: &MaxBatchShape) -> u64 {
        let row = l.chosen * size_of::<(u32, u32, f32)>() + if l.experts == 0 { 0 } else { size_of::<u32>() };
        (l.experts * (size_of::<Candidate>() + size_of::<(f32, usize)>()) + l.rows * row) as u64
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

/// An expert that may be chosen for a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Its index.
    pub expert: usize,
    /// How good it is for the choice.
    rank: f32,
    /// The weight of its result.
    pub weight: f32,
}

/// The experts of a row and the groups they are in.
#[derive(Debug, Default)]
pub struct Scored {
    /// All experts while they are scored, those chosen afterwards, the best first.
    pub experts: Vec<Candidate>,
    /// How good each group is, and which it is.
    groups: Vec<(f32, usize)>,
}

/// Vectors that a router has beside its logits.
#[derive(Clone, Copy, Default)]
pub struct RouterVectors<'a> {
    /// See [`Experts::choice_bias`].
    pub choice_bias: Option<Elements<'a>>,
    /// See [`Experts::expert_scale`].
    pub expert_scale: Option<Elements<'a>>,
}

/// Best first; equals by index, so that an unstable sort, which needs no memory, suffices.
fn better(a: (f32, usize), b: (f32, usize)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Chooses the experts of one row by its router logits: the best first.
pub fn route(logits: &[f32], routing: Routing, vectors: RouterVectors, scored: &mut Scored) {
    let Scored { experts, groups } = scored;
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = match routing.score {
        RouterScore::Softmax => logits.iter().map(|l| (l - max).exp()).sum(),
        RouterScore::Sigmoid => 1.0,
    };
    experts.clear();
    // Where probabilities alone decide, logits do, of which fewer are equal.
    let by_logit = routing.score == RouterScore::Softmax && routing.groups.is_none() && vectors.choice_bias.is_none();
    experts.extend(logits.iter().enumerate().map(|(expert, l)| {
        let weight = match routing.score {
            RouterScore::Softmax => (l - max).exp() / total,
            RouterScore::Sigmoid => 1.0 / (1.0 + (-l).exp()),
        };
        let biased = weight + vectors.choice_bias.map_or(0.0, |bias| bias.get(expert));
        Candidate { expert, rank: if by_logit { *l } else { biased }, weight }
    }));
    let sort =
        |experts: &mut [Candidate]| experts.sort_unstable_by(|a, b| better((a.rank, a.expert), (b.rank, b.expert)));
    if let Some(RouterGroups { count, chosen, best }) = routing.groups {
        let size = experts.len() / count;
        groups.clear();
        groups.extend(experts.chunks_exact_mut(size).enumerate().map(|(group, members)| {
            sort(members);
            (members.iter().take(best).map(|m| m.rank).sum::<f32>(), group)
        }));
        groups.sort_unstable_by(|a, b| better(*a, *b));
        groups.truncate(chosen);
        experts.retain(|e| groups.iter().any(|(_, group)| *group == e.expert / size));
    }
    sort(experts);
    experts.truncate(routing.chosen);
    if routing.renormalise {
        let sum: f32 = experts.iter().map(|e| e.weight).sum::<f32>() + routing.epsilon;
        experts.iter_mut().for_each(|e| e.weight /= sum);
    }
    for e in experts {
        e.weight *= routing.factor * vectors.expert_scale.map_or(1.0, |scale| scale.get(e.expert));
    }
}

/// See [`Operations::experts`].
pub fn run(backend: &mut CpuBackend, args: Experts, rows: usize) {
    let count = args.experts.len();
    let mut routes = std::mem::take(&mut backend.routes);
    let Routes { scored, chosen, ids } = &mut routes;
    let [bias, scale] =
        [args.choice_bias, args.expert_scale].map(|v| v.map(|v| backend.weights[v.id as usize].clone()));
    let vectors = RouterVectors {
        choice_bias: bias.as_ref().map(StoredWeight::elements),
        expert_scale: scale.as_ref().map(StoredWeight::elements),
    };
    chosen.clear();
    for row in 0..rows {
        route(backend.floats(args.logits.at(row * count), count), args.routing, vectors, scored);
        chosen.extend(scored.experts.iter().map(|e| (e.expert as u32, row as u32, e.weight)));
    }
    chosen.sort_unstable_by_key(|&(expert, row, _)| (expert, row));
    for members in chosen.chunk_by(|a, b| a.0 == b.0) {
        let expert = &args.experts[members[0].0 as usize];
        let (n, hidden, inner) = (members.len(), expert.down.0.out_features, expert.up.0.out_features);
        let input = rows_of_expert(backend, n * (hidden + 2 * inner));
        let gate = input.at(n * hidden);
        let up = gate.at(n * inner);
        ids.clear();
        ids.extend(members.iter().map(|m| m.1));
        backend.gather_rows(args.x, ids, hidden, input);
        let product = |(weight, bias), out| Linear { weight, bias, out, accumulate: false };
        match expert.gate {
            Some(matrix) => backend.gated(input, n, product(matrix, gate), product(expert.up, up), args.activation),
            None => {
                backend.linear(input, n, &[product(expert.up, gate)]);
                backend.activate(gate, args.activation, n * inner);
            }
        }
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

    fn chosen(logits: &[f32], routing: Routing, vectors: RouterVectors) -> Vec<(usize, f32)> {
        let mut scored = Scored::default();
        route(logits, routing, vectors, &mut scored);
        scored.experts.iter().map(|e| (e.expert, e.weight)).collect()
    }

    #[test]
    fn the_most_probable_are_chosen_and_renormalised() {
        let logits = [0.0, 2.0, 1.0, 2.0];
        assert_eq!(chosen(&logits, Routing::softmax(2, true), RouterVectors::default()), [(1, 0.5), (3, 0.5)]);
        let one = chosen(&logits, Routing::softmax(1, false), RouterVectors::default());
        let total = 1.0 + 1f32.exp() + 2.0 * 2f32.exp();
        assert_eq!(one[0].0, 1);
        assert!((one[0].1 - 2f32.exp() / total).abs() < 1e-6);
    }

    #[test]
    fn a_bias_counts_for_the_choice_alone_and_groups_come_first() {
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        let routing = Routing { score: RouterScore::Sigmoid, factor: 2.0, ..Routing::softmax(2, false) };
        let logits = [0.0, 1.0, 2.0, 3.0, -1.0, 2.5];
        let bias = [0.0, 0.0, 0.0, 0.0, 5.0, 0.0];
        let vectors = RouterVectors { choice_bias: Some(Elements::F32(&bias)), expert_scale: None };
        assert_eq!(chosen(&logits, routing, vectors), [(4, 2.0 * sigmoid(-1.0)), (3, 2.0 * sigmoid(3.0))]);
        // Groups (0, 1), (2, 3), (4, 5): the sums of both decide, or the best alone.
        let grouped = |best| Routing { groups: Some(RouterGroups { count: 3, chosen: 1, best }), ..routing };
        let none = RouterVectors::default();
        assert_eq!(chosen(&logits, grouped(2), none).iter().map(|c| c.0).collect::<Vec<_>>(), [3, 2]);
        assert_eq!(chosen(&[9.0, -9.0, 2.0, 2.0, 8.0, 3.0], grouped(1), none)[0].0, 0);
        assert_eq!(chosen(&[9.0, -9.0, 2.0, 2.0, 8.0, 3.0], grouped(2), none)[0].0, 4);
        let scale = [1.0, 1.0, 1.0, 3.0, 1.0, 1.0];
        let scaled = RouterVectors { choice_bias: None, expert_scale: Some(Elements::F32(&scale)) };
        assert_eq!(chosen(&logits, routing, scaled)[0], (3, 6.0 * sigmoid(3.0)));
        let sum = sigmoid(3.0) + sigmoid(2.5);
        let divided = Routing { renormalise: true, epsilon: 1.0, ..routing };
        assert!((chosen(&logits, divided, none)[1].1 - 2.0 * sigmoid(2.5) / (sum + 1.0)).abs() < 1e-6);
    }
}
