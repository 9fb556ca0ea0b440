//! The tensors of operations that keep a state.

use super::{At, Binder, Change, TensorPart};
use crate::backend::Weight;
use crate::error::Result;
use crate::model::architecture::{NormKind, Recurrence, RecurrenceInputs, RecurrenceRule, ShortConv};
use crate::model::recipe::Part;
use crate::model::weights::{ConvWeights, RecurrenceProjections, RecurrenceWeights, ShortConvWeights};
use std::ops::Range;

/// The channels of a convolution: those that are taken, of all, and the tokens that each sees.
struct Channels {
    part: Range<usize>,
    total: usize,
    kernel: usize,
}

impl Binder<'_> {
    pub(super) fn short_conv(&mut self, t: &ShortConv, at: At) -> Result<ShortConvWeights> {
        let (names, hidden, width) = (t.names, self.a.hidden, t.channels);
        let group = [(names.b, width, Part::Layer), (names.c, width, Part::Layer), (names.x, width, Part::Layer)];
        let [b, c, x] = self.group(group, hidden, t.bias, at)?;
        let channels = Channels { part: 0..width, total: width, kernel: t.kernel };
        let conv = self.conv(names.conv, channels, t.bias, at)?;
        let out = self.projection((names.out, hidden, Part::Layer), width, t.bias, at)?;
        Ok(ShortConvWeights { b, c, x, conv, out })
    }

    pub(super) fn recurrence(&mut self, t: &Recurrence, at: At) -> Result<RecurrenceWeights> {
        let (names, hidden, heads) = (t.names, self.a.hidden, t.v_heads);
        let (k_width, v_width) = t.widths();
        let (q, k, v) =
            ((names.q, k_width, Part::Layer), (names.k, k_width, Part::Layer), (names.v, v_width, Part::Layer));
        // Those are small, and what they say is multiplied with itself at every token.
        let (gate, step, part) =
            ((names.gate, v_width, Part::Layer), (names.step, heads, Part::Kept), (names.part, heads, Part::Kept));
        let inputs = match t.inputs {
            RecurrenceInputs::Apart => {
                let [q, k, v, gate, step] = self.group([q, k, v, gate, step], hidden, t.bias, at)?;
                let part = match t.rule {
                    RecurrenceRule::Delta => Some(self.projection(part, hidden, t.bias, at)?),
                    RecurrenceRule::StateSpace => None,
                };
                RecurrenceProjections::Apart { q, k, v, gate, step, part }
            }
            RecurrenceInputs::StepsByKeyHead => {
                let [q, k, v, gate] = self.group([q, k, v, gate], hidden, t.bias, at)?;
                let step = self.projection((names.step, 2 * heads, Part::Kept), hidden, t.bias, at)?;
                RecurrenceProjections::Apart { q, k, v, gate, step, part: None }
            }
            RecurrenceInputs::GateFirst => {
                let [gate, v, k, q, step] = self.group([gate, v, k, q, step], hidden, t.bias, at)?;
                RecurrenceProjections::Apart { q, k, v, gate, step, part: None }
            }
            RecurrenceInputs::ByKeyHead => {
                let all = (names.q, 2 * k_width + 2 * v_width, Part::Layer);
                RecurrenceProjections::ByKeyHead {
                    heads: self.projection(all, hidden, t.bias, at)?,
                    steps: self.projection((names.step, 2 * heads, Part::Kept), hidden, t.bias, at)?,
                }
            }
        };
        let (total, kernel) = (2 * k_width + v_width, t.kernel);
        let mut conv = |first: usize, width: usize| {
            let channels = Channels { part: first..first + width, total, kernel };
            self.conv(names.conv, channels, t.conv_bias, at)
        };
        let [q, k, v] = t.channels();
        let conv = [conv(q, k_width)?, conv(k, k_width)?, conv(v, v_width)?];
        let mut vector = |name: &str| self.tensors.take(TensorPart::whole(at(name), &[heads]), None);
        let (step_bias, decay) = (vector(names.step_bias)?, vector(names.decay)?);
        let skip = match t.rule {
            RecurrenceRule::StateSpace => Some(vector(names.skip)?),
            RecurrenceRule::Delta => None,
        };
        let norm = self.gated_norm(t, v_width, at)?;
        let out = self.projection((names.out, hidden, Part::Layer), v_width, t.bias, at)?;
        Ok(RecurrenceWeights { inputs, conv, step_bias, decay, skip, norm, out })
    }

    fn conv(&mut self, name: &str, channels: Channels, bias: bool, at: At) -> Result<ConvWeights> {
        let Channels { part, total, kernel } = channels;
        let name = at(name);
        // So many elements of each channel, as one vector.
        let of = |end: &str, stored: &[usize], each: usize| TensorPart {
            name: format!("{name}.{end}"),
            stored: stored.to_vec(),
            first: part.start * each,
            shape: vec![part.len() * each],
            change: Change::None,
            by_head: false,
        };
        let weight = self.tensors.take(of("weight", &[total, 1, kernel], kernel), None)?;
        let bias = match bias {
            true => Some(self.tensors.take(of("bias", &[total], 1), None)?),
            false => None,
        };
        Ok(ConvWeights { weight, bias })
    }

    /// The gains of the norm of a row of `width`.
    fn gated_norm(&mut self, t: &Recurrence, width: usize, at: At) -> Result<Vec<Weight>> {
        let (groups, name) = (t.norm.groups, at(t.names.norm));
        match (groups, t.norm.shared) {
            (0, _) => Ok(Vec::new()),
            (groups, true) => Ok(vec![self.gain(&name, width / groups, NormKind::Rms)?]),
            (groups, false) => {
                let each = width / groups;
                let of = |group: usize| TensorPart {
                    name: format!("{name}.weight"),
                    stored: vec![width],
                    first: group * each,
                    shape: vec![each],
                    change: Change::None,
                    by_head: false,
                };
                (0..groups).map(|group| self.tensors.take(of(group), None)).collect()
            }
        }
    }
}
