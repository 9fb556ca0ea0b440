//! Latent attention of a layer: from its input to what its output projection adds.

use super::attention::heads;
use super::{Model, Route, to};
use crate::backend::{self, Backend, HeadProducts, Heads, Linear, Norm, Placement, Rotary};
use crate::model::architecture::LatentAttention;
use crate::model::weights::LatentWeights;

impl Model {
    /// `to (+)= out_proj(attention(from))`.
    pub(super) fn latent(
        &self,
        backend: &mut dyn Backend,
        t: &LatentAttention,
        w: &LatentWeights,
        route: Route,
        (group, index): (usize, usize),
    ) {
        let (ws, rows) = (&self.workspace, self.rows);
        let (own, key) = (t.nope + t.rope, t.rank + t.rope);
        let gain = |weight| Norm { gain: Some(weight), bias: None, eps: t.eps, centred: false };
        match w.q_a {
            Some((a, norm)) => {
                backend.linear(route.from, rows, &[to(a, ws.latent), to(w.kv_a, ws.k)]);
                backend.norm(ws.latent, &gain(norm), norm.in_features, rows, ws.latent);
                backend.linear(ws.latent, rows, &[to(w.q, ws.q)]);
            }
            None => backend.linear(route.from, rows, &[to(w.q, ws.q), to(w.kv_a, ws.k)]),
        }
        let k = heads(ws.k, 1, key, key, key);
        let latent = Heads { dim: t.rank, ..k };
        backend.norm_heads(latent, &gain(w.kv_norm), rows);
        let q = heads(ws.absorbed, t.heads, key, key, t.heads * key);
        let x = heads(ws.q, t.heads, own, own, t.heads * own);
        let stride = t.nope + t.v_dim;
        let keys = HeadProducts { weight: w.kv_b, first: 0, stride, count: t.nope, transposed: true, x, out: q };
        backend.head_products(&keys, rows);
        let pages = self.groups[group].1;
        let rotary =
            Some(Rotary { angles: ws.angles[t.rotary], start: t.rank, dims: t.rope, interleaved: t.interleaved });
        let placement = Placement {
            q,
            k,
            v: latent,
            norms: None,
            norm_last: false,
            eps: t.eps,
            rotary,
            store: true,
            pages,
            layer: index,
        };
        backend.place_heads(&placement);
        let (out, scale) = (ws.attended, t.scale);
        let (window, softcap, sinks) = (None, None, None);
        let bidirectional = false;
        backend.attention(backend::Attention {
            q,
            out,
            pages,
            layer: index,
            scale,
            window,
            bidirectional,
            softcap,
            sinks,
        });
        let x = heads(out, t.heads, t.rank, t.rank, t.heads * t.rank);
        let result = heads(ws.q, t.heads, t.v_dim, t.v_dim, t.heads * t.v_dim);
        let values =
            HeadProducts { weight: w.kv_b, first: t.nope, stride, count: t.v_dim, transposed: false, x, out: result };
        backend.head_products(&values, rows);
        backend.linear(ws.q, rows, &[Linear { accumulate: route.accumulate, ..to(w.out, route.to) }]);
    }
}
