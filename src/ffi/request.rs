//! Requests: submit, and what can be done with one afterwards.

use super::engine::{EngineBody, EngineCall};
use super::event::{self, EventCell};
use super::guard::{callback, guard, may_wait};
use super::handle::{Handle, Kind, Room, unlocked};
use super::input;
use super::types::*;
use super::user_data::UserData;
use super::{options, prompt, settings};
use crate::engine::{Choice, Event, HostLogits, Next, Request, RequestOptions, Sink};
use crate::error::{Error, Result, Status};
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is behind an `astrai_request`.
pub(super) struct RequestBody {
    request: Request,
    /// Held by the one thread inside next or wait.
    reader: Mutex<()>,
    /// Its events are read through this handle, not by a callback or astrai_engine_next.
    pulled: bool,
    /// The logits that the host has, until it chooses.
    logits: Mutex<Option<Vec<f32>>>,
    /// Of a pull request: finalized with the handle, since nobody else gets it.
    _user_data: Option<UserData>,
}

impl Kind for RequestBody {
    type C = astrai_request;
    const MAGIC: u64 = 0x6173_7472_6169_5251;
    const NAME: &'static str = "request";
    const SURVIVES_FORK: bool = false;
}

/// The engine's end of a callback: shows each event to the host. `memory` keeps the engine's handle nameable inside
/// the callback, also while the engine is being freed.
fn sink(on_event: CallbackFn, user_data: UserData, memory: Arc<Handle<EngineBody>>) -> Sink {
    let mut cell = EventCell::lent();
    Sink::Callback(Box::new(move |event: &Event| {
        let _keep = &memory;
        let Ok(shown) = cell.show(event) else { return false };
        // SAFETY: a function of the declared type, by the contract of astrai_submit; the event outlives the call.
        callback(|| unsafe { on_event(user_data.pointer(), shown) }) == 0
    }))
}

type CallbackFn = unsafe extern "C" fn(*mut c_void, *const astrai_event) -> i32;

/// [A] Submits a prompt; the prompt may be changed or freed right after. options may be NULL: the model's defaults.
/// With on_event, each event is shown to it on a dispatch thread, the first possibly before this returns (with
/// ASTRAI_DELIVER_POLL: inside later calls); out may be NULL: the request runs on without a handle. With on_event NULL,
/// events are pulled through *out with astrai_request_next or astrai_request_wait, or with ASTRAI_REQUEST_TO_ENGINE
/// taken with astrai_engine_next, and out may be NULL again. *out is freed with astrai_request_free.
/// finalize(user_data) runs exactly once: after the terminal callback; before astrai_engine_next returns the terminal
/// event, or when the engine is freed with it untaken; of a pulled request when *out is freed; before this returns when
/// it fails.
/// ERR_CONTEXT: the prompt is longer than the context, which is never longer than what the KV memory holds; needed and
/// available are in tokens. ERR_QUEUE_FULL: as many requests run and wait as may, or too many have ended whose last events
/// nobody took: take them, or free the handles of pulled ones. ERR_TEMPLATE, ERR_CLOSED, ERR_UNSUPPORTED; those of the prompt with
/// ASTRAI_REQUEST_DEFER in its terminal event instead. ERR_ARGUMENT: an option is out of range (subject names it), the
/// prompt is empty, a token id is not the model's, or on_event is set with ASTRAI_REQUEST_TO_ENGINE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_submit(
    engine: *const astrai_engine,
    prompt: *const astrai_prompt,
    options: *const astrai_request_options,
    on_event: astrai_event_fn,
    user_data: *mut c_void,
    finalize: astrai_finalize_fn,
    out: *mut *mut astrai_request,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_submit", err, || {
        // First of all: whatever happens from here on ends in the finalizer.
        let user_data = UserData::new(user_data, finalize);
        // SAFETY: NULL or a live handle, by the contract.
        let engine = unsafe { EngineCall::begin(engine) }?;
        // SAFETY: NULL or writable, by the contract.
        let out = unsafe { input::optional_out(out, "out") }?;
        // SAFETY: NULL or a struct of the caller, by the contract.
        let given = unsafe { input::read_options(options) }?;
        let to_engine = given.flags & ASTRAI_REQUEST_TO_ENGINE != 0;
        // SAFETY: NULL or a live handle, by the contract.
        let settings = unsafe { settings::read(given.settings) }?;
        let given = RequestOptions { settings, ..options::request(&given)? };
        if to_engine && on_event.is_some() {
            let message = "on_event is set with ASTRAI_REQUEST_TO_ENGINE: the events go to one of them; choose";
            return Err(Error::argument(message).about("on_event"));
        }
        if out.is_none() && on_event.is_none() && !to_engine {
            let message = "on_event and out are both NULL: nobody could read the events; pass one of them";
            return Err(Error::argument(message).about("on_event"));
        }
        if out.is_none() && given.host_logits {
            let message = "out is NULL: nobody could choose the request's tokens; pass a place for its handle";
            return Err(Error::argument(message).about("out"));
        }
        let (sink, kept) = match on_event {
            Some(on_event) => (sink(on_event, user_data, engine.memory()), None),
            None if to_engine => (Sink::Engine(Box::new(user_data)), None),
            None => (Sink::Pull, Some(user_data)),
        };
        // Before the request exists, which then has its terminal event.
        let out = out.map(|out| Ok::<_, Error>((out, Room::new()?))).transpose()?;
        // SAFETY: NULL or a live handle, by the contract.
        let request = unsafe { prompt::read(prompt, |prompt| engine.submit(prompt, &given, sink)) }?;
        match out {
            None => request.detach(),
            Some((out, room)) => {
                let (reader, pulled) = (Mutex::new(()), kept.is_some());
                let logits = Mutex::new(None);
                room.give(RequestBody { request, reader, pulled, logits, _user_data: kept }, out);
            }
        }
        Ok(())
    })
}

