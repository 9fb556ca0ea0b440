//! The tensors of feed-forward operations: networks, experts one by one or in stacks, and what tokens have for each layer.

use super::{At, BLOCKS, Binder, Change, TensorPart};
use crate::backend::{Expert, Weight};
use crate::dtype::BlockFormat;
use crate::error::{Error, Result};
use crate::model::architecture::{Dense, DenseAndExperts, ExpertNames, Experts, NormKind, PerLayerInputs, Stack};
use crate::model::recipe::Part;
use crate::model::weights::{DenseAndExpertsWeights, DenseWeights, ExpertsWeights, PerLayerWeights};

/// A matrix of an expert.
struct ExpertMatrix {
    name: &'static str,
    stack: Stack,
    /// The expert.
    index: usize,
    /// Its first row among the `total` of the tensor, and from one to the next.
    first: usize,
    step: usize,
    total: usize,
    /// Outputs and inputs.
    shape: [usize; 2],
}

impl Binder<'_> {
    pub(super) fn both(&mut self, t: &DenseAndExperts, down: Part, at: At) -> Result<DenseAndExpertsWeights> {
        let hidden = self.a.hidden;
        let ((before, dense, after), (experts_before, experts, experts_after)) = (&t.dense, &t.experts);
        Ok(DenseAndExpertsWeights {
            dense: (self.norm(before, hidden, at)?, self.dense(dense, down, at)?, self.norm(after, hidden, at)?),
            experts: (
                self.norm(experts_before, hidden, at)?,
                self.experts(experts, down, at)?,
                self.norm(experts_after, hidden, at)?,
            ),
            router_gain: self.tensors.take(TensorPart::whole(at(t.router.gain), &[hidden]), None)?,
        })
    }

    /// What tokens have for each layer.
    pub(super) fn per_layer(&mut self, inputs: &PerLayerInputs) -> Result<PerLayerWeights> {
        let (a, [table, projection, norm]) = (self.a, inputs.names);
        let at = |name: &str| a.prefix.apply(name);
        let width = a.layers.len() * inputs.width;
        Ok(PerLayerWeights {
            embedding: self.matrix(&at(table), a.vocab, width, Part::Kept)?,
            projection: self.projection((projection, width, Part::Layer), a.hidden, false, &at)?,
            gain: self.gain(&at(norm), inputs.width, NormKind::Rms)?,
        })
    }

    pub(super) fn dense(&mut self, dense: &Dense, down: Part, at: At) -> Result<DenseWeights> {
        let (names, inner) = (dense.names, dense.intermediate);
        let (gate, up) = match dense.gated {
            true => {
                let group = [(names.gate, inner, Part::Layer), (names.up, inner, Part::Layer)];
                let [gate, up] = self.group(group, self.a.hidden, dense.bias, at)?;
                (Some(gate), up)
            }
            false => (None, self.projection((names.up, inner, Part::Layer), self.a.hidden, dense.bias, at)?),
        };
        Ok(DenseWeights { gate, up, down: self.projection((names.down, self.a.hidden, down), inner, dense.bias, at)? })
    }

    pub(super) fn experts(&mut self, experts: &Experts, down: Part, at: At) -> Result<ExpertsWeights> {
        let names = self.names_of(experts, at)?;
        let router = (names.router, experts.count, Part::Kept);
        let router = self.projection(router, self.a.hidden, experts.router_bias, at)?;
        let choice_bias = match experts.choice_bias {
            true => Some(self.tensors.take(TensorPart::whole(at(names.choice_bias), &[experts.count]), None)?),
            false => None,
        };
        let scale = match experts.scale {
            "" => None,
            name => Some(self.tensors.take(TensorPart::whole(at(name), &[experts.count]), None)?),
        };
        let routed = (0..experts.count).map(|e| self.expert(experts, names, e, down, at)).collect::<Result<_>>()?;
        let (mut shared, mut shared_gate) = (Vec::new(), None);
        if let Some(s) = &experts.shared {
            for e in 0..s.count {
                let at = |name: &str| at(&name.replace("{e}", &e.to_string()));
                shared.push(self.dense(&s.each, down, &at)?);
            }
            if !s.gate.is_empty() {
                shared_gate = Some(self.projection((s.gate, 1, Part::Kept), self.a.hidden, false, at)?);
            }
        }
        let inside = match experts.inside {
            Some(inside) => Some([
                self.projection((inside.before, inside.width, Part::Layer), self.a.hidden, false, at)?,
                self.projection((inside.after, self.a.hidden, Part::Layer), inside.width, false, at)?,
            ]),
            None => None,
        };
        Ok(ExpertsWeights { router, choice_bias, scale, routed, shared, shared_gate, inside })
    }

    /// The names that this checkpoint has for its experts.
    fn names_of(&self, experts: &Experts, at: At) -> Result<&'static ExpertNames> {
        for names in experts.names {
            let (name, end) = if is_stack(names.down) { (names.down, "") } else { (names.down, ".weight") };
            if self.tensors.has(&format!("{}{end}", at(&name.replace("{e}", "0"))))? {
                return Ok(names);
            }
        }
        Ok(&experts.names[0])
    }

    fn expert(&mut self, experts: &Experts, names: &ExpertNames, index: usize, down: Part, at: At) -> Result<Expert> {
        let (inner, gated) = (experts.each.intermediate, experts.each.gated);
        let hidden = experts.inside.map_or(self.a.hidden, |inside| inside.width);
        let both = gated && names.gate == names.up;
        let total = if both { 2 * inner } else { inner };
        // Where the rows of the gate begin, and those of up; from one row to the next.
        let (gate_first, up_first, step) = match (both, names.stack) {
            (false, _) => (0, 0, 1),
            (true, Stack::Rows) => (0, inner, 1),
            (true, Stack::Columns | Stack::Mxfp4) => (0, 1, 2),
        };
        let stack = names.stack;
        let of = |name, first, step, total, shape| ExpertMatrix { name, stack, index, first, step, total, shape };
        let gate = match gated {
            true => {
                let matrix = of(names.gate, gate_first, step, total, [inner, hidden]);
                Some(self.expert_matrix(experts, matrix, Part::Layer, at)?)
            }
            false => None,
        };
        let up = of(names.up, up_first, step, total, [inner, hidden]);
        let up = self.expert_matrix(experts, up, Part::Layer, at)?;
        let last = of(names.down, 0, 1, hidden, [hidden, inner]);
        Ok(Expert { gate, up, down: self.expert_matrix(experts, last, down, at)? })
    }

    /// A matrix of an expert, and its bias.
    fn expert_matrix(
        &mut self,
        experts: &Experts,
        m: ExpertMatrix,
        part: Part,
        at: At,
    ) -> Result<(Weight, Option<Weight>)> {
        let ExpertMatrix { index, first, step, total, shape: [out_features, in_features], .. } = m;
        let name = at(&m.name.replace("{e}", &index.to_string()));
        let (count, columns) = (experts.count, Change::Columns { first, step });
        let (stacked, plain) = (is_stack(m.name), Change::None);
        let (tensor, stored, first_row, change) = match (stacked, m.stack) {
            (false, _) => (format!("{name}.weight"), vec![total, in_features], first, plain),
            (true, Stack::Rows) => (name.clone(), vec![count, total, in_features], index * total + first, plain),
            (true, Stack::Columns) => (name.clone(), vec![count, in_features, total], index, columns),
            (true, Stack::Mxfp4) => {
                let block = BlockFormat::Mxfp4.weights();
                if !in_features.is_multiple_of(block) {
                    let message =
                        format!("tensor {name} is of blocks of {block} weights, but has rows of {in_features}");
                    return Err(Error::format(message).about(name));
                }
                let stored = vec![count, total, in_features / block, block / 2];
                (name.clone(), stored, index, Change::Mxfp4 { first, step })
            }
        };
        let shape = vec![out_features, in_features];
        let matrix = TensorPart { name: tensor, stored, first: first_row, shape, change, by_head: false };
        let weight = self.tensors.take(matrix, self.recipe.scheme(part))?;
        if !experts.each.bias {
            return Ok((weight, None));
        }
        let (stored, first_row, change) = match (stacked, step) {
            (false, _) => (vec![total], first, plain),
            (true, 1) => (vec![count, total], index * total + first, plain),
            (true, _) => (vec![count, total], index, columns),
        };
        let stem = if stacked { name.strip_suffix(BLOCKS).unwrap_or(&name) } else { &name };
        let name = format!("{stem}{}", if stacked { "_bias" } else { ".bias" });
        let bias = TensorPart { name, stored, first: first_row, shape: vec![out_features], change, by_head: false };
        Ok((weight, Some(self.tensors.take(bias, None)?)))
    }
}

/// Whether a name of experts is that of a stack of all.
fn is_stack(name: &str) -> bool {
    !name.contains("{e}")
}
