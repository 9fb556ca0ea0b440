//! Attention of a layer: from its input to what its output projection adds.

use super::{Model, Route, to};
use crate::backend::{self, Backend, Heads, Linear, Norm, Placement, Rotary, Tensor};
use crate::model::architecture::{Attention, Gate, HeadNorm};
use crate::model::weights::{AttentionWeights, KvWeights};

/// Heads of one size in rows of them.
fn heads(tensor: Tensor, heads: usize, dim: usize, head_stride: usize, row_stride: usize) -> Heads {
    Heads { tensor, row_stride, head_stride, heads, dim }
}

impl Model {
    /// `to (+)= out_proj(attention(from))`.
    pub(super) fn attention(
        &self,
        backend: &mut dyn Backend,
        t: &Attention,
        w: &AttentionWeights,
        route: Route,
        layer: usize,
    ) {
        let (ws, rows) = (&self.workspace, self.rows);
        let (q_width, kv_width) = (t.heads * t.head_dim, t.kv_heads * t.head_dim);
        let each = if t.gate == Gate::InQuery { 2 * t.head_dim } else { t.head_dim };
        let q = heads(ws.q, t.heads, t.head_dim, each, t.heads * each);
        let gain = |weight| Norm { gain: Some(weight), bias: None, eps: t.eps, centred: t.head_norm_kind.centred() };
        let (k, v) = match w.kv {
            KvWeights::Direct { k, v } => {
                backend.linear(route.from, rows, &[to(w.q, ws.q), to(k, ws.k), to(v, ws.v)]);
                let of = |tensor| heads(tensor, t.kv_heads, t.head_dim, t.head_dim, kv_width);
                (of(ws.k), of(ws.v))
            }
            KvWeights::Latent { a, norm, b } => {
                backend.linear(route.from, rows, &[to(w.q, ws.q), to(a, ws.latent)]);
                backend.norm(ws.latent, &gain(norm), norm.in_features, rows, ws.latent);
                backend.linear(ws.latent, rows, &[to(b, ws.k)]);
                let of = |tensor| heads(tensor, t.kv_heads, t.head_dim, 2 * t.head_dim, 2 * kv_width);
                (of(ws.k), of(ws.k.at(t.head_dim)))
            }
        };
        let mut norms = w.head_norms;
        if let (HeadNorm::Whole, Some([of_q, of_k])) = (t.head_norm, norms.take_if(|_| t.head_norm == HeadNorm::Whole))
        {
            backend.norm(ws.q, &gain(of_q), q_width, rows, ws.q);
            backend.norm(ws.k, &gain(of_k), kv_width, rows, ws.k);
        }
        let (group, index) = self.place[layer];
        let pages = self.groups[group].1;
        let rotary = t.rotary.map(|rotary| Rotary {
            angles: ws.angles[rotary.index],
            start: rotary.start,
            dims: self.architecture.rotaries[rotary.index].dims(),
            interleaved: rotary.interleaved,
        });
        let norm_last = t.head_norm == HeadNorm::AfterRotary;
        backend.place_heads(&Placement { q, k, v, norms, norm_last, eps: t.eps, rotary, pages, layer: index });
        if let Some(scale) = t.position_scale {
            backend.scale_by_position(ws.q, q.row_stride, scale);
        }
        backend.attention(backend::Attention {
            q,
            out: ws.attended,
            pages,
            layer: index,
            scale: t.scale,
            window: t.window,
            softcap: t.softcap,
            sinks: w.sinks,
        });
        let gate = match (t.gate, w.gate) {
            (Gate::InQuery, _) => Some(Heads { tensor: ws.q.at(t.head_dim), ..q }),
            (Gate::Own, Some(_)) => Some(heads(ws.gate, t.heads, t.head_dim, t.head_dim, q_width)),
            (Gate::PerHead, Some(_)) => Some(heads(ws.gate, t.heads, 1, 1, t.heads)),
            _ => None,
        };
        if let Some(gates) = gate {
            if let Some(projection) = w.gate {
                backend.linear(route.from, rows, &[to(projection, ws.gate)]);
            }
            backend.sigmoid_mul(ws.attended, t.head_dim, gates, rows);
        }
        backend.linear(ws.attended, rows, &[Linear { accumulate: route.accumulate, ..to(w.out, route.to) }]);
    }
}
