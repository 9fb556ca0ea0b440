//! From hidden states to sampled tokens.

use super::memory::Tensor;
use super::operations::Linear;
use crate::error::Result;
use crate::sampling::{AllowedTokens, SamplingOutput};

/// Identifies a copy submitted by [`Sampling::copy_out`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(pub u32);

/// Sampling on a device.
pub trait Sampling {
    /// Sets which tokens may be sampled: the ids inside `mask`. Called before the first [`Sampling::sample`].
    ///
    /// # Errors
    /// `Memory`, `Device`.
    fn set_vocabulary_mask(&mut self, mask: &AllowedTokens) -> Result<()>;

    /// Computes the logits of `rows` rows of `x` by the product `head`, caps them ([`super::Operations::softcap`]), and samples
    /// them as [`super::Step::sampling`] says, which has one request for each of the rows. The logits are not defined
    /// afterwards, but for rows of [`crate::sampling::SamplingKind::Host`] until the next step.
    fn sample(&mut self, x: Tensor, rows: usize, head: Linear, softcap: Option<f32>);

    /// Submits the copy of the samples to the host. At most [`super::Steps::steps_in_flight`] tickets are outstanding.
    fn copy_out(&mut self) -> Ticket;

    /// Waits for the samples of a ticket and writes them to `to`, which has room for the rows.
    ///
    /// # Errors
    /// As of [`super::Memory::read`].
    fn wait_sampled(&mut self, ticket: Ticket, to: &mut SamplingOutput) -> Result<()>;
}
