//! The engine handle.
//!
//! The Rust engine ends when its handle is freed, not when the handle's memory goes: requests in flight hold the
//! memory (through their sinks), so that a callback that still runs may name the handle and is told it is closed.

use super::guard::{guard, may_block, may_wait};
use super::handle::{Handle, Kind, Room};
use super::types::*;
use super::user_data::UserData;
use super::{event, input, options};
use crate::engine::{Engine, Next};
use crate::error::{Error, Result, Status};
use crate::os::shortage;
use std::cell::UnsafeCell;
use std::ffi::{CString, c_char};
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// What is behind an `astrai_engine`.
pub(super) struct EngineBody {
    /// Calls in progress, and [`FREED`] once the handle is freed. Whoever makes it exactly `FREED` ends the engine.
    calls: AtomicUsize,
    closed: AtomicBool,
    live: UnsafeCell<ManuallyDrop<Live>>,
    model_type: CString,
    device_name: CString,
    answer_format: CString,
}

/// What ends when the handle is freed, in this order: a call in progress may still use the user data.
struct Live {
    engine: Engine,
    _user_data: Arc<UserData>,
}

const FREED: usize = 1 << (usize::BITS - 1);

/// `grace_ms` of -1: longer than any process runs, short enough to be added to a clock.
pub(super) const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

// SAFETY: `live` is only read, through a counted call, until the one thread that brings `calls` to `FREED` takes
// it; what is in it is for any thread (checked below).
unsafe impl Sync for EngineBody {}
const _: fn() = || {
    fn any_thread<T: Send + Sync>() {}
    any_thread::<Live>();
};

impl Kind for EngineBody {
    type C = astrai_engine;
    const MAGIC: u64 = 0x6173_7472_6169_454e;
    const NAME: &'static str = "engine";
    const SURVIVES_FORK: bool = false;
}

impl EngineBody {
    /// When memory ran out the engine ends here: dropped with the body it would not.
    fn new(engine: Engine, user_data: Arc<UserData>) -> Result<EngineBody> {
        let info = engine.info();
        let string = |text: &str| CString::new(text.replace('\0', "?")).unwrap_or_default();
        let (model_type, device_name) = (string(&info.model_type), string(&info.device_name));
        let answer_format = string(info.answer_format.as_deref().unwrap_or_default());
        shortage::check("an engine")?;
        Ok(EngineBody {
            calls: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            live: UnsafeCell::new(ManuallyDrop::new(Live { engine, _user_data: user_data })),
            model_type,
            device_name,
            answer_format,
        })
    }

    fn enter(&self) -> Result<()> {
        let entered = self.calls.fetch_update(Ordering::AcqRel, Ordering::Acquire, |calls| {
            (calls & FREED == 0).then_some(calls.wrapping_add(1))
        });
        entered.map(|_| ()).map_err(|_| closed())
    }

    fn leave(&self) {
        if self.calls.fetch_sub(1, Ordering::AcqRel) == FREED | 1 {
            self.end();
        }
    }

    fn free(&self) {
        if self.enter().is_err() {
            return; // another free was faster
        }
        self.calls.fetch_or(FREED, Ordering::AcqRel);
        // Threads that wait in poll or next leave now; the last call in progress ends the engine.
        // SAFETY: `enter` was called and `leave` was not, so the engine is not dropped; shared access only.
        let _ = unsafe { &*self.live.get() }.engine.begin_close(Duration::ZERO);
        self.leave();
    }

    /// Drops what is live. Called once: only one call brings `calls` to exactly `FREED`, and none enters after.
    fn end(&self) {
        // SAFETY: no call is in progress and none can begin, so this is the only access.
        unsafe { ManuallyDrop::drop(&mut *self.live.get()) };
    }
}

fn closed() -> Error {
    Error::new(Status::Closed, "the engine is closed or closing; open another").about("engine")
}

/// The engine for the time of a call.
pub(super) struct EngineCall {
    handle: Arc<Handle<EngineBody>>,
}

impl EngineCall {
    /// # Safety
    /// As for [`Handle::borrow`].
    pub(super) unsafe fn begin(engine: *const astrai_engine) -> Result<EngineCall> {
        // SAFETY: as promised by the caller.
        let call = unsafe { EngineCall::begin_also_closed(engine) }?;
        if call.handle.closed.load(Ordering::Acquire) { Err(closed()) } else { Ok(call) }
    }

    /// For what a closed engine still does.
    ///
    /// # Safety
    /// As for [`Handle::borrow`].
    unsafe fn begin_also_closed(engine: *const astrai_engine) -> Result<EngineCall> {
        // SAFETY: as promised by the caller.
        let handle = unsafe { Handle::<EngineBody>::borrow(engine) }?;
        handle.enter()?;
        Ok(EngineCall { handle })
    }

