//! Operations that keep a state: short convolutions and linear recurrences.

use super::attention::heads;
use super::{Model, Route, to};
use crate::backend::{self, Backend, Conv, Gating, Heads, Linear, Norm, StatePart};
use crate::model::architecture::{Recurrence, RecurrenceInputs, RecurrenceRule, ShortConv};
use crate::model::weights::{ConvWeights, RecurrenceProjections, RecurrenceWeights, ShortConvWeights};

/// Added to the squared length of keys and queries of the delta rule.
const LENGTH_EPS: f32 = 1e-6;

/// Where the inputs of a recurrence are.
struct Inputs {
    q: Heads,
    k: Heads,
    v: Heads,
    gate: Heads,
    steps: Heads,
    parts: Option<Heads>,
}

impl Model {
    /// `to (+)= out_proj(c * conv(b * x))`.
    pub(super) fn short_conv(
        &self,
        backend: &mut dyn Backend,
        t: &ShortConv,
        w: &ShortConvWeights,
        route: Route,
        place: (usize, usize),
    ) {
        let (ws, rows, width) = (&self.workspace, self.rows, t.channels);
        backend.linear(route.from, rows, &[to(w.b, ws.q), to(w.c, ws.k), to(w.x, ws.v)]);
        let of = |tensor| heads(tensor, 1, width, width, width);
        let (x, before, after, out) = (of(ws.v), Some(of(ws.q)), Some(of(ws.k)), of(ws.attended));
        let state = self.state(place);
        let ConvWeights { weight, bias } = w.conv;
        backend.conv(&Conv { x, before, after, out, weight, bias, kernel: t.kernel, silu: false, state });
        backend.linear(ws.attended, rows, &[Linear { accumulate: route.accumulate, ..to(w.out, route.to) }]);
    }

    /// `to (+)= out_proj(gate * norm(recurrence(conv(q), conv(k), conv(v))))`.
    pub(super) fn recurrence(
        &self,
        backend: &mut dyn Backend,
        t: &Recurrence,
        w: &RecurrenceWeights,
        route: Route,
        place: (usize, usize),
    ) {
        let (ws, rows) = (&self.workspace, self.rows);
        let inputs = self.inputs(backend, t, &w.inputs, route);
        let (k_width, v_width) = t.widths();
        let q = heads(ws.q, t.k_heads, t.k_dim, t.k_dim, k_width);
        let k = Heads { tensor: ws.k, ..q };
        let v = heads(ws.v, t.v_heads, t.v_dim, t.v_dim, v_width);
        let state = self.state(place);
        let mut first = 0;
        for ((x, out), conv) in [(inputs.q, q), (inputs.k, k), (inputs.v, v)].into_iter().zip(w.conv) {
            // As the inputs are cut: a head of values may be a part of one of theirs.
            let out = Heads { head_stride: x.dim, heads: x.heads, dim: x.dim, ..out };
            let ConvWeights { weight, bias } = conv;
            let state = StatePart { first, ..state };
            backend.conv(&Conv {
                x,
                before: None,
                after: None,
                out,
                weight,
                bias,
                kernel: t.kernel,
                silu: true,
                state,
            });
            first += (t.kernel - 1) * x.heads * x.dim;
        }
        let (mut q_scale, mut k_scale) = (1.0, 1.0);
        if t.rule == RecurrenceRule::Delta {
            // A vector of length 1 is one whose mean square is 1, divided by the root of its elements.
            let unit = 1.0 / (t.k_dim as f32).sqrt();
            let norm = Norm { gain: None, bias: None, eps: LENGTH_EPS / t.k_dim as f32, centred: false };
            backend.norm_heads(q, &norm, rows);
            backend.norm_heads(k, &norm, rows);
            (q_scale, k_scale) = (unit * unit, unit);
        }
        let out = Heads { tensor: ws.attended, ..v };
        backend.recurrence(&backend::Recurrence {
            q,
            k,
            v,
            out,
            q_scale,
            k_scale,
            steps: inputs.steps,
            step_bias: w.step_bias,
            step_range: t.steps,
            decay: w.decay,
            decay_is_log: !t.whole_decay,
            tiled: t.tiled,
            parts: inputs.parts,
            skip: w.skip,
            state: StatePart { first: t.conv_state(), ..state },
        });
        if !t.norm.gate_last {
            self.gate_result(backend, inputs.gate);
        }
        self.norm_result(backend, t, w, v_width);
        if t.norm.gate_last {
            self.gate_result(backend, inputs.gate);
        }
        backend.linear(ws.attended, rows, &[Linear { accumulate: route.accumulate, ..to(w.out, route.to) }]);
    }

