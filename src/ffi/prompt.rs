//! The prompt builder. A prompt is plain data behind a lock that is only ever tried: two threads at one prompt get
//! `Busy`, never a wait and never a race. Readers (submit, render, tokenize, clone) may be many.

use super::built::{Built, append, messages, parse, room};
use super::engine::EngineCall;
use super::guard::guard;
use super::handle::{Handle, Kind, unlocked};
use super::input;
use super::request;
use super::types::*;
use crate::engine::{MessageFlags, Prompt, PromptPart};
use crate::error::{Error, Result, Status, Unit};
use crate::limits;
use crate::os::thread;
use serde_json::Value;
use std::ffi::c_char;
use std::ptr;
use std::sync::RwLock;

/// What is behind an `astrai_prompt`.
pub(super) struct PromptBody(RwLock<Built>);

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
        look(&*unlocked(self.0.try_read(), busy)?)
    }

    /// A change that fails changes nothing.
    fn change(&self, change: impl FnOnce(&mut Built) -> Result<()>) -> Result<()> {
        unlocked(self.0.try_write(), busy)?.change(change)
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
unsafe fn change(prompt: *mut astrai_prompt, change: impl FnOnce(&mut Built) -> Result<()>) -> Result<()> {
    // SAFETY: as promised by the caller.
    unsafe { Handle::<PromptBody>::borrow(prompt) }?.change(change)
}

/// [S] Makes an empty prompt; no engine is needed. *out is freed with astrai_prompt_free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_prompt_new(out: *mut *mut astrai_prompt, err: *mut *mut astrai_error) -> i32 {
    guard("astrai_prompt_new", err, || {
        // SAFETY: NULL or writable, by the contract.
        let out = unsafe { input::out(out, "out") }?;
        Handle::give(PromptBody(RwLock::default()), out)
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
        let copy = prompt.read(|built| thread::with_stack(limits::TEXT_STACK_BYTES, || built.try_clone()))??;
        Handle::give(PromptBody(RwLock::new(copy)), out)
    })
}

/// [S] Adds raw text, which the tokenizer takes as it is. flags: ASTRAI_TEXT_SPECIAL. Before a prompt that begins with text
/// go the tokens that the tokenizer begins every text with, unless with ASTRAI_TEXT_SPECIAL the text begins with them itself.
/// Texts added one after the other, with no token ids between them, are one text: "har" and "bor" give the tokens of
/// "harbor". A name of a special token counts if all of it was added with ASTRAI_TEXT_SPECIAL.
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
            room(built.prompt.parts.len(), limits::PROMPT_PARTS_MAX, "parts")?;
            // SAFETY: NULL or `len` readable bytes, by the contract.
            let text = unsafe { input::text(text, len, limits::PROMPT_BYTES_MAX, "text") }?;
            let text = input::copy(text, "text")?;
            built.count_text(text.len())?;
            append(&mut built.prompt.parts, PromptPart::Text { text, special: flags & ASTRAI_TEXT_SPECIAL != 0 })
        };
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { change(prompt, add) }
    })
}

/// [S] Adds token ids, to which nothing is added: a prompt that has its begin token twice is told in the log, with
/// ASTRAI_LOG_WARN. Whether the model has them is checked by submit. ERR_ARGUMENT: one is negative, or the prompt has
/// messages.
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
            room(built.prompt.parts.len(), limits::PROMPT_PARTS_MAX, "parts")?;
            // SAFETY: NULL or `count` readable ids, by the contract.
            let tokens = unsafe { input::array(tokens, count, limits::CONTEXT_MAX, Unit::Tokens, "tokens") }?;
            let tokens = input::tokens(tokens, "tokens")?;
            built.count_tokens(tokens.len())?;
            append(&mut built.prompt.parts, PromptPart::Tokens(tokens))
        };
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { change(prompt, add) }
    })
}

/// [S] Adds a chat message; role is NUL-terminated, "user" for example. The model's chat template turns the messages
/// into text. Names of special tokens in text are ordinary characters, but for an assistant's;
/// astrai_prompt_set_message_flags has them as tokens. ERR_UTF8 names the first bad byte. ERR_ARGUMENT: the prompt has
/// text or tokens, or its last message is to be continued.
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
            built.no_start()?;
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
            append(&mut built.prompt.messages, Value::Object(message))
        };
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { change(prompt, add) }
    })
}

