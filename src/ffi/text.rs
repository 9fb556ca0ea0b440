//! Text functions: the caller brings the buffer, `ERR_BUFFER` says how large it must be.

use super::engine::EngineCall;
use super::guard::guard;
use super::types::*;
use super::{input, options, prompt};
use crate::error::{Error, Result, Status, Unit};
use crate::limits;
use std::ffi::c_char;

/// Hands `elements` to the caller: they, and `terminator` where there is one, into `out` if `capacity` allows.
///
/// # Safety
/// `out` is NULL or has room for `capacity` elements; `count` is NULL or writable.
unsafe fn hand_over<T: Copy>(
    elements: &[T],
    terminator: Option<T>,
    unit: Unit,
    out: *mut T,
    capacity: usize,
    count: *mut usize,
) -> Result<Status> {
    // SAFETY: NULL or writable.
    let count = unsafe { input::out(count, "count") }?;
    if out.is_null() && capacity > 0 {
        return Err(Error::argument(format!("out is NULL with a capacity of {capacity}")).about("out"));
    }
    let needed = elements.len().saturating_add(usize::from(terminator.is_some()));
    if needed > capacity {
        count.write(needed);
        let message = format!("the result needs a capacity of {needed}, out has {capacity}");
        return Err(Error::new(Status::Buffer, message).about("out").numbers(unit, needed as u64, capacity as u64));
    }
    if needed > 0 {
        if !out.is_aligned() {
            return Err(Error::argument("out is not aligned to its elements").about("out"));
        }
        // SAFETY: `out` is not NULL (its capacity is not 0), aligned, and has room for `needed`.
        unsafe {
            elements.as_ptr().copy_to_nonoverlapping(out, elements.len());
            if let Some(terminator) = terminator {
                out.add(elements.len()).write(terminator);
            }
        }
    }
    count.write(elements.len());
    Ok(Status::Ok)
}

/// [A] The text that the chat template makes of the prompt's messages, or its raw text as it is. OK: *count is the
/// length in bytes, and a NUL follows. ERR_BUFFER: *count is the capacity needed, NUL included; cap 0 asks for it.
/// flags: ASTRAI_TEXT_* ERR_TEMPLATE: the template failed. ERR_UNSUPPORTED: the model has none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_render(
    engine: *const astrai_engine,
    prompt: *const astrai_prompt,
    flags: u32,
    out: *mut c_char,
    cap: usize,
    count: *mut usize,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_render", err, || {
        // SAFETY: NULL or a live handle, by the contract.
        let engine = unsafe { EngineCall::begin(engine) }?;
        let flags = options::text(flags, ASTRAI_TEXT_SPECIAL | ASTRAI_TEXT_NO_GENERATION_PROMPT)?;
        // SAFETY: NULL or a live handle, by the contract.
        let text = unsafe { prompt::read(prompt, |prompt| engine.render(prompt, flags)) }?;
        // SAFETY: the caller's buffer, by the contract.
        unsafe { hand_over(text.as_bytes(), Some(0), Unit::Bytes, out.cast(), cap, count) }
    })
}

/// [A] The token ids of a prompt, as submit would use them. OK: *count ids were written. ERR_BUFFER: *count is the
/// capacity needed; cap 0 asks for it. flags: ASTRAI_TEXT_* ERR_TEMPLATE, ERR_UNSUPPORTED: as astrai_render.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_tokenize(
    engine: *const astrai_engine,
    prompt: *const astrai_prompt,
    flags: u32,
    out: *mut i32,
    cap: usize,
    count: *mut usize,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_tokenize", err, || {
        // SAFETY: NULL or a live handle, by the contract.
        let engine = unsafe { EngineCall::begin(engine) }?;
        let flags = options::text(flags, ASTRAI_TEXT_SPECIAL | ASTRAI_TEXT_NO_GENERATION_PROMPT)?;
        // SAFETY: NULL or a live handle, by the contract.
        let tokens = unsafe { prompt::read(prompt, |prompt| engine.tokenize(prompt, flags)) }?;
        // SAFETY: the caller's buffer, by the contract. Ids are below VOCAB_MAX: the same bits are the same number.
        unsafe { hand_over(&tokens, None, Unit::Tokens, out.cast(), cap, count) }
    })
}

/// [A] The text of token ids. OK: *count is the length in bytes, and a NUL follows. ERR_BUFFER: *count is the
/// capacity needed, NUL included; cap 0 asks for it. flags: ASTRAI_TEXT_SPECIAL keeps special tokens.
/// ERR_ARGUMENT: an id the model does not have. ERR_UNSUPPORTED: the model has no tokenizer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_detokenize(
    engine: *const astrai_engine,
    tokens: *const i32,
    token_count: usize,
    flags: u32,
    out: *mut c_char,
    cap: usize,
    count: *mut usize,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_detokenize", err, || {
        // SAFETY: NULL or a live handle, by the contract.
        let engine = unsafe { EngineCall::begin(engine) }?;
        let flags = options::text(flags, ASTRAI_TEXT_SPECIAL)?;
        // SAFETY: NULL or `token_count` readable ids, by the contract.
        let tokens = unsafe { input::array(tokens, token_count, limits::CONTEXT_MAX, Unit::Tokens, "tokens") }?;
        let text = engine.detokenize(&input::tokens(tokens, "tokens")?, flags)?;
        // SAFETY: the caller's buffer, by the contract.
        unsafe { hand_over(text.as_bytes(), Some(0), Unit::Bytes, out.cast(), cap, count) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr;

    #[test]
    fn the_need_includes_the_nul_and_the_length_does_not() {
        let mut count = 99;
        let mut buffer = [b'#'; 4];
        // SAFETY: capacities are at most what the buffer has.
        unsafe {
            let mut hand = |out, capacity| hand_over(b"abc", Some(0), Unit::Bytes, out, capacity, &mut count);
            let error = hand(ptr::null_mut(), 0).unwrap_err();
            assert_eq!((error.status, error.needed, error.available), (Status::Buffer, 4, 0));
            assert_eq!(hand(buffer.as_mut_ptr(), 3).unwrap_err().needed, 4);
            assert_eq!((count, buffer), (4, *b"####"));
            assert_eq!(hand_over(b"abc", Some(0), Unit::Bytes, buffer.as_mut_ptr(), 4, &mut count), Ok(Status::Ok));
        }
        assert_eq!((count, buffer), (3, *b"abc\0"));
    }

    #[test]
    fn nothing_fits_into_nothing() {
        let mut count = 99;
        // SAFETY: a capacity of 0.
        let status = unsafe { hand_over::<i32>(&[], None, Unit::Tokens, ptr::null_mut(), 0, &mut count) };
        assert_eq!((status, count), (Ok(Status::Ok), 0));
    }
}