    /// What keeps the handle's memory, for a request in flight.
    pub(super) fn memory(&self) -> Arc<Handle<EngineBody>> {
        Arc::clone(&self.handle)
    }
}

impl Deref for EngineCall {
    type Target = Engine;
    fn deref(&self) -> &Engine {
        // SAFETY: `enter` was called and `leave` was not, so the engine is not dropped; shared access only.
        &unsafe { &*self.handle.live.get() }.engine
    }
}

impl Drop for EngineCall {
    fn drop(&mut self) {
        self.handle.leave();
    }
}

/// [B] Opens a model, a folder in Hugging Face layout or a GGUF file, and starts its engine. options may be NULL: all automatic.
/// *out is freed with astrai_engine_free. The finalizer in options runs once: when the call failed, before it returns;
/// else when the engine is freed, after its last log line. Not with ERR_STRUCT_SIZE: nothing was read.
/// ERR_IO, ERR_FORMAT: a file is missing or not what it should be; subject is its path. ERR_UNSUPPORTED: a model or
/// an option this version has no code for. ERR_ABORTED: progress returned nonzero. ERR_MEMORY, ERR_ARGUMENT, ERR_UTF8.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_engine_open(
    dir: *const c_char,
    options: *const astrai_engine_options,
    out: *mut *mut astrai_engine,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_engine_open", err, || {
        // SAFETY: NULL or a struct of the caller, by the contract.
        let given = unsafe { input::read_options(options) }?;
        // From here on whatever happens ends in the finalizer.
        let user_data = Arc::new(UserData::new(given.user_data, given.finalize));
        may_block("astrai_engine_open")?;
        // SAFETY: NULL or writable, by the contract.
        let out = unsafe { input::out(out, "out") }?;
        // SAFETY: NULL or NUL-terminated, by the contract.
        let dir = unsafe { input::path(dir, "dir", "model folder") }?;
        let room = Room::new()?;
        let engine = Engine::open(dir, options::engine(&given, &user_data)?)?;
        room.give(EngineBody::new(engine, user_data)?, out);
        Ok(())
    })
}

/// [B] Lets requests run for at most grace_ms (-1: until they end), cancels the rest, delivers every terminal event,
/// runs finalizers and joins all threads. A request whose full queue nobody reads does not end by itself. With
/// ASTRAI_DELIVER_POLL it delivers on the calling thread. Until the handle is freed other calls return ERR_CLOSED;
/// requests can still be read, and astrai_engine_next gives what is queued.
/// After OK the library may be unloaded once its handles are freed.
/// ERR_CLOSED: it is closed already. ERR_REENTRANT, ERR_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_engine_close(
    engine: *const astrai_engine,
    grace_ms: i32,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_engine_close", err, || {
        // SAFETY: NULL or a live handle, by the contract.
        let engine = unsafe { EngineCall::begin(engine) }?;
        may_block("astrai_engine_close")?;
        let grace = input::timeout(grace_ms, "grace_ms")?.unwrap_or(FOREVER);
        engine.close(grace)?;
        engine.handle.closed.store(true, Ordering::Release);
        Ok(())
    })
}

/// [B] Closes the engine without grace if that was not done, and frees the handle. NULL is fine. Events that nobody took
/// with astrai_engine_next are dropped, their finalizers run. While another thread is inside a call with the handle,
/// that call ends the engine when it returns; poll and next return at once. Inside a callback it does not wait for
/// callbacks: the engine closes after the callback returned. In a forked child it does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_engine_free(engine: *mut astrai_engine) {
    guard("astrai_engine_free", ptr::null_mut(), || {
        // The handle stays valid while the engine closes: callbacks that name it are told so.
        // SAFETY: NULL or a live handle, by the contract.
        unsafe { Handle::<EngineBody>::free(engine, EngineBody::free) }
    })
}

/// [A] Facts about the engine; *out keeps its strings until astrai_engine_free. ERR_STRUCT_SIZE: set out->struct_size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_engine_info(
    engine: *const astrai_engine,
    out: *mut astrai_info,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_engine_info", err, || {
        // SAFETY: NULL or a live handle, by the contract.
        let engine = unsafe { EngineCall::begin(engine) }?;
        let handle = &engine.handle;
        let strings = [&handle.model_type, &handle.device_name, &handle.answer_format].map(|string| string.as_ptr());
        let info = options::info(engine.info(), strings);
        // SAFETY: a struct of the caller, by the contract.
        unsafe { input::write_struct(out, &info) }
    })
}