/// [S] Sets a part of a chat from JSON text: ASTRAI_JSON_MESSAGES, ASTRAI_JSON_TOOLS or ASTRAI_JSON_VARIABLES. It
/// replaces that part; messages set anew have no flags. ERR_ARGUMENT: not JSON, or of another shape, or the prompt has text
/// or tokens.
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
                ASTRAI_JSON_MESSAGES => {
                    built.prompt.messages = messages(json)?;
                    built.prompt.message_flags.clear();
                    built.prompt.answers.clear();
                }
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

/// [S] Sets the flags of a message: ASTRAI_MESSAGE_*, in place of those it has. index counts the messages from 0, added or
/// set as JSON; -1 is the last one there is now. astrai_submit, astrai_render, astrai_tokenize and astrai_prefix_pin keep
/// to them.
/// With ASTRAI_MESSAGE_CONTINUE the chat ends where the content of the last message ends, or the last part of text in it, or
/// of a message without content its reasoning: the template is not asked to open the assistant's turn, and what it would put
/// after the content is left out. Spaces at the end of the content stay if the template keeps them. When the
/// template leaves out a part of the content, those functions give ERR_TEMPLATE. Stop strings are looked for in
/// what is new.
/// ERR_ARGUMENT: there is no such message, or ASTRAI_MESSAGE_CONTINUE for one that is not the last or not of the role
/// "assistant".
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_prompt_set_message_flags(
    prompt: *mut astrai_prompt,
    index: i32,
    flags: u32,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_prompt_set_message_flags", err, || {
        let set = |built: &mut Built| {
            input::flags(flags, ASTRAI_MESSAGE_SPECIAL | ASTRAI_MESSAGE_CONTINUE, "flags")?;
            let (special, continued) = (flags & ASTRAI_MESSAGE_SPECIAL != 0, flags & ASTRAI_MESSAGE_CONTINUE != 0);
            built.set_flags(index, MessageFlags { special, continued })
        };
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { change(prompt, set) }
    })
}

/// [S] Drops the oldest whole turns of a chat until it leaves room for reserve tokens of an answer, or only the last one is left;
/// *dropped (dropped may be NULL) is how many messages that were. A turn is a user's message and what follows it up to the next one, calls and their results
/// included; the last turn stays, and so do messages of the system. When it drops, it drops to three quarters of the room, so
/// that the turns after it find their beginning computed, and not every turn of a full context is computed anew.
/// ERR_CONTEXT: the last turn alone is longer than the context; needed and available are in tokens, and the prompt is as it was.
/// ERR_ARGUMENT: the prompt has no messages. ERR_TEMPLATE, ERR_UNSUPPORTED, ERR_CLOSED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_prompt_fit(
    engine: *const astrai_engine,
    prompt: *mut astrai_prompt,
    reserve: u32,
    dropped: *mut u32,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_prompt_fit", err, || {
        // SAFETY: NULL or a live handle, by the contract.
        let engine = unsafe { EngineCall::begin(engine) }?;
        // SAFETY: NULL or writable, by the contract.
        let out = unsafe { input::optional_out(dropped, "dropped") }?;
        let mut count = 0;
        let fit = |built: &mut Built| {
            count = built.shortened(|prompt| engine.fit_prompt(prompt, reserve))?;
            Ok(())
        };
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { change(prompt, fit) }?;
        if let Some(out) = out {
            out.write(u32::try_from(count).unwrap_or(u32::MAX));
        }
        Ok(())
    })
}

