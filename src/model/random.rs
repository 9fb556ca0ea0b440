//! A model of random weights from nothing but a config: its architecture says which tensors it has.

use super::config::Config;
use super::{families, weights};
use crate::error::Result;
use crate::source::Synthetic;
use serde_json::Value;

/// Makes every tensor of the model that `config` describes, in memory, from `seed`. `name` stands for its path in messages.
///
/// # Errors
/// `Format` and `Unsupported` for the config, `Memory` for weights that do not fit.
pub fn random_model(name: &str, config: Value, seed: u64) -> Result<Synthetic> {
    let (family, model_type) = families::find(&config, name)?;
    let architecture = (family.architecture)(&Config::new(&config, name), &model_type)?;
    Synthetic::new(name, config, weights::expected(&architecture)?, seed)
}
