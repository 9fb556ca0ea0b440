//! Reaches behind a handle, for the Rust tests of this crate. Not in the header, not exported.

use super::engine::EngineCall;
use super::types::astrai_engine;
use crate::engine::Engine;
use crate::error::Result;
use std::ops::Deref;

/// The engine behind a live handle; the engine stays open as long as the result lives.
///
/// # Safety
/// `handle` is NULL or an `astrai_engine` that is not freed before this returns.
pub unsafe fn engine(handle: *const astrai_engine) -> Result<impl Deref<Target = Engine>> {
    // SAFETY: as promised by the caller.
    unsafe { EngineCall::begin(handle) }
}
