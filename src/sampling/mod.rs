//! From logits to a token: penalties, bias, temperature, truncation, one draw; and log probabilities.
//!
//! A token depends on its logits row, its parameters, its own sequence's counts and its position, and on nothing else:
//! not on earlier draws, not on other sequences, not on the order tokens were counted in. Sums run in one fixed order
//! and use arithmetic of our own ([`math`]), so the choice is the same for every batch. Called by the engine thread,
//! one [`Sampler`] an engine; a draw allocates nothing.

mod allowed;
mod counts;
pub mod math;
mod params;
pub mod philox;
mod sampler;
mod select;
#[cfg(test)]
mod tests;

pub use allowed::AllowedTokens;
pub use counts::TokenCounts;
pub use params::SamplingParams;
pub use sampler::{Sampled, Sampler};
