//! From `config.json` to logits: the configuration reader, the families, the binder of weights, the forward pass.
//!
//! Order of reading: [`architecture`] (what a model is), [`families`] (config to architecture), [`binder`] (architecture to
//! tensors), [`checkpoint`] (whether those are there, and what may be left over), [`recipe`] (which of them are quantized),
//! [`sizes`] (what they take), [`loader`] (from a checkpoint to a device), [`weights_cache`] (what spares quantizing the next
//! time), [`weights`] (what there is then), [`forward`] (tensors to logits), [`embedding`] (hidden states to embeddings). Called by [`crate::engine`] on its own thread.

pub mod architecture;
pub mod binder;
mod changes;
pub mod checkpoint;
pub mod config;
pub mod embedding;
pub mod families;
mod float8;
pub mod forward;
mod leftovers;
pub mod loader;
mod prequantized;
mod random;
pub mod recipe;
pub mod rotary;
pub mod sizes;
pub mod weights;
pub mod weights_cache;

pub use architecture::Architecture;
pub use forward::{Model, StepLimits};
pub use random::{random_model, unmade_random_model};
pub use recipe::Recipe;