    fn gate_result(&self, backend: &mut dyn Backend, gate: Heads) {
        backend.gate_mul(self.workspace.attended, gate.dim, gate, Gating::Silu, self.rows);
    }

    /// Norms the parts of a recurrence's result.
    fn norm_result(&self, backend: &mut dyn Backend, t: &Recurrence, w: &RecurrenceWeights, width: usize) {
        let (ws, rows, groups) = (&self.workspace, self.rows, t.norm.groups.max(1));
        let each = width / groups;
        let of = |gain| Norm { gain: Some(gain), bias: None, eps: t.norm.eps, centred: false };
        for (group, &gain) in w.norm.iter().enumerate() {
            let count = if t.norm.shared { groups } else { 1 };
            backend.norm_heads(heads(ws.attended.at(group * each), count, each, each, width), &of(gain), rows);
        }
    }

    /// Projects the inputs of a recurrence.
    fn inputs(&self, backend: &mut dyn Backend, t: &Recurrence, w: &RecurrenceProjections, route: Route) -> Inputs {
        let (ws, rows) = (&self.workspace, self.rows);
        let ((k_width, v_width), v_heads, own) = (t.widths(), t.v_heads, t.v_heads / t.k_heads);
        // Of each key head its parts, then its steps.
        let of_steps = |first: usize| heads(ws.router.at(first), t.k_heads, own, 2 * own, 2 * v_heads);
        match *w {
            RecurrenceProjections::Apart { q, k, v, gate, step, part } => {
                backend.linear(route.from, rows, &[to(q, ws.q), to(k, ws.k), to(v, ws.v), to(gate, ws.gate)]);
                let grouped = t.inputs == RecurrenceInputs::StepsByKeyHead;
                backend.linear(route.from, rows, &[to(step, if grouped { ws.router } else { ws.latent })]);
                if let Some(part) = part {
                    backend.linear(route.from, rows, &[to(part, ws.router)]);
                }
                let scaled =
                    [(ws.gate, v_width), (ws.v, v_width), (ws.k, k_width), (ws.q, k_width), (ws.latent, v_heads)];
                for ((tensor, width), factor) in scaled.into_iter().zip(t.scales).filter(|(_, factor)| *factor != 1.0) {
                    backend.scale(tensor, factor, rows * width);
                }
                let whole = |tensor, width| heads(tensor, 1, width, width, width);
                let inputs = Inputs {
                    q: whole(ws.q, k_width),
                    k: whole(ws.k, k_width),
                    v: whole(ws.v, v_width),
                    gate: whole(ws.gate, v_width),
                    steps: whole(ws.latent, v_heads),
                    parts: part.map(|_| whole(ws.router, v_heads)),
                };
                if grouped { Inputs { steps: of_steps(own), parts: Some(of_steps(0)), ..inputs } } else { inputs }
            }
            RecurrenceProjections::ByKeyHead { heads: all, steps } => {
                backend.linear(route.from, rows, &[to(all, ws.gate), to(steps, ws.router)]);
                let values = v_width / t.k_heads;
                let each = 2 * t.k_dim + 2 * values;
                let of = |first: usize, dim: usize| heads(ws.gate.at(first), t.k_heads, dim, each, t.k_heads * each);
                Inputs {
                    q: of(0, t.k_dim),
                    k: of(t.k_dim, t.k_dim),
                    v: of(2 * t.k_dim, values),
                    gate: of(2 * t.k_dim + values, values),
                    steps: of_steps(own),
                    parts: Some(of_steps(0)),
                }
            }
        }
    }

    /// The state of a layer, from its first element on.
    fn state(&self, (group, layer): (usize, usize)) -> StatePart {
        StatePart { pages: self.groups[group].1, layer, first: 0 }
    }
}