/// Looks at the request behind a handle.
///
/// # Safety
/// As for [`Handle::borrow`].
pub(super) unsafe fn look<T>(request: *const astrai_request, look: impl FnOnce(&Request) -> Result<T>) -> Result<T> {
    // SAFETY: as promised by the caller.
    look(&unsafe { Handle::<RequestBody>::borrow(request) }?.request)
}

/// [A] The request's number, as in its events: never 0, never used again by its engine. 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_request_id(request: *const astrai_request) -> u64 {
    guard("astrai_request_id", ptr::null_mut(), || {
        // SAFETY: NULL or a live handle, by the contract.
        Ok(unsafe { Handle::<RequestBody>::borrow(request) }?.request.id())
    })
}

/// Takes something from a request, one thread at a time.
///
/// # Safety
/// As for [`Handle::borrow`]; `out` is NULL or writable.
unsafe fn take(
    name: &'static str,
    request: *const astrai_request,
    timeout_ms: i32,
    out: *mut *mut astrai_event,
    wait: fn(&Request, Option<Duration>) -> Result<Next>,
) -> Result<Status> {
    // SAFETY: as promised by the caller.
    let handle = unsafe { Handle::<RequestBody>::borrow(request) }?;
    let timeout = input::timeout(timeout_ms, "timeout_ms")?;
    // A request that somebody else reads has no event to give, so its caller may have no place for one.
    // SAFETY: as promised by the caller.
    let out = unsafe { if handle.pulled { Some(input::out(out, "out")?) } else { input::optional_out(out, "out")? } };
    may_wait(name, timeout)?;
    let _reader = unlocked(handle.reader.try_lock(), || {
        let message = "another thread is inside next or wait of this request; let one thread read it";
        Error::new(Status::Busy, message).about("request")
    })?;
    match wait(&handle.request, timeout)? {
        Next::Event(event) => {
            let event = event::give(event)?;
            out.map(|out: &mut MaybeUninit<_>| out.write(event));
            Ok(Status::Ok)
        }
        Next::Timeout => Ok(Status::Timeout),
        Next::End if !handle.pulled => {
            out.map(|out| out.write(ptr::null_mut()));
            Ok(Status::Ok)
        }
        Next::End => Ok(Status::End),
    }
}

/// [B][S] Waits for something to read and takes all of it as one event. *out is freed with astrai_event_free. END:
/// the terminal event was taken before. TIMEOUT: nothing came in timeout_ms (0 polls, -1 waits forever).
/// ERR_ARGUMENT: the request has a callback, or its events go to astrai_engine_next.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_request_next(
    request: *const astrai_request,
    timeout_ms: i32,
    out: *mut *mut astrai_event,
    err: *mut *mut astrai_error,
) -> i32 {
    // SAFETY: handle and place, by the contract.
    guard("astrai_request_next", err, || unsafe {
        take("astrai_request_next", request, timeout_ms, out, Request::next)
    })
}

