//! What a model is made of, as plain data: a family turns `config.json` into this, the binder looks up its tensors,
//! the forward pass walks it. Nothing here touches a weight.
//!
//! A model is an embedding, layers, a norm and an output matrix. A layer is a list of [`Block`]s, each of which adds the
//! result of one [`Operation`] to the residual stream. Tensors are named by small tables, so that a family that differs from
//! another by its names alone is a table.
//!
//! **Names.** A name in a table stands for `NAME.weight` and `NAME.bias`, and is that of a tensor in its layer. Two matrices
//! of one group (query, key and value; gate and up) with the same name are consecutive rows of one tensor. `{e}` is the number
//! of an expert; a name of experts without it is that of a stack of all, written in full.

mod feed_forward;
mod groups;
mod prefix;
mod recurrent;

pub use feed_forward::{
    Dense, DenseAndExperts, DenseNames, ExpertNames, Experts, Inside, PerLayerInput, PerLayerInputs, RouterInput,
    Shared, Stack,
};
pub use groups::LayerGroup;
pub use prefix::Prefix;
pub use recurrent::{
    GatedNorm, Recurrence, RecurrenceInputs, RecurrenceNames, RecurrenceRule, ShortConv, ShortConvNames,
};

use super::rotary::RotarySpec;
use crate::backend::PositionScale;

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
    /// Factor on the embedding.
    pub embedding_scale: f32,
    /// Rotary embeddings in use; layers name one by index.
    pub rotaries: Vec<RotarySpec>,
    /// What tokens have for each layer beside the embedding.
    pub per_layer: Option<PerLayerInputs>,
    /// The layers.
    pub layers: Vec<Layer>,
    /// The norm after the last layer. Its name is whole.
    pub final_norm: Norm,
    /// Where the output matrix comes from.
    pub head: Head,
    /// There is a bias on the logits.
    pub head_bias: bool,
    /// Factor on the logits.
    pub logits_scale: f32,
    /// A logit `l` becomes `softcap * tanh(l / softcap)`.
    pub logits_softcap: Option<f32>,
    /// Where the tensors are that belong to no layer.
    pub names: &'static Names,
    /// What the names of all tensors have in front.
    pub prefix: Prefix,
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
    /// There is none: nothing can be generated. The embedding stands in its place.
    Absent,
}

/// Names of tensors that belong to no layer, and what those of a layer begin with.
#[derive(Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Names {
    pub embedding: &'static str,
    pub lm_head: &'static str,
    /// `{l}` is the layer.
    pub layer: &'static str,
}

/// A layer: its blocks, in order.
pub type Layer = Vec<Block>;

/// `x += factor * after(operation(before(x)))`.
#[derive(Clone, Debug)]
pub struct Block {
    /// What the operation reads.
    pub before: Before,
    /// The operation.
    pub operation: Operation,
    /// The norm of its result.
    pub after: Option<Norm>,
    /// Factor on what is added.
    pub factor: f32,
    /// Name in full of a number of the checkpoint that the stream is multiplied with then; empty = there is none.
    pub scalar: &'static str,
}

impl Block {
    /// A pre-norm block.
    pub fn new(before: Norm, operation: Operation) -> Block {
        Block { before: Before::Norm(before), operation, after: None, factor: 1.0, scalar: "" }
    }
}

/// What the operation of a block reads.
#[derive(Clone, Copy, Debug)]
pub enum Before {
    /// The stream, normed.
    Norm(Norm),
    /// The stream itself.
    Stream,
    /// What the block before it has read.
    Same,
    /// The stream as it was before the block before it, normed.
    Beside(Norm),
}

/// A norm of rows.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// Its tensors; empty = it has none.
    pub name: &'static str,
    /// The formula.
    pub kind: NormKind,
    /// There is a bias.
    pub bias: bool,
    /// Epsilon.
    pub eps: f32,
}

impl Norm {
    /// A plain RMS norm.
    pub fn rms(name: &'static str, eps: f32) -> Norm {
        Norm { name, kind: NormKind::Rms, bias: false, eps }
    }
}

