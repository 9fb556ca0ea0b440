//! The HTTP server in front of an engine.
//!
//! The server is a call in progress of its engine ([`EngineCall`]) for as long as it runs, so that an engine that is freed before
//! its server closes, and ends when the server has stopped.

use super::guard::{Borrowed, guard, may_block};
use super::handle::{Handle, Kind as HandleKind, Room};
use super::input;
use super::types::*;
use crate::error::{Error, Result};
use std::ffi::{CString, c_char};
use std::ptr;

/// What is behind an `astrai_server`.
struct ServerBody {
    running: running::Running,
    url: CString,
}

impl HandleKind for ServerBody {
    type C = astrai_server;
    const MAGIC: u64 = 0x6173_7472_6169_5356;
    const NAME: &'static str = "server";
    const SURVIVES_FORK: bool = false;
}

/// What a server is started with.
#[cfg_attr(not(feature = "server"), allow(dead_code, reason = "checked also where there is no server to start"))]
struct Options {
    host: String,
    port: u16,
    model_name: String,
    api_key: Option<String>,
    allowed_hosts: Vec<String>,
    priority: i32,
}

/// What requests call the model unless the host says otherwise.
const MODEL_NAME_DEFAULT: &str = "default";

/// Checks and copies the caller's options.
///
/// # Safety
/// Its strings are NULL or NUL-terminated.
unsafe fn read(given: &astrai_server_options) -> Result<Options> {
    let text = |pointer: *const c_char, name: &str| match pointer.is_null() {
        true => Ok(None),
        // SAFETY: NUL-terminated, as promised by the caller.
        false => unsafe { input::c_string(pointer, name) }.and_then(|text| input::copy(text, name)).map(Some),
    };
    if given.reserved != 0 {
        return Err(Error::argument(format!("reserved is {}; expected 0", given.reserved)).about("reserved"));
    }
    let port = u16::try_from(given.port)
        .map_err(|_| Error::argument(format!("port is {}; expected 0 to {}", given.port, u16::MAX)).about("port"))?;
    let hosts = text(given.allowed_hosts, "allowed_hosts")?.unwrap_or_default();
    Ok(Options {
        host: text(given.host, "host")?.unwrap_or_else(|| "127.0.0.1".to_owned()),
        port,
        model_name: text(given.model_name, "model_name")?.unwrap_or_else(|| MODEL_NAME_DEFAULT.to_owned()),
        api_key: text(given.api_key, "api_key")?,
        allowed_hosts: hosts.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        priority: given.priority,
    })
}

/// [A] Sets every option to automatic. size is the caller's sizeof(astrai_server_options).
/// ERR_ARGUMENT: options is NULL. ERR_STRUCT_SIZE: size is none that this struct ever had.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_server_options_init(options: *mut astrai_server_options, size: usize) -> i32 {
    guard("astrai_server_options_init", ptr::null_mut(), || {
        // SAFETY: NULL or `size` writable bytes, by the contract.
        unsafe { input::init_struct(options, size) }
    })
}

/// [B] Starts an HTTP server in front of the engine, on threads of its own, that answers clients of OpenAI's and Anthropic's
/// dialects. options may be NULL: all automatic. *out is ended and freed with astrai_server_stop, before the engine is freed: an
/// engine that is freed first closes, and ends with its server.
/// The server's requests share the engine with those of the program, and are counted in its statistics and limits; their
/// events never come to astrai_engine_next, astrai_engine_poll or a callback. They have the priority of the options.
/// ERR_UNSUPPORTED: the library was built without its server, or the engine was opened for text only. ERR_IO: it cannot listen at
/// host and port; os_code says why. ERR_ARGUMENT, ERR_UTF8, ERR_CLOSED, ERR_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_server_start(
    engine: *const astrai_engine,
    options: *const astrai_server_options,
    out: *mut *mut astrai_server,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_server_start", err, || {
        // SAFETY: NULL or a live handle, by the contract.
        let engine = unsafe { super::engine::EngineCall::begin(engine) }?;
        // SAFETY: NULL or a struct of the caller, by the contract.
        let given = unsafe { input::read_options(options) }?;
        // SAFETY: its strings are NULL or NUL-terminated, by the contract.
        let options = unsafe { read(&given) }?;
        // SAFETY: NULL or writable, by the contract.
        let out = unsafe { input::out(out, "out") }?;
        may_block("astrai_server_start")?;
        let room = Room::new()?;
        let running = running::Running::start(engine, options)?;
        let url = CString::new(running.url()).unwrap_or_default();
        room.give(ServerBody { running, url }, out);
        Ok(())
    })
}

/// [A] Where the server answers, such as "http://127.0.0.1:8080"; lives until astrai_server_stop. NULL when server is no live
/// handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_server_url(server: *const astrai_server) -> *const c_char {
    guard("astrai_server_url", ptr::null_mut(), || {
        // SAFETY: NULL or a live handle, by the contract.
        let handle = unsafe { Handle::<ServerBody>::borrow(server) }?;
        Ok(Borrowed(handle.url.as_ptr()))
    })
}

