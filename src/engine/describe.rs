//! The first stage of opening: what config and headers of the source say of the model.

use super::abilities::Abilities;
use super::api::EngineOptions;
use crate::error::Result;
use crate::model::Recipe;
use crate::model::architecture::Architecture;
use crate::model::checkpoint;
use crate::model::families::{self, Family};
use crate::source::ModelSource;

/// A model before a device is chosen for it.
pub(super) struct Described {
    pub family: &'static Family,
    pub model_type: String,
    pub architecture: Architecture,
    /// How the weights are quantized while they are loaded.
    pub recipe: Recipe,
    /// What it can do.
    pub abilities: Abilities,
}

impl Described {
    /// Reads the config and checks the tensors' names and shapes, before any size is computed from the model. Warnings
    /// about tensors are logged later, when the weights are bound.
    ///
    /// # Errors
    /// `Io`, `Format` and `Unsupported` for what the source says; `Argument` for the context length.
    pub fn of(source: &dyn ModelSource, options: &EngineOptions) -> Result<Described> {
        let (family, model_type, architecture) = families::describe(source, options.context_length as usize)?;
        checkpoint::check(&architecture, family, source)?;
        let abilities = Abilities::of(&architecture, source);
        Ok(Described { family, model_type, architecture, recipe: options.weights.recipe(), abilities })
    }
}
