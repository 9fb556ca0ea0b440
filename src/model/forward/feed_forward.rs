//! The feed-forward operations: one network, or experts.

use super::attention::heads;
use super::{Model, Route, normed, to};
use crate::backend::{self, Backend, Gating, Heads, Linear, Norm, Tensor};
use crate::model::architecture::{Dense, DenseAndExperts, Experts, PerLayerInput, PerLayerInputs};
use crate::model::weights::{DenseAndExpertsWeights, DenseWeights, ExpertsWeights, PerLayerWeights, Projection};

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
        self.routed(backend, spec, w, route.from, route.to);
    }

    /// `to += experts(from)` of those that the router's logits choose.
    fn routed(&self, backend: &mut dyn Backend, spec: &Experts, w: &ExpertsWeights, from: Tensor, result: Tensor) {
        let (ws, rows) = (&self.workspace, self.rows);
        let (x, out) = match w.inside {
            Some([before, _]) => {
                backend.linear(from, rows, &[to(before, ws.latent)]);
                backend.clear(ws.absorbed, rows * before.weight.out_features);
                (ws.latent, ws.absorbed)
            }
            None => (from, result),
        };
        let experts = backend::Experts {
            experts: &w.routed,
            logits: ws.router,
            routing: spec.routing,
            choice_bias: w.choice_bias,
            expert_scale: w.scale,
            activation: spec.each.activation,
            x,
            out,
        };
        backend.experts(experts, rows);
        if let Some([_, after]) = w.inside {
            backend.linear(out, rows, &[Linear { accumulate: true, ..to(after, result) }]);
        }
    }

    /// `to = norm(dense(norm(from))) + norm(experts(norm(from)))`.
    pub(super) fn dense_and_experts(
        &self,
        backend: &mut dyn Backend,
        spec: &DenseAndExperts,
        w: &DenseAndExpertsWeights,
        route: Route,
    ) {
        let (ws, rows, hidden) = (&self.workspace, self.rows, self.architecture.hidden);
        let ((before, dense, after), (experts_before, experts, experts_after)) = (&spec.dense, &spec.experts);
        backend.norm(route.from, &normed(before, w.dense.0), hidden, rows, ws.y);
        self.inner(backend, dense, &w.dense.1, ws.y);
        backend.linear(ws.gate, rows, &[to(w.dense.1.down, route.to)]);
        backend.norm(route.to, &normed(after, w.dense.2), hidden, rows, route.to);
        let of_router = Norm { gain: Some(w.router_gain), bias: None, eps: spec.router.eps, centred: false };
        backend.norm(route.from, &of_router, hidden, rows, ws.attended);
        backend.linear(ws.attended, rows, &[to(w.experts.1.router, ws.router)]);
        backend.scale(ws.router, spec.router.factor, rows * experts.count);
        backend.norm(route.from, &normed(experts_before, w.experts.0), hidden, rows, ws.y);
        backend.clear(ws.attended, rows * hidden);
        self.routed(backend, experts, &w.experts.1, ws.y, ws.attended);
        backend.norm(ws.attended, &normed(experts_after, w.experts.2), hidden, rows, ws.attended);
        backend.add_scaled(route.to, ws.attended, 1.0, rows * hidden);
    }

    /// What the step's tokens have for each layer: `(part of the second embedding + norm(projection of the first)) / sqrt(2)`.
    pub(super) fn per_layer_inputs(
        &self,
        backend: &mut dyn Backend,
        inputs: &PerLayerInputs,
        w: &PerLayerWeights,
        all: Tensor,
    ) {
        let (ws, rows, layers) = (&self.workspace, self.rows, self.architecture.layers.len());
        let elements = rows * layers * inputs.width;
        backend.embed(w.embedding, (inputs.width as f32).sqrt(), all);
        backend.linear(ws.x, rows, &[to(w.projection, ws.up)]);
        backend.scale(ws.up, (self.architecture.hidden as f32).sqrt().recip(), elements);
        let norm = Norm { gain: Some(w.gain), bias: None, eps: inputs.eps, centred: false };
        backend.norm(ws.up, &norm, inputs.width, rows * layers, ws.up);
        backend.add_scaled(all, ws.up, 1.0, elements);
        backend.scale(all, std::f32::consts::FRAC_1_SQRT_2, elements);
    }

    /// `to (+)= projection(activation(gate(from)) * input)`.
    pub(super) fn per_layer_input(
        &self,
        backend: &mut dyn Backend,
        spec: &PerLayerInput,
        [gate, projection]: [Projection; 2],
        route: Route,
    ) {
        let (ws, rows, layers) = (&self.workspace, self.rows, self.architecture.layers.len());
        let (Some(inputs), Some(all)) = (self.architecture.per_layer, ws.per_layer) else { return };
        let width = inputs.width;
        backend.linear(route.from, rows, &[to(gate, ws.gate)]);
        backend.activate(ws.gate, spec.activation, rows * width);
        let own = heads(all.at(spec.layer * width), 1, width, width, layers * width);
        backend.gate_mul(ws.gate, width, own, Gating::Plain, rows);
        backend.linear(ws.gate, rows, &[Linear { accumulate: route.accumulate, ..to(projection, route.to) }]);
    }
}
