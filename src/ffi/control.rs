//! What a host may ask of a running engine, and before it opens one: pause, duty limit, cache, plan.

use super::engine::EngineCall;
use super::guard::{guard, may_block, may_wait};
use super::types::*;
use super::user_data::UserData;
use super::{input, options};
use crate::engine::Engine;
use crate::error::Status;
use std::ffi::c_char;
use std::sync::Arc;

/// [B] Says what memory astrai_engine_open with these options would take, from config and file headers alone: no weights
/// are read, no threads started, and the callbacks in options are not called. NULL options: all automatic. Too
/// little memory is no error: fits is 0. Other errors as astrai_engine_open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_engine_plan(
    dir: *const c_char,
    options: *const astrai_engine_options,
    out: *mut astrai_plan,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_engine_plan", err, || {
        // SAFETY: NULL or a struct of the caller, by the contract.
        let given = unsafe { input::read_options(options) }?;
        may_block("astrai_engine_plan")?;
        // SAFETY: a struct of the caller, by the contract.
        unsafe { input::size_to_write(out) }?;
        // SAFETY: NULL or NUL-terminated, by the contract.
        let dir = unsafe { input::path(dir, "dir", "model folder") }?;
        // Without its finalizer: the user data stays the caller's.
        let nobody = Arc::new(UserData::new(given.user_data, None));
        let plan = Engine::plan(dir, &options::engine(&given, &nobody)?)?;
        // SAFETY: a struct of the caller, by the contract.
        unsafe { input::write_struct(out, &options::plan(&plan)) }
    })
}

/// [B] Keeps the engine from working until astrai_engine_resume. OK: no step is running and none will begin. TIMEOUT: what
/// runs was not over in time, and the pause stays requested; or another thread resumed the engine. Requests
/// are accepted, cancelled and meet their deadlines as always, but make no progress. Idempotent.
/// astrai_engine_close on a paused engine gives no grace. ERR_REENTRANT, ERR_ARGUMENT, ERR_CLOSED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_engine_pause(
    engine: *const astrai_engine,
    timeout_ms: i32,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_engine_pause", err, || {
        // SAFETY: NULL or a live handle, by the contract.
        let engine = unsafe { EngineCall::begin(engine) }?;
        let timeout = input::timeout(timeout_ms, "timeout_ms")?;
        may_wait("astrai_engine_pause", timeout)?;
        if engine.pause(timeout)? { Ok(Status::Ok) } else { Ok(Status::Timeout) }
    })
}

/// [A] Ends a pause; fine when there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_engine_resume(engine: *const astrai_engine, err: *mut *mut astrai_error) -> i32 {
    guard("astrai_engine_resume", err, || {
        // SAFETY: NULL or a live handle, by the contract.
        let engine = unsafe { EngineCall::begin(engine) }?;
        engine.resume()
    })
}

/// [A] Lets the engine work at most work_us in every interval_us, both in microseconds; 0 and 0: no limit. It rests
/// between two layers of the model, on a GPU between two steps, so it may exceed the limit by one of those, which it makes
/// up for. After idling it may work work_us at once: two intervals that touch can have twice as much. Takes effect at once. Work is steps, and copying
/// the pages of prefixes that are saved or restored.
/// ERR_ARGUMENT: work_us is more than interval_us, or only work_us is 0; needed and available are the two.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_engine_set_duty(
    engine: *const astrai_engine,
    work_us: u32,
    interval_us: u32,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_engine_set_duty", err, || {
        // SAFETY: NULL or a live handle, by the contract.
        let engine = unsafe { EngineCall::begin(engine) }?;
        engine.set_duty(work_us, interval_us)
    })
}

/// [A] Drops the cached pages that no request uses and no prefix pins, before the next step.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_engine_clear_cache(engine: *const astrai_engine, err: *mut *mut astrai_error) -> i32 {
    guard("astrai_engine_clear_cache", err, || {
        // SAFETY: NULL or a live handle, by the contract.
        let engine = unsafe { EngineCall::begin(engine) }?;
        engine.clear_cache()
    })
}
