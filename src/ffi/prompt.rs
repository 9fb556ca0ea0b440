//! The prompt builder. A prompt is plain data behind a lock that is only ever tried: two threads at one prompt get
//! `Busy`, never a wait and never a race. Readers (submit, render, tokenize, clone) may be many.

use super::guard::guard;
use super::handle::{Handle, Kind};
use super::input;
use super::types::*;
use crate::engine::{Prompt, PromptPart};
use crate::error::{Error, Result, Status, Unit};
use crate::limits;
use crate::os::thread;
use serde_json::Value;
use std::ffi::c_char;
use std::ptr;
use std::sync::{RwLock, TryLockError};

/// What is behind an `astrai_prompt`.
pub(super) struct PromptBody(RwLock<Built>);

/// A prompt and what its limits are counted by.
#[derive(Clone, Default)]
struct Built {
    prompt: Prompt,
    text_bytes: usize,
    token_count: usize,
}

impl Kind for PromptBody {
    type C = astrai_prompt;
    const MAGIC: u64 = 0x6173_7472_6169_5052;
    const NAME: &'static str = "prompt";
    const SURVIVES_FORK: bool = true;
}

fn busy() -> Error {
    Error::new(Status::Busy, "another thread is using this prompt; give each thread its own, with astrai_prompt_clone")
        .about("prompt")
}

impl PromptBody {
    fn read<T>(&self, look: impl FnOnce(&Built) -> Result<T>) -> Result<T> {
        match self.0.try_read() {
            Ok(built) => look(&built),
            Err(TryLockError::Poisoned(built)) => look(&built.into_inner()),
            Err(TryLockError::WouldBlock) => Err(busy()),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Built) -> Result<()>) -> Result<Status> {
        match self.0.try_write() {
            Ok(mut built) => change(&mut built),
            Err(TryLockError::Poisoned(built)) => change(&mut built.into_inner()),
            Err(TryLockError::WouldBlock) => Err(busy()),
        }?;
        Ok(Status::Ok)
    }
}

/// Reads the prompt behind a handle.
///
/// # Safety
/// As for [`Handle::borrow`].
pub(super) unsafe fn read<T>(prompt: *const astrai_prompt, look: impl FnOnce(&Prompt) -> Result<T>) -> Result<T> {
    // SAFETY: as promised by the caller.
    unsafe { Handle::<PromptBody>::borrow(prompt) }?.read(|built| look(&built.prompt))
}

/// Changes the prompt behind a handle.
///
/// # Safety
/// As for [`Handle::borrow`].
unsafe fn change(prompt: *mut astrai_prompt, change: impl FnOnce(&mut Built) -> Result<()>) -> Result<Status> {
    // SAFETY: as promised by the caller.
    unsafe { Handle::<PromptBody>::borrow(prompt) }?.change(change)
}

impl Built {
    fn count_text(&mut self, bytes: usize) -> Result<()> {
        let sum = self.text_bytes.saturating_add(bytes);
        if sum > limits::PROMPT_BYTES_MAX {
            let most = limits::PROMPT_BYTES_MAX;
            return Err(Error::argument(format!(
                "the prompt's text would have {sum} bytes; at most {most} are allowed"
            ))
            .about("text")
            .numbers(Unit::Bytes, sum as u64, most as u64));
        }
        self.text_bytes = sum;
        Ok(())
    }

    fn count_tokens(&mut self, tokens: usize) -> Result<()> {
        let sum = self.token_count.saturating_add(tokens);
        if sum > limits::CONTEXT_MAX {
            let most = limits::CONTEXT_MAX;
            return Err(Error::argument(format!("the prompt would have {sum} token ids; at most {most} are allowed"))
                .about("tokens")
                .numbers(Unit::Tokens, sum as u64, most as u64));
        }
        self.token_count = sum;
        Ok(())
    }

    fn no_messages(&self) -> Result<()> {
        if self.prompt.messages.is_empty() { Ok(()) } else { Err(mixed("text or tokens", "messages")) }
    }

    fn no_parts(&self) -> Result<()> {
        if self.prompt.parts.is_empty() { Ok(()) } else { Err(mixed("messages", "text or tokens")) }
    }
}

