//! Backend interface: the tensor operations of one step over a ragged batch.
//!
//! The forward pass ([`crate::model`]) is written once over the [`Backend`] trait. A tensor is an opaque location in
//! device memory; operations run in the order they are submitted, and the host sees results only through
//! [`Memory::read`] and [`Sampling::wait_sampled`]. Activations are rows of f32. Shapes are in elements; `rows` is the
//! number of rows of an operation's input, for most the tokens of the step.
//!
//! A step: the host fills [`Steps::step`], calls [`Steps::begin`], submits the operations, the last of them
//! [`Sampling::sample`], and fetches the samples. What a device does to be faster (memory of its own, padding, replays of
//! recorded steps) is behind these calls.
//!
//! **Law 1 (batch invariance).** Each output row of an operation depends on its own input row alone: the kernel, its
//! instructions and the order of accumulation depend on the weight and on the row's position, never on the number of
//! rows, on how they are split between threads, or on where a prefill chunk starts.
//!
//! Called on the engine thread only.
//!
//! | file | what of a device it describes |
//! |---|---|
//! | `memory` | tensors, weights, the reservation for the largest step |
//! | `cache` | pages of keys and values, states |
//! | `step` | the input of a step |
//! | `operations` | from token ids to hidden states |
//! | `recurrent` | operations that read and write states |
//! | `sampling` | from hidden states to sampled tokens |

mod cache;
pub mod cpu;
#[cfg_attr(not(feature = "cuda"), path = "cuda/absent.rs")]
pub mod cuda;
pub mod device;
mod memory;
mod operations;
mod recurrent;
mod sampling;
mod step;

pub use cache::{Cache, FrameContent, KvPages, KvShape};
pub use memory::{HostBytes, MaxBatchShape, Memory, RandomWeight, Reserved, Tensor, Weight};
pub use operations::{
    Activation, Attention, Expert, Experts, Gating, HeadProducts, Heads, Linear, Norm, Operations, Placement,
    PositionScale, Rotary, RouterGroups, RouterScore, Routing,
};
pub use recurrent::{Conv, Recurrence, StatePart};
pub use sampling::{Sampling, Ticket};
pub use step::{FROM_LAST_STEP, NO_STATE, Ragged, Step, Steps, Tables};

/// Increased whenever a kernel or the forward pass changes in a way that changes result bits. Saved keys and values
/// with another version are not reused.
pub const NUMERICS_VERSION: u32 = 4;

/// A device. Implementations must keep law 1 of the [module](self).
pub trait Backend: Memory + Cache + Steps + Operations + Sampling + Send {}

impl<T: Memory + Cache + Steps + Operations + Sampling + Send> Backend for T {}
