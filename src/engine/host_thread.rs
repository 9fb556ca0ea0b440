//! What runs on a host's thread and may need more than that thread has: its stack, and a floating-point environment that
//! nobody changed.

use super::api::{Prompt, PromptPart};
use crate::error::Result;
use crate::limits;
use crate::os::floats::LibraryFloats;
use crate::os::thread;

/// Runs a chat template or the tokenizer: in place, or on a thread of the library when the caller's stack is short.
///
/// # Errors
/// `Memory` when a thread is needed and none can be had; those of `body`.
pub(super) fn with_text<R: Send>(body: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    let _floats = LibraryFloats::enter();
    thread::with_stack(limits::TEXT_STACK_BYTES, body)?
}

/// Whether a prompt needs neither template nor tokenizer, and so no stack for them.
pub(super) fn only_tokens(prompt: &Prompt) -> bool {
    prompt.messages.is_empty() && prompt.parts.iter().all(|part| matches!(part, PromptPart::Tokens(_)))
}