fn mixed(new: &str, old: &str) -> Error {
    Error::argument(format!("{new} cannot be added: this prompt has {old}; a prompt is either raw or a chat"))
        .about("prompt")
}

/// Refuses one element more than `max`.
fn room(len: usize, max: usize, name: &str) -> Result<()> {
    if len < max {
        return Ok(());
    }
    Err(Error::argument(format!("the prompt has {len} {name}; at most {max} are allowed")).about(name).numbers(
        Unit::Count,
        len as u64 + 1,
        max as u64,
    ))
}

fn parse(json: &str, name: &str) -> Result<Value> {
    // As deep as the text nests.
    let parsed = thread::with_stack(limits::TEXT_STACK_BYTES, || serde_json::from_str(json))?;
    parsed.map_err(|e| Error::argument(format!("{name} is not valid JSON: {e}")).about(name))
}

fn messages(json: &str) -> Result<Vec<Value>> {
    let Value::Array(messages) = parse(json, "messages")? else {
        return Err(Error::argument("messages must be a JSON array of objects with a role").about("messages"));
    };
    if messages.len() > limits::MESSAGES_MAX {
        room(messages.len() - 1, limits::MESSAGES_MAX, "messages")?;
    }
    for (index, message) in messages.iter().enumerate() {
        if !message.get("role").is_some_and(Value::is_string) {
            return Err(Error::argument(format!("messages[{index}] must be an object with a string \"role\""))
                .about("messages"));
        }
    }
    Ok(messages)
}

/// [S] Makes an empty prompt; no engine is needed. *out is freed with astrai_prompt_free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_prompt_new(out: *mut *mut astrai_prompt, err: *mut *mut astrai_error) -> i32 {
    guard("astrai_prompt_new", err, || {
        // SAFETY: NULL or writable, by the contract.
        let out = unsafe { input::out(out, "out") }?;
        out.write(Handle::create(PromptBody(RwLock::default())));
        Ok(Status::Ok)
    })
}

/// [S] Makes a copy; the two have nothing in common afterwards. *out is freed with astrai_prompt_free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_prompt_clone(
    prompt: *const astrai_prompt,
    out: *mut *mut astrai_prompt,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_prompt_clone", err, || {
        // SAFETY: NULL or a live handle, by the contract.
        let prompt = unsafe { Handle::<PromptBody>::borrow(prompt) }?;
        // SAFETY: NULL or writable, by the contract.
        let out = unsafe { input::out(out, "out") }?;
        let copy = prompt.read(|built| thread::with_stack(limits::TEXT_STACK_BYTES, || built.clone()))?;
        out.write(Handle::create(PromptBody(RwLock::new(copy))));
        Ok(Status::Ok)
    })
}

/// [S] Adds raw text, which the tokenizer takes as it is. flags: ASTRAI_TEXT_SPECIAL.
/// ERR_UTF8 names the first bad byte. ERR_ARGUMENT: the prompt has messages.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_prompt_add_text(
    prompt: *mut astrai_prompt,
    text: *const c_char,
    len: usize,
    flags: u32,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_prompt_add_text", err, || {
        let add = |built: &mut Built| {
            input::flags(flags, ASTRAI_TEXT_SPECIAL, "flags")?;
            built.no_messages()?;
            // SAFETY: NULL or `len` readable bytes, by the contract.
            let text = unsafe { input::text(text, len, limits::PROMPT_BYTES_MAX, "text") }?;
            let text = input::copy(text, "text")?;
            built.count_text(text.len())?;
            built.prompt.parts.push(PromptPart::Text { text, special: flags & ASTRAI_TEXT_SPECIAL != 0 });
            Ok(())
        };
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { change(prompt, add) }
    })
}

