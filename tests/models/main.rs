//! Checkpoints: that every family gives its reference's numbers, in every format its weights are held in, and that damaged,
//! contradictory and foreign files are one clear error each.
#![allow(clippy::print_stdout, reason = "seeds and measured differences belong to a test's report")]

mod eight_bit_floats;
mod embeddings;
mod gguf;
mod gguf_embeddings;
mod gguf_latent;
mod hostile_files;
mod hostile_models;
mod parity;
mod quantized;
mod random_model;
mod real;
#[path = "../support/mod.rs"]
mod support;
mod weights_cache;