/// The formula of a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// RMS norm.
    Rms,
    /// RMS norm whose gain is one more than what is stored.
    RmsPlusOne,
    /// LayerNorm.
    Centred,
    /// LayerNorm whose gain is one more than what is stored.
    CentredPlusOne,
}

impl NormKind {
    /// The mean is subtracted first.
    pub fn centred(self) -> bool {
        matches!(self, NormKind::Centred | NormKind::CentredPlusOne)
    }

    /// The gain is one more than what is stored.
    pub fn plus_one(self) -> bool {
        matches!(self, NormKind::RmsPlusOne | NormKind::CentredPlusOne)
    }

    /// The same with gains stored whole.
    pub fn whole(self) -> NormKind {
        if self.centred() { NormKind::Centred } else { NormKind::Rms }
    }
}

/// What a block computes.
#[derive(Clone, Copy, Debug)]
pub enum Operation {
    /// Attention over the cache.
    Attention(Attention),
    /// Attention over a cache of latent vectors.
    Latent(LatentAttention),
    /// A convolution over the last tokens.
    ShortConv(ShortConv),
    /// A linear recurrence: a gated delta rule, or a state space.
    Recurrence(Recurrence),
    /// A feed-forward network.
    Dense(Dense),
    /// Feed-forward networks of which a router chooses some.
    Experts(Experts),
    /// Both side by side, each with norms of its own.
    DenseAndExperts(DenseAndExperts),
    /// What the embedding of a token has for the layer.
    PerLayerInput(PerLayerInput),
}

/// How keys and values come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvProjection {
    /// `k_proj`, `v_proj`.
    Direct,
    /// Rows of `q_proj`: of each head its query, its key, its value.
    WithQuery,
    /// `k_proj` makes both: values are what keys are before their norm and rotation.
    KeyIsValue,
    /// None: the pages of another layer's attention are read.
    Shared {
        /// That layer, an earlier one.
        layer: usize,
    },
    /// `kv_b_proj(kv_norm(kv_a_proj(x)))`, each KV head giving its key, then its value.
    Latent {
        /// Width between the two.
        rank: usize,
    },
}

/// When queries and keys are normed, and over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadNorm {
    /// Never.
    None,
    /// Each head, before the rotation.
    BeforeRotary,
    /// Each head, after the rotation.
    AfterRotary,
    /// All heads of a row at once, before the rotation.
    Whole,
    /// Each head by a norm of its own, before the rotation; `{h}` in its name is the head.
    Each,
}

/// What the result of attention is multiplied with the sigmoid of, before the output projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Nothing.
    None,
    /// `gate(x)`, as wide as the result.
    Own,
    /// `gate(x)`, one number for each head.
    PerHead,
    /// The second half of each head of `q_proj`.
    InQuery,
}

/// Rotation of a part of every query and key head.
#[derive(Clone, Copy, Debug)]
pub struct HeadRotary {
    /// Index into [`Architecture::rotaries`].
    pub index: usize,
    /// First rotated element of a head.
    pub start: usize,
    /// Adjacent pairs instead of halves.
    pub interleaved: bool,
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
    /// The rotation; `None` = positions are not known.
    pub rotary: Option<HeadRotary>,
    /// Norm of queries and keys.
    pub head_norm: HeadNorm,
    /// Its formula. One that is centred comes before the rotation.
    pub head_norm_kind: NormKind,
    /// It has biases.
    pub head_norm_bias: bool,
    /// Values are normed, too, without gains.
    pub value_norm: bool,
    /// Epsilon of the norms inside.
    pub eps: f32,
    /// Gate on the result.
    pub gate: Gate,
    /// q, k and v have biases.
    pub qkv_bias: bool,
    /// The output projection has a bias.
    pub out_bias: bool,
    /// Keys visible to a query; `None` = all before it.
    pub window: Option<u32>,
    /// Queries see later keys too, and as many of them as `window` has before them.
    pub bidirectional: bool,
    /// Factor on the scores.
    pub scale: f32,
    /// A score `s` becomes `softcap * tanh(s / softcap)`.
    pub softcap: Option<f32>,
    /// Each head has a score for a key that is always there and has no value.
    pub sinks: bool,
    /// Factor on queries by their position.
    pub position_scale: Option<PositionScale>,
    /// Its tensors.
    pub names: &'static AttentionNames,
}