/// [B] Stops listening, lets requests end for at most grace_ms (-1: until they end), cancels the rest, joins the server's threads
/// and frees the handle; the engine goes on. NULL is fine. With an error the server goes on, except with ERR_FORKED.
/// ERR_REENTRANT: inside a callback. ERR_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_server_stop(
    server: *mut astrai_server,
    grace_ms: i32,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_server_stop", err, || {
        if server.is_null() {
            return Ok(());
        }
        let grace = input::timeout(grace_ms, "grace_ms")?;
        may_block("astrai_server_stop")?;
        // SAFETY: a live handle, by the contract.
        let handle = unsafe { Handle::<ServerBody>::borrow(server) }?;
        handle.running.stop(grace);
        handle.release();
        Ok(())
    })
}

#[cfg(feature = "server")]
mod running {
    use super::Options;
    use crate::engine::Engine;
    use crate::error::{Error, Result};
    use crate::ffi::engine::{EngineCall, FOREVER};
    use crate::server::{ModelSpec, Server, ServerOptions};
    use std::ops::Deref;
    use std::sync::{Arc, Mutex, PoisonError};
    use std::time::Duration;

    /// A server, until it is stopped.
    pub(super) struct Running(Mutex<Option<Live>>);

    /// The engine, as the server and the handle have it.
    #[derive(Clone)]
    struct Lasting(Arc<EngineCall>);

    impl Deref for Lasting {
        type Target = Engine;
        fn deref(&self) -> &Engine {
            &self.0
        }
    }

    /// Dropped in this order, so that the engine, if it was freed meanwhile, ends on the thread that stops the server.
    struct Live {
        server: Server,
        _engine: Lasting,
    }

    impl Running {
        pub fn start(engine: EngineCall, options: Options) -> Result<Running> {
            if engine.is_text_only() {
                let message = "the engine was opened for text only; open it with weights to answer requests";
                return Err(Error::unsupported(message));
            }
            let host = options.host.parse().map_err(|_| {
                let message = format!("host is {:?}; an address such as 127.0.0.1 or ::1 is expected", options.host);
                Error::argument(message).about("host")
            })?;
            let engine = Lasting(Arc::new(engine));
            let server = Server::start(ServerOptions {
                models: vec![ModelSpec::opened(options.model_name, engine.clone())],
                host,
                port: options.port,
                api_keys: options.api_key.into_iter().collect(),
                allowed_hosts: options.allowed_hosts,
                priority: options.priority,
                ..ServerOptions::default()
            })?;
            server.wait_loaded()?;
            Ok(Running(Mutex::new(Some(Live { server, _engine: engine }))))
        }

        pub fn url(&self) -> String {
            let live = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            live.as_ref().map_or_else(String::new, |live| live.server.url())
        }

        /// Does nothing the second time.
        pub fn stop(&self, grace: Option<Duration>) {
            let live = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(Live { server, _engine }) = live {
                server.stop(grace.unwrap_or(FOREVER));
            }
        }
    }
}

#[cfg(any(test, not(feature = "server")))]
#[cfg_attr(feature = "server", allow(dead_code, reason = "tested, not used"))]
mod absent {
    use super::Options;
    use crate::error::{Error, Result};
    use std::convert::Infallible;
    use std::time::Duration;

    /// There is none in this build.
    pub(super) struct Running(Infallible);

    impl Running {
        pub fn start<E>(_: E, _: Options) -> Result<Running> {
            let message = "this library was built without its HTTP server; build it with the feature `server`";
            Err(Error::unsupported(message))
        }

        pub fn url(&self) -> String {
            match self.0 {}
        }

        pub fn stop(&self, _: Option<Duration>) {
            match self.0 {}
        }
    }
}

#[cfg(not(feature = "server"))]
use absent as running;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;
    use crate::ffi::input::CallerStruct;

    fn given() -> astrai_server_options {
        astrai_server_options::defaults()
    }

    #[test]
    fn options_are_read_and_refused_by_name() {
        // SAFETY: strings are NULL or literals.
        let options = unsafe { read(&given()) }.unwrap();
        assert_eq!((options.host.as_str(), options.port, options.priority), ("127.0.0.1", 0, -1));
        assert_eq!((options.model_name.as_str(), options.api_key), (MODEL_NAME_DEFAULT, None));
        let hosts = c" a.example, b.example,,";
        // SAFETY: as above.
        let options = unsafe { read(&astrai_server_options { allowed_hosts: hosts.as_ptr(), ..given() }) }.unwrap();
        assert_eq!(options.allowed_hosts, ["a.example", "b.example"]);
        for (wrong, subject) in [
            (astrai_server_options { port: 65_536, ..given() }, "port"),
            (astrai_server_options { reserved: 1, ..given() }, "reserved"),
        ] {
            // SAFETY: as above.
            let error = unsafe { read(&wrong) }.map(drop).unwrap_err();
            assert_eq!((error.status, error.subject.as_str()), (Status::Argument, subject));
        }
    }

    #[test]
    fn a_build_without_it_says_so() {
        // SAFETY: strings are NULL.
        let options = unsafe { read(&given()) }.unwrap();
        let error = absent::Running::start((), options).map(drop).unwrap_err();
        assert_eq!(error.status, Status::Unsupported);
        assert!(error.message.contains("feature `server`"), "{}", error.message);
    }
}
