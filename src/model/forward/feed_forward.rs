//! The feed-forward operations: one network, or experts.

use super::attention::heads;
use super::{Model, Route, to};
use crate::backend::{self, Backend, Gating, Heads, Linear, Tensor};
use crate::model::architecture::{Dense, Experts};
use crate::model::weights::{DenseWeights, ExpertsWeights};

impl Model {
    /// `to (+)= down(activation(gate(from)) * up(from))`.
    pub(super) fn dense(&self, backend: &mut dyn Backend, spec: &Dense, w: &DenseWeights, route: Route) {
        self.inner(backend, spec, w, route.from);
        let down = Linear { accumulate: route.accumulate, ..to(w.down, route.to) };
        backend.linear(self.workspace.gate, self.rows, &[down]);
    }

    /// All but the last matrix; the result is in the workspace's `gate`.
    fn inner(&self, backend: &mut dyn Backend, spec: &Dense, w: &DenseWeights, from: Tensor) {
        let (ws, rows) = (&self.workspace, self.rows);
        match w.gate {
            Some(gate) if spec.gate_scale != 1.0 => {
                backend.linear(from, rows, &[to(gate, ws.gate), to(w.up, ws.up)]);
                backend.scale(ws.gate, spec.gate_scale, rows * spec.intermediate);
                backend.activate(ws.gate, spec.activation, rows * spec.intermediate);
                let width = spec.intermediate;
                backend.gate_mul(ws.gate, width, heads(ws.up, 1, width, width, width), Gating::Plain, rows);
            }
            Some(gate) => backend.gated(from, rows, to(gate, ws.gate), to(w.up, ws.up), spec.activation),
            None => {
                backend.linear(from, rows, &[to(w.up, ws.gate)]);
                backend.activate(ws.gate, spec.activation, rows * spec.intermediate);
            }
        }
    }

    /// `to (+)= experts(from)`.
    pub(super) fn experts(&self, backend: &mut dyn Backend, spec: &Experts, w: &ExpertsWeights, route: Route) {
        let (ws, rows, hidden) = (&self.workspace, self.rows, self.architecture.hidden);
        if !route.accumulate {
            backend.clear(route.to, rows * hidden);
        }
        if let Some(shared) = &spec.shared {
            let factor = 1.0 / shared.count.max(1) as f32;
            for network in &w.shared {
                self.inner(backend, &shared.each, network, route.from);
                backend.linear(ws.gate, rows, &[to(network.down, ws.attended)]);
                if let Some(gate) = w.shared_gate {
                    backend.linear(route.from, rows, &[to(gate, ws.gate)]);
                    let gates = Heads { tensor: ws.gate, row_stride: 1, head_stride: 1, heads: 1, dim: 1 };
                    backend.gate_mul(ws.attended, hidden, gates, Gating::Sigmoid, rows);
                }
                backend.add_scaled(route.to, ws.attended, factor, rows * hidden);
            }
        }
        backend.linear(route.from, rows, &[to(w.router, ws.router)]);
        let (x, out) = match w.inside {
            Some([before, _]) => {
                backend.linear(route.from, rows, &[to(before, ws.latent)]);
                backend.clear(ws.absorbed, rows * before.weight.out_features);
                (ws.latent, ws.absorbed)
            }
            None => (route.from, route.to),
        };
        let experts = backend::Experts {
            experts: &w.routed,
            logits: ws.router,
            routing: spec.routing,
            choice_bias: w.choice_bias,
            expert_scale: None,
            activation: spec.each.activation,
            x,
            out,
        };
        backend.experts(experts, rows);
        if let Some([_, after]) = w.inside {
            backend.linear(out, rows, &[Linear { accumulate: true, ..to(after, route.to) }]);
        }
    }
}