impl Attention {
    /// Rows of `q_proj` for each head.
    pub fn query_stride(&self) -> usize {
        match (self.kv, self.gate) {
            (KvProjection::WithQuery, _) => 3 * self.head_dim,
            (_, Gate::InQuery) => 2 * self.head_dim,
            _ => self.head_dim,
        }
    }
}

/// Names of the tensors of attention.
#[derive(Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub struct AttentionNames {
    pub q: &'static str,
    pub k: &'static str,
    pub v: &'static str,
    pub out: &'static str,
    pub q_norm: &'static str,
    pub k_norm: &'static str,
    pub gate: &'static str,
    pub kv_a: &'static str,
    pub kv_norm: &'static str,
    pub kv_b: &'static str,
    /// Written in full.
    pub sinks: &'static str,
}

/// Attention over one vector a token that all heads share (DeepSeek-V2, arXiv:2405.04434). A key is this latent, normed, and a part
/// that rotates; a value is the latent alone. Queries pass through the key rows of `kv_b` of their head, and results through its
/// value rows, in prefill and decode alike: keys and values of heads are never made.
#[derive(Clone, Copy, Debug)]
pub struct LatentAttention {
    /// Query heads.
    pub heads: usize,
    /// Elements of the latent.
    pub rank: usize,
    /// Elements of a query that do not rotate; those that do follow them.
    pub nope: usize,
    /// Elements that rotate.
    pub rope: usize,
    /// Elements of a head's result.
    pub v_dim: usize,
    /// Width between the two projections of queries; `None` = there is one.
    pub q_rank: Option<usize>,
    /// Index into [`Architecture::rotaries`].
    pub rotary: usize,
    /// Adjacent pairs rotate instead of halves.
    pub interleaved: bool,
    /// Epsilon of the norms inside.
    pub eps: f32,
    /// The first projections of queries and of the latent, and the output projection, have biases.
    pub bias: bool,
    /// Factor on the scores.
    pub scale: f32,
    /// Its tensors.
    pub names: &'static LatentNames,
}

/// Names of the tensors of latent attention.
#[derive(Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub struct LatentNames {
    /// Where there is one projection.
    pub q: &'static str,
    pub q_a: &'static str,
    pub q_norm: &'static str,
    pub q_b: &'static str,
    pub kv_a: &'static str,
    pub kv_norm: &'static str,
    /// Of each head the rows that make keys, then those that make values.
    pub kv_b: &'static str,
    pub out: &'static str,
}

impl Architecture {
    /// All blocks with the index of their layer, in order.
    pub fn blocks(&self) -> impl Iterator<Item = (usize, &Block)> {
        self.layers.iter().enumerate().flat_map(|(index, layer)| layer.iter().map(move |block| (index, block)))
    }

    /// Whether queries of some layer see later keys. A step then has all tokens of a sequence, and what is computed of a
    /// token is of no use to another sequence.
    pub fn bidirectional(&self) -> bool {
        let sees_later = |block: &Block| matches!(&block.operation, Operation::Attention(a) if a.bidirectional);
        self.blocks().any(|(_, block)| sees_later(block))
    }

    /// Takes it that queries and keys are stored so that elements that rotate together are adjacent.
    pub fn with_adjacent_pairs(&mut self) {
        for block in self.layers.iter_mut().flatten() {
            if let Operation::Attention(Attention { rotary: Some(rotary), .. }) = &mut block.operation {
                rotary.interleaved = true;
            }
        }
    }

    /// Takes it that the gains of all norms, and decays, are stored whole.
    pub fn with_whole_gains(&mut self) {
        self.final_norm.kind = self.final_norm.kind.whole();
        for block in self.layers.iter_mut().flatten() {
            if let Before::Norm(norm) | Before::Beside(norm) = &mut block.before {
                norm.kind = norm.kind.whole();
            }
            if let Some(norm) = &mut block.after {
                norm.kind = norm.kind.whole();
            }
            match &mut block.operation {
                Operation::Attention(attention) => attention.head_norm_kind = attention.head_norm_kind.whole(),
                Operation::Recurrence(recurrence) => recurrence.whole_decay = true,
                _ => {}
            }
        }
    }
}
