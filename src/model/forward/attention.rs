//! Attention of a layer: from its input to what its output projection adds.

use super::{Model, Route, to};
use crate::backend::{self, Backend, Gating, Heads, Linear, Norm, Placement, Rotary, Tensor, Weight};
use crate::model::architecture::{Attention, Gate, HeadNorm};
use crate::model::weights::{AttentionWeights, KvWeights, NormWeights};

/// Heads of one size in rows of them.
pub(super) fn heads(tensor: Tensor, heads: usize, dim: usize, head_stride: usize, row_stride: usize) -> Heads {
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
        (group, index): (usize, usize),
    ) {
        let (ws, rows) = (&self.workspace, self.rows);
        let (q_width, kv_width) = (t.heads * t.head_dim, t.kv_heads * t.head_dim);
        let each = t.query_stride();
        let q = heads(ws.q, t.heads, t.head_dim, each, t.heads * each);
        let bare = Norm { gain: None, bias: None, eps: t.eps, centred: false };
        let (k, v) = match w.kv {
            KvWeights::Direct { k, v } => {
                backend.linear(route.from, rows, &[to(w.q, ws.q), to(k, ws.k), to(v, ws.v)]);
                let of = |tensor| heads(tensor, t.kv_heads, t.head_dim, t.head_dim, kv_width);
                (of(ws.k), of(ws.v))
            }
            KvWeights::KeyIsValue { k } => {
                backend.linear(route.from, rows, &[to(w.q, ws.q), to(k, ws.k)]);
                let of = |tensor| heads(tensor, t.kv_heads, t.head_dim, t.head_dim, kv_width);
                backend.norm(ws.k, &bare, t.head_dim, rows * t.kv_heads, ws.v);
                (of(ws.k), of(ws.v))
            }
            KvWeights::Shared => {
                backend.linear(route.from, rows, &[to(w.q, ws.q)]);
                (q, q)
            }
            KvWeights::WithQuery => {
                backend.linear(route.from, rows, &[to(w.q, ws.q)]);
                (Heads { tensor: ws.q.at(t.head_dim), ..q }, Heads { tensor: ws.q.at(2 * t.head_dim), ..q })
            }
            KvWeights::Latent { a, norm, b } => {
                backend.linear(route.from, rows, &[to(w.q, ws.q), to(a, ws.latent)]);
                let of_latent = Norm { gain: Some(norm), bias: None, eps: t.eps, centred: false };
                backend.norm(ws.latent, &of_latent, norm.in_features, rows, ws.latent);
                backend.linear(ws.latent, rows, &[to(b, ws.k)]);
                let of = |tensor| heads(tensor, t.kv_heads, t.head_dim, 2 * t.head_dim, 2 * kv_width);
                (of(ws.k), of(ws.k.at(t.head_dim)))
            }
        };
        if t.value_norm && matches!(w.kv, KvWeights::Direct { .. }) {
            backend.norm_heads(v, &bare, rows);
        }
        let store = !matches!(w.kv, KvWeights::Shared);
        let norms = self.norm_heads(backend, t, w, [q, k]);
        let pages = self.groups[group].1;
        let rotary = t.rotary.map(|rotary| Rotary {
            angles: ws.angles[rotary.index],
            start: rotary.start,
            dims: self.architecture.rotaries[rotary.index].dims(),
            interleaved: rotary.interleaved,
        });
        let norm_last = t.head_norm == HeadNorm::AfterRotary;
        backend.place_heads(&Placement { q, k, v, norms, norm_last, eps: t.eps, rotary, store, pages, layer: index });
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
            bidirectional: t.bidirectional,
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
            backend.gate_mul(ws.attended, t.head_dim, gates, Gating::Sigmoid, rows);
        }
        backend.linear(ws.attended, rows, &[Linear { accumulate: route.accumulate, ..to(w.out, route.to) }]);
    }

    /// Norms queries and keys, but where `place_heads` does it: then the gains are returned.
    fn norm_heads(
        &self,
        backend: &mut dyn Backend,
        t: &Attention,
        w: &AttentionWeights,
        heads: [Heads; 2],
    ) -> Option<[Weight; 2]> {
        let (rows, centred) = (self.rows, t.head_norm_kind.centred());
        let norm = |w: &NormWeights| Norm { gain: w.gain, bias: w.bias, eps: t.eps, centred };
        if matches!(t.head_norm, HeadNorm::BeforeRotary | HeadNorm::AfterRotary) && !centred {
            let gain = |norms: &[NormWeights]| norms.first()?.gain;
            let q = gain(&w.head_norms[0])?;
            return Some([q, gain(&w.head_norms[1]).unwrap_or(q)]);
        }
        for (heads, norms) in heads.into_iter().zip(&w.head_norms) {
            for (h, of_head) in norms.iter().enumerate() {
                let of_head = norm(of_head);
                match t.head_norm {
                    HeadNorm::Whole => {
                        backend.norm(heads.tensor, &of_head, heads.heads * heads.dim, rows, heads.tensor);
                    }
                    HeadNorm::Each => {
                        let tensor = heads.tensor.at(h * heads.head_stride);
                        backend.norm_heads(Heads { tensor, heads: 1, ..heads }, &of_head, rows);
                    }
                    _ => backend.norm_heads(heads, &of_head, rows),
                }
            }
        }
        None
    }
}
