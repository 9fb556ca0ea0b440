//! What a request wants beside numbers: stops, biases, a constraint. Plain data behind a lock that is only ever tried, as prompts are.

use super::built::{append, parse, room};
use super::constraint;
use super::guard::guard;
use super::handle::{Handle, Kind, unlocked};
use super::input;
use super::types::*;
use crate::engine::{Settings, ToolChoice, check_breakers};
use crate::error::{Error, Result, Status};
use crate::limits;
use serde_json::Value;
use std::ffi::c_char;
use std::ptr;
use std::sync::{Arc, RwLock};

/// What is behind an `astrai_settings`. Requests copy what they need of it.
struct SettingsBody(RwLock<Arc<Settings>>);

impl Kind for SettingsBody {
    type C = astrai_settings;
    const MAGIC: u64 = 0x6173_7472_6169_5354;
    const NAME: &'static str = "settings";
    const SURVIVES_FORK: bool = true;
}

fn busy() -> Error {
    let message = "another thread is changing these settings; give each thread its own, with astrai_settings_clone";
    Error::new(Status::Busy, message).about("settings")
}

/// The settings behind a handle; none for NULL.
///
/// # Safety
/// `settings` is NULL, or as for [`Handle::borrow`].
pub(super) unsafe fn read(settings: *const astrai_settings) -> Result<Option<Arc<Settings>>> {
    if settings.is_null() {
        return Ok(None);
    }
    // SAFETY: as promised by the caller.
    let body = unsafe { Handle::<SettingsBody>::borrow(settings) }?;
    let settings = unlocked(body.0.try_read(), busy)?;
    Ok(Some(settings.clone()))
}

/// Changes the settings behind a handle. A change that fails changes nothing.
///
/// # Safety
/// As for [`Handle::borrow`].
unsafe fn change(settings: *mut astrai_settings, change: impl FnOnce(&mut Settings) -> Result<()>) -> Result<()> {
    // SAFETY: as promised by the caller.
    let body = unsafe { Handle::<SettingsBody>::borrow(settings) }?;
    let mut settings = unlocked(body.0.try_write(), busy)?;
    match Arc::get_mut(&mut settings) {
        Some(own) => change(own),
        // A submit on another thread is still reading them.
        None => {
            let mut copy = settings.try_clone()?;
            change(&mut copy)?;
            *settings = Arc::new(copy);
            Ok(())
        }
    }
}

/// [S] Makes empty settings; no engine is needed. *out is freed with astrai_settings_free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_settings_new(out: *mut *mut astrai_settings, err: *mut *mut astrai_error) -> i32 {
    guard("astrai_settings_new", err, || {
        // SAFETY: NULL or writable, by the contract.
        let out = unsafe { input::out(out, "out") }?;
        Handle::give(SettingsBody(RwLock::default()), out)
    })
}

/// [S] Makes a copy; the two have nothing in common afterwards but the constraint. *out is freed with astrai_settings_free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_settings_clone(
    settings: *const astrai_settings,
    out: *mut *mut astrai_settings,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_settings_clone", err, || {
        // SAFETY: NULL or a live handle, by the contract.
        let body = unsafe { Handle::<SettingsBody>::borrow(settings) }?;
        // SAFETY: NULL or writable, by the contract.
        let out = unsafe { input::out(out, "out") }?;
        let copy = unlocked(body.0.try_read(), busy)?.try_clone()?;
        Handle::give(SettingsBody(RwLock::new(Arc::new(copy))), out)
    })
}

/// [S] Adds a stop string: generation ends before it, and no part of it is delivered. One that is the name of a special
/// token of the model ends generation at that token, too. ERR_ARGUMENT: it is empty.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_settings_add_stop(
    settings: *mut astrai_settings,
    text: *const c_char,
    len: usize,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_settings_add_stop", err, || {
        let add = |settings: &mut Settings| {
            room(settings.stops.len(), limits::STOPS_MAX, "stop strings")?;
            // SAFETY: NULL or `len` readable bytes, by the contract.
            let text = unsafe { input::text(text, len, limits::STOP_BYTES_MAX, "stop string") }?;
            if text.is_empty() {
                return Err(Error::argument("a stop string is empty; it would stop before anything").about("text"));
            }
            append(&mut settings.stops, input::copy(text, "stop string")?)
        };
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { change(settings, add) }
    })
}

