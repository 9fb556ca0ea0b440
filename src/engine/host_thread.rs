//! Work on a host's thread that needs more than the thread guarantees: enough stack, and the default floating-point
//! environment.

use super::{Prompt, PromptPart};
use crate::error::Result;
use crate::limits;
use crate::os::floats::LibraryFloats;
use crate::os::thread;

/// Runs a chat template or the tokenizer: on the calling thread, or on a thread of the library if its stack is too
/// small.
///
/// # Errors
/// `Memory` when a thread is needed and cannot be created; those of `body`.
pub(super) fn with_text<R: Send>(body: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    let _floats = LibraryFloats::enter();
    thread::with_stack(limits::TEXT_STACK_BYTES, body)?
}

/// Whether a prompt needs neither a template nor the tokenizer, so that [`with_text`] is unnecessary.
pub(super) fn only_tokens(prompt: &Prompt) -> bool {
    prompt.messages.is_empty() && prompt.parts.iter().all(|part| matches!(part, PromptPart::Tokens(_)))
}
