//! What may follow in a text, before the model has said so: drafts of tokens, and how likely they are to be what is sampled.
//!
//! Integers and probabilities only. A draft is computed in the same step as the token before it, and taken exactly where it is what
//! the sampler draws there; so nothing in here can change a token, only the time that it takes.

mod automaton;
mod drafter;
mod reliability;
mod shared;
mod step_time;

pub use automaton::{Cursor, Piece, SuffixAutomaton};
pub use drafter::Drafter;
pub use reliability::{Acceptance, Reliability};
pub use shared::{SharedCursor, SharedTexts};
pub use step_time::StepTime;