/// [S] Adds a token id that ends generation, besides the model's own. ERR_ARGUMENT: it is negative.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_settings_add_stop_token(
    settings: *mut astrai_settings,
    token: i32,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_settings_add_stop_token", err, || {
        let add = |settings: &mut Settings| {
            room(settings.stop_tokens.len(), limits::STOP_TOKENS_MAX, "stop tokens")?;
            append(&mut settings.stop_tokens, input::token(token, "token")?)
        };
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { change(settings, add) }
    })
}

/// [S] Adds bias to the logit of a token; -INFINITY forbids it. ERR_ARGUMENT: token is negative, bias NaN or INFINITY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_settings_add_bias(
    settings: *mut astrai_settings,
    token: i32,
    bias: f32,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_settings_add_bias", err, || {
        let add = |settings: &mut Settings| {
            room(settings.bias.len(), limits::BIASES_MAX, "biases")?;
            if bias.is_nan() || bias == f32::INFINITY {
                return Err(Error::argument(format!("bias is {bias}; use a number, or -INFINITY to forbid the token"))
                    .about("bias"));
            }
            append(&mut settings.bias, (input::token(token, "token")?, bias))
        };
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { change(settings, add) }
    })
}

/// [S] Sets what answers may be; NULL: anything. The constraint may be freed right after.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_settings_set_constraint(
    settings: *mut astrai_settings,
    constraint: *const astrai_constraint,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_settings_set_constraint", err, || {
        let set = |settings: &mut Settings| {
            // SAFETY: NULL or a live handle, by the contract.
            settings.constraint = unsafe { constraint::read(constraint) }?;
            Ok(())
        };
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { change(settings, set) }
    })
}

/// [S] Sets the texts that a repetition (DRY) does not reach across: a JSON list of strings, "[]" for none. NULL and 0: the usual ones, a
/// new line, a colon, a quote and an asterisk. Special tokens are such, too. ERR_ARGUMENT: no list of strings, too many, or one is
/// empty or too long.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_settings_set_dry_breakers(
    settings: *mut astrai_settings,
    json: *const c_char,
    len: usize,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_settings_set_dry_breakers", err, || {
        let set = |settings: &mut Settings| {
            // SAFETY: NULL or `len` readable bytes, by the contract.
            let json = unsafe { input::text(json, len, limits::PROMPT_JSON_BYTES_MAX, "json") }?;
            settings.dry_breakers = match json {
                "" => None,
                json => {
                    let wrong =
                        || Error::argument("sequence breakers must be a JSON list of strings").about("dry_breakers");
                    let list = parse(json, "dry_breakers")?;
                    let texts = list.as_array().ok_or_else(wrong)?.iter().map(Value::as_str);
                    let texts: Vec<String> =
                        texts.map(|text| text.map(str::to_owned)).collect::<Option<_>>().ok_or_else(wrong)?;
                    check_breakers(&texts)?;
                    Some(texts.into())
                }
            };
            Ok(())
        };
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { change(settings, set) }
    })
}

/// [S] Sets the tools of requests: a JSON array as ASTRAI_JSON_TOOLS takes it. A prompt without tools of its own has these; of one that
/// has some, these are the ones that may be called. NULL and 0: none. ERR_ARGUMENT: not JSON, or no array.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_settings_set_tools(
    settings: *mut astrai_settings,
    json: *const c_char,
    len: usize,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_settings_set_tools", err, || {
        let set = |settings: &mut Settings| {
            // SAFETY: NULL or `len` readable bytes, by the contract.
            let json = unsafe { input::text(json, len, limits::PROMPT_JSON_BYTES_MAX, "json") }?;
            settings.tools = match json {
                "" => None,
                json => match parse(json, "tools")? {
                    tools @ Value::Array(_) => Some(Arc::new(tools)),
                    _ => return Err(Error::argument("tools must be a JSON array").about("tools")),
                },
            };
            Ok(())
        };
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { change(settings, set) }
    })
}

