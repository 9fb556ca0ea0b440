//! From logits to a token: penalties, DRY, bias, temperature, truncation, XTC, one draw; and log probabilities.
//!
//! A token depends on its logits row, its parameters, its own sequence's counts and its position, and on nothing else:
//! not on earlier draws, not on other sequences, not on the order tokens were counted in. Sums run in one fixed order
//! and use arithmetic of our own ([`math`]), so the choice is the same for every batch and on every processor. Called by
//! devices; one [`Sampler`] samples one row at a time, and allocates nothing.

mod adjustments;
mod allowed;
mod dry;
pub mod math;
mod nucleus;
mod params;
pub mod philox;
mod request;
mod sampler;
mod select;
#[cfg(test)]
mod tests;

pub use adjustments::LogitAdjustments;
pub use allowed::AllowedTokens;
pub use dry::{Dry, DryBreakers};
pub use params::SamplingParams;
pub use request::{
    LogitAdjustment, NO_FINITE_LOGIT, NO_TOKEN, SamplingKind, SamplingOutput, SamplingRequest, SamplingRequests,
    adjustments_max, mask_words,
};
pub use sampler::{Sampled, Sampler};