/// [S] Adds the answer of a request that has ended and whose terminal event was received: its content, its reasoning and its whole
/// calls become the assistant's message. Where the chat template writes it as the model did, the very tokens that were generated
/// stand for it, so that the next turn finds them in the prefix cache. After a message with ASTRAI_MESSAGE_CONTINUE the answer goes
/// on with that one. The request may be freed right after. ERR_ARGUMENT: the request has not ended, or its prompt was not made of
/// messages, or this one is not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_prompt_add_answer(
    prompt: *mut astrai_prompt,
    request: *const astrai_request,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_prompt_add_answer", err, || {
        let add = |built: &mut Built| {
            built.no_parts()?;
            room(built.prompt.messages.len(), limits::MESSAGES_MAX, "messages")?;
            built.grown(|prompt| {
                // SAFETY: NULL or a live handle, by the contract.
                unsafe { request::look(request, |request| prompt.add_answer(request)) }
            })
        };
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { change(prompt, add) }
    })
}

/// [S] Adds what a tool returned, as the result of the call of the last answer that has this id (NUL-terminated). ERR_UTF8 names the
/// first bad byte. ERR_ARGUMENT: the last message, but for results, is no answer with such a call, or the call has its result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_prompt_add_result(
    prompt: *mut astrai_prompt,
    call_id: *const c_char,
    text: *const c_char,
    len: usize,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_prompt_add_result", err, || {
        let add = |built: &mut Built| {
            built.no_parts()?;
            room(built.prompt.messages.len(), limits::MESSAGES_MAX, "messages")?;
            // SAFETY: NULL or NUL-terminated, by the contract.
            let call_id = unsafe { input::c_string(call_id, "call_id") }?;
            // SAFETY: NULL or `len` readable bytes, by the contract.
            let text = unsafe { input::text(text, len, limits::PROMPT_BYTES_MAX, "text") }?;
            built.grown(|prompt| prompt.add_result(call_id, text))
        };
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { change(prompt, add) }
    })
}

/// [S] Frees a prompt; requests made from it go on. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_prompt_free(prompt: *mut astrai_prompt) {
    guard("astrai_prompt_free", ptr::null_mut(), || {
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { Handle::<PromptBody>::free(prompt, |_| {}) }
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
            let mut copy = ptr::null_mut();
            assert_eq!(astrai_prompt_clone(p, &mut copy, e), ASTRAI_OK);
            astrai_prompt_free(p);
            read(copy, |prompt| {
                assert_eq!(prompt.messages.len(), 2);
                assert_eq!(prompt.messages[0], serde_json::json!({"role": "user", "content": "héllo"}));
                assert_eq!(prompt.messages[1], serde_json::json!({"role": "assistant", "content": ""}));
                assert_eq!(prompt.tools.as_ref().unwrap().to_string(), tools.replace(": ", ":").replace(", ", ","));
                assert_eq!(prompt.variables.get("k"), Some(&Value::Null));
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
    fn what_is_empty_counts_too() {
        let p = prompt();
        let (e, none) = (ptr::null_mut(), ptr::null());
        // SAFETY: live handles, and arrays of no elements.
        unsafe {
            for i in 0..limits::PROMPT_PARTS_MAX {
                let status = match i % 2 {
                    0 => astrai_prompt_add_text(p, ptr::null(), 0, 0, e),
                    _ => astrai_prompt_add_tokens(p, none, 0, e),
                };
                assert_eq!(status, ASTRAI_OK);
            }
            let mut err = ptr::null_mut();
            assert_eq!(astrai_prompt_add_text(p, ptr::null(), 0, 0, &mut err), ASTRAI_ERR_ARGUMENT);
            assert_eq!((*err).available, limits::PROMPT_PARTS_MAX as u64);
            super::super::error::astrai_error_free(err);
            assert_eq!(astrai_prompt_add_tokens(p, none, 0, e), ASTRAI_ERR_ARGUMENT);
            astrai_prompt_free(p);
        }
    }

    #[test]
    fn a_prompt_in_use_is_busy() {
        let p = prompt();
        // SAFETY: a live handle.
        unsafe {
            let inside = read(p, |_| Ok(astrai_prompt_add_tokens(p, [1].as_ptr(), 1, ptr::null_mut())));
            assert_eq!(inside.unwrap(), ASTRAI_ERR_BUSY);
            let reader = read(p, |_| read(p, |prompt| Ok(prompt.parts.len())));
            assert_eq!(reader.unwrap(), 0);
            assert_eq!(astrai_prompt_add_tokens(p, [1].as_ptr(), 1, ptr::null_mut()), ASTRAI_OK);
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