/// [S] Adds token ids. Whether the model has them is checked by submit. ERR_ARGUMENT: one is negative, or the prompt
/// has messages.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_prompt_add_tokens(
    prompt: *mut astrai_prompt,
    tokens: *const i32,
    count: usize,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_prompt_add_tokens", err, || {
        let add = |built: &mut Built| {
            built.no_messages()?;
            // SAFETY: NULL or `count` readable ids, by the contract.
            let tokens = unsafe { input::array(tokens, count, limits::CONTEXT_MAX, Unit::Tokens, "tokens") }?;
            let tokens = input::tokens(tokens, "tokens")?;
            built.count_tokens(tokens.len())?;
            built.prompt.parts.push(PromptPart::Tokens(tokens));
            Ok(())
        };
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { change(prompt, add) }
    })
}

/// [S] Adds a chat message; role is NUL-terminated, "user" for example. The model's chat template turns the messages
/// into text. ERR_UTF8 names the first bad byte. ERR_ARGUMENT: the prompt has text or tokens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_prompt_add_message(
    prompt: *mut astrai_prompt,
    role: *const c_char,
    text: *const c_char,
    len: usize,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_prompt_add_message", err, || {
        let add = |built: &mut Built| {
            built.no_parts()?;
            room(built.prompt.messages.len(), limits::MESSAGES_MAX, "messages")?;
            // SAFETY: NULL or NUL-terminated, by the contract.
            let role = input::copy(unsafe { input::c_string(role, "role") }?, "role")?;
            if role.is_empty() {
                return Err(Error::argument("role is empty; pass \"user\", \"assistant\" or \"system\"").about("role"));
            }
            // SAFETY: NULL or `len` readable bytes, by the contract.
            let text = unsafe { input::text(text, len, limits::PROMPT_BYTES_MAX, "text") }?;
            let text = input::copy(text, "text")?;
            built.count_text(role.len().saturating_add(text.len()))?;
            let fields = [("role", role), ("content", text)];
            let message = fields.into_iter().map(|(key, value)| (key.to_owned(), Value::String(value))).collect();
            built.prompt.messages.push(Value::Object(message));
            Ok(())
        };
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { change(prompt, add) }
    })
}

/// [S] Sets a part of a chat from JSON text: ASTRAI_JSON_MESSAGES, ASTRAI_JSON_TOOLS or ASTRAI_JSON_VARIABLES. It
/// replaces that part. ERR_ARGUMENT: not JSON, or of another shape, or the prompt has text or tokens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_prompt_set_json(
    prompt: *mut astrai_prompt,
    part: i32,
    json: *const c_char,
    len: usize,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_prompt_set_json", err, || {
        let set = |built: &mut Built| {
            built.no_parts()?;
            // SAFETY: NULL or `len` readable bytes, by the contract.
            let json = unsafe { input::text(json, len, limits::PROMPT_JSON_BYTES_MAX, "json") }?;
            match part {
                ASTRAI_JSON_MESSAGES => built.prompt.messages = messages(json)?,
                ASTRAI_JSON_TOOLS => match parse(json, "tools")? {
                    tools @ Value::Array(_) => built.prompt.tools = Some(tools),
                    _ => return Err(Error::argument("tools must be a JSON array").about("tools")),
                },
                ASTRAI_JSON_VARIABLES => match parse(json, "variables")? {
                    Value::Object(variables) => built.prompt.variables = variables,
                    _ => return Err(Error::argument("variables must be a JSON object").about("variables")),
                },
                _ => {
                    let message = format!("part is {part}; expected one of ASTRAI_JSON_*, 1 to 3");
                    return Err(Error::argument(message).about("part"));
                }
            }
            Ok(())
        };
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { change(prompt, set) }
    })
}

/// [S] Adds a stop string: generation ends before it, and no part of it is delivered. ERR_ARGUMENT: it is empty.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_prompt_add_stop(
    prompt: *mut astrai_prompt,
    text: *const c_char,
    len: usize,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_prompt_add_stop", err, || {
        let add = |built: &mut Built| {
            room(built.prompt.stops.len(), limits::STOPS_MAX, "stop strings")?;
            // SAFETY: NULL or `len` readable bytes, by the contract.
            let text = unsafe { input::text(text, len, limits::STOP_BYTES_MAX, "stop string") }?;
            if text.is_empty() {
                return Err(Error::argument("a stop string is empty; it would stop before anything").about("text"));
            }
            built.prompt.stops.push(input::copy(text, "stop string")?);
            Ok(())
        };
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { change(prompt, add) }
    })
}

