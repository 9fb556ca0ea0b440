//! Which tensors of a model are quantized, and how: one small table, so that a mixture is one line.

use crate::encoding::Scheme;
use std::fmt;

/// What a tensor is for, as far as its format depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Used as it is stored: vectors, biases, the embedding that tokens are looked up in, and the router of experts, whose
    /// small matrix decides which large ones are used.
    Kept,
    /// A matrix of a layer that is none of the following.
    Layer,
    /// The projection that values are made by. What it errs in reaches every later position.
    Value,
    /// The projection that keys are made by.
    Key,
    /// The last matrix of a feed-forward network.
    Down {
        /// Index of its layer.
        layer: usize,
        /// Layers of the model.
        layers: usize,
    },
    /// The output matrix; where it is tied to the embedding, a copy of that. No later layer evens out its errors.
    Head,
}

/// How the weights of a model are made from those of its checkpoint. `docs/quality.md` has what each costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// Everything as stored.
    Stored,
    /// 8-bit matrices.
    Q8,
    /// As [`Recipe::Q4`], but for the key projections and some of [`Part::Down`]: they have 8 bits, too.
    Q5,
    /// 4-bit matrices, but for the value projections and the output matrix: they have 8 bits.
    Q4,
}

impl Recipe {
    /// The scheme of a part; `None` = as stored.
    pub fn scheme(self, part: Part) -> Option<Scheme> {
        match (self, part) {
            (_, Part::Kept) | (Recipe::Stored, _) => None,
            (Recipe::Q8, _) | (_, Part::Value | Part::Head) => Some(Scheme::Q8),
            (Recipe::Q5, Part::Key) => Some(Scheme::Q8),
            (Recipe::Q5, Part::Down { layer, layers }) if matters(layer, layers) => Some(Scheme::Q8),
            (Recipe::Q5 | Recipe::Q4, _) => Some(Scheme::Q4),
        }
    }

    /// Whether anything is quantized.
    pub fn quantizes(self) -> bool {
        self != Recipe::Stored
    }
}

/// Whether a layer is among the first or the last eighth of all, or is every second of those between.
fn matters(layer: usize, layers: usize) -> bool {
    let (first, last) = (layers / 8, 7 * layers / 8);
    layer < first || layer >= last || (layer - first).is_multiple_of(2)
}

/// Another name whenever other matrices are made: what is kept in files has it.
impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Recipe::Stored => "stored",
            Recipe::Q8 => "q8",
            Recipe::Q5 => "q5",
            Recipe::Q4 => "q4",
        })
    }
}
