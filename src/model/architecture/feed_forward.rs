//! Feed-forward operations: a network, experts, both at once, and what tokens have for each layer.

use super::Norm;
use crate::backend::{Activation, Routing};

/// `down(activation(gate(x)) * up(x))`, or without a gate `down(activation(up(x)))`.
#[derive(Clone, Copy, Debug)]
pub struct Dense {
    /// Inner width.
    pub intermediate: usize,
    /// Between the matrices.
    pub activation: Activation,
    /// There is a gate.
    pub gated: bool,
    /// Factor on the gate, before the activation.
    pub gate_scale: f32,
    /// All matrices have biases.
    pub bias: bool,
    /// Its tensors.
    pub names: &'static DenseNames,
}

/// Names of the tensors of a feed-forward network.
#[derive(Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub struct DenseNames {
    pub gate: &'static str,
    pub up: &'static str,
    pub down: &'static str,
}

/// Experts, and what all tokens pass beside them.
#[derive(Clone, Copy, Debug)]
pub struct Experts {
    /// Routed experts.
    pub count: usize,
    /// One of them.
    pub each: Dense,
    /// The choice.
    pub routing: Routing,
    /// The router has a bias.
    pub router_bias: bool,
    /// The router has a vector that counts for the choice alone.
    pub choice_bias: bool,
    /// Name in full of factors on the weights of the experts; empty = there are none.
    pub scale: &'static str,
    /// What every token passes.
    pub shared: Option<Shared>,
    /// Projections around the routed experts, of which the router and the shared network know nothing.
    pub inside: Option<Inside>,
    /// Their tensors, as different checkpoints have them: the first that are there count.
    pub names: &'static [ExpertNames],
}

impl Experts {
    /// Routed experts alone, whose router has a matrix and no vectors.
    pub fn new(count: usize, each: Dense, routing: Routing, names: &'static [ExpertNames]) -> Experts {
        Experts {
            count,
            each,
            routing,
            router_bias: false,
            choice_bias: false,
            scale: "",
            shared: None,
            inside: None,
            names,
        }
    }
}

/// Projections to what routed experts read and from what they write.
#[derive(Clone, Copy, Debug)]
pub struct Inside {
    /// Elements of a row between the two.
    pub width: usize,
    /// Name of the first.
    pub before: &'static str,
    /// Name of the last.
    pub after: &'static str,
}

/// A network beside the routed experts.
#[derive(Clone, Copy, Debug)]
pub struct Shared {
    /// So many, of which the mean counts.
    pub count: usize,
    /// One of them.
    pub each: Dense,
    /// The result is multiplied with the sigmoid of this projection to one number; empty = it is not.
    pub gate: &'static str,
}

/// Names of the tensors of experts.
#[derive(Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub struct ExpertNames {
    pub router: &'static str,
    /// Written in full.
    pub choice_bias: &'static str,
    pub gate: &'static str,
    pub up: &'static str,
    pub down: &'static str,
    /// How a stack is stored.
    pub stack: Stack,
}

/// How a stack of the matrices of all experts is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// `[experts, out, in]`; in one tensor, the rows of the gate come first.
    Rows,
    /// `[experts, in, out]`; in one tensor, the columns of gate and up take turns.
    Columns,
    /// 4-bit floats, `[experts, out, in / 32, 16]` bytes in a tensor whose name ends with `_blocks`, and `[experts, out, in / 32]`
    /// exponents in one that ends with `_scales`; in one tensor, the rows of gate and up take turns.
    Mxfp4,
}

/// What a router reads where it is not what the experts read: the stream, normed without the mean, with gains of its own.
#[derive(Clone, Copy, Debug)]
pub struct RouterInput {
    /// Name of the gains, in full.
    pub gain: &'static str,
    /// Epsilon.
    pub eps: f32,
    /// Factor on the logits.
    pub factor: f32,
}

/// `norm(dense(norm(x))) + norm(experts(norm(x)))`.
#[derive(Clone, Copy, Debug)]
pub struct DenseAndExperts {
    /// The network, and the norms before and after it.
    pub dense: (Norm, Dense, Norm),
    /// The same of the experts, which have nothing shared.
    pub experts: (Norm, Experts, Norm),
    /// What the router reads.
    pub router: RouterInput,
}

/// What every token has for each layer (Gemma 3n): a part of a second embedding, and a projection of the first.
#[derive(Clone, Copy, Debug)]
pub struct PerLayerInputs {
    /// Elements for a layer.
    pub width: usize,
    /// Names of the second embedding, of the projection, and of the norm of its parts.
    pub names: [&'static str; 3],
    /// Epsilon of the norm.
    pub eps: f32,
}

/// `projection(activation(gate(x)) * input)`, with the input of the layer.
#[derive(Clone, Copy, Debug)]
pub struct PerLayerInput {
    /// The layer.
    pub layer: usize,
    /// On the gate.
    pub activation: Activation,
    /// Names of the gate and of the projection.
    pub names: [&'static str; 2],
}