/// [S] Adds a token id that ends generation, besides the model's own. ERR_ARGUMENT: it is negative.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_prompt_add_stop_token(
    prompt: *mut astrai_prompt,
    token: i32,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_prompt_add_stop_token", err, || {
        let add = |built: &mut Built| {
            room(built.prompt.stop_tokens.len(), limits::STOP_TOKENS_MAX, "stop tokens")?;
            built.prompt.stop_tokens.push(input::token(token, "token")?);
            Ok(())
        };
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { change(prompt, add) }
    })
}

/// [S] Adds bias to the logit of a token; -INFINITY forbids it. ERR_ARGUMENT: token is negative, bias NaN or INFINITY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_prompt_add_bias(
    prompt: *mut astrai_prompt,
    token: i32,
    bias: f32,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_prompt_add_bias", err, || {
        let add = |built: &mut Built| {
            room(built.prompt.bias.len(), limits::BIASES_MAX, "biases")?;
            if bias.is_nan() || bias == f32::INFINITY {
                return Err(Error::argument(format!("bias is {bias}; use a number, or -INFINITY to forbid the token"))
                    .about("bias"));
            }
            built.prompt.bias.push((input::token(token, "token")?, bias));
            Ok(())
        };
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { change(prompt, add) }
    })
}