/// [B][S] Waits for the request to end. A pulled request: *out is everything not yet taken as one terminal event,
/// freed with astrai_event_free; END: it was taken before. With a callback or ASTRAI_REQUEST_TO_ENGINE: OK after the
/// terminal event was received and the finalizer ran, and *out (out may be NULL) is NULL. TIMEOUT: it goes on after
/// timeout_ms (0 polls, -1 waits forever). With a callback and ASTRAI_DELIVER_POLL it runs callbacks, of all requests of
/// the engine, on the calling thread, unless another thread is doing that.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_request_wait(
    request: *const astrai_request,
    timeout_ms: i32,
    out: *mut *mut astrai_event,
    err: *mut *mut astrai_error,
) -> i32 {
    // SAFETY: handle and place, by the contract.
    guard("astrai_request_wait", err, || unsafe {
        take("astrai_request_wait", request, timeout_ms, out, Request::wait)
    })
}

/// [B][S] Waits for the logits of the next token of a request with ASTRAI_REQUEST_HOST_LOGITS. *logits are *count numbers, one for each
/// token of the vocabulary, which the host may change; they are valid until the token is chosen or the handle is freed, and are the same
/// when asked for again. Events must be read as well: a request whose queue is full has no next token. END: the request has ended. TIMEOUT: they did not come in timeout_ms (0 polls, -1 waits forever).
/// ERR_ARGUMENT: another request.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_request_logits(
    request: *const astrai_request,
    timeout_ms: i32,
    logits: *mut *mut f32,
    count: *mut usize,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_request_logits", err, || {
        // SAFETY: NULL or a live handle, by the contract.
        let handle = unsafe { Handle::<RequestBody>::borrow(request) }?;
        let timeout = input::timeout(timeout_ms, "timeout_ms")?;
        // SAFETY: NULL or writable, by the contract.
        let (logits, count) = unsafe { (input::out(logits, "logits")?, input::out(count, "count")?) };
        may_wait("astrai_request_logits", timeout)?;
        let mut held = unlocked(handle.logits.try_lock(), busy)?;
        if !handle.request.awaits_choice() {
            *held = None;
        }
        if held.is_none() {
            match handle.request.logits(timeout)? {
                HostLogits::Ready(ready) => *held = Some(ready),
                HostLogits::Timeout => return Ok(Status::Timeout),
                HostLogits::End => return Ok(Status::End),
            }
        }
        let Some(ready) = held.as_mut() else { return Err(Error::internal("logits that are nowhere")) };
        count.write(ready.len());
        // The host writes through this pointer while nothing here looks at the numbers: not before astrai_request_choose.
        logits.write(ready.as_mut_ptr());
        Ok(Status::Ok)
    })
}

/// [S] Chooses the next token after astrai_request_logits: a token's id, or -1 for the one that is sampled from the logits as the host
/// has changed them, with the request's options, constraint and biases. Log probabilities stay those of the model. *logits are not valid
/// any more when this returns OK or END. END: the request has ended. ERR_ARGUMENT: there are no logits to choose from, the token may not
/// follow, or none can be sampled; the host may choose again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_request_choose(
    request: *const astrai_request,
    token: i32,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_request_choose", err, || {
        // SAFETY: NULL or a live handle, by the contract.
        let handle = unsafe { Handle::<RequestBody>::borrow(request) }?;
        let mut held = unlocked(handle.logits.try_lock(), busy)?;
        let nothing = || Error::argument("astrai_request_logits has given nothing to choose from").about("request");
        let choice = match (token, held.as_deref()) {
            (-1, Some(logits)) => Choice::Sample(logits),
            (-1, None) => return Err(nothing()),
            _ => Choice::Token(input::token(token, "token")?),
        };
        let goes_on = handle.request.choose(choice)?;
        *held = None;
        Ok(if goes_on { Status::Ok } else { Status::End })
    })
}

fn busy() -> Error {
    Error::new(Status::Busy, "another thread has the logits of this request; let one thread choose").about("request")
}

/// [A] Stops the request. OK also when it has ended. Deltas not yet delivered are dropped; one callback that already
/// began may overlap; then exactly one terminal event follows: CANCELLED, or FAILED. Of a request that had ended before,
/// everything is still delivered.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_request_cancel(request: *const astrai_request, err: *mut *mut astrai_error) -> i32 {
    guard("astrai_request_cancel", err, || {
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { Handle::<RequestBody>::borrow(request) }?.request.cancel();
        Ok(())
    })
}

/// [A] Frees the handle, and cancels the request if it has not ended: its callback still gets the terminal event.
/// NULL is fine. In a forked child it does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_request_free(request: *mut astrai_request) {
    guard("astrai_request_free", ptr::null_mut(), || {
        // A thread inside next or wait keeps the request; cancelling wakes it.
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { Handle::<RequestBody>::free(request, |body| body.request.cancel()) }
    })
}