/// [S] Sets whether answers call tools: ASTRAI_TOOLS_*. name (NUL-terminated) is the tool of ASTRAI_TOOLS_NAMED, else NULL. flags:
/// ASTRAI_TOOLS_SINGLE_CALL, ASTRAI_TOOLS_CONSTRAIN. Calls of ASTRAI_TOOLS_REQUIRED and ASTRAI_TOOLS_NAMED, with
/// ASTRAI_TOOLS_AUTO those of tools with "strict": true, are written as the model's format has them, with arguments that their schemas
/// accept; no others can be generated. What a schema has that cannot be demanded is ERR_UNSUPPORTED in the request's last event, as is
/// a model whose format is not known at submit. ERR_ARGUMENT: an unknown choice, or a name where none belongs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_settings_set_tool_choice(
    settings: *mut astrai_settings,
    choice: i32,
    name: *const c_char,
    flags: u32,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_settings_set_tool_choice", err, || {
        let set = |settings: &mut Settings| {
            input::flags(flags, ASTRAI_TOOLS_SINGLE_CALL | ASTRAI_TOOLS_CONSTRAIN, "flags")?;
            if name.is_null() == (choice == ASTRAI_TOOLS_NAMED) {
                return Err(Error::argument("name goes with ASTRAI_TOOLS_NAMED, and only with that").about("name"));
            }
            settings.tool_choice = match choice {
                ASTRAI_TOOLS_AUTO => ToolChoice::Auto,
                ASTRAI_TOOLS_NONE => ToolChoice::None,
                ASTRAI_TOOLS_REQUIRED => ToolChoice::Required,
                ASTRAI_TOOLS_NAMED => {
                    // SAFETY: NUL-terminated, by the contract.
                    let name = unsafe { input::c_string(name, "name") }?;
                    ToolChoice::Named(input::copy(name, "name")?)
                }
                _ => {
                    let message = format!("choice is {choice}; expected one of ASTRAI_TOOLS_*, 0 to 3");
                    return Err(Error::argument(message).about("choice"));
                }
            };
            settings.single_call = flags & ASTRAI_TOOLS_SINGLE_CALL != 0;
            settings.constrain_calls = flags & ASTRAI_TOOLS_CONSTRAIN != 0;
            Ok(())
        };
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { change(settings, set) }
    })
}

/// [S] Frees settings; requests made with them go on. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_settings_free(settings: *mut astrai_settings) {
    guard("astrai_settings_free", ptr::null_mut(), || {
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { Handle::<SettingsBody>::free(settings, |_| {}) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_what_requests_get() {
        let (mut s, e) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: live handles and texts of the given lengths.
        unsafe {
            assert_eq!(astrai_settings_new(&mut s, e), ASTRAI_OK);
            assert_eq!(astrai_settings_add_stop(s, c"\n\nEnd".as_ptr(), 5, e), ASTRAI_OK);
            assert_eq!(astrai_settings_add_stop_token(s, 7, e), ASTRAI_OK);
            // While a submit reads them, a change makes them anew.
            let read_before = read(s).unwrap().unwrap();
            assert_eq!(astrai_settings_add_bias(s, 9, f32::NEG_INFINITY, e), ASTRAI_OK);
            let mut copy = ptr::null_mut();
            assert_eq!(astrai_settings_clone(s, &mut copy, e), ASTRAI_OK);
            assert_eq!(astrai_settings_add_stop_token(copy, 8, e), ASTRAI_OK);
            let (settings, copied) = (read(s).unwrap().unwrap(), read(copy).unwrap().unwrap());
            assert_eq!(
                (settings.stops.as_slice(), settings.stop_tokens.as_slice()),
                (&["\n\nEnd".to_owned()][..], &[7][..])
            );
            assert_eq!(settings.bias, [(9, f32::NEG_INFINITY)]);
            assert_eq!((read_before.bias.len(), copied.stop_tokens.as_slice()), (0, &[7, 8][..]));
            assert!(read(ptr::null()).unwrap().is_none());
            astrai_settings_free(copy);
            astrai_settings_free(s);
        }
    }

    #[test]
    fn bad_input_changes_nothing() {
        let (mut s, e) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: live handles and texts of the given lengths.
        unsafe {
            assert_eq!(astrai_settings_new(&mut s, e), ASTRAI_OK);
            assert_eq!(astrai_settings_add_stop(s, c"".as_ptr(), 0, e), ASTRAI_ERR_ARGUMENT);
            assert_eq!(astrai_settings_add_stop(s, c"\xff".as_ptr(), 1, e), ASTRAI_ERR_UTF8);
            assert_eq!(astrai_settings_add_stop_token(s, -1, e), ASTRAI_ERR_ARGUMENT);
            for bias in [f32::NAN, f32::INFINITY] {
                assert_eq!(astrai_settings_add_bias(s, 1, bias, e), ASTRAI_ERR_ARGUMENT);
            }
            let settings = read(s).unwrap().unwrap();
            assert!(settings.stops.is_empty() && settings.stop_tokens.is_empty() && settings.bias.is_empty());
            astrai_settings_free(s);
        }
    }
}
