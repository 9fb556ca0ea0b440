//! Which tensors of a model are quantized, and how: one small table, so that a mixture is one line.

use crate::encoding::Scheme;
use std::fmt;

/// What a tensor is for, as far as its format depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Used as it is stored: vectors, biases, the embedding that tokens are looked up in, and the router of experts, whose
    /// small matrix decides which large ones are used.
    Kept,
    /// A matrix of a layer.
    Layer,
    /// The output matrix; where it is tied to the embedding, a copy of that.
    Head,
}

/// How the weights of a model are made from those of its checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    layers: Option<Scheme>,
    head: Option<Scheme>,
}

impl Recipe {
    /// Everything as stored.
    pub const STORED: Recipe = Recipe { layers: None, head: None };
    /// 8-bit matrices.
    pub const Q8: Recipe = Recipe { layers: Some(Scheme::Q8), head: Some(Scheme::Q8) };
    /// 4-bit matrices but for the output matrix, whose errors no later layer evens out: it has 8 bits.
    pub const Q4: Recipe = Recipe { layers: Some(Scheme::Q4), head: Some(Scheme::Q8) };

    /// The scheme of a part; `None` = as stored.
    pub const fn scheme(self, part: Part) -> Option<Scheme> {
        match part {
            Part::Kept => None,
            Part::Layer => self.layers,
            Part::Head => self.head,
        }
    }

    /// Whether anything is quantized.
    pub const fn quantizes(self) -> bool {
        self.layers.is_some() || self.head.is_some()
    }
}

/// The scheme, or those of the layers and of the output matrix where they differ.
impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |scheme: Option<Scheme>| scheme.map_or_else(|| "stored".to_owned(), |scheme| scheme.to_string());
        match self.layers == self.head {
            true => f.write_str(&name(self.layers)),
            false => write!(f, "{}-{}", name(self.layers), name(self.head)),
        }
    }
}