/// [A] One consistent snapshot of the counters, without a lock. ERR_STRUCT_SIZE: set out->struct_size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_engine_stats(
    engine: *const astrai_engine,
    out: *mut astrai_stats,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_engine_stats", err, || {
        // SAFETY: NULL or a live handle, by the contract.
        let engine = unsafe { EngineCall::begin(engine) }?;
        let stats = options::stats(&engine.stats()?);
        // SAFETY: a struct of the caller, by the contract.
        unsafe { input::write_struct(out, &stats) }
    })
}

/// [B] Proves, between two steps, that every page and slot is free, cached or owned exactly as often as it is used.
/// ERR_INTERNAL: it is not, and what.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_engine_check(engine: *const astrai_engine, err: *mut *mut astrai_error) -> i32 {
    guard("astrai_engine_check", err, || {
        // SAFETY: NULL or a live handle, by the contract.
        let engine = unsafe { EngineCall::begin(engine) }?;
        may_block("astrai_engine_check")?;
        engine.check()
    })
}

/// [A] Changes how much the log callback is told: ASTRAI_LOG_* ERR_ARGUMENT: no such level.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_engine_set_log_level(
    engine: *const astrai_engine,
    level: i32,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_engine_set_log_level", err, || {
        // SAFETY: NULL or a live handle, by the contract.
        let engine = unsafe { EngineCall::begin(engine) }?;
        engine.set_log_level(options::log_level(level)?)
    })
}

/// [A] Cancels every request of the engine; each gets its terminal event.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_engine_cancel_all(engine: *const astrai_engine, err: *mut *mut astrai_error) -> i32 {
    guard("astrai_engine_cancel_all", err, || {
        // SAFETY: NULL or a live handle, by the contract.
        let engine = unsafe { EngineCall::begin(engine) }?;
        engine.cancel_all()
    })
}

/// [B][S] For engines opened with ASTRAI_DELIVER_POLL: shows what is ready to the callbacks, on the calling thread. Waits
/// up to timeout_ms for the first event (0 does not wait, -1 waits forever); then shows at most one event of each
/// request, those that became ready first first, and at most max_events in all (0 = no limit). *ran, which may be
/// NULL, is the number of events shown, 0 when none came in time. When it is max_events there may be more; wake is not
/// called for those. Log lines are written too and do not count.
/// ERR_REENTRANT: inside a callback, whatever timeout_ms is. ERR_BUSY: another thread is in poll, or delivers in
/// astrai_request_wait. ERR_ARGUMENT: the engine has a dispatch thread. ERR_CLOSED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_engine_poll(
    engine: *mut astrai_engine,
    timeout_ms: i32,
    max_events: u32,
    ran: *mut u32,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_engine_poll", err, || {
        // SAFETY: NULL or a live handle, by the contract.
        let engine = unsafe { EngineCall::begin(engine) }?;
        let timeout = input::timeout(timeout_ms, "timeout_ms")?;
        // SAFETY: NULL or writable, by the contract.
        let ran = unsafe { input::optional_out(ran, "ran") }?;
        let shown = engine.poll(timeout, max_events)?;
        ran.map(|ran| ran.write(shown));
        Ok(())
    })
}

/// [B] Takes everything unread of the request that has been ready longest, among those submitted with
/// ASTRAI_REQUEST_TO_ENGINE, as one event; its request_id and tag say whose. *out is freed with astrai_event_free. When it
/// is terminal, the request's finalizer has run before this returns. Any number of threads may call it: until the event is
/// freed, no thread gets another of its request, so that they come in order. What the request gives meanwhile is one event,
/// which freeing puts at the end of the line. Events may be freed in any order, also after the engine.
/// TIMEOUT: nothing came in timeout_ms (0 polls, -1 waits forever). After close it gives what is queued; then END.
/// ERR_BUSY: nothing can come before an event is freed, because every request of this queue that has not given its last
/// event has one out. At once when the calling thread took all of those; when others did, after 100 ms in which none was
/// taken or freed. ERR_CLOSED: the engine is being freed. ERR_MEMORY: for the event, which stays.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_engine_next(
    engine: *const astrai_engine,
    timeout_ms: i32,
    out: *mut *mut astrai_event,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_engine_next", err, || {
        // SAFETY: NULL or a live handle, by the contract.
        let engine = unsafe { EngineCall::begin_also_closed(engine) }?;
        let timeout = input::timeout(timeout_ms, "timeout_ms")?;
        // SAFETY: NULL or writable, by the contract.
        let out = unsafe { input::out(out, "out") }?;
        may_wait("astrai_engine_next", timeout)?;
        Ok(match engine.next(timeout)? {
            Next::Event(event) => {
                out.write(event::give(event)?);
                Status::Ok
            }
            Next::Timeout => Status::Timeout,
            Next::End => Status::End,
        })
    })
}