/// [S] Frees a prompt; requests made from it go on. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_prompt_free(prompt: *mut astrai_prompt) {
    guard("astrai_prompt_free", ptr::null_mut(), || {
        if !prompt.is_null() {
            // SAFETY: a live handle, by the contract.
            unsafe { Handle::<PromptBody>::borrow(prompt) }?.release();
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt() -> *mut astrai_prompt {
        let mut prompt = ptr::null_mut();
        // SAFETY: a place to write to.
        assert_eq!(unsafe { astrai_prompt_new(&mut prompt, ptr::null_mut()) }, ASTRAI_OK);
        prompt
    }

    #[test]
    fn what_is_added_is_what_the_engine_gets() {
        let p = prompt();
        let e = ptr::null_mut();
        let tools = r#"[{"type": "function", "z": 1, "a": 2}]"#;
        // SAFETY: live handles and texts of the given lengths.
        unsafe {
            assert_eq!(astrai_prompt_add_message(p, c"user".as_ptr(), c"h\u{e9}llo".as_ptr(), 6, e), ASTRAI_OK);
            assert_eq!(astrai_prompt_add_message(p, c"assistant".as_ptr(), ptr::null(), 0, e), ASTRAI_OK);
            assert_eq!(astrai_prompt_set_json(p, ASTRAI_JSON_TOOLS, tools.as_ptr().cast(), tools.len(), e), ASTRAI_OK);
            assert_eq!(astrai_prompt_set_json(p, ASTRAI_JSON_VARIABLES, c"{\"k\": null}".as_ptr(), 11, e), ASTRAI_OK);
            assert_eq!(astrai_prompt_add_stop(p, c"\n\nEnd".as_ptr(), 5, e), ASTRAI_OK);
            assert_eq!(astrai_prompt_add_stop_token(p, 7, e), ASTRAI_OK);
            assert_eq!(astrai_prompt_add_bias(p, 9, f32::NEG_INFINITY, e), ASTRAI_OK);
            let mut copy = ptr::null_mut();
            assert_eq!(astrai_prompt_clone(p, &mut copy, e), ASTRAI_OK);
            astrai_prompt_free(p);
            read(copy, |prompt| {
                assert_eq!(prompt.messages.len(), 2);
                assert_eq!(prompt.messages[0], serde_json::json!({"role": "user", "content": "héllo"}));
                assert_eq!(prompt.messages[1], serde_json::json!({"role": "assistant", "content": ""}));
                assert_eq!(prompt.tools.as_ref().unwrap().to_string(), tools.replace(": ", ":").replace(", ", ","));
                assert_eq!(prompt.variables.get("k"), Some(&Value::Null));
                assert_eq!(prompt.stops, ["\n\nEnd"]);
                assert_eq!(prompt.stop_tokens, [7]);
                assert_eq!(prompt.bias, [(9, f32::NEG_INFINITY)]);
                Ok(())
            })
            .unwrap();
            astrai_prompt_free(copy);
        }
    }

    #[test]
    fn raw_parts_keep_their_order_and_do_not_mix_with_messages() {
        let p = prompt();
        let e = ptr::null_mut();
        // SAFETY: live handles and arrays of the given lengths.
        unsafe {
            assert_eq!(astrai_prompt_add_tokens(p, [1, 2].as_ptr(), 2, e), ASTRAI_OK);
            assert_eq!(astrai_prompt_add_text(p, c"x".as_ptr(), 1, ASTRAI_TEXT_SPECIAL, e), ASTRAI_OK);
            assert_eq!(astrai_prompt_add_message(p, c"user".as_ptr(), c"x".as_ptr(), 1, e), ASTRAI_ERR_ARGUMENT);
            assert_eq!(astrai_prompt_set_json(p, ASTRAI_JSON_MESSAGES, c"[]".as_ptr(), 2, e), ASTRAI_ERR_ARGUMENT);
            read(p, |prompt| {
                let text = PromptPart::Text { text: "x".to_owned(), special: true };
                assert_eq!(prompt.parts, [PromptPart::Tokens(vec![1, 2]), text]);
                assert!(prompt.messages.is_empty());
                Ok(())
            })
            .unwrap();
            astrai_prompt_free(p);
        }
    }

    #[test]
    fn a_prompt_in_use_is_busy() {
        let p = prompt();
        // SAFETY: a live handle.
        unsafe {
            let inside = read(p, |_| Ok(astrai_prompt_add_stop_token(p, 1, ptr::null_mut())));
            assert_eq!(inside.unwrap(), ASTRAI_ERR_BUSY);
            let reader = read(p, |_| read(p, |prompt| Ok(prompt.stop_tokens.len())));
            assert_eq!(reader.unwrap(), 0);
            assert_eq!(astrai_prompt_add_stop_token(p, 1, ptr::null_mut()), ASTRAI_OK);
            astrai_prompt_free(p);
        }
    }

    #[test]
    fn errors_name_the_place() {
        let p = prompt();
        let message = |call: &dyn Fn(*mut *mut astrai_error) -> i32| {
            let mut err = ptr::null_mut();
            let status = call(&mut err);
            // SAFETY: a failing call wrote an error.
            unsafe {
                let message = std::ffi::CStr::from_ptr((*err).message).to_str().unwrap().to_owned();
                super::super::error::astrai_error_free(err);
                (status, message)
            }
        };
        // SAFETY: live handles and texts of the given lengths.
        unsafe {
            let (status, text) = message(&|e| astrai_prompt_add_text(p, c"ab\xff".as_ptr(), 3, 0, e));
            assert_eq!(status, ASTRAI_ERR_UTF8);
            assert!(text.contains("byte 2 (0xff)"), "{text}");
            let (status, text) = message(&|e| astrai_prompt_add_tokens(p, [3, -4].as_ptr(), 2, e));
            assert_eq!((status, text.contains("tokens[1] is -4")), (ASTRAI_ERR_ARGUMENT, true), "{text}");
            let (_, text) = message(&|e| astrai_prompt_set_json(p, ASTRAI_JSON_MESSAGES, c"[{}]".as_ptr(), 4, e));
            assert!(text.contains("messages[0]"), "{text}");
            let (_, text) = message(&|e| astrai_prompt_set_json(p, ASTRAI_JSON_TOOLS, c"[1,".as_ptr(), 3, e));
            assert!(text.contains("line 1 column 3"), "{text}");
            let (_, text) = message(&|e| astrai_prompt_add_text(p, ptr::null(), 3, 0, e));
            assert!(text.contains("text is NULL with a length of 3"), "{text}");
            let (_, text) = message(&|e| astrai_prompt_add_text(p, c"".as_ptr(), usize::MAX, 0, e));
            assert!(text.contains("at most"), "{text}");
            astrai_prompt_free(p);
        }
    }
}
