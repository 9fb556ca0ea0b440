//! What a model is made of, as plain data: a family turns `config.json` into this, the binder looks up its tensors,
//! the forward pass walks it. Nothing here touches a weight.

use super::rotary::RotarySpec;
use crate::backend::{KvShape, Routing};
use crate::dtype::DType;

/// A whole model.
#[derive(Clone, Debug)]
pub struct Architecture {
    /// `model_type` of the config.
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Vocabulary, padding included.
    pub vocab: usize,
    /// Longest sequence when nobody asks for another, in tokens.
    pub context: usize,
    /// Longest sequence that can be asked for, with what the rotary scaling adds, in tokens.
    pub context_max: usize,
    /// The context that the rotary frequencies were chosen for; 0 where they are the same for every context.
    pub rotary_context: usize,
    /// Epsilon of all norms.
    pub eps: f32,
    /// Where the output matrix comes from.
    pub head: Head,
    /// Rotary embeddings in use; layers name one by index.
    pub rotaries: Vec<RotarySpec>,
    /// The layers.
    pub layers: Vec<Layer>,
    /// Where the tensors are.
    pub names: &'static Names,
}

/// Where the output matrix comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// It is the embedding, unless the checkpoint has another one.
    Tied,
    /// It is a tensor of its own.
    Own,
    /// A tensor of its own if there is one, else the embedding.
    OwnIfPresent,
}

/// One pre-norm block: `x += attention(norm(x)); x += ffn(norm(x))`.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Attention.
    pub attention: Attention,
    /// Feed-forward part.
    pub ffn: Ffn,
}

/// When the per-head RMSNorm of queries and keys happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadNorm {
    /// There is none.
    None,
    /// Before the rotation (Qwen3).
    BeforeRotary,
    /// After the rotation (AstrAI).
    AfterRotary,
}

/// How keys and values come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvProjection {
    /// `k_proj`, `v_proj`.
    Direct,
    /// `kv_b_proj(kv_norm(kv_a_proj(x)))`, each KV head giving its key, then its value.
    Latent {
        /// Width between the two.
        rank: usize,
    },
}

/// Attention of a layer.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// KV heads.
    pub kv_heads: usize,
    /// Elements of a query, key and value head.
    pub head_dim: usize,
    /// Keys and values.
    pub kv: KvProjection,
    /// Index into [`Architecture::rotaries`].
    pub rotary: usize,
    /// First rotated element of a head.
    pub rotary_start: usize,
    /// Adjacent pairs instead of halves.
    pub rotary_interleaved: bool,
    /// Norm of queries and keys.
    pub head_norm: HeadNorm,
    /// Multiply the result by sigmoid(gate(x)) before the output projection.
    pub gated: bool,
    /// q, k and v have biases.
    pub qkv_bias: bool,
    /// The output projection has a bias.
    pub out_bias: bool,
    /// Keys visible to a query; `None` = all before it.
    pub window: Option<u32>,
    /// Factor on the scores.
    pub scale: f32,
}

/// Feed-forward part of a layer: `down(silu(gate(x)) * up(x))`.
#[derive(Clone, Copy, Debug)]
pub enum Ffn {
    /// One for all tokens.
    Dense {
        /// Inner width.
        intermediate: usize,
        /// All three matrices have biases.
        bias: bool,
    },
    /// Experts chosen by token.
    Experts {
        /// Routed experts.
        count: usize,
        /// Inner width of one.
        intermediate: usize,
        /// The choice.
        routing: Routing,
        /// Experts every token passes, averaged.
        shared: usize,
        /// Inner width of a shared one.
        shared_intermediate: usize,
    },
}

/// Names of the tensors, without `.weight` or `.bias`. `{l}` is the layer, `{e}` the expert.
#[derive(Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Names {
    pub embedding: &'static str,
    pub final_norm: &'static str,
    pub lm_head: &'static str,
    pub attention_norm: &'static str,
    pub ffn_norm: &'static str,
    pub q: &'static str,
    pub k: &'static str,
    pub v: &'static str,
    pub out: &'static str,
    pub q_norm: &'static str,
    pub k_norm: &'static str,
    pub attention_gate: &'static str,
    pub kv_a: &'static str,
    pub kv_norm: &'static str,
    pub kv_b: &'static str,
    pub gate: &'static str,
    pub up: &'static str,
    pub down: &'static str,
    pub router: &'static str,
    pub expert_gate: &'static str,
    pub expert_up: &'static str,
    pub expert_down: &'static str,
    pub shared_gate: &'static str,
    pub shared_up: &'static str,
    pub shared_down: &'static str,
}

/// Layers whose pages have one shape and one lifetime. Every kind of cache is a group of its own; full attention is the
/// only kind that exists so far, windows included (they read fewer keys of the same pages).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerGroup {
    /// Layers of the group, ascending.
    pub layers: Vec<usize>,
    /// KV heads.
    pub kv_heads: usize,
    /// Elements of a key.
    pub k_dim: usize,
    /// Elements of a value.
    pub v_dim: usize,
}

impl LayerGroup {
    /// The group's pages on a device.
    pub fn shape(&self, frames: usize, page_tokens: usize, dtype: DType) -> KvShape {
        let &LayerGroup { kv_heads, k_dim, v_dim, .. } = self;
        KvShape { layers: self.layers.len(), frames, page_tokens, kv_heads, k_dim, v_dim, dtype }
    }
}

impl Architecture {
    /// The layer groups, in order of their first layer.
    pub fn groups(&self) -> Vec<LayerGroup> {
        let mut groups: Vec<LayerGroup> = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            let a = &layer.attention;
            let (kv_heads, k_dim, v_dim) = (a.kv_heads, a.head_dim, a.head_dim);
            match groups.iter_mut().find(|g| (g.kv_heads, g.k_dim, g.v_dim) == (kv_heads, k_dim, v_dim)) {
                Some(group) => group.layers.push(index),
                None => groups.push(LayerGroup { layers: vec![index], kv_heads, k_dim, v_dim }),
            }
        }
        groups
    }
}
