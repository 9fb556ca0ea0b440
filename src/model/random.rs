//! A model of random weights from nothing but a config: its architecture says which tensors it has.

use super::config::Config;
use super::{binder, families};
use crate::error::Result;
use crate::source::Synthetic;
use serde_json::Value;

/// Makes every tensor of the model that `config` describes, in memory, from `seed`. `name` stands for its path in messages.
///
/// # Errors
/// `Format` and `Unsupported` for the config, `Memory` for weights that do not fit.
pub fn random_model(name: &str, config: Value, seed: u64) -> Result<Synthetic> {
    let tensors = tensors(name, &config)?;
    Synthetic::new(name, config, tensors, seed)
}

/// As [`random_model`], but no tensor is made before somebody asks for it ([`Synthetic::unmade`]).
///
/// # Errors
/// `Format` and `Unsupported` for the config.
pub fn unmade_random_model(name: &str, config: Value, seed: u64) -> Result<Synthetic> {
    let tensors = tensors(name, &config)?;
    Synthetic::unmade(name, config, tensors, seed)
}

fn tensors(name: &str, config: &Value) -> Result<Vec<(String, Vec<usize>)>> {
    let (family, model_type) = families::find(config, name)?;
    let architecture = (family.architecture)(&Config::new(config, name), &model_type)?;
    binder::expected(&architecture)
}
