//! Pinned prefixes: compute once what many prompts begin with, keep it, save it, restore it.

use super::engine::EngineCall;
use super::guard::{guard, may_block, may_wait};
use super::handle::{Handle, Kind};
use super::types::*;
use super::{input, prompt};
use crate::engine::Prefix;
use crate::error::Status;
use std::ffi::c_char;
use std::ptr;

/// What is behind an `astrai_prefix`.
struct PrefixBody {
    prefix: Prefix,
}

impl Kind for PrefixBody {
    type C = astrai_prefix;
    const MAGIC: u64 = 0x6173_7472_6169_5046;
    const NAME: &'static str = "prefix";
    const SURVIVES_FORK: bool = false;
}

/// [A] Pins the beginning of prompts to come, such as a persona: computes it in the background, unless it is there
/// already, and keeps it in memory until *out is freed with astrai_prefix_free. Requests that begin with the same
/// tokens start from it. Only whole pages are kept, at most half of all. A chat is rendered without opening the
/// assistant's turn; stops and biases do not matter. The prompt may be changed or freed right after.
/// ERR_CONTEXT, ERR_QUEUE_FULL, ERR_TEMPLATE, ERR_CLOSED, ERR_UNSUPPORTED, ERR_ARGUMENT as for astrai_submit. What
/// goes wrong later is told by astrai_prefix_wait.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_prefix_pin(
    engine: *const astrai_engine,
    prompt: *const astrai_prompt,
    out: *mut *mut astrai_prefix,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_prefix_pin", err, || {
        // SAFETY: NULL or a live handle, by the contract.
        let engine = unsafe { EngineCall::begin(engine) }?;
        // SAFETY: NULL or writable, by the contract.
        let out = unsafe { input::out(out, "out") }?;
        // SAFETY: NULL or a live handle, by the contract.
        let prefix = unsafe { prompt::read(prompt, |prompt| engine.pin_prefix(prompt)) }?;
        Handle::give(PrefixBody { prefix }, out)
    })
}

/// [B] Waits until the prefix is pinned. *tokens (tokens may be NULL) is how many tokens that are: whole pages, so 0
/// for a prompt shorter than a page; fewer later if a request had no other way to go on, which is logged. TIMEOUT: it
/// is not after timeout_ms (0 polls, -1 waits forever).
/// ERR_MEMORY: pins would take more than half of the pages; needed and available are in tokens. ERR_QUEUE_FULL: too
/// many are pinned. ERR_CLOSED, ERR_INTERNAL: the engine ended. ERR_HANDLE: another thread freed the prefix.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_prefix_wait(
    prefix: *const astrai_prefix,
    timeout_ms: i32,
    tokens: *mut u32,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_prefix_wait", err, || {
        // SAFETY: NULL or a live handle, by the contract.
        let handle = unsafe { Handle::<PrefixBody>::borrow(prefix) }?;
        let timeout = input::timeout(timeout_ms, "timeout_ms")?;
        // SAFETY: NULL or writable, by the contract.
        let out = unsafe { input::optional_out(tokens, "tokens") }?;
        may_wait("astrai_prefix_wait", timeout)?;
        let Some(pinned) = handle.prefix.wait(timeout)? else { return Ok(Status::Timeout) };
        if let Some(out) = out {
            out.write(u32::try_from(pinned).unwrap_or(u32::MAX));
        }
        Ok(Status::Ok)
    })
}

/// [B] Waits until the prefix is pinned and writes it to a file, for astrai_prefix_restore in this or another process.
/// A file of that name is replaced in one step: it is there whole, the old or the new, also if the machine stops. It keeps
/// its mode; a new one is its owner's alone. Through a symbolic link the file it leads to is written; ERR_IO for a folder,
/// a device, a pipe or a socket. What a process that was killed left beside it is gone after the next save.
/// Other requests go on meanwhile; a duty limit counts and delays the copying, a pause does not hold it. The first save
/// or restore of an engine reads all weights once, in this call, to know the model by every byte: seconds for each 10 GB
/// that are in memory, else as long as the disk takes. Errors as for astrai_prefix_wait; ERR_IO, ERR_UTF8.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_prefix_save(
    prefix: *const astrai_prefix,
    path: *const c_char,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_prefix_save", err, || {
        // SAFETY: NULL or a live handle, by the contract.
        let handle = unsafe { Handle::<PrefixBody>::borrow(prefix) }?;
        // SAFETY: NULL or NUL-terminated, by the contract.
        let path = unsafe { input::path(path, "path", "file") }?;
        may_block("astrai_prefix_save")?;
        handle.prefix.save(path)
    })
}

/// [B] Pins what astrai_prefix_save wrote; requests that begin with it give the same bits as if it had been computed.
/// Other requests go on meanwhile. What the first one of an engine costs, and how a duty limit and a pause matter, is said
/// at astrai_prefix_save. *out is freed with astrai_prefix_free. When it fails nothing is pinned.
/// ERR_MISMATCH: the file is of another model (one bit of the weights suffices), instruction set, type, page size or version; the message has both
/// values. ERR_FORMAT: it is damaged. ERR_CONTEXT, ERR_MEMORY: it does not fit, in tokens. ERR_IO, ERR_CLOSED,
/// ERR_UNSUPPORTED, ERR_UTF8. Only restore files you trust: a checksum finds accidents, not malice.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_prefix_restore(
    engine: *const astrai_engine,
    path: *const c_char,
    out: *mut *mut astrai_prefix,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_prefix_restore", err, || {
        // SAFETY: NULL or a live handle, by the contract.
        let engine = unsafe { EngineCall::begin(engine) }?;
        // SAFETY: NULL or NUL-terminated, by the contract.
        let path = unsafe { input::path(path, "path", "file") }?;
        // SAFETY: NULL or writable, by the contract.
        let out = unsafe { input::out(out, "out") }?;
        may_block("astrai_prefix_restore")?;
        let prefix = engine.restore_prefix(path)?;
        Handle::give(PrefixBody { prefix }, out)
    })
}

/// [A] Frees the handle: the pages are no longer pinned, or no longer computed. They stay cached until their memory is
/// needed. A thread inside astrai_prefix_wait gets ERR_HANDLE. NULL is fine. In a forked child it does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_prefix_free(prefix: *mut astrai_prefix) {
    guard("astrai_prefix_free", ptr::null_mut(), || {
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { Handle::<PrefixBody>::free(prefix, |body| body.prefix.free()) }
    })
}
