//! Compiled constraints.

use super::engine::EngineCall;
use super::guard::{guard, may_block};
use super::handle::{Handle, Kind as HandleKind};
use super::input;
use super::types::*;
use crate::constrain::Kind;
use crate::engine::Constraint;
use crate::error::{Error, Result};
use crate::limits;
use std::ffi::c_char;
use std::ptr;

/// What is behind an `astrai_constraint`.
struct ConstraintBody(Constraint);

impl HandleKind for ConstraintBody {
    type C = astrai_constraint;
    const MAGIC: u64 = 0x6173_7472_6169_434F;
    const NAME: &'static str = "constraint";
    const SURVIVES_FORK: bool = false;
}

/// The constraint behind a handle; none for NULL.
///
/// # Safety
/// `constraint` is NULL, or as for [`Handle::borrow`].
pub(super) unsafe fn read(constraint: *const astrai_constraint) -> Result<Option<Constraint>> {
    if constraint.is_null() {
        return Ok(None);
    }
    // SAFETY: as promised by the caller.
    let body = unsafe { Handle::<ConstraintBody>::borrow(constraint) }?;
    Ok(Some(body.0.clone()))
}

/// The kind that a number of the header names.
fn kind_of(given: i32) -> Result<Kind> {
    match given {
        ASTRAI_CONSTRAINT_JSON_SCHEMA => Ok(Kind::JsonSchema),
        ASTRAI_CONSTRAINT_JSON => Ok(Kind::Json),
        ASTRAI_CONSTRAINT_REGEX => Ok(Kind::Regex),
        ASTRAI_CONSTRAINT_LARK => Ok(Kind::Lark),
        ASTRAI_CONSTRAINT_TEXTS => Ok(Kind::Texts),
        other => Err(Error::argument(format!("kind is {other}; one of ASTRAI_CONSTRAINT_* is expected")).about("kind")),
    }
}

/// [B] Compiles what answers may be: kind is one of ASTRAI_CONSTRAINT_*, to which
/// ASTRAI_CONSTRAINT_WHOLE may be added; text is written accordingly. The first constraint of an engine
/// takes up to seconds, for the vocabulary; others milliseconds. *out serves any number of requests of this engine, through
/// astrai_settings_set_constraint, and is freed with astrai_constraint_free. Where an answer may end, the model's end tokens are
/// allowed, and nowhere else; log probabilities stay those of the model.
/// ERR_UNSUPPORTED: something in it cannot be expressed, or nothing meets it; the message has name and position. ERR_ARGUMENT: the
/// text is not of its kind, too long, or nests too deeply. ERR_UTF8, ERR_CLOSED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_constraint_compile(
    engine: *const astrai_engine,
    kind: i32,
    text: *const c_char,
    len: usize,
    out: *mut *mut astrai_constraint,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_constraint_compile", err, || {
        // SAFETY: NULL or a live handle, by the contract.
        let engine = unsafe { EngineCall::begin(engine) }?;
        let whole = kind & ASTRAI_CONSTRAINT_WHOLE != 0;
        let kind = kind_of(kind & !ASTRAI_CONSTRAINT_WHOLE)?;
        // SAFETY: NULL or `len` readable bytes, by the contract.
        let text = unsafe { input::text(text, len, limits::CONSTRAINT_BYTES_MAX, "text") }?;
        // SAFETY: NULL or writable, by the contract.
        let out = unsafe { input::out(out, "out") }?;
        may_block("astrai_constraint_compile")?;
        let constraint = engine.compile_constraint(kind, text)?;
        let constraint = if whole { constraint.on_whole_answer() } else { constraint };
        Handle::give(ConstraintBody(constraint), out)
    })
}

/// [A] Frees a constraint; settings and requests that have it go on. NULL is fine. In a forked child it does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_constraint_free(constraint: *mut astrai_constraint) {
    guard("astrai_constraint_free", ptr::null_mut(), || {
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { Handle::<ConstraintBody>::free(constraint, |_| {}) }
    })
}
